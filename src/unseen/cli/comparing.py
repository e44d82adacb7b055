"""The verb about reports that were written before: compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unseen.cli.notices import notify
from unseen.errors import SettingError
from unseen.settings import TableFormat

if TYPE_CHECKING:
    from unseen.compared.stored import Group
    from unseen.compared.tables import Comparison


WIDEST = 10_000
"""Characters of a table on the screen."""


def compare(  # noqa: PLR0913 - the choices of a table
    reports: list[Path],
    /,
    *,
    benchmark: str | None = None,
    format: TableFormat = "table",
    classes: bool = False,
    costs: bool = False,
    mixed: bool = False,
    chart: Path | None = None,
) -> None:
    """Compare reports that `unseen evaluate` has written; nothing is scored again.

    Runs that differ in their seed alone share a row, with mean and standard deviation. Models are
    compared with the first one, image by image: behind the difference stands what 95 % of draws of
    other images give (a paired bootstrap), and a star where that leaves zero out.

    Args:
        reports: Folders of reports, or run folders.
        benchmark: Of runs that were scored on several, the one that is meant.
        format: Of the tables: for the screen, Markdown, CSV or LaTeX.
        classes: Also a table of all classes.
        costs: Also a table of what the models cost.
        mixed: Also compare what was scored by different protocols; without differences.
        chart: A .png file for the scores as bars.
    """
    from unseen.compared.costs import cost_table
    from unseen.compared.stored import check_alike, find_report, grouped
    from unseen.compared.tables import class_table, score_table
    from unseen.files import check_replaceable

    if chart is not None:
        if chart.suffix.lower() != ".png":
            raise SettingError(f"--chart is {chart}; give a file that ends in .png")
        check_replaceable([chart], "--chart")
    found = [find_report(place, benchmark) for place in reports]
    if not mixed:
        check_alike(found)
    groups = grouped(found, mixed=mixed)
    show(score_table(groups, against=not mixed), format)
    if classes:
        print()
        show(class_table(groups), format)
    if costs:
        print()
        show(cost_table(groups), format)
    if not mixed:
        _tell_what_is_missing(groups)
    if chart is not None:
        from unseen.compared.chart import draw

        draw(groups, chart, "--chart")
        notify(f"wrote {chart}")


def show(table: Comparison, form: TableFormat) -> None:
    """Print a table; on the screen with lines that are not cut."""
    from unseen.compared.tables import written

    if form != "table":
        print(written(table, form))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for place, head in enumerate(table.heads):
        shown.add_column(Text(head), justify="right" if place else "left", no_wrap=True)
    for row in table.as_text():
        shown.add_row(*map(Text, row))
    console = Console()
    # Nothing is cut in a narrow terminal, which folds lines itself.
    widest = console.measure(shown, options=console.options.update(width=WIDEST)).maximum
    console.width = max(console.width, widest)
    console.print(shown)


def _tell_what_is_missing(groups: Sequence[Group]) -> None:
    """Which reports hold no counts of single images."""
    from unseen.image_counts import NAME

    older = [
        str(report.folder)
        for group in groups
        for report in group.reports
        if not (report.folder / NAME).exists()
    ]
    if older and len(groups) > 1:
        notify(
            f"no differences where reports are of an earlier version ({', '.join(older)}); score"
            " them again"
        )
