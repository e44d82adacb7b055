"""Losses over steps: a CSV file in every run folder, TensorBoard files where they are asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from unseen.errors import DataError, SettingError
from unseen.files import unwritable, write_text
from unseen.texts import read_text


class Curve(Protocol):
    """Takes the numbers of single steps."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, counted from 0."""

    def close(self) -> None:
        """Write what is still held back."""


class CsvCurve:
    """`metrics.csv`: one row a logged step, one column a number, and the step, counted from 0.

    Args:
        folder: Where the file lies.
        start: The step a run begins or is resumed with: rows of earlier steps are kept, rows of
            later ones, which follow again, are removed.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / "metrics.csv"
        folder.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if self.path.exists():
            # Later steps were logged, but their weights were never saved: they come again.
            kept = [row for row in self._rows() if int(row["step"]) < start]
        self.columns: list[str] = []
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

    def _rows(self) -> list[dict[str, Any]]:
        """The rows that are there, without one that a kill has cut off.

        Raises:
            DataError: Another file.
        """
        lines = read_text(self.path).split("\n")[:-1]  # behind the last line end is nothing
        try:
            rows = csv.DictReader(lines)
            found = list(rows)
            numbered = not lines or "step" in (rows.fieldnames or ())
            fits = numbered and all(int(row["step"]) >= 0 and None not in row for row in found)
            fits = fits and not any(None in row.values() for row in found)
        except (KeyError, ValueError, TypeError, csv.Error):
            fits = False
        if not fits:
            raise DataError(f"{self.path} is not a run's curve; move it away to go on without it")
        return found

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


class TensorBoardCurve:
    """Event files for TensorBoard.

    Args:
        folder: Where they lie.
        start: As for `CsvCurve`.

    Raises:
        SettingError: The package tensorboard does not work.
    """

    def __init__(self, folder: Path, start: int) -> None:
        # torch has the writer, but it needs the package tensorboard, an extra. `unseen.plans` has
        # looked for it, though it may be there and not work.
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingError(
                f"--train.logger tensorboard: the package cannot be imported ({error}); install it"
                " again with pip install 'unseen[track]'"
            ) from error

        # Events from `start` on, which a resumed run writes again, are hidden by TensorBoard.
        self.writer = SummaryWriter(str(folder), purge_step=start or None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar for every number."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held back."""
        self.writer.close()


def open_curves(folder: Path, logger: str, start: int) -> list[Curve]:
    """The CSV file, and what `train.logger` adds to it."""
    # The CSV file is written whatever the logger is: reading it needs no package.
    curves: list[Curve] = [CsvCurve(folder, start)]
    if logger == "tensorboard":
        curves.append(TensorBoardCurve(folder, start))
    return curves
