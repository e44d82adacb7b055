"""Every file of a data set, read once before any training.

The records state facts alone; `unseen.data.own.findings` decides which of them are faults.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.data.datasets import ignored_value
from unseen.data.pairs import Pair
from unseen.errors import DataError
from unseen.images import LOSSY, read_file, read_image, read_labels

ORIENTATION = 0x0112
"""EXIF's tag for the rotation of an image on display; 1 stands for none."""
COLOUR_MODES = ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA")
"""Pillow's modes of images that hold colours, not ids."""

Colour = tuple[int, int, int]
Progress = Callable[[Iterable["PairRecord"], int], Iterable["PairRecord"]]
"""Wraps the records, whose number it is given, to show progress."""


@dataclass(frozen=True)
class PairRecord:
    """Facts about an image and its label map.

    Attributes:
        pair: Its files.
        digest: Hash of the image's pixels; "" if it cannot be read.
        size: Width and height of the image; (0, 0) if it cannot be read.
        label_size: Width and height of the label map, likewise.
        areas: Pixels by stored id, without ignored ones.
        colours: RGB of the ids, where the label map has a palette.
        faults: Why files cannot be used: "image" (unreadable), and for the label map "labels"
            (unreadable), "lossy" (JPEG, WebP) or "colours" (no ids).
        rotated: Whether EXIF data ask for the image to be rotated for display.
    """

    pair: Pair
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    label_size: tuple[int, int] = (0, 0)
    areas: dict[int, int] = field(default_factory=dict)
    colours: dict[int, Colour] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    rotated: bool = False

    @property
    def image(self) -> str:
        """The image's file name and the two folders it lies in."""
        return _end_of(self.pair.image)

    @property
    def labels(self) -> str:
        """The label map's, likewise."""
        return _end_of(self.pair.labels)


def _end_of(path: Path) -> str:
    return "/".join(path.parts[-3:])


@dataclass(frozen=True)
class Survey:
    """The records of a data set, and the classes they should have.

    Attributes:
        records: The records of the pairs, by split.
        class_names: The classes.
        first_id: The stored id of the first class; 1 where 0 is a background.
        wanted: By split, the classes that need labelled pixels: those trained on, those scored.
        own: Whether the data are the user's own, so that their list of classes may be corrected.
        ignored_ids: Stored ids on the list that are no class.
        others: Whether ids behind the list are a background.
    """

    records: dict[str, list[PairRecord]]
    class_names: tuple[str, ...]
    first_id: int
    wanted: Mapping[str, Sequence[str]]
    own: bool = True
    ignored_ids: tuple[int, ...] = ()
    others: bool = False

    @property
    def all_records(self) -> list[PairRecord]:
        """The records of all splits, without repetition."""
        by_pair = {record.pair: record for split in self.records.values() for record in split}
        return list(by_pair.values())

    @property
    def last_id(self) -> int:
        """The last stored id on the list."""
        return self.first_id + len(self.class_names) + len(self.ignored_ids) - 1

    @property
    def class_ids(self) -> list[int]:
        """The stored ids of the classes."""
        listed = range(self.first_id, self.last_id + 1)
        return [value for value in listed if value not in self.ignored_ids]

    def pixels(self, split: str) -> dict[str, int]:
        """Numbers of labelled pixels, by class name."""
        # Ids that are not on the list are findings of their own and count for no class.
        areas = dict.fromkeys(self.class_ids, 0)
        for record in self.records[split]:
            for value in record.areas.keys() & areas.keys():
                areas[value] += record.areas[value]
        return dict(zip(self.class_names, areas.values(), strict=True))


def read_pairs(
    splits: Mapping[str, Sequence[Pair]], progress: Progress = lambda records, count: records
) -> dict[str, list[PairRecord]]:
    """The records of every pair, by split; a pair of two splits is read once.

    Args:
        splits: Pairs by split.
        progress: Shows how far the reading is.
    """
    pairs = list(dict.fromkeys(pair for split in splits.values() for pair in split))
    # Decoding releases Python's lock, so threads use all cores without copying pixels.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        records = progress(pool.map(read_pair, pairs), len(pairs))
        by_pair = {record.pair: record for record in records}
    return {split: [by_pair[pair] for pair in pairs] for split, pairs in splits.items()}


def read_pair(pair: Pair) -> PairRecord:
    """Read an image and its label map."""
    faults = []
    digest, size, rotated = "", (0, 0), False
    # Faults are recorded, not raised: one pass reports all of them.
    try:
        pixels = read_image(pair.image)
        digest, size = _digest(pixels), (pixels.shape[1], pixels.shape[0])
        rotated = _asks_for_rotation(pair.image)
    except DataError:
        faults.append("image")
    try:
        stored = read_labels(pair.labels)
    except DataError:
        faults.append(_fault_of(pair.labels))
        # The image's part of the record is kept: it may still be a copy of another one.
        return PairRecord(pair, digest, size, faults=tuple(faults), rotated=rotated)
    # One pass over the pixels; only ids that occur are kept, as 16-bit maps may hold 65536.
    counts = np.bincount(stored.ravel())
    areas = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    areas.pop(ignored_value(stored), None)
    return PairRecord(
        pair,
        digest,
        size,
        (stored.shape[1], stored.shape[0]),
        areas,
        _palette_of(pair.labels, areas),
        tuple(faults),
        rotated,
    )


def _digest(pixels: NDArray[np.uint8]) -> str:
    # The shape is a part of the hash: the same bytes in another shape are another image.
    key = str(pixels.shape).encode()
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, key=key).hexdigest()


def _asks_for_rotation(path: Path) -> bool:
    # Damaged EXIF data rotate nothing.
    with suppress(DataError):
        return bool(
            read_file(path, "image", lambda image: image.getexif().get(ORIENTATION, 1)) != 1
        )
    return False


def _palette_of(path: Path, ids: Iterable[int]) -> dict[int, Colour]:
    """The colours that a label map's palette gives to ids; empty without a palette."""

    def palette(image: Image.Image) -> list[int]:
        # Pillow gives greys a palette too, which means nothing.
        return (image.mode == "P" and image.getpalette()) or []

    values = read_file(path, "label map", palette)
    # Flat list [r, g, b, r, g, b, ...], which may end before the highest id.
    return {
        value: (values[3 * value], values[3 * value + 1], values[3 * value + 2])
        for value in ids
        if 3 * value + 2 < len(values)
    }


def _fault_of(path: Path) -> str:
    """Why a label map was refused."""
    with suppress(DataError):
        kind, mode = read_file(path, "label map", lambda image: (image.format, image.mode))
        if kind in LOSSY:
            return "lossy"
        if mode in COLOUR_MODES:
            return "colours"
    return "labels"
