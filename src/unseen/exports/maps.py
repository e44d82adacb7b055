"""Formats that are label maps themselves: counted from 1, and as PASCAL VOC and CVAT paint them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.data.classes import voc_palette
from unseen.errors import VocabularyError
from unseen.exports.writers import Add
from unseen.files import write_labels
from unseen.labelling.results import Result
from unseen.labels import IGNORE
from unseen.palettes import colours
from unseen.settings import ExportSettings

BACKGROUND = "background"
LIST = "ImageSets/Segmentation/default.txt"
"""Of the names of the images, in VOC's layout."""


@contextmanager
def write_png(out: Path, names: Sequence[str], _: ExportSettings) -> Iterator[Add]:
    """labels/NAME.png: ids from 1 on, 0 without a class; classes.json: what they mean."""
    table = [(0, 0, 0), *colours(len(names))]

    def add(result: Result, labels: NDArray[np.uint8]) -> int:
        counted = np.where(labels == IGNORE, 0, labels + 1).astype(np.uint8)
        write_labels(out / "labels" / f"{result.stem}.png", counted, table)
        return 0

    yield add
    told = {str(i): name for i, name in enumerate(names, start=1)}
    text = json.dumps(told, indent=1, ensure_ascii=False)
    (out / "classes.json").write_text(text + "\n", encoding="utf-8")


# ------------------------------------------------------------------ VOC and CVAT


class _Painted:
    """Ids and colours of classes, as VOC has them: 0, which is black, is the background.

    A class of that name is the background, and so are the pixels without a class.
    """

    def __init__(self, names: Sequence[str]) -> None:
        others = [name for name in names if name != BACKGROUND]
        ids = {name: i for i, name in enumerate(others, start=1)}
        self.names = [BACKGROUND, *others]
        self.ids = np.zeros(256, dtype=np.uint8)
        self.ids[: len(names)] = [ids.get(name, 0) for name in names]
        self.has_background = BACKGROUND in names
        self.colours = voc_palette()

    def paint(self, labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """The ids (H, W), and of how many pixels they do not tell that they have no class."""
        lost = int((labels == IGNORE).sum()) if self.has_background else 0
        return self.ids[labels], lost

    def label_map(self) -> str:
        """The file that says which colour is which class."""
        lines = ["# label:color_rgb:parts:actions"]
        for name, colour in zip(self.names, self.colours, strict=False):
            lines.append(f"{name}:{','.join(map(str, colour))}::")
        return "\n".join(lines) + "\n"


@contextmanager
def write_voc(out: Path, names: Sequence[str], _: ExportSettings) -> Iterator[Add]:
    """SegmentationClass/NAME.png and the list of names, as in PASCAL VOC; labelmap.txt."""
    painted, stems = _Painted(_writable(names)), list[str]()

    def add(result: Result, labels: NDArray[np.uint8]) -> int:
        ids, lost = painted.paint(labels)
        write_labels(out / "SegmentationClass" / f"{result.stem}.png", ids, painted.colours)
        stems.append(result.stem)
        return lost

    yield add
    (out / LIST).parent.mkdir(parents=True, exist_ok=True)
    (out / LIST).write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    (out / "labelmap.txt").write_text(painted.label_map(), encoding="utf-8")


@contextmanager
def write_cvat(out: Path, names: Sequence[str], _: ExportSettings) -> Iterator[Add]:
    """annotations.zip, which CVAT imports as "Segmentation mask 1.1"."""
    painted, stems = _Painted(_writable(names)), list[str]()
    flat = [channel for colour in painted.colours for channel in colour]
    with zipfile.ZipFile(out / "annotations.zip", "w", zipfile.ZIP_STORED) as archive:

        def add(result: Result, labels: NDArray[np.uint8]) -> int:
            ids, lost = painted.paint(labels)
            image, file = Image.fromarray(ids, mode="P"), io.BytesIO()
            image.putpalette(flat)
            image.save(file, format="PNG")
            archive.writestr(f"SegmentationClass/{result.stem}.png", file.getvalue())
            stems.append(result.stem)
            return lost

        yield add
        archive.writestr(LIST, "".join(f"{stem}\n" for stem in stems))
        archive.writestr("labelmap.txt", painted.label_map())


def _writable(names: Sequence[str]) -> Sequence[str]:
    """Names that a line of a label map can hold.

    Raises:
        VocabularyError: One with a colon, or that begins as a remark does.
    """
    for name in names:
        if ":" in name or name.startswith("#"):
            raise VocabularyError(
                f"the class {name!r} has a colon or begins with #, and a label map of VOC and CVAT"
                " cannot hold it; label with another name, or export to coco"
            )
    return names
