"""An auto-annotation function of CVAT: masks of the classes you name, from any model of unseen.

Run: cvat-cli task auto-annotate TASK --function-file unseen_cvat.py \
         -p words=str:"cat,sofa" -p model=str:naclip -p clip=str:ViT-B-16-quickgelu/openai

The classes must be labels of the task, or give --allow-unmatched-labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import numpy as np
from cvat_sdk.masks import encode_mask
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import shapes

import unseen
from unseen.vocabulary import split_words


class Segmenting:
    """The masks of classes in an image, as CVAT asks a function for them.

    Args:
        words: Class names, separated by commas.
        model: A method without training, or a run folder.
        clip: The tower of a method without training; a run has its own.
    """

    def __init__(self, words: str, model: str, clip: str) -> None:
        names = split_words(words, "words")
        self.model = unseen.load(model, class_names=names, **({"clip": clip} if clip else {}))
        self.text = self.model.encode(names)
        labels = [cvataa.label_spec(name, i, type="mask") for i, name in enumerate(names)]
        self.spec = cvataa.DetectionFunctionSpec(labels=labels)

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image.Image) -> list[Any]:
        """A mask of each class that the image shows, or its outlines if CVAT asks for them."""
        result = self.model.segment_encoded(image, self.text, threshold=context.conf_threshold)
        found = []
        for number, name in enumerate(result.names):
            mask = result.mask(name)
            if not mask.any():
                continue
            if context.conv_mask_to_poly:
                found += [cvataa.polygon(number, points) for points in outlines(mask)]
            else:
                found.append(cvataa.mask(number, encode_mask(mask)))
        return found


def outlines(mask: NDArray[np.bool_]) -> Iterator[list[float]]:
    """The outer edges of the regions of a mask (H, W); CVAT's polygons have no holes."""
    for shape, _ in shapes(mask.view(np.uint8), mask=mask):
        yield [coordinate for corner in shape["coordinates"][0][:-1] for coordinate in corner]


def create(words: str, model: str = "naclip", clip: str = "") -> Segmenting:
    """What cvat-cli calls with the values of -p."""
    return Segmenting(words, model, clip)
