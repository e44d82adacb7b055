"""Prior maps: how similar the patches of an image are to a prototype (ESDA)."""

from __future__ import annotations

from torch import Tensor

EPS = 1e-7


def prior_map(patches: Tensor, prototype: Tensor) -> Tensor:
    """Cosines (B, N) of patches with a prototype, stretched to 0..1 in every image.

    Args:
        patches: (B, N, C).
        prototype: (B, C); the map of a prototype of 0 is 0 everywhere.
    """
    patches, prototype = patches.float(), prototype.float()
    # Products and sums, not a matrix product: autocast would round that to bf16, and stretching
    # makes the rounding large.
    products = (patches * prototype.unsqueeze(1)).sum(dim=-1)
    cosine = products / (patches.norm(dim=-1) * prototype.norm(dim=-1, keepdim=True) + EPS)
    low, high = cosine.amin(dim=1, keepdim=True), cosine.amax(dim=1, keepdim=True)
    stretched: Tensor = (cosine - low) / (high - low + EPS)
    return stretched
