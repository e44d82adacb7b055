"""Legends: coloured chips with the names of classes, in any script a font of the system has."""

from __future__ import annotations

import unicodedata
from bisect import bisect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
PAPER, INK, FAINT, ACCENT = (255, 255, 255), (28, 30, 34), (110, 116, 125), (196, 58, 32)
WIDE_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "arial.ttf",
)
"""Fonts of the system, tried in this order for names outside ASCII, which Pillow's own font cannot
write."""


@lru_cache(maxsize=64)
def font_of(size: int, wide: bool = False) -> Any:
    """A font of `size` pixels; a wide one can write more than ASCII, if the system has one."""
    if wide:
        for name in WIDE_FONTS:
            # Pillow looks a bare file name up in the font folders of the system.
            with suppress(OSError):
                return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def fit_text(text: str, size: int, width: float) -> tuple[str, Any]:
    """A text as it can be written in `width` pixels, and the font.

    Too long ones are cut with an ellipsis; where no font has its accents, they are left out.
    """
    # Fonts have nothing for control characters, and some layouts fail on them.
    text = "".join(char if char.isprintable() else "?" for char in text)
    font = font_of(size, not text.isascii())
    # The same font in both cases means that the system has none of `WIDE_FONTS`.
    if not text.isascii() and font.getname() == font_of(size).getname():
        # Accents become characters of their own, which the encoding to ASCII drops.
        decomposed = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
        text = decomposed.encode("ascii", "ignore").decode() or "?"
    # Widths of proportional fonts are only known by measuring.
    if font.getlength(text) <= width:
        return text, font
    lengths = range(1, len(text))
    fitting = bisect(lengths, width, key=lambda length: font.getlength(_cut(text, length)))
    return _cut(text, max(1, fitting)), font


def _cut(text: str, length: int) -> str:
    return text[:length].rstrip() + "…"


@dataclass(frozen=True)
class Entry:
    """A class in a legend.

    Attributes:
        name: Its name.
        colour: Of its chip.
        unseen: It had no masks in training.
        note: A short text behind the name.
    """

    name: str
    colour: Colour
    unseen: bool = False
    note: str = ""

    @property
    def remark(self) -> str:
        """The note, and whether the class is unseen."""
        if not self.unseen:
            return self.note
        if not self.note:
            return "unseen"
        return f"{self.note} (unseen)"


@dataclass(frozen=True)
class _Placed:
    """A legend's entry with its place, and its name as it is written there."""

    entry: Entry
    left: int
    top: int
    text: str
    font: Any


def legend(entries: Sequence[Entry], width: int, *, scale: float = 1.0) -> Image.Image:
    """Coloured chips with class names, on as many lines as they need.

    The names of unseen classes are underlined and marked.

    Args:
        entries: The classes.
        width: Of the legend, in pixels.
        scale: Of text and chips.
    """
    chip, line = round(14 * scale), round(24 * scale)
    small = font_of(round(12 * scale))
    placed = _place_entries(entries, width, scale)
    # The canvas ends below the last line; without entries it is as high as one line.
    bottom = round(10 * scale)
    if placed:
        bottom = placed[-1].top
    canvas = Image.new("RGB", (width, bottom + line + round(10 * scale) // 2), PAPER)
    pen = ImageDraw.Draw(canvas)
    for place in placed:
        _draw_entry(pen, place, chip, small)
    return canvas


def _place_entries(entries: Sequence[Entry], width: int, scale: float) -> list[_Placed]:
    """Entries one after the other; one that does not fit into the line begins the next."""
    size, chip, gap = round(15 * scale), round(14 * scale), round(10 * scale)
    small = font_of(round(12 * scale))
    x, y = gap, gap
    placed = []
    for entry in entries:
        # The name is cut to the room that chip and remark leave.
        beside: float = chip + 6
        if entry.remark:
            beside += 5 + small.getlength(entry.remark)
        text, font = fit_text(entry.name, size, width - 2 * gap - beside)
        length = beside + font.getlength(text)
        # An entry alone in its line stays there, however long it is.
        if x > gap and x + length > width - gap:
            x, y = gap, y + round(24 * scale)
        placed.append(_Placed(entry, x, y, text, font))
        x += round(length + 1.6 * gap)
    return placed


def _draw_entry(pen: ImageDraw.ImageDraw, place: _Placed, chip: int, small: Any) -> None:
    """One entry: its chip, name, remark, and the line below the name of an unseen class."""
    entry, top = place.entry, place.top
    outline, remark_colour = None, FAINT
    if entry.unseen:
        outline, remark_colour = INK, ACCENT
    corners = (place.left, top + 2, place.left + chip, top + 2 + chip)
    pen.rounded_rectangle(corners, radius=3, fill=entry.colour, outline=outline, width=2)
    start, middle = place.left + chip + 6, top + 1 + chip / 2
    end = start + place.font.getlength(place.text)
    pen.text((start, middle), place.text, fill=INK, font=place.font, anchor="lm")
    if entry.remark:
        pen.text((end + 5, middle), entry.remark, fill=remark_colour, font=small, anchor="lm")
    if entry.unseen:
        pen.line((start, top + chip + 4, end, top + chip + 4), fill=ACCENT, width=2)
