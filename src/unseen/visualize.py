"""Images of results: overlays with legends, and sheets of image, truth and prediction."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unseen.labels import IGNORE, MAX_8BIT_CLASSES, label_to_index
from unseen.legends import ACCENT, FAINT, INK, PAPER, Colour, Entry, fit_text, font_of, legend

IGNORED = (150, 150, 150)
"""The colour of ignored pixels in legends."""
GAP, HEAD, FOOT = 8, 30, 20
"""Of sheets, in pixels: the gap between cells, the height of the column heads and of the notes
below cells."""


# ---------------------------------------------------------------------- colours


def colours(count: int) -> list[Colour]:
    """Distinct colours of classes, by index.

    Hues are a golden angle apart, in three strengths, so that neighbours in the list differ most.
    """
    # Saturation and value (HSV).
    strengths = ((0.62, 0.92), (0.85, 0.72), (0.45, 0.98))
    table = []
    for i in range(count):
        saturation, value = strengths[i % 3]
        # 0.618034, the golden ratio less 1, of a turn: no two of many hues fall close together.
        r, g, b = colorsys.hsv_to_rgb((0.02 + i * 0.618034) % 1.0, saturation, value)
        table.append((round(255 * r), round(255 * g), round(255 * b)))
    return table


def palette(count: int) -> list[Colour]:
    """A colour for every label, at least 256: `colours` for the classes, black for all else.

    Tables and indexed PNGs use it; labels are those of `unseen.labels`.
    """
    # Classes past the 8-bit labels go on behind 255; labels of no class in between are black.
    table = colours(count)
    unused = 256 - min(count, MAX_8BIT_CLASSES)
    return [*table[:MAX_8BIT_CLASSES], *[(0, 0, 0)] * unused, *table[MAX_8BIT_CLASSES:]]


def paint(
    image: NDArray[np.uint8], labels: NDArray[Any], count: int, *, strength: float = 0.7
) -> NDArray[np.uint8]:
    """An image with its label map laid over it, a dark line where two labels meet.

    Args:
        image: (H, W, 3).
        labels: (H, W); ignored pixels are shown in grey.
        count: Of classes.
        strength: Of the classes' colours, in 0..1.
    """
    # An edge pixel has another label than the one above or to the left of it.
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    table = np.array(palette(count), dtype=np.uint8)
    painted = np.empty_like(image)
    # Strip by strip, so that what is mixed stays small.
    rows = max(1, STRIP // labels.shape[1])
    for top in range(0, len(labels), rows):
        strip = slice(top, top + rows)
        mixed = _mixed(Image.fromarray(image[strip]), labels[strip], table, strength)
        mixed.paste(mixed.point(_DARKER), mask=_mask(edge[strip]))
        painted[strip] = np.asarray(mixed)
    return painted


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
    image: NDArray[np.uint8], labels: NDArray[Any], names: Sequence[str], unseen: Sequence[str] = ()
) -> Image.Image:
    """A painted image above a legend of its classes, the largest first, with their pixel shares.

    Args:
        image: (H, W, 3).
        labels: (H, W); 255 where no class was given.
        names: The class names.
        unseen: Those without masks in training.
    """
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    # A stable sort: classes of equal size keep the order of the vocabulary.
    by_size = np.argsort(-share[: len(names)], kind="stable").tolist()
    table = colours(len(names))
    entries = [
        Entry(names[i], table[i], names[i] in unseen, f"{100 * share[i]:.1f} %")
        for i in by_size
        if share[i] > 0
    ]
    if share[IGNORE] > 0:
        entries.append(Entry("no class", IGNORED, note=f"{100 * share[IGNORE]:.1f} %"))
    painted = Image.fromarray(paint(image, labels, len(names)))
    if painted.width < 480:
        # Small images are enlarged by a whole factor, so that every pixel stays a square.
        factor = min(-(-480 // painted.width), max(1, 2000 // painted.height))
        size = (painted.width * factor, painted.height * factor)
        painted = painted.resize(size, Image.Resampling.NEAREST)
    # Text grows with images that are wider than 900 pixels, which are shown scaled down.
    scale = max(1.0, painted.width / 900)
    return _stack([painted, legend(entries, max(480, painted.width), scale=scale)])


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
        note: On the image: the query class, for one.
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
        cell: Side of an image in pixels.
        across: Rows set side by side.
        everywhere: Show predictions where the truth has no class too (folds, where that means
            background).
    """
    heads = ["image", "truth", *rows[0].predictions]
    block = len(heads) * (cell + GAP) + GAP
    # Blocks of columns beside each other are two gaps apart; their rows share lines.
    lines = -(-len(rows) // across)
    width = across * block + (across - 1) * 2 * GAP
    body = Image.new("RGB", (width, HEAD + lines * (cell + GAP)), PAPER)
    for column in range(across):
        _draw_heads(body, heads, column * (block + 2 * GAP), cell, given=2)
    present: set[int] = set()
    for index, row in enumerate(rows):
        line, column = divmod(index, across)
        corner = (column * (block + 2 * GAP) + GAP, HEAD + line * (cell + GAP))
        # Predictions on ignored pixels do not count, and are not shown unless asked for.
        scored = (row.truth != IGNORE) | everywhere
        maps = [row.truth]
        maps += [np.where(scored, labels, IGNORE) for labels in row.predictions.values()]
        _paste_row(body, row, maps, corner, cell, len(names))
        for labels in maps:
            shown = np.unique(labels[scored & (labels != IGNORE)])
            present |= {int(label_to_index(label)) for label in shown}
    table = colours(len(names))
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
    corner: tuple[int, int],
    cell: int,
    count: int,
) -> None:
    """A row's image and label maps, painted with `count` classes, from an upper left corner on."""
    left, top = corner
    cells = [row.image, *(paint(row.image, labels, count) for labels in maps)]
    for column, pixels in enumerate(cells):
        body.paste(_centre(pixels, cell), (left + column * (cell + GAP), top))
    if row.note:
        pen = ImageDraw.Draw(body)
        text, font = fit_text(row.note, 14, cell - 16)
        box = (left, top + cell - 22, left + font.getlength(text) + 12, top + cell)
        pen.rectangle(box, fill=PAPER)
        pen.text((left + 6, top + cell - 11), text, fill=INK, font=font, anchor="lm")


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
            paint(image, np.where(segment, k, IGNORE), count, strength=0.55)
            for k, segment in enumerate(segments)
        ]
        notes = [fit_text(name, 12, cell)]
        notes += [
            (f"eigenvalue {value:.3f}   {100 * segment.mean():.0f} % of the image", font_of(12))
            for value, segment in zip(values, segments, strict=True)
        ]
        for column, pixels in enumerate([image, *painted]):
            left = GAP + column * (cell + GAP)
            body.paste(_centre(pixels, cell), (left, top))
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


def _centre(pixels: NDArray[np.uint8], cell: int) -> Image.Image:
    """An image centred in a square cell; small ones are enlarged without smoothing."""
    image = Image.fromarray(pixels)
    # Pixels of small drawings stay sharp squares; photographs are smoothed when reduced.
    factor = cell / max(image.size)
    resampling = Image.Resampling.LANCZOS
    if factor > 1:
        resampling = Image.Resampling.NEAREST
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image = image.resize(size, resampling)
    canvas = Image.new("RGB", (cell, cell), (238, 239, 241))
    canvas.paste(image, ((cell - image.width) // 2, (cell - image.height) // 2))
    return canvas


def _stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Images one below the other."""
    size = (max(part.width for part in parts), sum(part.height for part in parts))
    canvas = Image.new("RGB", size, PAPER)
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas
