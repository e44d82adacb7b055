"""The progress of a training or a job, in the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

DRAW_EVERY, LINE_EVERY = 0.1, 30.0
"""Seconds between drawings, and between lines where no terminal shows a bar."""


class ProgressBar(Progress):
    """What is done, a note such as the loss, and the time left.

    In a terminal it is drawn ten times a second at most, by the loop itself: if memory runs out
    while a thread starts, Python waits for it forever. A file gets a line every half minute.

    Args:
        shown: Whether to show it.
        console: Where; standard output by default.
    """

    def __init__(self, shown: bool, console: Console | None = None) -> None:
        console = console or Console()
        self.writes_lines = shown and not console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        drawn = shown and not self.writes_lines
        super().__init__(*columns, console=console, disable=not drawn, auto_refresh=False)
        self.drawn = time.monotonic() if self.writes_lines else 0.0

    def draw_when_due(self) -> None:
        """Draw it, unless it was drawn a moment ago."""
        now = time.monotonic()
        if now - self.drawn > (LINE_EVERY if self.writes_lines else DRAW_EVERY):
            if self.writes_lines:
                self._write_lines()
            else:
                self.refresh()
            self.drawn = now

    def _write_lines(self) -> None:
        for task in self.tasks:
            left = task.time_remaining
            words = [f"{task.description} {task.completed:g}/{task.total:g}", task.fields["note"]]
            if left is not None:
                words.append(f"{timedelta(seconds=round(left))} left")
            line = "  ".join(word for word in words if word)
            # As it is: names may hold what rich reads as markup, and lines are not to be folded.
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def loss_shown(loss: float | None, rate: float, scores: Mapping[str, float]) -> str:
    """Loss, learning rate and last scores as the bar shows them; no loss before the first."""
    words = [] if loss is None else [f"loss {loss:.4g}"]
    words.append(f"lr {rate:.2g}")
    words += [f"{name} {scores[name]:.1f}" for name in ("hIoU", "mIoU") if name in scores][:1]
    return "  ".join(words)
