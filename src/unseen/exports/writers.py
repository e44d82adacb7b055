"""What a format is, and what all writers need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError
from unseen.labelling.results import Result
from unseen.labels import IGNORE
from unseen.settings import ExportSettings

Add = Callable[[Result, NDArray[np.uint8]], int]
"""Writes an image's label map (H, W), and gives of how many pixels the format does not hold the
class, or none, as it is."""
Write = Callable[[Path, Sequence[str], ExportSettings], AbstractContextManager[Add]]
"""Opens the files of a format in a new folder, for classes by name."""


class LeftOutError(DataError):
    """An image that a format cannot hold, while it holds the others."""


@dataclass(frozen=True)
class Format:
    """A format of another tool.

    Attributes:
        write: Its writer.
        summary: What it is, and for whom.
        images: Its folder for images; None where it has none.
        needs: Modules that it is written with, besides those of the package.
        reads_images: Whether it reads the images too, for their place on the earth.
    """

    write: Write
    summary: str
    images: str | None = None
    needs: tuple[str, ...] = ()
    reads_images: bool = False


def present(labels: NDArray[np.uint8]) -> list[int]:
    """The classes that a label map shows."""
    return [label for label in np.unique(labels).tolist() if label != IGNORE]
