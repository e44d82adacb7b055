"""From images to label maps: input size, sliding windows, the decision, a background threshold.

Images are resized for a method, and its score maps back to the image's size, only here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.decision import Best, best_rows
from unseen.errors import SettingError
from unseen.labels import IGNORE, index_to_label
from unseen.modules.pamr import PixelRefinement
from unseen.precision import computing
from unseen.score_maps import Place, Resize, ScoreMaps
from unseen.segmenter import Segmenter, TextFeatures
from unseen.settings import InferenceSettings
from unseen.vocabulary import NO_CLASS

CANVAS_STEP = 8
"""Both sides of an image are resized to multiples of this before it is padded to the canvas (the
evaluation of BAM, Lang et al. 2022, which ESDA follows)."""


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of a batch of images, and the scores they were decided by.

    Attributes:
        labels: (B, H, W) int64, the label of the best class (`unseen.labels`); 255 where its
            confidence is below the background threshold.
        scores: Of the rows of the text.
        row_labels: (K,) int64, the labels of these rows; 255 for a word of the background.
        settings: The settings they were computed with.
        measure: Computes the confidence.
    """

    labels: Tensor
    scores: ScoreMaps
    row_labels: Tensor
    settings: InferenceSettings
    measure: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def confidence(self) -> Tensor:
        """Of the best class, (B, H, W) float32 in 0..1; computed when it is asked for."""
        return self.measure()


# ------------------------------------------------------------------------- size


def resize_input(images: Tensor, settings: InferenceSettings) -> Tensor:
    """Images (B, 3, H, W) in 0..1 at the size the settings ask for, by bilinear interpolation."""
    if settings.canvas is not None:
        return _resize_into_canvas(images, settings.canvas)
    h, w = images.shape[-2:]
    size = (h, w)
    if settings.square is not None:
        size = (settings.square, settings.square)
    elif settings.short_side is not None:
        short = min(h, w)
        # Half up, as MMCV rounds: Python's `round` takes halves to the even neighbour.
        size = (
            int(h * settings.short_side / short + 0.5),
            int(w * settings.short_side / short + 0.5),
        )
    if size == (h, w):
        return images
    if not settings.antialias:
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    resized = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    # Rounding inside the smoothing filter may leave the range of the input.
    return resized.clamp(0, 1)


def _resize_into_canvas(images: Tensor, side: int) -> Tensor:
    """Images with their longer side near `side`, padded with black to a square."""
    scale = side / max(images.shape[-2:])
    # The small term keeps an exact multiple from being rounded down a whole step.
    height, width = (
        max(CANVAS_STEP, int(length * scale + 1e-9) // CANVAS_STEP * CANVAS_STEP)
        for length in images.shape[-2:]
    )
    resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    return F.pad(resized, (0, side - width, 0, side - height))


def output_resize(scores: ScoreMaps, size: tuple[int, int], settings: InferenceSettings) -> Resize:
    """How score maps get the images' own size (H, W)."""
    if settings.canvas is not None:
        # The canvas covers a square of the longer side; its padding is cut off.
        square = (max(size), max(size))
        return Resize.between(scores.size, square, scores.device, align_corners=True).cut(size)
    return Resize.between(scores.size, size, scores.device)


# ----------------------------------------------------------------------- scores


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every `stride` pixels, the last one at the border."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(0, min(i * stride, length - window)) for i in range(count)]


@torch.no_grad()
def score_maps(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    seen: Sequence[int] | None = None,
) -> ScoreMaps:
    """Scores of the rows of the text, at the size of the resized images.

    Without anti-aliasing they are as small as the method computes them. Where windows overlap they
    are the mean over the windows.

    Args:
        segmenter: Any method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: The classes trained on, if the others were not (`Segmenter.scores`).

    Raises:
        SettingError: A stride that leaves gaps between windows.
    """
    if images.dtype == torch.uint8:
        # Channel by channel, as floating point takes four times the memory.
        channels = [resize_input(images[:, c : c + 1] / 255, settings) for c in range(3)]
        images = torch.cat(channels, dim=1)
    else:
        images = resize_input(images, settings)
    size = (images.shape[-2], images.shape[-1])
    if settings.window is None:
        place = _whole_place(segmenter, images, text, settings)
        places, size = [place], place.resize.size
    else:
        places = _window_places(segmenter, images, text, settings)
    reduced = None
    # With every class seen, none is at an advantage.
    if seen is not None and len(text.rows_of(seen)) < len(text):
        reduced = tuple(text.rows_of(seen))
    return ScoreMaps(tuple(places), size, segmenter.scores, reduced, segmenter.classwise)


def _whole_place(
    segmenter: Segmenter, images: Tensor, text: TextFeatures, settings: InferenceSettings
) -> Place:
    """What the method returns for whole images."""
    with computing(settings.precision, images.device):
        prediction = segmenter(images, text)
    size = (images.shape[-2], images.shape[-1])
    # Without anti-aliasing, score maps go from the method's size to the image's in one step. Two
    # steps are needed for maps of padded images, which are cropped at full size, and for maps with
    # aligned corners, which `output_resize` does not align.
    one_step = prediction.padded_size == size and not prediction.align_corners
    if one_step and not settings.antialias:
        return Place.unresized(prediction)
    return Place.of(prediction, size)


def _window_places(
    segmenter: Segmenter, images: Tensor, text: TextFeatures, settings: InferenceSettings
) -> list[Place]:
    """What the method returns for every window, of all images."""
    assert settings.window is not None
    window, stride = settings.window, settings.stride or settings.window
    if not 0 < stride <= window:
        raise SettingError(
            f"windows of {window} pixels with a stride of {stride} leave gaps; give a stride of 1"
            f" to {window}"
        )
    corners = [
        (top, left)
        for top in window_starts(images.shape[-2], window, stride)
        for left in window_starts(images.shape[-1], window, stride)
    ]
    crops = [
        image[:, top : top + window, left : left + window]
        for image in images
        for top, left in corners
    ]
    # Windows of all images share batches, so that small images fill them too.
    logits = []
    for first in range(0, len(crops), settings.window_batch):
        with computing(settings.precision, images.device):
            prediction = segmenter(torch.stack(crops[first : first + settings.window_batch]), text)
        logits.append(prediction.logits.float())
    size = (crops[0].shape[-2], crops[0].shape[-1])
    # The windows of an image lie side by side: those of one corner are that many apart.
    every = torch.cat(logits)
    return [
        Place.of(replace(prediction, logits=every[i :: len(corners)]), size, corner)
        for i, corner in enumerate(corners)
    ]


# --------------------------------------------------------------------- decision


@torch.no_grad()
def label_maps(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    *,
    seen: Sequence[int] | None = None,
    threshold: float | None = None,
) -> LabelMaps:
    """The best class of every pixel, at the images' own size.

    Args:
        segmenter: Any method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: The classes trained on, if the others were not.
        threshold: Pixels whose best class has a lower confidence are background and become 255;
            None gives every pixel a class.
    """
    size = (images.shape[-2], images.shape[-1])
    scores = score_maps(segmenter, images, text, settings, seen)
    resize = output_resize(scores, size, settings)
    refine = _refinement(images, settings)
    compares = segmenter.confidence_compares
    # The best class of a pixel may be another than that of the score maps in these cases.
    changed = settings.refinement == "pamr" or settings.area_threshold is not None
    at_image = changed or settings.confidence_at == "image" or (resize.is_none and not compares)
    best = best_rows(scores, resize, refine=refine, with_total=at_image and compares)
    if settings.area_threshold is not None:
        best = _without_small(best, scores, resize, text, settings.area_threshold, refine)
    row_labels = labels_of_rows(text, scores.device)
    measure = partial(_confidence_at_image, segmenter, best)
    if not at_image:
        measure = partial(_confidence_at_scores, segmenter, scores, resize)
    maps = LabelMaps(row_labels[best.row], scores, row_labels, settings, measure)
    if threshold is not None:
        confidence = maps.confidence
        labels = torch.where(confidence < threshold, IGNORE, maps.labels)
        maps = replace(maps, labels=labels, measure=lambda: confidence)
    return maps


def _confidence_at_image(segmenter: Segmenter, best: Best) -> Tensor:
    """The confidence (B, H, W) of the best classes at image size."""
    return segmenter.confidence(best.score, best.total)


@torch.no_grad()
def _confidence_at_scores(segmenter: Segmenter, scores: ScoreMaps, resize: Resize) -> Tensor:
    """That of the best classes at the size of the score maps, resized to the image's (B, H, W)."""
    unresized = Resize.none(scores.size)
    best = best_rows(scores, unresized, with_total=segmenter.confidence_compares)
    confidence = segmenter.confidence(best.score, best.total)
    return resize.whole(confidence.unsqueeze(1))[:, 0]


def _without_small(
    best: Best,
    scores: ScoreMaps,
    resize: Resize,
    text: TextFeatures,
    threshold: float,
    refine: PixelRefinement | None,
) -> Best:
    """The decision again, without the classes that had too few pixels in an image (SCLIP).

    A class stays where it has more than the threshold's share of the pixels that have a class. The
    total stays that of all rows.
    """
    classes = _classes_of_rows(text, scores.device)
    rows, values = best.row.clone(), best.score.clone()
    for i in range(scores.batch):
        given = classes[best.row[i]]
        counts = torch.bincount(given[given != NO_CLASS], minlength=len(text.vocabulary))
        large = counts > threshold * counts.sum()
        # The words of the background always stay.
        kept = (classes == NO_CLASS) | large[classes.clamp(min=0)]
        if kept.all() or not kept.any():
            continue
        one = None if refine is None else refine.image(i)
        few = kept.nonzero()[:, 0].tolist()
        again = best_rows(scores.image(i), resize, few, refine=one)
        rows[i], values[i] = again.row[0], again.score[0]
    return Best(rows, values, best.total)


def _refinement(images: Tensor, settings: InferenceSettings) -> PixelRefinement | None:
    """What refines maps by the images' own edges, if the settings ask for it."""
    if settings.refinement != "pamr":
        return None
    scaled = images / 255 if images.dtype == torch.uint8 else images
    return PixelRefinement.of_images(scaled, settings.pamr_dilations, settings.pamr_steps)


# ---------------------------------------------------------------- rows and classes


@torch.no_grad()
def uncertainty(
    segmenter: Segmenter, scores: ScoreMaps, text: TextFeatures
) -> tuple[Tensor, Tensor]:
    """How sure the decisions about images are, at the size that the method computes its maps at.

    Scores become shares of one over the classes, by their softmax where the method's confidence is
    one, and else by their sum; words of the background together are one class.

    Args:
        segmenter: The method.
        scores: Of the rows of the text.
        text: The encoded vocabulary.

    Returns:
        Means over the images (B,): the margin between the best class and the next, 0..1, and the
        entropy over the classes, 0..1 of its highest value.
    """
    classes = _classes_of_rows(text, scores.device)
    # What is no class comes behind all classes.
    classes = torch.where(classes == NO_CLASS, len(text.vocabulary), classes)
    count = int(classes.max()) + 1
    margins, entropies = [], []
    for place in scores.places:
        values = scores.score(place.logits, scores.seen).flatten(2)
        index = classes.view(1, -1, 1).expand_as(values)
        values = values.new_full((len(values), count, values.shape[2]), -torch.inf).scatter_reduce(
            1, index, values, "amax"
        )
        if segmenter.confidence_compares:
            shares = values.softmax(dim=1)
        else:
            shares = values.clamp(min=0)
            shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)
        best = shares.topk(min(2, count), dim=1).values
        margins.append(best[:, 0] - (best[:, 1] if count > 1 else 0))
        entropies.append(torch.special.entr(shares).sum(dim=1) / math.log(max(count, 2)))
    margin, entropy = (torch.cat(parts, dim=1).mean(dim=1) for parts in (margins, entropies))
    return margin, entropy


def _classes_of_rows(text: TextFeatures, device: torch.device) -> Tensor:
    """The index of the class of every row, or `NO_CLASS`."""
    classes = range(len(text)) if text.classes is None else text.classes
    return torch.tensor(classes, device=device)


def labels_of_rows(text: TextFeatures, device: torch.device) -> Tensor:
    """The label (K,) int64 of the class of every row; 255 for a word of the background."""
    classes = _classes_of_rows(text, device)
    return torch.where(classes == NO_CLASS, IGNORE, index_to_label(classes))


@torch.no_grad()
def query_mask(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    class_index: int,
    settings: InferenceSettings,
    threshold: float | None = None,
) -> Tensor:
    """The masks (B, H, W) bool of one query class, by a method that takes one at a time.

    Args:
        segmenter: Any such method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        class_index: Of the query class, in the vocabulary.
        settings: Size and windows.
        threshold: As of `is_query`.
    """
    scores = query_scores(segmenter, images, text, class_index, settings)
    return is_query(segmenter, scores, threshold)


def is_query(segmenter: Segmenter, scores: Tensor, threshold: float | None) -> Tensor:
    """Where a query class is, by its scores.

    Args:
        segmenter: What gave the scores.
        scores: Of any shape.
        threshold: The mask is where the confidence of the class is above this, in 0..1. None is
            where its logit is above the background's, the same as 0.5.
    """
    return scores > 0 if threshold is None else segmenter.confidence(scores) > threshold


def query_scores(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    class_index: int,
    settings: InferenceSettings,
) -> Tensor:
    """The scores (B, H, W) of one query class: its logit minus the background's.

    Arguments are those of `query_mask`.
    """
    size = (images.shape[-2], images.shape[-1])
    scores = score_maps(segmenter, images, text.select(text.rows_of([class_index])), settings)
    # The best of its synonyms.
    resize = output_resize(scores, size, settings)
    return best_rows(scores, resize, refine=_refinement(images, settings)).score
