"""The folder of an export, which appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unseen.errors import DataError
from unseen.files import has_mark, sweep, unfinished_name, unwritable

RECORD = "export.json"
"""In the folder: what it was made of. It is the last file that is written."""


def check_export_folder(folder: Path) -> None:
    """Refuse to replace what is no export, or one that somebody has worked on.

    Raises:
        DataError: Names what is in the way.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    remedy = "move it away, or choose another place with --out"
    record = folder / RECORD
    if folder.is_symlink() or not folder.is_dir() or not has_mark(record):
        raise DataError(f"{folder} exists and is no export of unseen; {remedy}")
    exported = record.stat().st_mtime_ns
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mtime_ns > exported:
            raise DataError(f"{path} has been changed since it was exported; {remedy}")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write to, which takes its name when the block ends well.

    Raises:
        DataError: It cannot be written, or `check_export_folder` refuses.
    """
    check_export_folder(folder)
    beside = folder.parent / unfinished_name()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        beside.mkdir()
        yield beside
        former = folder.parent / unfinished_name()
        if folder.exists():
            folder.rename(former)
        beside.rename(folder)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
