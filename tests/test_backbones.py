"""Trained backbones: weights of others load exactly or not at all; dilation keeps features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from conftest import SHARED, close
from tiny import tiny_clip
from unseen.backbones import hub
from unseen.backbones.dense import SmallBackbone
from unseen.backbones.drn import DRN
from unseen.backbones.mobilenet import DilatedMobileNet, MobileNetV2
from unseen.backbones.vit import ReassembledViT, ViTSizes
from unseen.errors import CheckpointError, SettingError
from unseen.images import read_image
from unseen.methods import create

TINY = {"width": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "grid": 3}


def stored(state: dict[str, Tensor], path: Path) -> str:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return str(path)


# ---------------------------------------------------------------- ViT


def tiny_vit() -> VisionTransformer:
    vit = VisionTransformer(
        img_size=48, patch_size=16, embed_dim=16, depth=4, num_heads=2, mlp_ratio=2.0, num_classes=5
    ).eval()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return vit


def test_a_timm_vit_up_to_the_middle(tmp_path: Path) -> None:
    vit, ours = tiny_vit(), ReassembledViT(8, ViTSizes(**TINY)).eval()
    ours.load(stored(vit.state_dict(), tmp_path / "vit.safetensors"))
    images, kept = torch.rand(2, 3, 48, 48), []
    ours.blocks.register_forward_hook(lambda *call: kept.append(call[2]))
    assert ours(images).shape == (2, 8, 6, 6)
    patches, first = vit.get_intermediate_layers(2 * images - 1, n=[1], return_prefix_tokens=True)[
        0
    ]
    close(kept[0], torch.cat([first, patches], dim=1), 1e-5)


def test_a_vit_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    vit, ours = tiny_vit(), ReassembledViT(8, ViTSizes(**TINY))
    requested: list[str] = []

    def create_model(name: str, *, pretrained: bool) -> nn.Module:
        requested.append(name)
        return vit

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(hub, "cached_file", lambda *_: Path("in the cache"))
    ours.load("timm:vit_large_patch16_384.augreg_in21k_ft_in1k")
    assert requested == ["vit_large_patch16_384.augreg_in21k_ft_in1k"]
    assert torch.equal(ours.cls_token, vit.cls_token)

    def unreachable(*_: Any) -> Path:
        raise CheckpointError("the weights could not be fetched")

    monkeypatch.setattr(hub, "cached_file", unreachable)
    with pytest.raises(CheckpointError, match="could not be fetched"):
        ours.load("timm:vit_large_patch16_384")
    with pytest.raises(SettingError, match="no model called 'vit_huge'"):
        ours.load("timm:vit_huge")
    with pytest.raises(SettingError, match="3 heads do not divide"):
        ReassembledViT(8, ViTSizes(width=16, num_heads=3))


# ---------------------------------------------------------------- MobileNetV2


def padded_like_tensorflow(norms: bool) -> nn.Module:
    """torchvision's MobileNetV2 with random norms, padded as TensorFlow does."""
    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v2(num_classes=1001).eval()
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and norms:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.padding = (0, 0)
            parent, _, last = name.rpartition(".")
            net.get_submodule(parent).insert(int(last), nn.ZeroPad2d((0, 1, 0, 1)))
    return net


def test_folded_norms_change_nothing(tmp_path: Path) -> None:
    state, net = (
        torchvision.models.mobilenet_v2(num_classes=1001).state_dict(),
        padded_like_tensorflow(norms=True),
    )
    # The padding layers shift the indices of some names by one: give the state its values in order.
    state = dict(zip(state, net.state_dict().values(), strict=True))
    ours = DilatedMobileNet(8)
    ours.load(stored(state, tmp_path / "net.safetensors"))
    original = MobileNetV2(32)
    original.load_state_dict(ours.body.state_dict())
    images = torch.rand(2, 3, 96, 64) * 2 - 1
    close(original(images), net.features(images), 1e-4)


@pytest.mark.parametrize(("stride", "every"), [(16, 2), (8, 4)])
def test_the_dilated_network_contains_the_original(stride: int, every: int) -> None:
    original, dilated = MobileNetV2(32), MobileNetV2(stride)
    for parameter in original.parameters():
        nn.init.normal_(
            parameter, std=0.1 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5
        )
    dilated.load_state_dict(original.state_dict())
    images = torch.rand(1, 3, 128, 96) * 2 - 1
    with torch.no_grad():
        coarse, fine = original(images), dilated(images)
    assert coarse.std() > 0.01
    assert fine.shape[-2:] == (128 // stride, 96 // stride)
    close(fine[..., every - 1 :: every, every - 1 :: every], coarse, 1e-4)


def test_real_photographs_are_recognised(voc_small: Path) -> None:
    """ImageNet's classes of VOC's photographs, by the published weights.

    Row 0 of the classifier is the background.
    """
    path = SHARED / "data" / "weights" / "mobilenet_v2_imagenet_tv.safetensors"
    if not path.exists():
        pytest.skip("the weights of ../shared/data are not here")
    from safetensors.torch import load_file

    ours, state = DilatedMobileNet(8), load_file(path)
    ours.load(str(path))
    original = MobileNetV2(32)
    original.load_state_dict(ours.body.state_dict())
    expected = {
        "2007_000033": 404,
        "2007_000042": 547,
        "2007_000061": 472,
        "2007_000129": 444,
    }  # airliner, locomotive, canoe, tandem
    for stem, best in expected.items():
        image = (
            torch.from_numpy(read_image(voc_small / "JPEGImages" / f"{stem}.jpg"))
            .permute(2, 0, 1)
            .unsqueeze(0)
            / 255
        )
        image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
        with torch.no_grad():
            pooled = original(ours.normalize(image)).mean(dim=(2, 3))
        assert (
            pooled @ state["classifier.1.weight"].T + state["classifier.1.bias"]
        ).argmax().item() == 1 + best, stem


# ---------------------------------------------------------------- wrong weights


def test_wrong_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    mobile, vit = DilatedMobileNet(8), ReassembledViT(8, ViTSizes(**TINY))
    with pytest.raises(CheckpointError, match="torchvision's own MobileNetV2"):
        mobile.load(stored(torchvision.models.mobilenet_v2().state_dict(), path))
    state = torchvision.models.mobilenet_v2(num_classes=1001).state_dict()
    with pytest.raises(CheckpointError, match="lacks 'features.0.1.bias', the batch norm of"):
        mobile.load(
            stored(
                {name: tensor for name, tensor in state.items() if name != "features.0.1.bias"},
                path,
            )
        )
    with pytest.raises(CheckpointError, match="first tensor out of place: body"):
        mobile.load(stored(tiny_vit().state_dict(), path))
    with pytest.raises(
        CheckpointError,
        match=r"not hold the weights of this ReassembledViT \(first tensor out of place: ",
    ):
        vit.load(stored(state, path))
    with pytest.raises(
        CheckpointError, match=r"pos_embed is \[1, 10, 16\] instead of \[1, 17, 16\]"
    ):
        ReassembledViT(8, ViTSizes(**{**TINY, "grid": 4})).load(
            stored(tiny_vit().state_dict(), path)
        )
    broken = tiny_vit().state_dict()
    broken["cls_token"][0, 0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite \\(in cls_token\\)"):
        vit.load(stored(broken, path))
    with pytest.raises(CheckpointError, match="does not exist"):
        vit.load(str(tmp_path / "nothing.pth"))
    with pytest.raises(SettingError, match="timm has no weights for this DilatedMobileNet"):
        mobile.load("timm:vit_large_patch16_384")
    with pytest.raises(SettingError, match="starts from scratch"):
        create("sazs", tiny_clip(), backbone="small", weights="a.pth")


def test_drn_starts_from_a_classifiers_file(tmp_path: Path) -> None:
    """DRN's files call its levels layer0 to layer8; the head stays as it was."""
    sizes = {"layers": (1, 1, 1, 2, 1, 1, 1, 1), "channels": (4,) * 8}
    trained, ours = DRN(8, **sizes), DRN(8, **sizes)
    head = ours.fc1.weight.clone()
    state = {
        name.replace("base.", "layer"): tensor
        for name, tensor in trained.state_dict().items()
        if name.startswith("base.")
    }
    ours.load(
        stored(
            {**state, "fc.weight": torch.zeros(5, 4, 1, 1), "fc.bias": torch.zeros(5)},
            tmp_path / "drn.safetensors",
        )
    )
    assert all(
        torch.equal(ours.state_dict()[name], tensor)
        for name, tensor in trained.state_dict().items()
        if name.startswith("base.")
    )
    assert torch.equal(ours.fc1.weight, head)
    with pytest.raises(SettingError, match="eight levels, but 2 numbers"):
        DRN(8, layers=(1, 1))


def test_the_small_backbone_has_no_weights() -> None:
    backbone = SmallBackbone(8)
    assert backbone.rename({"a": torch.zeros(1)}, "")["a"].item() == 0
    assert backbone.is_pretrained("head.weight")
