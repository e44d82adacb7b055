"""Differences between models, with what other images would have made of them.

Images are drawn again, with repetition, the same for both models (a paired bootstrap, Efron and
Tibshirani 1993), so that what is hard for both does not blur the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.compared.stored import Group, Stored
from unseen.errors import SettingError
from unseen.image_counts import ImageCounts, scores_of

DRAWS, LEVEL = 2000, 95.0
"""Draws of images, and the share of them in the interval, in percent."""
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """Of a score from that of another model, in points.

    Attributes:
        value: On the images as they are.
        low: Below it lie 2.5 % of the draws.
        high: Above it lie 2.5 % of the draws.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return not self.low <= 0 <= self.high


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
        count, rng = len(self.names), np.random.default_rng(seed)
        # The first draw are the images as they are.
        drawn = [np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)]
        self.weights: NDArray[np.float64] = np.concatenate(drawn).astype(np.float64)
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
        return {name: _difference(one[name] - other[name]) for name in one if name in other}

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


def _drawn(
    report: Stored, counts: ImageCounts, names: tuple[str, ...], weights: NDArray[np.float64]
) -> Scores:
    """The scores of a report in every draw; its images in the order of the names."""
    place = {name: i for i, name in enumerate(counts.names)}
    dense = counts.dense(len(report.class_names))[[place[name] for name in names]]
    sums = (weights @ dense.reshape(len(names), -1)).reshape(len(weights), *dense.shape[1:])
    unseen = report.unseen_ids
    seen = [i for i in range(len(report.class_names)) if i not in unseen]
    return scores_of(sums, counts.kind, seen, unseen)


def _difference(values: NDArray[np.float64]) -> Difference:
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return Difference(float(values[0]), float("nan"), float("nan"))
    low, high = np.percentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Difference(float(values[0]), float(low), float(high))
