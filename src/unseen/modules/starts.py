"""Where training starts: at random, or where classes are compared with patches without training."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

Start = Literal["aligned", "released"]

SPREAD = 2.0
"""Standard deviation of the logits that an aligned start begins with."""
PRIOR = -3.0
"""Their mean: most classes are absent from most pixels, so the sigmoids begin small."""


class AlignedStart(nn.Module):
    """A segmenter that can start as the comparison of patches with classes: logits s·cos + b.

    Attributes:
        logit_bias: b, learned; None where training starts at random.
        starts_from_images: Whether `start_from` looks at training images.
    """

    logit_bias: nn.Parameter | None
    starts_from_images: bool

    def set_start(self, start: Start) -> None:
        """Set the first values; called at the end of a constructor."""
        self.starts_from_images = start == "aligned"
        self.logit_bias = None
        if start == "aligned":
            self.logit_bias = nn.Parameter(torch.zeros(()))
            self.start_as_cosines()

    @abstractmethod
    def start_as_cosines(self) -> None:
        """Set the first values so that logits are products of classes and patches."""

    @abstractmethod
    def scale_logits(self, factor: float) -> None:
        """Change the first values so that the logits are larger by a factor."""

    @torch.no_grad()
    def start_from(self, images: Tensor, text: Any) -> None:
        """Set s and b by the logits of some training images, as `Segmenter.start_from` says."""
        assert self.logit_bias is not None
        factor, bias = logit_range(self(images, text).logits)
        self.scale_logits(factor)
        self.logit_bias.fill_(bias)

    def biased(self, logits: Tensor) -> Tensor:
        """Logits with b added."""
        return logits if self.logit_bias is None else logits + self.logit_bias


def logit_range(cosines: Tensor) -> tuple[float, float]:
    """The factor and the bias that bring cosines into a range where a sigmoid means something.

    Args:
        cosines: (B, K, h, w), of training images with classes.
    """
    mean, std = float(cosines.mean()), float(cosines.std())
    factor = SPREAD / max(std, 1e-6)
    return factor, PRIOR - factor * mean
