"""From pictures to label maps: sliding windows, calibration, background. Logits meet picture size here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.errors import SettingError
from unseen.labels import IGNORE
from unseen.segmenter import Segmenter, TextFeatures
from unseen.settings import InferenceSettings


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of a batch of pictures.

    Attributes:
        labels: (B, H, W) int64, the index of the best word; 255 where the background policy says that no word fits.
        confidence: (B, H, W) float32 in 0..1, of the best word, computed at the size of the score maps and then resized.
    """

    labels: Tensor
    confidence: Tensor


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every `stride` pixels, the last one moved back to the border."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(0, min(i * stride, length - window)) for i in range(count)]


def resize_short_side(images: Tensor, short_side: int | None) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1, resized bilinearly with anti-aliasing so that the shorter side has `short_side` pixels."""
    h, w = images.shape[-2:]
    if short_side is None or min(h, w) == short_side:
        return images
    scale = short_side / min(h, w)
    size = (int(h * scale + 0.5), int(w * scale + 0.5))
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


@torch.no_grad()
def score_maps(segmenter: Segmenter, images: Tensor, text: TextFeatures, settings: InferenceSettings, seen: Sequence[int] | None = None) -> Tensor:
    """Scores (B, K, h, w) at the size the pictures are resized to; where windows overlap, their mean.

    Args:
        segmenter: Any multiclass method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: Columns of the words trained on, where the others were not (`Segmenter.scores`).
    """
    images = images / 255 if images.dtype == torch.uint8 else images
    images = resize_short_side(images, settings.short_side)
    size = (images.shape[-2], images.shape[-1])
    if settings.window is None:
        return segmenter.scores(segmenter(images, text).resized(size), seen)
    window, stride = settings.window, settings.stride or settings.window
    if not 0 < stride <= window:
        raise SettingError(f"windows of {window} pixels with a stride of {stride} leave gaps; give a stride of 1 to {window}")
    boxes = [(i, top, left) for i in range(len(images)) for top in window_starts(size[0], window, stride) for left in window_starts(size[1], window, stride)]
    total = images.new_zeros(len(images), len(text), *size)
    count = images.new_zeros(size)
    shape = (min(window, size[0]), min(window, size[1]))
    for first in range(0, len(boxes), settings.window_batch):
        part = boxes[first : first + settings.window_batch]
        crops = torch.stack([images[i, :, top : top + window, left : left + window] for i, top, left in part])
        scores = segmenter.scores(segmenter(crops, text).resized(shape), seen)
        for (i, top, left), score in zip(part, scores, strict=True):
            total[i, :, top : top + shape[0], left : left + shape[1]] += score
            count[top : top + shape[0], left : left + shape[1]] += i == 0
    return total.div_(count)


@torch.no_grad()
def label_maps(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    *,
    seen: Sequence[int] | None = None,
    threshold: float | None = None,
    words_at_once: int = 32,
) -> LabelMaps:
    """The best word of every pixel, at the pictures' own size.

    Args:
        segmenter: Any multiclass method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: Columns of the words trained on, where the others were not.
        threshold: Background policy: pixels whose best word is less confident become 255; None gives every pixel a word.
        words_at_once: Maps brought to picture size at a time; bounds what is held at picture size.
    """
    size = (images.shape[-2], images.shape[-1])
    scores = score_maps(segmenter, images, text, settings, seen)
    best: Tensor | None = None
    labels = torch.zeros(len(images), *size, dtype=torch.int64, device=scores.device)
    for first in range(0, scores.shape[1], words_at_once):
        part = scores[:, first : first + words_at_once]
        if part.shape[-2:] != size:
            part = F.interpolate(part, size, mode="bilinear", align_corners=False)
        top, index = part.max(dim=1)
        if best is None:
            best, labels = top, index
        else:
            labels = torch.where(top > best, index + first, labels)
            best = torch.maximum(top, best)
    confidence = segmenter.confidence(scores).amax(dim=1, keepdim=True)
    confidence = F.interpolate(confidence, size, mode="bilinear", align_corners=False)[:, 0] if confidence.shape[-2:] != size else confidence[:, 0]
    if threshold is not None:
        labels = torch.where(confidence < threshold, IGNORE, labels)
    return LabelMaps(labels, confidence)
