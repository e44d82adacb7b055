"""The index of a job: a line of numbers for each image, the least sure first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unseen.files import PARQUET, path_text, write_text
from unseen.labelling.parquet import is_own_table, write_parquet

COLUMNS = ("image", "result", "height", "width", "margin", "entropy", "no_class")
"""Of the index, before the shares of the classes; by them `files.has_mark` knows it."""
Row = tuple[Path, str, Mapping[str, Any]]
"""An image, its label map below the folder of results, and the numbers beside that."""


def write_index(path: Path, rows: Sequence[Row], names: Sequence[str], *, parquet: bool) -> None:
    """Write the rows, and beside them as a Parquet table if it is wanted."""
    # A name alone could be that of another column, or a formula for a spreadsheet.
    heads = [*COLUMNS, *(f"share of {name}" for name in names)]
    lines = []
    for image, label_map, told in sorted(rows, key=lambda row: row[2]["margin"]):
        shares = {entry["name"]: entry["share"] for entry in told["classes"]}
        numbers = [told[key] for key in COLUMNS[2:]]
        lines.append(
            [path_text(image), path_text(label_map), *numbers, *(shares[name] for name in names)]
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *lines])
    write_text(path, text.getvalue())
    # One that is there of an earlier job would tell something else.
    if parquet or is_own_table(path.parent / PARQUET):
        write_parquet(path.parent / PARQUET, heads, lines)
