"""From pictures to label maps: sliding windows, calibration, background. Logits meet picture size here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.errors import SettingError
from unseen.labels import IGNORE
from unseen.segmenter import Prediction, Segmenter, TextFeatures
from unseen.settings import InferenceSettings

CANVAS_STEP = 8
"""Both sides of a picture on the canvas are made a multiple of this (BAM's evaluation, which ESDA follows)."""


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


def fitted(images: Tensor, settings: InferenceSettings) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 at the size the settings ask for: bilinear, with anti-aliasing except on the canvas and where it is left out."""
    h, w = images.shape[-2:]
    if settings.canvas is not None:
        side = settings.canvas
        scale = side / max(h, w)
        inside = [max(CANVAS_STEP, int(n * scale + 1e-9) // CANVAS_STEP * CANVAS_STEP) for n in (h, w)]
        resized = F.interpolate(images, inside, mode="bilinear", align_corners=False)
        return F.pad(resized, (0, side - inside[1], 0, side - inside[0]))
    if settings.square is not None:
        size = (settings.square, settings.square)
    elif settings.short_side is not None:
        size = (int(h * settings.short_side / min(h, w) + 0.5), int(w * settings.short_side / min(h, w) + 0.5))
    else:
        size = (h, w)
    if size == (h, w):
        return images
    if settings.plain:
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def restored(maps: Tensor, size: tuple[int, int], settings: InferenceSettings) -> Tensor:
    """Maps (B, k, h, w) of fitted pictures at the pictures' own size (H, W)."""
    if settings.canvas is not None:
        longest = max(size)
        return F.interpolate(maps, (longest, longest), mode="bilinear", align_corners=True)[..., : size[0], : size[1]]
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def ask(segmenter: Segmenter, images: Tensor, text: TextFeatures, *, words_at_once: int = 16) -> Prediction:
    """One map a word of pictures (B, 3, H, W), whatever the method's kind: logits (B, K, h, w).

    A binary method is asked word by word, each picture by itself; a word's map is the difference of its two logits.
    """
    if segmenter.kind == "multiclass":
        prediction: Prediction = segmenter(images, text)
        return prediction
    pictures = []
    for image in images:
        starts = range(0, len(text), words_at_once)
        parts = [segmenter(image.unsqueeze(0), text.select(range(start, min(start + words_at_once, len(text))))) for start in starts]
        pictures.append(torch.cat([part.logits[:, 1] - part.logits[:, 0] for part in parts]))
    return Prediction(torch.stack(pictures), parts[0].covers, align_corners=parts[0].align_corners)


@torch.no_grad()
def score_maps(segmenter: Segmenter, images: Tensor, text: TextFeatures, settings: InferenceSettings, seen: Sequence[int] | None = None) -> Tensor:
    """Scores (B, K, h, w) at the size the pictures are resized to, "plain" ones as small as the method gives them; where windows overlap, their mean.

    Args:
        segmenter: Any method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: Columns of the words trained on, where the others were not (`Segmenter.scores`).
    """
    images = fitted(images / 255 if images.dtype == torch.uint8 else images, settings)
    size = (images.shape[-2], images.shape[-1])
    if settings.window is None:
        prediction = ask(segmenter, images, text)
        whole = settings.plain and prediction.covers == size  # a filled-up rim would have to be cut off at the larger size
        return segmenter.scores(prediction.logits.float() if whole else prediction.resized(size), seen)
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
        scores = segmenter.scores(ask(segmenter, crops, text).resized(shape), seen)
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
        segmenter: Any method, in eval mode.
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
        part = restored(scores[:, first : first + words_at_once], size, settings)
        top, index = part.max(dim=1)
        if best is None:
            best, labels = top, index
        else:
            labels = torch.where(top > best, index + first, labels)
            best = torch.maximum(top, best)
    confidence = restored(segmenter.confidence(scores).amax(dim=1, keepdim=True), size, settings)[:, 0]
    if threshold is not None:
        labels = torch.where(confidence < threshold, IGNORE, labels)
    return LabelMaps(labels, confidence)


@torch.no_grad()
def foreground(segmenter: Segmenter, images: Tensor, text: TextFeatures, word: int, settings: InferenceSettings) -> Tensor:
    """Where a binary method says that pictures show one word, (B, H, W) bool: where its logit for the word is the higher one."""
    scores = score_maps(segmenter, images, text.select([word]), settings)
    return restored(scores, (images.shape[-2], images.shape[-1]), settings)[:, 0] > 0
