"""A method with one word an image on the folds of Doodles: one training run per fold and seed;
prints a Markdown table.

Run: python benchmarks/folds.py edgeclip
     python benchmarks/folds.py edgeclip --seeds 0 --folds 3

Doodles numbers, mIoU of the foreground in percent. "unseen": all pairs of the fold. "seen": the
words trained on, the first pairs of the other folds. "another word": the fold's first pairs, each
asked with some other word; what is found then is found without the word. "all foreground": every
pixel is called the word's. A method that answers "unseen" no better than "another word" segments
things, and does not read.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

import unseen
from unseen.data.benchmarks import folds_of, get_benchmark
from unseen.evaluation import evaluate_episodes
from unseen.metrics import EpisodeCounts
from unseen.recipes import settings
from unseen.segmenter import TextFeatures, TextSegmenter

NUMBERS = ("unseen", "FB-IoU", "seen", "another word", "all foreground")
SEEN, OTHER = 40, 150
"""Pairs of every other fold, and pairs asked with another word."""


def all_foreground(fold: str) -> float:
    """What the answer "everything" scores."""
    bench = get_benchmark(fold)
    scenes, episodes = bench.episodes(None, "all", 0)
    counts = EpisodeCounts(len(bench.class_names))
    for episode in episodes:
        truth = (scenes[episode.index].labels == episode.class_id).long()
        counts.update(torch.ones_like(truth, dtype=torch.bool), truth, episode.class_id)
    return counts.summary(bench.unseen_ids)["mIoU"]


def score(
    segmenter: TextSegmenter, text: TextFeatures, fold: str, limit: int | None = None
) -> dict[str, float]:
    """mIoU and FB-IoU on the pairs of a fold, whether or not it was trained on them."""
    bench = get_benchmark(fold)
    return evaluate_episodes(
        segmenter,
        text,
        bench,
        None,
        title="",
        inference=bench.inference,
        limit=limit,
        shown=0,
        progress=False,
    ).scores


def measure(method: str, fold: str, seed: int) -> dict[str, float]:
    """The scores of one run."""
    model, train = settings(method, fold, seed=seed, devices="1")
    with tempfile.TemporaryDirectory() as folder:
        segmenter, text = unseen.train(model, train, fold, Path(folder) / "run", progress=False)
    own = score(segmenter, text, fold)
    seen = [
        score(segmenter, text, other, SEEN)["mIoU"]
        for other in folds_of("doodles-5i")
        if other != fold
    ]
    order = np.random.default_rng(0).permutation(len(text))
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)  # one long circle: no word stays itself
    wrong = score(segmenter, text.select(others.tolist()), fold, OTHER)["mIoU"]
    return dict(
        zip(
            NUMBERS,
            (own["mIoU"], own["FB_IoU"], statistics.mean(seen), wrong, all_foreground(fold)),
            strict=True,
        )
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3])
    asked = parser.parse_args()
    print(f"| fold | {' | '.join(NUMBERS)} |\n|---|{'---|' * len(NUMBERS)}")
    means: dict[int, list[dict[str, float]]] = {seed: [] for seed in asked.seeds}
    for fold in asked.folds:
        for seed in asked.seeds:
            means[seed].append(measure(asked.method, f"doodles-5i/{fold}", seed))
        print(row(str(fold), [means[seed][-1] for seed in asked.seeds]), flush=True)
    if len(asked.folds) > 1:
        print(
            row(
                "mean",
                [
                    {name: statistics.mean(run[name] for run in runs) for name in NUMBERS}
                    for runs in means.values()
                ],
            )
        )


def row(name: str, runs: list[dict[str, float]]) -> str:
    """A line of the table: mean ± standard deviation over the seeds."""
    values = [[run[number] for run in runs] for number in NUMBERS]
    spread = [
        f" ± {statistics.stdev(found):.1f}" if len(found) > 1 and len(set(found)) > 1 else ""
        for found in values
    ]
    return (
        f"| {name} |"
        f" {' | '.join(f'{statistics.mean(found):.1f}{by}' for found, by in zip(values, spread, strict=True))} |"
    )


if __name__ == "__main__":
    main()
