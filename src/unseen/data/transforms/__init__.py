"""Augmentation of training pairs: small steps that move image and label map together.

`TrainTransform` puts the steps of a recipe one after the other. The released pipelines are:

    ZegCLIP, CLIP-RC   ScaleToBox, RandomCrop (NotOneClass), RandomFlip, distortion, pad
    ESDA (BAM's)       Zoom, Rotate, Blur, PadAround, RandomCrop (KeepsQuery), RandomFlip, pad
    SAZS (DRN's)       DrnRotate, DrnZoom, pad, RandomCrop, RandomFlip

Random numbers come from torch's generator, which the training data seed for every sample. A
sample's augmentation therefore depends only on the seed, the step, its index in the batch, and the
order in which the steps draw random numbers: another order gives another training run.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from unseen.data.transforms.colours import Blur, PhotometricDistortion
from unseen.data.transforms.crops import Guard, KeepsQuery, NotOneClass, RandomCrop
from unseen.data.transforms.drn import DrnRotate, DrnZoom
from unseen.data.transforms.geometry import RandomFlip, Rotate, ScaleToBox, Zoom
from unseen.data.transforms.padding import LabelledImage, Pad, PadAround, Padding
from unseen.settings import TransformSettings

__all__ = ["LabelledImage", "Padding", "Step", "TrainTransform"]

Step = Callable[[Tensor, Tensor], LabelledImage]
"""From an image (3, H, W) uint8 and its labels (H, W) int64 to the same of another pair."""


class TrainTransform:
    """The steps that the settings switch on, in the order of the released pipelines.

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
        # BAM and DRN crop out of the padded image, the others pad what the crop lacks.
        if settings.centre:
            steps.append(PadAround(settings.crop, padding))
        elif settings.pad_first:
            steps.append(Pad(settings.crop, padding))
        steps.append(RandomCrop(settings.crop, _guard(settings)))
    steps.append(RandomFlip(settings.flip))
    if settings.photometric:
        steps.append(PhotometricDistortion(hsv=settings.hsv))
    # Padding comes last, so that the photometric distortion leaves its colour alone.
    if settings.crop is not None:
        steps.append(Pad(settings.crop, padding))
    return steps


def _geometry(settings: TransformSettings, padding: Padding) -> list[Step]:
    """The steps before the crop."""
    steps: list[Step] = []
    zoom = settings.zoom
    # DRN's code rotates first and always zooms, with Pillow's filters.
    if settings.pillow:
        steps += [DrnRotate(int(settings.rotate)), DrnZoom(zoom or (1.0, 1.0))]
    if settings.resize is not None:
        steps.append(ScaleToBox(settings.resize, settings.scale, settings.antialias))
    elif zoom is not None and not settings.pillow:
        steps.append(Zoom(zoom, settings.antialias))
    if settings.rotate and not settings.pillow:
        steps.append(Rotate(settings.rotate, padding))
    if settings.blur:
        steps.append(Blur())
    return steps


def _guard(settings: TransformSettings) -> Guard | None:
    # With a query class, labels are 0 and 1, and a large share of background is no reason to draw
    # again.
    if settings.min_positives:
        return KeepsQuery(settings.min_positives)
    if settings.max_class_share is not None:
        return NotOneClass(settings.max_class_share)
    return None
