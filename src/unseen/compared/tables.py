"""Comparisons as tables: for the screen, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from unseen.compared.bootstrap import Bootstrap, Difference
from unseen.compared.stored import Group
from unseen.settings import TableFormat

HEADS = {
    "pAcc": "pAcc",
    "mIoU": "mIoU",
    "mIoU_S": "mIoU seen",
    "mIoU_U": "mIoU unseen",
    "hIoU": "hIoU",
    "FB_IoU": "FB-IoU",
}
"""The scores of tables, and what they are headed with."""


@dataclass(frozen=True)
class Number:
    """A number in a table.

    Attributes:
        value: NaN where there is none.
        spread: Standard deviation over seeds; None of a single one.
        scale: What it is shown in.
        digits: Behind the point, as it is shown.
        unit: Behind it.
    """

    value: float
    spread: float | None = None
    scale: float = 1.0
    digits: int = 1
    unit: str = ""

    def __str__(self) -> str:
        """As it is shown."""
        if math.isnan(self.value):
            return "-"
        text = f"{self.value * self.scale:.{self.digits}f}"
        if self.spread is not None:
            text += f" ± {self.spread * self.scale:.{self.digits}f}"
        return f"{text} {self.unit}".rstrip()


Cell = str | Number | Difference


@dataclass(frozen=True)
class Comparison:
    """A table.

    Attributes:
        heads: Of the columns, the first of them names.
        rows: As many cells each.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def as_text(self) -> list[tuple[str, ...]]:
        """The rows as they are shown."""
        return [tuple(map(str, row)) for row in self.rows]

    def as_numbers(self) -> list[list[str]]:
        """Heads and rows for programs: a column for each number, at its full precision."""
        columns = []
        for head, *cells in zip(self.heads, *self.rows, strict=True):
            parts = [_parts(cell) for cell in cells]
            names = [name for name in PARTS if any(name in part for part in parts)] or [""]
            columns += [
                [f"{head} {name}".rstrip(), *(part.get(name, "") for part in parts)]
                for name in names
            ]
        return [list(row) for row in zip(*columns, strict=True)]


PARTS = ("", "sd", "low", "high")
"""Of a cell for programs: the number itself, its standard deviation, the ends of its interval."""


def _parts(cell: Cell) -> dict[str, str]:
    """The numbers of a cell, by what is put behind the head of their column."""
    if isinstance(cell, str):
        return {"": cell} if cell else {}
    values = {"": cell.value}
    if isinstance(cell, Difference):
        values |= {"low": cell.low, "high": cell.high}
    elif cell.spread is not None:
        values["sd"] = cell.spread
    return {name: f"{value:.12g}" for name, value in values.items() if not math.isnan(value)}


def mean_of_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (of a sample) of what is a number; None for a single one."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, None
    return statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None


def shown_scores(groups: Sequence[Group]) -> list[str]:
    """The scores that some report has, in the order of `HEADS`."""
    there = {
        name
        for group in groups
        for report in group.reports
        for name, value in report.scores.items()
        if not math.isnan(value)
    }
    return [name for name in HEADS if name in there]


def score_table(groups: Sequence[Group], *, against: bool = True) -> Comparison:
    """A row a model: means over its seeds ± their standard deviation, and how it differs.

    Args:
        groups: The models; the first is the one that others are compared with.
        against: Whether differences are shown.
    """
    names = shown_scores(groups)
    judged = names[-1] if names[-1] in ("hIoU", "FB_IoU") else "mIoU"
    heads = ["model", "seeds", *(HEADS[name] for name in names)]
    bootstrap = Bootstrap(groups[0]) if against and len(groups) > 1 else None
    if bootstrap is not None:
        heads.append(f"{HEADS[judged]} against {groups[0].title}")
    rows = []
    for group in groups:
        cells: list[Cell] = [group.title, str(len(group.reports))]
        for name in names:
            values = [report.scores.get(name, math.nan) for report in group.reports]
            cells.append(Number(*mean_of_seeds(values)))
        if bootstrap is not None:
            made = None if group is groups[0] else bootstrap.differences(group)
            cells.append(_known(None if made is None else made.get(judged)))
        rows.append(tuple(cells))
    return Comparison(tuple(heads), tuple(rows))


def class_table(groups: Sequence[Group]) -> Comparison:
    """A row a class: the mean IoU over the seeds of each model; unseen classes are marked."""
    first = groups[0].reports[0]
    unseen = {first.class_names[i] for i in first.unseen_ids}
    rows = []
    for name in first.class_iou:
        cells: list[Cell] = [f"{name} (unseen)" if name in unseen else name]
        for group in groups:
            values = [report.class_iou.get(name, math.nan) for report in group.reports]
            cells.append(Number(*mean_of_seeds(values)))
        rows.append(tuple(cells))
    return Comparison(("class", *(group.title for group in groups)), tuple(rows))


def _known(difference: Difference | None) -> Cell:
    """A difference, or nothing where there is none."""
    return "" if difference is None or math.isnan(difference.value) else difference


# ----------------------------------------------------------------------- formats


def written(table: Comparison, form: TableFormat) -> str:
    """A table as text in a format, without the last line end; numbers stand at the right."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table.as_numbers())
        return text.getvalue().rstrip("\n")
    if form == "tex":
        return _latex(table)
    return _markdown(table)


def _markdown(table: Comparison) -> str:
    shown = (table.heads, *table.as_text())
    lines = [tuple(cell.replace("|", "\\|") for cell in row) for row in shown]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    under = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_markdown_line(line, widths) for line in (lines[0], under, *lines[1:]))


def _markdown_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return f"| {' | '.join(padded)} |"


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
}  # fmt: skip
"""Characters that LaTeX takes for something else."""


def _latex(table: Comparison) -> str:
    """A tabular with the rules of booktabs."""
    rows = [" & ".join(map(_latex_cell, row)) + r" \\" for row in (table.heads, *table.as_text())]
    columns = "l" + "r" * (len(table.heads) - 1)
    body = [r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"])


def _latex_cell(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in text)
