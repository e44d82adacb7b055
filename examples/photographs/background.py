"""What the background costs ZegCLIP and the best method without training in the folds.

In the folds every pixel counts, and neither has a class for what is none of VOC's: the same runs
are scored on the folds again, once with the background left out of the masks. Results are kept.

Run: python examples/photographs/background.py --voc VOCdevkit/VOC2012 --lists LISTS --mobilenet F
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from common import flags_of, kept, score
from floors import every_pixel
from run import FOLDS, of_split, present_lists, summary

from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.datasets import Sample, SegmentationSet
from unseen.data.episodes import Episode
from unseen.labels import BACKGROUND, IGNORE

FLOOR = "every-pixel"
MODELS = (FLOOR, "sclip", "zegclip")


class WithoutBackground(SegmentationSet):
    """The same images, their background ignored.

    Args:
        data: Of a fold.
    """

    def __init__(self, data: SegmentationSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        labels = torch.where(sample.labels == BACKGROUND, IGNORE, sample.labels)
        return replace(sample, labels=labels)


def without_background(fold: Benchmark) -> Benchmark:
    """A fold whose masks have the pixels of the twenty classes alone."""

    def episodes(*how: Any) -> tuple[SegmentationSet, list[Episode]]:
        assert fold.episodes is not None
        data, pairs = fold.episodes(*how)
        return WithoutBackground(data), pairs

    return replace(fold, episodes=episodes)


def measure(name: str, fold: int, flags: argparse.Namespace) -> dict[str, Any]:
    """Scores of a fold without its background."""
    bench = without_background(get_benchmark(f"pascal-5i/{fold}", flags.lists))
    if name == FLOOR:
        counts = every_pixel(bench, flags.voc)
        return {"scores": counts.summary(bench.seen_ids, bench.unseen_ids)}
    model: Any = name
    if name == "zegclip":
        model = flags.out / "runs" / f"zegclip-pascal-5i-{fold}-0"
        if not (model / "weights.safetensors").exists():
            of_split(name, 0, f"pascal-5i/{fold}", flags)
    return summary(score(model, bench, flags))


def main() -> None:
    """Measure everything that is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags = flags_of(parser)
    flags.lists = present_lists(flags)
    for name in MODELS:
        for fold in FOLDS:
            file = flags.results / "background" / f"{name}-{fold}.json"
            scores = kept(file, partial(measure, name, fold, flags))["scores"]
            print(f"{name}, fold {fold}: {scores['mIoU']:.1f}", flush=True)


if __name__ == "__main__":
    main()
