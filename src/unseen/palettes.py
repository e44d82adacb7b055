"""Colours of classes: for colour-blind eyes, PASCAL's, or from a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from unseen.data.classes import voc_palette
from unseen.errors import SettingError
from unseen.legends import Colour
from unseen.settings.ranges import shown
from unseen.texts import is_file, read_text

NAMES = ("safe", "voc")
"""Of palettes that come with the package."""
_LINE = re.compile(r"(?P<name>.*?)\s*#(?P<colour>[0-9a-fA-F]{6})")


@cache
def _safe() -> list[Colour]:
    """As `tools/palette.py` has made them."""
    lines = (resources.files("unseen") / "palette.txt").read_text(encoding="ascii").split()
    return [_colour(line) for line in lines]


def _colour(digits: str) -> Colour:
    r, g, b = bytes.fromhex(digits)
    return r, g, b


def colours(count: int) -> list[Colour]:
    """Distinct colours of classes, by index; from the 254th on they begin again."""
    table = _safe()
    return [table[i % len(table)] for i in range(count)]


def class_colours(palette: str, names: Sequence[str]) -> list[Colour]:
    """The colours of classes.

    Args:
        palette: One of `NAMES`, or a text file (`DrawSettings`).
        names: Of the classes.

    Raises:
        SettingError: Neither, or a file with other lines than it may have.
        DataError: A file that cannot be read.
    """
    if palette == "safe":
        return colours(len(names))
    if palette == "voc":
        table = voc_palette()[1:]  # the first is the background's
        return [table[i % len(table)] for i in range(len(names))]
    if not is_file(palette):
        raise SettingError(
            f"there is no palette {shown(palette)}; choose {' or '.join(NAMES)}, or give a text"
            " file with a line a class, such as: sky #87ceeb"
        )
    return _from_file(Path(palette), names)


def _from_file(path: Path, names: Sequence[str]) -> list[Colour]:
    table, unnamed = dict(zip(names, colours(len(names)), strict=True)), 0
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise SettingError(
                f"{path}, line {number}: {shown(line)} is no colour; give #rrggbb, or a class and"
                " #rrggbb"
            )
        name = found["name"].rstrip(":")
        if not name and unnamed < len(names):
            name, unnamed = names[unnamed], unnamed + 1
        # Files may name more classes than a job has.
        if name in table:
            table[name] = _colour(found["colour"])
    return list(table.values())
