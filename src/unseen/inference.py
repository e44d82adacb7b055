"""From images to label maps: input size, sliding windows, the decision, a background threshold.

Images are resized for a method, and its score maps back to the image's size, only here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.errors import SettingError
from unseen.labels import IGNORE, index_to_label
from unseen.modules.pamr import PixelRefinement
from unseen.precision import computing
from unseen.segmenter import Segmenter, TextFeatures
from unseen.settings import InferenceSettings
from unseen.vocabulary import NO_CLASS

CANVAS_STEP = 8
"""Both sides of an image are resized to multiples of this before it is padded to the canvas (the
evaluation of BAM, Lang et al. 2022, which ESDA follows)."""
ROWS_AT_ONCE = 32
"""Score maps resized to image size at a time; limits the memory they take."""
MOST_VALUES = 2**25
"""Of these maps, on large images."""


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of a batch of images, and the scores they were decided by.

    Attributes:
        labels: (B, H, W) int64, the label of the best class (`unseen.labels`); 255 where its
            confidence is below the background threshold.
        confidence: (B, H, W) float32 in 0..1, of the best class.
        scores: (B, K, h, w) of the rows of the text, at the size `score_maps` returns.
        row_labels: (K,) int64, the labels of these rows; 255 for a word of the background.
        settings: The settings they were computed with.
    """

    labels: Tensor
    confidence: Tensor
    scores: Tensor
    row_labels: Tensor
    settings: InferenceSettings


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


def resize_output(maps: Tensor, size: tuple[int, int], settings: InferenceSettings) -> Tensor:
    """Maps (B, K, h, w) of resized images at the images' own size (H, W)."""
    if settings.canvas is not None:
        # The canvas covers a square of the longer side; its padding is cut off.
        longest = max(size)
        square = F.interpolate(maps, (longest, longest), mode="bilinear", align_corners=True)
        return square[..., : size[0], : size[1]]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


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
) -> Tensor:
    """Scores (B, K, h, w) of the rows of the text, at the size of the resized images.

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
    if seen is not None:
        seen = text.rows_of(seen)
    if settings.window is None:
        return _scores(segmenter, images, text, settings, seen)
    stride = settings.stride or settings.window
    if not 0 < stride <= settings.window:
        raise SettingError(
            f"windows of {settings.window} pixels with a stride of {stride} leave gaps; give a"
            f" stride of 1 to {settings.window}"
        )
    return _window_scores(segmenter, images, text, settings, seen)


def _scores(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    seen: Sequence[int] | None,
) -> Tensor:
    """Scores of whole images, or of windows, in one batch."""
    with computing(settings.precision, images.device):
        prediction = segmenter(images, text)
    size = (images.shape[-2], images.shape[-1])
    # Without anti-aliasing, score maps go from the method's size to the image's in one step. Two
    # steps are needed for maps of padded images, which are cropped at full size, and for maps with
    # aligned corners, which `resize_output` does not align.
    one_step = prediction.padded_size == size and not prediction.align_corners
    if one_step and not settings.antialias and settings.window is None:
        return segmenter.scores(prediction.logits.float(), seen)
    return segmenter.scores(prediction.resized(size), seen)


def _window_scores(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    seen: Sequence[int] | None,
) -> Tensor:
    """Scores at the size of the images, the mean over all windows that hold a pixel."""
    assert settings.window is not None
    height, width = images.shape[-2:]
    window, stride = settings.window, settings.stride or settings.window
    places = [
        (i, top, left)
        for i in range(len(images))
        for top in window_starts(height, window, stride)
        for left in window_starts(width, window, stride)
    ]
    total = images.new_zeros(len(images), len(text), height, width)
    count = images.new_zeros(height, width)
    # Windows of all images share batches, so that small images fill them too.
    for first in range(0, len(places), settings.window_batch):
        batch = places[first : first + settings.window_batch]
        crops = torch.stack(
            [images[i, :, top : top + window, left : left + window] for i, top, left in batch]
        )
        scores = _scores(segmenter, crops, text, settings, seen)
        for (i, top, left), score in zip(batch, scores, strict=True):
            rows, columns = slice(top, top + window), slice(left, left + window)
            total[i, :, rows, columns] += score
            # Every image has the same windows: they are counted once.
            if i == 0:
                count[rows, columns] += 1
    return total.div_(count)


# --------------------------------------------------------------------- decision


@torch.no_grad()
def label_maps(  # noqa: PLR0913 - keyword-only
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    *,
    seen: Sequence[int] | None = None,
    threshold: float | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
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
        rows_at_once: Score maps resized to image size at a time.
    """
    size = (images.shape[-2], images.shape[-1])
    scores = score_maps(segmenter, images, text, settings, seen)
    refine = _refinement(images, settings)
    # The best class of a pixel may be another than that of the score maps in these cases.
    changed = settings.refinement == "pamr" or settings.area_threshold is not None
    at_image = changed or settings.confidence_at == "image"
    best = best_rows(scores, size, settings, rows_at_once, refine, with_total=at_image)
    if settings.area_threshold is not None:
        best = _without_small(best, scores, text, settings, rows_at_once, refine)
    if best.total is not None:
        confidence = segmenter.best_confidence(best.score, best.total)
    else:
        # A confidence map of every class at image size would take too much memory; the best one's
        # is chosen at the size of the score maps.
        confidence = segmenter.confidence(scores).amax(dim=1, keepdim=True)
        confidence = resize_output(confidence, size, settings)[:, 0]
    row_labels = labels_of_rows(text, scores.device)
    labels = row_labels[best.row]
    if threshold is not None:
        labels = torch.where(confidence < threshold, IGNORE, labels)
    return LabelMaps(labels, confidence, scores, row_labels, settings)


@dataclass(frozen=True)
class Best:
    """The best rows of the text at every pixel.

    Attributes:
        row: (B, H, W) int32; of rows with equal scores the first.
        score: (B, H, W), its score.
        total: (B, H, W), the logarithm of the sum of the exponentials of all rows' scores; None
            where nobody asked for it.
    """

    row: Tensor
    score: Tensor
    total: Tensor | None = None


def best_rows(
    scores: Tensor,
    size: tuple[int, int],
    settings: InferenceSettings,
    rows_at_once: int = ROWS_AT_ONCE,
    refine: PixelRefinement | None = None,
    *,
    with_total: bool = False,
) -> Best:
    """The row with the highest score at every pixel.

    Args:
        scores: (B, K, h, w), as `score_maps` returns them.
        size: Height and width of the images.
        settings: The settings of the scores.
        rows_at_once: Score maps resized to image size at a time.
        refine: Changes maps at image size before they are compared.
        with_total: Whether to sum up all rows (`Best.total`).
    """
    best: Best | None = None
    rows_at_once = max(1, min(rows_at_once, MOST_VALUES // (size[0] * size[1])))
    # All maps at image size would take gigabytes with a large vocabulary.
    for first in range(0, scores.shape[1], rows_at_once):
        part = resize_output(scores[:, first : first + rows_at_once], size, settings)
        if refine is not None:
            part = refine(part)
        top, index = part.max(dim=1)
        row = index.to(torch.int32).add_(first)
        total = part.logsumexp(dim=1) if with_total else None
        del part, index  # as large as the image several times over
        if best is None:
            best = Best(row, top, total)
            continue
        if best.total is not None and total is not None:
            total = torch.logaddexp(best.total, total)
        # Only a higher score wins, so that of equal rows the first stays.
        row = torch.where(top > best.score, row, best.row)
        best = Best(row, torch.maximum(top, best.score), total)
    assert best is not None  # a vocabulary has at least one class
    return best


def _without_small(
    best: Best,
    scores: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    rows_at_once: int,
    refine: PixelRefinement | None,
) -> Best:
    """The decision again, without the classes that had too few pixels in an image (SCLIP).

    A class stays where it has more than the threshold's share of the pixels that have a class. The
    total stays that of all rows.
    """
    assert settings.area_threshold is not None
    classes = _classes_of_rows(text, scores.device)
    size = (best.row.shape[-2], best.row.shape[-1])
    rows, values = best.row.clone(), best.score.clone()
    for i in range(len(scores)):
        given = classes[best.row[i]]
        counts = torch.bincount(given[given != NO_CLASS], minlength=len(text.vocabulary))
        large = counts > settings.area_threshold * counts.sum()
        # The words of the background always stay.
        kept = (classes == NO_CLASS) | large[classes.clamp(min=0)]
        if kept.all() or not kept.any():
            continue
        one = None if refine is None else refine.image(i)
        again = best_rows(scores[i : i + 1, kept], size, settings, rows_at_once, one)
        rows[i], values[i] = kept.nonzero()[:, 0][again.row[0]], again.score[0]
    return Best(rows, values, best.total)


def _refinement(images: Tensor, settings: InferenceSettings) -> PixelRefinement | None:
    """What refines maps by the images' own edges, if the settings ask for it."""
    if settings.refinement != "pamr":
        return None
    scaled = images / 255 if images.dtype == torch.uint8 else images
    return PixelRefinement.of_images(scaled, settings.pamr_dilations, settings.pamr_steps)


# ---------------------------------------------------------------- rows and classes


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
        threshold: The mask is where the confidence of the class is above this, in 0..1. None is
            where its logit is above the background's, the same as 0.5.
    """
    size = (images.shape[-2], images.shape[-1])
    scores = score_maps(segmenter, images, text.select(text.rows_of([class_index])), settings)
    scores = resize_output(scores, size, settings)
    refine = _refinement(images, settings)
    if refine is not None:
        scores = refine(scores)
    scores = scores.amax(dim=1, keepdim=True)  # of its synonyms
    # The score of a query class is its logit minus the background's.
    if threshold is None:
        return scores[:, 0] > 0
    return segmenter.confidence(scores)[:, 0] > threshold
