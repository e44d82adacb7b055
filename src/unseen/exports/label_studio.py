"""Label Studio: tasks with brush labels, and the interface they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray

from unseen.exports.runs import brush_bytes
from unseen.exports.streams import json_list
from unseen.exports.writers import Add, present
from unseen.files import about
from unseen.labelling.results import Result
from unseen.palettes import colours
from unseen.settings import ExportSettings

IMAGE, TAG = "image", "tag"
"""What the interface calls the image and its labels; results name them."""


@contextmanager
def write_label_studio(out: Path, names: Sequence[str], settings: ExportSettings) -> Iterator[Add]:
    """tasks.json, to import; interface.xml, the labelling interface of the project."""
    (out / "interface.xml").write_text(interface(names), encoding="utf-8")
    number = 0
    with json_list(out / "tasks.json") as append:

        def add(result: Result, labels: NDArray[np.uint8]) -> int:
            nonlocal number
            number += 1
            brushes = [
                {
                    "id": f"{number:06x}{label:02x}",
                    **_frame(result),
                    "value": {
                        "format": "rle",
                        "rle": brush_bytes(labels == label),
                        "brushlabels": [names[label]],
                    },
                }
                for label in present(labels)
            ]
            # Tasks are sorted by the score: the least sure ones come first.
            prediction = {
                "model_version": about(),
                "score": result.told["margin"],
                "result": brushes,
            }
            address = settings.prefix + quote(result.file_name)
            append({"data": {IMAGE: address}, "predictions": [prediction]})
            return 0

        yield add


def _frame(result: Result) -> dict[str, Any]:
    """What all brush labels of an image say."""
    height, width = result.size
    return {
        "type": "brushlabels",
        "from_name": TAG,
        "to_name": IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }


def interface(names: Sequence[str]) -> str:
    """The labelling interface: the image, and a brush for each class in its colour."""
    view = Xml.Element("View")
    Xml.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true")
    brushes = Xml.SubElement(view, "BrushLabels", name=TAG, toName=IMAGE)
    for name, (r, g, b) in zip(names, colours(len(names)), strict=False):
        Xml.SubElement(brushes, "Label", value=name, background=f"#{r:02x}{g:02x}{b:02x}")
    Xml.indent(view)
    return Xml.tostring(view, encoding="unicode") + "\n"
