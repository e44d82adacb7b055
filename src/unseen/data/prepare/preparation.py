"""Shared by all steps of a preparation: settings, progress, processes, counts of files."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unseen.errors import DataError

Item = TypeVar("Item")
MIN_PARALLEL_ITEMS = 200
"""Fewer items are done in this process: starting others would take longer."""


@dataclass(frozen=True)
class Preparation:
    """The settings of one preparation.

    Attributes:
        root: Folder of all data sets.
        source: Folder with archives or unpacked data sets, if one was given with --from.
        jobs: Processes for conversions.
    """

    root: Path
    source: Path | None = None
    jobs: int = 1

    @property
    def downloads(self) -> Path:
        """The folder of downloaded archives; they may be deleted afterwards."""
        return self.root / "downloads"

    def log(self, text: str) -> None:
        """Print a line of progress."""
        # Imported here: processes that convert masks do not need rich.
        from rich.console import Console

        # On standard error, so that standard output holds the results alone.
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)

    @contextmanager
    def progress(
        self, title: str, total: int | None, *, in_bytes: bool = False
    ) -> Iterator[Callable[[int], None]]:
        """A progress bar on a terminal, nothing elsewhere.

        Yields:
            A function to call with the amount that is done.
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
        amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)

    def run_all(self, title: str, function: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Call a function of a module for every item, spread over processes.

        The first failure stops all.

        Raises:
            DataError: Raised by the function, or a process was killed.
        """
        if not items:
            return
        with self.progress(title, len(items)) as advance:
            # Callers leave out items whose file exists, so that a second run often has few.
            if self.jobs <= 1 or len(items) < MIN_PARALLEL_ITEMS:
                for done, item in enumerate(items, start=1):
                    function(item)
                    advance(done)
            else:
                self._run_in_processes(title, function, items, advance)

    def _run_in_processes(
        self,
        title: str,
        function: Callable[[Item], None],
        items: Sequence[Item],
        advance: Callable[[int], None],
    ) -> None:
        # Spawned processes: forked ones would inherit the threads of libraries loaded already.
        pool = ProcessPoolExecutor(
            self.jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_ignore_interrupts,
        )
        try:
            # In chunks, because every message between processes costs time.
            for done, _ in enumerate(pool.map(function, items, chunksize=16), start=1):
                advance(done)
        except BrokenProcessPool as error:
            raise DataError(
                f"{title}: a process was killed, probably because memory ran out; run again with"
                " fewer --jobs, finished files are kept"
            ) from error
        finally:
            # Waits for the items in progress, so that no process writes after the message.
            pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the main process, so that a worker finishes its item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Count:
    """A number of files or names, compared with the published one.

    Attributes:
        title: What is counted.
        actual: How many there are.
        expected: How many were published; None where nothing is published.
        binding: Whether another number is an error; otherwise it is only remarked on.
    """

    title: str
    actual: int
    expected: int | None
    binding: bool = True

    @property
    def matches(self) -> bool:
        """Whether the number is the published one, as far as one is published."""
        return self.expected is None or self.actual == self.expected

    @property
    def verdict(self) -> str:
        """The cell of a table: "ok", "WRONG", "other", or empty where nothing is published."""
        if self.expected is None:
            return ""
        if self.matches:
            return "ok"
        # A number that is not binding is shown, but does not fail the command.
        return "WRONG" if self.binding else "other"

    def __str__(self) -> str:
        return f"{self.title}: {self.actual} instead of {self.expected}"
