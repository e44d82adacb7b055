"""Losses and scores over steps: CSV files in every run folder, and what else is asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from unseen.charts import Points, line_charts, save_chart
from unseen.errors import DataError
from unseen.files import unwritable, write_text
from unseen.runs import CURVES, LOGS
from unseen.texts import read_text
from unseen.training.loggers import LOGGERS, Curve

VALIDATION = "validation.csv"
"""Beside metrics.csv: the scores on a part of the validation set."""


SPLIT_SCORES = ("mIoU_S", "mIoU_U", "hIoU")
"""What the picture shows of the scores, where there are unseen classes."""


class CsvCurve:
    """`metrics.csv`: one row a logged step, one column a number, and the step, counted from 0.

    Args:
        folder: Where the file lies.
        start: The step a run begins or is resumed with: rows of earlier steps are kept, rows of
            later ones, which follow again, are removed.
        name: Of the file.

    Attributes:
        kept: The rows that were kept.
    """

    def __init__(self, folder: Path, start: int, name: str = "metrics.csv") -> None:
        self.path = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if self.path.exists():
            # Later steps were logged, but their weights were never saved: they come again.
            kept = [row for row in read_curve(self.path) if int(row["step"]) < start]
        self.kept, self.columns = kept, list[str]()
        # Whole or not at all, as everything that replaces a file.
        write_text(self.path, self._as_text(kept), ours=True)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; the file is closed again, so that a killed run loses none."""
        text = self._as_text([{**values, "step": step}])
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Nothing is held back."""

    def _as_text(self, rows: list[dict[str, Any]]) -> str:
        """Rows as lines, below the names of the columns where these are the first."""
        memory, first = io.StringIO(newline=""), not self.columns
        if rows and first:
            self.columns = [*(name for name in rows[0] if name != "step"), "step"]
        writer = csv.DictWriter(memory, self.columns)
        if rows and first:
            writer.writeheader()
        writer.writerows(rows)
        return memory.getvalue()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file of this program, without one that a kill has cut off.

    Raises:
        DataError: Another file.
    """
    lines = read_text(path).split("\n")[:-1]  # behind the last line end is nothing
    try:
        rows = csv.DictReader(lines)
        found = list(rows)
        numbered = not lines or "step" in (rows.fieldnames or ())
        fits = numbered and all(int(row["step"]) >= 0 and None not in row for row in found)
        fits = fits and not any(None in row.values() for row in found)
    except (KeyError, ValueError, TypeError, csv.Error):
        fits = False
    if not fits:
        raise DataError(f"{path} is not a run's curve; move it away to go on without it")
    return found


def open_curves(folder: Path, logger: str, start: int, told: Mapping[str, Any]) -> list[Curve]:
    """The CSV file, and what `train.logger` adds to it.

    Args:
        folder: Where the files lie.
        logger: Its name.
        start: The step a run begins or is resumed with.
        told: Settings of the run.
    """
    # The CSV file is written whatever the logger is: reading it needs no package.
    curves: list[Curve] = [CsvCurve(folder, start)]
    if logger in LOGGERS:
        curves.append(LOGGERS[logger](folder, start, told))
    return curves


def draw_curves(run: Path) -> None:
    """Draw the CSV files of a run folder as its curves.png: losses, learning rate, scores."""
    losses, scores = (_columns(run / LOGS / name) for name in ("metrics.csv", VALIDATION))
    panels: dict[str, dict[str, Points]] = {}
    terms = {name: line for name, line in losses.items() if name.startswith("loss")}
    if terms:
        panels["loss"] = {name.removeprefix("loss/"): line for name, line in terms.items()}
    shown = {name: scores[name] for name in SPLIT_SCORES if name in scores}
    if scores:
        panels["validation, %"] = shown or {name: scores[name] for name in scores if "IoU" in name}
    if "lr" in losses:
        panels["learning rate"] = {"lr": losses["lr"]}
    if panels:
        save_chart(line_charts(panels, "step"), run / CURVES, ours=True)


def _columns(path: Path) -> dict[str, Points]:
    """The columns of a curve over its steps; those without a number are left out."""
    rows = read_curve(path) if path.exists() else []
    names = [name for name in (rows[0] if rows else ()) if name != "step"]
    steps = [int(row["step"]) + 1 for row in rows]
    columns = {name: [float(row[name]) for row in rows] for name in names}
    known = {name: values for name, values in columns.items() if not all(map(isnan, values))}
    return {name: (steps, values) for name, values in known.items()}
