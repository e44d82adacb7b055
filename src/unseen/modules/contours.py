"""Bands along the contours of masks, and the loss that compares their two sides (EdgeCLIP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.labels import IGNORE

EPS = 1e-8
"""The least length a vector is divided by."""


def bands(labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The pixels on both sides of a mask's contour, inside and outside, (B, H, W) bool each.

    They are the mask less its erosion, and its dilation less it, both with a square of
    (2·radius + 1)² pixels. The contour also runs where the mask meets ignored pixels. The border of
    the image is none, nor is that of its padding: rows and columns of ignored pixels alone.

    Args:
        labels: (B, H, W) of 1 (the query class), 0, and 255, which is in neither band.
        radius: Width of the bands in pixels.
    """
    mask, known = labels == 1, labels != IGNORE
    image = known.any(dim=2, keepdim=True) & known.any(dim=1, keepdim=True)  # without padding

    def dilate(pixels: Tensor) -> Tensor:
        # A square is a column after a row, which costs 2·(2r + 1) comparisons instead of (2r + 1)².
        rows = F.max_pool2d(pixels.float(), (2 * radius + 1, 1), stride=1, padding=(radius, 0))
        return F.max_pool2d(rows, (1, 2 * radius + 1), stride=1, padding=(0, radius)) > 0

    return mask & dilate(~mask & image), dilate(mask) & ~mask & known


def sampled(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (B, H, W) bool at the places of a grid: row i of h is row ⌊i·H/h⌋."""
    return F.interpolate(mask.float().unsqueeze(1), size).squeeze(1) > 0


def triplet_loss(
    text: Tensor, feature: Tensor, inside: Tensor, outside: Tensor, margin: float
) -> Tensor:
    """The class should be nearer to the inside of its contour than to the outside, by a margin.

    The mean over the images that have both bands.

    Args:
        text: Projected text features (B, D).
        feature: (B, D, h, w).
        inside: (B, h, w) bool; compared is the mean of its pixels' unit vectors, which is not
            normalised again.
        outside: (B, h, w) bool, likewise.
        margin: Of the distances' difference.
    """
    anchor, unit = F.normalize(text, dim=1, eps=EPS), F.normalize(feature, dim=1, eps=EPS)
    distances = []
    for side in (inside, outside):
        count = side.sum(dim=(1, 2)).clamp(min=1)[:, None]
        mean = torch.einsum("bdhw,bhw->bd", unit, side.float()) / count
        distances.append(F.pairwise_distance(anchor, mean))
    near, far = distances
    both = inside.flatten(1).any(dim=1) & outside.flatten(1).any(dim=1)
    return ((margin + near - far).clamp(min=0) * both).sum() / both.sum().clamp(min=1)
