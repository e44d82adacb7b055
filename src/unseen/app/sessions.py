"""What a visitor of the page has: label maps on the disk, without a threshold."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.errors import UnseenError
from unseen.exports.formats import FORMATS, export, is_installed
from unseen.labelling.results import find_results
from unseen.labels import IGNORE
from unseen.predictor import Predictor
from unseen.segmentation import Segmentation
from unseen.segmenter import TextFeatures
from unseen.settings import DrawSettings, ExportSettings, known_formats

LABEL_MAPS = "label maps"
"""What can be downloaded besides the formats of other tools."""


def downloads() -> list[str]:
    """What can be downloaded on this machine."""
    # Images are gone after they are labelled.
    known = (name for name, form in FORMATS.items() if not form.reads_images)
    return [LABEL_MAPS, *(name for name in known if is_installed(name))]


@dataclass(frozen=True)
class Labelled:
    """An image of a visitor, labelled.

    Attributes:
        name: Of its results.
        pixels: The file with its pixels.
        maps: The file with its label map and, in 0..255, its confidences.
        result: All else of the label map; the arrays in it are empty.
    """

    name: str
    pixels: Path
    maps: Path
    result: Segmentation

    def at(self, threshold: float) -> Segmentation:
        """The label map; pixels that are less confident have no class."""
        with Image.open(self.pixels) as image:
            pixels = np.asarray(image)
        with Image.open(self.maps) as image:
            labels, scores = np.moveaxis(np.asarray(image), -1, 0)
        confidence = scores.astype(np.float32) / 255
        labels = np.where(confidence < threshold, IGNORE, labels).astype(np.uint8)
        made_with = {**self.result.made_with, "threshold": threshold or None}
        return replace(
            self.result, image=pixels, labels=labels, confidence=confidence, made_with=made_with
        )


@dataclass
class Session:
    """The label maps of a visitor.

    Attributes:
        folder: Where they lie.
        images: What there is of each.
        problems: What kept others out.
    """

    folder: Path
    images: list[Labelled] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def remove(self) -> None:
        """Forget all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def pack(self, kind: str, threshold: float) -> Path:
        """A zip file with the label maps, in a format of another tool or as they are."""
        place = Path(mkdtemp(dir=self.folder))
        results = place / "label-maps"
        for labelled in self.images:
            labelled.at(threshold).save(results, labelled.name)
        if kind != LABEL_MAPS:
            found, _ = find_results(results)
            (name,) = known_formats([kind])
            results = place / name
            export(found, found[0].class_names, name, results, ExportSettings())
        return _zipped(results, place / f"{kind.replace(' ', '-')}.zip")


def _zipped(folder: Path, path: Path) -> Path:
    """All files of a folder, in a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def label(
    predictor: Predictor, text: TextFeatures, files: Sequence[Path], root: Path, seconds: float
) -> Iterator[Session]:
    """A new session, again after each image, which is complete or named among the problems.

    Args:
        predictor: The model.
        text: The classes, encoded by it.
        files: The images.
        root: Folder for sessions.
        seconds: After so long no further image is begun.
    """
    session, begun = Session(Path(mkdtemp(dir=root))), time.monotonic()
    for file in files:
        if time.monotonic() - begun > seconds:
            session.problems.append(
                f"{file.name} and what follows were not begun in {seconds:g} s; give fewer images"
            )
            break
        try:
            result = predictor.segment_encoded(file, text)
        except UnseenError as error:
            # A visitor knows the file by its name alone.
            session.problems.append(str(error).replace(str(file), file.name))
        else:
            name = _unused(file.stem, [each.name for each in session.images])
            session.images.append(_kept(result, session.folder, name))
        yield session
    yield session


def _unused(stem: str, names: Sequence[str]) -> str:
    """A name that no other image has."""
    tries = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(name for name in tries if name not in names)


def _kept(result: Segmentation, folder: Path, name: str) -> Labelled:
    """A result with its arrays on the disk."""
    number = len(list(folder.iterdir()))
    pixels, maps = folder / f"{number}.image.png", folder / f"{number}.maps.png"
    Image.fromarray(result.image).save(pixels, compress_level=1)
    # Cut off, so that only a confidence of 1 is never below a threshold.
    scores = (255 * result.confidence).astype(np.uint8)
    Image.fromarray(np.stack([result.labels, scores], axis=-1), mode="LA").save(
        maps, compress_level=1
    )
    nothing: NDArray[np.uint8] = np.zeros((0, 0), dtype=np.uint8)
    origin = None if result.origin is None else {**result.origin, "file": f"{name}.png"}
    light = replace(
        result,
        image=nothing,
        labels=nothing,
        confidence=nothing.astype(np.float32),
        origin=origin,
        drawing=DrawSettings(),
    )
    return Labelled(name, pixels, maps, light)
