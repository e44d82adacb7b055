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


def differences(group: Group, base: Group, *, seed: int = 0) -> dict[str, Difference] | None:
    """The scores of a model less those of another, means over their seeds.

    Args:
        group: The model.
        base: The other one.
        seed: Of the draws.

    Returns:
        By score; None where a report has no counts of single images.

    Raises:
        SettingError: Reports of different images.
    """
    counts = [[report.read_counts() for report in each.reports] for each in (group, base)]
    if any(each is None for side in counts for each in side):
        return None
    names = [each.names for side in counts for each in side if each is not None]
    if any(set(other) != set(names[0]) for other in names):
        raise SettingError(
            f"{group.title} and {base.title} were scored on different images, so they cannot be"
            " compared image by image; leave out --mixed"
        )
    rng = np.random.default_rng(seed)
    count = len(names[0])
    # The first draw are the images as they are.
    weights = np.concatenate(
        [np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)]
    )
    one, other = (
        _mean(
            [
                _drawn(report, each, names[0], weights)
                for report, each in zip(part.reports, side, strict=True)
            ]
        )
        for part, side in zip((group, base), counts, strict=True)
    )
    return {name: _difference(one[name] - other[name]) for name in one if name in other}


def _drawn(
    report: Stored, counts: ImageCounts | None, names: tuple[str, ...], weights: NDArray[np.float64]
) -> Scores:
    """The scores of a report in every draw; its images in the order of the names."""
    assert counts is not None
    place = {name: i for i, name in enumerate(counts.names)}
    dense = counts.dense(len(report.class_names))[[place[name] for name in names]]
    sums = (weights @ dense.reshape(len(names), -1)).reshape(len(weights), *dense.shape[1:])
    unseen = report.unseen_ids
    seen = [i for i in range(len(report.class_names)) if i not in unseen]
    return scores_of(sums, counts.kind, seen, unseen)


def _mean(scores: list[Scores]) -> Scores:
    return {name: np.mean([each[name] for each in scores], axis=0) for name in scores[0]}


def _difference(values: NDArray[np.float64]) -> Difference:
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return Difference(float(values[0]), float("nan"), float("nan"))
    low, high = np.percentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Difference(float(values[0]), float(low), float(high))
