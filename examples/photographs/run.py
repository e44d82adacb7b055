"""Every method on the same photographs: one table of all classes competing, one of the folds.

Trains each row of `ROWS` on VOC's 15 seen classes and on the folds of PASCAL-5i, with the same
data, tower, words, steps and seeds, and scores it beside the methods without training, two floors
and two ceilings. Results are kept, so a stopped run goes on; `page.py` makes tables and charts.

Run: python examples/photographs/run.py --voc VOCdevkit/VOC2012 --lists LISTS --mobilenet FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from combination import Combination
from common import FREE, SIZE, Row, flags_of, kept, score, train, voc_without_background
from floors import commonest_class, every_pixel, wrong_class
from probe import LinearProbe

import unseen
from unseen.data.benchmarks import get_benchmark
from unseen.data.classes import VOC
from unseen.data.episodes import pascal_list
from unseen.reports import Report

FOLDS = range(4)
MOBILENET = {"backbone": "mobilenet_v2", "weights": "MOBILENET", "background": "learned"}
ADAMW = {"lr": 1e-4}
AVERAGED = {"proxy": "VIT", "proxy_share": 0.5}
ROWS = {
    "zegclip": Row("ZegCLIP", "zegclip", train=ADAMW),
    "zegclip-labelled": Row(
        "ZegCLIP, focal loss over labelled pixels", "zegclip", {"focal_over": "labelled"}, ADAMW
    ),
    "zegclip-released": Row(
        "ZegCLIP, released start", "zegclip", {"start": "released"}, {"lr": 1e-3}
    ),
    "zegclip-transductive": Row("ZegCLIP, transductive", "zegclip", {}, ADAMW, "transductive"),
    "zegclip-supervised": Row("ZegCLIP, supervised", "zegclip", {}, ADAMW, "supervised"),
    "clip_rc": Row("CLIP-RC", "clip_rc", train=ADAMW),
    "clip_rc-uncalibrated": Row(
        "CLIP-RC, γ = 0", "clip_rc", {"calibration": 0.0}, trained_as="clip_rc"
    ),
    "clip_rc-labelled": Row(
        "CLIP-RC, focal loss over labelled pixels", "clip_rc", {"focal_over": "labelled"}, ADAMW
    ),
    "otseg": Row("OTSeg+", "otseg", {"text_offsets": 4}, ADAMW),
    "otseg-decoder": Row(
        "OTSeg", "otseg", {"text_offsets": 4, "ensemble": 0.0}, trained_as="otseg"
    ),
    "cascade_clip": Row("Cascade-CLIP", "cascade_clip", train=ADAMW),
    "centred": Row(
        "ZegCLIP, one head, text features centred", "combination", {"centred": True}, ADAMW
    ),
    "averaged": Row(
        "ZegCLIP, one head, maps averaged over like patches",
        "combination",
        AVERAGED,
        ADAMW,
    ),
    "averaged-start": Row(
        "ZegCLIP's start, untrained, maps averaged likewise",
        "combination",
        AVERAGED,
        {"lr": 1e-9},  # where training starts, for all that counts
    ),
    "probe": Row("linear probe, supervised", "probe", {}, {"lr": 1e-3}, "supervised"),
    "esda": Row("ESDA", "esda", train={"lr": 1e-3}, query=True),
    "sazs": Row("SAZS", "sazs", {**MOBILENET, "scale": 10.0}, {"lr": 2e-4}, query=True),
    "edgeclip": Row("EdgeCLIP", "edgeclip", MOBILENET, {"lr": 2e-4}, query=True),
}
"""The trained rows by name; what `choices.py` measured beside them stands in results.md."""
BOTH_SPLITS = ("zegclip", "clip_rc")
"""Rows that are trained on VOC's usual split and on the folds."""


def present_lists(flags: argparse.Namespace) -> Path:
    """HSNet's lists without the images that are not in the folder."""
    present = {path.stem for path in (flags.voc / "JPEGImages").glob("*.jpg")}
    out: Path = flags.out / "lists"
    for part in ("trn", "val"):
        (out / part).mkdir(parents=True, exist_ok=True)
        for fold in FOLDS:
            lines = [
                f"{name}__{class_id + 1:02d}"
                for name, class_id in pascal_list(flags.lists / part / f"fold{fold}.txt")
                if name in present
            ]
            (out / part / f"fold{fold}.txt").write_text("\n".join(lines) + "\n")
    return out


def summary(report: Report) -> dict[str, Any]:
    """What the page shows of a report."""
    iou = report.as_dict()["iou"]
    return {"scores": report.scores, "iou": iou, "images": report.images, "pixels": report.pixels}


# ------------------------------------------------------------------------- trained


def of_split(name: str, seed: int, split: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Train a row on "voc" or a fold, unless the run is there, and score it."""
    row, trained_as = ROWS[name], ROWS[name].trained_as or name
    folder = flags.out / "runs" / f"{trained_as}-{split.replace('/', '-')}-{seed}"
    run = train(ROWS[trained_as], flags, split, folder, seed)
    if split == "voc":
        options = row.options if row.trained_as else None
        report = score(run, voc_without_background(), flags, options=options)
        return {"generalised": summary(report)}
    bench = get_benchmark(split, flags.lists)
    result = {"fold": summary(score(run, bench, flags)), "wrong class": {}}
    if row.query:
        counts = wrong_class(unseen.load(run), bench, flags.voc, seed, SIZE)
        result["wrong class"] = counts.summary(bench.seen_ids, bench.unseen_ids)
    if row.query and split == "pascal-5i/3":
        # The classes of the last fold are VOC's unseen ones: the same run, all classes at once.
        result["generalised"] = summary(score(run, voc_without_background(), flags))
    return result


# ---------------------------------------------------- without training, and floors


def of_free(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """A method without training on both protocols."""
    folds = {
        f"pascal-5i/{fold}": summary(
            score(name, get_benchmark(f"pascal-5i/{fold}", flags.lists), flags)
        )
        for fold in FOLDS
    }
    return {"generalised": summary(score(name, voc_without_background(), flags)), **folds}


def floors(flags: argparse.Namespace) -> dict[str, Any]:
    """Every pixel the class most frequent in training; every pixel the query class."""
    bench = voc_without_background()
    commonest, images, matrix = commonest_class(bench, flags.voc)
    result: dict[str, Any] = {
        "class": VOC[commonest],
        "training images": len(bench.data("train", flags.voc)),
        "with a seen class": images,
        "generalised": matrix.summary(bench.seen_ids, bench.unseen_ids),
    }
    for number in FOLDS:
        fold = get_benchmark(f"pascal-5i/{number}", flags.lists)
        counts = every_pixel(fold, flags.voc)
        result[fold.name] = counts.summary(fold.seen_ids, fold.unseen_ids)
    return result


def splits_of(name: str) -> Sequence[str]:
    """What a row is trained on."""
    folds = [f"pascal-5i/{fold}" for fold in FOLDS]
    if ROWS[name].query:
        return folds
    return ["voc", *folds] if name in BOTH_SPLITS else ["voc"]


def main() -> None:
    """Measure everything that is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--splits", nargs="+", help="these splits instead of all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = flags_of(parser)
    LinearProbe.register()
    Combination.register()
    flags.lists = present_lists(flags)
    results = flags.results / "tables"
    kept(results / "floors.json", partial(floors, flags))
    for name in FREE:
        kept(results / f"{name}.json", partial(of_free, name, flags))
    for seed in flags.seeds:
        for name in flags.rows:
            for split in splits_of(name):
                if flags.splits and split not in flags.splits:
                    continue
                file = results / f"{name}-{split.replace('/', '-')}-{seed}.json"
                made = kept(file, partial(of_split, name, seed, split, flags))
                part = made.get("generalised") or made["fold"]
                scores = {k: round(v, 1) for k, v in part["scores"].items() if v == v}
                print(f"{name} on {split}, seed {seed}: {scores}", flush=True)


if __name__ == "__main__":
    main()
