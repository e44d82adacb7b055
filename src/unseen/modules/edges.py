"""Edges of label maps, exactly: where two regions meet within a disc."""

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
