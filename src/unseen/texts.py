"""The one door for text files: plain files, of a bounded size, as UTF-8; YAML without bombs."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from unseen.errors import DataError

LARGEST = 64 * 2**20
"""Bytes of a text file; lists of a hundred thousand images take two million."""
MOST_PARTS = 200_000
"""Of a YAML file, with everything counted as often as it is referred to."""


def read_text(path: Path, *, missing: str = "check the path") -> str:
    """The text of a file.

    Args:
        path: UTF-8; a byte order mark, which editors on Windows put in front, is no part of it.
        missing: What to do about a file that is not there.

    Raises:
        DataError: Missing, not a plain file, too large, or no such text.
    """
    try:
        status = path.stat()
        # A pipe or a device would be read for ever.
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a file; {missing}")
        if status.st_size > LARGEST:
            raise DataError(
                f"{path} has {status.st_size / 1e6:.0f} MB, too much for a text; check that it is"
                " the right file"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {missing}") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text; save it so") from error


def read_names(path: Path) -> list[str]:
    """The names in a list of images, one a line.

    Raises:
        DataError: As `read_text`, or a name that no file can have.
    """
    names = read_text(path).split()
    long = next((name for name in names if len(name) > LONGEST_NAME), None)
    if long is not None:
        raise DataError(
            f"{path} holds a name of {len(long)} characters, which no image can have; check that it"
            " is the right file"
        )
    return names


LONGEST_NAME = 200
"""Characters of an image's name, which its results lengthen by a few."""


def read_yaml(path: Path, *, missing: str = "check the path") -> Any:
    """What a YAML file says: plain data, nothing in it runs.

    Raises:
        DataError: The file cannot be read, is no YAML, or unfolds to endless repetition.
    """
    try:
        content = yaml.safe_load(read_text(path, missing=missing))
        _count(content)
    # Dates and numbers that cannot be are ValueErrors.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise DataError(f"{path} is not YAML that can be read; restore it") from error
    return content


def _count(content: Any) -> None:
    """Refuse what unfolds to too many parts: anchors may repeat each other over and over."""
    waiting, seen = [content], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if seen > MOST_PARTS:
            raise ValueError("too many parts")
        if isinstance(part, dict):
            waiting.extend(part.keys())
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple, set)):
            waiting.extend(part)


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        DataError: The file cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON that can be read; restore or remove it") from error


# ------------------------------------------------------- words or a path


def is_path(text: str) -> bool:
    """Whether a text looks like the path of a text file and not like words."""
    return text.lower().endswith((".txt", ".csv")) and "," not in text


def is_file(text: str) -> bool:
    """Whether a text is the path of a file; class names may be too long for one."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def is_folder(text: str) -> bool:
    """Whether a text is the path of a folder; no text is none."""
    try:
        return bool(text.strip()) and Path(text).is_dir()
    except (OSError, ValueError):
        return False


def is_special(text: str) -> bool:
    """Whether a text is the path of a pipe or a device, which cannot be read as a file."""
    try:
        return "/" in text and Path(text).exists() and not (is_file(text) or is_folder(text))
    except (OSError, ValueError):
        return False
