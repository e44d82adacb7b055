"""A real result: SAZS with MobileNetV2 on photographs of PASCAL VOC, fold by fold, with real words
of CLIP.

Trains on 15 of VOC's 20 classes and asks for the other five, which no mask was ever shown of, for
every fold and seed, beside two floors: every pixel is the word; the same network is asked for a
wrong word. `README.md` beside this file says what it needs and what came out.

Run: python examples/voc_real/run.py --voc VOCdevkit/VOC2012 --lists LISTS --words voc12_single.npy
--weights mobilenet_v2_imagenet_tv.safetensors
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import unseen
from unseen.backbones.dense import DenseBackbone
from unseen.backbones.mobilenet import DilatedMobileNet
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.episodes import pascal_list
from unseen.files import write_text
from unseen.inference import query_mask
from unseen.metrics import EpisodeCounts
from unseen.predictor import Predictor
from unseen.protocols import query_labels, read_episodes
from unseen.reports import mean_and_spread
from unseen.runs import versions
from unseen.segments.source import write_masks
from unseen.segments.spectral import SpectralSettings, spectra
from unseen.settings import (
    EvaluationSettings,
    InferenceSettings,
    ModelSettings,
    TrainSettings,
    TransformSettings,
)

FOLDS, SIZE = range(4), InferenceSettings(short_side=224)
ONE_WORD = {
    "SAZS": "one word",
    "… asked for a wrong word": "wrong word",
    "every pixel is the word": "everything",
    "SAZS, segments by agreement": "agreement",
    "SAZS, segments chosen by the labels: no result": "oracle",
}
COLOURS = {
    "SAZS": "#0b6e99",
    "… asked for a wrong word": "#9aa5ab",
    "every pixel is the word": "#d5dade",
}


def lists_of_what_is_there(lists: Path, voc: Path, out: Path) -> Path:
    """HSNet's lists without the images that are not in the folder."""
    there = {path.stem for path in (voc / "JPEGImages").glob("*.jpg")}
    for part in ("trn", "val"):
        for fold in FOLDS:
            kept = [
                f"{name}__{class_id + 1:02d}"
                for name, class_id in pascal_list(lists / part / f"fold{fold}.txt")
                if name in there
            ]
            (out / part).mkdir(parents=True, exist_ok=True)
            (out / part / f"fold{fold}.txt").write_text("\n".join(kept) + "\n")
    return out


def settings(asked: argparse.Namespace, seed: int) -> tuple[ModelSettings, TrainSettings]:
    """One run's."""
    options = {
        "backbone": "mobilenet_v2",
        "weights": str(asked.weights),
        "background": "learned",
        "scale": 10.0,
        "balanced": asked.balanced,
    }
    transforms = TransformSettings(
        resize=None, zoom=(0.5, 1.25), rotate=10.0, crop=192, min_positives=0.5, photometric=True
    )
    train = TrainSettings(
        steps=asked.steps,
        batch_size=8,
        lr=asked.lr,
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
def write_segments(bench: Benchmark, asked: argparse.Namespace, folder: Path) -> None:
    """Eigen-segments of a fold's images as PNGs, in cells of 16 pixels, from what MobileNetV2
    learned on ImageNet: no DINO and no CLIP tower is needed.
    """
    backbone: DenseBackbone = DilatedMobileNet(512)
    backbone.load(str(asked.weights))
    assert isinstance(backbone, DilatedMobileNet)
    assert bench.episodes is not None
    for data in (bench.data("train", asked.voc), bench.episodes(asked.voc, "all", 0)[0]):
        for sample in map(data.__getitem__, range(len(data))):
            if (folder / f"{sample.name}_k4.png").exists():
                continue
            image = sample.image.unsqueeze(0)
            maps = backbone.body(backbone.normalize(image / 255))[
                ..., : image.shape[2] // 8, : image.shape[3] // 8
            ]
            write_masks(
                folder,
                sample.name,
                spectra(maps.flatten(2).transpose(1, 2), image, 8, SpectralSettings(cell=16))[
                    0
                ].segments,
            )


def floors(model: Predictor, bench: Benchmark, voc: Path, seed: int) -> dict[str, EpisodeCounts]:
    """Two floors: every pixel is the query class; the network is queried with another class."""
    assert bench.episodes is not None
    rng = torch.Generator().manual_seed(seed)
    count, text = len(bench.class_names), model.encode(bench.class_names)
    everything, wrong = EpisodeCounts(count), EpisodeCounts(count)
    for sample, class_id in read_episodes(*bench.episodes(voc, "all", 0)):
        truth = query_labels(sample.labels, class_id)
        everything.update(torch.ones_like(truth, dtype=torch.bool), truth, class_id)
        others = [i for i in range(count) if i != class_id]
        other = others[int(torch.randint(len(others), (), generator=rng))]
        mask = query_mask(model.segmenter, sample.image.unsqueeze(0), text, other, SIZE)[0]
        wrong.update(mask, truth, class_id)
    return {"everything": everything, "wrong word": wrong}


def measure(asked: argparse.Namespace, lists: Path, fold: int, seed: int) -> dict[str, Any]:
    """Train, unless the run is there, and score one fold."""
    bench, folder = get_benchmark(f"pascal-5i/{fold}", lists), asked.out / f"fold{fold}-seed{seed}"
    if not (folder / "weights.safetensors").exists():
        model, train = settings(asked, seed)
        unseen.train(
            model,
            train,
            bench.name,
            folder,
            root=asked.voc,
            lists=lists,
            text_embeddings=asked.words,
            resume=(folder / "config.yaml").exists(),
        )
    if not (folder / "scores.json").exists():
        scores = score(folder, bench, fold, seed, asked)
        write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
    measured: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return measured


def score(
    run: Path, bench: Benchmark, fold: int, seed: int, asked: argparse.Namespace
) -> dict[str, Any]:
    """All that the page shows of one run."""
    common: dict[str, Any] = {"root": asked.voc}
    refined = replace(SIZE, refinement="segment_iou", segments_dir=str(asked.out / "segments"))
    write_segments(bench, asked, asked.out / "segments")
    one = unseen.evaluate(run, bench, inference=SIZE, out=run / "one-word", **common)[0]
    threshold = EvaluationSettings(choose_threshold=100)
    agreed = unseen.evaluate(
        run, bench, inference=refined, settings=threshold, save=False, **common
    )[0]
    oracle = unseen.evaluate(
        run,
        bench,
        inference=replace(refined, refinement="none"),
        settings=EvaluationSettings(oracle=True),
        save=False,
        **common,
    )[0]
    # The same run with all twenty classes at once, on all validation images; background is ignored,
    # as in generalised zero-shot segmentation on VOC.
    generalised = replace(get_benchmark("voc"), unseen=bench.unseen, inference=SIZE)
    at_once = unseen.evaluate(run, generalised, out=run / "all-words", **common)[0]
    counts = {
        **floors(unseen.load(run), bench, asked.voc, seed),
        "one word": one.metric,
        "agreement": agreed.metric,
        "oracle": oracle.metric,
    }
    return {
        **{name: part.summary(bench.seen_ids, bench.unseen_ids) for name, part in counts.items()},
        "iou": {
            name: {bench.class_names[i]: 100 * counts[name].iou[i].item() for i in bench.unseen_ids}
            for name in ONE_WORD.values()
        },
        "threshold of agreement": agreed.protocol["inference"]["refinement_threshold"],
        "all words": {name: at_once.scores[name] for name in ("mIoU_S", "mIoU_U", "hIoU", "pAcc")},
        "versions": versions(),
    }


# ------------------------------------------------------------------- the page


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def chart(found: list[list[dict[str, Any]]]) -> str:
    """IoU of every word while it was unseen, as an SVG: bars are means over seeds, the lines reach
    from the lowest to the highest seed.
    """
    words = [
        (word, [scores["iou"] for scores in seeds])
        for seeds in found
        for word in seeds[0]["iou"]["one word"]
    ]
    left, wide, high, per = 110, 620, 26, 5.2
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}"'
            f' height="{70 + high * len(words)}" font-family="sans-serif" font-size="12"'
            ' fill="#22292e">'
        ),
        '<rect width="100%" height="100%" fill="#fff"/>',
        (
            '<text x="10" y="20" font-weight="bold">IoU of VOC\'s classes while they were unseen,'
            " one word at a time</text>"
        ),
    ]
    for x, (name, colour) in zip((10, 75, 265), COLOURS.items(), strict=True):
        parts.append(
            f'<rect x="{x}" y="31" width="10" height="10" fill="{colour}"/><text x="{x + 15}"'
            f' y="40">{name}</text>'
        )
    parts.append('<text x="430" y="40" fill="#5c676d">lines: lowest to highest seed</text>')
    for row, (word, seeds) in enumerate(words):
        top = 56 + high * row + 6 * (row // 5) // 2
        parts.append(f'<text x="{left - 8}" y="{top + 15}" text-anchor="end">{word}</text>')
        for place, (name, colour) in enumerate(COLOURS.items()):
            values = [iou[ONE_WORD[name]][word] for iou in seeds]
            y, tall = (top + 1, 10) if place == 0 else (top + 6 + 5 * place, 4)
            parts.append(
                f'<rect x="{left}" y="{y}" width="{per * statistics.mean(values):.1f}"'
                f' height="{tall}" fill="{colour}"/>'
            )
            if place == 0:
                low, most = (left + per * value for value in (min(values), max(values)))
                parts.append(
                    f'<line x1="{low:.1f}" x2="{most:.1f}" y1="{y + 5}" y2="{y + 5}"'
                    ' stroke="#22292e"/>'
                )
                parts.append(
                    f'<text x="{most + 6:.1f}" y="{y + 9}"'
                    f' font-size="10">{statistics.mean(values):.0f}</text>'
                )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Train and score all folds and seeds; print the tables of the page, write its image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--voc", type=Path, required=True, help="VOCdevkit/VOC2012, or a part of it"
    )
    parser.add_argument(
        "--lists", type=Path, required=True, help="HSNet's lists of PASCAL-5i (trn/ and val/)"
    )
    parser.add_argument(
        "--words",
        type=Path,
        required=True,
        help=".npy, CLIP's vectors of VOC's 20 words in the order of VOC",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="MobileNetV2 trained on ImageNet, converted from TensorFlow",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/voc_real"))
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument(
        "--balanced",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the word's pixels and the others' weigh alike in the loss",
    )
    asked = parser.parse_args()
    lists = lists_of_what_is_there(asked.lists, asked.voc, asked.out / "lists")
    runs = {
        (fold, seed): measure(asked, lists, fold, seed)
        for seed in asked.seeds
        for fold in asked.folds
    }
    found = [[runs[fold, seed] for seed in asked.seeds] for fold in asked.folds]

    def row(name: str, part: str, key: str) -> list[str]:
        folds = [[scores[part][key] for scores in seeds] for seeds in found]
        return [
            name,
            *(mean_and_spread(values) for values in folds),
            mean_and_spread([statistics.mean(values) for values in zip(*folds, strict=True)]),
        ]

    head = [*(f"fold {fold}" for fold in asked.folds), "mean"]
    for key in ("mIoU", "FB_IoU"):
        print(
            table(
                [f"{key}, unseen classes, one word at a time", *head],
                [row(name, part, key) for name, part in ONE_WORD.items()],
            ),
            end="\n\n",
        )
    print(
        table(
            ["all words at once", *head],
            [row(name, "all words", name) for name in ("mIoU_S", "mIoU_U", "hIoU", "pAcc")],
        )
    )
    write_text(asked.out / "words.svg", chart(found))


if __name__ == "__main__":
    main()
