"""Where the unseen classes lose: what their pixels are called, and what else goes by their names.

Of runs on VOC with all twenty classes competing (seed 0), for each unseen class: which classes its
pixels are given, and which classes the pixels are of that are given it. Beside it the scores when
only the classes in an image compete, so that the class is known to be there. Results are kept.

Run: python examples/photographs/confusions.py --voc VOC2012 --lists LISTS --mobilenet FILE
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import FREE, flags_of, kept, loaded, score, train, voc_without_background
from run import ROWS, present_lists

from unseen.data.classes import VOC, VOC_UNSEEN
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix
from unseen.predictor import Predictor

MODELS = ("sclip", "zegclip", "zegclip-transductive", "clip_rc", "esda", "sazs", "edgeclip")
SHOWN = 3
"""Classes that are kept for each unseen one."""


def run_of(name: str, flags: argparse.Namespace) -> str | Path:
    """A method without training, or a run of seed 0 that has seen masks of the 15 classes."""
    if name in FREE:
        return name
    # The classes of the last fold are the unseen ones of VOC.
    split = "pascal-5i/3" if ROWS[name].query else "voc"
    folder = flags.out / "runs" / f"{name}-{split.replace('/', '-')}-0"
    return train(ROWS[name], flags, split, folder, 0)


def largest(counts: torch.Tensor) -> dict[str, float]:
    """The classes with most pixels of counts (K,), in percent of all."""
    shares = (100 * counts / counts.sum()).tolist()
    best = sorted(range(len(VOC)), key=lambda index: -shares[index])[:SHOWN]
    return {VOC[index]: shares[index] for index in best}


def mistaken(counts: torch.Tensor, name: str) -> dict[str, dict[str, float]]:
    """What the pixels of a class are given, and what the pixels are that are given the class.

    Args:
        counts: (K, K) by truth and prediction.
        name: The class.
    """
    index = VOC.index(name)
    return {"its pixels": largest(counts[index]), "given it": largest(counts[:, index])}


def among_present(model: Predictor, flags: argparse.Namespace) -> dict[str, float]:
    """The scores when the classes of each image are told."""
    bench = voc_without_background()
    data, matrix, text = bench.data("val", flags.voc), ConfusionMatrix(len(VOC)), model.encode(VOC)
    for index in range(len(data)):
        sample = data[index]
        ids = [value for value in sample.labels.unique().tolist() if value != IGNORE]
        image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        found = model.segment_encoded(image, text.select(ids)).labels.astype(np.int64)
        matrix.update(torch.tensor(ids)[torch.from_numpy(found)], sample.labels)
    return matrix.summary(bench.seen_ids, bench.unseen_ids)


def measure(row: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Both answers for a row."""
    report = score(run_of(row, flags), voc_without_background(), flags)
    assert isinstance(report.metric, ConfusionMatrix)
    counts = report.metric.counts[:, : len(VOC)].double()
    return {
        "classes": {name: mistaken(counts, name) for name in VOC_UNSEEN},
        "scores": report.scores,
        "among present": among_present(loaded(run_of(row, flags), flags), flags),
    }


def main() -> None:
    """Measure everything that is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    flags = flags_of(parser)
    flags.lists = present_lists(flags)
    for name in flags.models:
        found = kept(flags.results / "confusions" / f"{name}.json", partial(measure, name, flags))
        shown = {key: round(found["among present"][key], 1) for key in ("mIoU_S", "mIoU_U", "hIoU")}
        print(f"{name}, among the classes of an image: {shown}", flush=True)


if __name__ == "__main__":
    main()
