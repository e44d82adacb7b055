"""A job: many images, one model and one list of classes; what is done stays done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from unseen.arguments import check_kind
from unseen.errors import UnseenError
from unseen.files import INDEX, MANIFEST, write_json
from unseen.labelling.index import write_index
from unseen.labelling.results import Result, read_manifest, read_result
from unseen.labelling.sources import Item
from unseen.predictor import Predictor
from unseen.segmenter import TextFeatures
from unseen.settings import check_threshold

LOCK = ".index.lock"
"""Held by a process of several that writes the index."""
Outcome = tuple[Item, Mapping[str, Any] | UnseenError]
"""An image with what its NAME.json says, or with what kept it from being read or written."""


@dataclass(frozen=True)
class Job(ABC):
    """Images to label, with one model and one list of classes.

    Attributes:
        predictor: The model.
        text: The classes, encoded by it.
        out: Folder for the results.
        threshold: Pixels whose best class is less confident (0..1) get no class.
        parquet: Write the index as a Parquet table too.
    """

    predictor: Predictor
    text: TextFeatures
    out: Path
    threshold: float | None = None
    parquet: bool = False

    def __post_init__(self) -> None:
        """Refuse what is of another kind or out of range."""
        check_kind("out", self.out, Path)
        check_kind("parquet", self.parquet, bool)
        check_threshold(self.threshold)

    @property
    def made_with(self) -> dict[str, Any]:
        """What the label maps are made with."""
        return self.predictor.made_with(self.text, self.threshold)

    @abstractmethod
    def target(self, item: Item) -> Path:
        """Where the label map of an image belongs."""

    @abstractmethod
    def outcomes(self, items: Sequence[Item]) -> Iterator[Outcome]:
        """What comes of each image, in their order."""

    def run(self, items: Sequence[Item]) -> Iterator[Outcome]:
        """Label images and save the results, in their order; with the first, job.json."""
        begun = False
        for item, outcome in self.outcomes(items):
            if not begun and not isinstance(outcome, UnseenError):
                self.write_manifest()
                begun = True
            yield item, outcome

    @abstractmethod
    def is_complete(self, item: Item, result: Result) -> bool:
        """Whether all files of an image are there, as these settings make them."""

    def pending(self, items: Sequence[Item]) -> list[Item]:
        """The images that have not been labelled with the same settings as they are now."""
        fingerprint = self.made_with["fingerprint"]
        return [item for item in items if self.done(item, fingerprint) is None]

    def done(self, item: Item, fingerprint: str) -> dict[str, Any] | None:
        """The numbers of an image, if its results are of these settings and the file as it is."""
        result = read_result(self.out, item.name)
        if result is None or result.fingerprint != fingerprint or not result.is_of(item.path):
            return None
        return result.told if self.is_complete(item, result) else None

    def write_manifest(self) -> None:
        """Write what the label maps are made with."""
        write_json(self.out / MANIFEST, self.made_with)

    def write_index(self, items: Sequence[Item], *, alone: bool = True) -> None:
        """A table of all images that are done, the least sure first; none where none is.

        Args:
            items: All images of the job.
            alone: Whether no other process writes the same table. Else they take turns, and the
                last one finds the results of all.
        """
        fingerprint = self.made_with["fingerprint"]
        with nullcontext() if alone else FileLock(self.out / LOCK):
            # One that could not be labelled again may have results of former settings or pixels.
            found = [(item, self.done(item, fingerprint)) for item in items]
            rows = [
                (item.path, self.target(item).relative_to(self.out).as_posix(), told)
                for item, told in found
                if told is not None
            ]
            # An index of an earlier job would tell something else.
            if rows or (self.out / INDEX).exists():
                # Where nothing was left to do, or another job has been there since.
                if read_manifest(self.out).get("fingerprint") != fingerprint:
                    self.write_manifest()
                write_index(self.out / INDEX, rows, self.text.vocabulary, parquet=self.parquet)
