"""The best class of every pixel, from score maps, without all of these at the size of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unseen.modules.pamr import PixelRefinement
from unseen.score_maps import Box, Resize, ScoreMaps

TILE = 64
"""Least side, in pixels, of the parts of an image that are decided at once."""
TILES = 512
"""Most of such parts in an image, about: in large ones their side grows."""
MOST_VALUES = {"cpu": 2**22, "cuda": 2**27}
"""Scores on the image's pixels that are held at a time, by kind of device."""


@dataclass(frozen=True)
class Best:
    """The best rows of the text at every pixel.

    Attributes:
        row: (B, H, W) int32; of rows with equal scores the first.
        score: (B, H, W), its score.
        total: (B, H, W), the logarithm of the sum of the exponentials of all rows' scores; None
            where nobody asked for it.
    """

    row: Tensor
    score: Tensor
    total: Tensor | None = None

    def __setitem__(self, place: tuple[slice, slice, slice], part: Best) -> None:
        """Fill in some images, rows and columns of pixels."""
        self.row[place], self.score[place] = part.row, part.score
        if self.total is not None and part.total is not None:
            self.total[place] = part.total


def best_rows(
    scores: ScoreMaps,
    resize: Resize,
    rows: Sequence[int] | None = None,
    *,
    refine: PixelRefinement | None = None,
    with_total: bool = False,
) -> Best:
    """The row with the highest score at every pixel.

    Args:
        scores: As `unseen.inference.score_maps` returns them.
        resize: From their size to that of the images.
        rows: Compare these alone, in ascending order; all by default.
        refine: Changes maps at image size before they are compared.
        with_total: Whether to sum up all rows (`Best.total`).
    """
    rows = range(len(scores)) if rows is None else rows
    if refine is not None:
        return _best_of_refined(scores, resize, rows, refine, with_total)
    # On a GPU, whose work would have to be waited for to know the few, all are compared.
    if scores.classwise and not with_total and scores.device.type == "cpu":
        return _best_of_few(scores, resize, rows)
    best = _no_best(scores, resize, with_total)
    side = max(1, math.isqrt(_most_values(scores) // (scores.batch * len(rows))))
    for box in _boxes(resize.size, side):
        part = resize.apply(scores.part(resize.sources(box), rows), box)
        best[slice(None), *box.index] = _best_of(part, rows, with_total)
    return best


def _best_of_few(scores: ScoreMaps, resize: Resize, rows: Sequence[int]) -> Best:
    """The best rows by looking, in each part of an image, at those alone that can win there."""
    best = _no_best(scores, resize)
    side = max(TILE, math.isqrt(resize.size[0] * resize.size[1] // TILES))
    for i in range(scores.batch):
        one = scores.image(i)
        for box in _boxes(resize.size, side):
            source = resize.sources(box)
            few = one.contenders(source, rows)
            part = resize.apply(one.part(source, few), box)
            best[slice(i, i + 1), *box.index] = _best_of(part, few)
    return best


def _best_of_refined(
    scores: ScoreMaps,
    resize: Resize,
    rows: Sequence[int],
    refine: PixelRefinement,
    with_total: bool,
) -> Best:
    """The best rows by maps that are refined, for which they are needed whole."""
    best = _no_best(scores, resize, with_total)
    best.row.fill_(rows[0])
    step = max(1, _most_values(scores) // (scores.batch * resize.size[0] * resize.size[1]))
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        new = _best_of(refine(resize.whole(scores.whole(some))), some, with_total)
        total = None
        if best.total is not None and new.total is not None:
            total = torch.logaddexp(best.total, new.total)
        # Only a higher score wins, so that of equal rows the first stays.
        row = torch.where(new.score > best.score, new.row, best.row)
        best = Best(row, torch.maximum(new.score, best.score), total)
    return best


def _most_values(scores: ScoreMaps) -> int:
    """How many scores at image size are held at a time."""
    return MOST_VALUES.get(scores.device.type, MOST_VALUES["cuda"])


def _boxes(size: tuple[int, int], side: int) -> Iterator[Box]:
    """Squares, at the border parts of them, that together are an image."""
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield Box((top, min(top + side, size[0])), (left, min(left + side, size[1])))


def _no_best(scores: ScoreMaps, resize: Resize, with_total: bool = False) -> Best:
    """A best of no row yet, to be filled in."""
    shape = (scores.batch, *resize.size)
    row = torch.zeros(shape, dtype=torch.int32, device=scores.device)
    score = torch.full(shape, -torch.inf, device=scores.device)
    return Best(row, score, score.clone() if with_total else None)


def _best_of(part: Tensor, rows: Sequence[int], with_total: bool = False) -> Best:
    """The best of some rows, from their scores (B, K', …) on the pixels."""
    top, index = part.max(dim=1)
    row = torch.tensor(rows, dtype=torch.int32, device=part.device)[index]
    return Best(row, top, part.logsumexp(dim=1) if with_total else None)
