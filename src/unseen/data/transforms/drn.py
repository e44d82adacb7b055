"""Rotation and zoom as the code of DRN and SAZS does them, with Pillow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unseen.data.transforms.geometry import uniform
from unseen.data.transforms.padding import LabelledImage
from unseen.labels import IGNORE


@dataclass(frozen=True)
class DrnRotate:
    """Rotate every image by a random integer of degrees, with mirrored corners (DRN, SAZS).

    Attributes:
        degrees: The largest angle.
    """

    degrees: int

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of the same size."""
        angle = int(torch.randint(-self.degrees, self.degrees + 1, ()))
        return rotate_like_drn(image, labels, angle)


def rotate_like_drn(image: Tensor, labels: Tensor, angle: float) -> LabelledImage:
    """A pair rotated by `angle` degrees counter-clockwise.

    The corners show the image's `mirrored` continuation, and their labels are ignored.
    """
    h, w = labels.shape
    inside = (w, h, 2 * w, 2 * h)
    # Rotate the threefold continuation and cut out the middle, so that no corner is left empty.
    rotated = _to_pillow(mirrored(image)).rotate(angle, Image.Resampling.BILINEAR)
    # What the mirror shows is no object of this image, so its labels are ignored.
    large_labels = _labels_to_pillow(F.pad(labels, (w, w, h, h), value=IGNORE))
    label_map = large_labels.rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE)
    return _from_pillow(rotated.crop(inside)), _labels_from_pillow(label_map.crop(inside))


def mirrored(image: Tensor) -> Tensor:
    """An image (3, H, W) continued by its mirror image to (3, 3H, 3W).

    The edge itself is repeated below and on the right only, as in the released DRN and SAZS.
    """
    for axis in (1, 2):
        size = image.shape[axis]
        # Without the edge itself: size, size - 1, ... 1, of which the first is out of range.
        ahead = torch.arange(size, 0, -1).clamp(max=size - 1)
        places = torch.cat([ahead, torch.arange(size), torch.arange(size - 1, -1, -1)])
        image = image.index_select(axis, places)
    return image


@dataclass(frozen=True)
class DrnZoom:
    """Zoom by a random factor with Pillow's filters (DRN, SAZS).

    Attributes:
        factors: Range of the factor.
    """

    factors: tuple[float, float]

    def __call__(self, image: Tensor, labels: Tensor) -> LabelledImage:
        """A pair to one of another size."""
        return zoom_like_drn(image, labels, uniform(*self.factors))


def zoom_like_drn(image: Tensor, labels: Tensor, factor: float) -> LabelledImage:
    """A pair at `factor` times its size, rounded down.

    The image is resized with the Lanczos filter below a factor of 1 and bicubic from 1 on, the
    labels by the nearest pixel.
    """
    # (width, height), as Pillow has it.
    size = max(1, int(factor * labels.shape[1])), max(1, int(factor * labels.shape[0]))
    smooth = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    resized = _to_pillow(image).resize(size, smooth)
    label_map = _labels_to_pillow(labels).resize(size, Image.Resampling.NEAREST)
    return _from_pillow(resized), _labels_from_pillow(label_map)


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _from_pillow(image: Image.Image) -> Tensor:
    # A copy: Pillow's own memory is read-only, and later steps write into the tensor.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _labels_to_pillow(labels: Tensor) -> Image.Image:
    return Image.fromarray(labels.to(torch.uint8).numpy())


def _labels_from_pillow(label_map: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(label_map)).long()
