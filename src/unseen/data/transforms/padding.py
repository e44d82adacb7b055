"""Padding of image and labels to the size of the crop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unseen.labels import IGNORE

LabelledImage = tuple[Tensor, Tensor]
"""An image (3, H, W) uint8 and its labels (H, W) int64."""


@dataclass(frozen=True)
class Padding:
    """Colour and label of the pixels outside of an image.

    Attributes:
        colour: RGB in 0..255.
        label: Their label.
    """

    colour: tuple[float, float, float] = (0, 0, 0)
    label: int = IGNORE

    def canvas(self, height: int, width: int) -> LabelledImage:
        """An image and labels of padding alone, to paste a pair on."""
        # The mean colour of a tower has fractions, images are integers.
        colour = torch.tensor(self.colour).round().to(torch.uint8).view(3, 1, 1)
        # Cloned: an expanded tensor shares its memory and cannot be written to.
        return colour.expand(3, height, width).clone(), torch.full((height, width), self.label)


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
        """A pair to one at least as large as the square."""
        height, width = (max(side, self.side) for side in labels.shape)
        # Most crops fill the square already, and copying them would cost time.
        if labels.shape == (height, width):
            return image, labels
        return _placed(image, labels, (0, 0), self.padding.canvas(height, width))


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
        # An odd number of pixels leaves the larger rim at the bottom and right.
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
