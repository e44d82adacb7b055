"""Steps that change the image alone."""

from __future__ import annotations

import torch
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


class PhotometricDistortion:
    """Random brightness, contrast, saturation and hue, with probability ½ for every one of them.

    Contrast comes before or after the colour steps with equal probability. Ranges of the released
    pipelines: brightness ± 32 of 255, contrast and saturation × 0.5 to 1.5, hue ± 36 degrees.
    """

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
            image = TF.adjust_saturation(image, uniform(0.5, 1.5))
        if torch.rand(()) < 0.5:
            image = TF.adjust_hue(image, uniform(-0.1, 0.1))
        if contrast is not None and not contrast_first:
            image = TF.adjust_brightness(image, contrast)
        return image, labels
