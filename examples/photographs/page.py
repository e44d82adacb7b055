"""The page of results, results.md, with its charts, from the stored results.

Run: python examples/photographs/page.py
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from background import MODELS
from choices import CHOICES, MANY, QUERY
from common import FREE
from curve import COUNTS
from run import FOLDS, ROWS

from unseen.data.classes import VOC, VOC_UNSEEN
from unseen.files import write_text

HERE = Path(__file__).parent
SPLITS = ("voc", *(f"pascal-5i/{fold}" for fold in FOLDS))
COLOURS = ("#b9c1c7", "#0b6e99", "#c8553d")
INK, FAINT = "#22292e", "#5c676d"
Result = dict[str, Any]


def stored(places: argparse.Namespace, name: str) -> list[Result]:
    """The results of a row or a method without training: one a seed."""
    folder = places.results / "tables"
    if name in FREE or name == "floors":
        return [json.loads((folder / f"{name}.json").read_text())]
    merged: dict[str, Result] = {}
    for split in SPLITS:
        for path in sorted(folder.glob(f"{name}-{split.replace('/', '-')}-[0-9].json")):
            result = json.loads(path.read_text())
            seed = merged.setdefault(path.stem[-1], {})
            if "generalised" in result:
                seed["generalised"] = result["generalised"]
            if "fold" in result:
                seed[split] = result["fold"]
                seed.setdefault("wrong class", {})[split] = result["wrong class"]
    return list(merged.values())


def cell(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    if not values:
        return "–"
    spread_ = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread_}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


# -------------------------------------------------------------------------- tables


def generalised(places: argparse.Namespace) -> str:
    """All twenty classes competing."""
    names = ("pAcc", "mIoU_S", "mIoU_U", "hIoU")
    floor = stored(places, "floors")[0]
    rows = [
        [
            f"every pixel is {floor['class']}",
            *(f"{floor['generalised'][name]:.1f}" for name in names),
        ]
    ]
    for name in [*FREE, *ROWS]:
        seeds = [seed["generalised"] for seed in stored(places, name) if "generalised" in seed]
        if seeds:
            title = ROWS[name].title if name in ROWS else f"`{name}`, no training"
            cells = (cell([seed["scores"][score] for seed in seeds]) for score in names)
            rows.append([title, *cells])
    return table(["", "pAcc", "mIoU seen", "mIoU unseen", "hIoU"], rows)


def in_folds(places: argparse.Namespace, score: str) -> str:
    """One query class an image: foreground against background."""
    folds = SPLITS[1:]
    floor = stored(places, "floors")[0]
    rows = [["every pixel is the class", *_fold_cells([floor], folds, lambda r: r[score])]]
    for name in [*FREE, *ROWS]:
        seeds = stored(places, name)
        seeds = [seed for seed in seeds if any(fold in seed for fold in folds)]
        if not seeds:
            continue
        title = ROWS[name].title if name in ROWS else f"`{name}`, no training"
        rows.append([title, *_fold_cells(seeds, folds, lambda r: r["scores"][score])])
        if name in ROWS and ROWS[name].query:
            wrong = [seed["wrong class"] for seed in seeds]
            rows.append(["… asked a wrong class", *_fold_cells(wrong, folds, lambda r: r[score])])
    return table(["", *(f"fold {fold}" for fold in FOLDS), "mean"], rows)


def _fold_cells(seeds: Sequence[Result], folds: Sequence[str], of: Any) -> list[str]:
    """A cell a fold, and the mean over folds of the seeds that have all of them."""
    cells = [cell([of(seed[fold]) for seed in seeds if fold in seed]) for fold in folds]
    whole = [seed for seed in seeds if all(fold in seed for fold in folds)]
    means = [statistics.mean(of(seed[fold]) for fold in folds) for seed in whole]
    return [*cells, cell(means)]


def without_background(places: argparse.Namespace) -> str:
    """The folds with the background left out of the masks."""
    rows = []
    for name in MODELS:
        folds = [
            json.loads((places.results / "background" / f"{name}-{fold}.json").read_text())
            for fold in FOLDS
        ]
        scores = [fold["scores"]["mIoU"] for fold in folds]
        title = ROWS[name].title if name in ROWS else f"`{name}`, no training"
        rows.append(
            [title, *map(cell, [[score] for score in scores]), cell([statistics.mean(scores)])]
        )
    return table(["", *(f"fold {fold}" for fold in FOLDS), "mean"], rows)


# -------------------------------------------------------------------------- charts


def class_chart(places: argparse.Namespace, rows: Sequence[tuple[str, str]]) -> str:
    """IoU of every class, all twenty competing; bars are means over seeds, lines their range."""
    height, left, width, per_point, bar = 24, 120, 720, 5.4, 6
    parts = [_svg(width, 74 + height * len(VOC) + 14)]
    parts.append(_text(10, 20, "IoU of VOC's classes, all twenty competing", bold=True))
    for index, (_, title) in enumerate(rows):
        parts.append(_box(10 + 230 * index, 32, 10, 10, COLOURS[index]))
        parts.append(_text(26 + 230 * index, 41, title))
    order = [*(name for name in VOC if name not in VOC_UNSEEN), *VOC_UNSEEN]
    values = [[seed["generalised"]["iou"] for seed in stored(places, name)] for name, _ in rows]
    for line, name in enumerate(order):
        top = 60 + height * line + (14 if name in VOC_UNSEEN else 0)
        weight = ' font-weight="bold"' if name in VOC_UNSEEN else ""
        parts.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end"{weight}>{name}</text>')
        for index, seeds in enumerate(values):
            scores = [seed[name] or 0.0 for seed in seeds]
            y = top + 1 + (bar + 1) * index
            parts.append(_box(left, y, per_point * statistics.mean(scores), bar, COLOURS[index]))
            if len(scores) > 1:
                ends = (left + per_point * min(scores), left + per_point * max(scores))
                parts.append(_line([(ends[0], y + bar / 2), (ends[1], y + bar / 2)], INK, 1))
    parts.append(_text(10, 60 + height * 15 + 11, "without masks in training:", colour=FAINT))
    return "\n".join([*parts, "</svg>"]) + "\n"


def curve_chart(places: argparse.Namespace) -> str:
    """mIoU of unseen classes over the number of training images, both starts."""
    width, height, left, bottom = 720, 380, 60, 330
    counts = (*COUNTS, stored(places, "floors")[0]["training images"])
    places_x = np.interp(np.log(counts), np.log([counts[0], counts[-1]]), [90, 690])
    x = dict(zip(counts, places_x.tolist(), strict=True))
    parts = [_svg(width, height)]
    parts.append(_text(10, 20, "How many masks it takes: mIoU of unseen classes", bold=True))
    for value in range(0, 61, 10):
        y = bottom - 4.6 * value
        parts.append(_line([(left, y), (700, y)], "#e3e6e8", 1))
        parts.append(_text(left - 30, y + 4, str(value), colour=FAINT))
    for count, place in x.items():
        parts.append(_text(place - 10, bottom + 20, str(count), colour=FAINT))
    parts.append(_text(300, bottom + 42, "training images with masks", colour=FAINT))
    free = {name: stored(places, name)[0]["generalised"]["scores"]["mIoU_U"] for name in FREE}
    best = max(free, key=lambda name: free[name])
    y = bottom - 4.6 * free[best]
    parts.append(_line([(left, y), (700, y)], FAINT, 1.5, dashed=True))
    parts.append(_text(560, y - 6, f"{best}, no training", colour=FAINT))
    labels = {"zegclip": "ZegCLIP, aligned start", "zegclip-released": "ZegCLIP, released start"}
    for colour, (name, title) in zip(COLOURS[1:], labels.items(), strict=True):
        points = []
        for count, place in x.items():
            scores = [part["scores"]["mIoU_U"] for part in _curve_point(places, name, count)]
            if not scores:
                continue
            points.append((place, bottom - 4.6 * statistics.mean(scores)))
            ends = [(place, bottom - 4.6 * end) for end in (min(scores), max(scores))]
            parts.append(_line(ends, colour, 1.5))
        if points:
            parts.append(_line(points, colour, 2.5))
            parts += [
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>' for px, py in points
            ]
            # Above the flat part of the line.
            middle = points[len(points) // 2 - 1]
            parts.append(_text(middle[0] - 50, middle[1] - 16, title, colour=colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _curve_point(places: argparse.Namespace, name: str, count: int) -> list[Result]:
    """The results of a row on so many training images; those on all stand in the tables."""
    if count not in COUNTS:
        return [seed["generalised"] for seed in stored(places, name)]
    paths = sorted((places.results / "curve").glob(f"{name}-{count}-[0-9].json"))
    return [json.loads(path.read_text()) for path in paths]


def _svg(width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' font-family="sans-serif" font-size="12" fill="{INK}">\n'
        '<rect width="100%" height="100%" fill="#fff"/>'
    )


def _text(x: float, y: float, text: str, *, bold: bool = False, colour: str = INK) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{weight}>{text}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    size = f'width="{width:.1f}" height="{height}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


def _line(
    points: Sequence[tuple[float, float]], colour: str, width: float, *, dashed: bool = False
) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'


# ------------------------------------------------------------------------- choices


def choices(places: argparse.Namespace, method: str) -> str:
    """What each choice of a method did on held-back photographs, and by how much it differs."""
    heads = QUERY if method in ROWS and ROWS[method].query else MANY
    scores = {choice: _of_choice(places, method, choice) for choice in CHOICES[method]}
    base, rows = scores["ours"], []
    for choice, parts in scores.items():
        if not parts:
            continue
        cells = [cell([part[head] for part in parts.values()]) for head in heads]
        both = [name for name in parts if name in base]
        gains = [parts[name][heads[-1]] - base[name][heads[-1]] for name in both]
        gain = "" if choice == "ours" or not gains else f"{statistics.mean(gains):+.1f}"
        rows.append([f"`{choice}`", str(len(parts)), *cells, gain])
    return table(["choice", "runs", *heads, f"{heads[-1]} against ours"], rows)


def _of_choice(places: argparse.Namespace, method: str, choice: str) -> dict[str, dict[str, float]]:
    """Scores by part and seed, "0-0"."""
    folder = places.results / "choices" / method
    found = sorted(folder.glob(f"{_escaped(choice)}-[0-9]-[0-9].json"))
    return {path.stem[-3:]: json.loads(path.read_text()) for path in found}


def _escaped(choice: str) -> str:
    """A choice as a pattern of file names."""
    return choice.replace("/", "_").replace("[", "[[]")


# ---------------------------------------------------------------------------- page


def page(places: argparse.Namespace) -> Iterator[str]:
    """The parts of results.md."""
    yield (
        "# Every method on photographs: results\n\n"
        "Made by `python examples/photographs/page.py` from [results](results); what they mean"
        " stands in\n[README.md](README.md).\n"
        "Means ± standard deviations over seeds 0, 1, 2 as far as they were run."
    )
    yield f"## VOC 15 + 5, all twenty classes competing\n\n{generalised(places)}"
    yield "![IoU of every class](classes.svg)"
    yield "## How many masks it takes\n\n![mIoU over training images](curve.svg)"
    for score, title in (("mIoU", "mIoU of the fold"), ("FB_IoU", "FB-IoU")):
        yield f"## PASCAL-5i, one query class an image: {title}\n\n{in_folds(places, score)}"
    yield (
        "## The folds without their background\n\n"
        "mIoU of the same masks on the pixels of the twenty classes (`background.py`).\n\n"
        f"{without_background(places)}"
    )
    yield (
        "## Choices on held-back photographs\n\n"
        "Training images alone: a third of the 15 seen classes unseen, every fifth image for\n"
        "validation (`choices.py`)."
    )
    for method in CHOICES:
        if _of_choice(places, method, "ours"):
            yield f"### {ROWS[method].title}\n\n{choices(places, method)}"


def main() -> None:
    """Write the page and its charts beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    places = parser.parse_args()
    free = {name: stored(places, name)[0]["generalised"]["scores"]["mIoU_U"] for name in FREE}
    best = max(free, key=lambda name: free[name])
    shown = [(best, f"{best}, no training"), ("zegclip", "ZegCLIP"), ("clip_rc", "CLIP-RC")]
    write_text(HERE / "results.md", "\n\n".join(page(places)) + "\n", ours=True)
    write_text(HERE / "classes.svg", class_chart(places, shown), ours=True)
    write_text(HERE / "curve.svg", curve_chart(places), ours=True)


if __name__ == "__main__":
    main()
