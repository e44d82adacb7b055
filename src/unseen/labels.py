"""The special values and the arithmetic of label maps, for data and models alike.

A label is the index of its class in the vocabulary, but for three special values: 253, 254 and 255.
Vocabularies of more than 253 classes continue after them: the class of index 253 has the label 256
(`index_to_label`). Label maps of smaller vocabularies therefore fit into 8-bit PNGs, and 255 is the
ignore index everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Labels = TypeVar("Labels", "Tensor", NDArray[np.integer[Any]])

IGNORE = 255
"""Ignored pixels: no metric counts them, and no loss does (but for some released ones)."""

# The special values end at 255, the convention for masks; the other two lie right before it, so
# that one comparison (`labels < BACKGROUND`) selects the classes of a small vocabulary.
BACKGROUND = 253
"""Labelled pixels that show none of the classes, where a benchmark counts them (in folds: all that
is not the query class)."""

PADDING = 254
"""Pixels that a crop was padded with, where they must stay distinct from ignored ones; becomes 255
before any loss."""

MAX_8BIT_CLASSES = 253
"""The first classes, whose labels equal their indices: the most that a label map with 8 bits holds
and that a method can be trained on."""


def index_to_label(indices: Tensor) -> Tensor:
    """The labels of classes, from their indices in the vocabulary.

    Indices from 253 on move up by three, past the special values.
    """
    return indices + 3 * (indices >= MAX_8BIT_CLASSES)


def label_to_index(labels: Labels) -> Labels:
    """The indices of classes in the vocabulary: the inverse of `index_to_label`.

    Args:
        labels: None of them is a special value.
    """
    return labels - 3 * (labels > IGNORE)


def subset_lookup(classes: Sequence[int], *, size: int = 256) -> Tensor:
    """A table (int64) from the labels of a vocabulary to those of a part of it.

    The label of class `classes[i]` maps to the label of index i; every other label maps to 255.

    Args:
        classes: Indices in the vocabulary.
        size: Least length of the table.
    """
    # Whoever only reads label maps does not wait for torch.
    import torch

    labels = index_to_label(torch.as_tensor(classes, dtype=torch.int64))
    # Long enough for the largest label; 256 entries serve every 8-bit label map.
    length = max(size, *(label + 1 for label in labels.tolist()), 0)
    table = torch.full((length,), IGNORE, dtype=torch.int64)
    table[labels] = index_to_label(torch.arange(len(labels)))
    return table
