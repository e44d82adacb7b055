"""Vision transformers of timm: the keys of their attention, and dense features.

Keys of the last block's attention group an image's patches by object (Amir et al. 2021,
arXiv 2112.05814; Melas-Kyriazi et al. 2022, arXiv 2205.07839, use those of DINO's ViT-S/16). Any
plain ViT of timm has them, and any CLIP of `unseen.backbones.clip`. Dense features are those of
SAZS's ViT-L.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import load_matching, read_state_dict
from unseen.backbones.clip.loading import load_clip
from unseen.backbones.clip.tower import CLIP
from unseen.backbones.dense import DenseBackbone
from unseen.backbones.fingerprint import network_fingerprint
from unseen.backbones.hub import log_first_warning_only
from unseen.backbones.timm_weights import create_from_timm
from unseen.errors import DataError, SettingError
from unseen.modules.positions import resize_as_dino

TIMM = "timm:"
"""The prefix of timm's networks; other sources are CLIPs."""
EXAMPLE = "timm:vit_small_patch16_224.dino"


MOST_PATCHES = 10_000
"""Of an image whose keys are compared: time and memory grow with their square."""


class KeyFeatures(nn.Module):
    """The keys of a ViT's last block for every patch, with heads concatenated. Frozen.

    Class and register tokens are left out.

    Args:
        network: A CLIP or a ViT of timm.
        keys: Computes keys (B, N, C) of normalised images (B, 3, H, W), whose sides are multiples
            of the patch size.
        mean: Subtracted from RGB in 0..1.
        std: The channels are divided by it afterwards.
        patch_size: Side of a patch in pixels.
        source: Where the weights came from.
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
        # Cloned: a buffer must not share memory with a tensor of the caller.
        self.register_buffer("mean", mean.detach().float().view(3, 1, 1).clone(), persistent=False)
        self.register_buffer("std", std.detach().float().view(3, 1, 1).clone(), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def fingerprint(self) -> str:
        """A hash of every tensor of the network, and of mean and std."""
        return network_fingerprint(self.network, self.mean, self.std)

    def train(self, mode: bool = True) -> KeyFeatures:
        """Frozen: it stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Keys (B, N, C), row-major over ⌊H/P⌋ by ⌊W/P⌋ patches.

        Images keep their size; incomplete patches at the bottom and right are cropped.

        Args:
            images: (B, 3, H, W), uint8, or RGB in 0..1.

        Raises:
            DataError: Images smaller than a patch, or of more than `MOST_PATCHES`.
        """
        h, w = (side // self.patch_size * self.patch_size for side in images.shape[-2:])
        patches = h * w // self.patch_size**2
        if patches > MOST_PATCHES:
            raise DataError(
                f"the image is {images.shape[-1]}x{images.shape[-2]} pixels, {patches:,} patches of"
                f" {self.patch_size}, and at most {MOST_PATCHES:,} are compared with each other;"
                " make it smaller"
            )
        if min(h, w) == 0:
            raise DataError(
                f"the image is {images.shape[-1]}x{images.shape[-2]} pixels, smaller than one"
                f" patch of {self.patch_size}; enlarge it"
            )
        images = images[..., :h, :w]
        if images.dtype == torch.uint8:
            images = images / 255
        return self.keys((images - self.mean) / self.std)


def load_keys(source: str) -> KeyFeatures:
    """Key features from a source.

    Args:
        source: `timm:NAME`, weights downloaded once and cached by huggingface_hub
            (timm:vit_small_patch16_224.dino); `timm:NAME@FILE`, weights from a .safetensors or .pth
            file; `timm:NAME@random`, for trials; or a CLIP as
            `unseen.backbones.clip.load_clip` takes it.

    Raises:
        SettingError: No such network, or one that is not a plain ViT.
        CheckpointError: Weights that cannot be read or downloaded, or are another network's.
    """
    if source.startswith(TIMM):
        return _timm_keys(source)
    return clip_keys(load_clip(source))


def clip_keys(clip: CLIP) -> KeyFeatures:
    """The keys of a CLIP's image tower."""
    # The tower normalises images itself: mean 0 and standard deviation 1 leave them as they are.
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
    # The last block is run up to its keys only; 1: leaves out the class token.
    x = clip.blocks(clip.embed(images), stop=-1)[:, 1:]
    block = clip.visual.transformer.resblocks[-1]
    # The joint projection stacks the rows of queries, keys and values: the second third is wanted.
    weight, bias = (
        tensor.chunk(3)[1] for tensor in (block.attn.in_proj_weight, block.attn.in_proj_bias)
    )
    return F.linear(block.ln_1(x), weight, bias)


def _timm_keys(source: str) -> KeyFeatures:
    name, _, file = source.removeprefix(TIMM).partition("@")
    # A file or "random" replaces the pretrained weights, so these are not even downloaded.
    network = _create_plain_vit(name, pretrained=not file)
    if file and file != "random":
        # A classifier's file also holds a head, which this network lacks.
        state, expected = read_state_dict(Path(file)), network.state_dict()
        load_matching(
            network,
            {key: tensor for key, tensor in state.items() if key in expected},
            file,
            name=name,
            remedy="give its own file, in timm's names",
        )
    config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    return KeyFeatures(
        network,
        partial(_keys_of_timm, network),
        torch.tensor(config["mean"]),
        torch.tensor(config["std"]),
        network.patch_embed.patch_size[0],
        source,
    )


def _create_plain_vit(name: str, *, pretrained: bool) -> VisionTransformer:
    """One of timm's ViTs whose last block has keys.

    Raises:
        SettingError: timm has no such network or weights, or it is not a plain ViT.
        CheckpointError: The weights could not be downloaded.
    """
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        similar = [f"{TIMM}{model}" for model in timm.list_models(f"*{architecture[:12]}*")[:3]]
        raise SettingError(
            f"timm has no network called {name!r}; choose one such as"
            f" {', '.join(similar or [EXAMPLE])}"
        )
    not_plain = (
        f"{name} is not a plain ViT, whose last block has keys; choose one such as {EXAMPLE}"
    )
    create = create_from_timm if pretrained else timm.create_model
    try:
        with log_first_warning_only():
            network = create(name, num_classes=0, dynamic_img_size=True)
    except TypeError as error:  # other networks take no `dynamic_img_size`
        raise SettingError(not_plain) from error
    except RuntimeError as error:
        raise SettingError(
            f"timm has no weights called {name!r} ({str(error).splitlines()[0]}); give a file"
            " of weights: timm:NAME@FILE"
        ) from error
    if not isinstance(network, VisionTransformer):
        raise SettingError(not_plain)
    # Some variants attend without a joint projection of queries, keys and values.
    attention = getattr(network.blocks[-1], "attn", None)
    if not isinstance(getattr(attention, "qkv", None), nn.Linear):
        raise SettingError(not_plain)
    return network


def _keys_of_timm(network: VisionTransformer, images: Tensor) -> Tensor:
    """Keys (B, N, C) of normalised images; nothing else of the last block is computed."""
    last: Any = network.blocks[-1]
    x = network.norm_pre(timm_tokens(network, images))
    for block in network.blocks[:-1]:
        x = block(x)
    # The rows of the joint projection are those of queries, keys and values, in this order.
    qkv = last.attn.qkv
    bias = None
    if qkv.bias is not None:
        bias = qkv.bias.chunk(3)[1]
    patches = x[:, network.num_prefix_tokens :]
    return F.linear(last.norm1(patches), qkv.weight.chunk(3)[1], bias)


def timm_tokens(network: VisionTransformer, images: Tensor) -> Tensor:
    """The tokens (B, T, C) of normalised images, with positions; class and register tokens first.

    timm itself resizes positions with anti-aliasing; DINO, whose keys are the usual ones, does not.
    """
    x = network.patch_embed(images)  # (B, h, w, C)
    batch, grid = len(x), (x.shape[1], x.shape[2])
    x = x.flatten(1, 2)
    first = [
        token.expand(batch, -1, -1)
        for token in (network.cls_token, getattr(network, "reg_token", None))
        if token is not None
    ]
    if network.pos_embed is None:
        return torch.cat([*first, x], dim=1)
    # Of the tables with fewer rows than tokens none is of the class and register tokens.
    native: tuple[int, int] = network.patch_embed.grid_size
    ahead = network.pos_embed.shape[1] - native[0] * native[1]
    table = network.pos_embed[:, ahead:]
    if grid != tuple(native):
        patches = table.transpose(1, 2).reshape(1, -1, *native)  # (1, C, h, w)
        table = resize_as_dino(patches, grid).flatten(2).transpose(1, 2)
    if ahead:
        table = torch.cat([network.pos_embed[:, :ahead], table], dim=1)
        return torch.cat([*first, x], dim=1) + table
    return torch.cat([*first, x + table], dim=1)


@dataclass(frozen=True)
class ViTSizes:
    """The sizes of a `ReassembledViT`; by default the first 12 blocks of `vit_large_patch16_384`.

    Attributes:
        width: Channels C of the tokens.
        num_layers: Blocks.
        num_heads: Attention heads.
        hidden_dim: Width of the blocks' MLPs.
        grid: Positions on a side of the position table, which is resized bilinearly.
        patch_size: Side of a patch in pixels.

    Raises:
        SettingError: The heads do not divide the channels.
    """

    width: int = 1024
    num_layers: int = 12
    num_heads: int = 16
    hidden_dim: int = 4096
    grid: int = 24
    patch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the channels."""
        if self.width % self.num_heads:
            raise SettingError(
                f"{self.num_heads} heads do not divide the ViT's {self.width} channels; give a"
                " divisor in vit_sizes"
            )


class ReassembledViT(DenseBackbone):
    """Features at an eighth of the image's size from one block of a ViT (SAZS's "vitl16_384").

    Patches and class token after the last block are joined (read-out "project"), projected to D
    channels and upsampled to twice the grid. Blocks 13 to 24 of `vit_large_patch16_384`, the
    decoder and three more read-outs, whose results the released code does not use, are left out.

    Args:
        embed_dim: D.
        sizes: Of the ViT.
    """

    def __init__(self, embed_dim: int, sizes: ViTSizes = ViTSizes()) -> None:
        # timm's "augreg" ViTs were trained with mean and standard deviation 0.5, not ImageNet's.
        super().__init__((0.5,) * 3, (0.5,) * 3, pad_multiple=sizes.patch_size)
        vit = VisionTransformer(
            img_size=sizes.grid * sizes.patch_size,
            patch_size=sizes.patch_size,
            embed_dim=sizes.width,
            depth=sizes.num_layers,
            num_heads=sizes.num_heads,
            mlp_ratio=sizes.hidden_dim / sizes.width,
            num_classes=0,
            global_pool="",
        )
        # Only the parts that are used become submodules: timm's final norm would be neither trained
        # nor in a file.
        self.grid, width = sizes.grid, sizes.width
        assert vit.cls_token is not None
        assert vit.pos_embed is not None
        self.cls_token: nn.Parameter = vit.cls_token
        self.pos_embed: nn.Parameter = vit.pos_embed
        self.patch_embed, self.blocks = vit.patch_embed.proj, vit.blocks
        # Patch and class token enter the read-out side by side, hence twice the width.
        self.readout = nn.Linear(2 * width, width)
        self.project = nn.Conv2d(width, embed_dim, 1)
        self.upsample = nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table (1, 1 + h·w, C) for a grid of patches."""
        if grid == (self.grid, self.grid):
            return self.pos_embed
        # The class token's position has no place in the grid.
        table = self.pos_embed[:, 1:].transpose(1, 2)
        table = table.reshape(1, -1, self.grid, self.grid)  # (1, C, h, w)
        table = F.interpolate(table, grid, mode="bilinear", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D, 2·h, 2·w) for a grid of (h, w) patches."""
        x = self.patch_embed(images)  # (B, C, h, w)
        batch, grid = len(x), (x.shape[-2], x.shape[-1])
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1)  # (B, 1 + N, C)
        tokens = self.blocks(tokens + self.positions(grid))
        patches, class_token = tokens[:, 1:], tokens[:, :1]
        # Read-out "project": every patch is projected together with the class token.
        joined = torch.cat([patches, class_token.expand_as(patches)], dim=2)
        x = F.gelu(self.readout(joined)).transpose(1, 2).reshape(batch, -1, *grid)  # (B, C, h, w)
        out: Tensor = self.upsample(self.project(x))
        return out

    def fetch(self, source: str) -> dict[str, Tensor]:
        """A file, or "timm:NAME", which timm downloads from the hub."""
        if not source.startswith(TIMM):
            return super().fetch(source)
        name = source.removeprefix(TIMM)
        if not timm.is_model(name.partition(".")[0]):
            raise SettingError(
                f"timm has no model called {name!r}; give a name such as"
                " timm:vit_large_patch16_384.augreg_in21k_ft_in1k"
            )
        try:
            state: dict[str, Tensor] = create_from_timm(name).state_dict()
        except (RuntimeError, ValueError) as error:
            raise SettingError(
                f"timm has no weights called {name!r} ({str(error).splitlines()[0]}); give another"
                " tag, or a local file of weights"
            ) from error
        return state

    def rename(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Timm's names, without later blocks, final norm and classifier."""
        # A file holds a whole classifier: what comes after the blocks used here is left out by
        # name, and any other tensor too many is an error.
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

    def is_pretrained(self, name: str) -> bool:
        """Everything but the layers after the blocks."""
        return not name.startswith(("readout.", "project.", "upsample."))
