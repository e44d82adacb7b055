"""Where the fixtures of the released codes are looked for: the full set where it lies beside the
project, else `tests/golden`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tiny import archives as tiny_archives
from unseen.clip_segmenter import TextSegmenter
from unseen.conversion import translate
from unseen.errors import CheckpointError
from unseen.methods import METHODS
from unseen.released import rename
from unseen.segmenter import TextFeatures

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
FIXTURES = (SHARED / "fixtures", HERE / "golden")


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a fixture."""
    for folder in FIXTURES:
        if (folder / f"{name}.safetensors").exists():
            return load_file(folder / f"{name}.safetensors"), json.loads(
                (folder / f"{name}.json").read_text()
            )
    pytest.skip(f"fixture {name} is neither in tests/golden nor in ../shared/fixtures")


class Released:
    """A fixture of a released mmsegmentation code, and our segmenter with its weights.

    Args:
        name: Of the fixture.
        method: Of the table.
        weight: A weight of the loss to read from the fixture's configuration besides those of the
            masks.
    """

    def __init__(self, name: str, method: str, weight: str | None = None) -> None:
        self.tensors, self.about = golden(name)
        self.config, self.method = self.about["config"], method
        self.state = {
            key[3:]: value for key, value in self.tensors.items() if key.startswith("sd.")
        }
        text_heads = self.config["text"]["heads"] if "text" in self.config else 2
        self.segmenter, self.report = translate(
            method,
            self.state,
            vision_heads=self.config["vit_heads"],
            text_heads=text_heads,
            decoder_heads=self.config["dec_heads"],
            dropout=0.0,
            mask_weight=self.config["mask_weight"],
            dice_weight=self.config["dice_weight"],
            **({"recovery_weight": self.config[weight]} if weight else {}),
        )
        self.segmenter.clip.mean.zero_()  # the fixtures' images are normalised already
        self.segmenter.clip.std.fill_(1)
        self.text = TextFeatures(tuple("abcdefg"), self.tensors["in.text_embedding"].float())
        self.seen = None if self.config["self_training"] else self.config["base_class"]

    def check_gradients(self, tolerance: float) -> None:
        """The norm of every parameter's gradient, and some gradients whole, after a backward pass;
        nothing else has a gradient."""
        own = dict(self.segmenter.named_parameters())
        last = str(self.config["dec_layers"] - 1)
        largest = max(self.about["grad_norm"].values())
        for theirs, norm in self.about["grad_norm"].items():
            grad = own[rename(theirs, METHODS[self.method].cls.RELEASED.names, last)].grad
            assert grad is not None
            assert grad.norm().item() == pytest.approx(norm, rel=tolerance, abs=1e-5 * largest), (
                theirs
            )
            if f"grad.{theirs}" in self.tensors:
                full = self.tensors[f"grad.{theirs}"]
                close(grad, full, tolerance * full.abs().max().item())
        assert len(self.about["grad_norm"]) == sum(p.requires_grad for p in own.values())


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Equal shapes, and no entry further off than the tolerance."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


@pytest.fixture(scope="session")
def voc_small() -> Path:
    """112 real photographs in VOC's layout, where they lie beside the project."""
    root = SHARED / "data" / "voc_small" / "VOCdevkit" / "VOC2012"
    if not root.is_dir():
        pytest.skip("the real photographs of ../shared/data are not here")
    return root


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tiny archives for `unseen prepare`, which takes them for the published ones."""
    folder = tmp_path / "archives"
    folder.mkdir()
    tiny_archives.write_all(folder)
    tiny_archives.publish(folder, monkeypatch)
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def converted(method: str, state: dict[str, Tensor], **sizes: Any) -> TextSegmenter:
    """A segmenter from a released checkpoint, every tensor of which has its place."""
    segmenter, report = translate(method, state, **sizes)
    if report.problem:
        raise CheckpointError(report.problem)
    return segmenter
