"""From images to label maps: sliding windows, calibration, background. Logits meet image size
here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.vit import clip_keys, load_keys
from unseen.errors import DataError, SettingError
from unseen.labels import IGNORE, index_to_label, label_to_index
from unseen.segmenter import ClipSegmenter, Prediction, Segmenter, TextFeatures
from unseen.segments.source import SegmentSource
from unseen.segments.spectral import SpectralSettings
from unseen.settings import InferenceSettings

CANVAS_STEP = 8
"""Both sides of an image on the canvas are made a multiple of this (BAM's evaluation, which ESDA
follows)."""


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of a batch of images.

    Attributes:
        labels: (B, H, W) int64, the label of the best word (its place in the list,
            `unseen.labels`); 255 where the background policy says that no word fits.
        confidence: (B, H, W) float32 in 0..1, of the best word, computed at the size of the score
            maps and then resized.
    """

    labels: Tensor
    confidence: Tensor


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every `stride` pixels, the last one moved back to the
    border.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(0, min(i * stride, length - window)) for i in range(count)]


def fitted(images: Tensor, settings: InferenceSettings) -> Tensor:
    """Images (B, 3, H, W) in 0..1 at the size the settings ask for: bilinear, with anti-aliasing
    except on the canvas and where it is left out.
    """
    h, w = images.shape[-2:]
    if settings.canvas is not None:
        side = settings.canvas
        scale = side / max(h, w)
        inside = [
            max(CANVAS_STEP, int(n * scale + 1e-9) // CANVAS_STEP * CANVAS_STEP) for n in (h, w)
        ]
        resized = F.interpolate(images, inside, mode="bilinear", align_corners=False)
        return F.pad(resized, (0, side - inside[1], 0, side - inside[0]))
    if settings.square is not None:
        size = (settings.square, settings.square)
    elif settings.short_side is not None:
        size = (
            int(h * settings.short_side / min(h, w) + 0.5),
            int(w * settings.short_side / min(h, w) + 0.5),
        )
    else:
        size = (h, w)
    if size == (h, w):
        return images
    if not settings.antialias:
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(
        0, 1
    )


def restored(maps: Tensor, size: tuple[int, int], settings: InferenceSettings) -> Tensor:
    """Maps (B, k, h, w) of fitted images at the images' own size (H, W)."""
    if settings.canvas is not None:
        longest = max(size)
        return F.interpolate(maps, (longest, longest), mode="bilinear", align_corners=True)[
            ..., : size[0], : size[1]
        ]
    return (
        maps
        if maps.shape[-2:] == size
        else F.interpolate(maps, size, mode="bilinear", align_corners=False)
    )


def ask(segmenter: Segmenter, images: Tensor, text: TextFeatures) -> Prediction:
    """One map a word of images (B, 3, H, W), whatever the method's kind: logits (B, K, h, w).

    A binary method is asked word by word, each image by itself; a word's map is the difference of
    its two logits.
    """
    if segmenter.kind == "multiclass":
        prediction: Prediction = segmenter(images, text)
        return prediction
    pictures = []
    for image in images:
        step = segmenter.words_at_once
        parts = [
            segmenter(image.unsqueeze(0), text.select(range(start, min(start + step, len(text)))))
            for start in range(0, len(text), step)
        ]
        pictures.append(torch.cat([part.logits[:, 1] - part.logits[:, 0] for part in parts]))
    return Prediction(torch.stack(pictures), parts[0].covers, align_corners=parts[0].align_corners)


@torch.no_grad()
def score_maps(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    settings: InferenceSettings,
    seen: Sequence[int] | None = None,
) -> Tensor:
    """Scores (B, K, h, w) at the size the images are resized to, "plain" ones as small as the
    method gives them; where windows overlap, their mean.

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
        # a filled-up rim would have to be cut off at the larger size, and `restored` aligns no
        # corners
        whole = (
            not settings.antialias and prediction.covers == size and not prediction.align_corners
        )
        return segmenter.scores(
            prediction.logits.float() if whole else prediction.resized(size), seen
        )
    window, stride = settings.window, settings.stride or settings.window
    if not 0 < stride <= window:
        raise SettingError(
            f"windows of {window} pixels with a stride of {stride} leave gaps; give a stride of 1"
            f" to {window}"
        )
    boxes = [
        (i, top, left)
        for i in range(len(images))
        for top in window_starts(size[0], window, stride)
        for left in window_starts(size[1], window, stride)
    ]
    total = images.new_zeros(len(images), len(text), *size)
    count = images.new_zeros(size)
    shape = (min(window, size[0]), min(window, size[1]))
    for first in range(0, len(boxes), settings.window_batch):
        part = boxes[first : first + settings.window_batch]
        crops = torch.stack(
            [images[i, :, top : top + window, left : left + window] for i, top, left in part]
        )
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
    claims: Claims | None = None,
) -> LabelMaps:
    """The best word of every pixel, at the images' own size.

    Args:
        segmenter: Any method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        settings: Size and windows.
        seen: Columns of the words trained on, where the others were not.
        threshold: Background policy: pixels whose best word is less confident become 255; None
            gives every pixel a word.
        words_at_once: Maps brought to image size at a time; bounds what is held at image size.
        claims: Masks to put in place of the method's own (`agreement`).
    """
    size, scores = (
        (images.shape[-2], images.shape[-1]),
        score_maps(segmenter, images, text, settings, seen),
    )
    confidence = restored(segmenter.confidence(scores).amax(dim=1, keepdim=True), size, settings)[
        :, 0
    ]
    labels = best_words(scores, size, settings, words_at_once)
    if threshold is not None:
        labels = torch.where(confidence < threshold, IGNORE, labels)
    return LabelMaps(
        labels if claims is None else settled(labels, claims, scores, settings, words_at_once),
        confidence,
    )


def best_words(
    scores: Tensor, size: tuple[int, int], settings: InferenceSettings, words_at_once: int = 32
) -> Tensor:
    """The label (`unseen.labels`) of the word with the highest score (B, K, h, w) at every pixel of
    images of `size`, (B, H, W) int64.
    """
    best: Tensor | None = None
    labels = torch.zeros(len(scores), *size, dtype=torch.int64, device=scores.device)
    for first in range(0, scores.shape[1], words_at_once):
        part = restored(scores[:, first : first + words_at_once], size, settings)
        top, index = part.max(dim=1)
        if best is None:
            best, labels = top, index
        else:
            labels = torch.where(top > best, index + first, labels)
            best = torch.maximum(top, best)
    return index_to_label(labels)


@torch.no_grad()
def foreground(
    segmenter: Segmenter,
    images: Tensor,
    text: TextFeatures,
    word: int,
    settings: InferenceSettings,
    threshold: float | None = None,
) -> Tensor:
    """Where a binary method says that images show one word, (B, H, W) bool: where its logit for
    the word is the higher one.

    Args:
        segmenter: Any binary method, in eval mode.
        images: (B, 3, H, W) uint8, or float in 0..1; RGB.
        text: The encoded vocabulary.
        word: Its place there.
        settings: Size and windows.
        threshold: Where the word's confidence is above this instead, in 0..1; 0.5 changes nothing.
    """
    scores = restored(
        score_maps(segmenter, images, text.select([word]), settings),
        (images.shape[-2], images.shape[-1]),
        settings,
    )[:, :1]
    return (scores > 0 if threshold is None else segmenter.confidence(scores) > threshold)[:, 0]


# --------------------------------------------------------------------- segments


@dataclass(frozen=True)
class Claim:
    """A mask that takes the place of a word's own.

    Attributes:
        word: Its label.
        strength: Of two claims on a pixel the stronger wins.
        mask: (H, W) bool.
    """

    word: int
    strength: float
    mask: Tensor


Claims = Callable[[int, Tensor], list[Claim]]
"""From the number of an image in its batch and its label map (H, W) to the claims on it, at most
one a word."""


def segments_of(segmenter: Segmenter, settings: InferenceSettings) -> SegmentSource:
    """Where the eigen-segments come from that the settings name.

    Raises:
        DataError: A folder that is not there.
        SettingError: No network is named, and the method has no tower of its own.
        CheckpointError: Weights that cannot be had.
    """
    how = SpectralSettings(settings.segments_count)
    if settings.segments_dir is not None:
        if not Path(settings.segments_dir).is_dir():
            raise DataError(
                f"the folder of segments {settings.segments_dir} does not exist; make it with"
                " `unseen eigenvectors`"
            )
        return SegmentSource(how, folder=Path(settings.segments_dir))
    if settings.segments_features is not None:
        return SegmentSource(how, load_keys(settings.segments_features).to(segmenter.device))
    if not isinstance(segmenter, ClipSegmenter):
        raise SettingError(
            f"{type(segmenter).__name__} has no CLIP tower to take keys from; name a network with"
            " --inference.segments_features"
        )
    return SegmentSource(how, clip_keys(segmenter.clip))


def agreement(segments: Tensor, threshold: float) -> Claims:
    """A word claims the segment or complement that its mask agrees with best, if their IoU reaches
    the threshold. Sees no labels.

    Segments that are all or nothing say nothing and are left out.

    Args:
        segments: (B, S, H, W) bool.
        threshold: In 0..1.
    """

    def claims(picture: int, labels: Tensor) -> list[Claim]:
        candidates = torch.cat([segments[picture], ~segments[picture]])
        filled = candidates.flatten(1).sum(dim=1)
        candidates = candidates[(filled > 0) & (filled < labels.numel())]
        if len(candidates) == 0:
            return []
        words, iou = overlaps(labels, candidates)
        best, which = iou.max(dim=1)
        return [
            Claim(w, b, candidates[k])
            for w, b, k in zip(words.tolist(), best.tolist(), which.tolist(), strict=True)
            if b >= threshold
        ]

    return claims


def overlaps(labels: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The words (P,) of a label map (H, W), 255 left out, and the IoU (P, S) of their masks with
    candidates (S, H, W) bool, float64.
    """
    words, place, area = torch.unique(labels, return_inverse=True, return_counts=True)
    hits = torch.stack(
        [torch.bincount(place[mask], minlength=len(words)) for mask in candidates], dim=1
    ).double()
    iou = hits / (area.unsqueeze(1) + candidates.flatten(1).sum(dim=1) - hits)
    return words[words != IGNORE], iou[words != IGNORE]


def settled(
    labels: Tensor,
    claims: Claims,
    scores: Tensor,
    settings: InferenceSettings,
    words_at_once: int = 32,
) -> Tensor:
    """Label maps (B, H, W) with claims carried out.

    A pixel that several claims hold goes to the strongest. A pixel that its word's own mask held
    and no claim holds goes to the best of the words without a claim; if every word has one, it
    keeps its word.

    Args:
        labels: (B, H, W) int64.
        claims: On each image.
        scores: (B, K, h, w), for the next best word.
        settings: Size and windows.
        words_at_once: As in `label_maps`.
    """
    maps = []
    for i, mine in enumerate(labels):
        found = sorted(claims(i, mine), key=lambda claim: claim.strength)
        claimed = [claim.word for claim in found]
        words = index_to_label(torch.arange(scores.shape[1], device=mine.device))
        rest = torch.isin(words, mine.new_tensor(claimed), invert=True)
        if found and rest.any():
            others = best_words(
                scores[i : i + 1, rest], (mine.shape[0], mine.shape[1]), settings, words_at_once
            )[0]
            mine = torch.where(
                torch.isin(mine, mine.new_tensor(claimed)),
                words[rest][label_to_index(others)],
                mine,
            )
        for claim in found:
            mine = torch.where(claim.mask, claim.word, mine)
        maps.append(mine)
    return torch.stack(maps)


def settled_mask(mask: Tensor, claims: Claims, picture: int = 0) -> Tensor:
    """A word's mask (H, W) bool, or what is claimed in its place."""
    return next((claim.mask for claim in claims(picture, mask.long()) if claim.word == 1), mask)
