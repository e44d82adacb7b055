"""The arithmetic of label maps."""

from __future__ import annotations

import torch

from unseen.labels import IGNORE, PADDING, subset_lookup


def test_ignored_and_padded_pixels_are_distinct() -> None:
    assert (IGNORE, PADDING) == (255, 254)


def test_rank_of_is_the_place_in_the_list() -> None:
    table = subset_lookup([7, 0, 3])
    assert table.shape == (256,)
    assert table.dtype == torch.int64
    assert table[torch.tensor([7, 0, 3, 1, 254, 255])].tolist() == [0, 1, 2, 255, 255, 255]
    assert (table != IGNORE).sum() == 3


def test_rank_of_nothing_and_of_another_size() -> None:
    assert subset_lookup([]).unique().tolist() == [IGNORE]
    assert subset_lookup([2, 1], size=4).tolist() == [255, 1, 0, 255]
