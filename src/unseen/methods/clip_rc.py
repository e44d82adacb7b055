"""CLIP-RC: regional clues for zero-shot segmentation on a frozen CLIP (Zhang et al., CVPR 2024, pp.
3270-3280).

ZegCLIP with the image seen in parts: beside the patches run R region tokens on a lattice, which
see their own patches alone (the *region-level bridge*). A word asks once a region, with [(Γ_j + g)
⊙ t ; t]; queries and patches then attend to each other in two parallel stacks, and a word's map is
the dot product of its queries, averaged over regions, with the patches. While training, a *recovery
decoder* must give back what queries and patches were before.

The released code differs from sound practice in a few places. Each is a named option; the defaults
are what we found right, `PUBLISHED` holds the released values. `docs/methods/clip_rc.md` lists them
with numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip import CLIP, KEPT, Resize
from unseen.errors import SettingError
from unseen.modules.attention import DecoderLayer, check_heads
from unseen.modules.losses import FocalOver, MaskLoss, Void, calibrated
from unseen.modules.prompts import make_prompts
from unseen.modules.queries import relationship
from unseen.modules.regions import region_mask, regions_of
from unseen.segmenter import ClipSegmenter, Prediction, TextFeatures


class RegionLevelBridge(nn.Module):
    """R region tokens and the mask that binds each to its patches.

    Args:
        clip: Gives the tokens their first value, class embedding plus its position.
        lattice: Regions down and across.
        trainable: Whether the tokens learn.
        whole_cells: `regions_of`.
    """

    def __init__(
        self, clip: CLIP, lattice: tuple[int, int], *, trainable: bool, whole_cells: bool
    ) -> None:
        super().__init__()
        self.lattice, self.count, self.whole_cells = lattice, lattice[0] * lattice[1], whole_cells
        first = clip.visual.class_embedding + clip.visual.positional_embedding[0]
        self.tokens = nn.Parameter(first.detach().repeat(self.count, 1), requires_grad=trainable)
        self._masks: dict[tuple[object, ...], Tensor] = {}

    def mask(self, grid: tuple[int, int], front: int, device: torch.device) -> Tensor:
        """The attention mask (T, T) of tokens [front | patches | regions] (`region_mask`)."""
        key = (grid, front, device)
        if key not in self._masks:
            if len(self._masks) >= KEPT:
                self._masks.pop(next(iter(self._masks)))
            self._masks[key] = region_mask(
                front, regions_of(grid, self.lattice, whole_cells=self.whole_cells), self.count
            ).to(device)
        return self._masks[key]


class TwoWayDecoder(nn.Module):
    """Two stacks of decoder layers side by side: queries attend to patches and patches to queries,
    both to the other's previous state.
    """

    def __init__(
        self,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        *,
        identical: bool = False,
    ) -> None:
        super().__init__()
        self.q, self.v = (
            nn.ModuleList(
                DecoderLayer(embed_dim, num_heads, hidden_dim, dropout) for _ in range(num_layers)
            )
            for _ in range(2)
        )
        for stack in (self.q, self.v) if identical else ():
            for layer in stack[1:]:
                layer.load_state_dict(stack[0].state_dict())

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, R·K, D) and patches (B, N, D) after all layers."""
        for of_q, of_v in zip(self.q, self.v, strict=True):
            q, v = of_q(q, v), of_v(v, q)
        return q, v


class RecoveryDecoder(nn.Module):
    """Gives back descriptors and patches from what the decoder made of them; runs while training
    only.
    """

    def __init__(
        self, embed_dim: int, num_layers: int, num_heads: int, hidden_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.linear_q_in, self.linear_k_in = (
            nn.Linear(embed_dim, embed_dim),
            nn.Linear(embed_dim, embed_dim),
        )
        self.decoder = TwoWayDecoder(embed_dim, num_layers, num_heads, hidden_dim, dropout)
        self.linear_q_out, self.linear_k_out = (
            nn.Linear(embed_dim, 2 * embed_dim),
            nn.Linear(embed_dim, embed_dim),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Recovered descriptors (B, R·K, 2D) and patches (B, N, D)."""
        q, v = self.decoder(self.linear_q_in(q), self.linear_k_in(v))
        return self.linear_q_out(q), self.linear_k_out(v)


class CLIPRC(ClipSegmenter):
    """CLIP-RC.

    Args:
        clip: The frozen tower.
        num_prompts: P, visual prompts a block (10 on VOC, 100 on COCO-Stuff).
        prompt_depth: Blocks with prompts of their own; all by default, 1 for shallow prompts.
        lattice: Regions down and across (4 by 4 released), laid over any grid of patches.
        train_regions: Let the region tokens learn (the released code freezes them, by the name of
            the parameter).
        norm_regions: Send the region tokens through the trainable norm too (released: not).
        whole_cells: Where the lattice does not divide the grid, leave trailing patches without a
            region (released) instead of laying it evenly.
        decoder_layers: Layers of the two-way decoder.
        decoder_heads: Its heads.
        hidden_dim: Width of its feed-forward parts; 4 D by default.
        dropout: In decoders and prompts.
        scale: Of the dot products of queries and patches: "width", 1/√D, or "none" (released,
            although both are norms' outputs).
        recovery_layers: Layers of the recovery decoder.
        mask_weight: Weight of the focal loss (100 on VOC, 200 on COCO-Stuff).
        dice_weight: Weight of the dice loss (1 on VOC, 3 on COCO-Stuff).
        recovery_weight: Weight of the recovery losses (2 on VOC, 50 on COCO-Stuff); 0 leaves the
            recovery decoder out.
        focal_alpha: Weight of positives in the focal loss.
        calibration: γ, taken from the probability of words trained on when not all words were
            (released: 0.1, wired in).
        templates: Sentences the words are put in ("single" on VOC, "multi" on COCO-Stuff).
        normalization: Statistics of the images: CLIP's own, or ImageNet's as released.
        class_embedding_twice: Add CLIP's class embedding a second time (released: yes, by mistake).
        void: What a 255 pixel is to the losses: "ignore", or "negative" for every word (released).
        focal_over: What the focal loss is averaged over when void is ignored: "labelled" pixels, or
            "all".
        prompt_norm: A trainable norm before the tower's final one; released for deep prompts only
            (None).
        identical_layers: Start all layers of a decoder from equal values (released).
        resize: How the position table is resized ("bilinear" as released).
        train_grid: A grid the position table goes through first; released: the one of the 512-pixel
            crops.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "whole_cells": True,
        "scale": "none",
        "normalization": "imagenet",
        "class_embedding_twice": True,
        "void": "negative",
        "prompt_norm": None,
        "identical_layers": True,
        "resize": "bilinear",
        "train_grid": (32, 32),
    }

    def __init__(
        self,
        clip: CLIP,
        *,
        num_prompts: int = 10,
        prompt_depth: int | None = None,
        lattice: tuple[int, int] = (4, 4),
        train_regions: bool = False,
        norm_regions: bool = False,
        whole_cells: bool = False,
        decoder_layers: int = 3,
        decoder_heads: int = 8,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        scale: Literal["width", "none"] = "width",
        recovery_layers: int = 1,
        mask_weight: float = 100.0,
        dice_weight: float = 1.0,
        recovery_weight: float = 2.0,
        focal_alpha: float = 0.25,
        calibration: float = 0.1,
        templates: str = "single",
        normalization: Literal["clip", "imagenet"] = "clip",
        class_embedding_twice: bool = False,
        void: Void = "ignore",
        focal_over: FocalOver = "labelled",
        prompt_norm: bool | None = None,
        identical_layers: bool = False,
        resize: Resize = "bicubic",
        train_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(clip, templates=templates, normalization=normalization)
        check_heads(decoder_heads, clip.embed_dim)
        if len(lattice) != 2 or min(lattice) < 1:
            raise SettingError(
                f"lattice is {list(lattice)}; give the regions down and across, such as [4,4]"
            )
        width, hidden = clip.embed_dim, hidden_dim or 4 * clip.embed_dim
        self.scale = width**-0.5 if scale == "width" else 1.0
        self.calibration, self.recovery_weight, self.norm_regions = (
            calibration,
            recovery_weight,
            norm_regions,
        )
        self.class_embedding_twice, self.resize, self.train_grid = (
            class_embedding_twice,
            resize,
            tuple(train_grid) if train_grid is not None else None,
        )
        self.mask_loss = MaskLoss(mask_weight, dice_weight, focal_alpha, void, focal_over)
        self.prompts, self.prompt_norm = make_prompts(
            num_prompts,
            clip.width,
            clip.patch_size,
            clip.num_layers,
            depth=prompt_depth,
            dropout=dropout,
            norm=prompt_norm,
        )
        self.bridge = RegionLevelBridge(
            clip, (lattice[0], lattice[1]), trainable=train_regions, whole_cells=whole_cells
        )
        self.q_proj, self.lateral_proj = nn.Linear(2 * width, width), nn.Linear(3 * width, width)
        self.decoder = TwoWayDecoder(
            width, decoder_layers, decoder_heads, hidden, dropout, identical=identical_layers
        )
        self.recovery = (
            RecoveryDecoder(width, recovery_layers, decoder_heads, hidden, dropout)
            if recovery_weight
            else None
        )

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors of class token (B, D), patches (B, N, D) and regions (B, R, D), of images
        (B, 3, H, W) in 0..1.
        """
        grid, count = self.clip.grid(images), self.bridge.count
        x = self.clip.embed(
            images,
            resize=self.resize,
            via=self.train_grid,  # type: ignore[arg-type]
            twice=self.class_embedding_twice,
        )
        regions = self.clip.visual.ln_pre(self.bridge.tokens).expand(len(x), -1, -1)

        def block(layer: int, x: Tensor) -> Tensor:
            front = x.shape[1] - grid[0] * grid[1] - count
            return self.clip.block(layer, x, self.bridge.mask(grid, front, x.device))

        x = self.prompts.through(
            block, self.clip.num_layers, torch.cat([x, regions], dim=1)
        )  # (B, 1 + N + R, C)
        normed = x.shape[1] if self.norm_regions else x.shape[1] - count
        x = torch.cat([self.prompt_norm(x[:, :normed]), x[:, normed:]], dim=1)
        x = F.normalize(self.clip.finish(x), dim=-1)
        return x[:, 0], x[:, 1:-count], x[:, -count:]

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1; what the recovery loss needs
        as extras while training.
        """
        h, w = self.clip.grid(images)
        picture, patches, regions = self.encode_image(images)
        asked = relationship(
            regions + picture.unsqueeze(1), text.pooled
        )  # (B, R·K, 2D), region by region
        lattice = regions.transpose(1, 2).reshape(
            len(regions), -1, *self.bridge.lattice
        )  # (B, D, r, r)
        around = (
            F.interpolate(lattice, (h, w), mode="bilinear", align_corners=False)
            .flatten(2)
            .transpose(1, 2)
        )  # (B, N, D)
        q = self.q_proj(asked)
        v = self.lateral_proj(
            torch.cat([around, picture.unsqueeze(1).expand_as(patches), patches], dim=-1)
        )
        q, v = self.decoder(q, v)
        # The mean over regions of dot products with the patches is the dot product with the mean.
        mean = q.reshape(len(q), self.bridge.count, -1, q.shape[-1]).mean(dim=1)  # (B, K, D)
        with torch.autocast(
            v.device.type, enabled=False
        ):  # unscaled products are too large for bf16
            logits = (self.scale * mean.float() @ v.float().transpose(1, 2)).unflatten(2, (h, w))
        extras: dict[str, Tensor] = {}
        if self.training and self.recovery is not None:
            again_q, again_v = self.recovery(q, v)
            extras = {
                "descriptors": asked.detach(),
                "patches": patches.detach(),
                "recovered_descriptors": again_q,
                "recovered_patches": again_v,
            }
        return Prediction(logits, (h * self.clip.patch_size, w * self.clip.patch_size), extras)

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """Probabilities, those of words trained on lowered by γ."""
        return calibrated(logits.sigmoid(), seen, self.calibration)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Terms `mask` and `dice` (as ZegCLIP's), `recovery_q` and `recovery_k` (mean absolute
        differences), weighted, and their sum `total`.
        """
        size = (labels.shape[-2], labels.shape[-1])
        losses = self.mask_loss(
            prediction.logits,
            labels,
            lambda maps: Prediction(maps, prediction.covers).resized(size),
        )
        if prediction.extras:
            extras = prediction.extras
            losses["recovery_q"] = self.recovery_weight * F.l1_loss(
                extras["recovered_descriptors"].float(), extras["descriptors"].float()
            )
            losses["recovery_k"] = self.recovery_weight * F.l1_loss(
                extras["recovered_patches"].float(), extras["patches"].float()
            )
        return {**losses, "total": torch.stack(list(losses.values())).sum()}
