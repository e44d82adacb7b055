"""The one ignore value and the arithmetic of label maps, used on both sides of the contract (data and model)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = 255
"""Pixels with this label are void: no metric counts them, and no corrected loss does."""


BACKGROUND = 253
"""Labelled pixels that show none of the words, where a benchmark counts them (folds: what is not the word that is asked for)."""

PADDING = 254
"""Labels of pixels a crop was filled up with, where they must stay distinct from void ones; becomes 255 before any loss."""


def reduce_zero_label(labels: Tensor) -> Tensor:
    """Remove the background of a label map stored as 0 = background, 1..C = classes: 0 and 255 become 255, v becomes v - 1."""
    return torch.where((labels == 0) | (labels == IGNORE), torch.full_like(labels, IGNORE), labels - 1)


def rank_of(classes: Sequence[int], *, size: int = 256) -> Tensor:
    """A (size,) int64 table from class id to its place in `classes`; every other id maps to 255."""
    table = torch.full((size,), IGNORE, dtype=torch.int64)
    table[torch.as_tensor(classes, dtype=torch.int64)] = torch.arange(len(classes))
    return table
