"""What every single image adds to a score: reports are compared by it, image by image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from unseen.errors import DataError
from unseen.files import about, replacing

NAME = "images.safetensors"
"""Beside report.json."""
FIELDS = {"classes": 3, "episodes": 4}
"""By kind, how many numbers a row has behind image and class: pixels that are rightly the class,
are predicted and are labelled so; or intersection and union of background and foreground."""


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of every image, or episode, and class.

    Attributes:
        kind: "classes" that compete, or "episodes" of one class each.
        names: Of the images, N; of episodes with their class.
        rows: (R, 2 + V) int64: which image, which class, and the numbers of `FIELDS`; classes that
            are neither labelled nor predicted have no row.
    """

    kind: str
    names: tuple[str, ...]
    rows: NDArray[np.int64]

    def dense(self, classes: int) -> NDArray[np.float64]:
        """The numbers by image and class (N, K, V), 0 where there is no row."""
        made = np.zeros((len(self.names), classes, FIELDS[self.kind]))
        np.add.at(made, (self.rows[:, 0], self.rows[:, 1]), self.rows[:, 2:])
        return made

    def save(self, path: Path) -> None:
        """Write them as tensors, with the program's mark."""
        told = {"about": about(), "kind": self.kind, "names": json.dumps(self.names)}
        with replacing(path) as beside:
            save_file({"rows": self.rows}, beside, told)


def read_counts(path: Path) -> ImageCounts:
    """What `save` wrote.

    Raises:
        DataError: Another file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            told, rows = file.metadata() or {}, file.get_tensor("rows")
        names = tuple(json.loads(told["names"]))
        kind = told["kind"]
        fits = rows.ndim == 2 and rows.shape[1] == 2 + FIELDS[kind] and (rows >= 0).all()
        fits = fits and (rows[:, 0] < max(len(names), 1)).all()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); score again") from error
    if not fits:
        raise DataError(f"{path} does not hold the counts of images; score again")
    return ImageCounts(kind, names, rows)


class ImageCounter:
    """Collects the counts of images, one after the other.

    Args:
        kind: As of `ImageCounts`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.names: list[str] = []
        self.rows: list[NDArray[np.int64]] = []

    def add(self, name: str, counts: NDArray[np.int64], class_id: int | None = None) -> None:
        """Add an image, by its pixels of true and predicted class (K, K + 1); or an episode.

        Args:
            name: Of the image.
            counts: As `Metric.update` returns them.
            class_id: Of an episode, whose counts are (2, 2).
        """
        place = len(self.names)
        if class_id is not None:
            self.names.append(f"{name} {class_id}")
            self.rows.append(np.array([[place, class_id, *counts.ravel()]], dtype=np.int64))
            return
        self.names.append(name)
        hit, guess, truth = counts.diagonal(), counts[:, :-1].sum(axis=0), counts.sum(axis=1)
        present = np.flatnonzero(truth + guess)
        columns = (
            np.full(len(present), place),
            present,
            *(c[present] for c in (hit, guess, truth)),
        )
        self.rows.append(np.stack(columns, axis=1).astype(np.int64))

    def done(self) -> ImageCounts:
        """All of them."""
        empty = np.zeros((0, 2 + FIELDS[self.kind]), dtype=np.int64)
        return ImageCounts(self.kind, tuple(self.names), np.concatenate([empty, *self.rows]))


def scores_of(
    sums: NDArray[np.float64], kind: str, seen: Sequence[int], unseen: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """The protocol's scores in percent, of sums over images.

    Args:
        sums: (B, K, V), of B draws of images, the first of all images once. A class of episodes
            that the first draw has is left out of those without it.
        kind: As of `ImageCounts`.
        seen: Ids of the seen classes.
        unseen: Ids of the unseen ones.

    Returns:
        By name (B,), as `Metric.summary` computes them: mIoU, mIoU_S, mIoU_U and hIoU of classes,
        mIoU and FB_IoU of episodes; NaN where there is nothing to average.
    """
    if kind == "episodes":
        own = sums[:, list(unseen)]
        iou = own[..., 2] / np.maximum(own[..., 3], 1)
        iou[(own[..., 3] == 0) & (own[0, :, 3] > 0)] = np.nan
        both = own.sum(axis=1)
        ground = both[:, [0, 2]] / np.maximum(both[:, [1, 3]], 1)
        return {"mIoU": 100 * _mean(iou), "FB_IoU": 100 * ground.mean(axis=1)}
    union = sums[..., 1] + sums[..., 2] - sums[..., 0]
    iou = np.full(union.shape, np.nan)
    np.divide(sums[..., 0], union, out=iou, where=union > 0)
    every, one, other = (_mean(iou[:, list(ids)]) for ids in (range(iou.shape[1]), seen, unseen))
    total = one + other
    harmonic = np.where(total == 0, 0.0, 2 * one * other / np.where(total == 0, 1, total))
    scores = {"mIoU": every, "mIoU_S": one, "mIoU_U": other, "hIoU": harmonic}
    return {name: 100 * values for name, values in scores.items()}


def _mean(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over classes (B,) without NaNs; NaN where there are no others."""
    known = ~np.isnan(iou)
    count = known.sum(axis=1)
    total = np.where(known, iou, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
