"""The aligned start: the first maps are those of the untrained comparison, up to scale and bias."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F

from tiny import tiny_clip
from tiny.commands import FEW, error_of, run_command
from unseen.building import encode
from unseen.methods import create
from unseen.modules.starts import PRIOR, SPREAD, logit_range
from unseen.runs import read_config

NAMES = ["cat", "dog", "sofa", "tree"]


@pytest.mark.parametrize("method", ["zegclip", "clip_rc"])
@pytest.mark.parametrize("options", [{}, {"scale": "other"}])
def test_the_first_maps_are_cosines(method: str, options: dict[str, str]) -> None:
    if options:
        options = {"scale": {"zegclip": "heads", "clip_rc": "none"}[method]}
    segmenter = create(method, tiny_clip(), decoder_heads=4, num_prompts=3, **options).eval()
    images, text = torch.rand(3, 3, 48, 40), encode(segmenter, NAMES)
    segmenter.start_from(images, text)
    with torch.no_grad():
        maps = segmenter(images, text).logits
    assert float(maps.mean()) == pytest.approx(PRIOR, abs=1e-3)
    assert float(maps.std()) == pytest.approx(SPREAD, rel=1e-3)
    # The patches as the method encodes them, compared with the classes.
    with torch.no_grad():
        patches = segmenter.encode_images(images)[1]  # type: ignore[operator]
    cosines = (F.normalize(patches, dim=-1) @ text.pooled.T).transpose(1, 2)
    both = torch.stack([maps.flatten(2).flatten(), cosines.flatten()])
    # Post-norms take the mean over channels away, which is small beside them.
    assert float(torch.corrcoef(both)[0, 1]) > 0.95


def test_the_tower_starts_undisturbed_and_everything_learns() -> None:
    segmenter = create("zegclip", tiny_clip(), decoder_heads=2, num_prompts=3).train()
    images, text = torch.rand(2, 3, 32, 32), encode(segmenter, NAMES)
    labels = torch.randint(4, (2, 32, 32))
    optimizer = torch.optim.SGD([p for p in segmenter.parameters() if p.requires_grad], 0.1)
    before = {name: p.clone() for name, p in segmenter.named_parameters() if p.requires_grad}
    # Branches that start at 0 pass gradients on from the second step.
    for _ in range(3):
        optimizer.zero_grad()
        segmenter.loss(segmenter(images, text), labels)["total"].backward()
        optimizer.step()
    same = [n for n, p in segmenter.named_parameters() if n in before and torch.equal(p, before[n])]
    # A constant added to all keys changes no softmax.
    assert [name for name in same if not name.endswith("multihead_attn.k.bias")] == []


def test_a_released_start_has_no_bias() -> None:
    segmenter = create("zegclip", tiny_clip(), decoder_heads=2, start="released")
    assert segmenter.logit_bias is None
    assert not segmenter.starts_from_images
    assert create("zegclip", tiny_clip(), decoder_heads=2, published=True).logit_bias is None


def test_scale_and_bias() -> None:
    cosines = torch.tensor([0.1, 0.2, 0.3])
    factor, bias = logit_range(cosines)
    logits = factor * cosines + bias
    assert float(logits.std()) == pytest.approx(SPREAD)
    assert float(logits.mean()) == pytest.approx(PRIOR)
    assert torch.isfinite(torch.tensor(logit_range(torch.zeros(5)))).all()


def test_a_second_stage_keeps_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only new weights look at images: transductive runs begin with those they are given."""
    first, second = tmp_path / "first", tmp_path / "second"
    aligned = "--options.start aligned"
    run_command(f"train zegclip --out {first} {aligned}", FEW)
    stage = f"train zegclip --out {second} --init {first} --train.regime transductive"
    message = error_of(capsys, stage, FEW)
    assert (
        "start from a run of the same method and options: give --options.start aligned" in message
    )
    run_command(f"{stage} {aligned} --train.lr 1e-9", FEW)
    before, after = (load_file(folder / "weights.safetensors") for folder in (first, second))
    assert torch.allclose(before["logit_bias"], after["logit_bias"], atol=1e-6)
    assert torch.allclose(before["decoder.k.weight"], after["decoder.k.weight"], atol=1e-6)


def test_runs_of_earlier_layouts_started_at_random(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["model"]["options"]["start"]
    del config["train"]["sampling"], config["train"]["transforms"]["hsv"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "format": 2}))
    read = read_config(tmp_path)
    assert read.model.options["start"] == "released"
    assert read.train["sampling"] == "images", "so that a stopped run can go on"
    assert read.train["transforms"]["hsv"] is False
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "start" not in read_config(tmp_path).model.options
