"""Position tables of vision transformers on other grids."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize_as_dino(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A table (1, C, h, w) on the grid `size`, as DINO, SCLIP, NACLIP and ClearCLIP resize it.

    Bicubic without anti-aliasing, by the factor (n + 0.1) / h: the small term, made against
    rounding errors, moves the grid a little.
    """
    height, width = table.shape[-2:]
    factors = ((size[0] + 0.1) / height, (size[1] + 0.1) / width)
    return F.interpolate(table, scale_factor=factors, mode="bicubic")
