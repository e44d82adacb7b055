"""Base of ZegCLIP and of the methods built on it.

Visual prompts adapt a frozen image tower, a decoder makes a map of every class, and a class's
probability is the sigmoid of its map, trained by a focal and a dice loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import RELEASED_TOWER, ClipSegmenter, TowerQuirks
from unseen.modules.decoders import DecoderSizes, check_heads
from unseen.modules.losses import FocalOver, MaskLoss, calibrated
from unseen.modules.prompts import PromptSizes, make_prompts
from unseen.modules.starts import AlignedStart, Start
from unseen.segmenter import Prediction


@dataclass(frozen=True)
class PromptedQuirks(TowerQuirks):
    """What the released ZegCLIP and its successors do otherwise.

    Attributes:
        ignored_as: What a pixel with the ignore label is to the losses: left out ("ignore"), or a
            negative for every class ("negative", released).
        identical_layers: Start all layers of a decoder from equal values (released).
    """

    ignored_as: Literal["ignore", "negative"] = "ignore"
    identical_layers: bool = False


RELEASED_PROMPTED: dict[str, Any] = {
    **RELEASED_TOWER,
    "train_grid": (32, 32),
    "ignored_as": "negative",
    "identical_layers": True,
    "rim": "stretch",
}
"""The values of `PromptedQuirks` that the released codes share."""


@dataclass(frozen=True)
class MaskDecoderQuirks(PromptedQuirks):
    """What the released codes with a `MaskDecoder` do otherwise: ZegCLIP and Cascade-CLIP.

    Attributes:
        scale: Of the dot products that are the logits: "width", 1/√D; or "heads", the mean over the
            heads' scaled products, 1/(heads·√(D/heads)) (ZegCLIP eq. 8, released).
    """

    scale: Literal["heads", "width"] = "width"

    @classmethod
    def released(cls) -> MaskDecoderQuirks:
        """The released values."""
        return cls(**RELEASED_PROMPTED, scale="heads")


@dataclass(frozen=True)
class PromptedOptions:
    """Options of all methods with visual prompts and mask losses.

    Attributes:
        num_prompts: P, visual prompts a block.
        prompt_depth: Blocks with prompts of their own; all by default, 1 for shallow prompts.
        prompt_norm: A trainable norm before the tower's final one; for deep prompts only by
            default, as released.
        decoder_layers: Layers of a decoder, the last of which only makes the map.
        hidden_dim: Width of its feed-forward part; 4 D by default.
        dropout: In decoders and prompts.
        mask_weight: Weight of the focal loss (100 in the released configurations of VOC).
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of positives in the focal loss.
        focal_over: What the focal loss is averaged over where pixels are ignored: "labelled"
            pixels, or "all".
        calibration: γ, subtracted from the probabilities of seen classes when not all classes were
            trained on (released: 0.1).
        start: Where training starts: "aligned", at the comparison of patches with classes that
            needs no training; or "released", at random.
        templates: Prompts a class name is put in ("single" on VOC, "multi" on COCO-Stuff).
    """

    num_prompts: int = 10
    prompt_depth: int | None = None
    prompt_norm: bool | None = None
    decoder_layers: int = 3
    hidden_dim: int | None = None
    dropout: float = 0.1
    mask_weight: float = 100.0
    dice_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_over: FocalOver = "all"
    calibration: float = 0.0
    start: Start = "aligned"
    templates: Templated = "single"

    def decoder_sizes(self, width: int, heads: int) -> DecoderSizes:
        """Sizes of a decoder on features of a width.

        Raises:
            SettingError: The heads do not divide the width.
        """
        # The usual ratio of a transformer's feed-forward part.
        hidden_dim = self.hidden_dim or 4 * width
        check_heads(heads, width)
        return DecoderSizes(self.decoder_layers, heads, hidden_dim, self.dropout)


class PromptedSegmenter(AlignedStart, ClipSegmenter):
    """Base of the methods with visual prompts and mask losses.

    Args:
        clip: The frozen tower.
        options: Those that the methods share.
        quirks: What a released code does otherwise.
    """

    Options: ClassVar[type[PromptedOptions]] = PromptedOptions
    classwise: ClassVar[bool] = True

    def __init__(self, clip: CLIP, options: PromptedOptions, quirks: PromptedQuirks) -> None:
        super().__init__(clip, templates=options.templates, quirks=quirks)
        self.calibration = options.calibration
        self.mask_loss = MaskLoss(
            options.mask_weight,
            options.dice_weight,
            options.focal_alpha,
            quirks.ignored_as,
            options.focal_over,
        )
        sizes = PromptSizes(
            options.num_prompts, options.prompt_depth, options.prompt_norm, options.dropout
        )
        self.prompts, self.prompt_norm = make_prompts(clip, sizes)

    def encode_images(self, images: Tensor) -> tuple[Tensor, ...]:
        """Unit vectors of class tokens (B, D) and patches (B, N, D).

        Args:
            images: (B, 3, H, W), RGB in 0..1.
        """
        x = self.embed(images)
        x = self.prompts.forward_blocks(self.clip.block, self.clip.num_layers, x)  # (B, 1 + N, C)
        # Unit vectors, as CLIP compares them: the descriptor multiplies them with unit text
        # features.
        x = F.normalize(self.clip.finish(self.prompt_norm(x)), dim=-1)
        return x[:, 0], x[:, 1:]

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """Probabilities, those of seen classes reduced by γ (calibrated stacking, as released)."""
        return calibrated(logits.sigmoid(), seen, self.calibration)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `mask` (focal) and `dice`, and their sum `total`.

        Each is divided by the number of (image, class) pairs that are present, at least 1.
        """
        size = (labels.shape[-2], labels.shape[-1])
        losses = self.mask_loss(
            prediction.maps, labels, lambda logits: prediction.resized(size, logits)
        )
        return {**losses, "total": torch.stack(list(losses.values())).sum()}
