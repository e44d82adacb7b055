"""A segmenter on a benchmark: one loop over what a protocol yields, counted by its metric.

What the labels choose stands under "oracle", and is no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from unseen.checkpoints import tower_identities
from unseen.data.benchmarks import Benchmark
from unseen.data.classes import shared_classes
from unseen.data.datasets import Sample, SegmentationSet
from unseen.errors import DataError, SettingError
from unseen.evaluation.gallery import Gallery
from unseen.evaluation.protocols import (
    Candidate,
    Judged,
    Refiner,
    SquareImages,
    all_classes,
    batches_of_one_size,
    present_classes,
    query_classes,
    read_episodes,
    read_samples,
    with_background,
)
from unseen.image_counts import ImageCounter
from unseen.inference import LabelMaps
from unseen.labels import BACKGROUND, IGNORE, subset_lookup
from unseen.metrics import ConfusionMatrix, EpisodeCounts, Metric, episode_counts
from unseen.reports import Report
from unseen.runs import versions
from unseen.segmenter import QuerySegmenter
from unseen.segments.refinement import SegmentMatch, SegmentRefiner, refine_maps, segment_iou
from unseen.segments.source import SegmentSource, segment_source
from unseen.settings import EvaluationSettings
from unseen.visualize import Row, spread

MAPS_AT_ONCE = 16 * 171
"""Score maps held at a time: of a batch of COCO-Stuff's images."""
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""IoUs that `choose_threshold` tries; 1 refines nothing."""


# --------------------------------------------------------------------- the loop


def evaluate(
    candidate: Candidate,
    benchmark: Benchmark,
    root: Path | None = None,
    settings: EvaluationSettings | None = None,
    *,
    evenly: bool = False,
) -> Report:
    """Score a segmenter on a benchmark's validation images, or on the episodes of a fold.

    Args:
        candidate: The segmenter.
        benchmark: Classes, split and data.
        root: Where the data lie.
        settings: How; of the seeds the first one is taken.
        evenly: Take the images of `settings.limit` evenly from all, not the first.

    Raises:
        SettingError: Settings that do not fit the benchmark or each other.
        DataError: Data that are missing or broken, or an episode whose class is not in its image.
    """
    settings = settings or EvaluationSettings()
    words = candidate.text.has_background_words
    benchmark.check_settings(candidate.inference, settings, words=words)
    if benchmark.episodes is not None:
        _check_query(candidate)
    refiner = _refiner(candidate, settings)
    count, items, metric = _protocol(candidate, benchmark, root, settings, refiner, evenly)
    bar = _bar(items, candidate.title, count, settings.progress)
    tally = _Tally(benchmark, metric, set(spread(count, settings.shown)))
    for item in bar:
        tally.add(item)
    if not tally.pixels:
        raise DataError(
            f"none of the {count} images of {benchmark.title} has a labelled pixel, so nothing can"
            " be scored; check the label maps and the list of classes"
        )
    shared = _shared(candidate, benchmark)
    return Report(
        title=_marked(candidate, settings),
        benchmark=benchmark,
        metric=metric,
        images=len(tally.names) if benchmark.episodes else count,
        pixels=tally.pixels,
        protocol=_facts(candidate, benchmark, settings, refiner, shared),
        rows=tally.rows,
        shown=tally.gallery.done(),
        shared=shared,
        single=tally.single.done(),
    )


class _Tally:
    """What a report keeps of the images, while they are scored: none is segmented twice.

    Args:
        benchmark: Its classes.
        metric: Counts the pixels.
        wanted: Places of the images for the sheet; where there are none, no image is kept.

    Attributes:
        rows: Of the sheet.
        gallery: The images worth a look.
        single: What every image adds to the score.
        names: Of the images.
        pixels: Labelled ones.
    """

    def __init__(self, benchmark: Benchmark, metric: Metric, wanted: set[int]) -> None:
        self.benchmark, self.metric, self.wanted = benchmark, metric, wanted
        self.rows: list[Row] = []
        self.gallery = Gallery(benchmark)
        self.single = ImageCounter("classes" if benchmark.episodes is None else "episodes")
        self.names = set[str]()
        self.pixels, self.done = 0, 0

    def add(self, item: Judged) -> None:
        """Count an image or an episode."""
        counts = self.metric.update(item.predictions[0], item.truth, item.class_id).numpy()
        self.single.add(item.name, counts, item.class_id)
        if self.wanted:
            self.gallery.add(item, counts)
        self.names.add(item.name)
        # Counted without the metric, which must come to the same sum.
        self.pixels += int((item.truth != IGNORE).sum())
        if self.done in self.wanted:
            self.rows.append(item.row(self.benchmark.class_names))
        self.done += 1


def _check_query(candidate: Candidate) -> None:
    """Refuse what a method that is asked one class an image cannot take into account in folds.

    Raises:
        SettingError: Names it.
    """
    inference = candidate.inference
    unused = {
        "--background-words": candidate.text.has_background_words,
        "--inference.area_threshold": inference.area_threshold is not None,
        "--inference.confidence_at image": inference.confidence_at == "image",
    }
    flag = next((flag for flag, given in unused.items() if given), None)
    if flag is not None and isinstance(candidate.segmenter, QuerySegmenter):
        raise SettingError(
            f"{flag} is for classes that compete, and {candidate.title} is asked one class at a"
            " time in folds; remove it"
        )


def count_pixels(items: Iterable[Judged], metrics: Sequence[Metric]) -> Iterator[Judged]:
    """The items as they come, each counted: every prediction by the metric in its place."""
    for item in items:
        for metric, prediction in zip(metrics, item.predictions, strict=True):
            metric.update(prediction, item.truth, item.class_id)
        yield item


def _bar(items: Iterable[Judged], title: str, count: int, progress: bool) -> Iterable[Judged]:
    """The items, with a progress bar."""
    return track(
        items, description=escape(title), total=count, transient=True, disable=not progress
    )


def _protocol(
    candidate: Candidate,
    benchmark: Benchmark,
    root: Path | None,
    settings: EvaluationSettings,
    refiner: Refiner | None,
    evenly: bool,
) -> tuple[int, Iterator[Judged], Metric]:
    """How many images or episodes there are, what they yield, and what counts them."""
    if benchmark.episodes is not None:
        counts = EpisodeCounts(len(benchmark.class_names), released=settings.released_counts)
        data, episodes = benchmark.episodes(root, settings.episodes, settings.seeds[0])
        data = _at_square(data, candidate, settings)
        episodes = [episodes[i] for i in _chosen(len(episodes), settings.limit, evenly)]
        pairs = read_episodes(data, episodes, settings.workers)
        items = query_classes(candidate, pairs, [refiner], settings.threshold)
        return len(episodes), items, counts
    data = _at_square(benchmark.data("val", root), candidate, settings)
    chosen = _chosen(len(data), settings.limit, evenly)
    # Score maps of large vocabularies fill the memory before images do.
    batch = max(1, min(settings.batch_size, MAPS_AT_ONCE // len(benchmark.class_names)))
    samples = read_samples(data, chosen, settings.workers)
    items = all_classes(
        candidate, batches_of_one_size(samples, batch), [refiner], settings.threshold
    )
    if benchmark.background == "threshold":
        items = with_background(items, len(benchmark.class_names))
    return len(chosen), items, ConfusionMatrix(len(benchmark.scored_names))


def _chosen(count: int, limit: int | None, evenly: bool) -> Sequence[int]:
    """Which of `count` images or episodes are scored: at most `limit`."""
    if limit is None or limit >= count:
        return range(count)
    return spread(count, limit) if evenly else range(limit)


def _at_square(
    data: SegmentationSet, candidate: Candidate, settings: EvaluationSettings
) -> SegmentationSet:
    """The images at the size they are scored at."""
    return SquareImages(data, candidate.inference) if settings.at_square else data


# ------------------------------------------------------------------- refinement


def _refiner(candidate: Candidate, settings: EvaluationSettings) -> Refiner | None:
    """What refines the method's own masks; None if nothing does."""
    if settings.oracle:
        source = segment_source(candidate.segmenter, candidate.inference)
        return OracleRefiner(source, settings.released_counts)
    return SegmentRefiner.from_settings(candidate.segmenter, candidate.inference)


def choose_threshold(
    candidate: Candidate,
    benchmark: Benchmark,
    root: Path | None = None,
    *,
    images: int = 200,
    thresholds: Sequence[float] = THRESHOLDS,
    progress: bool = True,
) -> dict[float, float]:
    """The mIoU in percent of each refinement threshold, on training images and seen classes.

    Unseen classes are not among the vocabulary, and their pixels are ignored. The best threshold is
    the one to use.

    Args:
        candidate: The segmenter.
        benchmark: Classes, split and data.
        root: Where the data lie.
        images: How many, spread over the training set.
        thresholds: To try.
        progress: Show a progress bar.
    """
    source = segment_source(candidate.segmenter, candidate.inference)
    refiners = [SegmentRefiner(source, threshold) for threshold in thresholds]
    seen = range(len(benchmark.seen_ids))
    part = replace(candidate, text=candidate.text.of_classes(benchmark.seen_ids), calibrated=None)
    samples = _training_samples(benchmark, root, images)
    metrics: list[Metric]
    if benchmark.episodes is not None:
        metrics = [EpisodeCounts(len(seen)) for _ in thresholds]
        items = query_classes(part, present_classes(samples), refiners)
    else:
        metrics = [ConfusionMatrix(len(seen)) for _ in thresholds]
        items = all_classes(part, ([sample] for sample in samples), refiners)
    bar = _bar(items, "refinement threshold", images, progress)
    for _ in count_pixels(bar, metrics):
        pass  # all that counts is in the metrics
    return {
        threshold: metric.summary(seen, seen)["mIoU"]
        for threshold, metric in zip(thresholds, metrics, strict=True)
    }


def _training_samples(benchmark: Benchmark, root: Path | None, images: int) -> Iterator[Sample]:
    """Images spread over the training set, whose labels count the seen classes alone."""
    data = benchmark.data("train", root)
    places = np.linspace(0, len(data) - 1, min(images, len(data))).round().astype(int)
    size = max(256, len(benchmark.class_names) + 4)
    table = subset_lookup(benchmark.seen_ids, size=size)
    if benchmark.episodes is not None:
        table[BACKGROUND] = BACKGROUND
    for index in np.unique(places).tolist():
        sample = data[index]
        yield replace(sample, labels=table[sample.labels])


# ----------------------------------------------------- oracle: the labels choose


@dataclass(frozen=True)
class OracleRefiner:
    """Segments in place of masks where the labels say that they are better: no result.

    Attributes:
        source: Where the segments of images come from.
        released_counts: How ignored pixels of an episode are counted (`episode_counts`).
    """

    source: SegmentSource
    released_counts: bool = False

    def refine(self, maps: LabelMaps, segments: Tensor, truth: Tensor) -> LabelMaps:
        """Label maps with segments where they are nearer to the truth.

        Args:
            maps: As `unseen.inference.label_maps` returns them.
            segments: (B, S, H, W) bool, of the same images.
            truth: (B, H, W) labels; pixels of 255 are ignored.
        """
        images = zip(maps.labels, segments, truth, strict=True)
        return refine_maps(maps, [oracle_matches(*image) for image in images])

    def refine_mask(self, mask: Tensor, segments: Tensor, truth: Tensor) -> Tensor:
        """The released SAZS's choice between a mask and the eigen-segments.

        It is the first segment of highest foreground IoU with the truth, if that is above the
        mask's own.

        Args:
            mask: (H, W) bool, of the network.
            segments: (S, H, W) bool.
            truth: (H, W) of 1, 0 and 255.
        """
        iou = [self._foreground_iou(part, truth) for part in (mask, *segments)]
        best = int(np.argmax(iou[1:]))
        return mask if iou[0] >= iou[1 + best] else segments[best]

    def _foreground_iou(self, mask: Tensor, truth: Tensor) -> float:
        counts = episode_counts(mask, truth, released=self.released_counts)
        intersection, union = counts[1].tolist()
        return float(intersection / max(union, 1))


def oracle_matches(labels: Tensor, segments: Tensor, truth: Tensor) -> list[SegmentMatch]:
    """Of every class in the image, the segment with the highest IoU with its true mask.

    Segments that are no nearer to the true mask than the predicted one are left out.

    Args:
        labels: (H, W), predicted.
        segments: (S, H, W) bool.
        truth: (H, W) labels; pixels of 255 are ignored.
    """
    known = truth != IGNORE
    class_ids = torch.unique(truth[known])
    predicted = labels == class_ids.view(-1, 1, 1)
    present, iou = segment_iou(truth, torch.cat([segments, predicted]) & known)
    matches = []
    for row, class_id in enumerate(present):
        best = int(iou[row, : len(segments)].argmax())
        if iou[row, best] > iou[row, len(segments) + row]:
            matches.append(SegmentMatch(class_id, float(iou[row, best]), segments[best]))
    return matches


# ------------------------------------------------------------ what a report says


def _marked(candidate: Candidate, settings: EvaluationSettings) -> str:
    """The title with what was done to the method's own masks."""
    title = candidate.title
    if settings.oracle:
        title += " + oracle"
    elif candidate.inference.refinement == "segment_iou":
        title += " + segment IoU"  # without its threshold, which may be chosen fold by fold
    elif candidate.inference.refinement == "pamr":
        title += " + PAMR"
    if settings.threshold is not None:
        title += f", threshold {settings.threshold:g}"
    return title


def _shared(candidate: Candidate, benchmark: Benchmark) -> tuple[str, ...] | None:
    """The classes that a run trained on another benchmark has seen there with masks."""
    if candidate.trained_on is None or benchmark.episodes is not None:
        return None
    return tuple(shared_classes(candidate.trained_on.seen, benchmark.class_names))


def _facts(
    candidate: Candidate,
    benchmark: Benchmark,
    settings: EvaluationSettings,
    refiner: Refiner | None,
    shared: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Everything that moves the number, as JSON types."""
    trained, run = None, candidate.trained_on
    if run is not None and shared is not None:
        trained = {
            "benchmark": run.benchmark,
            "classes": len(run.seen),
            "shared": list(shared),
        }
    return {
        **benchmark.protocol,
        "vocabulary": list(candidate.text.vocabulary),
        "unseen": list(benchmark.unseen),
        "background": benchmark.background,
        "trained_on": trained,
        "inference": asdict(candidate.inference),
        "evaluation": asdict(settings),
        "calibrated": candidate.calibrated is not None,
        "segments": _segments_used(refiner),
        "towers": tower_identities(candidate.segmenter),
        **candidate.about,
        "versions": versions(),
    }


def _segments_used(refiner: Refiner | None) -> dict[str, Any] | None:
    if refiner is None:
        return None
    source = refiner.source
    if source.keys is None:
        return {"folder": str(source.folder)}
    keys = {"features": source.keys.source, "fingerprint": source.keys.fingerprint}
    return {**keys, **asdict(source.settings)}
