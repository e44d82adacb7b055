"""Mask losses on resized logits. Targets are made by comparison when needed; label maps stay integer maps everywhere else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, K, H, W) bool of labels (B, H, W); 255 belongs to no class."""
    return labels.unsqueeze(1) == torch.arange(classes, device=labels.device).view(1, -1, 1, 1)


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of independent sigmoids, averaged over pixels, summed over classes and pictures (Lin et al. 2017, eq. 5).

    Args:
        logits: (B, K, H, W).
        targets: (B, K, H, W) bool.
        weights: (B, 1, H, W) of 0 or 1; pixels of weight 0 are left out of sum and mean. All pixels count if None.
        alpha: Weight of positives; negatives weigh 1 - alpha.
        gamma: Focusing exponent.
    """
    y = targets.to(logits.dtype)
    p = logits.sigmoid()
    missed = p + y - 2 * p * y  # 1 - p_t
    loss = F.binary_cross_entropy_with_logits(logits, y, reduction="none") * missed**gamma * (alpha * y + (1 - alpha) * (1 - y))
    if weights is None:
        return loss.mean(dim=(2, 3)).sum()
    return ((loss * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1)).sum()


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss with +1 smoothing, summed over the (picture, class) pairs that have a pixel (Milletari et al. 2016, linear denominator).

    Args:
        logits: (B, K, H, W).
        targets: (B, K, H, W) bool.
        weights: (B, 1, H, W) of 0 or 1; pixels of weight 0 are left out. All pixels count if None.
    """
    p, y = logits.sigmoid(), targets.to(logits.dtype)
    if weights is not None:
        p, y = p * weights, y * weights
    overlap, areas, positives = (p * y).sum(dim=(2, 3)), p.sum(dim=(2, 3)), y.sum(dim=(2, 3))  # (B, K)
    loss = 1 - (2 * overlap + 1) / (areas + positives + 1)
    return (loss * (positives > 0)).sum()


def mean_over_ranks(count: Tensor) -> Tensor:
    """A number averaged over the processes of a distributed run; itself where there is one process. Returns float32."""
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count
