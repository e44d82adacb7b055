"""Masks from COCO's annotations, and lookup tables from published ids to training ids.

Arrays in, arrays out; no files. Polygons and run lengths are drawn by pycocotools, so that every
pixel is the one that other work on COCO trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.data.prepare.published import (
    ADE_FULL_IDS,
    CITYSCAPES_IDS,
    COCO_STUFF_ABSENT,
    CONTEXT_IDS,
)
from unseen.errors import DataError, SettingError
from unseen.images import check_size

# `unseen.labels` has the 8-bit value too, but imports torch, which processes that convert masks
# should not have to load.
IGNORE, IGNORE_16BIT = 255, 65_535

Segments = list[tuple[int, Any]]
"""(training id, segmentation as COCO's annotations store it) of one image, in drawing order."""

_LARGEST_COORDINATE = 1e5
"""Limit of polygon corners: pycocotools walks along every edge in C, however long it is."""


def require_pycocotools() -> ModuleType:
    """The module that draws polygons and decodes run lengths.

    Raises:
        SettingError: It is not installed.
    """
    try:
        import pycocotools.mask
    except ImportError as error:
        raise SettingError(
            "drawing masks from COCO's annotations needs pycocotools; install it with"
            " `pip install 'unseen[data]'`"
        ) from error
    module: ModuleType = pycocotools.mask
    return module


def annotation_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels (H, W) of one annotation of COCO or PASCAL in Detail.

    Args:
        segmentation: Polygons [[x, y, x, y, ...], ...], of which the union is taken, or run lengths
            {"size": [H, W], "counts": list or compressed string}.
        height: Of the image.
        width: Of the image.

    Raises:
        DataError: Damaged, or of another size than the image.
        SettingError: pycocotools is not installed.
    """
    tools = require_pycocotools()
    try:
        if isinstance(segmentation, Mapping):
            runs = _encoded_runs(segmentation, height, width)
        else:
            # merge: the parts of an object that is divided by another one are one annotation.
            polygons = _polygons(segmentation)
            if not polygons:
                return np.zeros((height, width), dtype=bool)
            runs = tools.merge(tools.frPyObjects(polygons, height, width))
        mask: NDArray[np.bool_] = tools.decode(runs).astype(bool)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"an annotation is neither polygons nor run lengths ({error})") from error
    return mask


def _polygons(segmentation: Any) -> list[list[float]]:
    """The polygons that have an inside, as flat lists of at least three corners.

    Shorter ones must not reach pycocotools, which takes four numbers for a box.
    """
    polygons = []
    for flat in segmentation:
        corners = np.asarray(flat, dtype=np.float64).reshape(-1, 2)
        if not (np.abs(corners) < _LARGEST_COORDINATE).all():  # false for NaN, too
            raise ValueError("a corner is not a number or lies far outside of the image")
        if len(corners) >= 3:
            polygons.append(corners.ravel().tolist())
    return polygons


def _encoded_runs(segmentation: Mapping[str, Any], height: int, width: int) -> Any:
    """Run lengths in the compressed form that pycocotools decodes.

    pycocotools refuses runs that are too long, but not those that are too short; in compressed form
    only PASCAL in Detail has runs, whose file is compared with its checksum.
    """
    # Checked here because pycocotools trusts the size it is given.
    size, counts = [int(side) for side in segmentation["size"]], segmentation["counts"]
    if size != [height, width]:
        raise DataError(
            f"a mask in run lengths has the size {size}, its image is {width}x{height} pixels"
        )
    if isinstance(counts, str | bytes):
        return {"size": size, "counts": counts}
    runs = np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise DataError(
            f"a mask in run lengths has {int(runs.sum())} pixels instead of {width}x{height}"
        )
    return require_pycocotools().frPyObjects({"size": size, "counts": runs.tolist()}, height, width)


BAD_ANNOTATIONS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What reading a damaged file of annotations raises."""


def draw_labels(segments: Segments, height: int, width: int) -> NDArray[np.uint8]:
    """A label map (H, W) of annotations, later ones over earlier ones, 0 elsewhere.

    Raises:
        DataError: An annotation is damaged.
    """
    check_size((width, height), "the image")
    labels = np.zeros((height, width), dtype=np.uint8)
    # Annotations have no depth: where objects overlap, the order of the file decides.
    for value, segmentation in segments:
        labels[annotation_mask(segmentation, height, width)] = value
    return labels


def require_known_ids(
    labels: NDArray[np.uint8] | NDArray[np.uint16], largest: int, path: Path, remedy: str
) -> None:
    """Refuse a label map (H, W) that holds other ids than 0 to `largest` and 255.

    Raises:
        DataError: The label map has another id.
    """
    unknown = labels[(labels > largest) & (labels != IGNORE)]
    if len(unknown):
        raise DataError(
            f"the mask {path} holds the id {unknown[0]}; valid are 0 to {largest} and {IGNORE}:"
            f" {remedy}"
        )


def _table(ids: Sequence[int]) -> NDArray[np.uint8]:
    """A lookup table from the ids to their indices, and from any other id to 255."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(ids)] = np.arange(len(ids))
    return table


COCO_STUFF_TABLE = _table([value for value in range(182) if value not in COCO_STUFF_ABSENT])
"""stuffthingmaps (official id minus one: 0..181, 255) to training ids 0..170; ids of things that
nobody annotated become 255."""
CITYSCAPES_TABLE = _table(CITYSCAPES_IDS)
"""Label ids to the 19 training ids; every other id, and the licence plate (stored as 255), becomes
255."""
CONTEXT_VALUES = {category: value for value, category in enumerate(CONTEXT_IDS, start=1)}
"""Detail's category ids to 1..59."""

# R is at most 255, so floor(R / 10) is at most 25, and ids end before 26 * 256.
_ADE_FULL_TABLE = np.full(26 * 256, IGNORE_16BIT, dtype=np.uint16)
_ADE_FULL_TABLE[list(ADE_FULL_IDS)] = np.arange(len(ADE_FULL_IDS))


def ade_full_labels(colours: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Training ids (H, W) 0..846 from the colours (H, W, 3) of a *_seg.png of full ADE20K.

    The object id is floor(R / 10) * 256 + G; objects of other classes become 65535.
    """
    # int64, because the product would overflow 8 bits.
    object_ids = (colours[..., 0] // 10).astype(np.int64) * 256 + colours[..., 1]
    labels: NDArray[np.uint16] = _ADE_FULL_TABLE[object_ids]
    return labels
