"""The arithmetic of masks: run lengths, polygons and tables of ids. Arrays in, arrays out; no
files.

The pixel rule of polygons: pixel (x, y) belongs to a polygon if its centre (x + 0.5, y + 0.5) lies
inside by the even-odd rule, where a centre exactly on the rim belongs to the side right of a left
rim and below an upper one. An annotation of several polygons is their union. COCO's own tools walk
the rim on a grid five times as fine and differ from this in single pixels along rims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.data.prepare.published import (
    ADE_FULL_IDS,
    CITYSCAPES_IDS,
    COCO_STUFF_ABSENT,
    CONTEXT_IDS,
)
from unseen.errors import DataError

VOID, VOID16 = 255, 65_535


def unpacked_counts(text: str | bytes) -> NDArray[np.int64]:
    """The run lengths of COCO's compressed form: 5 bits a character, low ones first, from the
    fourth run on as difference to the run before the last.

    Raises:
        DataError: Characters that do not belong there, or a run that does not end.
    """
    data = (
        np.frombuffer(
            text.encode("latin-1", errors="replace") if isinstance(text, str) else text,
            dtype=np.uint8,
        ).astype(np.int64)
        - 48
    )
    if len(data) == 0:
        return np.zeros(0, dtype=np.int64)
    if data.min() < 0 or data.max() > 63 or data[-1] & 32:
        raise DataError(
            "a compressed run length is cut short or holds characters that do not belong there"
        )
    starts = np.concatenate([[0], np.flatnonzero((data & 32) == 0)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(data)))
    if lengths.max() > 12:  # 60 bits
        raise DataError(
            "a compressed run length is cut short or holds characters that do not belong there"
        )
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    values = np.add.reduceat((data & 31) << (5 * place), starts)
    values -= np.where(data[starts + lengths - 1] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """A mask from run lengths {"size": [H, W], "counts": list or compressed string}: runs of 0 and
    1 in turn, down the columns.

    Returns:
        (H, W).

    Raises:
        DataError: Runs that do not fill the image exactly.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        stored = rle["counts"]
        counts = (
            unpacked_counts(stored)
            if isinstance(stored, str | bytes)
            else np.asarray(stored, dtype=np.int64)
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"a mask in run lengths has no readable size and counts ({error})"
        ) from error
    if counts.ndim != 1 or (counts < 0).any() or counts.sum() != height * width:
        raise DataError(
            f"a mask in run lengths has {int(counts.sum())} pixels instead of {width}x{height}"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def fill_polygon(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels (H, W) whose centres lie inside a polygon with the corners (N, 2), x and y in
    pixels; see the head of this module.

    Every edge flips all pixels to its right in the rows whose centre lines it crosses; a running
    sum along the rows adds the flips up.
    """
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    down = y0 < y1
    top, bottom = np.where(down, y0, y1), np.where(down, y1, y0)
    first = np.clip(np.ceil(top - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(bottom - 0.5), 0, height).astype(np.int64)
    crossed = last - first  # rows r with top <= r + 0.5 < bottom
    edge = np.repeat(np.arange(len(points)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    place = row * (width + 1) + np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    flips = (
        np.bincount(place, minlength=height * (width + 1))
        .astype(np.uint8)
        .reshape(height, width + 1)[:, :width]
    )
    return (np.cumsum(flips, axis=1, dtype=np.uint8) & 1).astype(
        bool
    )  # a sum that overflows keeps its parity


def annotation_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels (H, W) of one annotation of COCO or Detail: polygons [[x, y, x, y, ...], ...] or
    run lengths.

    Raises:
        DataError: Neither, or of another size than the image.
    """
    if isinstance(segmentation, Mapping):
        mask = decode_rle(segmentation)
        if mask.shape != (height, width):
            raise DataError(
                f"a mask in run lengths is {mask.shape[1]}x{mask.shape[0]} pixels, its image"
                f" {width}x{height}"
            )
        return mask
    union = np.zeros((height, width), dtype=bool)
    try:
        for flat in segmentation:
            points = np.asarray(flat, dtype=np.float64).reshape(-1, 2)
            if not np.isfinite(points).all():
                raise ValueError("a corner that is no number")
            if len(points) < 3:
                continue  # a line has no inside
            left, upper = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
            right, lower = np.clip(
                np.ceil(points.max(axis=0)) + 1, (left, upper), (width, height)
            ).astype(int)
            union[upper:lower, left:right] |= fill_polygon(
                points - (left, upper), lower - upper, right - left
            )
    except (TypeError, ValueError) as error:
        raise DataError(f"an annotation is neither polygons nor run lengths ({error})") from error
    return union


def drawn(annotations: Iterable[tuple[int, Any]], height: int, width: int) -> NDArray[np.uint8]:
    """A label map (H, W) from (value, segmentation) pairs, later ones over earlier ones, 0
    elsewhere.
    """
    labels = np.zeros((height, width), dtype=np.uint8)
    for value, segmentation in annotations:
        labels[annotation_mask(segmentation, height, width)] = value
    return labels


def _table(ids: Sequence[int], first: int = 0) -> NDArray[np.uint8]:
    table = np.full(256, VOID, dtype=np.uint8)
    table[list(ids)] = np.arange(first, first + len(ids))
    return table


COCO_STUFF_TABLE = _table([value for value in range(182) if value not in COCO_STUFF_ABSENT])
"""stuffthingmaps (official id minus one: 0..181, 255) to training ids 0..170; values of things that
nobody annotated become 255."""
CITYSCAPES_TABLE = _table(CITYSCAPES_IDS)
"""Label ids to the 19 training ids; all else, the licence plate (stored as 255) too, becomes
255."""
CONTEXT_VALUES = {category: value for value, category in enumerate(CONTEXT_IDS, start=1)}
"""Detail's category ids to 1..59; every other category becomes void."""

_ADE_FULL_TABLE = np.full(26 * 256, VOID16, dtype=np.uint16)
_ADE_FULL_TABLE[list(ADE_FULL_IDS)] = np.arange(len(ADE_FULL_IDS))


def ade_full_labels(colours: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Training ids (H, W) 0..846 from a *_seg.png of full ADE20K (H, W, 3): object id = floor(R /
    10) * 256 + G; other objects become 65535.
    """
    code = (colours[..., 0] // 10).astype(np.int64) * 256 + colours[..., 1]
    labels: NDArray[np.uint16] = _ADE_FULL_TABLE[code]
    return labels
