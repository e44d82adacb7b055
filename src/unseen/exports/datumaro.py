"""Datumaro's JSON, from which it converts to many others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.exports.runs import coco_mask
from unseen.exports.streams import json_list
from unseen.exports.writers import Add, present
from unseen.labelling.results import Result
from unseen.settings import ExportSettings

SUBSET = "default"


@contextmanager
def write_datumaro(out: Path, names: Sequence[str], _: ExportSettings) -> Iterator[Add]:
    """annotations/default.json: a mask of each class of each image."""
    labels_told = [{"name": name, "parent": "", "attributes": []} for name in names]
    before = {"info": {}, "categories": {"label": {"labels": labels_told, "attributes": []}}}
    number = 0
    with json_list(out / "annotations" / f"{SUBSET}.json", "items", before) as append:

        def add(result: Result, labels: NDArray[np.uint8]) -> int:
            nonlocal number
            masks = []
            for label in present(labels):
                masks.append(_mask(labels == label, label, number))
                number += 1
            append(
                {
                    "id": result.stem,
                    "annotations": masks,
                    "image": {"path": result.file_name, "size": list(result.size)},
                }
            )
            return 0

        yield add


def _mask(mask: NDArray[np.bool_], label: int, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "mask",
        "attributes": {},
        "group": 0,
        "label_id": label,
        "z_order": 0,
        "rle": coco_mask(mask),
    }
