"""The index of a job as a Parquet table, which says in itself that the program has written it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unseen.errors import DataError
from unseen.files import MARK, about, replacing

KEY = b"about"
"""Of the mark, in the table's own data."""


def check_parquet(path: Path) -> None:
    """Refuse to write over a table of somebody else's.

    Raises:
        DataError: It is one, or no table.
    """
    if path.exists() and not is_own_table(path):
        raise DataError(
            f"{path} exists and was not written by unseen; move it away, or choose another place"
            " with --out"
        )


def is_own_table(path: Path) -> bool:
    """Whether a table is there that says that the program has written it."""
    if not path.exists() or find_spec("pyarrow") is None:
        return False
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        told: bytes = (read_schema(path).metadata or {}).get(KEY, b"")
    except (ArrowException, OSError):
        return False
    return told.startswith(MARK.encode())


def write_parquet(path: Path, heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Write a table with a row a line.

    Raises:
        DataError: `check_parquet` refuses, or it cannot be written.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    check_parquet(path)
    columns = {head: [line[place] for line in lines] for place, head in enumerate(heads)}
    table = pyarrow.table(columns).replace_schema_metadata({KEY: about()})
    with replacing(path, ours=True) as beside:
        write_table(table, beside)
