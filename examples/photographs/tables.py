"""The tables of results.md, from the stored results."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

from background import MODELS
from choices import CHOICES, MANY, QUERY
from common import FREE
from refined import MODELS as REFINED
from run import FOLDS, ROWS

SPLITS = ("voc", *(f"pascal-5i/{fold}" for fold in FOLDS))
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


def title_of(name: str) -> str:
    """What a row is called."""
    return ROWS[name].title if name in ROWS else f"`{name}`, no training"


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
            cells = (cell([seed["scores"][score] for seed in seeds]) for score in names)
            rows.append([title_of(name), *cells])
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
        rows.append([title_of(name), *_fold_cells(seeds, folds, lambda r: r["scores"][score])])
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
        rows.append(
            [
                title_of(name),
                *map(cell, [[score] for score in scores]),
                cell([statistics.mean(scores)]),
            ]
        )
    return table(["", *(f"fold {fold}" for fold in FOLDS), "mean"], rows)


def with_pamr(places: argparse.Namespace) -> str:
    """All twenty classes competing, without and with a refinement at test."""
    heads, rows = ("mIoU_S", "mIoU_U", "hIoU"), []
    for name in REFINED:
        paths = sorted((places.results / "refined").glob(f"{name}-[0-9].json"))
        after = [json.loads(path.read_text()) for path in paths]
        before = [seed["generalised"] for seed in stored(places, name) if "generalised" in seed]
        if after:
            cells = [
                cell([seed["scores"][x] for seed in y]) for y in (before, after) for x in heads
            ]
            rows.append([title_of(name), *cells])
    heads = ("seen", "unseen", "hIoU", "seen, PAMR", "unseen, PAMR", "hIoU, PAMR")
    return table(["", *heads], rows)


def searched(places: argparse.Namespace, data: str) -> str:
    """What each part of a combination did on held-back parts, and by how much it differs."""
    heads = ("mIoU_S", "mIoU_U", "hIoU")
    folder, rows = places.results / "search" / data, []
    found: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(folder.glob("*.json")):
        found.setdefault(path.stem[:-4], {})[path.stem[-3:]] = json.loads(path.read_text())
    base = found["ours"]
    for choice, parts in sorted(found.items(), key=lambda x: (x[0] != "ours", x[0])):
        cells = [cell([part[head] for part in parts.values()]) for head in heads]
        gains = [
            [part[head] - base[name][head] for name, part in parts.items() if name in base]
            for head in heads[1:]
        ]
        told = ["" if choice == "ours" or not x else f"{statistics.mean(x):+.1f}" for x in gains]
        rows.append([f"`{choice}`", str(len(parts)), *cells, *told])
    return table(["choice", "runs", *heads, "mIoU_U against ours", "hIoU against ours"], rows)


# ------------------------------------------------------------------------- choices


def choices(places: argparse.Namespace, method: str) -> str:
    """What each choice of a method did on held-back photographs, and by how much it differs."""
    heads = QUERY if method in ROWS and ROWS[method].query else MANY
    scores = {choice: of_choice(places, method, choice) for choice in CHOICES[method]}
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


def of_choice(places: argparse.Namespace, method: str, choice: str) -> dict[str, dict[str, float]]:
    """Scores by part and seed, "0-0"."""
    folder = places.results / "choices" / method
    found = sorted(folder.glob(f"{_escaped(choice)}-[0-9]-[0-9].json"))
    return {path.stem[-3:]: json.loads(path.read_text()) for path in found}


def _escaped(choice: str) -> str:
    """A choice as a pattern of file names."""
    return choice.replace("/", "_").replace("[", "[[]")
