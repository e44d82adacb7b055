"""Mask losses on resized logits. Targets are made by comparison when needed; label maps stay
integer maps everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unseen.labels import IGNORE

Void = Literal["ignore", "negative"]
FocalOver = Literal["labelled", "all"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of maps (B, K, H, W) and labels (B, H, W), mean over the labelled pixels; 0
    where there are none.
    """
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def one_hot(labels: Tensor, classes: int, first: int = 0) -> Tensor:
    """(B, K, H, W) bool of labels (B, H, W), for K classes from the id `first` on; 255 belongs to
    no class.
    """
    return labels.unsqueeze(1) == torch.arange(first, first + classes, device=labels.device).view(
        1, -1, 1, 1
    )


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    over: FocalOver = "all",
) -> Tensor:
    """Focal loss of independent sigmoids, averaged over pixels, summed over classes and images
    (Lin et al. 2017, eq. 5).

    Args:
        logits: (B, K, H, W).
        targets: (B, K, H, W) bool.
        weights: (B, 1, H, W) of 0 or 1; pixels of weight 0 are left out. All pixels count if None.
        alpha: Weight of positives; negatives weigh 1 - alpha.
        gamma: Focusing exponent.
        over: What the sum is divided by: the number of "all" pixels, or of those with weight 1, the
            "labelled" ones.
    """
    y = targets.to(logits.dtype)
    p = logits.sigmoid()
    missed = p + y - 2 * p * y  # 1 - p_t
    loss = (
        F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        * missed**gamma
        * (alpha * y + (1 - alpha) * (1 - y))
    )
    if weights is None:
        return loss.mean(dim=(2, 3)).sum()
    if over == "all":
        return (loss * weights).mean(dim=(2, 3)).sum()
    return ((loss * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1)).sum()


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss with +1 smoothing, summed over the (image, class) pairs that have a pixel
    (Milletari et al. 2016, linear denominator).

    Args:
        logits: (B, K, H, W).
        targets: (B, K, H, W) bool.
        weights: (B, 1, H, W) of 0 or 1; pixels of weight 0 are left out. All pixels count if None.
    """
    p, y = logits.sigmoid(), targets.to(logits.dtype)
    if weights is not None:
        p, y = p * weights, y * weights
    overlap, areas, positives = (
        (p * y).sum(dim=(2, 3)),
        p.sum(dim=(2, 3)),
        y.sum(dim=(2, 3)),
    )  # (B, K)
    loss = 1 - (2 * overlap + 1) / (areas + positives + 1)
    return (loss * (positives > 0)).sum()


def focal_and_dice(
    logits: Tensor,
    labels: Tensor,
    resize: Callable[[Tensor], Tensor],
    *,
    alpha: float = 0.25,
    void: Void = "ignore",
    focal_over: FocalOver = "all",
    words_at_once: int = 32,
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of score maps, each divided by the number of (image, class) pairs
    present, at least 1 (mean over processes).

    Large vocabularies are gone through in parts, whose maps at image size are computed again for
    the gradient instead of kept.

    Args:
        logits: (B, K, h, w), at the size of the score maps.
        labels: (B, H, W), ids of the K words or 255.
        resize: Takes maps (B, k, h, w) to image size (B, k, H, W).
        alpha: Weight of positives in the focal loss.
        void: What a 255 pixel is: left out ("ignore"), or "negative" for every word.
        focal_over: What the focal loss is averaged over when void is left out
            (`sigmoid_focal_loss`).
        words_at_once: Words whose maps are at image size at a time.
    """
    counted = (labels != IGNORE).unsqueeze(1).float() if void == "ignore" else None

    def of_some(part: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        targets, maps = one_hot(labels, part.shape[1], first), resize(part)
        focal = sigmoid_focal_loss(maps, targets, counted, alpha=alpha, over=focal_over)
        return focal, dice_loss(maps, targets, counted), targets.flatten(2).any(dim=2).sum()

    parts = torch.split(logits, words_at_once, dim=1)
    again = len(parts) > 1
    found = [
        (
            checkpoint(of_some, part, i * words_at_once, use_reentrant=False)
            if again
            else of_some(part, 0)
        )
        for i, part in enumerate(parts)
    ]
    focal, dice, present = (torch.stack(terms).sum() for terms in zip(*found, strict=True))
    present = mean_over_ranks(present).clamp(min=1)
    return focal / present, dice / present


@dataclass(frozen=True)
class MaskLoss:
    """Focal and dice loss, weighted (ZegCLIP eq. 9).

    Attributes:
        mask_weight: Weight of the focal loss.
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of positives in the focal loss.
        void: `focal_and_dice`.
        focal_over: `focal_and_dice`.
    """

    mask_weight: float
    dice_weight: float
    focal_alpha: float
    void: Void
    focal_over: FocalOver

    def __call__(
        self, logits: Tensor, labels: Tensor, resize: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Terms `mask` and `dice` of maps (B, K, h, w) (`focal_and_dice`)."""
        focal, dice = focal_and_dice(
            logits,
            labels,
            resize,
            alpha=self.focal_alpha,
            void=self.void,
            focal_over=self.focal_over,
        )
        return {"mask": self.mask_weight * focal, "dice": self.dice_weight * dice}


def calibrated(scores: Tensor, seen: Sequence[int] | None, calibration: float) -> Tensor:
    """Probabilities (B, K, …), those of the words trained on lowered by `calibration` where other
    words were not trained on.
    """
    if seen is not None and len(seen) < scores.shape[1]:
        scores[:, list(seen)] -= calibration
    return scores


def mean_over_ranks(count: Tensor) -> Tensor:
    """A number averaged over the processes of a distributed run; itself where there is one process.
    Returns float32.
    """
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count
