"""Augmentation of training pairs: small steps that move image and label map together.

`TrainTransform` puts the steps of a recipe one after the other. The released pipelines are:

    ZegCLIP, CLIP-RC   ScaleToBox, RandomCrop (NotOneClass), RandomFlip, distortion, pad
    ESDA (BAM's)       Zoom, Rotate, Blur, PadAround, RandomCrop (KeepsQuery), RandomFlip, pad
    SAZS (DRN's)       DrnRotate, DrnZoom, RandomCrop, RandomFlip, pad

Random numbers come from torch's generator, which the training data seed for every sample. A
sample's augmentation therefore depends on seed, step and place in the batch alone, and on the order
in which the steps draw: another order would give other runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from unseen.labels import BACKGROUND, IGNORE
from unseen.settings import TransformSettings

LabelledImage = tuple[Tensor, Tensor]
"""An image (3, H, W) uint8 and its labels (H, W) int64."""
Step = Callable[[Tensor, Tensor], LabelledImage]


@dataclass(frozen=True)
class Padding:
    """What pixels outside of the image hold.

    Attributes:
        colour: RGB in 0..255.
        label: Their label.
    """

    colour: tuple[float, float, float] = (0, 0, 0)
    label: int = IGNORE

    def canvas(self, height: int, width: int) -> LabelledImage:
        """A pair that holds padding alone."""
        colour = torch.tensor(self.colour).round().to(torch.uint8).view(3, 1, 1)
        return colour.expand(3, height, width).clone(), torch.full((height, width), self.label)


class TrainTransform:
    """The steps that the settings name, in the order of the released pipelines.

    Args:
        settings: Ranges and sizes.
        padding: Colour and label of padded pixels. With the mean that the tower subtracts as the
            colour, padding is 0 to the tower.
    """

    def __init__(self, settings: TransformSettings, padding: Padding | None = None) -> None:
        self.steps = _steps(settings, padding or Padding())

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """(3, H, W) uint8 and (H, W) int64 to a training pair of the crop's size."""
        for step in self.steps:
            image, labels = step(image, labels)
        return image, labels


def _steps(settings: TransformSettings, padding: Padding) -> list[Step]:
    steps = _geometry(settings, padding)
    if settings.crop is not None:
        if settings.centre:
            steps.append(PadAround(settings.crop, padding))
        steps.append(RandomCrop(settings.crop, _guard(settings)))
    steps.append(RandomFlip(settings.flip))
    if settings.photometric:
        steps.append(PhotometricDistortion())
    # Padding comes last, so that the photometric distortion leaves its colour alone.
    if settings.crop is not None:
        steps.append(Pad(settings.crop, padding))
    return steps


def _geometry(settings: TransformSettings, padding: Padding) -> list[Step]:
    """The steps before the crop."""
    steps: list[Step] = []
    zoom = settings.zoom
    if settings.pillow:
        steps += [DrnRotate(int(settings.rotate)), DrnZoom(zoom or (1.0, 1.0))]
    if settings.resize is not None:
        steps.append(ScaleToBox(settings.resize, settings.scale))
    elif zoom is not None and not settings.pillow:
        steps.append(Zoom(zoom))
    if settings.rotate and not settings.pillow:
        steps.append(Rotate(settings.rotate, padding))
    if settings.blur:
        steps.append(Blur())
    return steps


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


# ------------------------------------------------------------------------ size


@dataclass(frozen=True)
class ScaleToBox:
    """Fit the image into a box of random size, keeping its ratio (ZegCLIP, CLIP-RC).

    Attributes:
        box: Longest long and short side at a factor of 1, in pixels.
        factors: Range of the random factor on the box.
    """

    box: tuple[int, int]
    factors: tuple[float, float]

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of another size."""
        factor = _uniform(*self.factors)
        long_side, short_side = (int(side * factor) for side in self.box)
        scale = min(long_side / max(labels.shape), short_side / min(labels.shape))
        return _resized(image, labels, scale)


@dataclass(frozen=True)
class Zoom:
    """Resize by a random factor of the image's own size (BAM).

    Attributes:
        factors: Range of the factor.
    """

    factors: tuple[float, float]

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of another size."""
        return _resized(image, labels, _uniform(*self.factors))


def _resized(image: Tensor, labels: Tensor, factor: float) -> LabelledImage:
    """The image resized bilinearly, the labels by the nearest pixel."""
    size = [max(1, int(side * factor + 0.5)) for side in labels.shape]
    resized = TF.resize(tv_tensors.Mask(labels), size).as_subclass(Tensor)
    return TF.resize(image, size), resized


@dataclass(frozen=True)
class DrnZoom:
    """Zoom by a random factor with Pillow's filters (DRN, SAZS).

    Attributes:
        factors: Range of the factor.
    """

    factors: tuple[float, float]

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of another size."""
        return zoom_like_drn(image, labels, _uniform(*self.factors))


def zoom_like_drn(image: Tensor, labels: Tensor, factor: float) -> LabelledImage:
    """A pair at `factor` times its size, rounded down: the image by the Lanczos filter below 1 and
    bicubic from 1 on, the labels by the nearest pixel.
    """
    size = max(1, int(factor * labels.shape[1])), max(1, int(factor * labels.shape[0]))
    smooth = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    resized = _to_pillow(image).resize(size, smooth)
    label_map = _labels_to_pillow(labels).resize(size, Image.Resampling.NEAREST)
    return _from_pillow(resized), _labels_from_pillow(label_map)


# -------------------------------------------------------------------- rotation


@dataclass(frozen=True)
class Rotate:
    """Half of the time, rotate by a random angle and pad the corners (BAM).

    Attributes:
        degrees: The largest angle.
        padding: Of the corners.
    """

    degrees: float
    padding: Padding

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of the same size."""
        if torch.rand(()) >= 0.5:
            return image, labels
        angle = _uniform(-self.degrees, self.degrees)
        colour = [float(round(value)) for value in self.padding.colour]
        image = TF.rotate(image, angle, InterpolationMode.BILINEAR, fill=colour)
        return image, TF.rotate(labels[None], angle, fill=self.padding.label)[0]


@dataclass(frozen=True)
class DrnRotate:
    """Rotate every image by a random number of whole degrees, with mirrored corners (DRN, SAZS).

    Attributes:
        degrees: The largest angle.
    """

    degrees: int

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of the same size."""
        angle = int(torch.randint(-self.degrees, self.degrees + 1, ()))
        return rotate_like_drn(image, labels, angle)


def rotate_like_drn(image: Tensor, labels: Tensor, angle: float) -> LabelledImage:
    """A pair rotated by `angle` degrees counter-clockwise: corners show the image's `mirrored`
    continuation, and their labels are ignored.
    """
    h, w = labels.shape
    inside = (w, h, 2 * w, 2 * h)
    rotated = _to_pillow(mirrored(image)).rotate(angle, Image.Resampling.BILINEAR)
    large_labels = _labels_to_pillow(F.pad(labels, (w, w, h, h), value=IGNORE))
    label_map = large_labels.rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE)
    return _from_pillow(rotated.crop(inside)), _labels_from_pillow(label_map.crop(inside))


def mirrored(image: Tensor) -> Tensor:
    """An image (3, H, W) continued by its mirror image to (3, 3H, 3W).

    The edge itself is repeated below and on the right only, as in the released DRN and SAZS.
    """
    for axis in (1, 2):
        size = image.shape[axis]
        ahead = torch.arange(size, 0, -1).clamp(max=size - 1)
        places = torch.cat([ahead, torch.arange(size), torch.arange(size - 1, -1, -1)])
        image = image.index_select(axis, places)
    return image


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _labels_to_pillow(labels: Tensor) -> Image.Image:
    return Image.fromarray(labels.to(torch.uint8).numpy())


def _labels_from_pillow(label_map: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(label_map)).long()


# ----------------------------------------------------------------------- crops


class NotOneClass:
    """Refuses crops that show a single class, or whose largest class holds too much.

    Pixels of no class (ignored, background that is not a class) do not count.

    Args:
        max_share: The largest class covers less than this share of the pixels of classes.
    """

    attempts = 11

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share

    def accepts(self, crop: Tensor, labels: Tensor) -> bool:
        """Whether a crop of `labels` is good enough."""
        # Labels from BACKGROUND on are special values: background, padding and ignored pixels.
        counts = crop[crop < BACKGROUND].bincount()
        if (counts > 0).sum() <= 1:
            return False
        return bool(counts.max() < self.max_share * counts.sum())


class KeepsQuery:
    """Refuses crops that lose too many pixels of the query class, whose label is 1 (BAM).

    Args:
        min_share: The least share of the query class's pixels that a crop keeps.
    """

    attempts = 31

    def __init__(self, min_share: float) -> None:
        self.min_share = min_share

    def accepts(self, crop: Tensor, labels: Tensor) -> bool:
        """Whether a crop of `labels` is good enough."""
        return bool((crop == 1).sum() >= self.min_share * (labels == 1).sum())


Guard = NotOneClass | KeepsQuery


def _guard(settings: TransformSettings) -> Guard | None:
    if settings.min_positives:
        return KeepsQuery(settings.min_positives)
    if settings.max_class_share is not None:
        return NotOneClass(settings.max_class_share)
    return None


@dataclass(frozen=True)
class RandomCrop:
    """A random square, or as much of it as a smaller image has.

    Attributes:
        side: Of the square, in pixels.
        guard: Crops it refuses are drawn again; after its last attempt the crop is taken anyway.
    """

    side: int
    guard: Guard | None = None

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to a part of it."""
        height, width = labels.shape
        attempts = self.guard.attempts if self.guard is not None else 1
        for _ in range(attempts):
            top = int(torch.randint(max(height - self.side, 0) + 1, ()))
            left = int(torch.randint(max(width - self.side, 0) + 1, ()))
            rows, columns = slice(top, top + self.side), slice(left, left + self.side)
            crop = labels[rows, columns]
            if self.guard is None or self.guard.accepts(crop, labels):
                break
        return image[:, rows, columns], crop


@dataclass(frozen=True)
class Pad:
    """Pad a smaller image at the bottom and right.

    Attributes:
        side: Of the square to fill, in pixels.
        padding: Colour and label.
    """

    side: int
    padding: Padding

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of the square's size."""
        if labels.shape == (self.side, self.side):
            return image, labels
        return _placed(image, labels, (0, 0), self.padding.canvas(self.side, self.side))


@dataclass(frozen=True)
class PadAround:
    """Pad a smaller image on all sides, to at least the size of the crop (BAM).

    Attributes:
        side: Of the crop, in pixels.
        padding: Colour and label.
    """

    side: int
    padding: Padding

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one at least as large as the crop."""
        h, w = labels.shape
        height, width = max(h, self.side), max(w, self.side)
        corner = (height - h) // 2, (width - w) // 2
        return _placed(image, labels, corner, self.padding.canvas(height, width))


def _placed(
    image: Tensor, labels: Tensor, corner: tuple[int, int], canvas: LabelledImage
) -> LabelledImage:
    """The canvas with the pair on it, its top left corner at (row, column) `corner`."""
    h, w = labels.shape
    rows, columns = slice(corner[0], corner[0] + h), slice(corner[1], corner[1] + w)
    canvas[0][:, rows, columns] = image
    canvas[1][rows, columns] = labels
    return canvas


# ------------------------------------------------------------ flips and colours


@dataclass(frozen=True)
class RandomFlip:
    """Flip the pair horizontally.

    Attributes:
        probability: Of a flip.
    """

    probability: float

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of the same size."""
        if torch.rand(()) >= self.probability:
            return image, labels
        return image.flip(-1), labels.flip(-1)


class Blur:
    """Half of the time, blur the image with a Gaussian of 5 pixels (BAM)."""

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to the same, whose labels stay."""
        if torch.rand(()) < 0.5:
            image = TF.gaussian_blur(image, [5, 5])
        return image, labels


class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each with probability ½; contrast comes before or
    after the colour steps by a fair coin.

    Ranges of the released pipelines: brightness ± 32 of 255, contrast and saturation × 0.5 to 1.5,
    hue ± 36 degrees.
    """

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to the same, whose labels stay."""
        contrast_first = torch.rand(()) < 0.5
        if torch.rand(()) < 0.5:
            image = (image.float() + _uniform(-32, 32)).clamp(0, 255).to(torch.uint8)
        contrast = None
        if torch.rand(()) < 0.5:
            contrast = _uniform(0.5, 1.5)
        # The released code calls a factor on all values contrast; torchvision calls it brightness.
        if contrast is not None and contrast_first:
            image = TF.adjust_brightness(image, contrast)
        if torch.rand(()) < 0.5:
            image = TF.adjust_saturation(image, _uniform(0.5, 1.5))
        if torch.rand(()) < 0.5:
            image = TF.adjust_hue(image, _uniform(-0.1, 0.1))
        if contrast is not None and not contrast_first:
            image = TF.adjust_brightness(image, contrast)
        return image, labels
