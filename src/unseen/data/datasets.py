"""Folder layouts to samples: an image, its label map, its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from unseen.data.doodles import draw
from unseen.errors import DataError
from unseen.files import read_image, read_labels
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


Background = Literal["ignore", "class", "threshold", "rest"]
"""What becomes of labelled pixels that show none of the classes. "ignore": they are void; "class":
the background is a word of the vocabulary; "threshold": it is scored as a class that no word asks
for, predicted where no word is confident enough; "rest": folds, where it is all that is not the
word asked for."""


@dataclass(frozen=True)
class Pair:
    """Where a sample lies."""

    image: Path
    labels: Path


class LabelledImages(SegmentationSet):
    """Image files with label maps: PNGs of 8 bits, whose 255 is void, or of 16 bits, whose 65535
    is.

    Args:
        pairs: Where they lie.
        num_classes: Size of the vocabulary.
        background: 0 if the masks store a background as 0, so that ids start at 1; None if ids
            start at 0.
        keep_background: Give the background the label `BACKGROUND` instead of making it void.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        num_classes: int,
        background: int | None = None,
        *,
        keep_background: bool = False,
    ) -> None:
        self.pairs, self.num_classes, self.background, self.keep_background = (
            list(pairs),
            num_classes,
            background,
            keep_background,
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, stored = read_image(pair.image), read_labels(pair.labels)
        if stored.shape != image.shape[:2]:
            raise DataError(
                f"the label map {pair.labels} is {stored.shape[1]}x{stored.shape[0]} pixels, its"
                f" image {image.shape[1]}x{image.shape[0]}; make the mask again at the image's"
                " size, with nearest-neighbour resizing"
            )
        ids, void, first = (
            torch.from_numpy(stored.astype(np.int64)),
            void_of(stored),
            1 if self.background == 0 else 0,
        )
        odd = ids[(ids >= self.num_classes + first) & (ids != void)]
        if len(odd) > 0:
            known = (
                f"1 to {self.num_classes}, 0 for background"
                if first
                else f"0 to {self.num_classes - 1}"
            )
            raise DataError(
                f"the label map {pair.labels} holds the id {int(odd[0])}; known are {known} and"
                f" {void} for void: correct the mask or the list of classes"
            )
        labels = torch.where(ids == void, IGNORE, index_to_label(ids - first))
        if first:
            labels = torch.where(ids == 0, BACKGROUND if self.keep_background else IGNORE, labels)
        return Sample(torch.from_numpy(image).permute(2, 0, 1), labels, pair.image.stem)


def void_of(stored: NDArray[Any]) -> int:
    """The value of void pixels in a stored label map: the highest its bits can hold."""
    return int(np.iinfo(stored.dtype).max)


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
        self,
        seed: int,
        count: int,
        *,
        size: int,
        min_things: int,
        max_things: int,
        words: tuple[int, ...] | None = None,
        keep_background: bool = False,
    ) -> None:
        self.seed, self.count, self.size, self.things = seed, count, size, (min_things, max_things)
        self.words, self.keep_background = words, keep_background

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = draw(
            self.seed,
            index,
            size=self.size,
            min_things=self.things[0],
            max_things=self.things[1],
            words=self.words,
        )
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
    base = next(
        (
            p
            for p in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
            if (p / "JPEGImages").is_dir()
        ),
        None,
    )
    if base is None:
        raise DataError(
            f"{root} is not PASCAL VOC's folder (no JPEGImages in it); give the VOC2012 folder with"
            " --root"
        )
    return base


def voc_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of PASCAL VOC 2012 in mmsegmentation's layout; `root` is the VOC2012 folder or one
    above it.

    Training pairs are `train.txt` with `SegmentationClass` followed by `aug.txt` with
    `SegmentationClassAug`, as the released codes read them; where those lists are not there,
    `trainaug.txt` with `SegmentationClassAug`. A mask missing from its folder is looked for in the
    other.

    Raises:
        DataError: A folder or list that is not there, or an image without mask.
    """
    base = voc_base(root)
    lists, masks = (
        base / "ImageSets" / "Segmentation",
        (
            "SegmentationClass",
            "SegmentationClassAug",
        ),
    )
    sources = [("val", masks[0])]
    if split == "train":
        sources = (
            [("train", masks[0]), ("aug", masks[1])]
            if (lists / "train.txt").exists() and (lists / "aug.txt").exists()
            else [("trainaug", masks[1])]
        )
    pairs = []
    for name, first in sources:
        file = lists / f"{name}.txt"
        if not file.exists():
            raise DataError(
                f"{file} is missing; `unseen prepare voc` makes PASCAL VOC's lists (for training:"
                " train.txt and aug.txt, or trainaug.txt)"
            )
        for stem in file.read_text().split():
            found = next(
                (
                    p
                    for p in (base / folder / f"{stem}.png" for folder in (first, *masks))
                    if p.exists()
                ),
                None,
            )
            if found is None:
                raise DataError(
                    f"{stem}, listed in {file}, has no mask in {masks[0]} or {masks[1]}; restore it"
                    " or take it off the list"
                )
            pairs.append(Pair(base / "JPEGImages" / f"{stem}.jpg", found))
    return pairs


def coco_stuff_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of COCO-Stuff 164K in mmsegmentation's layout; `root` holds images/ and
    annotations/.

    Raises:
        DataError: A folder that is not there, or an image without mask.
    """
    folder = "train2017" if split == "train" else "val2017"
    images, masks = root / "images" / folder, root / "annotations" / folder
    for place in (images, masks):
        if not place.is_dir():
            raise DataError(
                f"{root} is not COCO-Stuff's folder (no {place.relative_to(root)} in it); give the"
                " folder of images and annotations with --root"
            )
    hint = (
        "make it whole with `unseen prepare coco-stuff`, which makes the masks with training ids"
        " (*_labelTrainIds.png) too"
    )
    return _complete(
        [
            Pair(image, masks / f"{image.stem}_labelTrainIds.png")
            for image in _finished(images, "*.jpg")
        ],
        images,
        hint,
    )


def ade_pairs(root: Path, split: str, *, full: bool = False) -> list[Pair]:
    """The pairs of ADE20K in mmsegmentation's layout; `root` holds images/ and annotations/, or is
    the folder above.

    Args:
        root: ADEChallengeData2016, or the full ADE20K with 16-bit label maps (PNG or TIFF), whose
            folders may be called `images_detectron2` and `annotations_detectron2`, as MaskFormer's
            preparation calls them.
        split: "train" or "val".
        full: Which of the two.

    Raises:
        DataError: A folder that is not there, or an image without mask.
    """
    part, set_ = (
        "training" if split == "train" else "validation",
        ("ADE20K_2021_17_01" if full else "ADEChallengeData2016"),
    )
    known = [
        (base, ending)
        for base in (root, root / set_, root / "ade" / set_)
        for ending in (("_detectron2", "") if full else ("",))
    ]
    found = next(
        (
            (b / f"images{ending}" / part, b / f"annotations{ending}" / part)
            for b, ending in known
            if (b / f"images{ending}").is_dir()
        ),
        None,
    )
    if found is None or not all(place.is_dir() for place in found):
        raise DataError(
            f"{root} is not ADE20K's folder (no images/{part} and annotations/{part} in it); give"
            f" the {set_} folder with --root"
        )
    images, masks = found
    suffix = ".tif" if full and next(masks.glob("*.tif"), None) else ".png"
    hint = f"make it whole with `unseen prepare ade20k-{847 if full else 150}`"
    return _complete(
        [Pair(image, masks / f"{image.stem}{suffix}") for image in _finished(images, "*.jpg")],
        images,
        hint,
    )


def cityscapes_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of Cityscapes; `root` holds leftImg8bit/ and gtFine/, or is the folder above.

    Raises:
        DataError: A folder that is not there, or an image without mask of training ids.
    """
    base = root / "cityscapes" if (root / "cityscapes" / "leftImg8bit").is_dir() else root
    images, masks = base / "leftImg8bit" / split, base / "gtFine" / split
    for place in (images, masks):
        if not place.is_dir():
            raise DataError(
                f"{root} is not Cityscapes' folder (no {place.relative_to(base)} in it); give the"
                " folder of leftImg8bit and gtFine with --root"
            )
    ending, mask = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"
    found = _finished(images, f"*/*{ending}")
    pairs = [
        Pair(image, masks / image.parent.name / f"{image.name.removesuffix(ending)}{mask}")
        for image in found
    ]
    return _complete(
        pairs,
        images,
        "make it whole with `unseen prepare cityscapes`, which makes the masks with training ids"
        " (*_labelTrainIds.png) too",
    )


def _finished(folder: Path, pattern: str) -> list[Path]:
    """The files that fit, in order; names that begin with a dot are files being written, or what is
    left of them.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _complete(pairs: list[Pair], images: Path, hint: str) -> list[Pair]:
    """The pairs, if there are any and none lacks its mask."""
    missing = next((pair.labels for pair in pairs if not pair.labels.is_file()), None)
    if missing is not None or not pairs:
        raise DataError(
            f"{f'{missing} is missing' if missing else f'{images} holds no pictures'}; {hint}"
        )
    return pairs


def context_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of PASCAL Context in mmsegmentation's layout; `root` is the VOC2010 folder or one
    above it.

    Raises:
        DataError: A folder or list that is not there, or an image without mask.
    """
    base = next(
        (
            p
            for p in (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010")
            if (p / "SegmentationClassContext").is_dir()
        ),
        None,
    )
    if base is None:
        raise DataError(
            f"{root} is not PASCAL Context's folder (no SegmentationClassContext in it); give the"
            " VOC2010 folder with --root"
        )
    file = (
        base / "ImageSets" / "SegmentationContext" / f"{'train' if split == 'train' else 'val'}.txt"
    )
    if not file.is_file():
        raise DataError(f"{file} is missing; `unseen prepare context` makes PASCAL Context's lists")
    pairs = [
        Pair(base / "JPEGImages" / f"{stem}.jpg", base / "SegmentationClassContext" / f"{stem}.png")
        for stem in file.read_text().split()
    ]
    missing = next((pair.labels for pair in pairs if not pair.labels.is_file()), None)
    if missing is not None:
        raise DataError(
            f"{missing}, listed in {file}, is missing; restore it or take it off the list"
        )
    return pairs


def voc_fold_pair(base: Path, stem: str) -> Pair:
    """Where image and mask of a PASCAL fold lie: the mask in `SegmentationClass`, VOC's own, else
    in `SegmentationClassAug`.

    Some folders of augmented masks hold SBD's masks, without void, for images that have masks of
    VOC's own.
    """
    masks = [
        base / folder / f"{stem}.png" for folder in ("SegmentationClass", "SegmentationClassAug")
    ]
    return Pair(
        base / "JPEGImages" / f"{stem}.jpg",
        next((path for path in masks if path.is_file()), masks[0]),
    )


def coco_fold_pair(root: Path, picture: str) -> Pair:
    """Where image and mask of a COCO fold lie, `root` being the COCO2014 folder or the one above
    it; `image` as "val2014/NAME.jpg".
    """
    base = root / "COCO2014" if (root / "COCO2014").is_dir() else root
    return Pair(base / picture, (base / "annotations" / picture).with_suffix(".png"))
