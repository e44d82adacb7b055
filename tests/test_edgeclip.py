"""EdgeCLIP against the released code (fixtures edgeclip_tiny, edgeclip_triplet) and its own
promises."""

from __future__ import annotations

import inspect
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from conftest import SHARED, close, converted, golden
from test_flow import said
from tiny import tiny_clip, write_folds
from unseen import api
from unseen.__main__ import main
from unseen.backbones.clip.loading import build_text
from unseen.backbones.clip.templates import TEMPLATES
from unseen.backbones.clip.text import StoredText
from unseen.backbones.resnet import SAME_IN_TIMM, DilatedResNet
from unseen.checkpoints import load_run
from unseen.conversion import translate
from unseen.errors import CheckpointError, SettingError, VocabularyError
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.methods.edgeclip import EdgeCLIP, bands, sampled, surest, triplet_loss
from unseen.released import rename
from unseen.segmenter import TextFeatures
from unseen.vocabulary import Vocabulary

VALUES, LOSSES, GRADIENTS = (
    5e-5,
    1e-5,
    1e-3,
)  # features and losses as stated with the fixtures; gradients as for the other methods
TEXT = {
    "embed_dim": 64,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    "quick_gelu": True,
}


def checkpoint() -> OrderedDict[str, Tensor]:
    """The fixture's tensors under the released names, with the second name of each that has two,
    and a whole CLIP with an idle image tower."""
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


def test_features_and_words(released: Released) -> None:
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
    for i, found in enumerate((first, second, third)):
        close(found.scores, tensors[f"score{i}"], VALUES)
        if i:
            close(found.foreground, tensors[f"FP{i}"], VALUES)
            close(found.background, tensors[f"BP{i}"], VALUES)
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
    """Losses and gradients of one step with the fixture's bands; no gradient where the released
    code has none."""
    released = Released()
    tensors, about, segmenter = released.tensors, released.about, released.segmenter
    segmenter.train()
    assert not any(module.training for module in segmenter.backbone.modules())
    monkeypatch.setattr(
        "unseen.methods.edgeclip.bands",
        lambda *_: (tensors["edge_pos"] == 1, tensors["edge_neg"] == 1),
    )
    losses = segmenter.loss(released.prediction(), tensors["mask"])
    for ours, theirs in (("mask", "ce_final"), ("initial", "ce_initial"), ("edge", "triplet")):
        assert losses[ours].item() == pytest.approx(tensors[f"loss_{theirs}"].item(), abs=LOSSES)
    assert set(losses) == {"mask", "initial", "edge", "total"}
    losses["total"].backward()
    own, names, seen = dict(segmenter.named_parameters()), EdgeCLIP.RELEASED.names, set()
    for theirs, norm in about["grad_norm"].items():
        if theirs.startswith("down_supp"):
            continue
        place = rename(theirs, names, "")
        seen.add(place)
        grad = own[place].grad
        assert (grad is None) == (norm is None), theirs
        assert own[place].requires_grad == (norm is not None), theirs
        if grad is not None:
            assert grad.norm().item() == pytest.approx(norm, rel=GRADIENTS), theirs
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
    """11.29 million parameters outside CLIP as released, of which the support projection is dead;
    fewer learn."""
    segmenter = EdgeCLIP(StoredText(["a"], np.zeros((2, 1024)), Path("text.npy")))
    count = sum(p.numel() for p in segmenter.parameters())
    assert count == 10_765_248
    assert round((count + 512 * 1024) / 1e6, 2) == 11.29
    learning = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    assert learning == count - sum(
        p.numel() for part in segmenter.backbone.frozen for p in part.parameters()
    )


# ---------------------------------------------------------------- promises


def small(**options: Any) -> EdgeCLIP:
    torch.manual_seed(0)
    sizes = {
        "stem": (4, 4, 8),
        "planes": (4, 8, 16),
        "blocks": (1, 1, 2),
        "match_dim": 32,
        "train_backbone": "all",
        "norm": "batch",
    }
    segmenter = create("edgeclip", tiny_clip(), **{**sizes, **options})
    assert isinstance(segmenter, EdgeCLIP)
    return segmenter.eval()


def test_a_single_image_is_asked_every_word_and_seen_once() -> None:
    segmenter, image = small(), torch.rand(1, 3, 40, 56)
    text, seen = segmenter.encode_text(Vocabulary(["tree", "car", "fish"])), []
    segmenter.backbone.register_forward_hook(lambda *_: seen.append(1))
    together = segmenter.forward_query(image, text)
    assert len(seen) == 1
    separate = segmenter.forward_query(image.expand(3, -1, -1, -1), text)
    assert together.logits.shape == (3, 2, 5, 7)
    close(together.logits, separate.logits, 1e-4)


def test_words_are_as_long_as_the_tower_makes_them_and_the_background_is_bare() -> None:
    segmenter = small(templates="no_article")
    text = segmenter.encode_text(Vocabulary(["tree"]))
    ids = segmenter.clip.tokenize(["a photo of tree", "background"])
    close(
        torch.cat([text.pooled, text.background[None]]), segmenter.clip.encode_tokens(ids)[0], 1e-6
    )
    assert TEMPLATES["single"] == ("a photo of a {}",)


@pytest.mark.parametrize("what", ["one pixel", "all"])
def test_features_of_zero_do_no_harm(what: str) -> None:
    """The released code divides by their length: one such pixel among the background's makes a
    image NaN."""
    segmenter = small(dropout=0.0, gate_dropout=0.0)
    feature = torch.rand(2, 32, 4, 5)
    feature[:, :, 0, 0] = 0
    if what == "all":
        feature[0] = 0
    feature.requires_grad_()
    for found in segmenter.match(feature, torch.rand(2, 32, 1, 1), torch.rand(2, 32, 1, 1)):
        assert torch.isfinite(found.scores).all()
    found.scores.sum().backward()
    assert torch.isfinite(feature.grad).all()


def test_fewer_pixels_than_seeds() -> None:
    sure = surest(torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.9, 0.3]]), 0.7, 2)
    assert sure.tolist() == [[False, True, True], [False, True, False]]
    assert surest(torch.tensor([[0.1, 0.2, 0.3]]), 0.7, 12).all()
    segmenter = small()
    for size in ((1, 1), (3, 2), (9, 17)):
        prediction = segmenter.forward_query(
            torch.rand(1, 3, *size), segmenter.encode_text(Vocabulary(["tree"]))
        )
        assert prediction.resized(size).shape == (1, 2, *size)
        assert torch.isfinite(prediction.logits).all()


@pytest.mark.parametrize("value", [0, 1, 255])
def test_images_without_a_contour(value: int) -> None:
    """A word that is nowhere, one that is everywhere, and void alone: no triplet, finite losses and
    gradients."""
    segmenter = small().train()
    text, labels = (
        segmenter.encode_text(Vocabulary(["tree", "car"])),
        torch.full((2, 40, 40), value),
    )
    losses = segmenter.loss(segmenter.forward_query(torch.rand(2, 3, 40, 40), text), labels)
    assert losses["edge"].item() == 0
    assert (losses["mask"].item() == 0) == (value == 255)
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in segmenter.parameters() if p.grad is not None)


def test_bands_follow_the_contour() -> None:
    labels = torch.zeros(1, 12, 12, dtype=torch.int64)
    labels[:, 4:, 4:10] = 1
    labels[:, 4, :4] = 255
    inside, outside = bands(labels, 2)
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[4:, 4:10] = True
    expected[6:, 6:8] = False  # erodes from three sides; the image's lower border is no contour
    assert torch.equal(inside[0], expected)
    around = torch.zeros(12, 12, dtype=torch.bool)
    around[2:, 2:12] = True
    around[4:, 4:10] = False
    around[4, 2:4] = False  # void
    assert torch.equal(outside[0], around)
    assert small().edge_radius == 8
    assert small(strides=(2, 1, 2)).edge_radius == 4


def test_a_band_of_one_step_survives_sampling() -> None:
    labels = torch.zeros(1, 473, 473, dtype=torch.int64)
    labels[:, 150:250, 203:301] = 1
    places = torch.arange(60) * 473 // 60
    for band in bands(labels, 8):
        cells = sampled(band, (60, 60))[0]
        assert cells.sum() > 30
        assert torch.equal(cells, band[0, places][:, places])


def test_bands_reach_across_a_void_contour() -> None:
    """As wide as VOC's, with the radius of its recipe: both bands survive sampling wherever the
    thing lies."""
    for offset in range(8):
        labels = torch.zeros(1, 473, 473, dtype=torch.int64)
        labels[:, 100 + offset : 126 + offset, 100 + offset : 126 + offset] = IGNORE
        labels[:, 105 + offset : 121 + offset, 105 + offset : 121 + offset] = 1
        assert all(sampled(band, (60, 60)).any() for band in bands(labels, 13))


def test_filled_up_pixels_are_no_contour() -> None:
    labels = torch.zeros(1, 30, 40, dtype=torch.int64)
    labels[:, 20:, 10:20] = 1  # cut off at the lower border
    filled = torch.full((1, 48, 48), IGNORE)
    filled[:, :30, :40] = labels
    for plain, large in zip(bands(labels, 4), bands(filled, 4), strict=True):
        assert torch.equal(large[:, :30, :40], plain)
        assert not large[:, 30:].any()
        assert not large[:, :, 40:].any()


def test_dropout_takes_whole_channels_and_losses_their_weights() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(EdgeCLIP.__init__).parameters.items()
    }
    assert (
        defaults["dropout"],
        defaults["gate_dropout"],
        defaults["triplet_weight"],
        defaults["margin"],
    ) == (0.3, 0.1, 1.0, 0.5)
    project = small(dropout=0.5).train().project
    feature, whole = (
        torch.rand(2, project[0].in_channels, 5, 5),
        project.eval()(torch.ones(1, project[0].in_channels, 5, 5)),
    )
    shown = project.train()(feature).flatten(2)
    undropped = project.eval()(feature).flatten(2)
    assert whole.shape[1] == shown.shape[1]
    dropped = (shown == 0).all(dim=2) & (undropped > 0).any(dim=2)
    assert dropped.any()
    close(shown[~dropped], 2 * undropped[~dropped], 1e-5)
    labels = torch.zeros(2, 40, 40, dtype=torch.int64)
    labels[:, 10:30, 10:30] = 1
    found = []
    for weight, margin in ((1.0, 0.5), (2.0, 0.5), (1.0, 0.1)):
        torch.manual_seed(0)
        segmenter = small(triplet_weight=weight, margin=margin).eval()
        torch.manual_seed(1)
        found.append(
            segmenter.loss(
                segmenter.forward_query(
                    torch.rand(2, 3, 40, 40),
                    segmenter.encode_text(Vocabulary(["tree", "car"])),
                ),
                labels,
            )["edge"].item()
        )
    assert found[1] == pytest.approx(2 * found[0], rel=1e-5)
    assert found[2] < found[0]


def test_what_does_not_fit() -> None:
    for options in (
        {"thresholds": (2.0, 0.6)},
        {"thresholds": (0.7, float("nan"))},
        {"margin": -1.0},
    ):
        with pytest.raises(SettingError, match="do not fit"):
            small(**options)
    with pytest.raises(VocabularyError, match="'background'"):
        small().forward_query(torch.rand(1, 3, 16, 16), TextFeatures(("a",), torch.rand(1, 64)))


def test_confidence_is_a_probability() -> None:
    close(
        small().confidence(torch.tensor([-2.0, 0.0, 2.0])),
        torch.tensor([0.1192029, 0.5, 0.8807971]),
        1e-6,
    )


def test_background_word() -> None:
    """Supervised, its projection learns; frozen, it is no parameter that learns, and is stored all
    the same."""
    for choice, learns in (("supervised", True), ("frozen", False)):
        segmenter = small(background_text=choice).train()
        text, labels = (
            segmenter.encode_text(Vocabulary(["tree", "car"])),
            torch.randint(0, 2, (2, 40, 40)),
        )
        losses = segmenter.loss(segmenter.forward_query(torch.rand(2, 3, 40, 40), text), labels)
        losses["total"].backward()
        weight = segmenter.project_background[0].weight
        assert (weight.grad is not None) == weight.requires_grad == ("seeds" in losses) == learns
        assert "project_background.0.weight" in segmenter.trainable_state()
    released = create("edgeclip", tiny_clip(), published=True, blocks=(1, 1, 1))
    assert isinstance(released, EdgeCLIP)
    assert (released.quirks.background_text, released.mean.tolist(), released.std.tolist()) == (
        "frozen",
        [[[0]]] * 3,
        [[[1]]] * 3,
    )
    assert torch.equal(
        released.encode_text(Vocabulary(["cat"])).pooled,
        create("edgeclip", tiny_clip(), blocks=(1, 1, 1), templates="no_article")
        .encode_text(Vocabulary(["cat"]))
        .pooled,
    )


def test_normalization() -> None:
    image, options = torch.rand(1, 3, 40, 40), {"dropout": 0.0}
    ours, none = small(**options), small(normalization="none", **options)
    text = ours.encode_text(Vocabulary(["tree"]))
    normal = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    close(ours(image, text).logits, none(normal, text).logits, 1e-4)


# ---------------------------------------------------------------- ResNet


def test_the_network_is_timms() -> None:
    """`resnet50s` of timm, dilated by timm itself, gives the same features, but for the ReLU that
    the last block has there."""
    theirs = timm.create_model("resnet50s", output_stride=8).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.0)
    ours = DilatedResNet().eval()
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ours.state_dict()})
    image = torch.randn(1, 3, 73, 65)
    with torch.no_grad():
        x = theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(image))))
        x = theirs.layer3(theirs.layer2(theirs.layer1(x)))
        found = ours(image)
    assert found.shape == (1, 1024, 10, 9)
    assert (found < 0).any()
    close(found.relu(), x, 1e-4 * x.abs().max().item())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_a_classifier(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SSP's names; a fourth stage and a head are left out, and said to be; counts of batches need
    not be there."""
    source = DilatedResNet((4, 4, 8), (4, 8, 16), (1, 1, 2))
    state = {
        name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name
    }
    state |= {"fc.weight": torch.zeros(5, 4), "layer4.0.conv1.weight": torch.zeros(3, 3)}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    segmenter = small(weights=str(path), train_backbone="layer3", norm="affine")
    segmenter.initialise()
    assert "2 tensors of the fourth stage and the classifier are left out" in caplog.text
    assert all(
        torch.equal(a, b)
        for a, b in zip(segmenter.backbone.parameters(), source.parameters(), strict=True)
    )


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = DilatedResNet((4, 4, 8), (4, 8, 16), (1, 1, 2)).state_dict()
    path = tmp_path / "w.pth"
    for changed, message in (
        (
            {**state, "conv1.weight": torch.zeros(64, 3, 7, 7)},
            "plain stem of 7 × 7; give one with the deep stem",
        ),
        (
            {name: t for name, t in state.items() if name != "layer3.1.conv2.weight"},
            "first tensor out of place: layer3.1.conv2.weight",
        ),
        (
            {**state, "layer3.2.conv1.weight": torch.zeros(1)},
            "first tensor out of place: layer3.2.conv1.weight",
        ),
        ({**state, "bn1.weight": torch.zeros(3)}, r"bn1.weight is \[3\] instead of \[8\]"),
        ({**state, "bn1.weight": torch.full((8,), float("nan"))}, r"not finite \(in bn1.weight\)"),
    ):
        torch.save(changed, path)
        with pytest.raises(CheckpointError, match=message):
            small(weights=str(path)).initialise()
    with pytest.raises(CheckpointError, match="does not exist"):
        small(weights=str(tmp_path / "no.pth")).initialise()


def test_weights_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def created(name: str, *, pretrained: bool) -> torch.nn.Module:
        assert pretrained
        if name == "resnet101s.gluon_in1k":
            raise OSError("no network")
        torch.manual_seed(3)
        return real(name)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", created)
    segmenter = EdgeCLIP(tiny_clip(), weights="timm:resnet50s.gluon_in1k")
    segmenter.initialise()
    torch.manual_seed(3)
    assert torch.equal(
        segmenter.backbone.layer3[5].conv2.weight, real("resnet50s").layer3[5].conv2.weight
    )
    assert all(f"{name}.gluon_in1k" in timm.list_pretrained(f"{name}.*") for name in SAME_IN_TIMM)
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        EdgeCLIP(tiny_clip(), weights="timm:resnet101s.gluon_in1k").initialise()
    for other in ("resnet50d.gluon_in1k", "resnet50.a1_in1k", "resnet50s.nobody"):
        with pytest.raises(
            SettingError, match=r"plain shortcuts; choose one of resnet50s\.gluon_in1k"
        ):
            EdgeCLIP(tiny_clip(), weights=f"timm:{other}").initialise()


def test_what_of_the_backbone_learns() -> None:
    """Only the third stage; its statistics move with norm "batch" alone, its scale and shift not
    with "frozen"."""
    for norm, affine, moves in (
        ("frozen", False, False),
        ("affine", True, False),
        ("batch", True, True),
    ):
        net = DilatedResNet((4, 4, 8), (4, 8, 16), (1, 1, 2), norm=norm).train()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        net(torch.rand(2, 3, 40, 40)).square().sum().backward()
        changed = {
            name.split(".")[0]
            for name, tensor in net.state_dict().items()
            if not torch.equal(tensor, before[name])
        }
        assert changed == ({"layer3"} if moves else set())
        learning = {name for name, p in net.named_parameters() if p.grad is not None}
        assert {name.split(".")[0] for name in learning} == {"layer3"}
        assert ("layer3.0.bn1.weight" in learning) == affine


def test_bad_sizes() -> None:
    with pytest.raises(
        SettingError, match=r"strides of the ResNet is \[2, 3, 2\]; give three numbers, 1 or 2 each"
    ):
        small(strides=(2, 3, 2))
    with pytest.raises(SettingError, match="stem of the ResNet"):
        small(stem=(0, 4, 4))
    with pytest.raises(SettingError, match="give its weights"):
        small(train_backbone="layer3").initialise()
    small().initialise()


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
    main(
        [
            "convert",
            "edgeclip",
            str(tmp_path / "best.pth"),
            "--out",
            str(tmp_path / "run"),
            "--benchmark",
            "pascal-5i/1",
        ]
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
    words = segmenter.encode_text(Vocabulary(["dog"]))
    expected = build_text(TEXT)
    close(words.background, expected.encode_tokens(expected.tokenize(["background"]))[0][0], 1e-5)
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
    out = ["--out", str(tmp_path / "run"), "--benchmark"]
    assert "was trained on folds" in said(
        capsys, "convert", "edgeclip", str(tmp_path / "a.pth"), *out, "voc"
    )
    assert "looks like one of edgeclip" in said(
        capsys, "convert", "esda", str(tmp_path / "a.pth"), *out, "pascal-5i/0"
    )


# ---------------------------------------------------------------- from the command line


def test_from_weights_to_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train the third stage on a fold from a file of weights and from embeddings of the words;
    score the run; its folder needs neither file."""
    words, weights, run = tmp_path / "words.npy", tmp_path / "weights.pth", str(tmp_path / "run")
    root = write_folds(tmp_path, (40, 48))
    np.save(
        words, np.random.default_rng(0).normal(size=(21, 24)).astype(np.float32)
    )  # PASCAL's and, last, "background"
    torch.save(DilatedResNet((4, 4, 8), (4, 8, 16), (1, 1, 2)).state_dict(), weights)
    common = ["--benchmark", "pascal-5i/0", "--root", str(root), "--lists", str(tmp_path / "lists")]
    small = [
        "--options.stem",
        "[4,4,8]",
        "--options.planes",
        "[4,8,16]",
        "--options.blocks",
        "[1,1,2]",
        "--options.match_dim",
        "16",
    ]
    train = [
        "--clip",
        "none",
        "--text-embeddings",
        str(words),
        "--train.steps",
        "2",
        "--train.batch_size",
        "2",
        "--train.workers",
        "0",
    ]
    source = ["--options.weights", str(weights)]
    assert "does not hold the weights of this ResNet" in said(
        capsys,
        "train",
        "edgeclip",
        *common,
        *train,
        *source,
        "--options.blocks",
        "[1,1,3]",
        *small[:4],
        "--out",
        run,
    )
    main(
        [
            "train",
            "edgeclip",
            *common,
            *train,
            *source,
            *small,
            "--train.transforms.crop",
            "40",
            "--out",
            run,
        ]
    )
    weights.unlink()
    words.unlink()
    main(
        [
            "evaluate",
            run,
            "--root",
            str(root),
            "--lists",
            str(tmp_path / "lists"),
            "--inference.canvas",
            "48",
        ]
    )
    assert "mIoU" in capsys.readouterr().out
    result = api.load(run).segment(np.zeros((30, 40, 3), dtype=np.uint8), ["cat", "dog"])
    assert result.labels.shape == (30, 40)
