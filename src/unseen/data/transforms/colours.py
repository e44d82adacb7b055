"""Steps that change the image alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from unseen.data.transforms.geometry import uniform
from unseen.data.transforms.padding import LabelledImage


class Blur:
    """Half of the time, blur the image with a Gaussian of 5 pixels (BAM)."""

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to the same, whose labels stay."""
        if torch.rand(()) < 0.5:
            image = TF.gaussian_blur(image, [5, 5])
        return image, labels


@dataclass(frozen=True)
class PhotometricDistortion:
    """Random brightness, contrast, saturation and hue, with probability ½ for every one of them.

    Contrast comes before or after the colour steps with equal probability. Ranges of the released
    pipelines: brightness ± 32 of 255, contrast and saturation × 0.5 to 1.5, hue ± 36 degrees.

    Attributes:
        hsv: Saturation and hue as OpenCV changes them, and not as torchvision does.
    """

    hsv: bool = False

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to the same, whose labels stay."""
        contrast_first = torch.rand(()) < 0.5
        if torch.rand(()) < 0.5:
            # Clamped before the conversion, which would wrap around.
            image = (image.float() + uniform(-32, 32)).clamp(0, 255).to(torch.uint8)
        contrast = None
        if torch.rand(()) < 0.5:
            contrast = uniform(0.5, 1.5)
        # The released code calls a factor on all values contrast; torchvision calls it brightness.
        if contrast is not None and contrast_first:
            image = TF.adjust_brightness(image, contrast)
        if torch.rand(()) < 0.5:
            image = self._saturated(image, uniform(0.5, 1.5))
        if torch.rand(()) < 0.5:
            image = self._turned(image)
        if contrast is not None and not contrast_first:
            image = TF.adjust_brightness(image, contrast)
        return image, labels

    def _saturated(self, image: Tensor, factor: float) -> Tensor:
        if self.hsv:
            return saturate(image, factor)
        out: Tensor = TF.adjust_saturation(image, factor)
        return out

    def _turned(self, image: Tensor) -> Tensor:
        """The image with another hue; the change is a share of the whole circle."""
        if self.hsv:  # OpenCV counts hue in steps of 2 degrees
            out: Tensor = TF.adjust_hue(image, int(torch.randint(-18, 18, ())) / 180)
            return out
        # Pillow counts it in steps of 1.4 degrees, in a third of the time.
        pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        turned = TF.adjust_hue(pixels, uniform(-0.1, 0.1))
        return torch.from_numpy(np.array(turned)).permute(2, 0, 1)


def saturate(image: Tensor, factor: float) -> Tensor:
    """An image (3, H, W) uint8 with its saturation in the HSV space times a factor, at most 1.

    Hue and value stay, so the brightest channel does, and the others move away from it by the same
    factor.
    """
    value = image.amax(dim=0, keepdim=True).float()
    away = value - image  # of every channel from the brightest
    # A saturation of 1 puts the darkest channel to 0.
    most = value / away.amax(dim=0, keepdim=True).clamp(min=1)
    return (value - most.clamp(max=factor) * away).round().to(torch.uint8)
