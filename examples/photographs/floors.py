"""Floors: the scores of answers that need no network, or that ignore the query class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unseen.data.benchmarks import Benchmark
from unseen.evaluation.protocols import query_labels, read_episodes
from unseen.inference import query_mask
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix, EpisodeCounts
from unseen.predictor import Predictor
from unseen.segmenter import QuerySegmenter
from unseen.settings import InferenceSettings


def commonest_class(bench: Benchmark, voc: Path) -> tuple[int, int, ConfusionMatrix]:
    """Every pixel is the seen class with most pixels in training.

    Returns:
        The index of this class, the number of training images with a seen class, and the counts of
        the validation images.
    """
    counts = np.zeros(256, dtype=np.int64)
    data, images = bench.data("train", voc), 0
    for index in range(len(data)):
        found = np.bincount(data.labels(index).numpy().ravel(), minlength=256)
        counts, images = counts + found, images + bool(found[bench.seen_ids].any())
    commonest = bench.seen_ids[int(counts[bench.seen_ids].argmax())]
    matrix, val = ConfusionMatrix(len(bench.class_names)), bench.data("val", voc)
    for index in range(len(val)):
        truth = val.labels(index)
        matrix.update(torch.where(truth == IGNORE, IGNORE, commonest), truth)
    return commonest, images, matrix


def every_pixel(bench: Benchmark, voc: Path) -> EpisodeCounts:
    """In a fold: every pixel is the query class."""
    counts = EpisodeCounts(len(bench.class_names))
    assert bench.episodes is not None
    for sample, class_id in read_episodes(*bench.episodes(voc, "all", 0)):
        truth = query_labels(sample.labels, class_id)
        counts.update(torch.ones_like(truth, dtype=torch.bool), truth, class_id)
    return counts


@torch.no_grad()
def wrong_class(
    model: Predictor, bench: Benchmark, voc: Path, seed: int, inference: InferenceSettings
) -> EpisodeCounts:
    """In a fold: the network is queried with another class than it is judged on."""
    assert isinstance(model.segmenter, QuerySegmenter)
    assert bench.episodes is not None
    count = len(bench.class_names)
    rng, text = torch.Generator().manual_seed(seed), model.encode(bench.class_names)
    counts = EpisodeCounts(count)
    for sample, class_id in read_episodes(*bench.episodes(voc, "all", 0)):
        others = [i for i in range(count) if i != class_id]
        other = others[int(torch.randint(len(others), (), generator=rng))]
        mask = query_mask(model.segmenter, sample.image.unsqueeze(0), text, other, inference)[0]
        counts.update(mask, query_labels(sample.labels, class_id), class_id)
    return counts
