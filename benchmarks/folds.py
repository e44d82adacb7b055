"""A method with one query class an image on the folds of Doodles: one training run per fold and
seed; prints a Markdown table.

Run: python benchmarks/folds.py edgeclip
     python benchmarks/folds.py edgeclip --seeds 0 --folds 3

Doodles numbers, mIoU of the foreground in percent. "unseen": all pairs of the fold. "seen": the
classes trained on, the first pairs of the other folds. "another class": the fold's first pairs,
each queried with some other class; what is segmented then does not depend on the query. "all
foreground": every pixel is predicted as the query class. A method whose "unseen" is no better than
"another class" segments whatever stands out, and does not use the query.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

import unseen
from unseen.clip_segmenter import TextSegmenter
from unseen.data.benchmarks import folds_of, get_benchmark
from unseen.evaluation.loop import evaluate
from unseen.evaluation.protocols import Candidate, query_labels, read_episodes
from unseen.metrics import EpisodeCounts
from unseen.recipes import settings
from unseen.segmenter import TextFeatures
from unseen.settings import EvaluationSettings

NUMBERS = ("unseen", "FB-IoU", "seen", "another class", "all foreground")
SEEN, OTHER = 40, 150
"""Pairs of every other fold, and pairs queried with another class."""


def all_foreground(fold: str) -> float:
    """mIoU if every pixel is predicted as the query class."""
    bench = get_benchmark(fold)
    assert bench.episodes is not None
    counts = EpisodeCounts(len(bench.class_names))
    data, episodes = bench.episodes(None, "all", 0)
    for sample, class_id in read_episodes(data, episodes):
        truth = query_labels(sample.labels, class_id)
        counts.update(torch.ones_like(truth, dtype=torch.bool), truth, class_id)
    return counts.summary(bench.seen_ids, bench.unseen_ids)["mIoU"]


def score(
    segmenter: TextSegmenter, text: TextFeatures, fold: str, limit: int | None = None
) -> dict[str, float]:
    """mIoU and FB-IoU on the pairs of a fold, whether or not it was trained on them."""
    bench = get_benchmark(fold)
    how = EvaluationSettings(limit=limit, shown=0, progress=False)
    return evaluate(Candidate("", segmenter, text, bench.inference), bench, settings=how).scores


def measure(method: str, fold: str, seed: int) -> dict[str, float]:
    """The scores of one run."""
    model, train = settings(method, fold, seed=seed, devices="1")
    with tempfile.TemporaryDirectory() as folder:
        trained = unseen.train(model, train, fold, Path(folder) / "run", progress=False)
    assert trained is not None, "one process"
    segmenter, text = trained
    own = score(segmenter, text, fold)
    seen = [
        score(segmenter, text, other, SEEN)["mIoU"]
        for other in folds_of("doodles-5i")
        if other != fold
    ]
    order = np.random.default_rng(0).permutation(len(text))
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)  # one long cycle: no class stays itself
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
    given = parser.parse_args()
    print(f"| fold | {' | '.join(NUMBERS)} |\n|---|{'---|' * len(NUMBERS)}")
    means: dict[int, list[dict[str, float]]] = {seed: [] for seed in given.seeds}
    for fold in given.folds:
        for seed in given.seeds:
            means[seed].append(measure(given.method, f"doodles-5i/{fold}", seed))
        print(row(str(fold), [means[seed][-1] for seed in given.seeds]), flush=True)
    if len(given.folds) > 1:
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
    cells = []
    for number in NUMBERS:
        values = [run[number] for run in runs]
        cell = f"{statistics.mean(values):.1f}"
        # The floor does not depend on the seed.
        if len(set(values)) > 1:
            cell += f" ± {statistics.stdev(values):.1f}"
        cells.append(cell)
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
