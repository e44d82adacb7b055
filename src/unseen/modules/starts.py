"""Where training starts: at random, or where classes are compared with patches without training."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Start = Literal["aligned", "released"]

SPREAD = 2.0
"""Standard deviation of the logits that an aligned start begins with."""
PRIOR = -3.0
"""Their mean: most classes are absent from most pixels, so the sigmoids begin small."""


def logit_range(cosines: Tensor) -> tuple[float, float]:
    """The factor and the bias that bring cosines into a range where a sigmoid means something.

    Args:
        cosines: (B, K, h, w), of training images with classes.
    """
    mean, std = float(cosines.mean()), float(cosines.std())
    factor = SPREAD / max(std, 1e-6)
    return factor, PRIOR - factor * mean
