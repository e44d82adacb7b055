"""A real result: SAZS with MobileNetV2 on photographs of PASCAL VOC, fold by fold, with real words of CLIP.

Trains on 15 of VOC's 20 classes and asks for the other five, which no mask was ever shown of, for every fold and seed, beside two floors: every
pixel is the word; the same network is asked for a wrong word. `README.md` beside this file says what it needs and what came out.

Run: python examples/voc_real/run.py --voc VOCdevkit/VOC2012 --lists LISTS --words voc12_single.npy --weights mobilenet_v2_imagenet_tv.safetensors
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
from unseen.checkpoints import load_run, load_words, versions
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.episodes import pascal_list
from unseen.evaluation import evaluate, evaluate_episodes
from unseen.inference import foreground
from unseen.labels import IGNORE
from unseen.metrics import EpisodeCounts
from unseen.segmenter import Segmenter, TextFeatures
from unseen.settings import InferenceSettings, ModelSettings, TrainSettings, TransformSettings

FOLDS, SIZE = range(4), InferenceSettings(short_side=224)


def lists_of_what_is_there(lists: Path, voc: Path, out: Path) -> Path:
    """HSNet's lists without the pictures that are not in the folder."""
    there = {path.stem for path in (voc / "JPEGImages").glob("*.jpg")}
    for part in ("trn", "val"):
        for fold in FOLDS:
            kept = [f"{name}__{class_id + 1:02d}" for name, class_id in pascal_list(lists / part / f"fold{fold}.txt") if name in there]
            (out / part).mkdir(parents=True, exist_ok=True)
            (out / part / f"fold{fold}.txt").write_text("\n".join(kept) + "\n")
    return out


def settings(asked: argparse.Namespace, seed: int) -> tuple[ModelSettings, TrainSettings]:
    """One run's."""
    options: dict[str, Any] = {"backbone": "mobilenet_v2", "weights": str(asked.weights), "background": "learned", "scale": asked.scale}
    transforms = TransformSettings(resize=None, zoom=(0.5, 1.25), rotate=10.0, crop=192, min_positives=0.5, photometric=True)
    train = TrainSettings(
        steps=asked.steps,
        batch_size=8,
        lr=asked.lr,
        warmup=20,
        schedule="cosine",
        clip_norm=1.0,
        seed=seed,
        workers=0,
        save_every=asked.steps,
        transforms=transforms,
    )
    return ModelSettings("sazs", "none", options=options), train


def floors(segmenter: Segmenter, text: TextFeatures, bench: Benchmark, voc: Path, seed: int) -> dict[str, float]:
    """mIoU of the fold's words if every pixel is the word, and if the network is asked for another word, drawn."""
    assert bench.episodes is not None
    data, episodes = bench.episodes(voc, "all", 0)
    rng = torch.Generator().manual_seed(seed)
    everything, wrong = EpisodeCounts(len(text)), EpisodeCounts(len(text))
    for episode in episodes:
        sample = data[episode.index]
        truth = torch.where(sample.labels == IGNORE, IGNORE, (sample.labels == episode.class_id).long())
        others = [i for i in range(len(text)) if i != episode.class_id]
        word = others[int(torch.randint(len(others), (), generator=rng))]
        everything.update(torch.ones_like(truth, dtype=torch.bool), truth, episode.class_id)
        wrong.update(foreground(segmenter, sample.image.unsqueeze(0), text, word, SIZE)[0], truth, episode.class_id)
    return {"everything": everything.summary(bench.unseen_ids)["mIoU"], "wrong word": wrong.summary(bench.unseen_ids)["mIoU"]}


def measure(asked: argparse.Namespace, lists: Path, fold: int, seed: int) -> dict[str, Any]:
    """Train, unless the run is there, and score one fold."""
    bench, folder = get_benchmark(f"pascal-5i/{fold}", lists), asked.out / f"fold{fold}-seed{seed}"
    if not (folder / "weights.safetensors").exists():
        model, train = settings(asked, seed)
        unseen.train(model, train, bench.name, folder, root=asked.voc, lists=lists, text_embeddings=asked.words, resume=(folder / "config.yaml").exists())
    if (folder / "scores.json").exists():
        found: dict[str, Any] = json.loads((folder / "scores.json").read_text())
        return found
    segmenter, run = load_run(folder)
    text = load_words(folder, run, run.vocabulary, segmenter)
    asked_one = evaluate_episodes(segmenter, text, bench, asked.voc, title=f"sazs, seed {seed}", inference=SIZE)
    asked_one.save(folder / "one-word")
    # The same run with all twenty words at once, on all validation pictures; background is void, as in generalised zero-shot segmentation on VOC.
    generalised = replace(get_benchmark("voc"), unseen=bench.unseen, inference=SIZE)
    at_once = evaluate(segmenter, text, generalised, asked.voc, title=f"sazs, fold {fold}, seed {seed}", inference=SIZE, seen=None, workers=0)
    at_once.save(folder / "all-words")
    scores = {
        "one word": {**asked_one.scores, "iou": asked_one.as_dict()["iou"], **floors(segmenter, text, bench, asked.voc, seed)},
        "all words": {name: at_once.scores[name] for name in ("pAcc", "mIoU_S", "mIoU_U", "hIoU")},
        "versions": versions(),
    }
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Train and score all folds and seeds; print the tables of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, required=True, help="VOCdevkit/VOC2012, or a part of it")
    parser.add_argument("--lists", type=Path, required=True, help="HSNet's lists of PASCAL-5i (trn/ and val/)")
    parser.add_argument("--words", type=Path, required=True, help=".npy, CLIP's vectors of VOC's 20 words in the order of VOC")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 trained on ImageNet, converted from TensorFlow")
    parser.add_argument("--out", type=Path, default=Path("runs/voc_real"))
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--scale", type=float, default=10.0)
    asked = parser.parse_args()
    lists = lists_of_what_is_there(asked.lists, asked.voc, asked.out / "lists")
    found = {(fold, seed): measure(asked, lists, fold, seed) for seed in asked.seeds for fold in asked.folds}

    def row(name: str, part: str, key: str) -> list[str]:
        folds = [[found[fold, seed][part][key] for seed in asked.seeds] for fold in asked.folds]
        return [name, *(spread(values) for values in folds), spread([statistics.mean(values) for values in zip(*folds, strict=True)])]

    head = ["", *(f"fold {fold}" for fold in asked.folds), "mean"]
    one = [
        row("SAZS: mIoU", "one word", "mIoU"),
        row("every pixel: mIoU", "one word", "everything"),
        row("asked for a wrong word: mIoU", "one word", "wrong word"),
    ]
    one += [row("SAZS: FB-IoU", "one word", "FB_IoU")]
    print(table(["one word at a time, unseen classes", *head[1:]], one), end="\n\n")
    print(table(["all words at once", *head[1:]], [row(name, "all words", name) for name in ("mIoU_S", "mIoU_U", "hIoU", "pAcc")]))


if __name__ == "__main__":
    main()
