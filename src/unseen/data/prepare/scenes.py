"""ADE20K, in 150 and in 847 classes, and Cityscapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from unseen.data.prepare.masks import CITYSCAPES_TABLE, ade_full_labels
from unseen.data.prepare.published import ARCHIVES, KNOWN
from unseen.data.prepare.unpack import Part, demand, ensure, link_or_copy
from unseen.data.prepare.work import Count, Work, deep_names, names, place, save_mask
from unseen.errors import DataError
from unseen.files import read_labels

SPLITS = ("training", "validation")


def ade_folder(root: Path) -> Path:
    """Where the 150-class ADE20K lies or will lie; also where mmsegmentation keeps it."""
    return place(root, "ade/ADEChallengeData2016", "images", "images/training")


def prepare_ade(work: Work) -> None:
    """Images and masks as they are: 0 is other, 1..150 the classes."""
    base, known, inside = ade_folder(work.root), KNOWN["ade20k-150"], "ADEChallengeData2016"
    ensure(
        work,
        ARCHIVES["ade"],
        [
            Part(
                f"{inside}/{folder}/{split}",
                base / folder / split,
                (suffix,),
                known[split],
                also=(f"ade/{inside}/{folder}/{split}",),
            )
            for folder, suffix in (("images", ".jpg"), ("annotations", ".png"))
            for split in SPLITS
        ],
    )


def count_ade(root: Path) -> list[Count]:
    """Images and masks of the 150-class ADE20K."""
    return _count_pairs(ade_folder(root), KNOWN["ade20k-150"])


def _count_pairs(base: Path, known: dict[str, int]) -> list[Count]:
    found = []
    for split in SPLITS:
        pictures, masks = (
            names(base / "images" / split, ".jpg"),
            names(base / "annotations" / split, ".png"),
        )
        found += [
            Count(f"images/{split}", len(pictures), known.get(split)),
            Count(f"annotations/{split}", len(masks), known.get(split)),
        ]
        found.append(
            Count(
                f"images of {split} without mask",
                len({Path(name).stem for name in pictures} - {Path(name).stem for name in masks}),
                0,
            )
        )
    return found


# ------------------------------------------------------------------ 847 classes


def ade_full_folder(root: Path) -> Path:
    """Where full ADE20K lies or will lie."""
    return place(root, "ADE20K_2021_17_01", "images")


def prepare_ade_full(work: Work) -> None:
    """Images as images/SPLIT/NAME.jpg, masks of 847 classes as 16-bit
    annotations/SPLIT/NAME.png.
    """
    base = ade_full_folder(work.root)
    if all(names(base / "images" / split, ".jpg") for split in SPLITS) and _count_right(base):
        work.say("full ADE20K: its files are in place")
        return
    raw = [
        Part(
            f"ADE20K_2021_17_01/images/ADE/{split}",
            base / "images" / "ADE" / split,
            (".jpg", "_seg.png"),
            deep=True,
            also=(f"images/ADE/{split}",),
        )
        for split in SPLITS
    ]
    ensure(work, ARCHIVES["ade-full"], raw)
    items = []
    for split in SPLITS:
        done = names(base / "annotations" / split, ".png") & {
            f"{Path(name).stem}.png" for name in names(base / "images" / split, ".jpg")
        }
        pictures = deep_names(base / "images" / "ADE" / split, ".jpg")
        items += [
            (
                path,
                base / "images" / split / path.name,
                base / "annotations" / split / f"{path.stem}.png",
            )
            for path in pictures
            if f"{path.stem}.png" not in done
        ]
    work.each("ADE20K's masks of 847 classes", ade_full_mask, items)


def _count_right(base: Path) -> bool:
    return all(count.right for count in _count_pairs(base, KNOWN["ade20k-847"])) and not any(
        (base / "images" / "ADE").glob("*")
    )


def ade_full_mask(paths: tuple[Path, Path, Path]) -> None:
    """One image into its place and its mask."""
    picture, image, mask = paths
    colours = picture.with_name(f"{picture.stem}_seg.png")
    try:
        with Image.open(colours) as opened:
            labels = ade_full_labels(np.array(opened.convert("RGB")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the mask {colours} cannot be read ({str(error).splitlines()[0]}); delete it and run"
            " again to unpack it anew"
        ) from error
    save_mask(mask, labels)
    if not image.exists():
        link_or_copy(picture, image)


def count_ade_full(root: Path) -> list[Count]:
    """Images and masks of the 847-class ADE20K."""
    return _count_pairs(ade_full_folder(root), KNOWN["ade20k-847"])


# ------------------------------------------------------------------- cityscapes


STREETS = {"train": True, "val": True, "test": False}
"""Splits of Cityscapes, and whether anything reads them."""


def cityscapes_folder(root: Path) -> Path:
    """Where Cityscapes lies or will lie."""
    return place(root, "cityscapes", "leftImg8bit", "gtFine")


def prepare_cityscapes(work: Work) -> None:
    """Images, masks of label ids, and masks of training ids beside them."""
    base, known = cityscapes_folder(work.root), KNOWN["cityscapes"]
    wanted = [
        (
            ARCHIVES[key],
            [
                Part(
                    f"{folder}/{split}",
                    base / folder / split,
                    (suffix,),
                    known[split],
                    also=(f"cityscapes/{folder}/{split}",),
                    deep=True,
                    optional=not read,
                )
                for split, read in STREETS.items()
                if not (
                    key == "cityscapes-masks"
                    and read
                    and _training_ids(base, split) >= known[split]
                )
            ],
        )
        for key, folder, suffix in (
            ("cityscapes-images", "leftImg8bit", "_leftImg8bit.png"),
            ("cityscapes-masks", "gtFine", "_gtFine_labelIds.png"),
        )
    ]
    demand(work, wanted)
    for archive, parts in wanted:
        ensure(work, archive, parts)
    items = [
        (path, path.with_name(path.name.replace("labelIds", "labelTrainIds")))
        for path in deep_names(base / "gtFine", "_gtFine_labelIds.png")
    ]
    work.each(
        "Cityscapes' training ids",
        cityscapes_mask,
        [item for item in items if not item[1].exists()],
    )


def cityscapes_mask(paths: tuple[Path, Path]) -> None:
    """One mask of training ids."""
    save_mask(paths[1], CITYSCAPES_TABLE[read_labels(paths[0])])


def _training_ids(base: Path, split: str) -> int:
    return len(deep_names(base / "gtFine" / split, "_gtFine_labelTrainIds.png"))


def count_cityscapes(root: Path) -> list[Count]:
    """Images and masks of Cityscapes."""
    base, known, found = cityscapes_folder(root), KNOWN["cityscapes"], []
    for split, read in STREETS.items():
        found.append(
            Count(
                f"leftImg8bit/{split}",
                len(deep_names(base / "leftImg8bit" / split, "_leftImg8bit.png")),
                known[split],
                binding=read,
            )
        )
        found.append(
            Count(
                f"gtFine/{split}/*_labelTrainIds.png",
                _training_ids(base, split),
                known[split],
                binding=read,
            )
        )
    return found
