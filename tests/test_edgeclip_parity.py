"""EdgeCLIP against the released code (fixtures edgeclip_*), and checkpoints."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import SHARED, close, converted, golden
from tiny import text_only
from tiny.commands import error_of, run_command
from unseen import api
from unseen.backbones.clip.loading import build_text
from unseen.checkpoints import load_run
from unseen.conversion import translate
from unseen.errors import CheckpointError
from unseen.methods.edgeclip import EdgeCLIP, sampled, triplet_loss
from unseen.released import rename
from unseen.segmenter import TextFeatures
from unseen.vocabulary import Vocabulary

# Features and losses as stated with the fixtures; gradients as for the other methods.
VALUES, LOSSES, GRADIENTS = 5e-5, 1e-5, 1e-3
TEXT = {
    "embed_dim": 64,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    "quick_gelu": True,
}


def checkpoint() -> OrderedDict[str, Tensor]:
    """The fixture's tensors under the released names and a whole CLIP with an unused image tower.

    Tensors that have two released names stand under both.
    """
    tensors, _ = golden("edgeclip_tiny")
    state = OrderedDict(
        (name[6:], tensor) for name, tensor in tensors.items() if name.startswith("param.")
    )
    for name, tensor in list(state.items()):
        if name.startswith("layer"):
            state[
                "backbone." + name.replace("layer0.0.", "conv1.").replace("layer0.1.", "bn1.")
            ] = tensor
    text = build_text(TEXT).state_dict()
    state |= {f"model.{name.removeprefix('text.')}": tensor for name, tensor in text.items()}
    return state | {
        "model.logit_scale": torch.tensor(4.6),
        "model.visual.conv1.weight": torch.zeros(4, 3, 3, 3),
    }


class Released:
    """The fixture, and our segmenter with its weights."""

    def __init__(self, **options: Any) -> None:
        self.tensors, self.about = golden("edgeclip_tiny")
        self.state = checkpoint()
        segmenter, self.report = translate(
            "edgeclip", self.state, dropout=0.0, gate_dropout=0.0, **options
        )
        assert isinstance(segmenter, EdgeCLIP)
        self.segmenter = segmenter
        self.text = TextFeatures(
            ("a", "b", "c"), self.tensors["class_text"], None, self.tensors["background_text"]
        )

    def prediction(self) -> Any:
        return self.segmenter.forward_query(self.tensors["images"], self.text)


@pytest.fixture(scope="module")
def released() -> Released:
    return Released()


# ---------------------------------------------------------------- parity


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    report = released.report
    assert report.problem is None
    assert sorted(report.dead) == [
        "down_supp.0.weight",
        "model.logit_scale",
        "model.visual.conv1.weight",
    ]
    assert len(report.loaded) == len(released.state) - 3


def test_features_and_query_class(released: Released) -> None:
    tensors, prediction = released.tensors, released.prediction()
    close(prediction.extras["feature"], tensors["feature"], VALUES)
    close(prediction.extras["word"], tensors["CP"], VALUES)
    background = released.segmenter.project_background(
        tensors["background_text"].expand(3, -1)[..., None, None]
    )
    close(background, tensors["UP"], VALUES)


def test_both_rounds(released: Released) -> None:
    tensors, segmenter = released.tensors, released.segmenter
    feature = tensors["feature"]
    first, second, third = segmenter.match(feature, tensors["CP"], tensors["UP"])
    for i, matching in enumerate((first, second, third)):
        close(matching.scores, tensors[f"score{i}"], VALUES)
        if i:
            close(matching.foreground, tensors[f"FP{i}"], VALUES)
            close(matching.background, tensors[f"BP{i}"], VALUES)
    for i, scores in enumerate((first.scores, second.scores)):
        gated = segmenter.gated(feature, scores)
        close(gated, tensors[f"gated{i}"], VALUES)
        near, far, local = segmenter.prototypes(gated, scores)
        close(near, tensors[f"SSFP{i + 1}"], VALUES)
        close(far, tensors[f"SSBP{i + 1}"], VALUES)
        close(local, tensors[f"ASBP{i + 1}"], VALUES)
        counts = [
            (scores.softmax(dim=1)[:, 1 - k] > t).sum(dim=(1, 2)).tolist()
            for k, t in enumerate(segmenter.thresholds)
        ]
        assert counts == [released.about["n_fg_above"][i], released.about["n_bg_above"][i]]


def test_maps(released: Released) -> None:
    tensors, prediction = released.tensors, released.prediction()
    close(prediction.resized((73, 73)), tensors["eval_out_final"], VALUES)
    close(prediction.resized((73, 73)), tensors["out_final"], VALUES)
    assert torch.equal(
        prediction.resized((73, 73)).argmax(dim=1), tensors["out_final"].argmax(dim=1)
    )
    close(
        torch.nn.functional.interpolate(
            prediction.extras["initial"], (73, 73), mode="bilinear", align_corners=True
        ),
        tensors["out_initial"],
        VALUES,
    )


def test_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients of one step with the fixture's bands.

    Parameters without gradient in the released code have none here.
    """
    released = Released()
    tensors, about, segmenter = released.tensors, released.about, released.segmenter
    segmenter.train()
    assert not any(module.training for module in segmenter.backbone.modules())
    monkeypatch.setattr(
        "unseen.methods.edgeclip.bands",
        lambda *_: (tensors["edge_pos"] == 1, tensors["edge_neg"] == 1),
    )
    losses = segmenter.loss(released.prediction(), tensors["mask"])
    for name, released_name in (
        ("mask", "ce_final"),
        ("initial", "ce_initial"),
        ("edge", "triplet"),
    ):
        assert losses[name].item() == pytest.approx(
            tensors[f"loss_{released_name}"].item(), abs=LOSSES
        )
    assert set(losses) == {"mask", "initial", "edge", "total"}
    losses["total"].backward()
    own, names, seen = dict(segmenter.named_parameters()), EdgeCLIP.RELEASED.names, set()
    for released_name, norm in about["grad_norm"].items():
        if released_name.startswith("down_supp"):
            continue
        place = rename(released_name, names, "")
        seen.add(place)
        grad = own[place].grad
        assert (grad is None) == (norm is None), released_name
        assert own[place].requires_grad == (norm is not None), released_name
        if grad is not None:
            assert grad.norm().item() == pytest.approx(norm, rel=GRADIENTS), released_name
    assert seen == {name for name in own if not name.startswith("clip.")}


def test_triplet() -> None:
    tensors, about = golden("edgeclip_triplet")
    anchor = tensors["anchor"].clone().requires_grad_()
    inside, outside = (
        sampled(tensors[f"mask_{side}"].squeeze(1) > 0, (10, 10)) for side in ("pos", "neg")
    )
    loss = triplet_loss(anchor, tensors["feature"], inside, outside, about["margin"])
    loss.backward()
    assert loss.item() == pytest.approx(about["loss"], abs=LOSSES)
    close(anchor.grad, tensors["grad_anchor"], LOSSES)


def test_published_sizes() -> None:
    """11.29 M parameters outside CLIP as released, of which the support projection is dead."""
    with torch.device("meta"):
        segmenter = EdgeCLIP(text_only(1024))
    count = sum(p.numel() for p in segmenter.parameters())
    assert count == 10_765_248
    assert round((count + 512 * 1024) / 1e6, 2) == 11.29
    learning = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    assert learning == count - sum(
        p.numel() for part in segmenter.backbone.frozen for p in part.parameters()
    )


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_becomes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, _ = golden("edgeclip_tiny")
    torch.save(
        {
            "epoch": 2,
            "state_dict": {f"module.{name}": tensor for name, tensor in checkpoint().items()},
        },
        tmp_path / "best.pth",
    )
    run_command(
        f"convert edgeclip {tmp_path / 'best.pth'} --out {tmp_path / 'run'}",
        "--benchmark pascal-5i/1",
    )
    assert "dead: 3" in capsys.readouterr().out
    segmenter, run = load_run(tmp_path / "run")
    assert isinstance(segmenter, EdgeCLIP)
    assert (run.benchmark, len(run.seen), run.model.options["blocks"]) == (
        "pascal-5i/1",
        15,
        [2, 1, 3],
    )
    text = TextFeatures(("a", "b", "c"), tensors["class_text"], None, tensors["background_text"])
    close(
        segmenter.forward_query(tensors["images"], text).resized((73, 73)),
        tensors["eval_out_final"],
        VALUES,
    )
    embeddings = segmenter.encode_text(Vocabulary(["dog"]))
    expected = build_text(TEXT)
    close(
        embeddings.background, expected.encode_tokens(expected.tokenize(["background"]))[0][0], 1e-5
    )
    assert api.load(str(tmp_path / "run")).run is not None


def test_either_name_of_a_tensor_is_enough() -> None:
    state, (images, text) = (
        checkpoint(),
        (
            torch.rand(1, 3, 40, 40),
            TextFeatures(("a",), torch.rand(1, 64), None, torch.rand(64)),
        ),
    )
    one = converted(
        "edgeclip", {name: t for name, t in state.items() if not name.startswith("backbone.")}
    )
    other = converted(
        "edgeclip", {name: t for name, t in state.items() if not name.startswith("layer")}
    )
    assert torch.equal(one(images, text).logits, other(images, text).logits)
    with pytest.raises(CheckpointError, match="lacks tensors that give"):
        converted(
            "edgeclip", {name: t for name, t in state.items() if "layer2.0.conv1" not in name}
        )
    with pytest.raises(CheckpointError, match="text tower"):
        converted(
            "edgeclip", {name: t for name, t in state.items() if not name.startswith("model.")}
        )


def test_every_released_name_has_its_place() -> None:
    """Names and shapes of the released ResNet-50 model, as far as they are not CLIP's."""
    listed = SHARED / "spec" / "edgeclip_state_dict_resnet50.json"
    if not listed.exists():
        pytest.skip("the list of released names is not here")
    shapes = {
        name: shape
        for name, shape in json.loads(listed.read_text()).items()
        if not name.startswith("model.")
    }
    text = {
        f"model.{name.removeprefix('text.')}": tensor
        for name, tensor in build_text({**TEXT, "embed_dim": 1024}).state_dict().items()
    }
    segmenter, report = translate(
        "edgeclip", {name: torch.zeros(shape) for name, shape in shapes.items()} | text
    )
    assert (report.problem, report.dead, len(report.loaded)) == (
        None,
        ["down_supp.0.weight"],
        len(shapes) + len(text) - 1,
    )
    assert isinstance(segmenter, EdgeCLIP)
    assert (len(segmenter.backbone.layer3), segmenter.backbone.channels) == (6, 1024)


def test_checkpoints_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(checkpoint(), tmp_path / "a.pth")
    out = f"--out {tmp_path / 'run'} --benchmark"
    assert "was trained on folds" in error_of(
        capsys, f"convert edgeclip {tmp_path / 'a.pth'}", out, "voc"
    )
    assert "looks like one of edgeclip" in error_of(
        capsys, f"convert esda {tmp_path / 'a.pth'}", out, "pascal-5i/0"
    )
