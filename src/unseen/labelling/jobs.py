"""Labelling many images: what is done stays done, and no image stops the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from unseen.arguments import check_kind
from unseen.errors import SettingError, UnseenError
from unseen.files import (
    INDEX,
    MANIFEST,
    PARQUET,
    is_whole,
    path_text,
    write_json,
    write_text,
)
from unseen.images import read_pixels
from unseen.labelling.parquet import write_parquet
from unseen.labelling.results import read_result
from unseen.labelling.sources import Item
from unseen.predictor import Predictor
from unseen.segmentation import Segmentation
from unseen.segmenter import TextFeatures
from unseen.settings import check_threshold

COLUMNS = ("image", "result", "height", "width", "margin", "entropy", "no_class")
"""Of the index, before the shares of the classes; by them `files.has_mark` knows it."""
LOCK = ".index.lock"
"""Held by a process of several that writes the index."""
Outcome = tuple[Item, Segmentation | UnseenError]
"""An image with its label map, or with what kept it from being read or written."""


@dataclass(frozen=True)
class Job:
    """Images to label, with one model and one list of classes.

    Attributes:
        predictor: The model.
        text: The classes, encoded by it.
        out: Folder for the results.
        threshold: Pixels whose best class is less confident (0..1) get no class.
        batch: Images of one size that are computed together, at most.
        parquet: Write the index as a Parquet table too.
    """

    predictor: Predictor
    text: TextFeatures
    out: Path
    threshold: float | None = None
    batch: int = 1
    parquet: bool = False

    def __post_init__(self) -> None:
        """Refuse what is of another kind or out of range."""
        for name, kind in (("out", Path), ("batch", int), ("parquet", bool)):
            check_kind(name, getattr(self, name), kind)
        check_threshold(self.threshold)
        if self.batch < 1:
            raise SettingError(f"batch is {self.batch}; give at least 1")

    @property
    def made_with(self) -> dict[str, Any]:
        """What the label maps are made with."""
        return self.predictor.made_with(self.text, self.threshold)

    def pending(self, items: Sequence[Item]) -> list[Item]:
        """The images that have not been labelled with the same settings as they are now."""
        fingerprint = self.made_with["fingerprint"]
        return [item for item in items if _done(item, self.out, fingerprint) is None]

    def run(self, items: Sequence[Item]) -> Iterator[Outcome]:
        """Label images and save the results, in their order.

        The next images are read and the last results written while the network computes.
        """
        begun = False
        for item, outcome in self._outcomes(items):
            if not begun and isinstance(outcome, Segmentation):
                write_json(self.out / MANIFEST, self.made_with)
                begun = True
            yield item, outcome

    def _outcomes(self, items: Sequence[Item]) -> Iterator[Outcome]:
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            behind: list[tuple[Item, Future[Segmentation]]] = []
            for group in _groups(items, reader.submit, self.batch):
                ahead: list[tuple[Item, Future[Segmentation]]] = []
                try:
                    ahead = [
                        (item, writer.submit(_saved, result, self.out, item.name))
                        for item, result in self._labelled(group)
                    ]
                finally:  # also when the network fails, the results before it are told
                    for item, saved in behind:
                        yield item, _outcome(saved)
                behind = ahead
            for item, saved in behind:
                yield item, _outcome(saved)

    def _labelled(self, group: _Group) -> list[tuple[Item, Segmentation | UnseenError]]:
        """A group's images with their label maps, or with what is wrong with them."""
        if isinstance(group.pixels, UnseenError):
            return [(group.items[0], group.pixels)]
        files = [item.path for item in group.items]
        try:
            results = self.predictor.segment_several(files, group.pixels, self.text, self.threshold)
        except UnseenError as error:
            if len(group.items) == 1:
                return [(group.items[0], error)]
            # One of them is at fault: each by itself.
            alone = zip(group.items, group.pixels, strict=True)
            parts = [self._labelled(_Group([item], [pixels])) for item, pixels in alone]
            return [part for (part,) in parts]
        return list(zip(group.items, results, strict=True))

    def write_index(self, items: Sequence[Item], *, alone: bool = True) -> None:
        """A table of all images that are done, the least sure first; none where none is.

        Args:
            items: All images of the job.
            alone: Whether no other process writes the same table. Else they take turns, and the
                last one finds the results of all.
        """
        with nullcontext() if alone else FileLock(self.out / LOCK):
            self._write_index(items)

    def _write_index(self, items: Sequence[Item]) -> None:
        rows, fingerprint = [], self.made_with["fingerprint"]
        for item in items:
            # One that could not be labelled again may have results of former settings or pixels.
            told = _done(item, self.out, fingerprint)
            if told is not None:
                shares = {entry["name"]: entry["share"] for entry in told["classes"]}
                rows.append((item, told, shares))
        if not rows:
            return
        rows.sort(key=lambda row: row[1]["margin"])
        names = self.text.vocabulary
        # A name alone could be that of another column, or a formula for a spreadsheet.
        heads = [*COLUMNS, *(f"share of {name}" for name in names)]
        lines = [
            [
                path_text(item.path),
                path_text(f"{item.name}.png"),
                *(told[key] for key in COLUMNS[2:]),
                *(shares[name] for name in names),
            ]
            for item, told, shares in rows
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([heads, *lines])
        write_text(self.out / INDEX, text.getvalue())
        if self.parquet:
            write_parquet(self.out / PARQUET, heads, lines)


# --------------------------------------------------------------- what is done already


def _done(item: Item, out: Path, fingerprint: str) -> dict[str, Any] | None:
    """The numbers of an image, if its results are of the same settings and of the file as it is."""
    result = read_result(out, item.name)
    if result is None or result.fingerprint != fingerprint or not result.is_of(item.path):
        return None
    return result.told if all(is_whole(file) for file in item.results(out)) else None


# ------------------------------------------------------------- reading, computing, writing


@dataclass(frozen=True)
class _Group:
    """Images of one size with their pixels; or one image, and why it cannot be read."""

    items: list[Item]
    pixels: list[NDArray[np.uint8]] | UnseenError


def _groups(
    items: Sequence[Item],
    submit: Callable[..., Future[NDArray[np.uint8]]],
    most: int,
) -> Iterator[_Group]:
    """Images as far as they follow each other in one size; the next ones are being read."""
    reads = [submit(read_pixels, item.path) for item in items[: most + 1]]
    group, pixels = list[Item](), list[NDArray[np.uint8]]()
    for place, item in enumerate(items):
        read = reads.pop(0)
        if place + most + 1 < len(items):
            reads.append(submit(read_pixels, items[place + most + 1].path))
        image: NDArray[np.uint8] | UnseenError
        try:
            image = read.result()
        except UnseenError as error:
            image = error
        if group and (isinstance(image, UnseenError) or image.shape != pixels[0].shape):
            yield _Group(group, pixels)
            group, pixels = [], []
        if isinstance(image, UnseenError):
            yield _Group([item], image)
            continue
        group.append(item)
        pixels.append(image)
        if len(group) == most:
            yield _Group(group, pixels)
            group, pixels = [], []
    if group:
        yield _Group(group, pixels)


def _saved(result: Segmentation | UnseenError, out: Path, name: str) -> Segmentation:
    """The result, when it has been saved."""
    if isinstance(result, UnseenError):
        raise result
    place = PurePosixPath(name)
    result.save(out / place.parent, place.name)
    return result


def _outcome(saved: Future[Segmentation]) -> Segmentation | UnseenError:
    """A result that has been saved, or what went wrong."""
    try:
        return saved.result()
    except UnseenError as error:
        return error
