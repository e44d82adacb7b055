"""Pixel-adaptive mask refinement, compared with its equation written out pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tiny import resize_output, tiny_clip, whole_scores
from unseen import decision
from unseen.building import encode
from unseen.errors import SettingError
from unseen.inference import label_maps
from unseen.methods import create
from unseen.modules.pamr import PixelRefinement, affinities
from unseen.settings import InferenceSettings, change_inference

STEPS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def written_out(image: Tensor, y: int, x: int, dilations: tuple[int, ...]) -> list[float]:
    """The affinities of one pixel of an image (3, H, W)."""
    _, height, width = image.shape

    def pixel(dy: int, dx: int) -> Tensor:
        return image[:, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]

    others = [pixel(d * dy, d * dx) for d in dilations for dy, dx in STEPS]
    around = torch.stack([*others, *[pixel(0, 0)] * len(dilations)])
    scale = 1e-8 + 0.1 * around.std(dim=0)
    scores = [-float(((pixel(0, 0) - other).abs() / scale).mean()) for other in others]
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def test_affinities() -> None:
    images, dilations = torch.rand(2, 3, 7, 9), (1, 3)
    weights = affinities(images, dilations)
    assert weights.shape == (2, 16, 7, 9)
    for i, y, x in ((0, 0, 0), (1, 3, 4), (0, 6, 8), (1, 2, 0)):
        expected = torch.tensor(written_out(images[i], y, x, dilations))
        assert torch.allclose(weights[i, :, y, x], expected, atol=1e-5)


def test_a_step_is_the_weighted_mean_of_the_neighbours() -> None:
    images, maps, dilations = torch.rand(1, 3, 6, 6), torch.rand(1, 4, 6, 6), (2,)
    refined = PixelRefinement.of_images(images, dilations, 1)(maps)
    weights = written_out(images[0], 3, 1, dilations)
    places = [(min(max(3 + 2 * dy, 0), 5), min(max(1 + 2 * dx, 0), 5)) for dy, dx in STEPS]
    expected = sum(w * maps[0, :, y, x] for w, (y, x) in zip(weights, places, strict=True))
    assert torch.allclose(refined[0, :, 3, 1], expected, atol=1e-5)
    twice = PixelRefinement.of_images(images, dilations, 2)(maps)
    assert torch.allclose(twice, PixelRefinement.of_images(images, dilations, 1)(refined))


def test_a_flat_image_spreads_maps_evenly() -> None:
    weights = affinities(torch.full((1, 3, 5, 5), 0.3), (1,))
    assert torch.allclose(weights, torch.full_like(weights, 1 / 8))


def test_label_maps_with_pamr(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refined maps at image size decide, however many are refined at a time."""
    segmenter = create("naclip", tiny_clip()).eval()
    images = torch.rand(2, 3, 40, 48)
    text = encode(segmenter, ["cat", "dog", "sofa"])
    settings = InferenceSettings(refinement="pamr", pamr_steps=3, pamr_dilations=(2, 4))
    monkeypatch.setitem(decision.MOST_VALUES, "cpu", 2 * 2 * 40 * 48)
    maps = label_maps(segmenter, images, text, settings)
    scores = resize_output(whole_scores(segmenter, images, text, settings), (40, 48), settings)
    refined = PixelRefinement.of_images(images, (2, 4), 3)(scores)
    assert torch.equal(maps.labels, refined.argmax(dim=1))
    assert torch.allclose(maps.confidence, refined.softmax(dim=1).amax(dim=1), atol=1e-5)
    whole = (255 * images).round().to(torch.uint8)
    assert label_maps(segmenter, whole, text, settings).labels.shape == (2, 40, 48)


def test_settings() -> None:
    with pytest.raises(SettingError, match="choose one of 'none', 'segment_iou', 'pamr'"):
        InferenceSettings(refinement="crf")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="pamr_steps is 0; give a whole number of at least 1"):
        InferenceSettings(pamr_steps=0)
    with pytest.raises(SettingError, match="pamr_dilations is .*; give a list"):
        InferenceSettings(pamr_dilations=())
    with pytest.raises(SettingError, match="area_threshold is 1.5; give a number"):
        InferenceSettings(area_threshold=1.5)
    changed = change_inference(InferenceSettings(), {"pamr_dilations": [4]})
    assert changed.pamr_dilations == (4,)
