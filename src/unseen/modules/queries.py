"""Queries of classes that meet an image.

ZegCLIP calls them the relationship descriptor and makes one for each class; CLIP-RC makes one for
each class and region.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def relationship(views: Tensor, classes: Tensor) -> Tensor:
    """[v ⊙ t ; t] of every view of an image and every class, (B, R·K, 2D), view by view.

    ZegCLIP eq. 5.

    Args:
        views: (B, R, D): the image's class token (R = 1), or its regions.
        classes: Text features (K, D), unit vectors.
    """
    classes = classes.to(views.dtype).expand(*views.shape[:2], -1, -1)  # (B, R, K, D)
    return torch.cat([views.unsqueeze(2) * classes, classes], dim=-1).flatten(1, 2)


class RelationshipDescriptor(nn.Module):
    """Queries from classes and the image they meet: q = W_q [g ⊙ t ; t] + b_q (ZegCLIP eq. 5)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(2 * embed_dim, embed_dim)

    def forward(self, image: Tensor, classes: Tensor) -> Tensor:
        """Queries (B, K, D).

        Args:
            image: Class tokens (B, D), unit vectors.
            classes: Text features (K, D), unit vectors.
        """
        out: Tensor = self.q_proj(relationship(image.unsqueeze(1), classes))
        return out
