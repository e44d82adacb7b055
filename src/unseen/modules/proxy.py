"""Attention between patches that look alike to another network (ProxyCLIP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 2**22
"""Attention weights that are held at once."""


def proxy_attention(
    features: Tensor, values: Tensor, *, beta: float, gamma: float, mean_over: str = "image"
) -> Tensor:
    """Values (B, N, C), each the mean of those of the patches that look alike (ProxyCLIP §3.2).

    With S the cosines of the features and μ their mean, the weights of a patch are the softmax of
    γ·(S - β·μ) over the patches where this is not negative. A patch always counts itself, also
    where a blank image leaves nothing else.

    Args:
        features: (B, N, F), of the other network.
        values: (B, N, C).
        beta: β, of the threshold.
        gamma: γ, inverse temperature.
        mean_over: Whether μ is that of an "image", or of the whole "batch".
    """
    batch, count = features.shape[:2]
    rows = max(1, AT_ONCE // (batch * count))
    # In float32: the threshold is a jump, over which rounding must not carry many patches.
    with torch.autocast(values.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1)
        # The mean of all products is the squared length of the mean vector.
        threshold = beta * unit.mean(dim=1).square().sum(dim=-1).view(-1, 1, 1)  # (B, 1, 1)
        if mean_over == "batch":
            threshold = threshold.mean(dim=0, keepdim=True)
        parts = []
        for start in range(0, count, rows):
            with torch.no_grad():
                scores = gamma * (unit[:, start : start + rows] @ unit.mT - threshold)
                weights = _softmax_above_0(scores, start)  # (B, rows, N)
            parts.append(weights @ values.float())
    return torch.cat(parts, dim=1)


def _softmax_above_0(scores: Tensor, start: int) -> Tensor:
    """The softmax of scores (B, rows, N), without those below 0 but for a patch's own.

    Args:
        scores: Overwritten.
        start: The patch of the first row.
    """
    own = scores.diagonal(start, dim1=1, dim2=2).clone()
    scores.masked_fill_(scores < 0, -torch.inf)
    scores.diagonal(start, dim1=1, dim2=2).copy_(own)
    return scores.softmax(dim=-1)
