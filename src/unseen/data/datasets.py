"""Folder layouts to samples: a picture, its label map, its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unseen.data.doodles import draw
from unseen.errors import DataError
from unseen.files import read_image, read_labels
from unseen.labels import BACKGROUND, IGNORE, reduce_zero_label


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        image: (3, H, W) uint8, RGB.
        labels: (H, W) int64, ids of the vocabulary, or 255; in folds also `BACKGROUND`.
        name: Of the picture, without folder and suffix.
    """

    image: Tensor
    labels: Tensor
    name: str


class SegmentationSet(Dataset[Sample], ABC):
    """Labelled pictures by number. Reading a sample twice gives the same sample."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class Pair:
    """Where a sample lies."""

    image: Path
    labels: Path


class LabelledImages(SegmentationSet):
    """Picture files with label PNGs.

    Args:
        pairs: Where they lie.
        num_classes: Size of the vocabulary.
        background: 0 if the masks store a background as 0, so that ids start at 1; None if ids start at 0.
        keep_background: Give the background the label `BACKGROUND` instead of making it void.
    """

    def __init__(self, pairs: Sequence[Pair], num_classes: int, background: int | None = None, *, keep_background: bool = False) -> None:
        self.pairs, self.num_classes, self.background, self.keep_background = list(pairs), num_classes, background, keep_background

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, stored = read_image(pair.image), read_labels(pair.labels)
        if stored.shape != image.shape[:2]:
            raise DataError(
                f"the label map {pair.labels} is {stored.shape[1]}x{stored.shape[0]} pixels, its picture {image.shape[1]}x{image.shape[0]}; "
                "make the mask again at the picture's size, with nearest-neighbour resizing"
            )
        labels = torch.from_numpy(stored).long()
        if self.background == 0:
            labels = reduce_zero_label(labels)
        odd = labels[(labels >= self.num_classes) & (labels != IGNORE)]
        if len(odd) > 0:
            value = int(odd[0]) + (1 if self.background == 0 else 0)
            known = f"1 to {self.num_classes}, 0 for background" if self.background == 0 else f"0 to {self.num_classes - 1}"
            raise DataError(f"the label map {pair.labels} holds the id {value}; known are {known} and 255 for void: correct the mask or the list of classes")
        if self.keep_background:
            labels = torch.where(torch.from_numpy(stored) == 0, BACKGROUND, labels)
        return Sample(torch.from_numpy(image).permute(2, 0, 1), labels, pair.image.stem)


class DoodleScenes(SegmentationSet):
    """Scenes of the embedded world, drawn when asked for.

    Args:
        seed: Of the world.
        count: Scenes.
        size: Side in pixels.
        min_things: Fewest things in a scene.
        max_things: Most things in a scene.
        words: Ids of the things that are drawn; all by default.
        keep_background: Give the background the label `BACKGROUND` instead of making it void.
    """

    def __init__(
        self, seed: int, count: int, *, size: int, min_things: int, max_things: int, words: tuple[int, ...] | None = None, keep_background: bool = False
    ) -> None:
        self.seed, self.count, self.size, self.things = seed, count, size, (min_things, max_things)
        self.words, self.keep_background = words, keep_background

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = draw(self.seed, index, size=self.size, min_things=self.things[0], max_things=self.things[1], words=self.words)
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        labels = torch.from_numpy(scene.labels.astype(np.int64))
        if self.keep_background:
            labels = torch.where(labels == IGNORE, BACKGROUND, labels)
        return Sample(image, labels, f"scene-{self.seed}-{index}")


def voc_base(root: Path) -> Path:
    """The VOC2012 folder, given it or one above it.

    Raises:
        DataError: There is none.
    """
    base = next((p for p in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012") if (p / "JPEGImages").is_dir()), None)
    if base is None:
        raise DataError(f"{root} is not PASCAL VOC's folder (no JPEGImages in it); give the VOC2012 folder with --root")
    return base


def voc_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of PASCAL VOC 2012 in mmsegmentation's layout; `root` is the VOC2012 folder or one above it.

    Training pairs are `train.txt` with `SegmentationClass` followed by `aug.txt` with `SegmentationClassAug`, as the released codes read
    them; where those lists are not there, `trainaug.txt` with `SegmentationClassAug`. A mask missing from its folder is looked for in the
    other.

    Raises:
        DataError: A folder or list that is not there, or a picture without mask.
    """
    base = voc_base(root)
    lists, masks = base / "ImageSets" / "Segmentation", ("SegmentationClass", "SegmentationClassAug")
    sources = [("val", masks[0])]
    if split == "train":
        sources = [("train", masks[0]), ("aug", masks[1])] if (lists / "train.txt").exists() and (lists / "aug.txt").exists() else [("trainaug", masks[1])]
    pairs = []
    for name, first in sources:
        file = lists / f"{name}.txt"
        if not file.exists():
            raise DataError(f"{file} is missing; restore PASCAL VOC's lists (for training: train.txt and aug.txt, or trainaug.txt)")
        for stem in file.read_text().split():
            found = next((p for p in (base / folder / f"{stem}.png" for folder in (first, *masks)) if p.exists()), None)
            if found is None:
                raise DataError(f"{stem}, listed in {file}, has no mask in {masks[0]} or {masks[1]}; restore it or take it off the list")
            pairs.append(Pair(base / "JPEGImages" / f"{stem}.jpg", found))
    return pairs


def coco_stuff_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of COCO-Stuff 164K in mmsegmentation's layout; `root` holds images/ and annotations/.

    Raises:
        DataError: A folder that is not there, or a picture without mask.
    """
    folder = "train2017" if split == "train" else "val2017"
    images, masks = root / "images" / folder, root / "annotations" / folder
    for place in (images, masks):
        if not place.is_dir():
            raise DataError(f"{root} is not COCO-Stuff's folder (no {place.relative_to(root)} in it); give the folder of images and annotations with --root")
    pairs = [Pair(image, masks / f"{image.stem}_labelTrainIds.png") for image in sorted(images.glob("*.jpg"))]
    missing = next((pair.labels for pair in pairs if not pair.labels.is_file()), None)
    if missing is not None or not pairs:
        what = f"{missing} is missing" if missing else f"{images} holds no pictures"
        raise DataError(f"{what}; make the masks with training ids (*_labelTrainIds.png) from stuffthingmaps, or complete the download")
    return pairs


def context_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of PASCAL Context in mmsegmentation's layout; `root` is the VOC2010 folder or one above it.

    Raises:
        DataError: A folder or list that is not there, or a picture without mask.
    """
    base = next((p for p in (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010") if (p / "SegmentationClassContext").is_dir()), None)
    if base is None:
        raise DataError(f"{root} is not PASCAL Context's folder (no SegmentationClassContext in it); give the VOC2010 folder with --root")
    file = base / "ImageSets" / "SegmentationContext" / f"{'train' if split == 'train' else 'val'}.txt"
    if not file.is_file():
        raise DataError(f"{file} is missing; restore PASCAL Context's lists")
    pairs = [Pair(base / "JPEGImages" / f"{stem}.jpg", base / "SegmentationClassContext" / f"{stem}.png") for stem in file.read_text().split()]
    missing = next((pair.labels for pair in pairs if not pair.labels.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing}, listed in {file}, is missing; restore it or take it off the list")
    return pairs


def voc_fold_pair(base: Path, stem: str) -> Pair:
    """Where picture and mask of a PASCAL fold lie: the mask in `SegmentationClass`, VOC's own, else in `SegmentationClassAug`.

    Some folders of augmented masks hold SBD's masks, without void, for pictures that have masks of VOC's own.
    """
    masks = [base / folder / f"{stem}.png" for folder in ("SegmentationClass", "SegmentationClassAug")]
    return Pair(base / "JPEGImages" / f"{stem}.jpg", next((path for path in masks if path.is_file()), masks[0]))


def coco_fold_pair(root: Path, picture: str) -> Pair:
    """Where picture and mask of a COCO fold lie, `root` being the COCO2014 folder or the one above it; `picture` as "val2014/NAME.jpg"."""
    base = root / "COCO2014" if (root / "COCO2014").is_dir() else root
    return Pair(base / picture, (base / "annotations" / picture).with_suffix(".png"))
