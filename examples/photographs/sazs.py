"""A real result: SAZS with MobileNetV2 on photographs of PASCAL VOC, fold by fold.

The text features are CLIP's, of real class names.
Trains on 15 of VOC's 20 classes and queries the other five, of which no mask was ever shown, for
every fold and seed, beside two floors: every pixel is the query class; the same network is queried
with a wrong class. `sazs.md` beside this file says what it needs and what came out.

Run: python examples/photographs/sazs.py --voc VOCdevkit/VOC2012 --lists LISTS
--words voc12_single.npy --weights mobilenet_v2_imagenet_tv.safetensors
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from charts import BOLD
from floors import every_pixel, wrong_class
from run import FOLDS, present_lists
from svg import END, FAINT, INK, box, line, start, text
from tables import table

import unseen
from unseen.backbones.dense import DenseBackbone
from unseen.backbones.mobilenet import DilatedMobileNet
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.files import write_text
from unseen.reports import mean_and_spread
from unseen.runs import versions
from unseen.segments.source import write_masks
from unseen.segments.spectral import spectra
from unseen.settings import (
    EvaluationSettings,
    InferenceSettings,
    ModelSettings,
    SpectralSettings,
    TrainSettings,
    TransformSettings,
)

SIZE = InferenceSettings(short_side=224)
ROWS = {
    "SAZS": "query class",
    "… queried with a wrong class": "wrong class",
    "every pixel is the query class": "everything",
    "SAZS, refined by segments": "refined",
    "SAZS, segments chosen by the labels: no result": "oracle",
}
"""What is scored with one query class an image, and its key in scores.json."""
COLOURS = {
    "SAZS": "#0b6e99",
    "… queried with a wrong class": "#9aa5ab",
    "every pixel is the query class": "#d5dade",
}
LEFT, WIDTH, ROW_HEIGHT, PER_POINT = 110, 660, 26, 5.2
"""Of the chart, in pixels."""
SCORES = ("mIoU_S", "mIoU_U", "hIoU", "pAcc")


def settings(flags: argparse.Namespace, seed: int) -> tuple[ModelSettings, TrainSettings]:
    """Model and training of one run."""
    options = {
        "backbone": "mobilenet_v2",
        "weights": str(flags.weights),
        "background": "learned",
        "scale": 10.0,
        "balanced": flags.balanced,
    }
    transforms = TransformSettings(
        resize=None, zoom=(0.5, 1.25), rotate=10.0, crop=192, min_positives=0.5, photometric=True
    )
    train = TrainSettings(
        steps=flags.steps,
        batch_size=8,
        lr=flags.lr,
        warmup=20,
        schedule="cosine",
        clip_norm=1.0,
        seed=seed,
        workers=0,
        save_every=100,
        transforms=transforms,
    )
    return ModelSettings("sazs", "none", options=options), train


@torch.no_grad()
def write_segments(bench: Benchmark, flags: argparse.Namespace, folder: Path) -> None:
    """Eigen-segments of a fold's images as PNGs, in cells of 16 pixels.

    They come from what MobileNetV2 learned on ImageNet: no DINO and no CLIP tower is needed.
    """
    backbone: DenseBackbone = DilatedMobileNet(512)
    backbone.load(str(flags.weights))
    assert isinstance(backbone, DilatedMobileNet)
    assert bench.episodes is not None
    for data in (bench.data("train", flags.voc), bench.episodes(flags.voc, "all", 0)[0]):
        for sample in map(data.__getitem__, range(len(data))):
            if (folder / f"{sample.name}_k4.png").exists():
                continue
            image = sample.image.unsqueeze(0)
            height, width = image.shape[2] // 8, image.shape[3] // 8
            maps = backbone.body(backbone.normalize(image / 255))[..., :height, :width]
            features = maps.flatten(2).transpose(1, 2)
            spectrum = spectra(features, image, 8, SpectralSettings(cell=16))[0]
            write_masks(folder, sample.name, spectrum.segments)


def measure(flags: argparse.Namespace, lists: Path, fold: int, seed: int) -> dict[str, Any]:
    """Train, unless the run is there, and score one fold."""
    bench, folder = get_benchmark(f"pascal-5i/{fold}", lists), flags.out / f"fold{fold}-seed{seed}"
    if not (folder / "weights.safetensors").exists():
        model, train = settings(flags, seed)
        unseen.train(
            model,
            train,
            bench.name,
            folder,
            root=flags.voc,
            lists=lists,
            text_embeddings=flags.words,
            resume=(folder / "config.yaml").exists(),
        )
    if not (folder / "scores.json").exists():
        scores = score(folder, bench, fold, seed, flags)
        write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n", ours=True)
    measured: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return measured


def score(
    run: Path, bench: Benchmark, fold: int, seed: int, flags: argparse.Namespace
) -> dict[str, Any]:
    """All that the page shows of one run."""
    common: dict[str, Any] = {"root": flags.voc}
    segments = replace(SIZE, refinement="segment_iou", segments_dir=str(flags.out / "segments"))
    write_segments(bench, flags, flags.out / "segments")
    one = unseen.evaluate(run, bench, inference=SIZE, out=run / "query-class", **common)[0]
    threshold = EvaluationSettings(choose_threshold=100)
    refined = unseen.evaluate(
        run, bench, inference=segments, settings=threshold, save=False, **common
    )[0]
    oracle = unseen.evaluate(
        run,
        bench,
        inference=replace(segments, refinement="none"),
        settings=EvaluationSettings(oracle=True),
        save=False,
        **common,
    )[0]
    # The same run with all twenty classes at once, on all validation images; background is ignored,
    # as in generalised zero-shot segmentation on VOC.
    generalised = replace(get_benchmark("voc"), unseen=bench.unseen, inference=SIZE)
    at_once = unseen.evaluate(run, generalised, out=run / "all-classes", **common)[0]
    counts = {
        "everything": every_pixel(bench, flags.voc),
        "wrong class": wrong_class(unseen.load(run), bench, flags.voc, seed, SIZE),
        "query class": one.metric,
        "refined": refined.metric,
        "oracle": oracle.metric,
    }
    return {
        **{name: part.summary(bench.seen_ids, bench.unseen_ids) for name, part in counts.items()},
        "iou": {
            name: {bench.class_names[i]: 100 * counts[name].iou[i].item() for i in bench.unseen_ids}
            for name in ROWS.values()
        },
        "refinement threshold": refined.protocol["inference"]["refinement_threshold"],
        "all classes": {name: at_once.scores[name] for name in SCORES},
        "versions": versions(),
    }


# ------------------------------------------------------------------- the page


def chart(folds: list[list[dict[str, Any]]]) -> str:
    """IoU of every class while it was unseen, as an SVG.

    Bars are means over seeds; the lines reach from the lowest to the highest seed.
    """
    rows = [
        (name, [scores["iou"] for scores in seeds])
        for seeds in folds
        for name in seeds[0]["iou"]["query class"]
    ]
    title = "IoU of VOC's classes while they were unseen, one query class at a time"
    parts = [start(WIDTH, 70 + ROW_HEIGHT * len(rows)), text(10, 20, title, more=BOLD)]
    for x, (name, colour) in zip((10, 75, 275), COLOURS.items(), strict=True):
        parts.append(box(x, 31, 10, 10, colour))
        parts.append(text(x + 15, 40, name))
    parts.append(text(470, 40, "lines: lowest to highest seed", FAINT))
    for i, (name, seeds) in enumerate(rows):
        top = 56 + ROW_HEIGHT * i + 6 * (i // 5) // 2
        parts.append(text(LEFT - 8, top + 15, name, more='text-anchor="end"'))
        parts += _bars(top, name, seeds)
    return "\n".join([*parts, END]) + "\n"


def _bars(top: int, name: str, seeds: list[dict[str, dict[str, float]]]) -> list[str]:
    """The bars of one class, the first with its range over seeds and its number."""
    parts = []
    for i, (row, colour) in enumerate(COLOURS.items()):
        values = [iou[ROWS[row]][name] for iou in seeds]
        mean = statistics.mean(values)
        y, height = (top + 1, 10) if i == 0 else (top + 6 + 5 * i, 4)
        parts.append(box(LEFT, y, PER_POINT * mean, height, colour))
        if i == 0:
            low, high = (LEFT + PER_POINT * value for value in (min(values), max(values)))
            parts.append(line([(low, y + 5), (high, y + 5)], INK))
            parts.append(text(high + 6, y + 9, f"{mean:.0f}", more='font-size="10"'))
    return parts


def print_tables(folds: list[list[dict[str, Any]]], numbers: Sequence[int]) -> None:
    """The tables of the page, in Markdown."""

    def row(name: str, part: str, key: str) -> list[str]:
        values = [[scores[part][key] for scores in seeds] for seeds in folds]
        means = [statistics.mean(seed) for seed in zip(*values, strict=True)]
        return [name, *(mean_and_spread(seeds) for seeds in values), mean_and_spread(means)]

    heads = [*(f"fold {number}" for number in numbers), "mean"]
    for key in ("mIoU", "FB_IoU"):
        head = [f"{key}, unseen classes, one query class at a time", *heads]
        print(table(head, [row(name, part, key) for name, part in ROWS.items()]), end="\n\n")
    rows = [row(name, "all classes", name) for name in SCORES]
    print(table(["all classes at once", *heads], rows))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, told in (
        ("--voc", "VOCdevkit/VOC2012, or a part of it"),
        ("--lists", "HSNet's lists of PASCAL-5i (trn/ and val/)"),
        ("--words", ".npy, CLIP's text features of VOC's 20 classes in the order of VOC"),
        ("--weights", "MobileNetV2 trained on ImageNet, converted from TensorFlow"),
    ):
        parser.add_argument(flag, type=Path, required=True, help=told)
    parser.add_argument("--out", type=Path, default=Path("runs/photographs-sazs"))
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument(
        "--balanced",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pixels of the query class and of the others weigh alike in the loss",
    )
    return parser.parse_args()


def main() -> None:
    """Train and score all folds and seeds; print the tables of the page, write its image."""
    flags = parse()
    lists = present_lists(flags)
    runs = {
        (fold, seed): measure(flags, lists, fold, seed)
        for seed in flags.seeds
        for fold in flags.folds
    }
    folds = [[runs[fold, seed] for seed in flags.seeds] for fold in flags.folds]
    print_tables(folds, flags.folds)
    write_text(flags.out / "sazs.svg", chart(folds), ours=True)


if __name__ == "__main__":
    main()
