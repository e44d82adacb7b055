"""Labelled images as data sets: an image, its label map, its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from unseen.data.doodles import draw
from unseen.data.pairs import Pair
from unseen.errors import DataError
from unseen.images import read_image, read_labels
from unseen.labels import BACKGROUND, IGNORE, index_to_label


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        image: (3, H, W) uint8, RGB.
        labels: (H, W) int64, labels of the vocabulary (`unseen.labels`), or 255; where the
            background counts also `BACKGROUND`.
        name: Of the image, without folder and suffix.
    """

    image: Tensor
    labels: Tensor
    name: str


class SegmentationSet(Dataset[Sample], ABC):
    """Labelled images by number. Reading a sample twice gives the same sample."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def labels(self, index: int) -> Tensor:
        """The labels of a sample; sets that can read them without the image do so."""
        return self[index].labels


class LabelledImages(SegmentationSet):
    """Image files with label maps.

    Label maps are PNGs of 8 bits, where 255 is ignored, or of 16 bits, where 65535 is ignored.

    Args:
        pairs: The files.
        num_classes: Size of the vocabulary.
        background: 0 if the masks store a background as 0, so that ids start at 1; None if ids
            start at 0.
        keep_background: Give the background the label `BACKGROUND` instead of ignoring it.
        ignored_ids: Further stored ids that are no class, but in the midst of those or behind them.
        others: What ids behind the classes are, and ignored pixels: a mistake ("refuse"; ignored
            pixels stay so), or the "background".
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        num_classes: int,
        background: int | None = None,
        *,
        keep_background: bool = False,
        ignored_ids: Collection[int] = (),
        others: Literal["refuse", "background"] = "refuse",
    ) -> None:
        self.pairs, self.num_classes, self.others = list(pairs), num_classes, others
        self.background = background
        # Masks with a background as 0 count their classes from 1.
        self.first_id = 1 if background == 0 else 0
        count = self.first_id + num_classes + len(ignored_ids)
        classes = [i for i in range(self.first_id, count) if i not in ignored_ids]
        self.labels_by_id = torch.full((count,), IGNORE)
        self.labels_by_id[classes] = index_to_label(torch.arange(num_classes))
        if self.first_id and keep_background:
            self.labels_by_id[0] = BACKGROUND
        self._tables: dict[np.dtype[Any], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, stored = read_image(pair.image), read_labels(pair.labels)
        # A mask of another size would be cropped and shifted against its image without an error.
        if stored.shape != image.shape[:2]:
            raise DataError(
                f"the label map {pair.labels} is {stored.shape[1]}x{stored.shape[0]} pixels, its"
                f" image {image.shape[1]}x{image.shape[0]}; make the mask again at the image's"
                " size, with nearest-neighbour resizing"
            )
        labels = self._labels(stored, pair.labels)
        # The transforms expect channels first, as torchvision does.
        return Sample(torch.from_numpy(image).permute(2, 0, 1), labels, pair.image.stem)

    def labels(self, index: int) -> Tensor:
        """The labels of a sample, without reading its image."""
        path = self.pairs[index].labels
        return self._labels(read_labels(path), path)

    def _labels(self, stored: NDArray[Any], path: Path) -> Tensor:
        """Labels of the vocabulary, from stored ids."""
        labels = self._table(stored.dtype).take(stored)
        # An id above the list would silently become another class, or a special value.
        if labels.size and labels.min() == _UNLISTED:
            last = len(self.labels_by_id) - 1
            valid = f"0 to {last}"
            if self.first_id:
                valid = f"1 to {last}, 0 for background"
            raise DataError(
                f"the label map {path} holds the id {int(stored[labels == _UNLISTED][0])}; valid"
                f" are {valid} and {ignored_value(stored)} for ignored pixels: correct the mask or"
                " the list of classes"
            )
        return torch.from_numpy(labels)

    def _table(self, kind: np.dtype[Any]) -> NDArray[np.int64]:
        """The label of every id that an unsigned type can hold."""
        if kind not in self._tables:
            count = int(np.iinfo(kind).max) + 1
            refused = self.others == "refuse"
            table = np.full(count, _UNLISTED if refused else BACKGROUND)
            listed = self.labels_by_id.numpy()[:count]
            table[: len(listed)] = listed
            # Ignored pixels last: where there are many classes, their value is that of one too.
            if refused:
                table[-1] = IGNORE
            self._tables[kind] = table
        return self._tables[kind]


_UNLISTED = -1
"""In place of a label: an id that is no class."""


def ignored_value(stored: NDArray[Any]) -> int:
    """The value of ignored pixels in a stored label map: the highest that its bits can hold."""
    return int(np.iinfo(stored.dtype).max)


class DoodleScenes(SegmentationSet):
    """Synthetic scenes of Doodles, drawn when they are read.

    Args:
        seed: Of all scenes; the same seed gives the same scenes.
        count: Number of scenes.
        size: Side in pixels.
        min_things: Fewest objects in a scene.
        max_things: Most objects in a scene.
        classes: Ids of the classes whose objects are drawn; all by default.
        keep_background: Give the background the label `BACKGROUND` instead of ignoring it.
    """

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        seed: int,
        count: int,
        *,
        size: int,
        min_things: int,
        max_things: int,
        classes: tuple[int, ...] | None = None,
        keep_background: bool = False,
    ) -> None:
        self.seed, self.count, self.size, self.things = seed, count, size, (min_things, max_things)
        self.classes, self.keep_background = classes, keep_background

    @classmethod
    def of_split(
        cls,
        split: str,
        *,
        classes: tuple[int, ...] | None = None,
        keep_background: bool = False,
    ) -> DoodleScenes:
        """The benchmarks' scenes: 20 000 of seed 1 for training, 500 of seed 3 for validation."""
        # Different seeds, so that no scene of training is a scene of validation.
        seed, count = {"train": (1, 20_000), "val": (3, 500)}[split]
        return cls(
            seed,
            count,
            size=96,
            min_things=2,
            max_things=4,
            classes=classes,
            keep_background=keep_background,
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        # Any index could be drawn; without an IndexError, `for sample in scenes` would never end.
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = draw(
            self.seed,
            index,
            size=self.size,
            min_things=self.things[0],
            max_things=self.things[1],
            classes=self.classes,
        )
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        labels = torch.from_numpy(scene.labels.astype(np.int64))
        # Scenes are drawn with an ignored background.
        if self.keep_background:
            labels = torch.where(labels == IGNORE, BACKGROUND, labels)
        return Sample(image, labels, f"scene-{self.seed}-{index}")
