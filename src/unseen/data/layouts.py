"""Folder layouts of published data sets: from a root and a split to pairs of image and label map.

`Layout` makes labelled images of such pairs; `unseen.data.folds` does the same for folds, and
`unseen.data.own.layout` for a folder of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unseen.data.classes import COCO
from unseen.data.pairs import Background, Pair
from unseen.errors import DataError
from unseen.texts import read_names

if TYPE_CHECKING:
    from unseen.data.datasets import LabelledImages


@dataclass(frozen=True)
class Layout:
    """How a benchmark's folder becomes labelled images.

    Attributes:
        name: Of the benchmark, for messages.
        pairs: From root and split to the files.
        num_classes: Classes that label maps store, without a background.
        background: How pixels stored as 0 are treated, which ids 1..num_classes then follow; None
            where ids 0..num_classes - 1 are the classes.
        excluded_ids: Training images that contain one of these stored ids are left out.
    """

    name: str
    pairs: Callable[[Path, str], list[Pair]]
    num_classes: int
    background: Background | None = None
    excluded_ids: tuple[int, ...] = ()

    def open(self, root: Path | None, split: str) -> LabelledImages:
        """The images of a split ("train" or "val").

        Raises:
            DataError: There is no root, its layout is another, or every training image contains an
                excluded id.
        """
        pairs = self.pairs(require_root(root, self.name), split)
        if not pairs:
            raise DataError(
                f"the list of {split} images of {self.name} in {root} is empty; restore it"
            )
        if split == "train" and self.excluded_ids:
            pairs = pairs_without(pairs, self.excluded_ids)
        return labelled_images(pairs, self.num_classes, self.background)


def require_root(root: Path | None, name: str) -> Path:
    """The root that a benchmark needs.

    Raises:
        DataError: No folder is given, or it does not exist.
    """
    if root is None:
        raise DataError(
            f"the benchmark {name} needs its images; give their folder with --root FOLDER"
            " (`unseen prepare` puts them there)"
        )
    if not root.is_dir():
        raise DataError(
            f"the folder {root} given with --root does not exist; check the path (`unseen prepare`"
            " puts images there)"
        )
    return root


def labelled_images(
    pairs: list[Pair],
    num_classes: int,
    background: Background | None,
    ignored_ids: tuple[int, ...] = (),
) -> LabelledImages:
    """Labelled images whose pixels stored as 0 are treated as `background` (see `Layout`).

    Args:
        pairs: The files.
        num_classes: Without a background.
        background: None where ids start at 0.
        ignored_ids: Further stored ids that are no class.
    """
    from unseen.data.datasets import LabelledImages  # imports torch

    if background is None:
        return LabelledImages(pairs, num_classes, ignored_ids=ignored_ids)
    # As a class, the background is the first one, and stored ids are indices of the vocabulary.
    if background == "class":
        return LabelledImages(pairs, num_classes + 1)
    # "threshold" and "rest" score the background, so its pixels need a label.
    keep = background != "ignore"
    return LabelledImages(
        pairs, num_classes, background=0, keep_background=keep, ignored_ids=ignored_ids
    )


def open_coco_object(root: Path | None, split: str) -> LabelledImages:
    """COCO-Object: the things of COCO-Stuff's label maps; everything else is background.

    Raises:
        DataError: As for COCO-Stuff.
    """
    from unseen.data.datasets import LabelledImages  # imports torch

    pairs = coco_stuff_pairs(require_root(root, "coco-object"), split)
    return LabelledImages(pairs, len(COCO), others="background")


def pairs_without(pairs: list[Pair], ids: tuple[int, ...]) -> list[Pair]:
    """The pairs whose label maps hold none of the stored ids; reads all of them, over all cores.

    Raises:
        DataError: Every image contains one of the ids.
    """
    # Help and refusals, which name benchmarks, do without.
    import numpy as np

    from unseen.images import read_labels

    def contains_ids(pair: Pair) -> bool:
        return bool(np.isin(read_labels(pair.labels), ids).any())

    # Decoding PNGs releases Python's lock, so threads use all cores.
    with ThreadPoolExecutor() as pool:
        excluded = list(pool.map(contains_ids, pairs))
    kept = [pair for pair, is_excluded in zip(pairs, excluded, strict=True) if not is_excluded]
    if not kept:
        raise DataError(
            f"every one of the {len(pairs)} training images shows an unseen class, so none is"
            " left to train on; add images"
        )
    return kept


# ------------------------------------------------------------------------ PASCAL


def voc_base(root: Path) -> Path:
    """The VOC2012 folder, given it or one above it.

    Raises:
        DataError: None of these folders holds images of VOC.
    """
    base = _holding("JPEGImages", (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"))
    if base is None:
        raise DataError(
            f"{root} is not PASCAL VOC's folder (no JPEGImages in it); give the VOC2012 folder with"
            " --root"
        )
    return base


VOC_MASKS = ("SegmentationClass", "SegmentationClassAug")
"""Folders of VOC's own masks, and of those augmented by SBD's."""


def voc_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of PASCAL VOC 2012 in mmsegmentation's layout.

    Training pairs are `train.txt` with `SegmentationClass` followed by `aug.txt` with
    `SegmentationClassAug`, as the released codes read them. Without these two lists they are
    `trainaug.txt` with `SegmentationClassAug`. If a mask is missing from its folder, that of the
    other folder is taken.

    Args:
        root: The VOC2012 folder, or one above it.
        split: "train" or "val".

    Raises:
        DataError: A folder or list is missing, or an image has no mask.
    """
    base = voc_base(root)
    lists = base / "ImageSets" / "Segmentation"
    own, augmented = VOC_MASKS
    # The order of the training images decides about the batches, so it follows the released codes.
    sources = [("val", own)]
    if split == "train":
        both = (lists / "train.txt").exists() and (lists / "aug.txt").exists()
        sources = [("trainaug", augmented)]
        if both:
            sources = [("train", own), ("aug", augmented)]
    pairs = []
    for name, first_folder in sources:
        file = lists / f"{name}.txt"
        if not file.exists():
            raise DataError(
                f"{file} is missing; `unseen prepare voc` makes PASCAL VOC's lists (for training:"
                " train.txt and aug.txt, or trainaug.txt)"
            )
        for stem in read_names(file):
            # Some tools put all masks into SegmentationClassAug, others only those of SBD.
            mask = _first_file(
                base / folder / f"{stem}.png" for folder in (first_folder, *VOC_MASKS)
            )
            if mask is None:
                raise DataError(
                    f"{stem}, listed in {file}, has no mask in {own} or {augmented}; restore it or"
                    " take it off the list"
                )
            pairs.append(Pair(base / "JPEGImages" / f"{stem}.jpg", mask))
    return pairs


def context_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of PASCAL Context in mmsegmentation's layout.

    Args:
        root: The VOC2010 folder, or one above it.
        split: "train" or "val".

    Raises:
        DataError: A folder or list is missing, or an image has no mask.
    """
    masks = "SegmentationClassContext"
    base = _holding(masks, (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010"))
    if base is None:
        raise DataError(
            f"{root} is not PASCAL Context's folder (no {masks} in it); give the VOC2010 folder"
            " with --root"
        )
    file = base / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    if not file.is_file():
        raise DataError(f"{file} is missing; `unseen prepare context` makes PASCAL Context's lists")
    pairs = [
        Pair(base / "JPEGImages" / f"{stem}.jpg", base / masks / f"{stem}.png")
        for stem in read_names(file)
    ]
    # Images are not looked for: reading one that is missing gives a clear message.
    missing = _missing_labels(pairs)
    if missing is not None:
        raise DataError(
            f"{missing}, listed in {file}, is missing; restore it or take it off the list"
        )
    return pairs


# ---------------------------------------------------------------- other data sets


def coco_stuff_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of COCO-Stuff 164K in mmsegmentation's layout.

    Args:
        root: Holds images/ and annotations/.
        split: "train" or "val".

    Raises:
        DataError: A folder is missing, or an image has no mask.
    """
    folder = f"{split}2017"
    images, masks = root / "images" / folder, root / "annotations" / folder
    _require_folders(root, (images, masks), "COCO-Stuff's folder", "images and annotations")
    # The same folder holds the raw masks (NAME.png), whose ids are not those of training.
    ending = "_labelTrainIds.png"
    pairs = [Pair(image, masks / f"{image.stem}{ending}") for image in _listed(images, "*.jpg")]
    remedy = (
        "complete it with `unseen prepare coco-stuff`, which makes the masks with training ids"
        f" (*{ending}) too"
    )
    return _complete(pairs, images, remedy)


def ade150_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of ADE20K's 150 classes in mmsegmentation's layout.

    Args:
        root: ADEChallengeData2016, or a folder above.
        split: "train" or "val".

    Raises:
        DataError: A folder is missing, or an image has no mask.
    """
    images, masks = _ade_folders(root, split, "ADEChallengeData2016", ("",))
    pairs = [Pair(image, masks / f"{image.stem}.png") for image in _listed(images, "*.jpg")]
    return _complete(pairs, images, "complete it with `unseen prepare ade20k-150`")


def ade847_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of the full ADE20K, whose label maps (PNG or TIFF) have 16 bits.

    Its folders may be called `images_detectron2` and `annotations_detectron2`, as MaskFormer's
    preparation calls them.

    Args:
        root: ADE20K_2021_17_01, or a folder above.
        split: "train" or "val".

    Raises:
        DataError: A folder is missing, or an image has no mask.
    """
    images, masks = _ade_folders(root, split, "ADE20K_2021_17_01", ("_detectron2", ""))
    # MaskFormer's preparation writes TIFFs, `unseen prepare` PNGs.
    suffix = ".png"
    if next(masks.glob("*.tif"), None):
        suffix = ".tif"
    pairs = [Pair(image, masks / f"{image.stem}{suffix}") for image in _listed(images, "*.jpg")]
    return _complete(pairs, images, "complete it with `unseen prepare ade20k-847`")


def _ade_folders(root: Path, split: str, name: str, endings: tuple[str, ...]) -> tuple[Path, Path]:
    """The folders of images and of label maps."""
    part = {"train": "training", "val": "validation"}[split]
    places = [
        (base / f"images{ending}", base / f"annotations{ending}")
        for base in (root, root / name, root / "ade" / name)
        for ending in endings
    ]
    # If no place exists, the check below fails for the first one as well.
    images, masks = next((place for place in places if place[0].is_dir()), places[0])
    if (images / part).is_dir() and (masks / part).is_dir():
        return images / part, masks / part
    raise DataError(
        f"{root} is not ADE20K's folder (no images/{part} and annotations/{part} in it); give the"
        f" {name} folder with --root"
    )


def cityscapes_pairs(root: Path, split: str) -> list[Pair]:
    """The pairs of Cityscapes; `root` holds leftImg8bit/ and gtFine/, or is the folder above.

    Raises:
        DataError: A folder is missing, or an image has no mask of training ids.
    """
    base = _holding("leftImg8bit", (root / "cityscapes",)) or root
    images, masks = base / "leftImg8bit" / split, base / "gtFine" / split
    _require_folders(base, (images, masks), "Cityscapes' folder", "leftImg8bit and gtFine")
    # One folder a city: CITY/NAME_leftImg8bit.png belongs to CITY/NAME_gtFine_labelTrainIds.png.
    ending, mask = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"
    pairs = [
        Pair(image, masks / image.parent.name / f"{image.name.removesuffix(ending)}{mask}")
        for image in _listed(images, f"*/*{ending}")
    ]
    remedy = (
        "complete it with `unseen prepare cityscapes`, which makes the masks with training ids"
        " (*_labelTrainIds.png) too"
    )
    return _complete(pairs, images, remedy)


# ------------------------------------------------------------------------- files


def _holding(name: str, places: Iterable[Path]) -> Path | None:
    """The first of the folders that holds a folder `name`."""
    return next((place for place in places if (place / name).is_dir()), None)


def _require_folders(root: Path, places: Iterable[Path], title: str, parts: str) -> None:
    for place in places:
        if not place.is_dir():
            raise DataError(
                f"{root} is not {title} (no {place.relative_to(root)} in it); give the folder of"
                f" {parts} with --root"
            )


def _first_file(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _listed(folder: Path, pattern: str) -> list[Path]:
    """The files that match the pattern, in order."""
    # Names that begin with a dot are files that are being written, or remains of such.
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _missing_labels(pairs: list[Pair]) -> Path | None:
    return next((pair.labels for pair in pairs if not pair.labels.is_file()), None)


def _complete(pairs: list[Pair], images: Path, remedy: str) -> list[Pair]:
    """Return the pairs after checking that there are some and that all masks exist."""
    missing = _missing_labels(pairs)
    if missing is not None:
        raise DataError(f"{missing} is missing; {remedy}")
    if not pairs:
        raise DataError(f"{images} holds no images; {remedy}")
    return pairs
