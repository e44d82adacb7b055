"""A label map as the page shows it: the image in colours, what lies under the pointer, a legend."""

from __future__ import annotations

import base64
import io
import json
from html import escape

import numpy as np
from PIL import Image

from unseen.labels import IGNORE
from unseen.legends import Colour
from unseen.palettes import class_colours
from unseen.segmentation import Segmentation
from unseen.visualize import IGNORED, paint, percent

SIDES = (640, 1600)
"""Least and most pixels of the longer side of what is shown; label maps that are downloaded have
the size of the image."""


def shown(result: Segmentation, name: str) -> str:
    """HTML of an image, its label map and its legend.

    The page's script reads class and score of a pixel from a second image, whose red is the label
    and whose green is the score.
    """
    table = class_colours(result.drawing.palette, result.names)
    painted = Image.fromarray(paint(result.image, result.labels, table, result.drawing))
    scores = np.rint(255 * result.confidence).astype(np.uint8)
    told = np.stack([result.labels, scores, np.zeros_like(scores)], axis=-1)
    size, smooth = _shown_size(painted.size)
    names = escape(json.dumps(result.names), quote=True)
    return (
        f'<figure class="unseen-view" data-names="{names}">'
        f'<img class="unseen-painted" alt="{escape(name, quote=True)}, its classes in colours"'
        f' src="{_address(painted.resize(size, smooth), "JPEG")}">'
        f'<img class="unseen-told" alt="" hidden'
        f' src="{_address(Image.fromarray(told).resize(size, Image.Resampling.NEAREST), "PNG")}">'
        '<output class="unseen-tip" hidden></output>'
        f"<figcaption>{escape(name)}</figcaption></figure>{_legend(result, table)}"
    )


def _shown_size(size: tuple[int, int]) -> tuple[tuple[int, int], Image.Resampling]:
    """The size to show an image at, and how it gets it: small ones keep their pixels as squares."""
    longest = max(size)
    if longest < SIDES[0]:
        factor = SIDES[0] // longest
        return (size[0] * factor, size[1] * factor), Image.Resampling.NEAREST
    reduced = min(1.0, SIDES[1] / longest)
    width, height = (max(1, round(side * reduced)) for side in size)
    return (width, height), Image.Resampling.BILINEAR


def _address(image: Image.Image, kind: str) -> str:
    """An image as an address that holds it."""
    file = io.BytesIO()
    image.save(file, format=kind, quality=88)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"


def _legend(result: Segmentation, table: list[Colour]) -> str:
    """The classes there are, the largest first, with their shares."""
    colours = dict(zip(result.names, table, strict=True))
    rows = [(name, share, colours[name]) for name, share in result.largest(len(result.names))]
    without = float((result.labels == IGNORE).mean())
    if without > 0:
        rows.append(("no class", without, IGNORED))
    entries = "".join(
        f'<li><i style="background: rgb({r}, {g}, {b})"></i>{escape(name)}'
        f"<b>{percent(share)}</b></li>"
        for name, share, (r, g, b) in rows
    )
    return f'<ul class="unseen-legend">{entries}</ul>'
