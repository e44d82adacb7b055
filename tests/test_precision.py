"""The numbers that networks compute with: chosen by the hardware, or given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import tiny_clip, whole_scores
from tiny.commands import error_of, run_command
from unseen import precision
from unseen.inference import label_maps
from unseen.methods import create
from unseen.methods.training_free import TrainingFree
from unseen.precision import chosen_precision, computes_bf16
from unseen.recipes import published, published_on
from unseen.segmenter import Prediction, TextFeatures
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

CPU = torch.device("cpu")


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_the_hardware_decides(fast: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda device: fast)
    assert chosen_precision("auto", CPU) == chosen
    for given in ("32-true", "bf16-mixed", "16-mixed"):
        assert chosen_precision(given, CPU) == given


@pytest.mark.parametrize("fast", [True, False])
def test_what_the_hardware_says(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    # A GPU that emulates bf16 does not compute in it.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: fast or including_emulation
    )
    assert computes_bf16(CPU) is computes_bf16(torch.device("cuda")) is fast
    assert not computes_bf16(torch.device("mps"))
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not computes_bf16(CPU)


@pytest.mark.parametrize("method", ["clip", "sclip", "zegclip", "clip_rc"])
def test_bf16_changes_scores_a_little(method: str) -> None:
    torch.manual_seed(0)
    segmenter = create(method, tiny_clip()).eval()
    text = segmenter.encode_text(Vocabulary(("cat", "dog", "boat")))
    images = torch.rand(2, 3, 48, 64)
    both = [
        whole_scores(segmenter, images, text, InferenceSettings(precision=name))
        for name in ("32-true", "bf16-mixed")
    ]
    assert [scores.dtype for scores in both] == [torch.float32] * 2
    off = (both[0] - both[1]).abs().max()
    assert 0 < off < 0.05 * both[0].std()


def test_networks_alone_compute_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after them is in float32: resizing, windows, the decision."""
    seen: list[bool] = []
    segmenter = create("clip", tiny_clip()).eval()
    forward = TrainingFree.forward

    def watched(self: TrainingFree, images: torch.Tensor, text: TextFeatures) -> Prediction:
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(self, images, text)

    monkeypatch.setattr(TrainingFree, "forward", watched)
    text = segmenter.encode_text(Vocabulary(("cat", "dog")))
    for name in ("32-true", "bf16-mixed"):
        maps = label_maps(
            segmenter, torch.rand(1, 3, 32, 32), text, InferenceSettings(precision=name, window=16)
        )
        assert maps.scores.whole().dtype == maps.confidence.dtype == torch.float32
    assert seen == [False, True]


def test_published_protocols_are_in_float32() -> None:
    for method in ("zegclip", "clip_rc", "esda", "sazs", "edgeclip", "sclip", "naclip"):
        for benchmark in published_on(method):
            protocol = published(method, benchmark)
            assert protocol is not None
            assert protocol.inference["precision"] == "32-true"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"evaluate clip --out {tmp_path} --inference.precision bf16-mixed --limit 2")
    assert '"precision": "bf16-mixed"' in next(tmp_path.rglob("report.json")).read_text()
    message = error_of(capsys, "evaluate clip --inference.precision half")
    assert "--inference.precision" in message
