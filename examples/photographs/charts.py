"""The charts of results.md, as SVG, from the stored results."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence

import numpy as np
from common import SEEN
from curve import COUNTS
from svg import END, FAINT, GRID, INK, box, line, start, text
from tables import Result, best_free, stored

from unseen.data.classes import VOC, VOC_UNSEEN

COLOURS = ("#b9c1c7", "#0b6e99", "#c8553d", "#d9b44a")
BOLD = 'font-weight="bold"'


def class_chart(flags: argparse.Namespace, rows: Sequence[tuple[str, str]]) -> str:
    """IoU of every class, all twenty competing; bars are means over seeds, lines their range."""
    height, left, width, per_point, bar = 31, 120, 720, 5.6, 6
    bottom = 90 + height * len(VOC) + 22
    parts = [start(width, bottom + 10)]
    parts.append(text(10, 20, "IoU of VOC's classes in percent, all twenty competing", more=BOLD))
    parts.append(text(360, 20, "bars: means; lines: lowest to highest seed", colour=FAINT))
    for index, (_, title) in enumerate(rows):
        parts.append(box(10 + 176 * index, 32, 10, 10, COLOURS[index]))
        parts.append(text(26 + 176 * index, 41, title))
    for value in range(0, 101, 20):
        x = left + per_point * value
        parts.append(line([(x, 72), (x, bottom)], GRID, 1))
        parts.append(text(x - 4 * len(str(value)), 66, str(value), colour=FAINT))
    order = [*SEEN, *VOC_UNSEEN]
    values = [[seed["generalised"]["iou"] for seed in stored(flags, name)] for name, _ in rows]
    for number, name in enumerate(order):
        top = 78 + height * number + (24 if name in VOC_UNSEEN else 0)
        weight = BOLD if name in VOC_UNSEEN else ""
        parts.append(text(left - 8, top + 18, name, more=f'text-anchor="end" {weight}'))
        for index, seeds in enumerate(values):
            # A class that no pixel has and none is given has no IoU.
            scores = [seed[name] or 0.0 for seed in seeds]
            y = top + 1 + (bar + 1) * index
            parts.append(box(left, y, per_point * statistics.mean(scores), bar, COLOURS[index]))
            if len(scores) > 1:
                ends = (left + per_point * min(scores), left + per_point * max(scores))
                parts.append(line([(ends[0], y + bar / 2), (ends[1], y + bar / 2)], INK, 1))
    told = "without masks in training (but for supervised):"
    parts.append(text(10, 78 + height * len(SEEN) + 15, told, colour=FAINT))
    return "\n".join([*parts, END]) + "\n"


def curve_chart(flags: argparse.Namespace) -> str:
    """mIoU of unseen classes over the number of training images, both starts."""
    width, height, left, bottom = 720, 380, 60, 330

    def y_of(score: float) -> float:
        return bottom - 4.6 * score  # 60 per cent fill the height

    counts = (*COUNTS, stored(flags, "floors")[0]["with a seen class"])
    spots = np.interp(np.log(counts), np.log([counts[0], counts[-1]]), [90, 690])
    x = dict(zip(counts, spots.tolist(), strict=True))
    parts = [start(width, height)]
    parts.append(text(10, 20, "How many masks it takes: mIoU of unseen classes", more=BOLD))
    for value in range(0, 61, 10):
        y = y_of(value)
        parts.append(line([(left, y), (700, y)], GRID, 1))
        parts.append(text(left - 30, y + 4, str(value), colour=FAINT))
    for count, place in x.items():
        parts.append(text(place - 10, bottom + 20, str(count), colour=FAINT))
    parts.append(text(300, bottom + 42, "training images that show a seen class", colour=FAINT))
    best = best_free(flags)
    y = y_of(stored(flags, best)[0]["generalised"]["scores"]["mIoU_U"])
    parts.append(line([(left, y), (700, y)], FAINT, 1.5, dashed=True))
    parts.append(text(560, y - 6, f"{best}, no training", colour=FAINT))
    labels = {"zegclip": "ZegCLIP, aligned start", "zegclip-released": "ZegCLIP, released start"}
    for colour, (name, title) in zip(COLOURS[1:3], labels.items(), strict=True):
        points = []
        for count, place in x.items():
            scores = [part["scores"]["mIoU_U"] for part in _curve_point(flags, name, count)]
            if not scores:
                continue
            points.append((place, y_of(statistics.mean(scores))))
            ends = [(place, y_of(end)) for end in (min(scores), max(scores))]
            parts.append(line(ends, colour, 1.5))
        if points:
            parts.append(line(points, colour, 2.5))
            parts += [
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>' for px, py in points
            ]
            # Above the flat part of the line.
            middle = points[len(points) // 2 - 1]
            parts.append(text(middle[0] - 50, middle[1] - 16, title, colour=colour))
    return "\n".join([*parts, END]) + "\n"


def _curve_point(flags: argparse.Namespace, name: str, count: int) -> list[Result]:
    """The results of a row on so many training images; those on all stand in the tables."""
    if count not in COUNTS:
        return [seed["generalised"] for seed in stored(flags, name)]
    paths = sorted((flags.results / "curve").glob(f"{name}-{count}-[0-9].json"))
    return [json.loads(path.read_text()) for path in paths]
