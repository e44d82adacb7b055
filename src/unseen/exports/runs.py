"""Masks as runs of equal pixels, as COCO and Label Studio write them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BRUSH_SIZES = np.array([3, 4, 8, 16])
"""Bits in which Label Studio writes the length of a run: the fewest that suffice."""
_BRUSH_LONGEST = 2**16


def run_lengths(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the runs of a mask (P,), false and true in turn, beginning with false.

    The first length is 0 where the mask begins with true.
    """
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(changes, prepend=0, append=flat.size)
    return np.concatenate([[0], lengths]) if flat[0] else lengths


# ------------------------------------------------------------------------- COCO


def coco_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Run lengths of a mask (H, W), column by column."""
    return run_lengths(mask.ravel(order="F"))


def coco_text(lengths: NDArray[np.int64]) -> str:
    """Run lengths as COCO compresses them.

    From the fourth on each stands as the difference from the one two before; numbers are written
    in characters of 5 bits, the lowest first, with a sixth bit where more follow.
    """
    numbers = lengths.copy()
    numbers[3:] -= lengths[1:-2]
    columns, going = [], np.ones(len(numbers), dtype=bool)
    while going.any():
        low, numbers = numbers & 31, numbers >> 5
        # The fifth bit is the sign of the last character.
        more = np.where(low & 16, numbers != -1, numbers != 0)
        columns.append(np.where(going, low + 32 * more + 48, 0).astype(np.uint8))
        going &= more
    characters = np.stack(columns, axis=1).ravel()
    return characters[characters > 0].tobytes().decode("ascii")


def coco_mask(mask: NDArray[np.bool_]) -> dict[str, object]:
    """A mask (H, W) as COCO's `segmentation`, with compressed runs."""
    return {"size": list(mask.shape), "counts": coco_text(coco_runs(mask))}


def bounds(mask: NDArray[np.bool_]) -> list[int]:
    """Left, top, width and height of what a mask (H, W) covers, which is not nothing."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    sides = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    return [int(side) for side in sides]


# ----------------------------------------------------------------- Label Studio


def brush_bytes(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (H, W) as the bytes of Label Studio's brush, opaque white where it is true.

    A stream of bits: how many values there are (four channels a pixel), the size of a value and of
    the four kinds of runs, then each run: that it repeats one value, its kind, its length less 1,
    the value.
    """
    values = mask.ravel()
    lengths = 4 * run_lengths(values)
    colours = np.arange(len(lengths)) % 2 * 255
    # Runs that are too long are written as several.
    parts = -(-lengths // _BRUSH_LONGEST)
    last = lengths - (parts - 1) * _BRUSH_LONGEST
    pieces = np.full(parts.sum(), _BRUSH_LONGEST)
    pieces[np.cumsum(parts)[parts > 0] - 1] = last[parts > 0]
    kind = np.searchsorted(2**_BRUSH_SIZES, pieces)
    width = _BRUSH_SIZES[kind]
    words = ((4 + kind) << width | (pieces - 1)) << 8 | np.repeat(colours, parts)
    header = np.array([[4 * values.size, 32], [7, 5], *([size - 1, 4] for size in _BRUSH_SIZES)])
    numbers = np.concatenate([header[:, 0], words])
    bits = _bits(numbers, np.concatenate([header[:, 1], 3 + width + 8]))
    packed: list[int] = np.packbits(bits).tolist()
    return packed


def _bits(numbers: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Numbers one after the other, each in its width of bits, the highest first."""
    shifts = widths[:, None] - 1 - np.arange(widths.max())
    bits = (numbers[:, None] >> np.maximum(shifts, 0) & 1).astype(np.uint8)
    written: NDArray[np.uint8] = bits[shifts >= 0]
    return written
