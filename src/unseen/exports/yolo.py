"""YOLO's outlines of regions; holes are joined to the outer edge by a cut."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.exports.writers import Add, present
from unseen.labelling.results import Result
from unseen.labels import IGNORE
from unseen.settings import ExportSettings

Ring = NDArray[np.float64]
"""Corners (N, 2), x and y in pixels; the last one is not repeated."""


@contextmanager
def write_yolo(out: Path, names: Sequence[str], settings: ExportSettings) -> Iterator[Add]:
    """labels/NAME.txt, a line a region; data.yaml."""

    def add(result: Result, labels: NDArray[np.uint8]) -> int:
        file = out / "labels" / f"{result.stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines, held = list[str](), list[tuple[Any, int]]()
        for label in present(labels):
            for polygon in regions(labels == label, settings):
                lines.append(_line(label, one_ring(polygon), result.size))
                held.append((polygon, label))
        file.write_text("".join(lines), encoding="ascii")
        return int((_drawn(held, labels.shape) != labels).sum())

    yield add
    told = {"path": ".", "train": "images", "val": "images"}
    text = "".join(f"{key}: {value}\n" for key, value in told.items()) + "names:\n"
    # JSON's texts are YAML's too, whatever is in them.
    text += "".join(
        f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(names)
    )
    (out / "data.yaml").write_text(text, encoding="utf-8")


def _line(label: int, ring: Ring, size: tuple[int, int]) -> str:
    """A class and the corners, as shares of width and height."""
    corners = ring / (size[1], size[0])
    return f"{label} {' '.join(f'{value:.6f}' for value in corners.ravel())}\n"


def regions(mask: NDArray[np.bool_], settings: ExportSettings) -> Iterator[Any]:
    """The connected regions of a mask (H, W) as polygons with holes, along the edges of pixels.

    Outlines are simplified as far as `settings.tolerance` allows (Douglas-Peucker).
    """
    from rasterio.features import shapes
    from shapely.geometry import shape

    for found, _ in shapes(mask.view(np.uint8), mask=mask):
        polygon = shape(found)
        if polygon.area >= settings.smallest:
            yield polygon.simplify(settings.tolerance)


def one_ring(polygon: Any) -> Ring:
    """The outline of a polygon, in which each hole hangs by a cut that is walked there and back."""
    ring = np.asarray(polygon.exterior.coords)[:-1]
    for inner in polygon.interiors:
        hole = np.asarray(inner.coords)[:-1]
        gaps = ((ring[:, None] - hole[None]) ** 2).sum(axis=-1)
        i, j = np.unravel_index(int(gaps.argmin()), gaps.shape)
        around = np.concatenate([hole[j:], hole[: j + 1]])
        ring = np.concatenate([ring[: i + 1], around, ring[i:]])
    return ring


def _drawn(held: Sequence[tuple[Any, int]], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """The label map (H, W) that polygons with their labels hold."""
    from rasterio.features import rasterize

    if not held:
        return np.full(size, IGNORE, dtype=np.uint8)
    drawn: NDArray[np.uint8] = rasterize(held, size, fill=IGNORE, dtype="uint8")
    return drawn
