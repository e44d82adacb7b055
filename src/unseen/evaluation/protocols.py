"""The two protocols: what a segmenter predicts, image by image, beside the truth.

`all_classes` lets the classes of a vocabulary compete for every pixel; `query_classes` takes one
query class of an image at a time, foreground against background (folds). Both take several
refiners, so that thresholds are compared on one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from unseen.data.datasets import Sample, SegmentationSet
from unseen.data.episodes import Episode
from unseen.errors import DataError
from unseen.inference import LabelMaps, is_query, label_maps, query_scores, resize_input
from unseen.labels import BACKGROUND, IGNORE, index_to_label
from unseen.runs import Run
from unseen.segmenter import QuerySegmenter, Segmenter, TextFeatures
from unseen.segments.refinement import SegmentRefiner
from unseen.segments.source import SegmentSource
from unseen.settings import InferenceSettings
from unseen.visualize import Row


class Oracle(Protocol):
    """A choice among segments that looks at the labels (`unseen.evaluation.loop.OracleRefiner`)."""

    @property
    def source(self) -> SegmentSource:
        """Where the segments of images come from."""

    def refine(self, maps: LabelMaps, segments: Tensor, truth: Tensor) -> LabelMaps:
        """Label maps with segments (B, S, H, W) in place of masks."""

    def refine_mask(self, mask: Tensor, segments: Tensor, truth: Tensor) -> Tensor:
        """A mask (H, W) of one class, or the segment (S, H, W) in its place."""


Refiner = SegmentRefiner | Oracle


@dataclass(frozen=True)
class Candidate:
    """A segmenter that is to be scored on a benchmark.

    Attributes:
        title: Its name in the report.
        segmenter: Any method, in eval mode; it runs where its parameters lie.
        text: The benchmark's vocabulary, encoded.
        inference: Size, windows and refinement.
        calibrated: Ids of the classes trained on, whose scores the method reduces (calibrated
            stacking); None where no class was trained on, or all.
        trained_on: The run, where it was trained on another benchmark: the report says which
            classes it has seen there.
        about: What else the report should say of it.
    """

    title: str
    segmenter: Segmenter
    text: TextFeatures
    inference: InferenceSettings
    calibrated: Sequence[int] | None = None
    trained_on: Run | None = None
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """An image, or an episode, with what a metric compares.

    Attributes:
        name: Of the image.
        image: (3, H, W) uint8, RGB.
        truth: (H, W) labels; of an episode 1 for its class, 0 for everything else, and 255.
        predictions: By every refiner: (H, W) labels; of an episode bool.
        class_id: The query class of an episode.
        confidence: Computes that of the predicted class, or of the query class (H, W).
    """

    name: str
    image: Tensor
    truth: Tensor
    predictions: list[Tensor]
    class_id: int | None = None
    confidence: Callable[[], Tensor] | None = None

    def row(self, names: Sequence[str]) -> Row:
        """A row of the sheet."""
        truth, guess, note = self.truth, self.predictions[0], self.name
        if self.class_id is not None:
            note += f": {names[self.class_id]}"
            truth, guess = (
                torch.where(mask, self.class_id, IGNORE).to(torch.uint8)
                for mask in (truth == 1, guess)
            )
        pixels = self.image.permute(1, 2, 0).cpu().numpy()
        return Row(pixels, truth.numpy(), {"prediction": guess.numpy()}, note)


# ----------------------------------------------------------- the two protocols


def all_classes(
    candidate: Candidate,
    batches: Iterable[Sequence[Sample]],
    refiners: Sequence[Refiner | None],
    threshold: float | None = None,
) -> Iterator[Judged]:
    """Label maps of images, for which all classes of the vocabulary compete.

    Args:
        candidate: The segmenter.
        batches: Samples of equal size.
        refiners: One prediction by each; None for the method's own.
        threshold: Pixels whose best class is less confident get no class.
    """
    segmenter = candidate.segmenter
    for samples in batches:
        # The network runs once a batch, however many refiners look at its scores.
        images = torch.stack([sample.image for sample in samples]).to(segmenter.device)
        labels = torch.stack([sample.labels for sample in samples])
        maps = label_maps(
            segmenter,
            images,
            candidate.text,
            candidate.inference,
            seen=candidate.calibrated,
            threshold=threshold,
        )
        segments = _segments(refiners, images, [sample.name for sample in samples])
        refined = [_refined(refiner, maps, segments, labels).labels.cpu() for refiner in refiners]
        for i, sample in enumerate(samples):
            predictions = [part[i] for part in refined]
            confidence = partial(_confidence, maps, i)
            yield Judged(sample.name, sample.image, labels[i], predictions, confidence=confidence)


def _confidence(maps: LabelMaps, place: int) -> Tensor:
    """Of the best class of one image (H, W)."""
    return maps.confidence[place]


def query_classes(
    candidate: Candidate,
    episodes: Iterable[tuple[Sample, int]],
    refiners: Sequence[Refiner | None],
    threshold: float | None = None,
) -> Iterator[Judged]:
    """Masks of one query class an image: foreground against background.

    Args:
        candidate: The segmenter.
        episodes: Samples with their query class; one image's neighbouring episodes share a sample.
        refiners: One prediction by each; None for the method's own.
        threshold: The mask is where the confidence of the class is above this; a query method's own
            decision, 0.5, by default, and where the class wins for any other.

    Raises:
        DataError: An image without its query class.
    """
    masks: _QueryMasks | None = None
    for sample, class_id in episodes:
        # One image after the other has several classes: its network pass is kept for all of them.
        if masks is None or masks.sample is not sample:
            masks = _QueryMasks(candidate, sample, refiners, threshold)
        truth = query_labels(sample.labels, class_id)
        # An empty foreground would count as a miss of the method, and is a mistake in the data.
        if not (truth == 1).any():
            raise DataError(
                f"the fold's list pairs {sample.name} with {candidate.text.vocabulary[class_id]!r},"
                " which its mask does not hold; restore the list or the masks"
            )
        predictions = masks.of(class_id, truth)
        yield Judged(sample.name, sample.image, truth, predictions, class_id, masks.confidence)


def query_labels(labels: Tensor, class_id: int) -> Tensor:
    """Labels (H, W) as an episode's truth: 1 for the class, 0 for everything else, and 255."""
    return torch.where(labels == IGNORE, IGNORE, (labels == class_id).long())


class _QueryMasks:
    """The masks of query classes in one image; what does not depend on the class is computed once.

    A query method is queried with the class alone. Any other method scores the whole vocabulary,
    and its mask is where the class wins.
    """

    def __init__(
        self,
        candidate: Candidate,
        sample: Sample,
        refiners: Sequence[Refiner | None],
        threshold: float | None,
    ) -> None:
        self.candidate, self.sample, self.threshold = candidate, sample, threshold
        self.refiners = refiners
        self.image = sample.image.unsqueeze(0).to(candidate.segmenter.device)
        self.segments = _segments(refiners, self.image, [sample.name])
        self.maps: list[Tensor] | None = None
        self.confidence: Callable[[], Tensor]
        if not isinstance(candidate.segmenter, QuerySegmenter):
            self.maps = self._label_maps()

    def _label_maps(self) -> list[Tensor]:
        """The label map (H, W) by every refiner; an oracle looks at the masks later."""
        maps = label_maps(
            self.candidate.segmenter,
            self.image,
            self.candidate.text,
            self.candidate.inference,
            seen=self.candidate.calibrated,
            threshold=self.threshold,
        )
        self.confidence = partial(_confidence, maps, 0)
        refined = []
        for refiner in self.refiners:
            # The released oracle compares masks with the truth, which is known in `of` alone.
            result = maps
            if isinstance(refiner, SegmentRefiner) and self.segments is not None:
                result = refiner.refine(maps, self.segments)
            refined.append(result.labels[0].cpu())
        return refined

    def of(self, class_id: int, truth: Tensor) -> list[Tensor]:
        """The mask (H, W) bool of a class by every refiner; `truth` is for the oracle alone."""
        # All classes competed for the pixels already: a mask is a look-up.
        if self.maps is not None:
            masks = [labels == class_id for labels in self.maps]
        else:
            candidate = self.candidate
            segmenter = candidate.segmenter
            scores = query_scores(
                segmenter, self.image, candidate.text, class_id, candidate.inference
            )[0]
            self.confidence = partial(segmenter.confidence, scores)
            mask = is_query(segmenter, scores, self.threshold)
            masks = [self._refined(refiner, mask).cpu() for refiner in self.refiners]
        return [
            self._chosen(refiner, mask, truth)
            for refiner, mask in zip(self.refiners, masks, strict=True)
        ]

    def _refined(self, refiner: Refiner | None, mask: Tensor) -> Tensor:
        if isinstance(refiner, SegmentRefiner) and self.segments is not None:
            return refiner.refine_mask(mask, self.segments[0])
        return mask

    def _chosen(self, refiner: Refiner | None, mask: Tensor, truth: Tensor) -> Tensor:
        if refiner is None or isinstance(refiner, SegmentRefiner) or self.segments is None:
            return mask
        return refiner.refine_mask(mask, self.segments[0].cpu(), truth)


def with_background(items: Iterable[Judged], index: int) -> Iterator[Judged]:
    """Items whose background is a class of the metric.

    It is labelled so, and predicted where no class was confident enough.
    """
    background = index_to_label(torch.tensor(index))
    for item in items:
        truth = torch.where(item.truth == BACKGROUND, background, item.truth)
        maps = [torch.where(labels == IGNORE, background, labels) for labels in item.predictions]
        yield replace(item, truth=truth, predictions=maps)


def _segments(
    refiners: Sequence[Refiner | None], images: Tensor, names: Sequence[str]
) -> Tensor | None:
    """The segments (B, S, H, W) of images, which all refiners share."""
    refiner = refiners[0]
    if refiner is None:
        return None
    return refiner.source(images, names)


def _refined(
    refiner: Refiner | None, maps: LabelMaps, segments: Tensor | None, labels: Tensor
) -> LabelMaps:
    """Label maps by a refiner; `labels`, the truth, is for the oracle alone."""
    if refiner is None or segments is None:
        return maps
    if isinstance(refiner, SegmentRefiner):
        return refiner.refine(maps, segments)
    # The background is no class that a segment could be chosen for.
    truth = torch.where(labels == BACKGROUND, IGNORE, labels).to(segments.device)
    return refiner.refine(maps, segments, truth)


# ---------------------------------------------------------------------- reading


class SquareImages(SegmentationSet):
    """Images and label maps resized to squares before anything else, as HSNet scores them.

    Args:
        data: Of any sizes.
        inference: `square`, and how images are resized; label maps by the nearest pixel.
    """

    def __init__(self, data: SegmentationSet, inference: InferenceSettings) -> None:
        self.data, self.inference = data, inference

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        resized = resize_input(sample.image[None] / 255, self.inference)[0]
        labels = sample.labels[None, None].float()
        labels = F.interpolate(labels, resized.shape[-2:], mode="nearest")[0, 0].long()
        return Sample((255 * resized).round().to(torch.uint8), labels, sample.name)


def batches_of_one_size(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Neighbouring samples of equal size in batches, in order."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == size or batch[0].labels.shape != sample.labels.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def read_samples(
    data: SegmentationSet, indices: Sequence[int], workers: int = 0
) -> Iterable[Sample]:
    """Samples in the order of their indices, read by so many processes."""
    return DataLoader(
        Subset(data, indices),
        batch_size=None,
        num_workers=workers,
        collate_fn=cast(Any, _unchanged),
    )


def _unchanged(sample: Sample) -> Sample:
    return sample


def read_episodes(
    data: SegmentationSet, episodes: Sequence[Episode], workers: int = 0
) -> Iterator[tuple[Sample, int]]:
    """Samples and query classes; an image of several neighbouring episodes is read once."""
    neighbours = [list(group) for _, group in groupby(episodes, key=lambda episode: episode.index)]
    samples = read_samples(data, [group[0].index for group in neighbours], workers)
    for sample, group in zip(samples, neighbours, strict=True):
        for episode in group:
            yield sample, episode.class_id


def present_classes(samples: Iterable[Sample]) -> Iterator[tuple[Sample, int]]:
    """Every class of every image as an episode."""
    for sample in samples:
        for class_id in torch.unique(sample.labels).tolist():
            if class_id not in (IGNORE, BACKGROUND):
                yield sample, class_id
