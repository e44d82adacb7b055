"""Cityscapes."""

from __future__ import annotations

from pathlib import Path

from unseen.data.prepare.folders import find_files, locate_dataset, save_mask
from unseen.data.prepare.masks import CITYSCAPES_TABLE
from unseen.data.prepare.parts import Part, ensure, require_local
from unseen.data.prepare.preparation import Count, Preparation
from unseen.data.prepare.published import ARCHIVES, PUBLISHED_COUNTS
from unseen.images import read_labels

SPLITS = {"train": True, "val": True, "test": False}
"""The splits, and whether a benchmark reads them."""
_LABEL_IDS, _TRAINING_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def cityscapes_folder(root: Path) -> Path:
    """The folder of Cityscapes below `root`."""
    return locate_dataset(root, "cityscapes", "leftImg8bit", "gtFine")


def prepare_cityscapes(prep: Preparation) -> None:
    """Images, masks of label ids, and masks of training ids beside them."""
    base, counts = cityscapes_folder(prep.root), PUBLISHED_COUNTS["cityscapes"]
    # Masks of label ids are needed only where those of training ids are missing.
    converted = {
        split
        for split, is_read in SPLITS.items()
        if is_read and _count_converted(base, split) >= counts[split]
    }
    images = [_part(base, "leftImg8bit", split, "_leftImg8bit.png") for split in SPLITS]
    masks = [_part(base, "gtFine", split, _LABEL_IDS) for split in SPLITS if split not in converted]
    parts_by_archive = [
        (ARCHIVES["cityscapes-images"], images),
        (ARCHIVES["cityscapes-masks"], masks),
    ]
    # Both archives need a login, so one message names both.
    require_local(prep, parts_by_archive)
    for archive, parts in parts_by_archive:
        ensure(prep, archive, parts)
    items = [
        (path, path.with_name(path.name.replace(_LABEL_IDS, _TRAINING_IDS)))
        for path in find_files(base / "gtFine", _LABEL_IDS)
    ]
    # Beside the masks of label ids, where the makers' own scripts would write them.
    prep.run_all(
        "Cityscapes' training ids", convert_mask, [item for item in items if not item[1].exists()]
    )


# Masks of the test split are published without labels (all pixels ignored), so nothing reads them.
def _part(base: Path, folder: str, split: str, suffix: str) -> Part:
    return Part(
        f"{folder}/{split}",
        base / folder / split,
        (suffix,),
        PUBLISHED_COUNTS["cityscapes"][split],
        other_folders=(f"cityscapes/{folder}/{split}",),
        recursive=True,
        optional=not SPLITS[split],
    )


def convert_mask(paths: tuple[Path, Path]) -> None:
    """Save one mask of label ids as one of training ids."""
    save_mask(paths[1], CITYSCAPES_TABLE[read_labels(paths[0])])


def _count_converted(base: Path, split: str) -> int:
    return len(find_files(base / "gtFine" / split, _TRAINING_IDS))


def count_cityscapes(root: Path) -> list[Count]:
    """Images and masks of Cityscapes."""
    base, counts = cityscapes_folder(root), []
    for split, is_read in SPLITS.items():
        published = PUBLISHED_COUNTS["cityscapes"][split]
        images = len(find_files(base / "leftImg8bit" / split, "_leftImg8bit.png"))
        masks = _count_converted(base, split)
        counts += [
            Count(f"leftImg8bit/{split}", images, published, binding=is_read),
            Count(f"gtFine/{split}/*_labelTrainIds.png", masks, published, binding=is_read),
        ]
    return counts
