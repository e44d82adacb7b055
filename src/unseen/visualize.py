"""Images of results: overlays with legends, and sheets of image, truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unseen.labels import IGNORE, MAX_8BIT_CLASSES, label_to_index
from unseen.legends import ACCENT, FAINT, INK, PAPER, Colour, Entry, fit_text, font_of, legend
from unseen.palettes import class_colours, colours
from unseen.settings import DrawSettings

IGNORED = (150, 150, 150)
"""The colour of ignored pixels in legends."""
GAP, HEAD, FOOT = 8, 30, 20
"""Of sheets, in pixels: the gap between cells, the height of the column heads and of the notes
below cells."""


def label_palette(classes: Sequence[Colour]) -> list[Colour]:
    """A colour for every label, at least 256: those of the classes, black for all else.

    Tables and indexed PNGs use it; labels are those of `unseen.labels`.
    """
    # Classes past the 8-bit labels go on behind 255; labels of no class in between are black.
    table = list(classes)
    unused = 256 - min(len(table), MAX_8BIT_CLASSES)
    return [*table[:MAX_8BIT_CLASSES], *[(0, 0, 0)] * unused, *table[MAX_8BIT_CLASSES:]]


def paint(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    classes: Sequence[Colour],
    drawing: DrawSettings | None = None,
) -> NDArray[np.uint8]:
    """An image with its label map laid over it, a dark line where two labels meet.

    Args:
        image: (H, W, 3).
        labels: (H, W); ignored pixels are shown in grey.
        classes: Their colours.
        drawing: Strength of the colours, width of the line.
    """
    drawing = drawing or DrawSettings()
    width = drawing.contour_of(labels.shape)
    # An edge pixel has another label than the one above or to the left of it.
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    for axis in (0, 1):
        edge = _wider(edge, width, axis)
    table = np.array(label_palette(classes), dtype=np.uint8)
    painted = np.empty_like(image)
    # Strip by strip, so that what is mixed stays small.
    rows = max(1, STRIP // labels.shape[1])
    for top in range(0, len(labels), rows):
        strip = slice(top, top + rows)
        mixed = _mixed(Image.fromarray(image[strip]), labels[strip], table, drawing.alpha)
        if width > 0:
            mixed.paste(mixed.point(_DARKER), mask=_mask(edge[strip]))
        painted[strip] = np.asarray(mixed)
    return painted


def _wider(edge: NDArray[np.bool_], width: int, axis: int) -> NDArray[np.bool_]:
    """Lines of one pixel with so many along one axis, to both sides."""
    wider = edge.copy()
    grown, thin = np.moveaxis(wider, axis, 0), np.moveaxis(edge, axis, 0)
    for step in range(1, width // 2 + 1):
        grown[step:] |= thin[:-step]
    for step in range(1, (width - 1) // 2 + 1):
        grown[:-step] |= thin[step:]
    return wider


STRIP = 2**20
"""Pixels painted at a time."""
_DARKER = [round(0.45 * value) for value in range(256)] * 3
_PALE = [round(0.5 * value + 110) for value in range(256)]
"""What lines between labels and ignored pixels make of a channel."""


def _mixed(
    image: Image.Image, labels: NDArray[Any], table: NDArray[np.uint8], strength: float
) -> Image.Image:
    """The colours of an image and of its labels, as `paint` mixes them."""
    grey = image.convert("L")
    # Half of the image's own colour is removed, so that it is not taken for a class's.
    base = Image.blend(image, grey.convert("RGB"), 0.55)
    mixed = Image.blend(base, Image.fromarray(table[labels]), strength)
    mixed.paste(grey.point(_PALE).convert("RGB"), mask=_mask(labels == IGNORE))
    return mixed


def _mask(pixels: NDArray[np.bool_]) -> Image.Image:
    """Where to paste."""
    return Image.fromarray(pixels.astype(np.uint8) * 255)


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    names: Sequence[str],
    unseen: Sequence[str] = (),
    drawing: DrawSettings | None = None,
) -> Image.Image:
    """A painted image above a legend of its classes, the largest first, with their pixel shares.

    Args:
        image: (H, W, 3).
        labels: (H, W); 255 where no class was given.
        names: The class names.
        unseen: Those without masks in training.
        drawing: Colours, their strength, the line where classes meet.
    """
    drawing = drawing or DrawSettings()
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    # A stable sort: classes of equal size keep the order of the vocabulary.
    by_size = np.argsort(-share[: len(names)], kind="stable").tolist()
    table = class_colours(drawing.palette, names)
    entries = [
        Entry(names[i], table[i], names[i] in unseen, percent(share[i]))
        for i in by_size
        if share[i] > 0
    ]
    if share[IGNORE] > 0:
        entries.append(Entry("no class", IGNORED, note=percent(share[IGNORE])))
    painted = Image.fromarray(paint(image, labels, table, drawing))
    if painted.width < 480:
        # Small images are enlarged by a whole factor, so that every pixel stays a square.
        factor = min(-(-480 // painted.width), max(1, 2000 // painted.height))
        size = (painted.width * factor, painted.height * factor)
        painted = painted.resize(size, Image.Resampling.NEAREST)
    # Text grows with images that are wider than 900 pixels, which are shown scaled down.
    scale = max(1.0, painted.width / 900)
    return _stack([painted, legend(entries, max(480, painted.width), scale=scale)])


def percent(share: float) -> str:
    """A share that is not 0, of which something is left when it is rounded."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


# ----------------------------------------------------------------------- sheets


def spread(count: int, shown: int) -> list[int]:
    """The indices of `shown` of `count` items, evenly spread from the first to the last.

    All of them where there are fewer.
    """
    last = max(0, count - 1)
    return sorted({round(place) for place in np.linspace(0, last, min(shown, count)).tolist()})


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Attributes:
        image: (H, W, 3).
        truth: Its true label map (H, W).
        predictions: Label maps (H, W) by column head.
        note: On the image: its file and the query class, for one.
    """

    image: NDArray[np.uint8]
    truth: NDArray[Any]
    predictions: dict[str, NDArray[Any]]
    note: str = ""


def sheet(  # noqa: PLR0913 - keyword-only
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
    """Rows of image, truth and predictions under column heads, with a legend of their classes.

    Args:
        rows: What to show; predictions are shown where the truth is known, as the metric sees them.
        names: The class names.
        unseen: Those without masks in training.
        title: Head line.
        subtitle: Smaller line under it.
        cell: The longer side of an image in pixels.
        across: Rows set side by side.
        everywhere: Show predictions where the truth has no class too (folds, where that means
            background).
    """
    heads = ["image", "truth", *rows[0].predictions]
    block = len(heads) * (cell + GAP) + GAP
    # Blocks of columns beside each other are two gaps apart; their rows share lines.
    width = across * block + (across - 1) * 2 * GAP
    heights = [
        max(_fitted(row.image, cell)[1] for row in rows[first : first + across])
        for first in range(0, len(rows), across)
    ]
    tops = [HEAD + sum(heights[:line]) + GAP * line for line in range(len(heights) + 1)]
    body = Image.new("RGB", (width, tops[-1]), PAPER)
    for column in range(across):
        _draw_heads(body, heads, column * (block + 2 * GAP), cell, given=2)
    present, table = set[int](), colours(len(names))
    for index, row in enumerate(rows):
        line, column = divmod(index, across)
        left = column * (block + 2 * GAP) + GAP
        box = (left, tops[line], left + cell, tops[line] + heights[line])
        # Predictions on ignored pixels do not count, and are not shown unless asked for.
        scored = (row.truth != IGNORE) | everywhere
        maps = [row.truth]
        maps += [np.where(scored, labels, IGNORE) for labels in row.predictions.values()]
        _paste_row(body, row, maps, box, table)
        for labels in maps:
            shown = np.unique(labels[scored & (labels != IGNORE)])
            present |= {int(label_to_index(label)) for label in shown}
    # Seen classes come first, then the unseen ones, each in the order of the vocabulary.
    classes = sorted(present, key=lambda i: (names[i] in unseen, i))
    entries = [Entry(names[i], table[i], names[i] in unseen) for i in classes]
    return _stack([_title(title, subtitle, width), body, legend(entries, width)])


def _draw_heads(
    body: Image.Image, heads: Sequence[str], left: int, cell: int, *, given: int
) -> None:
    """Column heads over cells from `left`; those after the first `given` are set off in colour."""
    pen = ImageDraw.Draw(body)
    for column, text in enumerate(heads):
        middle = left + GAP + column * (cell + GAP) + cell / 2
        colour = INK
        if column >= given:
            colour = ACCENT
        pen.text((middle, HEAD / 2), text, fill=colour, font=font_of(16), anchor="mm")


def _paste_row(
    body: Image.Image,
    row: Row,
    maps: Sequence[NDArray[Any]],
    box: tuple[int, int, int, int],
    classes: Sequence[Colour],
) -> None:
    """A row's image and label maps, painted in the colours of the classes, from a first cell on."""
    left, top, right, bottom = box
    cells = [row.image, *(paint(row.image, labels, classes) for labels in maps)]
    for column, pixels in enumerate(cells):
        place = (left + column * (right - left + GAP), top)
        _paste_centred(body, pixels, place, (right - left, bottom - top))
    if row.note:
        pen = ImageDraw.Draw(body)
        text, font = fit_text(row.note, 14, right - left - 16)
        pen.rectangle((left, bottom - 22, left + font.getlength(text) + 12, bottom), fill=PAPER)
        pen.text((left + 6, bottom - 11), text, fill=INK, font=font, anchor="lm")


def segments_sheet(
    rows: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.bool_], Sequence[float]]],
    *,
    title: str,
    subtitle: str = "",
    cell: int = 220,
) -> Image.Image:
    """Rows of an image and its eigen-segments, laid over it, with their eigenvalues.

    Args:
        rows: Names, images (H, W, 3), segments (K, H, W) and eigenvalues (K,).
        title: Head line.
        subtitle: Smaller line under it.
        cell: Side of an image in pixels.
    """
    count = max(len(segments) for _, _, segments, _ in rows)
    size = (GAP + (1 + count) * (cell + GAP), HEAD + len(rows) * (cell + FOOT + GAP))
    body = Image.new("RGB", size, PAPER)
    heads = ["image", *(f"segment {k}" for k in range(count))]
    _draw_heads(body, heads, 0, cell, given=1)
    pen = ImageDraw.Draw(body)
    for line, (name, image, segments, values) in enumerate(rows):
        top = HEAD + line * (cell + FOOT + GAP)
        # A segment has the colour of its number, whatever it shows; the rest is grey.
        painted = [
            paint(image, np.where(segment, k, IGNORE), colours(count), DrawSettings(alpha=0.55))
            for k, segment in enumerate(segments)
        ]
        notes = [fit_text(name, 12, cell)]
        notes += [
            (f"eigenvalue {value:.3f}   {100 * segment.mean():.0f} % of the image", font_of(12))
            for value, segment in zip(values, segments, strict=True)
        ]
        for column, pixels in enumerate([image, *painted]):
            left = GAP + column * (cell + GAP)
            _paste_centred(body, pixels, (left, top), (cell, cell))
            text, font = notes[column]
            middle = (left + cell / 2, top + cell + FOOT / 2)
            pen.text(middle, text, fill=FAINT, font=font, anchor="mm")
    return _stack([_title(title, subtitle, body.width), body])


def _title(title: str, subtitle: str, width: int) -> Image.Image:
    """The head of a sheet: one line, or two with a subtitle."""
    height = 42
    if subtitle:
        height = 62
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((10, 12), title, fill=INK, font=font_of(21))
    if subtitle:
        pen.text((10, 40), subtitle, fill=FAINT, font=font_of(14))
    return canvas


def _fitted(pixels: NDArray[np.uint8], cell: int) -> tuple[int, int]:
    """Width and height of an image whose longer side is as long as a cell."""
    height, width = pixels.shape[:2]
    factor = cell / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _paste_centred(
    body: Image.Image, pixels: NDArray[np.uint8], corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """An image in the middle of a cell; small ones are enlarged without smoothing."""
    width, height = _fitted(pixels, size[0])
    # Pixels of small drawings stay sharp squares; photographs are smoothed when reduced.
    larger = width > pixels.shape[1]
    resampling = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    image = Image.fromarray(pixels).resize((width, height), resampling)
    body.paste(image, (corner[0] + (size[0] - width) // 2, corner[1] + (size[1] - height) // 2))


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Images one below the other."""
    size = (max(part.width for part in parts), sum(part.height for part in parts))
    canvas = Image.new("RGB", size, PAPER)
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas
