"""Base of ZegCLIP and of the methods built on it.

Visual prompts adapt a frozen image tower, a decoder makes a map of every class, and a class's
probability is the sigmoid of its map, trained by a focal and a dice loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import ClipSegmenter, TowerQuirks
from unseen.modules.losses import MaskLoss, calibrated
from unseen.modules.prompts import PromptSizes, make_prompts
from unseen.modules.starts import AlignedStart
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


class PromptedSegmenter(AlignedStart, ClipSegmenter):
    """Base of the methods with visual prompts and mask losses.

    Args:
        clip: The frozen tower.
        prompts: Sizes of the visual prompts.
        mask_loss: Of the maps.
        calibration: γ, subtracted from the probabilities of seen classes when not all classes were
            trained on.
        templates: As for `TextSegmenter`.
        quirks: What a released code does otherwise.
    """

    classwise: ClassVar[bool] = True

    def __init__(
        self,
        clip: CLIP,
        prompts: PromptSizes,
        mask_loss: MaskLoss,
        *,
        calibration: float,
        templates: Templated,
        quirks: TowerQuirks,
    ) -> None:
        super().__init__(clip, templates=templates, quirks=quirks)
        self.mask_loss, self.calibration = mask_loss, calibration
        self.prompts, self.prompt_norm = make_prompts(clip, prompts)

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
