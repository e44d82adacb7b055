"""One confusion matrix, from which every number of the generalised zero-shot protocol is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unseen.labels import IGNORE, MAX_8BIT_CLASSES, label_to_index


class ConfusionMatrix:
    """Pixels by true and predicted class.

    Attributes:
        counts: (K, K + 1) int64; row = truth, column = prediction; the last column holds labelled
            pixels that no word was given.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Add images: predictions and labels (`unseen.labels`) of equal shape. Pixels labelled
        255 are not counted.

        Raises:
            ValueError: Shapes differ, or an id lies outside the vocabulary.
        """
        if prediction.shape != labels.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and labels {tuple(labels.shape)} differ in"
                " shape"
            )
        known = labels != IGNORE
        truth, guess = labels[known].long(), prediction[known].long()
        none = guess == IGNORE
        if self.num_classes > MAX_8BIT_CLASSES:
            truth, guess = label_to_index(truth), label_to_index(guess)
        inside = (
            (truth >= 0)
            & (truth < self.num_classes)
            & (guess >= 0)
            & ((guess < self.num_classes) | none)
        )
        guess = torch.where(none, self.num_classes, guess)
        if not inside.all():
            raise ValueError(f"an id lies outside 0..{self.num_classes - 1}")
        width = self.num_classes + 1
        self.counts += (
            torch.bincount(truth * width + guess, minlength=self.num_classes * width)
            .view(self.num_classes, width)
            .cpu()
        )

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the pixels of another matrix of the same vocabulary."""
        self.counts += other.counts

    @property
    def iou(self) -> Tensor:
        """(K,) float64 in 0..1: intersection over union; NaN for a class neither labelled nor
        predicted.
        """
        hit = self.counts.diagonal().double()
        return hit / (self.counts.sum(dim=1) + self.counts[:, :-1].sum(dim=0) - hit)

    @property
    def accuracy(self) -> Tensor:
        """(K,) float64 in 0..1: share of a class's pixels that are right; NaN for a class not
        labelled.
        """
        return self.counts.diagonal().double() / self.counts.sum(dim=1)

    def summary(self, seen: Sequence[int], unseen: Sequence[int]) -> dict[str, Any]:
        """The protocol's numbers in percent; NaN where there is nothing to average.

        Returns:
            pAcc over all labelled pixels; mAcc; mIoU over all classes; mIoU_S and mIoU_U over seen
            and unseen ones, their harmonic mean hIoU; zero_IoU, the share of classes that occur and
            are never hit.
        """
        iou, labelled = self.iou, self.counts.sum()
        s, u = (
            iou[list(seen)].nanmean().item(),
            (iou[list(unseen)].nanmean().item() if len(unseen) else math.nan),
        )
        occurring = iou[self.counts.sum(dim=1) > 0]
        parts = {
            "pAcc": (
                (self.counts.diagonal().sum().double() / labelled).item() if labelled else math.nan
            ),
            "mAcc": self.accuracy.nanmean().item(),
            "mIoU": iou.nanmean().item(),
            "mIoU_S": s,
            "mIoU_U": u,
            "hIoU": harmonic_mean(s, u),
            "zero_IoU": (occurring == 0).double().mean().item(),
        }
        return {name: 100 * value for name, value in parts.items()}


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 where both are 0, NaN where one is."""
    return 0.0 if a + b == 0 else 2 * a * b / (a + b)


def episode_counts(prediction: Tensor, truth: Tensor, *, released: bool = False) -> Tensor:
    """Pixels (2, 2) int64: background or foreground, intersection or union.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) of 1 (the class), 0 and 255, which is not counted.
        released: Count void pixels into the union of what they were predicted as, as the released
            SAZS does.
    """
    known = truth != IGNORE
    counts = torch.zeros(2, 2, dtype=torch.int64)
    for value in (0, 1):
        here, there = prediction == bool(value), truth == value
        counts[value, 0] = (here & there).sum()
        counts[value, 1] = ((here if released else here & known) | there).sum()
    return counts


class EpisodeCounts:
    """Foreground and background of episodes, by the class that was asked for.

    Args:
        num_classes: Of the vocabulary.
        released: What void does (`episode_counts`).

    Attributes:
        counts: (K, 2, 2) int64: class, background or foreground, intersection or union.
        asked: (K,) int64: episodes of each class.
    """

    def __init__(self, num_classes: int, *, released: bool = False) -> None:
        self.counts = torch.zeros(num_classes, 2, 2, dtype=torch.int64)
        self.asked = torch.zeros(num_classes, dtype=torch.int64)
        self.released = released

    def update(self, prediction: Tensor, truth: Tensor, class_id: int) -> None:
        """Add an episode: prediction (H, W) bool; truth (H, W) of 1 (the class), 0 and 255
        (`episode_counts`).
        """
        self.counts[class_id] += episode_counts(prediction, truth, released=self.released)
        self.asked[class_id] += 1

    @property
    def iou(self) -> Tensor:
        """(K,) float64 in 0..1: of the foreground, over all episodes of a class; 0 for a class
        never asked for, as the protocols have it.
        """
        return self.counts[:, 1, 0].double() / self.counts[:, 1, 1].clamp(min=1)

    def summary(self, classes: Sequence[int]) -> dict[str, float]:
        """In percent: mIoU over the fold's classes; FB_IoU, the mean of background and foreground
        IoU with all episodes pooled.
        """
        pooled = self.counts[list(classes)].sum(dim=0).double()
        return {
            "mIoU": 100 * self.iou[list(classes)].mean().item(),
            "FB_IoU": 100 * (pooled[:, 0] / pooled[:, 1].clamp(min=1)).mean().item(),
        }
