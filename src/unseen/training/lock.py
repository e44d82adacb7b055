"""One process a run folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from unseen.errors import SettingError
from unseen.files import unwritable
from unseen.runs import HOLDER, LOCK


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder; the lock ends with the process, however that ends.

    Raises:
        SettingError: Another process holds it.
        DataError: The folder cannot be written to.
    """
    holder = folder / HOLDER
    try:
        holder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        # Some network file systems have no locks: then nothing keeps processes apart.
        with suppress(NotImplementedError):
            lock.acquire()
        holder.write_text(
            f"process {os.getpid()} on {platform.node()}, since {datetime.now():%Y-%m-%d %H:%M}\n",
            encoding="utf-8",
        )
    except Timeout as error:
        raise SettingError(
            f"{folder} is being written by {_told(holder)}; wait for its end, or choose another"
            " --out"
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _told(holder: Path) -> str:
    """Who holds a lock."""
    try:
        return holder.read_text(encoding="utf-8").strip()[:100] or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
