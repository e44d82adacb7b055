"""Score maps at the size of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bilinear(maps: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Maps (B, K, H, W) float32 from (B, K, h, w), as `F.interpolate` resizes them.

    Args:
        maps: (B, K, h, w) of any floating dtype. Bilinear sums in bf16 would shift the borders
            between classes, so they are taken in float32, under autocast too.
        size: H and W.
        align_corners: Whether the first and last values lie on the first and last pixel.
    """
    if not (torch.is_grad_enabled() and maps.requires_grad):
        return F.interpolate(maps.float(), size, mode="bilinear", align_corners=align_corners)
    # The backward pass of interpolation is slow. Two products with the weights of rows and columns
    # have a fast one, though most of the weights are 0.
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (
            linear_weights(old, new, maps.device, align_corners=align_corners)
            for old, new in zip(maps.shape[-2:], size, strict=True)
        )
        return rows @ (maps.float() @ columns.mT)


def linear_weights(
    old: int, new: int, device: torch.device, *, align_corners: bool = False
) -> Tensor:
    """The share (new, old) float32 of each old value in each new one, by linear interpolation."""
    one_hot = torch.eye(old, device=device).unsqueeze(0)
    return F.interpolate(one_hot, new, mode="linear", align_corners=align_corners)[0].mT


def whole_patches(images: Tensor, patch: int) -> Tensor:
    """Images (…, H, W) without what is left of their sides after whole patches."""
    height, width = (max(patch, side // patch * patch) for side in images.shape[-2:])
    return images[..., :height, :width]
