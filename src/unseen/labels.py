"""The special values and the arithmetic of label maps, used on both sides of the contract (data and
model).

A label is the place of its word in the vocabulary. Three values mean something else: 253, 254 and
255. Vocabularies of more than 253 words go on
behind them: word 253 has the label 256 (`index_to_label`), so that maps of smaller ones are what an 8-bit
PNG holds, and 255 is void everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = TypeVar("Labels", Tensor, NDArray[np.integer[Any]])

IGNORE = 255
"""Pixels with this label are void: no metric counts them, and no corrected loss does."""


BACKGROUND = 253
"""Labelled pixels that show none of the words, where a benchmark counts them (folds: what is not
the word that is asked for)."""

PADDING = 254
"""Labels of pixels a crop was filled up with, where they must stay distinct from void ones; becomes
255 before any loss."""

MAX_8BIT_CLASSES = 253
"""So many words have labels that are their places; the most a method can be trained on, and a label
map with 8 bits holds."""


def index_to_label(places: Tensor) -> Tensor:
    """The labels of words, from their places in the vocabulary: those from 253 on move up by three,
    past the special values.
    """
    return torch.where(places >= MAX_8BIT_CLASSES, places + 3, places)


def label_to_index(labels: Labels) -> Labels:
    """The places in the vocabulary of labels, none of which is special: `index_to_label`, undone."""
    return labels - 3 * (labels > IGNORE)


def subset_lookup(classes: Sequence[int], *, size: int = 256) -> Tensor:
    """A table (int64) from label to the label of its word's place in `classes`; every other label
    maps to 255.

    Args:
        classes: Places in the vocabulary.
        size: Least length of the table.
    """
    labels = index_to_label(torch.as_tensor(classes, dtype=torch.int64))
    table = torch.full(
        (max(size, int(labels.max()) + 1 if len(labels) else 0),), IGNORE, dtype=torch.int64
    )
    table[labels] = index_to_label(torch.arange(len(labels)))
    return table
