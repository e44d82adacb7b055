"""What every step of a preparation shares: where things lie, progress on the terminal, work spread
over processes, counts at the end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.errors import DataError
from unseen.files import replacing

Item = TypeVar("Item")
FEW = 200
"""Fewer items than this are not worth the start of processes."""


@dataclass(frozen=True)
class Work:
    """One preparation.

    Attributes:
        root: Folder of all data sets.
        source: Folder with archives or unpacked data sets, if one was given.
        jobs: Processes for conversions.
    """

    root: Path
    source: Path | None = None
    jobs: int = 1

    @property
    def downloads(self) -> Path:
        """Where downloaded archives are kept; they may be deleted afterwards."""
        return self.root / "downloads"

    def say(self, text: str) -> None:
        """A line of progress."""
        from rich.console import Console

        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)

    @contextmanager
    def bar(
        self, title: str, total: int | None, *, bytes_: bool = False
    ) -> Iterator[Callable[[int], None]]:
        """A progress bar on a terminal, nothing elsewhere; gives a function to call with how much
        is done.
        """
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        amount = DownloadColumn() if bytes_ else MofNCompleteColumn()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)

    def each(self, title: str, function: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Call a function of a module for every item, spread over processes. The first failure
        stops all.

        Raises:
            DataError: As the function, or a process that was killed.
        """
        if not items:
            return
        with self.bar(title, len(items)) as advance:
            if self.jobs <= 1 or len(items) < FEW:
                for done, item in enumerate(items, start=1):
                    function(item)
                    advance(done)
                return
            # Fresh processes: forked ones would inherit the threads of libraries that are loaded
            # already.
            pool = ProcessPoolExecutor(
                self.jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet
            )
            try:
                for done, _ in enumerate(pool.map(function, items, chunksize=16), start=1):
                    advance(done)
            except BrokenProcessPool as error:
                raise DataError(
                    f"{title}: a process was killed, probably for want of memory; run again with"
                    " fewer --jobs, what is done is kept"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _quiet() -> None:
    """An interrupt is the main process's to answer; a worker ends its item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def names(folder: Path, suffix: str = "") -> set[str]:
    """The finished files of a folder that end in `suffix`; empty where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name
                for entry in entries
                if entry.name.endswith(suffix)
                and not entry.name.startswith(".")
                and not entry.is_dir()
            }
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read as a folder ({error.strerror}); move it away, or choose"
            " another place with --root"
        ) from error


def deep_names(folder: Path, suffix: str) -> list[Path]:
    """The finished files anywhere below a folder that end in `suffix`, in order."""
    return sorted(
        Path(at) / name
        for at, _, files in os.walk(folder, followlinks=True)
        for name in files
        if name.endswith(suffix) and not name.startswith(".")
    )


def place(root: Path, path: str, marker: str, *more: str) -> Path:
    """Where a data set lies, or will: `root`/`path`, or the end of that path below `root`, or
    `root` itself, if it has that name or holds all that tells it.

    Args:
        root: Folder of all data sets, or the data set's own.
        path: Where below that it belongs.
        marker: What it holds, at least.
        more: What it holds besides, and no other data set.
    """
    parts, called = Path(path).parts, {root.name, root.resolve().name}
    below = [root.joinpath(*parts[i:]) for i in range(len(parts))]
    found = next((folder for folder in below if (folder / marker).exists()), None)
    if found is None and (
        parts[-1] in called or (more and all((root / each).exists() for each in (marker, *more)))
    ):
        found = root
    return found or below[1 if parts[0] in called and len(parts) > 1 else 0]


def save_mask(path: Path, labels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Save ids (H, W) as a plain grey PNG of 8 or 16 bits, whole or not at all."""
    with replacing(path, "--root") as beside:
        Image.fromarray(labels).save(beside, format="PNG")


def read_list(path: Path) -> list[str]:
    """The names in a list file.

    Raises:
        DataError: Missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the list {path} cannot be read ({getattr(error, 'strerror', None) or 'not text'});"
            " restore it from its archive"
        ) from error


def write_list(path: Path, stems: Sequence[str]) -> None:
    """Write a list of names; one that is there already, in whatever order, is kept.

    Raises:
        DataError: A list of other names is there.
    """
    if path.exists():
        if set(read_list(path)) != set(stems):
            raise DataError(
                f"{path} names other images than belong in it ({len(read_list(path))} instead of"
                f" {len(stems)}); move it away and run again"
            )
        return
    with replacing(path, "--root") as beside:
        beside.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


@dataclass(frozen=True)
class Count:
    """A number of things, and what it should be (None: nothing is published)."""

    what: str
    found: int
    known: int | None
    binding: bool = True
    """Whether another number is a mistake, rather than worth a remark."""

    @property
    def right(self) -> bool:
        """Whether the number is the known one."""
        return self.known is None or self.found == self.known
