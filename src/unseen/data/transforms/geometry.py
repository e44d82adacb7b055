"""Steps that resize, rotate or flip a pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from unseen.data.transforms.padding import LabelledImage, Padding


def uniform(low: float, high: float) -> float:
    """A random number between the two."""
    # From torch's generator, which is seeded for every sample; Python's own is not.
    return low + (high - low) * torch.rand(()).item()


@dataclass(frozen=True)
class ScaleToBox:
    """Fit the image into a box of random size, keeping its ratio (ZegCLIP, CLIP-RC).

    Attributes:
        box: Longest long and short side at a factor of 1, in pixels.
        factors: Range of the random factor on the box.
        antialias: Smooth before the image is made smaller.
    """

    box: tuple[int, int]
    factors: tuple[float, float]
    antialias: bool = True

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of another size."""
        factor = uniform(*self.factors)
        # Rounded down before the ratio is taken, as in the released code.
        long_side, short_side = (int(side * factor) for side in self.box)
        scale = min(long_side / max(labels.shape), short_side / min(labels.shape))
        return _resized(image, labels, scale, self.antialias)


@dataclass(frozen=True)
class Zoom:
    """Resize by a random factor of the image's own size (BAM).

    Attributes:
        factors: Range of the factor.
        antialias: Smooth before the image is made smaller.
    """

    factors: tuple[float, float]
    antialias: bool = True

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of another size."""
        return _resized(image, labels, uniform(*self.factors), self.antialias)


def _resized(image: Tensor, labels: Tensor, factor: float, antialias: bool) -> LabelledImage:
    """The image resized bilinearly, the labels by the nearest pixel."""
    size = [max(1, int(side * factor + 0.5)) for side in labels.shape]
    # As a mask, torchvision takes the nearest pixel, so that no id between two classes arises.
    resized = TF.resize(tv_tensors.Mask(labels), size).as_subclass(Tensor)
    return TF.resize(image, size, antialias=antialias), resized


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
        angle = uniform(-self.degrees, self.degrees)
        # Rounded as in `Padding.canvas`, so that corners and padding have one colour.
        colour = [float(round(value)) for value in self.padding.colour]
        image = TF.rotate(image, angle, InterpolationMode.BILINEAR, fill=colour)
        # torchvision needs a channel axis, and takes the nearest pixel unless told otherwise.
        return image, TF.rotate(labels[None], angle, fill=self.padding.label)[0]


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
