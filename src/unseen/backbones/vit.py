"""ViTs of timm."""

from __future__ import annotations

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.dense import DenseBackbone
from unseen.errors import CheckpointError, SettingError


class ReassembledViT(DenseBackbone):
    """Features at an eighth of the size from one block of a ViT: what of SAZS's "vitl16_384" reaches the output.

    Patches and class token after the last block are joined (read-out "project"), projected to D channels and brought to twice the grid. The
    defaults are the first 12 of the 24 blocks of `vit_large_patch16_384`; blocks behind them, the decoder and three more read-outs, which the
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
        self, embed_dim: int, *, width: int = 1024, num_layers: int = 12, num_heads: int = 16, hidden_dim: int = 4096, grid: int = 24, patch_size: int = 16
    ) -> None:
        super().__init__((0.5,) * 3, (0.5,) * 3, whole=patch_size)
        if width % num_heads:
            raise SettingError(f"{num_heads} heads do not divide the ViT's {width} channels; give a divisor in vit_sizes")
        vit = VisionTransformer(
            img_size=grid * patch_size, patch_size=patch_size, embed_dim=width, depth=num_layers, num_heads=num_heads, mlp_ratio=hidden_dim / width,
            num_classes=0, global_pool="",
        )  # fmt: skip
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
        table = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, self.grid, self.grid)  # (1, C, h, w)
        table = F.interpolate(table, grid, mode="bilinear", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def features(self, images: Tensor) -> Tensor:
        """At twice the grid of patches."""
        x = self.patch_embed(images)  # (B, C, h, w)
        grid = x.shape[-2], x.shape[-1]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)  # (B, 1 + N, C)
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
            raise SettingError(f"timm has no model called {name!r}; give a name such as timm:vit_large_patch16_384.augreg_in21k_ft_in1k")
        try:
            state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
        except (RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(f"timm's weights {name} could not be fetched; check name and network, or give a local file of them instead") from error
        return state

    def own_names(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Timm's names, without the blocks behind ours, final norm and classifier."""
        kept = {
            name.replace("patch_embed.proj.", "patch_embed."): tensor for name, tensor in state.items() if not name.startswith(("norm.", "head.", "fc_norm."))
        }
        return {name: tensor for name, tensor in kept.items() if not (name.startswith("blocks.") and int(name.split(".")[1]) >= len(self.blocks))}

    def trained_before(self, name: str) -> bool:
        """All but what follows the blocks."""
        return not name.startswith(("readout.", "project.", "upsample."))
