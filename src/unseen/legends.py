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
    "NotoSansCJK-Regular.ttc",
    "NotoEmoji-Regular.ttf",
)
"""Fonts of the system for names that Pillow's own font, which has no more than ASCII and accents,
cannot write. Of those that are there, the one that has most of a name's characters writes it."""
NOWHERE = "\U0010ffff"
"""A character that no font has."""


@lru_cache(maxsize=64)
def fonts_of(size: int) -> tuple[Any, ...]:
    """The fonts there are at a size in pixels, Pillow's own first."""
    found = [ImageFont.load_default(size)]
    for name in WIDE_FONTS:
        # Pillow looks a bare file name up in the font folders of the system.
        with suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return tuple(found)


def font_of(size: int) -> Any:
    """Pillow's own font at a size in pixels."""
    return fonts_of(size)[0]


@lru_cache(maxsize=4096)
def _writes(place: int, character: str) -> bool:
    """Whether a font, by its place in `fonts_of`, has a character."""
    font = fonts_of(16)[place]
    empty = character.isspace()
    return empty or bytes(font.getmask(character)) != bytes(font.getmask(NOWHERE))


def _written(text: str, size: int) -> tuple[str, Any]:
    """A text with the characters that the best font for it has, and that font.

    Of letters with accents that it lacks the letter stays; other characters are left out.
    """
    shown = unicodedata.normalize("NFC", text)
    # Fonts have nothing for control characters, and some layouts fail on them; those that join
    # others have no picture of their own.
    shown = "".join(char for char in shown if unicodedata.category(char) != "Cf")
    shown = "".join(char if char.isprintable() else "?" for char in shown)
    fonts = fonts_of(size)
    best = max(range(len(fonts)), key=lambda place: sum(_writes(place, char) for char in shown))
    kept = "".join(char if _writes(best, char) else _plain(char) for char in shown)
    # Marks alone, without the letters that they belong to, say nothing.
    if all(unicodedata.category(char)[0] in "MZ" for char in kept):
        kept = "?"
    return " ".join(kept.split()), fonts[best]


def _plain(character: str) -> str:
    """What ASCII has of a character: the letter without its accents, or nothing."""
    # Accents become characters of their own, which the encoding drops.
    decomposed = unicodedata.normalize("NFKD", character.replace("ß", "ss"))
    return decomposed.encode("ascii", "ignore").decode()


def fit_text(text: str, size: int, width: float) -> tuple[str, Any]:
    """A text as it can be written in `width` pixels, and the font.

    Too long ones are cut with an ellipsis; what no font has is left out.
    """
    text, font = _written(text, size)
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
