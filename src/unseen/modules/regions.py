"""Region tokens of CLIP-RC (§3.2).

A lattice of tokens runs beside the patches of a ViT; each sees its own part of the image alone.
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
        _cells(patches, regions, whole_cells)
        for patches, regions in zip(grid, lattice, strict=True)
    )
    place = rows[:, None] * lattice[1] + columns
    outside = (rows[:, None] >= lattice[0]) | (columns >= lattice[1])
    return torch.where(outside, -1, place).flatten()


def _cells(patches: int, regions: int, whole: bool) -> Tensor:
    """The region of each patch along one side of the grid."""
    places = torch.arange(patches)
    if whole:
        return places // max(1, patches // regions)
    return places * regions // patches


def region_mask(front: int, owner: Tensor, count: int) -> Tensor:
    """Who may look at whom, (T, T) bool, True where allowed, over [front | patches | regions].

    Class token and prompts ("front") see all but the regions; a patch sees all patches, the front
    and its own region; a region sees its own patches and itself.

    Args:
        front: Tokens before the patches.
        owner: Region of every patch (`regions_of`).
        count: Regions.
    """
    device, total = owner.device, front + owner.shape[0] + count
    own = owner[:, None] == torch.arange(count, device=device)  # (N, R)
    mask = torch.ones(total, total, dtype=torch.bool, device=device)
    patches, regions = slice(front, total - count), slice(total - count, total)
    # Rows look, columns are looked at. Front and patches see each other everywhere.
    mask[:front, regions] = False
    mask[patches, regions] = own
    mask[regions, :front] = False
    mask[regions, patches] = own.T
    mask[regions, regions] = torch.eye(count, dtype=torch.bool, device=device)
    return mask
