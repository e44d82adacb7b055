"""Edges of label maps, exactly: where two things meet within a disc."""

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
    void_is_other: bool = False,
    counted: Sequence[int] | None = None,
) -> Tensor:
    """1 where the disc around a pixel holds two different values, 0 where it holds one, 255 where
    void may hide another: (B, H/step, W/step) int64.

    A pixel within `radius` of the other side of a border, on either side of it: what distance
    transforms of every value's mask find, from the largest and the smallest value over the disc.

    Args:
        labels: (B, H, W) int64; 255 is void.
        radius: Of the disc in pixels: dy² + dx² <= radius².
        step: Of the rows and columns that are computed, from the first on.
        void_is_other: Void pixels, and those outside the image, are one more value (released
            SAZS), so that nothing is unknown.
        counted: With `void_is_other`, values whose borders count; the others are the same as void.
            All by default.
    """
    values = labels
    if counted is not None:
        values = torch.where(
            torch.isin(labels, torch.as_tensor(counted, device=labels.device)), labels, IGNORE
        )
    values = torch.where(values == IGNORE, OTHER, values)
    values = F.pad(values, (radius,) * 4, value=OTHER if void_is_other else IGNORE)
    # Unknown pixels are neither the largest value nor the smallest; outside the image there is
    # nothing that void could hide.
    low = values if void_is_other else torch.where(values == OTHER, IGNORE, values)
    high = values if void_is_other else torch.where(values == IGNORE, OTHER, values)
    h, w = labels.shape[-2:]
    shifts = [
        (dy, dx)
        for dy in range(2 * radius + 1)
        for dx in range(2 * radius + 1)
        if (dy - radius) ** 2 + (dx - radius) ** 2 <= radius**2
    ]
    largest, smallest, hidden = (
        torch.stack([part[:, dy : dy + h : step, dx : dx + w : step] for dy, dx in shifts])
        for part in (high, low, values == OTHER)
    )
    edges = largest.amax(dim=0) > smallest.amin(dim=0)
    return (
        edges.long()
        if void_is_other
        else torch.where(edges, 1, torch.where(hidden.any(dim=0), IGNORE, 0))
    )
