"""Augmentation of training pairs, on torchvision.transforms.v2: image and label map move
together.

The order and the ranges are those of the released ZegCLIP and CLIP-RC. Random numbers come from
torch's generator, which the training data seed for every sample, so a sample's augmentation depends
on seed, step and place in the batch alone.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from unseen.labels import IGNORE
from unseen.settings import TransformSettings


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each with probability ½; contrast before or after
    the colour steps by a fair coin.

    Ranges of the released pipelines: brightness ± 32 of 255, contrast and saturation × 0.5 to 1.5,
    hue ± 36 degrees.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 to the same."""
        contrast_first = torch.rand(()) < 0.5
        if torch.rand(()) < 0.5:
            image = (image.float() + _uniform(-32, 32)).clamp(0, 255).to(torch.uint8)
        contrast = _uniform(0.5, 1.5) if torch.rand(()) < 0.5 else None
        if contrast is not None and contrast_first:
            image = TF.adjust_brightness(
                image, contrast
            )  # a factor on all values: what the released code calls contrast
        if torch.rand(()) < 0.5:
            image = TF.adjust_saturation(image, _uniform(0.5, 1.5))
        if torch.rand(()) < 0.5:
            image = TF.adjust_hue(image, _uniform(-0.1, 0.1))
        if contrast is not None and not contrast_first:
            image = TF.adjust_brightness(image, contrast)
        return image


def mirrored(image: Tensor) -> Tensor:
    """An image (3, H, W) continued by its mirror image to (3, 3H, 3W), the edge itself repeated
    below and on the right only (released DRN and SAZS).
    """
    for axis in (1, 2):
        size = image.shape[axis]
        ahead = torch.arange(size, 0, -1).clamp(max=size - 1)
        image = image.index_select(
            axis, torch.cat([ahead, torch.arange(size), torch.arange(size - 1, -1, -1)])
        )
    return image


def turned(image: Tensor, labels: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """A pair turned by `angle` degrees to the left: the image with its corners `mirrored`, the
    labels with void ones.
    """
    h, w = labels.shape
    large, box = (
        _to_pillow(mirrored(image)).rotate(angle, Image.Resampling.BILINEAR),
        (
            w,
            h,
            2 * w,
            2 * h,
        ),
    )
    map_ = Image.fromarray(
        torch.nn.functional.pad(labels, (w, w, h, h), value=IGNORE).to(torch.uint8).numpy()
    )
    return _from_pillow(large.crop(box)), _from_pillow(
        map_.rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE).crop(box)
    )


def zoomed(image: Tensor, labels: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """A pair at `factor` times its size, rounded down: the image by the Lanczos filter below 1,
    else bicubic, the labels by the nearest pixel.
    """
    size = max(1, int(factor * labels.shape[1])), max(1, int(factor * labels.shape[0]))
    small = _to_pillow(image).resize(
        size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    )
    return _from_pillow(small), _from_pillow(
        Image.fromarray(labels.to(torch.uint8).numpy()).resize(size, Image.Resampling.NEAREST)
    )


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _from_pillow(image: Image.Image) -> Tensor:
    values = torch.from_numpy(np.array(image))
    return values.permute(2, 0, 1).contiguous() if values.ndim == 3 else values.long()


class TrainTransform:
    """Random scale, crop with a guard against one-class crops, flip, photometric distortion,
    filling up.

    Args:
        settings: Ranges and sizes.
        fill: RGB in 0..255 that crops are filled up with: the mean the tower subtracts, so the rim
            is 0 to the tower.
        fill_label: Label of filled-up pixels.
    """

    def __init__(
        self,
        settings: TransformSettings,
        fill: tuple[float, float, float] = (0, 0, 0),
        fill_label: int = IGNORE,
    ) -> None:
        self.settings, self.fill, self.fill_label = (
            settings,
            torch.tensor(fill).round().to(torch.uint8).view(3, 1, 1),
            fill_label,
        )
        self.flip = v2.RandomHorizontalFlip(settings.flip)
        self.photometric = PhotometricDistortion() if settings.photometric else None

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 and (H, W) int64 to a training pair of the crop's size."""
        settings = self.settings
        if settings.pillow:
            largest = int(settings.rotate)
            image, labels = turned(image, labels, int(torch.randint(-largest, largest + 1, ())))
            image, labels = zoomed(image, labels, _uniform(*(settings.zoom or (1.0, 1.0))))
        pair = tv_tensors.Image(image), tv_tensors.Mask(labels)
        if settings.resize is not None:
            pair = self._scale(*pair, _uniform(*settings.scale))
        elif settings.zoom is not None and not settings.pillow:
            factor = _uniform(*settings.zoom)
            size = [max(1, int(side * factor + 0.5)) for side in pair[1].shape]
            pair = TF.resize(pair[0], size), TF.resize(pair[1], size)
        if settings.rotate and not settings.pillow and torch.rand(()) < 0.5:
            angle, fill = _uniform(-settings.rotate, settings.rotate), self.fill.flatten().tolist()
            rotated = (
                TF.rotate(pair[0], angle, InterpolationMode.BILINEAR, fill=fill),
                TF.rotate(pair[1][None], angle, fill=self.fill_label)[0],
            )
            pair = tv_tensors.Image(rotated[0]), tv_tensors.Mask(rotated[1])
        if settings.blur and torch.rand(()) < 0.5:
            pair = TF.gaussian_blur(pair[0], [5, 5]), pair[1]
        if settings.crop is not None and settings.centre:
            pair = self._centred(*pair, settings.crop)
        if settings.crop is not None:
            pair = self._crop(*pair, settings.crop)
        flipped: tuple[Tensor, Tensor] = self.flip(*pair)
        image, labels = flipped[0].as_subclass(Tensor), flipped[1].as_subclass(Tensor)
        if self.photometric is not None:
            image = self.photometric(image)
        return (
            self._fill_up(image, labels, settings.crop)
            if settings.crop is not None
            else (image, labels)
        )

    def _scale(self, image: Tensor, labels: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        assert self.settings.resize is not None
        h, w = image.shape[-2:]
        long_side, short_side = (int(side * factor) for side in self.settings.resize)
        scale = min(long_side / max(h, w), short_side / min(h, w))
        size = [max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))]
        return TF.resize(image, size), TF.resize(
            labels, size
        )  # bilinear for the image, nearest for the labels

    def _centred(self, image: Tensor, labels: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """At least as large as the crop, filled up on all sides."""
        h, w = labels.shape
        high, wide = max(h, side), max(w, side)
        top, left = (high - h) // 2, (wide - w) // 2
        canvas, map_ = (
            self.fill.expand(3, high, wide).clone(),
            torch.full((high, wide), self.fill_label),
        )
        canvas[:, top : top + h, left : left + w], map_[top : top + h, left : left + w] = (
            image,
            labels,
        )
        return tv_tensors.Image(canvas), tv_tensors.Mask(map_)

    def _crop(self, image: Tensor, labels: Tensor, side: int) -> tuple[Tensor, Tensor]:
        wanted = (
            self.settings.min_positives * (labels == 1).sum()
            if self.settings.min_positives
            else None
        )
        for _ in range(11 if wanted is None else 31):
            top = int(torch.randint(max(image.shape[-2] - side, 0) + 1, ()))
            left = int(torch.randint(max(image.shape[-1] - side, 0) + 1, ()))
            part = labels[top : top + side, left : left + side]
            if wanted is not None:
                if (part == 1).sum() >= wanted:
                    break
                continue
            if self.settings.max_class_share is None:
                break
            counts = part[part != IGNORE].bincount()
            if (
                counts > 0
            ).sum() > 1 and counts.max() < self.settings.max_class_share * counts.sum():
                break
        return TF.crop(image, top, left, *part.shape), TF.crop(labels, top, left, *part.shape)

    def _fill_up(self, image: Tensor, labels: Tensor, side: int) -> tuple[Tensor, Tensor]:
        h, w = labels.shape
        if (h, w) == (side, side):
            return image, labels
        canvas, map_ = (
            self.fill.expand(3, side, side).clone(),
            torch.full((side, side), self.fill_label),
        )
        canvas[:, :h, :w], map_[:h, :w] = image, labels
        return canvas, map_
