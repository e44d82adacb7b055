"""Mask losses on resized logits.

Targets are made by comparison when needed; label maps stay integer maps everywhere else.
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

FocalOver = Literal["labelled", "all"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0 where there are none.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), indices of the K classes or 255.
    """
    # The mean of PyTorch divides by 0 where every pixel is ignored.
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def one_hot(labels: Tensor, classes: int, first: int = 0) -> Tensor:
    """The masks (B, K, H, W) bool of K classes from the index `first` on.

    Args:
        labels: (B, H, W); 255 belongs to no class.
        classes: K.
        first: Index of the first class.
    """
    ids = torch.arange(first, first + classes, device=labels.device)
    return labels.unsqueeze(1) == ids.view(1, -1, 1, 1)


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    over: FocalOver = "all",
) -> Tensor:
    """Focal loss of independent sigmoids, averaged over pixels, summed over classes and images.

    Lin et al. 2017, arXiv 1708.02002, eq. 5.

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
    entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    loss = entropy * missed**gamma * (alpha * y + (1 - alpha) * (1 - y))
    if weights is None:
        return loss.mean(dim=(2, 3)).sum()
    if over == "all":
        return (loss * weights).mean(dim=(2, 3)).sum()
    return ((loss * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1)).sum()


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss with +1 smoothing, summed over the (image, class) pairs that have a pixel.

    Milletari et al. 2016, arXiv 1606.04797, with a linear denominator.

    Args:
        logits: (B, K, H, W).
        targets: (B, K, H, W) bool.
        weights: (B, 1, H, W) of 0 or 1; pixels of weight 0 are left out. All pixels count if None.
    """
    p, y = logits.sigmoid(), targets.to(logits.dtype)
    if weights is not None:
        p, y = p * weights, y * weights
    overlap, areas, positives = (part.sum(dim=(2, 3)) for part in (p * y, p, y))  # (B, K)
    # Classes that an image does not show have no area to overlap: they do not count.
    loss = 1 - (2 * overlap + 1) / (areas + positives + 1)
    return (loss * (positives > 0)).sum()


@dataclass(frozen=True)
class MaskLoss:
    """Focal and dice loss, weighted (ZegCLIP eq. 9).

    Attributes:
        mask_weight: Weight of the focal loss.
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of positives in the focal loss.
        ignored_as: What a pixel with the ignore label is: left out ("ignore"), or "negative" for
            every class.
        focal_over: What the focal loss is averaged over (`sigmoid_focal_loss`).
        classes_at_once: Classes whose maps are held at image size at a time.
    """

    mask_weight: float = 1.0
    dice_weight: float = 1.0
    focal_alpha: float = 0.25
    ignored_as: Literal["ignore", "negative"] = "ignore"
    focal_over: FocalOver = "all"
    classes_at_once: int = 32

    def __call__(
        self,
        maps: Sequence[tuple[Tensor, float]],
        labels: Tensor,
        resize: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Terms `mask` (focal) and `dice`, weighted, summed over the maps.

        Args:
            maps: Logits (B, K, h, w), each with the weight of its loss.
            labels: (B, H, W), indices of the K classes or 255.
            resize: Takes maps (B, k, h, w) to image size (B, k, H, W).
        """
        terms = [[weight * term for term in self.terms(m, labels, resize)] for m, weight in maps]
        focal, dice = (torch.stack(parts).sum() for parts in zip(*terms, strict=True))
        return {"mask": self.mask_weight * focal, "dice": self.dice_weight * dice}

    def terms(
        self, logits: Tensor, labels: Tensor, resize: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Focal and dice loss of one set of maps, unweighted.

        Both are divided by the number of (image, class) pairs present, at least 1, averaged over
        processes.
        """
        weights = None
        if self.ignored_as == "ignore":
            weights = (labels != IGNORE).unsqueeze(1).float()

        def of_part(part: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
            targets, maps = one_hot(labels, part.shape[1], first), resize(part)
            focal = sigmoid_focal_loss(
                maps, targets, weights, alpha=self.focal_alpha, over=self.focal_over
            )
            return focal, dice_loss(maps, targets, weights), targets.flatten(2).any(dim=2).sum()

        parts = torch.split(logits, self.classes_at_once, dim=1)
        if len(parts) == 1:
            sums = [of_part(logits, 0)]
        else:
            # The maps of a part are computed again for the gradient instead of kept: at image size
            # those of a large vocabulary would not fit in memory.
            starts = range(0, logits.shape[1], self.classes_at_once)
            sums = [
                checkpoint(of_part, part, first, use_reentrant=False)
                for part, first in zip(parts, starts, strict=True)
            ]
        focal, dice, present = (torch.stack(terms).sum() for terms in zip(*sums, strict=True))
        present = mean_over_ranks(present).clamp(min=1)
        return focal / present, dice / present


def calibrated(scores: Tensor, seen: Sequence[int] | None, calibration: float) -> Tensor:
    """Scores with those of seen classes reduced, where there are unseen classes beside them.

    Calibrated stacking (Chao et al. 2016, arXiv 1605.04253).

    Args:
        scores: (B, K, …); left as they are.
        seen: Indices of the seen classes.
        calibration: γ.
    """
    if seen is None or len(seen) == scores.shape[1]:
        return scores
    # A new tensor, because callers may hand over views of what they keep.
    reduction = scores.new_zeros(scores.shape[1])
    reduction[list(seen)] = calibration
    return scores - reduction.view(1, -1, *[1] * (scores.ndim - 2))


def mean_over_ranks(count: Tensor) -> Tensor:
    """A number averaged over the processes of a distributed run, float32."""
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count
