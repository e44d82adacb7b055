"""Differences between models, with what other images would have made of them.

Images are drawn again, with repetition, the same for both models (a paired bootstrap, Efron and
Tibshirani 1993), so that what is hard for both does not blur the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.compared.stored import Group, Stored
from unseen.errors import SettingError
from unseen.image_counts import ImageCounts, scores_of

DRAWS, LEVEL = 2000, 95.0
"""Draws of images, and the share of them in the interval, in percent."""
AT_ONCE = 100
"""Draws that are computed at a time."""
LEAST = 10
"""Images of which an interval says something."""
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """Of a score from that of another model, in points.

    Attributes:
        value: On the images as they are.
        low: Below it lie 2.5 % of the draws; NaN where there are too few images.
        high: Above it lie 2.5 % of the draws; likewise.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """With its interval, if there is one, and a star where that leaves zero out."""
        if math.isnan(self.low):
            return f"{self.value:+.1f}"
        star = "*" if self.is_clear else ""
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]{star}"


class Bootstrap:
    """Compares models with one of them, whose draws are made once.

    Args:
        base: The model that others are compared with.
        seed: Of the draws.
    """

    def __init__(self, base: Group, *, seed: int = 0) -> None:
        self.base = base
        counts = base.reports[0].read_counts()
        # A report without counts is told by `_scores`, and needs no draws.
        self.names = ("none",) if counts is None else counts.names
        self.images, places = _images(counts, self.names)
        rng = np.random.default_rng(seed)
        even = np.full(self.images, 1 / self.images)
        # The first draw are the images as they are. Counts are small, and there are many.
        weights = np.ones((1 + DRAWS, len(self.names)), dtype=np.uint16)
        for first in range(1, 1 + DRAWS, AT_ONCE):
            drawn = rng.multinomial(self.images, even, size=AT_ONCE)
            weights[first : first + AT_ONCE] = drawn[:, places]
        self.weights = weights
        self.scores = self._scores(base)

    def differences(self, group: Group) -> dict[str, Difference] | None:
        """The scores of a model less those of the base, means over their seeds.

        Returns:
            By score; None where a report has no counts of single images.

        Raises:
            SettingError: Reports of different images.
        """
        one, other = self._scores(group), self.scores
        if one is None or other is None:
            return None
        return {
            name: _difference(one[name] - other[name], self.images) for name in one if name in other
        }

    def _scores(self, group: Group) -> Scores | None:
        """The scores of a model in every draw, means over its seeds."""
        made = []
        for report in group.reports:
            counts = report.read_counts()
            if counts is None:
                return None
            if set(counts.names) != set(self.names):
                raise SettingError(
                    f"{group.title} and {self.base.title} were scored on different images, so they"
                    " cannot be compared image by image; give --mixed to see them without"
                )
            made.append(_drawn(report, counts, self.names, self.weights))
        return {name: np.mean([each[name] for each in made], axis=0) for name in made[0]}


def _images(counts: ImageCounts | None, names: Sequence[str]) -> tuple[int, NDArray[np.intp]]:
    """How many images there are, and which of them each row of the counts is of.

    An image of several episodes is one image: what is hard in it is so for all of them.
    """
    if counts is not None and counts.kind == "episodes":
        names = [name.rpartition(" ")[0] for name in names]
    known, places = np.unique(names, return_inverse=True)
    return len(known), places


def _drawn(
    report: Stored, counts: ImageCounts, names: tuple[str, ...], weights: NDArray[np.uint16]
) -> Scores:
    """The scores of a report in every draw; its images in the order of the names."""
    place = {name: i for i, name in enumerate(counts.names)}
    dense = counts.dense(len(report.class_names))[[place[name] for name in names]]
    rows = dense.reshape(len(names), -1)
    parts = [
        weights[first : first + AT_ONCE].astype(np.float64) @ rows
        for first in range(0, len(weights), AT_ONCE)
    ]
    sums = np.concatenate(parts).reshape(len(weights), *dense.shape[1:])
    return scores_of(sums, counts.kind, report.seen_ids, report.unseen_ids)


def _difference(values: NDArray[np.float64], images: int) -> Difference:
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn) or images < LEAST:
        return Difference(float(values[0]), float("nan"), float("nan"))
    low, high = np.percentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Difference(float(values[0]), float(low), float(high))
