"""Region tokens: a lattice of tokens beside the patches of a ViT, each of which sees its own part
of the image alone (CLIP-RC §3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor


def regions_of(
    grid: tuple[int, int], lattice: tuple[int, int], *, whole_cells: bool = False
) -> Tensor:
    """The region of every patch, (h·w,) int64, row by row; regions are numbered row by row too.

    The lattice is laid over the grid evenly; where it does not divide it, parts differ by one row
    or column.

    Args:
        grid: Patches down and across.
        lattice: Regions down and across.
        whole_cells: Cells of ⌊h/r⌋ by ⌊w/r⌋ patches, as released; trailing rows and columns belong
            to no region (-1).
    """
    rows, columns = (
        torch.arange(n) // max(1, n // r) if whole_cells else torch.arange(n) * r // n
        for n, r in zip(grid, lattice, strict=True)
    )
    place = rows[:, None] * lattice[1] + columns
    outside = (rows[:, None] >= lattice[0]) | (columns >= lattice[1])
    return torch.where(outside, -1, place).flatten()


def region_mask(front: int, owner: Tensor, count: int) -> Tensor:
    """Who may look at whom, (T, T) bool, True where allowed, over [front | patches | regions].

    Class token and prompts ("front") see all but the regions; a patch sees all patches, the front
    and its own region; a region sees its own patches and itself.

    Args:
        front: Tokens before the patches.
        owner: Region of every patch (`regions_of`).
        count: Regions.
    """
    patches, device = len(owner), owner.device
    mask = torch.ones(
        front + patches + count, front + patches + count, dtype=torch.bool, device=device
    )
    own = owner[:, None] == torch.arange(count, device=device)  # (N, R)
    mask[:front, front + patches :] = False
    mask[front : front + patches, front + patches :] = own
    mask[front + patches :, :front] = False
    mask[front + patches :, front : front + patches] = own.T
    mask[front + patches :, front + patches :] = torch.eye(count, dtype=torch.bool, device=device)
    return mask
