"""ProxyCLIP against the released code (fixture proxyclip_a) and its own promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import unseen
from conftest import close, golden
from tiny import tiny_clip, whole_scores
from tiny.commands import error_of, run_command
from unseen.backbones.clip.loading import build_clip
from unseen.backbones.patches import PatchFeatures
from unseen.errors import CheckpointError, SettingError
from unseen.methods import create
from unseen.methods.proxyclip import ProxyCLIP
from unseen.modules.proxy import proxy_attention
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

# Tolerances suggested with the fixture.
CLOSE, PROBABILITIES = 1e-5, 1e-4
WORDS = Vocabulary(("tree", "car"))


class Fixture:
    """The fixture, and our segmenter with its weights."""

    def __init__(self, **quirks: Any) -> None:
        self.tensors, self.about = golden("proxyclip_a")
        self.config = config = self.about["config"]
        vision = {
            "image_size": config["clip_image_size"],
            "patch_size": 16,
            "width": config["width"],
            "layers": config["layers"],
            "head_width": config["width"] // config["vit_heads"],
        }
        text = {"context_length": 8, "vocab_size": 8, "width": 16, "heads": 1, "layers": 1}
        clip = build_clip(
            {
                "embed_dim": config["out_dim"],
                "quick_gelu": True,
                "vision_cfg": vision,
                "text_cfg": text,
            },
            source="fixture",
        )
        clip.visual.load_state_dict(self.part("clip."))
        clip.mean.zero_()  # the fixture's images are normalised already
        clip.std.fill_(1)
        self.segmenter = create(
            "proxyclip", clip, published=True, proxy="timm:test_vit@random", **quirks
        ).eval()
        assert isinstance(self.segmenter, ProxyCLIP)
        network = timm.models.vision_transformer.VisionTransformer(
            img_size=config["clip_image_size"],
            patch_size=config["vfm_patch"],
            embed_dim=config["vfm_width"],
            depth=config["vfm_layers"],
            num_heads=config["vfm_heads"],
            num_classes=0,
            dynamic_img_size=True,
        )
        network.load_state_dict(self.part("vfm."))
        proxy = self.segmenter.proxy
        proxy.network, proxy.patch_size = network.eval(), (config["vfm_patch"],) * 2
        # CLIP's statistics are taken off and ImageNet's put on; CLIP's are 0 and 1 here.
        mean, std = (
            torch.tensor(values).view(3, 1, 1)
            for values in (clip_statistics()["mean"], clip_statistics()["std"])
        )
        imagenet = [(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)]
        own_mean, own_std = (torch.tensor(values).view(3, 1, 1) for values in imagenet)
        proxy.mean, proxy.std = (own_mean - mean) / std, own_std / std
        names = tuple("abcdefg")
        self.text = TextFeatures(names, self.tensors["in.text_embedding"])

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def clip_statistics() -> dict[str, tuple[float, ...]]:
    """Those of CLIP, as the released code writes them, in 0..255."""
    return {
        "mean": tuple(value / 255 for value in (122.7709383, 116.7460125, 104.09373615)),
        "std": tuple(value / 255 for value in (68.5005327, 66.6321579, 70.32316305)),
    }


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture()


def test_features_of_the_second_network(fixture: Fixture) -> None:
    features = fixture.segmenter.proxy(fixture.tensors["in.image"], (112, 112))
    close(features, fixture.tensors["out.vfm_features"], CLOSE)
    flat = F.normalize(features.flatten(2), dim=1)
    close(flat.transpose(1, 2) @ flat, fixture.tensors["out.similarity"], CLOSE)


def test_attention(fixture: Fixture) -> None:
    features = fixture.tensors["out.vfm_features"].flatten(2).transpose(1, 2)
    same = torch.eye(64).expand(2, -1, -1)  # the values of every patch tell it alone
    for over in ("batch", "image"):
        attention = proxy_attention(features, same, beta=1.2, gamma=3.0, mean_over=over)
        name = "batch" if over == "batch" else "alone"
        close(attention, fixture.tensors[f"out.{name}.attention"], CLOSE)


def test_the_last_block_gets_the_released_tokens(fixture: Fixture) -> None:
    segmenter = fixture.segmenter
    x = segmenter.clip.blocks(segmenter.embed(fixture.tensors["in.image"]), stop=-1)
    # The fixture holds them behind the block's first norm.
    x = segmenter.clip.visual.transformer.resblocks[-1].ln_1(x)
    close(x, fixture.tensors["out.last_block_input"], CLOSE)
    table = segmenter.clip.positions((10, 10), "bicubic_plain")
    close(table, fixture.tensors["out.position_table"][0], CLOSE)


@pytest.mark.parametrize("over", ["batch", "image"])
def test_logits(over: str) -> None:
    """One threshold for both images, or one for each as if it were alone."""
    fixture = Fixture(mean_over=over)
    logits = fixture.segmenter(fixture.tensors["in.image"], fixture.text).logits
    name = "batch" if over == "batch" else "alone"
    close(logits, fixture.tensors[f"out.{name}.logits"], CLOSE)


def test_windows_probabilities_and_threshold(fixture: Fixture) -> None:
    """Windows padded on all sides, cosines averaged, softmax over queries, best synonym."""
    config, tensors = fixture.config, fixture.tensors
    settings = InferenceSettings(window=config["window"], stride=config["stride"], window_batch=1)
    images = tensors["in.image_infer"]
    scores = whole_scores(fixture.segmenter, images, fixture.text, settings, None)
    size = tuple(config["ori_shape"])
    scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    close(scores / 40, tensors["out.infer_logits"], CLOSE)
    total = scores.logsumexp(dim=1)
    classes = tensors["in.query_class"].tolist()
    probabilities = torch.stack(
        [
            torch.stack(
                [
                    fixture.segmenter.confidence(scores[:, row], total)[0]
                    for row, own in enumerate(classes)
                    if own == index
                ]
            ).amax(dim=0)
            for index in range(max(classes) + 1)
        ]
    )
    close(probabilities, tensors["out.infer_probabilities"], PROBABILITIES)
    best = probabilities.amax(dim=0)
    predicted = torch.where(best < config["prob_thd"], 0, probabilities.argmax(dim=0))
    assert torch.equal(predicted, tensors["out.infer_pred"].long())


# --------------------------------------------------------------------- promises


def test_attention_written_out() -> None:
    features, values = torch.randn(2, 9, 5), torch.randn(2, 9, 4)
    out = proxy_attention(features, values, beta=1.2, gamma=3.0)
    for image in range(2):
        unit = F.normalize(features[image], dim=-1)
        cosines = unit @ unit.T
        for row in range(9):
            kept = [i for i in range(9) if cosines[row, i] >= 1.2 * cosines.mean() or i == row]
            weights = (3.0 * cosines[row, kept]).softmax(dim=0)
            expected = (weights[:, None] * values[image, kept]).sum(dim=0)
            assert torch.allclose(out[image, row], expected, atol=1e-5)


def test_attention_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features, values = torch.randn(2, 50, 5), torch.randn(2, 50, 4)
    whole = proxy_attention(features, values, beta=1.0, gamma=2.0)
    monkeypatch.setattr("unseen.modules.proxy.AT_ONCE", 700)
    assert torch.allclose(proxy_attention(features, values, beta=1.0, gamma=2.0), whole, atol=1e-6)


def test_a_blank_image_has_finite_maps() -> None:
    """All patches look alike, so that the threshold is above every cosine."""
    features = torch.ones(1, 6, 3)
    values = torch.randn(1, 6, 2)
    assert torch.allclose(proxy_attention(features, values, beta=1.2, gamma=3.0), values)
    for quirks in ({}, {"padding": "all_sides"}):
        segmenter = create("proxyclip", tiny_clip(), proxy="timm:test_vit@random", **quirks).eval()
        maps = segmenter(torch.full((1, 3, 40, 56), 0.5), segmenter.encode_text(WORDS)).logits
        assert torch.isfinite(maps).all()


@pytest.mark.parametrize("padding", ["corner", "all_sides"])
def test_maps_lie_where_the_image_is(padding: str) -> None:
    """A bright square in any corner moves the maps there, whatever the image's shape."""
    clip, size = tiny_clip(), (72, 120)
    segmenter = create("proxyclip", clip, proxy="timm:test_vit@random", padding=padding).eval()
    text, plain = segmenter.encode_text(WORDS), torch.full((1, 3, *size), 0.3)
    before = segmenter(plain, text).resized(size)
    for rows, columns in ((slice(0, 24), slice(0, 24)), (slice(48, 72), slice(96, 120))):
        image = plain.clone()
        image[..., rows, columns] = torch.rand(3, 24, 24)
        change = (segmenter(image, text).resized(size) - before).abs().sum(dim=1)[0]
        assert change[rows, columns].mean() > 3 * change.mean()


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [("test_vit", (70, 100), (4, 6)), ("vit_small_patch16_dinov3", (64, 96), (4, 6))],
)
def test_kinds_of_networks(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    network = PatchFeatures(f"timm:{name}@random")
    features = network(torch.rand(1, 3, *size), size)
    assert tuple(features.shape[-2:]) == grid
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_sam_keeps_the_ratio_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    small = timm.models.vision_transformer_sam.VisionTransformerSAM(
        img_size=64, patch_size=16, embed_dim=16, depth=1, num_heads=2, neck_chans=8,
        global_attn_indexes=(0,), use_rel_pos=True, num_classes=0,
    ).eval()  # fmt: skip
    small.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setattr("unseen.backbones.patches._create", lambda name: small)
    network = PatchFeatures("timm:samvit_small")
    assert network(torch.rand(2, 3, 96, 96), (96, 96)).shape == (2, 8, 4, 4)
    assert network(torch.rand(2, 3, 48, 96), (48, 96)).shape == (2, 8, 2, 4)


def test_weights_from_a_file(tmp_path: Path) -> None:
    first = PatchFeatures("timm:test_vit@random")
    save_file(
        {**first.network.state_dict(), "head.weight": torch.zeros(3, 64)},
        tmp_path / "vit.safetensors",
    )
    second = PatchFeatures(f"timm:test_vit@{tmp_path / 'vit.safetensors'}")
    second.load()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(first(images, (32, 32)), second(images, (32, 32)))
    save_file({"cls_token": torch.zeros(1, 1, 64)}, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match="does not hold the weights of test_vit"):
        PatchFeatures(f"timm:test_vit@{tmp_path / 'part.safetensors'}").load()


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("vit_base_patch8_224.dino", 0.485),
        ("vit_base_patch16_224.mae", 0.485),
        ("vit_base_patch16_224.augreg_in21k", 0.5),
    ],
)
def test_images_are_normalised_as_the_weights_say(name: str, mean: float) -> None:
    """By the tag: one architecture has weights of several trainings."""
    with torch.device("meta"):
        network = PatchFeatures(f"timm:{name}")
    assert network.network.pretrained_cfg["mean"][0] == mean


def test_statistics_are_part_of_the_fingerprint() -> None:
    segmenter = create("proxyclip", tiny_clip(), proxy="timm:test_vit@random")
    tower = segmenter.towers["proxy"]
    before = tower.fingerprint
    segmenter.proxy.mean += 0.1
    assert tower.fingerprint != before


def test_networks_that_cannot_be_compared() -> None:
    for source, message in (
        ("timm:resnet18", "resnet18 is not a vision transformer whose patches"),
        ("timm:deit_tiny_distilled_patch16_224", "is not a vision transformer whose patches"),
        ("timm:vit_tiny_r_s16_p8_224", "is not a vision transformer whose patches"),
        ("timm:test_vit.nothing", "timm has no weights called 'test_vit.nothing'"),
        ("timm:nothing", "timm has no network called 'nothing'; choose a vision transformer"),
        ("dino", "dino"),
    ):
        with pytest.raises(SettingError, match=message):
            create("proxyclip", tiny_clip(), proxy=source)


def test_both_towers_are_named_in_a_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_command(
        f"evaluate proxyclip --benchmark doodles --limit 2 --out {out}",
        "--options.proxy timm:test_vit@random",
    )
    protocol = json.loads((out / "report.json").read_text())["protocol"]
    assert set(protocol["towers"]) == {"clip", "proxy"}
    assert protocol["towers"]["proxy"]["source"] == "timm:test_vit@random"


def test_the_verbs_refuse_an_unknown_network(capsys: pytest.CaptureFixture[str]) -> None:
    line = "evaluate proxyclip --benchmark doodles --options.proxy timm:nothing"
    assert "timm has no network called 'nothing'" in error_of(capsys, line)


def test_in_python(photo: Path) -> None:
    options = {"proxy": "timm:test_vit@random"}
    result = unseen.load("proxyclip", options=options).segment(photo, ["tree", "car"])
    assert result.labels.shape == (60, 80)


def test_a_clip_as_the_second_network() -> None:
    segmenter = create("proxyclip", tiny_clip(), proxy="doodles").eval()
    text = segmenter.encode_text(WORDS)
    prediction = segmenter(torch.rand(1, 3, 33, 60), text)
    assert prediction.logits.shape == (1, 2, 5, 8)  # of patches of 8 in 40 x 64 pixels
    assert prediction.padded_size == (40, 64)
