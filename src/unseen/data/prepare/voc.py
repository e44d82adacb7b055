"""PASCAL VOC 2012 with SBD's masks, and PASCAL-5i on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unseen.data.classes import VOC
from unseen.data.prepare import hsnet
from unseen.data.prepare.folders import (
    file_names,
    file_stems,
    listed_names,
    locate_dataset,
    read_list,
    save_mask,
    write_list,
)
from unseen.data.prepare.masks import require_known_ids
from unseen.data.prepare.parts import Part, ensure, link_unpacked
from unseen.data.prepare.preparation import Count, Preparation
from unseen.data.prepare.published import ARCHIVES, PUBLISHED_COUNTS
from unseen.errors import DataError
from unseen.images import read_labels

LISTS = "ImageSets/Segmentation"
_ARCHIVE_FOLDER = "VOCdevkit/VOC2012"
_SBD_FOLDER = "benchmark_RELEASE/dataset"


def voc_folder(root: Path) -> Path:
    """The folder of VOC 2012 below `root`."""
    return locate_dataset(root, "VOCdevkit/VOC2012", "JPEGImages", "SegmentationClass")


def prepare_voc(prep: Preparation) -> None:
    """Images and masks of VOC, masks of SBD for further images, the lists `aug` and `trainaug`."""
    base, counts = voc_folder(prep.root), PUBLISHED_COUNTS["voc"]
    ensure(prep, ARCHIVES["voc2012"], _voc_parts(base))
    train, val = (set(read_list(base / LISTS / f"{name}.txt")) for name in ("train", "val"))
    masks = base / "SegmentationClassAug"
    ready = Part(
        f"{_ARCHIVE_FOLDER}/SegmentationClassAug",
        masks,
        (".png",),
        counts["SegmentationClassAug"],
        keep_existing=True,
    )
    link_unpacked(prep, [ready])

    # VOC's own masks come first; SBD's are only for images that VOC has none of.
    stems = file_stems(masks, ".png")
    if not (base / LISTS / "aug.txt").exists() and stems & (train | val):
        prep.log(
            f"{masks} holds masks of VOC's own images already, which are kept; the benchmarks"
            " read those of SegmentationClass first"
        )
    prep.run_all(
        "VOC's own masks",
        copy_mask,
        [
            (base / "SegmentationClass" / f"{stem}.png", masks / f"{stem}.png")
            for stem in sorted((train | val) - stems)
        ],
    )
    # mmsegmentation's folder holds SBD's masks alone: then SBD's archive is not needed.
    if len(stems - train - val) < counts["aug"]:
        stems |= _add_sbd_masks(prep, base, without=train | val | stems)
    stems |= train | val
    # trainaug is everything that may be trained on: SBD's images without those of VOC's validation.
    write_list(base / LISTS / "aug.txt", sorted(stems - train - val))
    write_list(base / LISTS / "trainaug.txt", sorted(stems - val))


def _voc_parts(base: Path) -> list[Part]:
    counts = PUBLISHED_COUNTS["voc"]
    lists = frozenset({"train.txt", "val.txt"})
    # The folder of lists also gets aug.txt and trainaug.txt, so its lists are required by name.
    return [
        Part(f"{_ARCHIVE_FOLDER}/{LISTS}", base / LISTS, (".txt",), required=lists),
        *(
            Part(f"{_ARCHIVE_FOLDER}/{folder}", base / folder, (suffix,), counts[folder])
            for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png"))
        ),
    ]


def _add_sbd_masks(prep: Preparation, base: Path, *, without: set[str]) -> set[str]:
    """Convert SBD's masks.

    Args:
        prep: Settings.
        base: Folder of VOC 2012.
        without: Names of images whose masks are not converted.

    Returns:
        The names of all images of SBD.
    """
    # SBD splits its images otherwise than VOC, so both of its lists are read.
    sbd = base.parent / "VOCaug" / "dataset"
    folders = ("VOCdevkit/VOCaug/dataset", "VOCaug/dataset")
    lists = Part(
        _SBD_FOLDER,
        sbd,
        (".txt",),
        required=frozenset({"train.txt", "val.txt"}),
        other_folders=folders,
    )
    matrices = Part(
        f"{_SBD_FOLDER}/cls",
        sbd / "cls",
        (".mat",),
        PUBLISHED_COUNTS["voc"]["sbd"],
        other_folders=tuple(f"{folder}/cls" for folder in folders),
    )
    ensure(prep, ARCHIVES["sbd"], [lists, matrices])
    stems = {stem for name in ("train", "val") for stem in read_list(sbd / f"{name}.txt")}
    masks = base / "SegmentationClassAug"
    prep.run_all(
        "SBD's masks",
        convert_sbd_mask,
        [(sbd / "cls" / f"{stem}.mat", masks / f"{stem}.png") for stem in sorted(stems - without)],
    )
    return stems


def copy_mask(paths: tuple[Path, Path]) -> None:
    """Save one of VOC's own masks as grey: palette indices, with 255 on the ignored contours."""
    labels = read_labels(paths[0])
    require_known_ids(labels, len(VOC), paths[0], "restore it from its archive")
    save_mask(paths[1], labels)


def convert_sbd_mask(paths: tuple[Path, Path]) -> None:
    """Save one of SBD's .mat files as a mask; SBD has no pixels to be ignored."""
    # Imported here: only this conversion needs SciPy.
    from scipy.io import loadmat

    remedy = f"delete the folder {paths[0].parent} and run again to unpack it anew"
    try:
        content = loadmat(paths[0], squeeze_me=True, struct_as_record=False)
        labels = np.asarray(content["GTcls"].Segmentation)
    except Exception as error:  # scipy raises many kinds of errors on damaged files
        reason = str(error).split("\n")[0] or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "it does not exist"
        raise DataError(f"SBD's mask {paths[0]} cannot be read ({reason}); {remedy}") from error
    # A damaged file can be readable and still hold something else.
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.max(initial=0) > len(VOC):
        raise DataError(f"SBD's mask {paths[0]} is not a map of the ids 0 to {len(VOC)}; {remedy}")
    save_mask(paths[1], labels)


def count_voc(root: Path) -> list[Count]:
    """Lists, images and masks of VOC 2012."""
    base, published = voc_folder(root), PUBLISHED_COUNTS["voc"]
    lists = {
        name: listed_names(base / LISTS / f"{name}.txt")
        for name in ("train", "val", "aug", "trainaug")
    }
    listed = set[str]().union(*lists.values())
    return [
        *(
            Count(f"{LISTS}/{name}.txt", len(names), published[name])
            for name, names in lists.items()
        ),
        *(
            Count(folder, len(file_names(base / folder, ".png")), published[folder])
            for folder in ("SegmentationClass", "SegmentationClassAug")
        ),
        Count(
            "listed images that are missing",
            len(listed - file_stems(base / "JPEGImages", ".jpg")),
            0,
        ),
        Count(
            "listed masks that are missing",
            len(listed - file_stems(base / "SegmentationClassAug", ".png")),
            0,
        ),
    ]


def prepare_pascal_folds(prep: Preparation) -> None:
    """VOC 2012 with SBD, and HSNet's lists."""
    prepare_voc(prep)
    hsnet.prepare_lists(prep, "pascal")


def count_pascal_folds(root: Path) -> list[Count]:
    """As VOC, and HSNet's lists."""
    return [*count_voc(root), hsnet.count_lists(root, "pascal")]
