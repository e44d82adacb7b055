"""Vision transformers by way of timm, and what other parts of the package read in them.

Keys: the keys of the last block's attention, which group an image's patches by object (Amir et al.
2021, arXiv 2112.05814; Melas-Kyriazi et al. 2022, arXiv 2205.07839, use those of DINO's ViT-S/16).
Any plain ViT of timm gives them, and any CLIP of `unseen.backbones.clip`. Dense
features: those of SAZS's ViT-L.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import read_state_dict
from unseen.backbones.clip import CLIP, load_clip, one_complaint
from unseen.backbones.dense import DenseBackbone
from unseen.errors import CheckpointError, DataError, SettingError

TIMM = "timm:"
"""Sources that start so are timm's; all others are CLIPs."""


class KeyFeatures(nn.Module):
    """The keys of a ViT's last block, heads side by side, one row a patch; class and register
    tokens are left out. Frozen.

    Args:
        network: A CLIP or a ViT of timm.
        keys: From normalised images of whole patches to the keys (B, N, C).
        mean: What `keys` wants subtracted from RGB in 0..1.
        std: What it wants that divided by.
        patch_size: Side of a patch in pixels.
        source: Where the weights came from.

    Attributes:
        fingerprint: A short hash of first and last weights: networks that share it have the same
            keys for all that matters.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        keys: Callable[[Tensor], Tensor],
        mean: Tensor,
        std: Tensor,
        patch_size: int,
        source: str,
    ) -> None:
        super().__init__()
        self.network, self.keys, self.patch_size, self.source = network, keys, patch_size, source
        self.register_buffer("mean", mean.detach().float().view(3, 1, 1).clone(), persistent=False)
        self.register_buffer("std", std.detach().float().view(3, 1, 1).clone(), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def fingerprint(self) -> str:
        """See the class."""
        tensors = [
            tensor
            for tensor in self.network.state_dict().values()
            if tensor.is_floating_point() and tensor.ndim > 1
        ]
        digest = hashlib.sha256()
        for tensor in (tensors[0], tensors[len(tensors) // 2], tensors[-1], self.mean, self.std):
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> KeyFeatures:
        """Frozen: stays in eval mode whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Keys (B, N, C), row-major over ⌊H/P⌋ by ⌊W/P⌋ patches, of images (B, 3, H, W), uint8 or
        RGB in 0..1.

        Images keep their size; what is not a whole patch is cut off at the bottom and right.

        Raises:
            DataError: Images smaller than a patch.
        """
        h, w = (side // self.patch_size * self.patch_size for side in images.shape[-2:])
        if min(h, w) == 0:
            raise DataError(
                f"the image is {images.shape[-1]}x{images.shape[-2]} pixels, smaller than one"
                f" patch of {self.patch_size}; enlarge it"
            )
        images = images[..., :h, :w]
        images = images / 255 if images.dtype == torch.uint8 else images
        return self.keys((images - self.mean) / self.std)


def load_keys(source: str) -> KeyFeatures:
    """Key features from a source.

    Args:
        source: `timm:NAME`, weights downloaded once and cached by huggingface_hub
            (timm:vit_small_patch16_224.dino); `timm:NAME@FILE`, weights from a .safetensors or .pth
            file; `timm:NAME@random`, to try a set-up out; or a CLIP as
            `unseen.backbones.clip.load_clip` takes it.

    Raises:
        SettingError: No such network, or one that is not a plain ViT.
        CheckpointError: Weights that cannot be read or fetched, or do not fit.
    """
    return _timm_keys(source) if source.startswith(TIMM) else clip_keys(load_clip(source))


def clip_keys(clip: CLIP) -> KeyFeatures:
    """The keys of a CLIP's image tower."""
    # The tower normalises images itself.
    return KeyFeatures(
        clip,
        partial(_keys_of_clip, clip),
        torch.zeros(3),
        torch.ones(3),
        clip.patch_size,
        clip.source,
    )


def _keys_of_clip(clip: CLIP, images: Tensor) -> Tensor:
    """Keys (B, N, C) of images in 0..1."""
    x = clip.blocks(clip.embed(images), stop=-1)[:, 1:]
    block = clip.visual.transformer.resblocks[-1]
    weight, bias = (
        tensor.chunk(3)[1] for tensor in (block.attn.in_proj_weight, block.attn.in_proj_bias)
    )
    return F.linear(block.ln_1(x), weight, bias)


def _timm_keys(source: str) -> KeyFeatures:
    name, _, file = source.removeprefix(TIMM).partition("@")
    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.partition('.')[0][:12]}*")[:3] or [
            "vit_small_patch16_224.dino"
        ]
        raise SettingError(
            f"timm has no network called {name!r}; choose one such as"
            f" {', '.join(TIMM + found for found in near)}"
        )
    try:
        with one_complaint():
            network = timm.create_model(
                name, pretrained=not file, num_classes=0, dynamic_img_size=True
            )
    except TypeError as error:
        raise SettingError(
            f"{name} is not a plain ViT, whose last block has keys; choose one such as"
            " timm:vit_small_patch16_224.dino"
        ) from error
    except (RuntimeError, OSError) as error:
        if "tag" in str(error) or "pretrained" in str(error):
            raise SettingError(
                f"timm has no weights called {name!r} ({str(error).splitlines()[0]}); give a file"
                " of weights: timm:NAME@FILE"
            ) from error
        raise CheckpointError(
            f"the weights of {name} could not be fetched; check the network, or give a file of"
            f" weights: timm:{name}@FILE"
        ) from error
    attention = (
        getattr(network.blocks[-1], "attn", None)
        if isinstance(network, VisionTransformer)
        else None
    )
    if not isinstance(network, VisionTransformer) or not isinstance(
        getattr(attention, "qkv", None), nn.Linear
    ):
        raise SettingError(
            f"{name} is not a plain ViT, whose last block has keys; choose one such as"
            " timm:vit_small_patch16_224.dino"
        )
    if file and file != "random":
        _fill(network, Path(file), name)
    about = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    patch = network.patch_embed.patch_size
    return KeyFeatures(
        network,
        partial(_keys_of_timm, network),
        torch.tensor(about["mean"]),
        torch.tensor(about["std"]),
        patch[0],
        source,
    )


def _keys_of_timm(network: VisionTransformer, images: Tensor) -> Tensor:
    """Keys (B, N, C) of images normalised already; the last block's other parts are not
    computed.
    """
    last: Any = network.blocks[-1]
    before: Any = network.forward_intermediates(
        images,
        indices=[len(network.blocks) - 2],
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    qkv = last.attn.qkv
    bias = None if qkv.bias is None else qkv.bias.chunk(3)[1]
    return F.linear(last.norm1(before[0]), qkv.weight.chunk(3)[1], bias)


def _fill(network: nn.Module, path: Path, name: str) -> None:
    """Give a network the weights of a file, which may hold a head besides."""
    state = read_state_dict(path)
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys()) or sorted(
        key for key in own if own[key].shape != state[key].shape
    )
    if missing:
        raise CheckpointError(
            f"{path} does not hold the weights of {name} (first tensor out of place: {missing[0]});"
            " give its own file, in timm's names"
        )
    if not all(bool(torch.isfinite(state[key]).all()) for key in own):
        raise CheckpointError(f"{path} holds values that are not finite; download it again")
    network.load_state_dict({key: state[key] for key in own})


class ReassembledViT(DenseBackbone):
    """Features at an eighth of the size from one block of a ViT: what of SAZS's "vitl16_384"
    reaches the output.

    Patches and class token after the last block are joined (read-out "project"), projected to D
    channels and brought to twice the grid. The defaults are the first 12 of the 24 blocks of
    `vit_large_patch16_384`; blocks behind them, the decoder and three more read-outs, which the
    released code computes and throws away, are left out.

    Args:
        embed_dim: D.
        width: C.
        num_layers: Blocks.
        num_heads: Heads.
        hidden_dim: Width of the blocks' MLPs.
        grid: Positions a side of the position table, which is resized bilinearly.
        patch_size: Side of a patch in pixels.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        width: int = 1024,
        num_layers: int = 12,
        num_heads: int = 16,
        hidden_dim: int = 4096,
        grid: int = 24,
        patch_size: int = 16,
    ) -> None:
        super().__init__((0.5,) * 3, (0.5,) * 3, whole=patch_size)
        if width % num_heads:
            raise SettingError(
                f"{num_heads} heads do not divide the ViT's {width} channels; give a divisor in"
                " vit_sizes"
            )
        vit = VisionTransformer(
            img_size=grid * patch_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=num_layers,
            num_heads=num_heads,
            mlp_ratio=hidden_dim / width,
            num_classes=0,
            global_pool="",
        )
        self.grid = grid
        assert vit.cls_token is not None
        assert vit.pos_embed is not None
        self.cls_token: nn.Parameter = vit.cls_token
        self.pos_embed: nn.Parameter = vit.pos_embed
        self.patch_embed, self.blocks = vit.patch_embed.proj, vit.blocks
        self.readout = nn.Linear(2 * width, width)
        self.project = nn.Conv2d(width, embed_dim, 1)
        self.upsample = nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table (1, 1 + h·w, C) for a grid of patches."""
        if grid == (self.grid, self.grid):
            return self.pos_embed
        table = (
            self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, self.grid, self.grid)
        )  # (1, C, h, w)
        table = F.interpolate(table, grid, mode="bilinear", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def features(self, images: Tensor) -> Tensor:
        """At twice the grid of patches."""
        x = self.patch_embed(images)  # (B, C, h, w)
        grid = x.shape[-2], x.shape[-1]
        x = torch.cat(
            [self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1
        )  # (B, 1 + N, C)
        x = self.blocks(x + self.positions(grid))
        patches, first = x[:, 1:], x[:, :1]
        x = F.gelu(self.readout(torch.cat([patches, first.expand_as(patches)], dim=2)))
        out: Tensor = self.upsample(self.project(x.transpose(1, 2).reshape(len(x), -1, *grid)))
        return out

    def fetch(self, source: str) -> dict[str, Tensor]:
        """A file, or "timm:NAME", which timm fetches from the hub."""
        if not source.startswith("timm:"):
            return super().fetch(source)
        name = source.removeprefix("timm:")
        if not timm.is_model(name.partition(".")[0]):
            raise SettingError(
                f"timm has no model called {name!r}; give a name such as"
                " timm:vit_large_patch16_384.augreg_in21k_ft_in1k"
            )
        try:
            state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
        except (RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(
                f"timm's weights {name} could not be fetched; check name and network, or give a"
                " local file of them instead"
            ) from error
        return state

    def own_names(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Timm's names, without the blocks behind ours, final norm and classifier."""
        kept = {
            name.replace("patch_embed.proj.", "patch_embed."): tensor
            for name, tensor in state.items()
            if not name.startswith(("norm.", "head.", "fc_norm."))
        }
        return {
            name: tensor
            for name, tensor in kept.items()
            if not (name.startswith("blocks.") and int(name.split(".")[1]) >= len(self.blocks))
        }

    def trained_before(self, name: str) -> bool:
        """All but what follows the blocks."""
        return not name.startswith(("readout.", "project.", "upsample."))
