"""The progress of a training or a job, in the terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

DRAW_EVERY = 0.1
"""Seconds between drawings."""


class ProgressBar(Progress):
    """What is done, a note such as the loss, and the time left; ten times a second at most.

    Drawn by the loop itself: if memory runs out while a thread starts, Python waits for it forever.

    Args:
        shown: Whether to show it.
        console: Where; standard output by default.
    """

    def __init__(self, shown: bool, console: Console | None = None) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        super().__init__(*columns, console=console, disable=not shown, auto_refresh=False)
        self.drawn = 0.0

    def draw_when_due(self) -> None:
        """Draw it, unless it was drawn a moment ago."""
        now = time.monotonic()
        if now - self.drawn > DRAW_EVERY:
            self.refresh()
            self.drawn = now


def loss_shown(loss: float | None) -> str:
    """A loss as the bar shows it; nothing before the first."""
    return "" if loss is None else f"loss {loss:.4g}"
