"""Pixel-adaptive mask refinement: maps follow the edges of the image.

Araslanov and Roth 2020, "Single-Stage Semantic Segmentation from Image Labels", arXiv 2005.08104,
section 3.3; used by NACLIP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

OTHERS = tuple(step for step in product((-1, 0, 1), repeat=2) if step != (0, 0))
"""The eight neighbours of a pixel, in steps down and to the right."""
SHARPNESS = 0.1
"""Of the differences of colour, in standard deviations around a pixel."""


def affinities(images: Tensor, dilations: Sequence[int]) -> Tensor:
    """How much each pixel listens to its neighbours, (B, 8·d, H, W); they sum to 1.

    The affinity to a neighbour is the softmax of -|x_i - x_j| / (0.1 σ_i), averaged over colours,
    with σ_i the standard deviation of the pixels around i.

    Args:
        images: (B, 3, H, W), RGB, any linear scale.
        dilations: Distances of the d rings of eight neighbours, in pixels.
    """
    total, squares, count = torch.zeros_like(images), torch.zeros_like(images), 9 * len(dilations)
    # Differences instead of colours, so that the sum of squares loses no digits.
    for other in _neighbours(images, dilations):
        total += other - images
        squares += (other - images) ** 2
    # The pixel itself, once a ring, differs by 0 and adds nothing to either sum.
    variance = (squares - total**2 / count) / (count - 1)
    scale = 1e-8 + SHARPNESS * variance.clamp(min=0).sqrt()
    distances = [
        ((images - other).abs() / scale).mean(dim=1) for other in _neighbours(images, dilations)
    ]
    return (-torch.stack(distances, dim=1)).softmax(dim=1)


class PixelRefinement:
    """Maps in which each pixel becomes the mean of its neighbours of like colour, several times.

    Args:
        weights: `affinities` of images.
        dilations: Those of the weights.
        steps: How many times.
    """

    def __init__(self, weights: Tensor, dilations: Sequence[int], steps: int) -> None:
        self.weights, self.dilations, self.steps = weights, dilations, steps

    @classmethod
    def of_images(cls, images: Tensor, dilations: Sequence[int], steps: int) -> PixelRefinement:
        """The refinement of maps of images (B, 3, H, W)."""
        return cls(affinities(images, dilations), dilations, steps)

    def image(self, index: int) -> PixelRefinement:
        """The refinement of one of the images."""
        return PixelRefinement(self.weights[index : index + 1], self.dilations, self.steps)

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps (B, K, H, W), refined."""
        for _ in range(self.steps):
            mixed = torch.zeros_like(maps)
            for index, other in enumerate(_neighbours(maps, self.dilations)):
                mixed.addcmul_(self.weights[:, index : index + 1], other)
            maps = mixed
        return maps


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The maps moved so that a neighbour lies where each pixel was; borders are repeated."""
    height, width = maps.shape[-2:]
    for dilation in dilations:
        padded = F.pad(maps, (dilation,) * 4, mode="replicate")
        for down, right in OTHERS:
            top, left = dilation * (1 + down), dilation * (1 + right)
            yield padded[..., top : top + height, left : left + width]
