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
from unseen.segmenter import Segmenter, TextFeatures
from unseen.settings import InferenceSettings

CANVAS_STEP = 8
"""Both sides of an image are resized to multiples of this before it is padded to the canvas (the
evaluation of BAM, Lang et al. 2022, which ESDA follows)."""
CLASSES_AT_ONCE = 32
"""Score maps resized to image size at a time; limits the memory they take."""


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of a batch of images, and the scores they were decided by.

    Attributes:
        labels: (B, H, W) int64, the label of the best class (`unseen.labels`); 255 where its
            confidence is below the background threshold.
        confidence: (B, H, W) float32 in 0..1, of the best class, computed at the size of the score
            maps and then resized.
        scores: (B, K, h, w), at the size `score_maps` returns.
        settings: The settings they were computed with.
    """

    labels: Tensor
    confidence: Tensor
    scores: Tensor
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
    """Scores (B, K, h, w) at the size of the resized images.

    Without anti-aliasing they are as small as the method computes them. Where windows overlap they
    are the mean over the windows.

    Args:
        segmenter: Any method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: Columns of the classes trained on, if the others were not (`Segmenter.scores`).

    Raises:
        SettingError: A stride that leaves gaps between windows.
    """
    if images.dtype == torch.uint8:
        images = images / 255
    images = resize_input(images, settings)
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
    prediction = segmenter(images, text)
    size = (images.shape[-2], images.shape[-1])
    # Without anti-aliasing, score maps go from the method's size to the image's in one step. Two
    # steps are needed for maps of padded images, which are cropped at full size, and for maps with
    # aligned corners, which `resize_output` does not align.
    one_step = prediction.padded_size == size and not prediction.align_corners
    if one_step and not settings.antialias:
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
    classes_at_once: int = CLASSES_AT_ONCE,
) -> LabelMaps:
    """The best class of every pixel, at the images' own size.

    Args:
        segmenter: Any method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: Columns of the classes trained on, if the others were not.
        threshold: Pixels whose best class has a lower confidence are background and become 255;
            None gives every pixel a class.
        classes_at_once: Score maps resized to image size at a time.
    """
    size = (images.shape[-2], images.shape[-1])
    scores = score_maps(segmenter, images, text, settings, seen)
    # A confidence map of every class at image size would take too much memory; the best one's is
    # chosen at the size of the score maps.
    confidence = segmenter.confidence(scores).amax(dim=1, keepdim=True)
    confidence = resize_output(confidence, size, settings)[:, 0]
    labels = best_classes(scores, size, settings, classes_at_once)
    if threshold is not None:
        labels = torch.where(confidence < threshold, IGNORE, labels)
    return LabelMaps(labels, confidence, scores, settings)


def best_classes(
    scores: Tensor,
    size: tuple[int, int],
    settings: InferenceSettings,
    classes_at_once: int = CLASSES_AT_ONCE,
) -> Tensor:
    """The label of the class with the highest score at every pixel.

    Args:
        scores: (B, K, h, w), as `score_maps` returns them.
        size: Height and width of the images.
        settings: The settings of the scores.
        classes_at_once: Score maps resized to image size at a time.

    Returns:
        (B, H, W) int64; of classes with equal scores the first.
    """
    best: Tensor | None = None
    indices = torch.zeros(len(scores), *size, dtype=torch.int64, device=scores.device)
    # All maps at image size would take gigabytes with a large vocabulary.
    for first in range(0, scores.shape[1], classes_at_once):
        part = resize_output(scores[:, first : first + classes_at_once], size, settings)
        top, index = part.max(dim=1)
        if best is None:
            best, indices = top, index
        else:
            # Only a higher score wins, so that of equal classes the first stays.
            indices = torch.where(top > best, index + first, indices)
            best = torch.maximum(top, best)
    return index_to_label(indices)


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
    scores = score_maps(segmenter, images, text.select([class_index]), settings)
    scores = resize_output(scores, size, settings)[:, :1]
    # The score of a query class is its logit minus the background's.
    if threshold is None:
        return scores[:, 0] > 0
    return segmenter.confidence(scores)[:, 0] > threshold
