"""EdgeCLIP: its text, seeds, contours and losses, its ResNet, and its command lines."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from conftest import close
from tiny import tiny_clip, write_folds
from tiny.commands import error_of, run_command
from unseen import api
from unseen.backbones import hub
from unseen.backbones.clip.templates import TEMPLATES
from unseen.backbones.resnet import SAME_IN_TIMM, DilatedResNet
from unseen.building import encode
from unseen.errors import CheckpointError, SettingError, VocabularyError
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.methods.edgeclip import EdgeCLIP, bands, sampled, surest
from unseen.segmenter import TextFeatures
from unseen.vocabulary import Vocabulary

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


def test_features_of_an_image_are_computed_once_for_all_classes() -> None:
    segmenter, image = small(), torch.rand(1, 3, 40, 56)
    text, seen = segmenter.encode_text(Vocabulary(["tree", "car", "fish"])), []
    segmenter.backbone.register_forward_hook(lambda *_: seen.append(1))
    together = segmenter.forward_query(image, text)
    assert len(seen) == 1
    separate = segmenter.forward_query(image.expand(3, -1, -1, -1), text)
    assert together.logits.shape == (3, 2, 5, 7)
    close(together.logits, separate.logits, 1e-4)


def test_text_features_are_not_normalised_and_the_background_has_no_template() -> None:
    segmenter = small(templates="no_article")
    text = segmenter.encode_text(Vocabulary(["tree"]))
    ids = segmenter.clip.tokenize(["a photo of tree", "background"])
    close(
        torch.cat([text.pooled, text.background[None]]), segmenter.clip.encode_tokens(ids)[0], 1e-6
    )
    assert TEMPLATES["single"] == ("a photo of a {}",)


@pytest.mark.parametrize("zeros", ["one pixel", "all"])
def test_features_of_zero_stay_finite(zeros: str) -> None:
    """The released code divides by their length, so that one such pixel makes an image NaN."""
    segmenter = small(dropout=0.0, gate_dropout=0.0)
    feature = torch.rand(2, 32, 4, 5)
    feature[:, :, 0, 0] = 0
    if zeros == "all":
        feature[0] = 0
    feature.requires_grad_()
    for matching in segmenter.match(feature, torch.rand(2, 32, 1, 1), torch.rand(2, 32, 1, 1)):
        assert torch.isfinite(matching.scores).all()
    matching.scores.sum().backward()
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
    """The query class nowhere, everywhere, and ignored pixels alone: finite, and no triplet."""
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
    around[4, 2:4] = False  # ignored
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


def test_bands_reach_across_an_ignored_contour() -> None:
    """VOC's contours are ignored; both bands survive sampling wherever the object lies."""
    for offset in range(8):
        labels = torch.zeros(1, 473, 473, dtype=torch.int64)
        labels[:, 100 + offset : 126 + offset, 100 + offset : 126 + offset] = IGNORE
        labels[:, 105 + offset : 121 + offset, 105 + offset : 121 + offset] = 1
        assert all(sampled(band, (60, 60)).any() for band in bands(labels, 13))


def test_padding_is_no_contour() -> None:
    labels = torch.zeros(1, 30, 40, dtype=torch.int64)
    labels[:, 20:, 10:20] = 1  # cut off at the lower border
    padded = torch.full((1, 48, 48), IGNORE)
    padded[:, :30, :40] = labels
    for plain, large in zip(bands(labels, 4), bands(padded, 4), strict=True):
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
    losses = []
    for weight, margin in ((1.0, 0.5), (2.0, 0.5), (1.0, 0.1)):
        torch.manual_seed(0)
        segmenter = small(triplet_weight=weight, margin=margin).eval()
        torch.manual_seed(1)
        losses.append(
            segmenter.loss(
                segmenter.forward_query(
                    torch.rand(2, 3, 40, 40),
                    segmenter.encode_text(Vocabulary(["tree", "car"])),
                ),
                labels,
            )["edge"].item()
        )
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)
    assert losses[2] < losses[0]


def test_impossible_options() -> None:
    for options in (
        {"thresholds": (2.0, 0.6)},
        {"thresholds": (0.7, float("nan"))},
        {"margin": -1.0},
    ):
        with pytest.raises(
            SettingError,
            match="do not fit|for each entry, give a number|give a number of at least 0",
        ):
            small(**options)
    with pytest.raises(VocabularyError, match="'background'"):
        small().forward_query(torch.rand(1, 3, 16, 16), TextFeatures(("a",), torch.rand(1, 64)))


def test_confidence_is_a_probability() -> None:
    close(
        small().confidence(torch.tensor([-2.0, 0.0, 2.0])),
        torch.tensor([0.1192029, 0.5, 0.8807971]),
        1e-6,
    )


def test_text_of_the_background() -> None:
    """The projection of the background is trained if supervised, and stored if frozen."""
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


def test_the_network_is_that_of_timm() -> None:
    """`resnet50s` of timm, dilated by timm, gives the same features before its last ReLU."""
    reference = timm.create_model("resnet50s", output_stride=8).eval()
    with torch.no_grad():
        for module in reference.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.0)
    ours = DilatedResNet().eval()
    ours.load_state_dict({name: reference.state_dict()[name] for name in ours.state_dict()})
    image = torch.randn(1, 3, 73, 65)
    with torch.no_grad():
        x = reference.maxpool(reference.act1(reference.bn1(reference.conv1(image))))
        x = reference.layer3(reference.layer2(reference.layer1(x)))
        features = ours(image)
    assert features.shape == (1, 1024, 10, 9)
    assert (features < 0).any()
    close(features.relu(), x, 1e-4 * x.abs().max().item())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_a_classifier(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tensors of the fourth stage and the head are left out, with a warning.

    The file has SSP's names; counts of batches may be absent.
    """
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
        torch.manual_seed(3)
        return real(name)

    real = timm.create_model

    def cached(repo: str, *_: object) -> Path:
        if "resnet101s" in repo:
            raise CheckpointError("the weights could not be fetched")
        return Path("in the cache")

    monkeypatch.setattr(timm, "create_model", created)
    monkeypatch.setattr(hub, "cached_file", cached)
    segmenter = EdgeCLIP(tiny_clip(), weights="timm:resnet50s.gluon_in1k")
    segmenter.initialise()
    torch.manual_seed(3)
    assert torch.equal(
        segmenter.backbone.layer3[5].conv2.weight, real("resnet50s").layer3[5].conv2.weight
    )
    assert all(f"{name}.gluon_in1k" in timm.list_pretrained(f"{name}.*") for name in SAME_IN_TIMM)
    with pytest.raises(CheckpointError, match="could not be fetched"):
        EdgeCLIP(tiny_clip(), weights="timm:resnet101s.gluon_in1k").initialise()
    for other in ("resnet50d.gluon_in1k", "resnet50.a1_in1k", "resnet50s.nobody"):
        with pytest.raises(
            SettingError, match=r"plain shortcuts; choose one of resnet50s\.gluon_in1k"
        ):
            EdgeCLIP(tiny_clip(), weights=f"timm:{other}").initialise()


def test_parameters_of_the_backbone_that_are_trained() -> None:
    """Only the third stage is trained; `norm` decides on its statistics, scale and shift."""
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
    with pytest.raises(SettingError, match=r"stem is \(0, 4, 4\); for each entry"):
        small(stem=(0, 4, 4))
    with pytest.raises(SettingError, match="give its weights"):
        small(train_backbone="layer3").initialise()
    small().initialise()


# ---------------------------------------------------------------- from the command line


def test_from_weights_to_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training from a file of weights and text embeddings, whose run needs neither file."""
    embeddings, weights, run = (
        tmp_path / "classes.npy",
        tmp_path / "weights.pth",
        str(tmp_path / "run"),
    )
    root = write_folds(tmp_path, (40, 48))
    np.save(
        embeddings, np.random.default_rng(0).normal(size=(21, 24)).astype(np.float32)
    )  # PASCAL's and, last, "background"
    torch.save(DilatedResNet((4, 4, 8), (4, 8, 16), (1, 1, 2)).state_dict(), weights)
    common = f"--benchmark pascal-5i/0 --root {root} --lists {tmp_path / 'lists'}"
    first = "--options.stem [4,4,8] --options.planes [4,8,16]"
    small = f"{first} --options.blocks [1,1,2] --options.match_dim 16"
    train = (
        f"--clip none --text-embeddings {embeddings} --train.steps 2 --train.batch_size 2 "
        "--train.workers 0"
    )
    source = f"--options.weights {weights}"
    assert "does not hold the weights of this ResNet" in error_of(
        capsys,
        "train edgeclip",
        common,
        train,
        source,
        f"{first} --options.blocks [1,1,3]",
        f"--out {run}",
    )
    run_command(
        "train edgeclip", common, train, source, small, f"--train.transforms.crop 40 --out {run}"
    )
    weights.unlink()
    embeddings.unlink()
    run_command(
        f"evaluate {run} --root {root} --lists {tmp_path / 'lists'}", "--inference.canvas 48"
    )
    assert "mIoU" in capsys.readouterr().out
    result = api.load(run).segment(np.zeros((30, 40, 3), dtype=np.uint8), ["cat", "dog"])
    assert result.labels.shape == (30, 40)


def test_a_mobilenet_as_the_backbone(tmp_path: Path) -> None:
    """Padded to whole strides, normalised with its own statistics, trained behind a stride of 8."""
    segmenter = EdgeCLIP(
        tiny_clip(), backbone="mobilenet_v2", train_backbone="all", match_dim=32,
        background="learned",
    ).eval()  # fmt: skip
    segmenter.initialise()
    assert segmenter.pad_color == pytest.approx((127.5,) * 3)
    text = encode(segmenter, ["cat", "dog", "sofa"])
    assert text.background is None
    prediction = segmenter(torch.rand(1, 3, 50, 70), text)
    assert prediction.logits.shape == (1, 3, 8, 12)
    assert prediction.padded_size == (64, 96)
    assert prediction.resized((50, 70)).shape == (1, 3, 50, 70)
    query = segmenter.train().forward_query(torch.rand(2, 3, 64, 64), text.select([0, 1]))
    segmenter.loss(query, torch.randint(2, (2, 64, 64)))["total"].backward()
    assert segmenter.unknown is not None
    assert segmenter.unknown.grad is not None
    part = EdgeCLIP(tiny_clip(), backbone="mobilenet_v2", match_dim=32)
    features = part.backbone.body.features
    trained = [any(p.requires_grad for p in block.parameters()) for block in features]
    first = part.backbone.body.dilated[0]
    assert trained == [index > first for index in range(len(features))]
    with pytest.raises(SettingError, match="starts from a backbone that was trained before"):
        part.initialise()
