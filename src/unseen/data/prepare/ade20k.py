"""ADE20K in 150 and in 847 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unseen.data.prepare.folders import (
    file_names,
    file_stems,
    find_files,
    link_or_copy,
    locate_dataset,
    save_mask,
)
from unseen.data.prepare.masks import ade_full_labels
from unseen.data.prepare.parts import Part, ensure
from unseen.data.prepare.preparation import Count, Preparation
from unseen.data.prepare.published import ARCHIVES, PUBLISHED_COUNTS
from unseen.images import read_file

SPLITS = ("training", "validation")


def ade_folder(root: Path) -> Path:
    """The folder of the 150-class ADE20K below `root`, which is also that of mmsegmentation."""
    return locate_dataset(root, "ade/ADEChallengeData2016", "images", "images/training")


def prepare_ade(prep: Preparation) -> None:
    """Images and masks as published: 0 is other, 1..150 the classes."""
    base, counts = ade_folder(prep.root), PUBLISHED_COUNTS["ade20k-150"]
    # Nothing is converted: the benchmark's layout subtracts 1 when it reads a mask.
    archive_folder = "ADEChallengeData2016"
    parts = [
        Part(
            f"{archive_folder}/{folder}/{split}",
            base / folder / split,
            (suffix,),
            counts[split],
            other_folders=(f"ade/{archive_folder}/{folder}/{split}",),
        )
        for folder, suffix in (("images", ".jpg"), ("annotations", ".png"))
        for split in SPLITS
    ]
    ensure(prep, ARCHIVES["ade"], parts)


def count_ade(root: Path) -> list[Count]:
    """Images and masks of the 150-class ADE20K."""
    return _count_pairs(ade_folder(root), PUBLISHED_COUNTS["ade20k-150"])


def _count_pairs(base: Path, published: dict[str, int]) -> list[Count]:
    counts = []
    for split in SPLITS:
        images = file_stems(base / "images" / split, ".jpg")
        masks = file_stems(base / "annotations" / split, ".png")
        counts += [
            Count(f"images/{split}", len(images), published.get(split)),
            Count(f"annotations/{split}", len(masks), published.get(split)),
            Count(f"images of {split} without mask", len(images - masks), 0),
        ]
    return counts


# ------------------------------------------------------------------ 847 classes


def ade_full_folder(root: Path) -> Path:
    """The folder of full ADE20K below `root`."""
    return locate_dataset(root, "ADE20K_2021_17_01", "images")


def prepare_ade_full(prep: Preparation) -> None:
    """Make images/SPLIT/NAME.jpg and 16-bit masks of 847 classes, annotations/SPLIT/NAME.png."""
    base = ade_full_folder(prep.root)
    if _ade_full_complete(base):
        prep.log("full ADE20K: its files are in place")
        return
    # Of the many files of an image, only its photograph and the mask of whole objects are needed.
    parts = [
        Part(
            f"ADE20K_2021_17_01/images/ADE/{split}",
            base / "images" / "ADE" / split,
            (".jpg", "_seg.png"),
            recursive=True,
            other_folders=(f"images/ADE/{split}",),
        )
        for split in SPLITS
    ]
    ensure(prep, ARCHIVES["ade-full"], parts)
    items = []
    for split in SPLITS:
        # The archive sorts images by scene; the benchmark reads one folder for each split.
        images, masks = base / "images" / split, base / "annotations" / split
        done = file_stems(masks, ".png") & file_stems(images, ".jpg")
        items += [
            (path, images / path.name, masks / f"{path.stem}.png")
            for path in find_files(base / "images" / "ADE" / split, ".jpg")
            if path.stem not in done
        ]
    prep.run_all("ADE20K's masks of 847 classes", convert_ade_full, items)


def _ade_full_complete(base: Path) -> bool:
    """Whether images and masks are complete and the unpacked archive was deleted afterwards."""
    if not all(file_names(base / "images" / split, ".jpg") for split in SPLITS):
        return False
    counts = _count_pairs(base, PUBLISHED_COUNTS["ade20k-847"])
    unpacked = any((base / "images" / "ADE").glob("*"))
    return not unpacked and all(count.matches for count in counts)


def convert_ade_full(paths: tuple[Path, Path, Path]) -> None:
    """Put one image into its place and convert its mask.

    Args:
        paths: The unpacked image, its place, and the place of its mask.
    """
    unpacked, image, mask = paths
    colours = unpacked.with_name(f"{unpacked.stem}_seg.png")
    # The third channel numbers single objects, which semantic segmentation does not need.
    labels = read_file(
        colours,
        "mask",
        lambda opened: ade_full_labels(np.array(opened.convert("RGB"))),
        remedy="delete it and run again to unpack it anew",
    )
    # The mask first: an image in place means that both are done.
    save_mask(mask, labels)
    if not image.exists():
        link_or_copy(unpacked, image)


def count_ade_full(root: Path) -> list[Count]:
    """Images and masks of the 847-class ADE20K."""
    return _count_pairs(ade_full_folder(root), PUBLISHED_COUNTS["ade20k-847"])
