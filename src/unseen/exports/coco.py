"""COCO's two formats: masks of classes, and panoptic maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.exports.runs import bounds, coco_mask
from unseen.exports.streams import json_list
from unseen.exports.writers import Add, present
from unseen.files import about
from unseen.labelling.results import Result
from unseen.labels import IGNORE
from unseen.settings import ExportSettings


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """The classes, counted from 1."""
    return [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, start=1)]


def _image(result: Result, number: int) -> dict[str, Any]:
    height, width = result.size
    return {"id": number, "file_name": result.file_name, "height": height, "width": width}


@contextmanager
def write_coco(out: Path, names: Sequence[str], _: ExportSettings) -> Iterator[Add]:
    """annotations.json: a mask of each class of each image, as compressed runs."""
    images: list[dict[str, Any]] = []
    before = {
        "info": {"description": "A mask for each class of an image", "contributor": about()},
        "licenses": [],
        "categories": categories(names),
    }
    written = 0
    with json_list(out / "annotations.json", "annotations", before, lambda: {"images": images}) as (
        append
    ):

        def add(result: Result, labels: NDArray[np.uint8]) -> int:
            nonlocal written
            images.append(_image(result, len(images) + 1))
            for label in present(labels):
                mask, written = labels == label, written + 1
                append(
                    {
                        "id": written,
                        "image_id": len(images),
                        "category_id": label + 1,
                        "segmentation": coco_mask(mask),
                        "area": int(mask.sum()),
                        "bbox": bounds(mask),
                        # Readers pass over crowds, which once were what runs stood for.
                        "iscrowd": 0,
                    }
                )
            return 0

        yield add


@contextmanager
def write_panoptic(out: Path, names: Sequence[str], _: ExportSettings) -> Iterator[Add]:
    """panoptic.json and panoptic/NAME.png, whose colours are the ids of segments."""
    images: list[dict[str, Any]] = []
    before = {
        "info": {"description": "A segment for each class of an image", "contributor": about()},
        "licenses": [],
        "categories": [{**each, "isthing": 0} for each in categories(names)],
    }
    with json_list(out / "panoptic.json", "annotations", before, lambda: {"images": images}) as (
        append
    ):

        def add(result: Result, labels: NDArray[np.uint8]) -> int:
            images.append(_image(result, len(images) + 1))
            file = out / "panoptic" / f"{result.stem}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            # The id is R + 256 G + 65536 B, and 0 is nothing: below 254 it is in red alone.
            colours = np.zeros((*labels.shape, 3), dtype=np.uint8)
            colours[..., 0] = np.where(labels == IGNORE, 0, labels + 1)
            Image.fromarray(colours).save(file)
            append(
                {
                    "image_id": len(images),
                    "file_name": f"{result.stem}.png",
                    "segments_info": [_segment(labels, label) for label in present(labels)],
                }
            )
            return 0

        yield add


def _segment(labels: NDArray[np.uint8], label: int) -> dict[str, Any]:
    mask = labels == label
    area, box = int(mask.sum()), bounds(mask)
    return {"id": label + 1, "category_id": label + 1, "area": area, "bbox": box, "iscrowd": 0}
