"""The progress of a job, in the terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

FEW = 20
"""Images of which each has a line; of more there is a bar, and lines would run away."""
DRAW_EVERY = 0.1
"""Seconds between drawings."""


class LabellingBar:
    """A bar with count, rate and time left for many images, on standard error.

    Args:
        total: How many images there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._progress = Progress(
            TextColumn("labelling"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(show_speed=True),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,  # a thread that draws could starve for want of memory
            disable=total <= FEW,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total, rate="")
        self._begun = self._drawn = time.monotonic()

    def __enter__(self) -> LabellingBar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    @property
    def has_lines(self) -> bool:
        """Whether each image is told on a line of its own, instead of by the bar."""
        return self._progress.disable

    def advance(self) -> None:
        """One image more is done."""
        done = self._progress.tasks[0].completed + 1
        self._progress.update(self._task, completed=done, rate=f"{done / self.seconds:.2g}/s")
        if time.monotonic() - self._drawn > DRAW_EVERY:
            self._progress.refresh()
            self._drawn = time.monotonic()
