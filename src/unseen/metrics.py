"""Metrics of the two protocols, computed from counts of pixels.

Where all classes compete, the counts are a confusion matrix; where each image is queried with one
class, they are intersection and union of foreground and background.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from unseen.labels import IGNORE, MAX_8BIT_CLASSES, label_to_index


class Metric(ABC):
    """Counts pixels image by image; every number of a report is computed from the counts."""

    heads: ClassVar[dict[str, str]]
    """The scores that tables and sheets show: names in `summary` to column heads."""

    @abstractmethod
    def update(self, prediction: Tensor, labels: Tensor, class_id: int | None = None) -> Tensor:
        """Add the pixels of images, or of the query class of one image; what was added."""

    @property
    @abstractmethod
    def iou(self) -> Tensor:
        """(K,) float64 in 0..1: intersection over union by class."""

    @abstractmethod
    def summary(self, seen: Sequence[int], unseen: Sequence[int]) -> dict[str, float]:
        """The protocol's numbers in percent, given the ids of seen and unseen classes."""

    @abstractmethod
    def as_dict(self, names: Sequence[str], unseen: Sequence[int]) -> dict[str, Any]:
        """IoU by class in percent, and the counts, as JSON types; what is undefined is null."""


class ConfusionMatrix(Metric):
    """Pixels by true and predicted class, where all classes compete.

    Args:
        num_classes: K.

    Attributes:
        counts: (K, K + 1) int64; row = truth, column = prediction; the last column holds labelled
            pixels that were given no class.
    """

    heads: ClassVar = {
        "pAcc": "pAcc",
        "mIoU": "mIoU",
        "mAcc": "mAcc",
        "mIoU_S": "mIoU seen",
        "mIoU_U": "mIoU unseen",
        "hIoU": "hIoU",
    }

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    def update(self, prediction: Tensor, labels: Tensor, class_id: int | None = None) -> Tensor:
        """Add images.

        Args:
            prediction: Labels (`unseen.labels`), 255 where no class was given.
            labels: The truth, of equal shape; pixels of 255 are not counted.
            class_id: Not used, as all classes of an image are counted together.

        Returns:
            What was added to the counts.

        Raises:
            ValueError: Shapes differ, or an id lies outside the vocabulary.
        """
        if prediction.shape != labels.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and labels {tuple(labels.shape)} differ in"
                " shape"
            )
        # Ignored pixels of the truth leave no trace, whatever was predicted on them.
        known = labels != IGNORE
        truth, guess = labels[known].long(), prediction[known].long()
        none = guess == IGNORE
        # In large vocabularies labels past the reserved ones are not the classes' indices.
        if self.num_classes > MAX_8BIT_CLASSES:
            truth, guess = label_to_index(truth), label_to_index(guess)
        # "No class" is the last column: such a pixel is in the union of its true class alone.
        guess = torch.where(none, self.num_classes, guess)
        allowed = (guess < self.num_classes) | none
        inside = (truth >= 0) & (truth < self.num_classes) & (guess >= 0) & allowed
        if not inside.all():
            raise ValueError(f"an id lies outside 0..{self.num_classes - 1}")
        # A pair of classes is one number, so that counting pairs is one call.
        width = self.num_classes + 1
        pairs = torch.bincount(truth * width + guess, minlength=self.num_classes * width)
        counts = pairs.view(self.num_classes, width).cpu()
        self.counts += counts
        return counts

    @property
    def iou(self) -> Tensor:
        """(K,) float64 in 0..1: intersection over union by class.

        NaN for a class that is neither labelled nor predicted.
        """
        # The union: labelled pixels plus predicted pixels, of which those that are both count once.
        hit = self.counts.diagonal().double()
        return hit / (self.counts.sum(dim=1) + self.counts[:, :-1].sum(dim=0) - hit)

    @property
    def accuracy(self) -> Tensor:
        """(K,) float64 in 0..1: share of a class's pixels that are predicted as such.

        NaN for a class that is not labelled.
        """
        return self.counts.diagonal().double() / self.counts.sum(dim=1)

    def summary(self, seen: Sequence[int], unseen: Sequence[int]) -> dict[str, float]:
        """The protocol's numbers in percent; NaN where there is nothing to average.

        Returns:
            pAcc over all labelled pixels; mAcc; mIoU over all classes; mIoU_S and mIoU_U over seen
            and unseen ones, their harmonic mean hIoU; zero_IoU, the share of classes that occur and
            are never hit.
        """
        iou, labelled = self.iou, self.counts.sum().double()
        # Means leave NaNs out, as MMSegmentation's do: a class that occurs nowhere is not wrong.
        s, u = (iou[list(ids)].nanmean().item() for ids in (seen, unseen))
        # A class that is predicted, but labelled nowhere, has an IoU of 0 without being missed.
        occurring = iou[self.counts.sum(dim=1) > 0]
        parts = {
            "pAcc": (self.counts.diagonal().sum() / labelled).item(),
            "mAcc": self.accuracy.nanmean().item(),
            "mIoU": iou.nanmean().item(),
            "mIoU_S": s,
            "mIoU_U": u,
            "hIoU": harmonic_mean(s, u),
            "zero_IoU": (occurring == 0).double().mean().item(),
        }
        return {name: 100 * value for name, value in parts.items()}

    def as_dict(self, names: Sequence[str], unseen: Sequence[int]) -> dict[str, Any]:
        """IoU of every class in percent, and the matrix."""
        iou = zip(names, self.iou.tolist(), strict=True)
        return {
            "iou": {name: rounded(100 * value) for name, value in iou},
            "confusion": {
                "rows": list(names),
                "columns": [*names, "no class"],
                "pixels": self.counts.tolist(),
            },
        }


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 where both are 0, NaN where one is."""
    # The limit: the formula itself divides by 0.
    if a + b == 0:
        return 0.0
    return 2 * a * b / (a + b)


def rounded(value: float) -> float | None:
    """A number of a report; None, which JSON has, in place of NaN, which it lacks."""
    if math.isnan(value):
        return None
    return round(value, 4)


def episode_counts(prediction: Tensor, truth: Tensor, *, released: bool = False) -> Tensor:
    """Pixels (2, 2) int64: background or foreground, intersection or union.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) of 1 (the query class), 0 and 255, which is not counted.
        released: Count ignored pixels into the union of what they were predicted as, as the
            released SAZS does.
    """
    known = truth != IGNORE
    counts = torch.zeros(2, 2, dtype=torch.int64)
    for value in (0, 1):
        predicted, true = prediction == bool(value), truth == value
        counts[value, 0] = (predicted & true).sum()
        # The truth is neither 0 nor 1 there, so the intersection is the same either way.
        if not released:
            predicted = predicted & known
        counts[value, 1] = (predicted | true).sum()
    return counts


class EpisodeCounts(Metric):
    """Foreground and background of episodes, by query class.

    Args:
        num_classes: Of the vocabulary.
        released: How ignored pixels are counted (`episode_counts`).

    Attributes:
        counts: (K, 2, 2) int64: class, background or foreground, intersection or union.
        episodes: (K,) int64: episodes of each class.
    """

    heads: ClassVar = {"mIoU": "mIoU", "FB_IoU": "FB-IoU"}

    def __init__(self, num_classes: int, *, released: bool = False) -> None:
        self.counts = torch.zeros(num_classes, 2, 2, dtype=torch.int64)
        self.episodes = torch.zeros(num_classes, dtype=torch.int64)
        self.released = released

    def update(self, prediction: Tensor, labels: Tensor, class_id: int | None = None) -> Tensor:
        """Add an episode.

        Args:
            prediction: (H, W) bool.
            labels: (H, W) of 1 (the query class), 0 and 255 (`episode_counts`).
            class_id: The query class.

        Returns:
            What was added to the counts of the class (2, 2).
        """
        assert class_id is not None, "an episode has a query class"
        counts = episode_counts(prediction, labels, released=self.released)
        self.counts[class_id] += counts
        self.episodes[class_id] += 1
        return counts

    @property
    def iou(self) -> Tensor:
        """(K,) float64 in 0..1: of the foreground, over all episodes of a class.

        0 for a class without episodes, as in the evaluation of HSNet.
        """
        # Pixels of all episodes are summed before the division: this is not a mean over episodes.
        return self.counts[:, 1, 0].double() / self.counts[:, 1, 1].clamp(min=1)

    def summary(self, seen: Sequence[int], unseen: Sequence[int]) -> dict[str, float]:
        """The protocol's numbers in percent.

        Returns:
            mIoU over the unseen classes, those of the fold; FB_IoU, the mean of background and
            foreground IoU over all of their episodes together.
        """
        # (2, 2): background or foreground, intersection or union.
        pooled = self.counts[list(unseen)].sum(dim=0).double()
        return {
            "mIoU": 100 * self.iou[list(unseen)].mean().item(),
            "FB_IoU": 100 * (pooled[:, 0] / pooled[:, 1].clamp(min=1)).mean().item(),
        }

    def as_dict(self, names: Sequence[str], unseen: Sequence[int]) -> dict[str, Any]:
        """IoU in percent, episodes and counts of the fold's classes."""
        parts = ("background", "foreground")
        return {
            "iou": {names[i]: rounded(100 * self.iou[i].item()) for i in unseen},
            "episodes": {names[i]: int(self.episodes[i]) for i in unseen},
            "counts": {
                names[i]: dict(zip(parts, self.counts[i].tolist(), strict=True)) for i in unseen
            },
        }
