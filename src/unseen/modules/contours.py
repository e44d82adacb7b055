"""Bands along the contours of masks, and the loss that compares their two sides (EdgeCLIP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.labels import IGNORE

EPS = 1e-8
"""The least length a vector is divided by."""


def bands(labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Pixels (B, H, W) bool of the thing and of what is not it, that lie within a square of
    `radius` pixels of each other; void is neither.

    The thing less its erosion, and its dilation less it, both with a square of (2·radius + 1)²
    pixels. A thing's contour is also where it meets void; the border of the image is none, nor is
    that of what an image was filled up with: rows and columns of nothing but void.
    """
    thing, known = labels == 1, labels != IGNORE
    picture = known.any(dim=2, keepdim=True) & known.any(dim=1, keepdim=True)

    def dilated(mask: Tensor) -> Tensor:
        rows = F.max_pool2d(mask.float(), (2 * radius + 1, 1), stride=1, padding=(radius, 0))
        return F.max_pool2d(rows, (1, 2 * radius + 1), stride=1, padding=(0, radius)) > 0

    return thing & dilated(~thing & picture), dilated(thing) & ~thing & known


def sampled(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (B, H, W) bool at the places of a grid: row i of h is row ⌊i·H/h⌋."""
    return F.interpolate(mask.float().unsqueeze(1), size).squeeze(1) > 0


def triplet_loss(
    word: Tensor, feature: Tensor, inside: Tensor, outside: Tensor, margin: float
) -> Tensor:
    """The word should be nearer to the thing's side of its contour than to the other, by a margin;
    mean over the images with both sides.

    Args:
        word: (B, D).
        feature: (B, D, h, w).
        inside: (B, h, w) bool; compared is the mean of its pixels' unit vectors, which is not made
            unit again.
        outside: (B, h, w) bool, likewise.
        margin: Of the distances' difference.
    """
    anchor, unit = F.normalize(word, dim=1, eps=EPS), F.normalize(feature, dim=1, eps=EPS)
    means = [
        torch.einsum("bdhw,bhw->bd", unit, side.float())
        / side.sum(dim=(1, 2)).clamp(min=1)[:, None]
        for side in (inside, outside)
    ]
    near, far = (F.pairwise_distance(anchor, mean) for mean in means)
    both = inside.flatten(1).any(dim=1) & outside.flatten(1).any(dim=1)
    return ((margin + near - far).clamp(min=0) * both).sum() / both.sum().clamp(min=1)
