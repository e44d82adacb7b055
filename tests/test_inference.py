"""Windows, chunks of classes, thresholds, calibration: with logits known for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tiny import given_scores, resize_output, tiny_clip, whole_scores
from unseen import decision
from unseen.decision import best_rows
from unseen.errors import SettingError
from unseen.inference import label_maps, resize_input, score_maps, window_starts
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.score_maps import Box, Place, Resize, ScoreMaps
from unseen.segmenter import Prediction, Segmenter, TextFeatures
from unseen.settings import InferenceSettings, change_inference
from unseen.vocabulary import Vocabulary

PATCH = 4


class Known(Segmenter):
    """Class k scores the patch's colour along its vector.

    Even classes gain and odd ones lose towards the window's end, so that a score depends on the
    window.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen_received: list[Sequence[int] | None] = []
        self.sizes: list[tuple[int, ...]] = []

    def encode_text(self, vocabulary: Vocabulary) -> TextFeatures:
        return TextFeatures(vocabulary.names, torch.randn(len(vocabulary), 3))

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        self.sizes.append(tuple(images.shape))
        padded = F.pad(images, (0, -images.shape[-1] % PATCH, 0, -images.shape[-2] % PATCH))
        patches = F.avg_pool2d(padded, PATCH)
        h, w = patches.shape[-2:]
        place = torch.arange(h).view(h, 1) / h + torch.arange(w) / w
        sign = 1 - 2 * (torch.arange(len(text)) % 2).view(-1, 1, 1)
        logits = (
            0.4 + torch.einsum("bchw,kc->bkhw", patches - 0.5, text.pooled) + 0.05 * sign * place
        )
        return Prediction(logits, (PATCH * h, PATCH * w))

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        self.seen_received.append(seen)
        return logits


def known(count: int) -> tuple[Known, TextFeatures]:
    segmenter = Known().eval()
    return segmenter, segmenter.encode_text(Vocabulary([f"class {i}" for i in range(count)]))


def brute_force(
    segmenter: Known, images: Tensor, text: TextFeatures, window: int, stride: int
) -> Tensor:
    """Every window by itself, every pixel's mean by itself."""
    h, w = images.shape[-2:]
    total, count = torch.zeros(len(images), len(text), h, w), torch.zeros(h, w)
    for row in range(max(h - window + stride - 1, 0) // stride + 1):
        for column in range(max(w - window + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + window, h), min(column * stride + window, w)
            top, left = max(bottom - window, 0), max(right - window, 0)
            for i in range(len(images)):
                crop = images[i : i + 1, :, top:bottom, left:right]
                total[i, :, top:bottom, left:right] += segmenter(crop, text).resized(
                    (bottom - top, right - left)
                )[0]
            count[top:bottom, left:right] += 1
    assert (count > 0).all()
    return total / count


# --------------------------------------------------------------------- windows


@pytest.mark.parametrize("window", [1, 7, 16])
@pytest.mark.parametrize("stride", [1, 5, 7])
def test_window_starts(window: int, stride: int) -> None:
    for length in range(1, 50):
        starts = window_starts(length, window, stride)
        n = max(length - window + stride - 1, 0) // stride + 1
        assert starts == [max(0, min(i * stride, length - window)) for i in range(n)]
        if stride <= window:
            assert {p for start in starts for p in range(start, start + window)} >= set(
                range(length)
            )
        if length >= window:
            assert starts[-1] + window == length


def test_window_starts_of_voc() -> None:
    assert window_starts(512, 512, 426) == [0]
    assert window_starts(683, 512, 426) == [0, 171]
    assert window_starts(1024, 512, 426) == [0, 426, 512]
    assert window_starts(300, 512, 426) == [0]


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((32, 32), 16, 8),
        ((30, 45), 16, 10),
        ((19, 33), 12, 12),
        ((24, 50), 32, 20),
        ((10, 11), 16, 8),
    ],
)
def test_overlaps_are_averaged(size: tuple[int, int], window: int, stride: int) -> None:
    segmenter, text = known(3)
    images = torch.rand(2, 3, *size)
    scores = whole_scores(segmenter, images, text, InferenceSettings(window=window, stride=stride))
    expected = brute_force(segmenter, images, text, window, stride)
    assert scores.shape == (2, 3, *size)
    assert (scores - expected).abs().max() < 1e-6
    assert (
        scores - whole_scores(segmenter, images, text, InferenceSettings())
    ).abs().max() > 1e-3 or max(size) <= window


def test_windows_without_stride_lie_side_by_side() -> None:
    segmenter, text = known(2)
    images = torch.rand(1, 3, 16, 24)
    scores = whole_scores(segmenter, images, text, InferenceSettings(window=8))
    assert torch.equal(
        scores, whole_scores(segmenter, images, text, InferenceSettings(window=8, stride=8))
    )
    torch.testing.assert_close(
        scores[..., 8:16, 16:24], segmenter(images[..., 8:16, 16:24], text).resized((8, 8))
    )


def test_window_batch_bounds_the_batch_and_changes_nothing() -> None:
    segmenter, text = known(3)
    images = torch.rand(2, 3, 30, 45)
    expected = brute_force(segmenter, images, text, 16, 10)
    for window_batch in (1, 3, 100):
        segmenter.sizes.clear()
        scores = whole_scores(
            segmenter,
            images,
            text,
            InferenceSettings(window=16, stride=10, window_batch=window_batch),
        )
        assert (scores - expected).abs().max() < 1e-6
        windows = [size[0] for size in segmenter.sizes]
        assert sum(windows) == 24, "twelve an image"
        assert max(windows) == min(window_batch, 24)


def test_a_batch_scores_as_its_images() -> None:
    segmenter, text = known(3)
    images, settings = (
        torch.rand(3, 3, 30, 45),
        InferenceSettings(short_side=20, window=16, stride=10),
    )
    together = whole_scores(segmenter, images, text, settings)
    alone = torch.cat(
        [whole_scores(segmenter, image.unsqueeze(0), text, settings) for image in images]
    )
    assert (together - alone).abs().max() < 1e-6


# ---------------------------------------------------------------- image size


@pytest.mark.parametrize(
    ("size", "expected"),
    [((20, 30), (40, 60)), ((30, 20), (60, 40)), ((80, 90), (40, 45)), ((41, 55), (40, 54))],
)
def test_short_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    resized = resize_input(torch.rand(1, 3, *size), InferenceSettings(short_side=40))
    assert resized.shape[-2:] == expected
    assert resized.min() >= 0
    assert resized.max() <= 1


def test_an_image_that_fits_is_left_alone() -> None:
    images = torch.rand(1, 3, 20, 30)
    assert resize_input(images, InferenceSettings(short_side=20)) is images
    assert resize_input(images, InferenceSettings()) is images


@pytest.mark.parametrize("size", [(20, 30), (33, 18), (7, 9), (1, 5)])
@pytest.mark.parametrize(
    "settings",
    [
        InferenceSettings(),
        InferenceSettings(short_side=24),
        InferenceSettings(short_side=24, window=16, stride=10),
        InferenceSettings(window=64, stride=32),
        InferenceSettings(square=24),
        InferenceSettings(canvas=48),
    ],
)
def test_results_have_the_images_size(size: tuple[int, int], settings: InferenceSettings) -> None:
    segmenter, text = known(4)
    maps = label_maps(segmenter, torch.rand(2, 3, *size), text, settings)
    assert maps.labels.shape == maps.confidence.shape == (2, *size)
    assert (maps.labels.dtype, maps.confidence.dtype) == (torch.int64, torch.float32)
    assert maps.labels.min() >= 0
    assert maps.labels.max() < 4
    assert maps.confidence.isfinite().all()


def test_labels_are_the_best_of_the_resized_scores() -> None:
    segmenter, text = known(5)
    images, settings = (
        torch.rand(2, 3, 21, 34),
        InferenceSettings(short_side=32, window=16, stride=12),
    )
    scores = F.interpolate(
        whole_scores(segmenter, images, text, settings),
        (21, 34),
        mode="bilinear",
        align_corners=False,
    )
    labels = label_maps(segmenter, images, text, settings).labels
    assert torch.equal(labels, scores.argmax(dim=1))
    assert len(labels.unique()) > 1


def test_bytes_and_fractions_are_the_same_image() -> None:
    segmenter, text = known(3)
    images = torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8)
    settings = InferenceSettings(short_side=24, window=16, stride=8)
    assert torch.equal(
        whole_scores(segmenter, images, text, settings),
        whole_scores(segmenter, images / 255, text, settings),
    )


# --------------------------------------------------------------------- classes


@pytest.mark.parametrize("classwise", [True, False])
@pytest.mark.parametrize("side", [1, 7, 16, 1000])
@pytest.mark.parametrize(
    "settings",
    [
        InferenceSettings(short_side=30),
        InferenceSettings(short_side=30, antialias=False),
        InferenceSettings(short_side=30, window=16, stride=10),
        InferenceSettings(canvas=32),
    ],
)
def test_parts_of_any_size_change_nothing(
    settings: InferenceSettings, side: int, classwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many classes, some of them reduced, few are looked at in a part; the best are the same."""
    torch.manual_seed(1)
    segmenter = create("zegclip", tiny_clip(), decoder_heads=2, calibration=0.01).eval()
    text = TextFeatures(tuple(map(str, range(20))), F.normalize(torch.randn(20, 16), dim=1))
    images = torch.rand(2, 3, 50, 70)
    monkeypatch.setattr(type(segmenter), "classwise", classwise)
    monkeypatch.setattr(decision, "TILE", side)
    monkeypatch.setattr(decision, "TILES", 10**9)
    monkeypatch.setitem(decision.MOST_VALUES, "cpu", 2 * 20 * side * side)
    seen = list(range(0, 20, 2))
    maps = label_maps(segmenter, images, text, settings, seen=seen)
    scores = whole_scores(segmenter, images, text, settings, seen)
    expected = resize_output(scores, (50, 70), settings)
    assert len(maps.labels.unique()) > 3
    # Two classes may be equal up to rounding.
    chosen = expected.gather(1, maps.labels.unsqueeze(1))[:, 0]
    torch.testing.assert_close(chosen, expected.amax(dim=1), atol=1e-6, rtol=0)
    assert (maps.labels == expected.argmax(dim=1)).float().mean() > 0.999
    confidence = resize_output(scores.clamp(0, 1).amax(dim=1, keepdim=True), (50, 70), settings)
    torch.testing.assert_close(maps.confidence, confidence[:, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(50, 70), (1, 9), (200, 31)])
def test_score_maps_are_those_of_interpolation(size: tuple[int, int], align_corners: bool) -> None:
    """From logits that cover a padded image, as `F.interpolate` resizes them, any part alike."""
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 5, 8)
    place = Place.of(Prediction(logits, (40, 64), align_corners=align_corners), (37, 61))
    scores = ScoreMaps((place,), (37, 61), lambda logits, seen: logits, None, True)
    full = F.interpolate(logits, (40, 64), mode="bilinear", align_corners=align_corners)
    known = full[..., :37, :61]
    torch.testing.assert_close(scores.whole(), known)
    torch.testing.assert_close(
        scores.part(Box((3, 20), (60, 61)), [1, 4]), known[:, [1, 4], 3:20, 60:]
    )
    resize = Resize.between((37, 61), size, scores.device)
    expected = F.interpolate(known, size, mode="bilinear")
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            best = best_rows(scores, resize)
        torch.testing.assert_close(best.score, expected.amax(dim=1), atol=1e-5, rtol=0)
        assert (best.row == expected.argmax(dim=1)).float().mean() > 0.99


def test_scores_that_are_no_numbers_end_in_labels() -> None:
    maps = torch.full((1, 3, 4, 4), torch.nan)
    assert best_rows(given_scores(maps), Resize.none((4, 4))).row.shape == (1, 4, 4)


def test_classes_that_can_win() -> None:
    """Class 0 is below class 1 everywhere in the left half, class 2 nowhere best."""
    maps = torch.tensor([[[[0.0, 0, 9, 9]], [[1, 1, 5, 5]], [[-9, -9, -9, 8.5]]]])
    scores = given_scores(maps)
    every = range(3)
    assert scores.contenders(Box((0, 1), (0, 2)), every) == [1]
    assert scores.contenders(Box((0, 1), (1, 3)), every) == [0, 1]
    assert scores.contenders(Box((0, 1), (2, 4)), every) == [0]
    assert scores.contenders(Box((0, 1), (0, 4)), [1, 2]) == [1, 2]


@pytest.mark.parametrize("classwise", [True, False])
def test_the_first_of_equal_classes_wins(classwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Known, "classwise", classwise)
    segmenter, text = known(5)
    flat = TextFeatures(text.names, torch.zeros(5, 3))
    images = torch.rand(1, 3, 4, 4)  # one patch: the position adds nothing
    maps = label_maps(segmenter, images, flat, InferenceSettings())
    assert maps.labels.unique().tolist() == [0]


def test_below_the_threshold_there_is_no_class() -> None:
    segmenter, text = known(4)
    images, settings = torch.rand(1, 3, 24, 36), InferenceSettings()
    every = label_maps(segmenter, images, text, settings)
    assert torch.equal(
        every.confidence, whole_scores(segmenter, images, text, settings).amax(dim=1).clamp(0, 1)
    )
    threshold = every.confidence.median().item()
    maps = label_maps(segmenter, images, text, settings, threshold=threshold)
    unsure = every.confidence < threshold
    assert 0 < unsure.sum() < unsure.numel()
    assert torch.equal(maps.labels, torch.where(unsure, IGNORE, every.labels))
    assert torch.equal(maps.confidence, every.confidence)
    assert (label_maps(segmenter, images, text, settings, threshold=2.0).labels == IGNORE).all()


# ----------------------------------------------------------------- calibration


def test_the_segmenter_is_told_what_it_was_trained_on_window_by_window() -> None:
    segmenter, text = known(3)
    images = torch.rand(1, 3, 16, 24)
    for settings, count in (
        (InferenceSettings(), 1),
        (InferenceSettings(window=8), 6),
    ):
        segmenter.seen_received.clear()
        score_maps(segmenter, images, text, settings, seen=[0, 2]).whole()
        assert segmenter.seen_received == [(0, 2)] * count


@pytest.mark.parametrize(
    "settings", [InferenceSettings(), InferenceSettings(short_side=40, window=32, stride=20)]
)
def test_zegclip_reduces_the_scores_of_seen_classes(settings: InferenceSettings) -> None:
    segmenter = create("zegclip", tiny_clip(), decoder_heads=2, calibration=0.2).eval()
    text, images = (
        segmenter.encode_text(Vocabulary(["tree", "car", "sun"])),
        torch.rand(1, 3, 32, 40),
    )
    plain, calibrated = (
        whole_scores(segmenter, images, text, settings, seen) for seen in (None, [0, 2])
    )
    assert (plain - calibrated - torch.tensor([0.2, 0.0, 0.2]).view(1, 3, 1, 1)).abs().max() < 1e-6
    assert torch.equal(whole_scores(segmenter, images, text, settings, [0, 1, 2]), plain)


def test_methods_without_training_are_not_calibrated() -> None:
    segmenter = create("naclip", tiny_clip()).eval()
    text, images = segmenter.encode_text(Vocabulary(["tree", "car"])), torch.rand(1, 3, 32, 40)
    assert torch.equal(
        whole_scores(segmenter, images, text, InferenceSettings(), [0]),
        whole_scores(segmenter, images, text, InferenceSettings()),
    )


def test_windows_that_leave_gaps_are_refused() -> None:
    with pytest.raises(SettingError, match="leave gaps"):
        whole_scores(
            *known(2)[:1],
            torch.rand(1, 3, 12, 12),
            known(2)[1],
            InferenceSettings(window=4, stride=8),
        )


def test_a_tower_can_be_trained_on_after_it_predicted() -> None:
    """Cached resized positions of a prediction must not stop a later backward pass."""
    segmenter = create("zegclip", tiny_clip(), num_prompts=2, decoder_heads=2)
    text = segmenter.encode_text(Vocabulary(["tree", "car"]))
    label_maps(segmenter.eval(), torch.rand(1, 3, 48, 48), text, InferenceSettings())
    segmenter.train()
    labels = torch.zeros(1, 48, 48, dtype=torch.int64)
    segmenter.loss(segmenter(torch.rand(1, 3, 48, 48), text), labels)["total"].backward()
    assert segmenter.prompts.prompt_embeddings.grad is not None  # type: ignore[union-attr]


def test_squares_may_be_resized_once_and_without_antialiasing() -> None:
    """SAZS's evaluation resizes once; maps larger than the image are resized in two steps."""
    segmenter = create("naclip", tiny_clip()).eval()
    images, text = torch.rand(1, 3, 50, 70), segmenter.encode_text(Vocabulary(("tree", "car")))
    plain = InferenceSettings(square=32, antialias=False)
    resized = F.interpolate(images, (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(resize_input(images, plain), resized)
    assert not torch.equal(resize_input(images, replace(plain, antialias=True)), resized)
    direct = F.interpolate(
        segmenter(resized, text).logits, (50, 70), mode="bilinear", align_corners=False
    )
    assert torch.equal(label_maps(segmenter, images, text, plain).labels, direct.argmax(dim=1))
    assert whole_scores(segmenter, images, text, plain).shape == (1, 2, 4, 4)
    assert whole_scores(segmenter, images, text, replace(plain, square=30)).shape == (1, 2, 30, 30)


def test_no_antialiasing_needs_a_size() -> None:
    without = change_inference(InferenceSettings(square=64, antialias=False), {"square": 0})
    assert without == InferenceSettings(), "nothing is left that could be smoothed"
    with pytest.raises(SettingError, match="area_threshold and .* segment_iou exclude each other"):
        InferenceSettings(area_threshold=0.1, refinement="segment_iou")
    changes = {"canvas": 0, "square": 64, "antialias": False}
    changed = change_inference(InferenceSettings(canvas=480), changes)
    assert (changed.square, changed.antialias) == (64, False)
    assert change_inference(changed, {"antialias": True}).antialias is True
    for wrong in (InferenceSettings(), InferenceSettings(canvas=64)):
        with pytest.raises(SettingError, match="antialias false is for images that are resized"):
            change_inference(wrong, {"antialias": False})
