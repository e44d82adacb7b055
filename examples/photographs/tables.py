"""The tables of results.md, from the stored results."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from background import FLOOR, MODELS
from choices import CHOICES, MANY, QUERY
from common import FREE, cell
from confusions import MODELS as CONFUSED
from inference import MODELS as TESTED
from inference import TESTS
from run import FOLDS, ROWS

from unseen.data.classes import VOC_UNSEEN

COMPARED = ("zegclip", "clip_rc", "zegclip-transductive", "zegclip-supervised", "probe")
"""Rows whose unseen classes are shown one by one, beside the best without training."""
SPLITS = ("voc", *(f"pascal-5i/{fold}" for fold in FOLDS))
Result = dict[str, Any]


def stored(flags: argparse.Namespace, name: str) -> list[Result]:
    """The results of a row or a method without training: one a seed."""
    return list(stored_by_seed(flags, name).values())


def stored_by_seed(flags: argparse.Namespace, name: str) -> dict[str, Result]:
    """The same by seed; without training all is of seed 0."""
    folder = flags.results / "tables"
    if name in FREE or name == "floors":
        return {"0": json.loads((folder / f"{name}.json").read_text())}
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
    return merged


def best_free(flags: argparse.Namespace) -> str:
    """The method without training that is best on unseen classes."""
    return max(FREE, key=lambda x: stored(flags, x)[0]["generalised"]["scores"]["mIoU_U"])


def title_of(name: str) -> str:
    """What a row is called."""
    return ROWS[name].title if name in ROWS else f"`{name}`, no training"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


# -------------------------------------------------------------------------- tables


def voc_table(flags: argparse.Namespace) -> str:
    """All twenty classes competing."""
    names = ("pAcc", "mIoU_S", "mIoU_U", "hIoU")
    floor = stored(flags, "floors")[0]
    rows = [
        [
            f"every pixel is {floor['class']}",
            *(f"{floor['generalised'][name]:.1f}" for name in names),
        ]
    ]
    for name in [*FREE, *ROWS]:
        seeds = [seed["generalised"] for seed in stored(flags, name) if "generalised" in seed]
        if seeds:
            cells = (cell([seed["scores"][score] for seed in seeds]) for score in names)
            rows.append([title_of(name), *cells])
    return table(["", "pAcc", "mIoU seen", "mIoU unseen", "hIoU"], rows)


def unseen_classes(flags: argparse.Namespace) -> str:
    """IoU of the unseen classes, all twenty competing: means over seeds."""
    rows = []
    for name in (best_free(flags), *COMPARED):
        found = [seed["generalised"]["iou"] for seed in stored(flags, name)]
        means = [statistics.mean(seed[each] or 0.0 for seed in found) for each in VOC_UNSEEN]
        rows.append([title_of(name), *(f"{mean:.1f}" for mean in means)])
    return table(["", *VOC_UNSEEN], rows)


def mistaken(flags: argparse.Namespace, name: str) -> str:
    """What pixels of the unseen classes are given, and what pixels are that are given them."""
    found = json.loads((flags.results / "confusions" / f"{name}.json").read_text())["classes"]
    rows = [[each, _shares(part["its pixels"]), _shares(part["given it"])]
            for each, part in found.items()]  # fmt: skip
    return table([title_of(name), "its pixels are given", "pixels that are given it are"], rows)


def _shares(of: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0f} %" for name, share in of.items())


def among_present(flags: argparse.Namespace) -> str:
    """Scores where all classes compete, and where those in the image do: seed 0."""
    rows = []
    for name in CONFUSED:
        path = flags.results / "confusions" / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            parts = (found["scores"], found["among present"])
            rows.append([title_of(name), *(f"{part[head]:.1f}" for part in parts for head in MANY)])
    heads = ("seen", "unseen", "hIoU")
    return table(["", *heads, *(f"{head}, told" for head in heads)], rows)


def folds_table(flags: argparse.Namespace, score: str) -> str:
    """One query class an image: foreground against background."""
    folds = SPLITS[1:]
    floor = stored(flags, "floors")[0]
    rows = [["every pixel is the class", *_fold_cells([floor], folds, lambda r: r[score])]]
    for name in [*FREE, *ROWS]:
        seeds = stored(flags, name)
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


def background_table(flags: argparse.Namespace) -> str:
    """The folds with the background left out of the masks."""
    rows = []
    for name in MODELS:
        folds = [
            json.loads((flags.results / "background" / f"{name}-{fold}.json").read_text())
            for fold in FOLDS
        ]
        scores = [fold["scores"]["mIoU"] for fold in folds]
        title = "every pixel is the class" if name == FLOOR else title_of(name)
        rows.append([title, *(f"{score:.1f}" for score in [*scores, statistics.mean(scores)])])
    return table(["", *(f"fold {fold}" for fold in FOLDS), "mean"], rows)


def by_test(flags: argparse.Namespace) -> str:
    """Unseen classes and hIoU, all twenty competing, by settings of the test: the same runs."""
    rows = []
    for name in TESTED:
        paths = sorted((flags.results / "inference").glob(f"{name}-[0-9].json"))
        runs = [json.loads(path.read_text()) for path in paths]
        if runs:
            columns = [[run[how]["scores"][head] for run in runs]
                       for head in MANY[1:] for how in TESTS]  # fmt: skip
            rows.append([title_of(name), *map(cell, columns)])
    return table(["", *(f"{head}, {how}" for head in ("unseen", "hIoU") for how in TESTS)], rows)


# ------------------------------------------------------------------------- choices


def choices_table(flags: argparse.Namespace, method: str) -> str:
    """What each choice of a method did on held-back photographs, and by how much it differs."""
    heads = QUERY if method in ROWS and ROWS[method].query else MANY
    return _compared({x: of_choice(flags, method, x) for x in CHOICES[method]}, heads)


def searched(flags: argparse.Namespace, data: str, parts: str = "01") -> str:
    """What each part of a combination did on these parts or folds, and by how much it differs."""
    found: dict[str, dict[str, dict[str, float]]] = {"ours": {}}
    for path in sorted((flags.results / "search" / data).glob(f"*-[{parts}]-[0-9].json")):
        found.setdefault(path.stem[:-4], {})[path.stem[-3:]] = json.loads(path.read_text())
    return _compared(found, MANY)


def _compared(scores: Mapping[str, Mapping[str, Mapping[str, float]]], heads: Sequence[str]) -> str:
    """Scores by choice and run, with mean differences of the last two to the runs of "ours"."""
    base, rows = scores["ours"], []
    for choice, runs in scores.items():
        if not runs:
            continue
        both = [name for name in runs if name in base and choice != "ours"]
        gains = [[runs[name][head] - base[name][head] for name in both] for head in heads[-2:]]
        cells = [cell([run[head] for run in runs.values()]) for head in heads]
        cells += [f"{statistics.mean(gain):+.1f}" if gain else "" for gain in gains]
        rows.append([f"`{choice}`", str(len(runs)), *cells])
    return table(["choice", "runs", *heads, *(f"{head} against ours" for head in heads[-2:])], rows)


def of_choice(flags: argparse.Namespace, method: str, choice: str) -> dict[str, dict[str, float]]:
    """Scores by part and seed, "0-0"."""
    folder = flags.results / "choices" / method
    found = sorted(folder.glob(f"{_escaped(choice)}-[0-9]-[0-9].json"))
    return {path.stem[-3:]: json.loads(path.read_text()) for path in found}


def _escaped(choice: str) -> str:
    """A choice as a pattern of file names."""
    return choice.replace("/", "_").replace("[", "[[]")
