"""Folds: the images to train on, and the validation images and (image, class) pairs to score.

PASCAL-5i and COCO-20i are read from HSNet's lists (`unseen.data.episodes`); doodles-5i is drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from unseen.data.classes import COCO, DOODLES, VOC
from unseen.data.episodes import (
    Episode,
    bam_list,
    coco_list,
    draw,
    find_list,
    paired,
    pascal_list,
)
from unseen.data.layouts import VOC_MASKS, require_root, voc_base
from unseen.data.pairs import Pair
from unseen.errors import DataError, SettingError
from unseen.settings import Draw
from unseen.texts import read_names

if TYPE_CHECKING:
    from unseen.data.datasets import DoodleScenes, LabelledImages, SegmentationSet

Episodes = tuple["SegmentationSet", list[Episode]]
"""Validation images, and the pairs to score."""


@dataclass(frozen=True)
class Fold(ABC):
    """One of four folds of a vocabulary, whose classes are unseen.

    Attributes:
        number: 0 to 3.
    """

    number: int
    # Constants of a data set, which its class of folds sets.
    family: ClassVar[str]
    title: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    uniform_classes: ClassVar[bool] = True
    """Whether random pairs are drawn class first (`unseen.data.episodes.draw`).

    HSNet's code does so for COCO; for PASCAL it goes through the list.
    """

    @property
    def name(self) -> str:
        """The benchmark's name, as "pascal-5i/0"."""
        return f"{self.family}/{self.number}"

    @property
    @abstractmethod
    def novel(self) -> Sequence[int]:
        """The unseen classes."""

    @property
    def base(self) -> list[int]:
        """The classes that are trained on."""
        return [i for i in range(len(self.class_names)) if i not in self.novel]

    @abstractmethod
    def open(self, root: Path | None, split: str) -> SegmentationSet:
        """The images of a split ("train" or "val")."""

    @abstractmethod
    def episodes(self, root: Path | None, how: Draw, seed: int) -> Episodes:
        """The validation images and the pairs to score.

        Args:
            root: Where the images lie.
            how: How to draw the pairs (see the head of `unseen.data.episodes`).
            seed: Of the draw.

        Raises:
            SettingError: This data set has no such draw.
        """


@dataclass(frozen=True)
class ListedFold(Fold):
    """A fold whose images and pairs HSNet's lists name.

    Attributes:
        lists: Folder of those lists; downloaded by default.
    """

    lists: Path | None = None

    @staticmethod
    @abstractmethod
    def read_list(path: Path) -> list[tuple[str, int]]:
        """The (image, class) pairs of a list."""

    @abstractmethod
    def sources(self, split: str) -> list[tuple[str, Sequence[int]]]:
        """Names of the lists of a split, each with the classes it may name."""

    @abstractmethod
    def locate(self, root: Path | None) -> Callable[[str], Pair]:
        """A function from an image's name to its files."""

    @abstractmethod
    def bam_episodes(self, root: Path | None) -> tuple[list[Pair], list[Episode]]:
        """Images and pairs by BAM's rule."""

    def open(self, root: Path | None, split: str) -> LabelledImages:
        """HSNet's images of a split; training images may show novel classes too."""
        pairs: list[Pair] = []
        for name, classes in self.sources(split):
            pairs += self._paired(name, classes, root)[0]
        # An image can be on the lists of several folds; it is trained on once, in the first place.
        return self._images(list(dict.fromkeys(pairs)))

    def episodes(self, root: Path | None, how: Draw, seed: int) -> Episodes:
        """See `Fold`."""
        if how == "bam":
            pairs, episodes = self.bam_episodes(root)
        else:
            # Training images come from up to three lists, validation images from one.
            [(name, classes)] = self.sources("val")
            pairs, episodes = self._paired(name, classes, root)
        drawn = draw(episodes, how, uniform_classes=self.uniform_classes, seed=seed)
        return self._images(pairs), drawn

    def _paired(
        self, name: str, classes: Sequence[int], root: Path | None
    ) -> tuple[list[Pair], list[Episode]]:
        locate = self.locate(root)
        path = find_list(self.lists, name)
        return paired(self.read_list(path), locate, path, classes)

    def _images(self, pairs: list[Pair]) -> LabelledImages:
        from unseen.data.datasets import LabelledImages  # imports torch

        # Pixels of no class are kept: in a fold they are the background of every query class.
        return LabelledImages(pairs, len(self.class_names), background=0, keep_background=True)


class PascalFold(ListedFold):
    """A fold of PASCAL-5i: five classes in a row."""

    family = "pascal-5i"
    title = "PASCAL-5i"
    class_names = VOC
    uniform_classes = False
    read_list = staticmethod(pascal_list)

    @property
    def novel(self) -> range:
        """The unseen classes."""
        return self._classes_of(self.number)

    @staticmethod
    def _classes_of(number: int) -> range:
        return range(5 * number, 5 * number + 5)

    def sources(self, split: str) -> list[tuple[str, Sequence[int]]]:
        """The fold's own list for validation, the other folds' for training."""
        if split == "val":
            return [(f"pascal/val/fold{self.number}.txt", self.novel)]
        # Training list i names images with classes of fold i, so the other three are trained on.
        others = [number for number in range(4) if number != self.number]
        return [(f"pascal/trn/fold{number}.txt", self._classes_of(number)) for number in others]

    def locate(self, root: Path | None) -> Callable[[str], Pair]:
        """See `ListedFold`."""
        return partial(voc_fold_pair, voc_base(require_root(root, self.name)))

    def bam_episodes(self, root: Path | None) -> tuple[list[Pair], list[Episode]]:
        """BAM's rule on PASCAL VOC's own list of validation images."""
        locate = self.locate(root)
        base = voc_base(require_root(root, self.name))
        source = base / "ImageSets" / "Segmentation" / "val.txt"
        if not source.is_file():
            raise DataError(f"{source} is missing; restore PASCAL VOC's list of validation images")
        pairs = [locate(stem) for stem in read_names(source)]
        return bam_list(pairs, len(VOC), self.novel)


class CocoFold(ListedFold):
    """A fold of COCO-20i: every fourth class."""

    family = "coco-20i"
    title = "COCO-20i"
    class_names = COCO
    read_list = staticmethod(coco_list)

    @property
    def novel(self) -> range:
        """The unseen classes."""
        return range(self.number, len(COCO), 4)

    def sources(self, split: str) -> list[tuple[str, Sequence[int]]]:
        """The fold's list of the split."""
        if split == "val":
            return [(f"coco/val/fold{self.number}.pkl", self.novel)]
        return [(f"coco/trn/fold{self.number}.pkl", self.base)]

    def locate(self, root: Path | None) -> Callable[[str], Pair]:
        """See `ListedFold`."""
        return partial(coco_fold_pair, require_root(root, self.name))

    def bam_episodes(self, root: Path | None) -> tuple[list[Pair], list[Episode]]:
        """Always refused: BAM's draw cannot be repeated for COCO."""
        raise SettingError(
            "BAM's draw follows the order of BAM's COCO list, which has no stable address; choose"
            " --episodes all, hsnet or sazs"
        )


class DoodlesFold(Fold):
    """A fold of Doodles: every fourth class."""

    family = "doodles-5i"
    title = "Doodles"
    class_names = DOODLES

    @property
    def novel(self) -> range:
        """The unseen classes."""
        return range(self.number, len(DOODLES), 4)

    def open(self, root: Path | None, split: str) -> DoodleScenes:
        """Training scenes show seen classes alone, validation scenes all classes."""
        from unseen.data.datasets import DoodleScenes  # imports torch

        # Unseen classes are not even drawn: here training images can truly be free of them.
        seen = tuple(self.base) if split == "train" else None
        return DoodleScenes.of_split(split, classes=seen, keep_background=True)

    def episodes(self, root: Path | None, how: Draw, seed: int) -> Episodes:
        """See `Fold`."""
        if how == "bam":
            raise SettingError(
                "BAM's draw is made for photographs, whose objects may be small, and PASCAL-5i's"
                " list; choose --episodes all, hsnet or sazs"
            )
        scenes = self.open(root, "val")
        # A scene is drawn whenever it is read, so every one is read once.
        labels_by_scene = [set(scenes[i].labels.flatten().tolist()) for i in range(len(scenes))]
        episodes = [
            Episode(index, class_id)
            for index, labels in enumerate(labels_by_scene)
            for class_id in self.novel
            if class_id in labels
        ]
        return scenes, draw(episodes, how, uniform_classes=self.uniform_classes, seed=seed)


def voc_fold_pair(base: Path, stem: str) -> Pair:
    """Where image and mask of a PASCAL fold lie.

    The mask is VOC's own, in `SegmentationClass`, else that in `SegmentationClassAug`. Some folders
    of augmented masks hold SBD's masks, which ignore no pixels, for images that have masks of VOC's
    own.
    """
    # Of the two folders, that of VOC itself is looked into first.
    masks = [base / folder / f"{stem}.png" for folder in VOC_MASKS]
    # Where neither exists, the first is named in the message about missing files.
    mask = next((path for path in masks if path.is_file()), masks[0])
    return Pair(base / "JPEGImages" / f"{stem}.jpg", mask)


def coco_fold_pair(root: Path, image: str) -> Pair:
    """Where image and mask of a COCO fold lie.

    Args:
        root: The COCO2014 folder, or the one above it.
        image: As "val2014/NAME.jpg".
    """
    base = root
    if (root / "COCO2014").is_dir():
        base = root / "COCO2014"
    # Masks lie in the same tree as images, below annotations/.
    return Pair(base / image, (base / "annotations" / image).with_suffix(".png"))
