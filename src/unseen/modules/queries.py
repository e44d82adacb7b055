"""Queries of words that meet an image: what ZegCLIP calls the relationship descriptor and CLIP-RC
asks once a region.
"""

from __future__ import annotations

import torch
from torch import Tensor


def relationship(views: Tensor, words: Tensor) -> Tensor:
    """[v ⊙ t ; t] of every view of an image and every word, (B, R·K, 2D), view by view (ZegCLIP
    eq. 5).

    Args:
        views: (B, R, D), what the image is seen as: its class token (R = 1), or its regions.
        words: (K, D), unit.
    """
    words = words.to(views.dtype).expand(*views.shape[:2], -1, -1)  # (B, R, K, D)
    return torch.cat([views.unsqueeze(2) * words, words], dim=-1).flatten(1, 2)
