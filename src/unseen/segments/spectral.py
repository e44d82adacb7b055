"""Segments of an image from the eigenvectors of a graph of its patches, without labels.

Melas-Kyriazi et al., "Deep Spectral Methods", CVPR 2022, arXiv 2205.07839; SAZS (CVPR 2023, arXiv
2304.08491) reads their segments. The weight W of the edge between two patches is the cosine of
their features, negative ones set to 0, and D is the diagonal matrix of the row sums of W. The
eigenvectors of the smallest eigenvalues of (D - W) v = μ D v divide the image where the edges that
are cut weigh least, and v > 0 is a segment. The first, v₀, is constant: the whole image.

On the CPU only the upper triangle of W is ever stored. `unseen.segments.solvers` finds the vectors;
`benchmarks/spectral.py` compares it with the direct ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg.blas import ssyrk
from scipy.sparse import csr_array, triu
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from unseen.errors import DataError, SettingError
from unseen.segments.solvers import Floats, batched_eigenpairs, eigenpairs
from unseen.settings import SpectralSettings

NEIGHBOURS = ((20, 2.0), (10, 0.1))
"""Neighbours in colour: how many, and the weight of the position beside the colour."""


@dataclass(frozen=True)
class Spectrum:
    """The eigenvectors of one image.

    Attributes:
        eigenvalues: (K,) float32, ascending.
        eigenvectors: (K, N) float32, row-major over the grid.
        grid: Its height h and width w; N = h·w.
        covers: Height and width in pixels of the area of the grid, from the top left.
        size: Height and width of the image; a border narrower than a patch may lie outside the
            grid.
    """

    eigenvalues: Floats
    eigenvectors: Floats
    grid: tuple[int, int]
    covers: tuple[int, int]
    size: tuple[int, int]

    @cached_property
    def segments(self) -> Tensor:
        """The segments (K, H, W) bool: where a vector is positive, by nearest neighbour.

        The border outside the grid repeats the pixels beside it.
        """
        positive = torch.from_numpy(self.eigenvectors > 0).view(1, -1, *self.grid)
        inside = F.interpolate(positive.to(torch.uint8), self.covers, mode="nearest")[0]
        # Indices past the last row or column of the grid are that row or column again.
        rows, columns = (
            torch.arange(length).clamp(max=covered - 1)
            for length, covered in zip(self.size, self.covers, strict=True)
        )
        return inside[:, rows][:, :, columns].bool()


# ------------------------------------------------------------------------ graph


def affinity(features: Floats) -> Floats:
    """The weights W (N, N) in 0..1 between patches with unit features (N, C).

    Only the upper triangle is filled, the rest is 0.
    """
    weights: Floats = ssyrk(1.0, np.ascontiguousarray(features, dtype=np.float32).T, trans=1)
    np.maximum(weights, 0, out=weights)
    # The released code divides by the largest weight: 1, but for rounding and resized features.
    largest = weights.max()
    if largest > 0 and largest != 1:
        weights /= largest
    return weights


def colour_affinity(image: NDArray[np.uint8]) -> csr_array:
    """How often two pixels of an image are neighbours of each other in colour and position.

    Args:
        image: (h, w, 3).

    Returns:
        (h·w, h·w) of 0 to 4.
    """
    h, w = image.shape[:2]
    rows, columns = np.meshgrid(np.linspace(0, 1, h), np.linspace(0, 1, w), indexing="ij")
    count = h * w
    total = csr_array((count, count), dtype=np.float32)
    for neighbours, weight in NEIGHBOURS:
        # Pixels are points in five dimensions; the position counts as much as `weight` says.
        points = np.column_stack(
            [image.reshape(-1, 3) / 255, weight * columns.ravel(), weight * rows.ravel()]
        )
        k = min(neighbours, count)
        nearest = cKDTree(points).query(points, k=k)[1].reshape(-1)
        ones = np.ones(count * k, dtype=np.float32)
        edges = csr_array((ones, (np.repeat(np.arange(count), k), nearest)), shape=(count, count))
        # To be a neighbour is not mutual: the sum with the transpose is symmetric.
        total = total + edges + edges.T
    return csr_array(total)


def l2_normalize(features: Tensor) -> Tensor:
    """Features (…, N, C) with rows of length 1, float32.

    Raises:
        DataError: Values that are not finite.
    """
    if not torch.isfinite(features).all():
        raise DataError(
            "the features of the patches hold values that are not finite; check the weights of the"
            " network they come from"
        )
    return F.normalize(features.float(), dim=-1)


# ----------------------------------------------------------------------- images


def spectra(
    features: Tensor, images: Tensor, patch_size: int, settings: SpectralSettings
) -> list[Spectrum]:
    """The eigenvectors of images of one size.

    On an NVIDIA GPU all images are solved at once, unless the settings have edges by colour or no
    `lapnorm`; everything else is solved on the CPU.

    Args:
        features: (B, N, C), one row for each whole patch, row-major.
        images: (B, 3, H, W) uint8.
        patch_size: Side of a patch in pixels.
        settings: How the graph is built and cut.

    Raises:
        DataError: Images smaller than a patch, or features that are not finite.
        SettingError: Fewer patches than vectors, or a cell larger than the image.
    """
    height, width = images.shape[-2:]
    if min(height, width) < patch_size:
        raise DataError(
            f"the image is {width}x{height} pixels, smaller than one patch of {patch_size};"
            " enlarge it"
        )
    # The network sees whole patches alone; a border narrower than one has no features.
    grid = (height // patch_size, width // patch_size)
    covers = (grid[0] * patch_size, grid[1] * patch_size)
    features = l2_normalize(features)
    if settings.cell is not None:
        cells = (covers[0] // settings.cell, covers[1] // settings.cell)
        if min(cells) < 1:
            raise SettingError(
                f"cells of {settings.cell} pixels are larger than the image ({width}x{height});"
                " give a smaller one"
            )
        features, grid = _resize_features(features, grid, cells), cells
    # Of the other devices not all have the decompositions that the batched solver needs.
    if features.device.type == "cuda" and settings.lapnorm and settings.colour == 0:
        solved = list(zip(*batched_eigenpairs(features, settings.count), strict=True))
    else:
        solved = [
            _solve(rows, image, grid, settings)
            for rows, image in zip(features.cpu().numpy(), images, strict=True)
        ]
    return [Spectrum(*pair, grid, covers, (height, width)) for pair in solved]


def _resize_features(features: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Features (B, N, C) of a grid at another size; not normalised again, as in the released code.

    Bilinear interpolation shortens the vectors between unlike patches.
    """
    if size == grid:
        return features
    maps = features.transpose(1, 2).reshape(len(features), -1, *grid)  # (B, C, h, w)
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def _solve(
    features: Floats, image: Tensor, grid: tuple[int, int], settings: SpectralSettings
) -> tuple[Floats, Floats]:
    """The eigenpairs of one image (3, H, W) with unit features (N, C), on the CPU."""
    weights = affinity(features)
    if settings.colour > 0:
        colours = triu(colour_affinity(shrunk(image, grid)), format="csr")
        weights += settings.colour * colours.toarray()
    return eigenpairs(weights, settings.count, lapnorm=settings.lapnorm)


def shrunk(image: Tensor, grid: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (3, H, W) uint8 at the size of its grid, (h, w, 3), by Pillow's bilinear filter."""
    full = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    return np.asarray(full.resize((grid[1], grid[0]), Image.Resampling.BILINEAR))
