"""Edges of label maps, exactly: where two regions meet within a disc; and the losses on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.labels import IGNORE

OTHER = -1
"""Stands for all that does not count, and for what lies outside the image."""


def edge_map(
    labels: Tensor,
    *,
    radius: int = 2,
    step: int = 1,
    ignored_is_other: bool = False,
    counted: Sequence[int] | None = None,
) -> Tensor:
    """Edges (B, H/step, W/step) int64 of label maps.

    1 where the disc around a pixel holds two different values, 0 where it holds one, 255 where
    ignored pixels may hide another. These are the pixels within `radius` of the other side of a
    border, on either side of it, that distance transforms of every value's mask find; here they
    come from the largest and the smallest value over the disc.

    Args:
        labels: (B, H, W) int64; 255 is ignored.
        radius: Of the disc in pixels: dy² + dx² <= radius².
        step: Of the rows and columns that are computed, from the first on.
        ignored_is_other: Ignored pixels, and those outside the image, are one more value (released
            SAZS), so that nothing is unknown.
        counted: With `ignored_is_other`, values whose borders count; the others are the same as
            ignored ones. All by default.
    """
    values = labels
    if counted is not None:
        kept = torch.isin(labels, torch.as_tensor(counted, device=labels.device))
        values = torch.where(kept, labels, IGNORE)
    values = torch.where(values == IGNORE, OTHER, values)
    values = F.pad(values, (radius,) * 4, value=OTHER if ignored_is_other else IGNORE)
    low, high = values, values
    if not ignored_is_other:
        # Unknown pixels are neither the largest value nor the smallest; outside the image there is
        # nothing that ignored pixels could hide.
        low = torch.where(values == OTHER, IGNORE, values)
        high = torch.where(values == IGNORE, OTHER, values)
    shifts = _disc(radius)
    h, w = labels.shape[-2:]
    largest, smallest, hidden = (
        torch.stack([part[:, dy : dy + h : step, dx : dx + w : step] for dy, dx in shifts])
        for part in (high, low, values == OTHER)
    )
    edges = largest.amax(dim=0) > smallest.amin(dim=0)
    if ignored_is_other:
        return edges.long()
    unknown = torch.where(hidden.any(dim=0), IGNORE, 0)
    return torch.where(edges, 1, unknown)


def _disc(radius: int) -> list[tuple[int, int]]:
    """Offsets (dy, dx), from the upper left corner, of the pixels of a disc."""
    side = range(2 * radius + 1)
    return [
        (dy, dx)
        for dy in side
        for dx in side
        if (dy - radius) ** 2 + (dx - radius) ** 2 <= radius**2
    ]


def pixel_loss(logits: Tensor, target: Tensor, *, balanced: bool) -> Tensor:
    """Cross-entropy of the query class against "others".

    The mean over known cells or, balanced, the mean of the class's mean and the others' mean.

    Args:
        logits: (B, 2, h, w).
        target: (B, h, w) of 1, 0 and 255, which weighs nothing.
        balanced: Weigh both alike, however many cells they have; where there are none of one, the
            other's mean is all.
    """
    costs = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    if not balanced:
        return costs.sum() / (target != IGNORE).sum().clamp(min=1)
    sides = [target == value for value in (0, 1)]
    means = torch.stack([costs[side].sum() / side.sum().clamp(min=1) for side in sides])
    # A side without cells has the mean 0 and does not count.
    present = torch.stack([side.any() for side in sides]).sum()
    return means.sum() / present.clamp(min=1)


def balanced_edge_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Binary cross-entropy that gives edges and other cells equal weight over the batch.

    The sum is divided by the number of all cells.

    Args:
        logits: Of the edge head, (B, h, w).
        edges: (B, h, w), 1 an edge, 0 none; any other value weighs nothing.
    """
    edge, none = edges == 1, edges == 0
    # Each side is weighted with the share of the other, so that both weigh the same in sum.
    share = none.sum() / (edge.sum() + none.sum()).clamp(min=1)
    weights = torch.where(edge, share, torch.where(none, 1 - share, 0))
    costs = F.binary_cross_entropy_with_logits(logits, edge.float(), reduction="none")
    return (weights * costs).mean()


def edge_attention(logits: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Cross-entropy of each image over the cells that are kept, (B,).

    A class weighs 2 minus its share of the kept cells of the batch; an image's loss is the weighted
    mean, and 0 for an image without kept cells, where the released code divides 0 by 0.

    Args:
        logits: (B, 2, h, w).
        target: (B, h, w) of 1, 0 and 255.
        kept: (B, h, w) bool.
    """
    kept = kept & (target != IGNORE)
    count = kept.sum()
    counts = [(kept & (target == value)).sum() for value in (0, 1)]
    weights = torch.stack([attention_weight(cells, count) for cells in counts])
    costs = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    weight = torch.where(kept, weights[torch.where(target == 1, 1, 0)], 0)
    # An image without kept cells costs 0 / 1; one with any has a weight of at least 1.
    return (weight * costs).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)


def attention_weight(cells: Tensor, of: Tensor) -> Tensor:
    """The weight of a class that holds so many cells of the kept ones; 1 if it has none."""
    return torch.where(cells > 0, 2 - cells / of.clamp(min=1), 1.0)


# -------------------------------------------------------------------- parts
