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
class Comparison:
    """A table, its numbers as text.

    Attributes:
        heads: Of the columns, the first of them names.
        rows: As many cells each.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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
        cells = [group.title, str(len(group.reports))]
        for name in names:
            values = [report.scores.get(name, math.nan) for report in group.reports]
            cells.append(_cell(*mean_of_seeds(values)))
        if bootstrap is not None:
            made = None if group is groups[0] else bootstrap.differences(group)
            cells.append("" if made is None else told(made.get(judged)))
        rows.append(tuple(cells))
    return Comparison(tuple(heads), tuple(rows))


def class_table(groups: Sequence[Group]) -> Comparison:
    """A row a class: the mean IoU over the seeds of each model; unseen classes are marked."""
    first = groups[0].reports[0]
    unseen = {first.class_names[i] for i in first.unseen_ids}
    rows = []
    for name in first.class_iou:
        cells = [f"{name} (unseen)" if name in unseen else name]
        for group in groups:
            values = [report.class_iou.get(name, math.nan) for report in group.reports]
            cells.append(_cell(*mean_of_seeds(values)))
        rows.append(tuple(cells))
    return Comparison(("class", *(group.title for group in groups)), tuple(rows))


def told(difference: Difference | None) -> str:
    """A difference with its interval; a star where that leaves zero out."""
    if difference is None or math.isnan(difference.value):
        return ""
    if math.isnan(difference.low):  # too few images
        return f"{difference.value:+.1f}"
    star = "*" if difference.is_clear else ""
    return f"{difference.value:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]{star}"


def _cell(mean: float, spread: float | None) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"


# ----------------------------------------------------------------------- formats


def written(table: Comparison, form: TableFormat) -> str:
    """A table as text in a format, without the last line end; numbers stand at the right."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.heads, *table.rows])
        return text.getvalue().rstrip("\n")
    if form == "tex":
        return _latex(table)
    return _markdown(table)


def _markdown(table: Comparison) -> str:
    lines = [tuple(cell.replace("|", "\\|") for cell in row) for row in (table.heads, *table.rows)]
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
    rows = [" & ".join(map(_latex_cell, row)) + r" \\" for row in (table.heads, *table.rows)]
    columns = "l" + "r" * (len(table.heads) - 1)
    body = [r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"])


def _latex_cell(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in text)
