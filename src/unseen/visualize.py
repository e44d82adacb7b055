"""Images of results: overlays with legends, and sheets of image, truth and prediction."""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unseen.labels import IGNORE, MAX_8BIT_CLASSES, label_to_index

Colour = tuple[int, int, int]
PAPER, INK, FAINT, ACCENT = (255, 255, 255), (28, 30, 34), (110, 116, 125), (196, 58, 32)


def colours(count: int) -> list[Colour]:
    """Distinct colours for word ids: hues a golden angle apart, in three strengths, so that
    neighbours in the list differ most.
    """
    strengths = ((0.62, 0.92), (0.85, 0.72), (0.45, 0.98))
    found = []
    for i in range(count):
        saturation, value = strengths[i % 3]
        r, g, b = colorsys.hsv_to_rgb((0.02 + i * 0.618034) % 1.0, saturation, value)
        found.append((round(255 * r), round(255 * g), round(255 * b)))
    return found


def palette(count: int) -> list[Colour]:
    """A colour for every label, at least 256, for tables and indexed PNGs: `colours` for the words,
    black for everything else.
    """
    found = colours(count)
    return [
        *found[:MAX_8BIT_CLASSES],
        *[(0, 0, 0)] * (256 - min(count, MAX_8BIT_CLASSES)),
        *found[MAX_8BIT_CLASSES:],
    ]


def paint(
    image: NDArray[np.uint8], labels: NDArray[Any], count: int, *, strength: float = 0.7
) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its label map (H, W) laid over it, a dark line where words meet;
    void pixels lose their colour.
    """
    table = np.array(palette(count), dtype=np.float32)
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    base = 0.45 * image + 0.55 * grey[..., None]
    known = (labels != IGNORE)[..., None]
    mixed = np.where(
        known, (1 - strength) * base + strength * table[labels], 0.5 * grey[..., None] + 110
    )
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    mixed[edge] *= 0.45
    return np.clip(mixed, 0, 255).astype(np.uint8)


WIDE_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "arial.ttf",
)
"""Fonts of the system, asked in this order for words that Pillow's own font, which knows ASCII,
cannot write."""


@lru_cache(maxsize=64)
def _font(size: int, wide: bool = False) -> Any:
    for name in WIDE_FONTS if wide else ():
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _written(word: str, size: int, room: float) -> tuple[str, Any]:
    """A word as it can be written in `room` pixels, and the font: cut with an ellipsis; without
    accents where no font has them.
    """
    font = _font(size, not word.isascii())
    if not word.isascii() and font.getname() == _font(size).getname():
        word = (
            unicodedata.normalize("NFKD", word.replace("ß", "ss"))
            .encode("ascii", "ignore")
            .decode()
            or "?"
        )
    shown = word
    while font.getlength(shown) > room and len(word) > 1:
        word = word[:-1]
        shown = word.rstrip() + "…"
    return shown, font


@dataclass(frozen=True)
class Entry:
    """One line of a legend."""

    word: str
    colour: Colour
    unseen: bool = False
    note: str = ""


def legend(entries: Sequence[Entry], width: int, *, scale: float = 1.0) -> Image.Image:
    """Chips with words, flowing over as many lines as they need; words without masks in training
    are underlined and marked.
    """
    size, chip, gap = round(15 * scale), round(14 * scale), round(10 * scale)
    small = _font(round(12 * scale))
    x, y, line = gap, gap, round(24 * scale)
    places = []
    for entry in entries:
        note = " ".join(
            part
            for part in (
                entry.note,
                "(unseen)" if entry.unseen and entry.note else "unseen" if entry.unseen else "",
            )
            if part
        )
        beside = chip + 6 + (5 + small.getlength(note) if note else 0)
        word, font = _written(entry.word, size, width - 2 * gap - beside)
        length = beside + font.getlength(word) + 1.6 * gap
        if x > gap and x + length - 1.6 * gap > width - gap:
            x, y = gap, y + line
        places.append((x, y, note, word, font))
        x += round(length)
    canvas = Image.new("RGB", (width, y + line + gap // 2), PAPER)
    pen = ImageDraw.Draw(canvas)
    for entry, (left, top, note, word, font) in zip(entries, places, strict=True):
        pen.rounded_rectangle(
            (left, top + 2, left + chip, top + 2 + chip),
            radius=3,
            fill=entry.colour,
            outline=INK if entry.unseen else None,
            width=2,
        )
        pen.text((left + chip + 6, top + 1 + chip / 2), word, fill=INK, font=font, anchor="lm")
        end = left + chip + 6 + font.getlength(word)
        if note:
            pen.text(
                (end + 5, top + 1 + chip / 2),
                note,
                fill=ACCENT if entry.unseen else FAINT,
                font=small,
                anchor="lm",
            )
        if entry.unseen:
            pen.line((left + chip + 6, top + chip + 4, end, top + chip + 4), fill=ACCENT, width=2)
    return canvas


def overlay(
    image: NDArray[np.uint8], labels: NDArray[Any], names: Sequence[str], unseen: Sequence[str] = ()
) -> Image.Image:
    """The painted image above a legend of the words found in it, largest first, with their share
    of the pixels.
    """
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    order = [i for i in np.argsort(-share[: len(names)], kind="stable").tolist() if share[i] > 0]
    table = colours(len(names))
    entries = [
        Entry(names[i], table[i], names[i] in unseen, f"{100 * share[i]:.1f} %") for i in order
    ]
    if share[IGNORE] > 0:
        entries.append(Entry("no word", (150, 150, 150), note=f"{100 * share[IGNORE]:.1f} %"))
    painted = Image.fromarray(paint(image, labels, len(names)))
    if painted.width < 480:
        factor = min(-(-480 // painted.width), max(1, 2000 // painted.height))
        painted = painted.resize(
            (painted.width * factor, painted.height * factor), Image.Resampling.NEAREST
        )
    return _stack(
        [painted, legend(entries, max(480, painted.width), scale=max(1.0, painted.width / 900))]
    )


def spread(count: int, shown: int) -> list[int]:
    """So many places of `count`, evenly spread from the first to the last; all of them where there
    are fewer.
    """
    return sorted(
        {round(place) for place in np.linspace(0, max(0, count - 1), min(shown, count)).tolist()}
    )


@dataclass(frozen=True)
class Row:
    """One line of a sheet: the image, its true label map, predictions by title, and perhaps a
    note on the image (the word that was asked for).
    """

    image: NDArray[np.uint8]
    truth: NDArray[Any]
    predictions: dict[str, NDArray[Any]]
    note: str = ""


def sheet(
    rows: Sequence[Row],
    names: Sequence[str],
    unseen: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
    cell: int = 220,
    across: int = 1,
    everywhere: bool = False,
) -> Image.Image:
    """Rows of image, truth and predictions under column heads, with the legend of the words
    shown.

    Args:
        rows: What to show; predictions are shown where the truth is known, as the metric sees them.
        names: The vocabulary.
        unseen: Its words without masks in training.
        title: Head line.
        subtitle: Smaller line under it.
        cell: Side of an image in pixels.
        across: Rows set side by side.
        everywhere: Show predictions where the truth has no word too (folds, where that means
            background).
    """
    gap, head = 8, 30
    heads = ["image", "truth", *rows[0].predictions]
    block = len(heads) * (cell + gap) + gap
    lines = -(-len(rows) // across)
    width = across * block + (across - 1) * 2 * gap
    body = Image.new("RGB", (width, head + lines * (cell + gap)), PAPER)
    pen = ImageDraw.Draw(body)
    for column in range(across):
        for place, text in enumerate(heads):
            left = column * (block + 2 * gap) + gap + place * (cell + gap)
            pen.text(
                (left + cell / 2, head / 2),
                text,
                fill=INK if place < 2 else ACCENT,
                font=_font(16),
                anchor="mm",
            )
    present: set[int] = set()
    for index, row in enumerate(rows):
        top, left = head + index // across * (cell + gap), index % across * (block + 2 * gap) + gap
        scored = (row.truth != IGNORE) | everywhere
        present |= {
            int(label_to_index(i))
            for shown in (row.truth, *row.predictions.values())
            for i in np.unique(shown[scored])
            if i != IGNORE
        }
        shown = [row.image, paint(row.image, row.truth, len(names))]
        shown += [
            paint(row.image, np.where(scored, p, IGNORE), len(names))
            for p in row.predictions.values()
        ]
        for place, pixels in enumerate(shown):
            body.paste(_fit(pixels, cell), (left + place * (cell + gap), top))
        if row.note:
            word, font = _written(row.note, 14, cell - 16)
            pen.rectangle(
                (left, top + cell - 22, left + font.getlength(word) + 12, top + cell), fill=PAPER
            )
            pen.text((left + 6, top + cell - 11), word, fill=INK, font=font, anchor="lm")
    table = colours(len(names))
    entries = [
        Entry(names[i], table[i], names[i] in unseen)
        for i in sorted(present, key=lambda i: (names[i] in unseen, i))
    ]
    return _stack([_title(title, subtitle, width), body, legend(entries, width)])


def segments_sheet(
    rows: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.bool_], Sequence[float]]],
    *,
    title: str,
    subtitle: str = "",
    cell: int = 220,
) -> Image.Image:
    """Rows of an image (H, W, 3) and its eigen-segments (K, H, W), each laid over the image,
    with its eigenvalue.

    Args:
        rows: Name, image, segments and eigenvalues.
        title: Head line.
        subtitle: Smaller line under it.
        cell: Side of an image in pixels.
    """
    gap, head, foot = 8, 30, 20
    count = max(len(segments) for _, _, segments, _ in rows)
    body = Image.new(
        "RGB", (gap + (1 + count) * (cell + gap), head + len(rows) * (cell + foot + gap)), PAPER
    )
    pen = ImageDraw.Draw(body)
    for place, text in enumerate(["image", *(f"segment {k}" for k in range(count))]):
        pen.text(
            (gap + place * (cell + gap) + cell / 2, head / 2),
            text,
            fill=ACCENT if place else INK,
            font=_font(16),
            anchor="mm",
        )
    for line, (name, image, segments, values) in enumerate(rows):
        top = head + line * (cell + foot + gap)
        body.paste(_fit(image, cell), (gap, top))
        word, font = _written(name, 12, cell)
        pen.text((gap + cell / 2, top + cell + foot / 2), word, fill=FAINT, font=font, anchor="mm")
        for k, segment in enumerate(segments):
            left = gap + (1 + k) * (cell + gap)
            body.paste(
                _fit(paint(image, np.where(segment, k, IGNORE), count, strength=0.55), cell),
                (left, top),
            )
            note = f"eigenvalue {values[k]:.3f}   {100 * segment.mean():.0f} % of the image"
            pen.text(
                (left + cell / 2, top + cell + foot / 2),
                note,
                fill=FAINT,
                font=_font(12),
                anchor="mm",
            )
    return _stack([_title(title, subtitle, body.width), body])


def _title(title: str, subtitle: str, width: int) -> Image.Image:
    canvas = Image.new("RGB", (width, 62 if subtitle else 42), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((10, 12), title, fill=INK, font=_font(21))
    if subtitle:
        pen.text((10, 40), subtitle, fill=FAINT, font=_font(14))
    return canvas


def _fit(pixels: NDArray[np.uint8], cell: int) -> Image.Image:
    """The image centred in a square cell; small ones are enlarged without smoothing."""
    image = Image.fromarray(pixels)
    factor = cell / max(image.size)
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    image = image.resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor))), how
    )
    canvas = Image.new("RGB", (cell, cell), (238, 239, 241))
    canvas.paste(image, ((cell - image.width) // 2, (cell - image.height) // 2))
    return canvas


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new(
        "RGB", (max(part.width for part in parts), sum(part.height for part in parts)), PAPER
    )
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas
