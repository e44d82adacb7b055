"""Data sets of four images in the true layouts: COCO-Stuff, Context, ADE20K, Cityscapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[Any]


def _image(path: Path, seed: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(
        path
    )


def _mask(path: Path, ids: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def _stripes(
    values: list[int], size: tuple[int, int], dtype: type[np.integer[Any]] = np.uint8
) -> Mask:
    """Ids in upright stripes of equal width."""
    columns = np.array(values, dtype=dtype)[np.arange(size[1]) * len(values) // size[1]]
    return np.repeat(columns[None], size[0], axis=0)


def write_context(root: Path, size: tuple[int, int] = (20, 30)) -> Path:
    """PASCAL Context: stripes of background, wall (56), ignored pixels and one further class.

    That is in turn cow (20), road (41), motorbike (34), tree (53); two images per split.
    """
    lists, names = root / "ImageSets" / "SegmentationContext", [f"2008_{i:06d}" for i in range(4)]
    lists.mkdir(parents=True)
    for i, name in enumerate(names):
        _image(root / "JPEGImages" / f"{name}.jpg", i, size)
        _mask(
            root / "SegmentationClassContext" / f"{name}.png",
            _stripes([0, 56, 255, (20, 41, 34, 53)[i]], size),
        )
    for split, part in (("train", names[:2]), ("val", names[2:])):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
    return root


def write_coco_stuff(root: Path, size: tuple[int, int] = (20, 30)) -> Path:
    """COCO-Stuff: stripes of person (0), cow (19, unseen), wood (170) and ignored pixels."""
    for i, split in enumerate(("train2017", "train2017", "val2017", "val2017")):
        _image(root / "images" / split / f"{i:012d}.jpg", i, size)
        _mask(
            root / "annotations" / split / f"{i:012d}_labelTrainIds.png",
            _stripes([0, 19, 170, 255], size),
        )
    return root


def write_ade(root: Path, size: tuple[int, int] = (20, 30)) -> Path:
    """ADE20K of the challenge: stripes of other (0), wall (1) and flag (150)."""
    for i, split in enumerate(("training", "training", "validation", "validation")):
        _image(root / "images" / split / f"ADE_{i:08d}.jpg", i, size)
        _mask(root / "annotations" / split / f"ADE_{i:08d}.png", _stripes([0, 1, 150], size))
    return root


FULL = [0, 252, 253, 254, 255, 256, 846, 65535]


def write_ade_full(root: Path, size: tuple[int, int] = (16, 32), suffix: str = ".png") -> Path:
    """The full ADE20K: stripes of `FULL` in 16 bits, in one training and two validation images."""
    for i, split in enumerate(("training", "validation", "validation")):
        _image(root / "images" / split / f"ADE_{i:08d}.jpg", i, size)
        _mask(
            root / "annotations" / split / f"ADE_{i:08d}{suffix}", _stripes(FULL, size, np.uint16)
        )
    return root


def write_cityscapes(root: Path, size: tuple[int, int] = (16, 32)) -> Path:
    """Cityscapes: stripes of road (0), bicycle (18) and ignored pixels, beside masks of raw ids."""
    for i, (split, city) in enumerate(
        (("train", "aachen"), ("train", "ulm"), ("val", "lindau"), ("val", "munster"))
    ):
        stem = f"{city}_000000_00001{i}"
        _image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", i, size)
        _mask(
            root / "gtFine" / split / city / f"{stem}_gtFine_labelTrainIds.png",
            _stripes([0, 18, 255, 255], size),
        )
        _mask(
            root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png",
            _stripes([7, 33, 0, 4], size),
        )
    return root
