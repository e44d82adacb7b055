"""Images of an evaluation that are worth a look: the worst, the best, and those of classes."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unseen.data.benchmarks import Benchmark
from unseen.evaluation.protocols import Judged
from unseen.report_page import Reduced, Shown

WORST = BEST = 12
"""Images kept of all."""
OF_CLASSES = 60
"""Images kept as the worst of single classes, about; at least one of each class."""
LEAST_SHARE = 0.01
"""Of an image's labelled pixels that a class has, for the image to be one of its worst."""


class Gallery:
    """Keeps some of the images it is shown, as small pictures.

    Args:
        benchmark: Its classes.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        self.names = benchmark.scored_names
        self.of_class = max(1, min(4, OF_CLASSES // len(self.names)))
        # By what is ranked, the scores and places of the images kept for it, the first ones first.
        self.ranks: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.kept: dict[int, Reduced] = {}
        self.count = 0

    def add(self, item: Judged, counts: NDArray[np.int64]) -> None:
        """Look at an image.

        Args:
            item: The image, with truth and prediction.
            counts: What it added to the metric (`Metric.update`).
        """
        place, self.count = self.count, self.count + 1
        scores, shares = _scores(counts, item.class_id)
        if not scores:
            return
        score = float(np.mean(list(scores.values())))
        wanted = [self._is_ranked("worst", score, place, WORST)]
        wanted.append(self._is_ranked("best", -score, place, BEST))
        for class_id, value in scores.items():
            if shares[class_id] >= LEAST_SHARE:
                wanted.append(self._is_ranked(f"class {class_id}", value, place, self.of_class))
        if any(wanted):
            by_name = {self.names[class_id]: value for class_id, value in scores.items()}
            self.kept[place] = _reduced(item, score, by_name, self.names)
            ranked = {kept for rank in self.ranks.values() for _, kept in rank}
            self.kept = {kept: shown for kept, shown in self.kept.items() if kept in ranked}

    def _is_ranked(self, name: str, value: float, place: int, most: int) -> bool:
        """Whether an image is among the first of a rank; of equal ones the earlier stay."""
        rank = self.ranks[name]
        bisect.insort(rank, (value, place))
        del rank[most:]
        return (value, place) in rank

    def done(self) -> list[Shown]:
        """The images kept, the worst first."""
        ordered = sorted(self.kept.values(), key=lambda image: image.score)
        return [image.drawn(len(self.names)) for image in ordered]


def _scores(
    counts: NDArray[np.int64], class_id: int | None
) -> tuple[dict[int, float], dict[int, float]]:
    """Of the classes labelled in an image, their IoU in it and their shares of its pixels."""
    if class_id is not None:  # an episode: of the foreground
        intersection, union = counts[1]
        return {class_id: float(intersection / max(union, 1))}, {class_id: 1.0}
    hit, truth = counts.diagonal(), counts.sum(axis=1)
    union = truth + counts[:, :-1].sum(axis=0) - hit
    present = np.flatnonzero(truth).tolist()
    total = max(int(truth.sum()), 1)
    return (
        {index: float(hit[index] / union[index]) for index in present},
        {index: float(truth[index] / total) for index in present},
    )


def _reduced(item: Judged, score: float, scores: dict[str, float], names: Sequence[str]) -> Reduced:
    """An image as small as it is shown."""
    confidence = None if item.confidence is None else item.confidence().float().cpu().numpy()
    everywhere = item.class_id is not None
    return Reduced.of(item.row(names), confidence, score, scores, names, everywhere=everywhere)
