"""What the background costs ZegCLIP and the best method without training in the folds.

In the folds every pixel counts, and neither has a class for what is none of VOC's: the same runs
are scored on the folds again, once with the background left out of the masks. Results are kept.

Run: python examples/photographs/background.py --voc VOCdevkit/VOC2012 --lists LISTS --mobilenet F
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from common import kept, places_of, score
from run import FOLDS, of_split, present_lists, summary
from torch import Tensor

from unseen.data.benchmarks import get_benchmark
from unseen.data.classes import VOC
from unseen.evaluation.protocols import query_labels
from unseen.labels import IGNORE

MODELS = ("sclip", "zegclip")


def without_background(labels: Tensor, class_id: int) -> Tensor:
    """The truth of an episode, on the pixels of the twenty classes."""
    return torch.where(labels >= len(VOC), IGNORE, query_labels(labels, class_id))


def measure(name: str, fold: int, places: argparse.Namespace) -> dict[str, Any]:
    """Scores of a fold without its background."""
    model: Any = name
    if name == "zegclip":
        model = places.out / "runs" / f"zegclip-pascal-5i-{fold}-0"
        if not (model / "weights.safetensors").exists():
            of_split(name, 0, f"pascal-5i/{fold}", places)
    bench = get_benchmark(f"pascal-5i/{fold}", places.lists)
    with patch("unseen.evaluation.protocols.query_labels", without_background):
        return summary(score(model, bench, places))


def main() -> None:
    """Measure everything that is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    places = places_of(parser)
    places.lists = present_lists(places)
    for name in MODELS:
        for fold in FOLDS:
            file = places.results / "background" / f"{name}-{fold}.json"
            scores = kept(file, partial(measure, name, fold, places))["scores"]
            print(f"{name}, fold {fold}: {scores['mIoU']:.1f}", flush=True)


if __name__ == "__main__":
    main()
