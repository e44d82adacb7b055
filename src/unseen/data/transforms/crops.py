"""The random crop, and the guards that refuse crops with too little to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unseen.data.transforms.padding import LabelledImage
from unseen.labels import BACKGROUND


class NotOneClass:
    """Refuses crops with a single class, or whose largest class covers too much.

    Pixels of no class (ignored, background that is not a class) do not count.

    Args:
        max_share: Upper limit of the largest class's share of the labelled pixels.
    """

    # The released code draws once, then again up to ten times.
    attempts = 11

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share

    def accepts(self, crop: Tensor, labels: Tensor) -> bool:
        """Whether a crop of `labels` is good enough."""
        # Labels from BACKGROUND on are special values: background, padding and ignored pixels.
        counts = crop.flatten().bincount(minlength=1)[:BACKGROUND]
        if (counts > 0).sum() <= 1:
            return False
        return bool(counts.max() < self.max_share * counts.sum())


class KeepsQuery:
    """Refuses crops that lose too many pixels of the query class, whose label is 1 (BAM).

    Args:
        min_share: The least share of the query class's pixels that a crop keeps.
    """

    # BAM draws once, then again up to thirty times.
    attempts = 31

    def __init__(self, min_share: float) -> None:
        self.min_share = min_share

    def accepts(self, crop: Tensor, labels: Tensor) -> bool:
        """Whether a crop of `labels` is good enough."""
        return bool((crop == 1).sum() >= self.min_share * (labels == 1).sum())


Guard = NotOneClass | KeepsQuery


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
        attempts, judged = 1, labels
        if self.guard is not None:
            # Bytes are counted fastest; no more classes than they hold are trained on.
            attempts, judged = self.guard.attempts, labels.to(torch.uint8)
        # The last crop is taken even if the guard refuses it, as in the released codes.
        for _ in range(attempts):
            # A smaller image is taken whole along that side; the number is drawn all the same.
            top = int(torch.randint(max(height - self.side, 0) + 1, ()))
            left = int(torch.randint(max(width - self.side, 0) + 1, ()))
            rows, columns = slice(top, top + self.side), slice(left, left + self.side)
            if self.guard is None or self.guard.accepts(judged[rows, columns], judged):
                break
        return image[:, rows, columns], labels[rows, columns]
