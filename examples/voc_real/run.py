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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import unseen
from unseen.backbones.dense import DenseBackbone
from unseen.backbones.mobilenet import DilatedMobileNet
from unseen.checkpoints import load_run, load_words, versions
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.episodes import pascal_list
from unseen.evaluation import choose_threshold, evaluate, evaluate_episodes
from unseen.files import write_text
from unseen.inference import query_mask
from unseen.labels import IGNORE
from unseen.metrics import EpisodeCounts
from unseen.segmenter import Segmenter, TextFeatures
from unseen.segments.source import write_masks
from unseen.segments.spectral import SpectralSettings, spectra
from unseen.settings import InferenceSettings, ModelSettings, TrainSettings, TransformSettings

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


def floors(
    segmenter: Segmenter, text: TextFeatures, bench: Benchmark, voc: Path, seed: int
) -> dict[str, EpisodeCounts]:
    """What comes out if every pixel is the word, and if the network is asked for another word,
    drawn.
    """
    assert bench.episodes is not None
    data, episodes = bench.episodes(voc, "all", 0)
    rng = torch.Generator().manual_seed(seed)
    everything, wrong = EpisodeCounts(len(text)), EpisodeCounts(len(text))
    for episode in episodes:
        sample = data[episode.index]
        truth = torch.where(
            sample.labels == IGNORE, IGNORE, (sample.labels == episode.class_id).long()
        )
        others = [i for i in range(len(text)) if i != episode.class_id]
        word = others[int(torch.randint(len(others), (), generator=rng))]
        everything.update(torch.ones_like(truth, dtype=torch.bool), truth, episode.class_id)
        wrong.update(
            query_mask(segmenter, sample.image.unsqueeze(0), text, word, SIZE)[0],
            truth,
            episode.class_id,
        )
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
    if (folder / "scores.json").exists():
        found: dict[str, Any] = json.loads((folder / "scores.json").read_text())
        return found
    segmenter, run = load_run(folder)
    text = load_words(folder, run, run.class_names, segmenter)
    counts = floors(segmenter, text, bench, asked.voc, seed)
    title = f"sazs, seed {seed}"
    plain = evaluate_episodes(segmenter, text, bench, asked.voc, title=title, inference=SIZE)
    plain.save(folder / "one-word")
    counts["one word"] = plain.counts
    write_segments(bench, asked, asked.out / "segments")
    cut = replace(SIZE, refinement="segment_iou", segments_dir=str(asked.out / "segments"))
    tried = choose_threshold(segmenter, text, bench, asked.voc, inference=cut, images=100)
    cut = replace(cut, refinement_threshold=max(tried, key=lambda each: (tried[each], each)))
    counts["agreement"] = evaluate_episodes(
        segmenter, text, bench, asked.voc, title=title, inference=cut
    ).counts
    counts["oracle"] = evaluate_episodes(
        segmenter,
        text,
        bench,
        asked.voc,
        title=title,
        inference=replace(cut, refinement="none"),
        oracle=True,
    ).counts
    # The same run with all twenty words at once, on all validation images; background is void, as
    # in generalised zero-shot segmentation on VOC.
    generalised = replace(get_benchmark("voc"), unseen=bench.unseen, inference=SIZE)
    at_once = evaluate(
        segmenter,
        text,
        generalised,
        asked.voc,
        title=f"sazs, fold {fold}, seed {seed}",
        inference=SIZE,
        seen=None,
        workers=0,
    )
    at_once.save(folder / "all-words")
    scores = {
        **{name: each.summary(bench.unseen_ids) for name, each in counts.items()},
        "iou": {
            name: {
                word: 100 * counts[name].iou[bench.class_names.index(word)].item()
                for word in bench.unseen
            }
            for name in ONE_WORD.values()
        },
        "threshold of agreement": cut.refinement_threshold,
        "all words": {name: at_once.scores[name] for name in ("mIoU_S", "mIoU_U", "hIoU", "pAcc")},
        "versions": versions(),
    }
    write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
    return scores


# ------------------------------------------------------------------- the page


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.mean(values):.1f}" + (
        f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    )


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
            *(spread(values) for values in folds),
            spread([statistics.mean(values) for values in zip(*folds, strict=True)]),
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
