"""Segments of an image from the eigenvectors of a graph of its patches, without labels.

Melas-Kyriazi et al., "Deep Spectral Methods", CVPR 2022, arXiv 2205.07839; SAZS (CVPR 2023, arXiv
2304.08491) reads their segments. The weight W of the edge between two patches is the cosine of
their features, negative ones set to 0, and D is the diagonal matrix of the row sums of W. The
eigenvectors of the smallest eigenvalues of (D - W) v = μ D v divide the image where the edges that
are cut weigh least, and v > 0 is a segment. The first, v₀, is constant: the whole image.

On the CPU only the upper triangle of W is ever stored, and the Lanczos method runs on
A = D^-½ W D^-½, whose largest eigenvalues θ = 1 - μ are far apart; the known eigenvector of θ = 1
is projected out. `benchmarks/spectral.py` compares this with the direct ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import eigh
from scipy.linalg.blas import ssymv, ssyrk
from scipy.sparse import csr_array, triu
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from unseen.errors import DataError, SettingError

Floats = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]]
DENSE_BELOW = 400
"""Graphs of fewer patches than this, or than four times the vectors, are solved densely, on the CPU
in double precision."""
RESIDUAL = 1e-5
"""Largest ‖A u - θ u‖ of a unit vector u that is accepted; others go to the dense solver."""
TIE = 2e-6
"""Eigenvalues of A closer than this count as equal."""
MIN_DEGREE = 1e-12
"""A patch whose edges weigh less in total counts as connected to itself alone, with weight 1."""
NEIGHBOURS = ((20, 2.0), (10, 0.1))
"""Neighbours in colour: how many, and the weight of the position beside the colour."""


@dataclass(frozen=True)
class SpectralSettings:
    """How the graph of an image is built and cut.

    Attributes:
        count: K, the number of eigenvectors, the constant one included.
        colour: λ, the weight of the edges between neighbours in colour and position.
        lapnorm: Solve (D - W) v = μ D v; without it (D - W) v = μ v, which is dense and slow.
        cell: Side in pixels of a cell of the feature map, to which the features of the patches are
            resized (bilinear); None leaves patches.
    """

    count: int = 5
    colour: float = 0.0
    lapnorm: bool = True
    cell: int | None = None

    def __post_init__(self) -> None:
        """Refuse what has no solution.

        Raises:
            SettingError: A number out of range.
        """
        if self.count < 1:
            raise SettingError(f"the number of eigenvectors is {self.count}; give at least 1")
        if not 0 <= self.colour < np.inf:
            raise SettingError(f"the weight of colour is {self.colour}; give 0 or more")
        if self.cell is not None and self.cell < 1:
            raise SettingError(f"the cell is {self.cell} pixels; give at least 1")


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


# ---------------------------------------------------------------------- solvers


def eigenpairs(weights: Floats, count: int, *, lapnorm: bool = True) -> tuple[Floats, Floats]:
    """The eigenvectors of the smallest eigenvalues of a graph, on the CPU.

    Vectors satisfy vᵀ D v = 1 (vᵀ v = 1 without `lapnorm`), and their signs are fixed (`signed`).
    Where equal eigenvalues continue past the K-th, their vectors are arbitrary; they are set to 0,
    whose segment is empty: an image of one colour has v₀ alone.

    Args:
        weights: W (N, N), of which the upper triangle is read.
        count: K.
        lapnorm: As in `SpectralSettings`.

    Returns:
        Eigenvalues (K,), ascending, and eigenvectors (K, N).

    Raises:
        SettingError: Fewer patches than vectors.
    """
    n = len(weights)
    _check_patches(n, count)
    degrees: Floats = ssymv(1.0, weights, np.ones(n, dtype=np.float32))
    positive_degrees = np.where(degrees < MIN_DEGREE, 1, degrees)
    if not lapnorm:
        # One pair more than wanted shows whether the last eigenvalue is one of several equal ones.
        laplacian = np.diag(positive_degrees.astype(np.float64)) - weights
        values, vectors = _dense(laplacian, count + 1, smallest=True)
        tie = TIE * max(1.0, float(positive_degrees.max()))
        return sign_and_trim(values, vectors, count, tie)
    scale: Floats = (positive_degrees**-0.5).astype(np.float32)
    # √D 1 is the eigenvector of A with θ = 1; patches without edges are no part of it.
    constant = _unit(np.sqrt(degrees))
    solved = None
    if n >= max(DENSE_BELOW, 4 * count):
        solved = _lanczos(weights, scale, constant, count)
    if solved is None:
        # Subtracting 2 c cᵀ moves the eigenvalue of the constant vector from 1 to -1, the last.
        matrix = weights.astype(np.float64) * scale * scale[:, None]
        solved = _dense(matrix - 2 * np.outer(constant, constant), count)
    values, vectors = solved
    # u = D^½ v solves A u = (1 - μ) u.
    vectors = np.column_stack([constant, vectors]).astype(np.float32) * scale[:, None]
    return sign_and_trim(np.r_[0, 1 - values], vectors, count, TIE)


def _check_patches(patches: int, count: int) -> None:
    if patches < count:
        raise SettingError(
            f"an image of {patches} patches has no {count} eigenvectors; ask for fewer, or enlarge"
            " the image"
        )


def _dense(
    matrix: NDArray[np.float64], count: int, *, smallest: bool = False
) -> tuple[Numbers, Numbers]:
    """The outermost eigenpairs of a symmetric matrix, of which the upper triangle is read.

    Returns:
        The smallest eigenvalues ascending, or the largest descending, and their vectors as columns.
    """
    n = len(matrix)
    count = min(count, n)
    subset = (0, count - 1) if smallest else (n - count, n - 1)
    values, vectors = eigh(
        matrix,
        lower=False,
        subset_by_index=subset,
        overwrite_a=True,
        check_finite=False,
    )
    if smallest:
        return values, vectors
    return values[::-1], vectors[:, ::-1]


def _lanczos(
    weights: Floats, scale: Floats, constant: Floats, count: int
) -> tuple[Numbers, Numbers] | None:
    """The largest eigenpairs of A but for the constant one, which is moved to θ = -1.

    Returns:
        Eigenvalues descending and vectors as columns; None where they did not converge.
    """

    def multiply(x: NDArray[Any]) -> Floats:
        # (A - 2 c cᵀ) x, without A: scaling before and after the product with the upper triangle.
        x = x.ravel()
        y: Floats = scale * ssymv(1.0, weights, scale * x) - (2 * (constant @ x)) * constant
        return y

    n = len(weights)
    operator = LinearOperator((n, n), matvec=multiply, dtype=np.float32)
    # A fixed start, orthogonal to the constant vector: same features, same vectors.
    start = np.random.default_rng(0).standard_normal(n, dtype=np.float32)
    try:
        values, vectors = eigsh(
            operator,
            k=count,
            which="LA",
            v0=start - (constant @ start) * constant,
            ncv=2 * count + 8,
            tol=RESIDUAL / 10,
            maxiter=40,
        )
    except ArpackError:
        return None
    # ARPACK's own test is relative and in single precision: residuals and angles are measured.
    residual = max(
        float(np.linalg.norm(multiply(u) - theta * u))
        for theta, u in zip(values, vectors.T, strict=True)
    )
    orthogonal = np.abs(vectors.T @ vectors - np.eye(count)).max() < RESIDUAL
    if residual < RESIDUAL and orthogonal:
        return values[::-1], vectors[:, ::-1]
    return None


@torch.no_grad()
def batched_eigenpairs(features: Tensor, count: int) -> tuple[Floats, Floats]:
    """As `affinity` and `eigenpairs`, for a batch of graphs of one size, on any device.

    Small graphs are solved densely, larger ones by LOBPCG; images whose vectors it leaves with a
    residual go to the dense solver.

    Args:
        features: (B, N, C), rows of length 1.
        count: K.

    Returns:
        Eigenvalues (B, K) and eigenvectors (B, K, N).

    Raises:
        SettingError: Fewer patches than vectors.
    """
    batch, n = features.shape[:2]
    _check_patches(n, count)
    weights = (features @ features.transpose(1, 2)).clamp_(min=0)
    weights /= weights.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    degrees = weights.sum(dim=2)
    scale = torch.where(degrees < MIN_DEGREE, 1.0, degrees) ** -0.5
    constant = F.normalize(degrees.sqrt(), dim=1)
    # A with the eigenvalue of the constant vector moved from 1 to -1, as in `eigenpairs`.
    matrix = (
        scale[:, :, None] * weights * scale[:, None, :]
        - 2 * constant[:, :, None] * constant[:, None, :]
    )
    wanted = min(count, n)
    values = features.new_zeros(batch, wanted)
    vectors = features.new_zeros(batch, n, wanted)
    unsolved = torch.ones(batch, dtype=torch.bool, device=features.device)
    if n >= max(DENSE_BELOW, 4 * count):
        solved = _lobpcg(matrix, wanted)
        if solved is not None:
            values, vectors, unsolved = solved
    if unsolved.any():
        all_values, all_vectors = torch.linalg.eigh(matrix[unsolved])
        values[unsolved] = all_values[:, -wanted:].flip(1)
        vectors[unsolved] = all_vectors[:, :, -wanted:].flip(2)
    # Back from u = D^½ v to v, and from θ to μ = 1 - θ, the constant vector with μ = 0 first.
    vectors = torch.cat([constant[:, :, None], vectors], dim=2) * scale[:, :, None]
    values = F.pad(1 - values, (1, 0))
    pairs = [
        sign_and_trim(image_values.numpy(), image_vectors.numpy(), count, TIE)
        for image_values, image_vectors in zip(values.cpu(), vectors.cpu(), strict=True)
    ]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def _lobpcg(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """The largest eigenpairs of matrices (B, N, N), and which of the B did not converge.

    Returns:
        (B, K) descending, (B, N, K) and (B,) bool; None where the method broke down.
    """
    batch, n = matrix.shape[:2]
    start = torch.randn(n, count, generator=torch.Generator().manual_seed(0)).to(matrix)
    try:
        values, vectors = torch.lobpcg(
            matrix,
            k=count,
            X=start.expand(batch, -1, -1).contiguous(),
            largest=True,
            niter=100,
            tol=RESIDUAL / 10,
        )
    except RuntimeError:
        return None
    residual = (matrix @ vectors - values[:, None, :] * vectors).norm(dim=1).amax(dim=1)
    return values, vectors, residual.nan_to_num(nan=1.0) > RESIDUAL


def sign_and_trim(
    values: Numbers, vectors: Numbers, count: int, tie: float
) -> tuple[Floats, Floats]:
    """The first eigenpairs, with fixed signs, and without vectors that could be any.

    Args:
        values: Ascending; K, or one more.
        vectors: Their vectors, as columns.
        count: K.
        tie: Eigenvalues closer than this count as equal.

    Returns:
        Eigenvalues (K,) and eigenvectors (K, N).
    """
    rows = signed(np.ascontiguousarray(vectors.T[:count], dtype=np.float32))
    if len(values) > count:
        # Equal eigenvalues on both sides of the cut: any rotation of their vectors is a solution.
        rows[np.abs(values[:count] - values[count]) <= tie] = 0
    return values[:count].astype(np.float32), rows


def signed(vectors: Floats) -> Floats:
    """Vectors (K, N) with definite signs: the smaller part of the image is positive.

    The released rule turns a vector that is positive on more than half of the patches, but not on
    all. It leaves two cases open: here a vector of one sign is made positive, and one that is
    positive on exactly half is made negative at the first patch where it is not 0.
    """
    rows = vectors.copy()
    for row in rows:
        positive, n = int((row > 0).sum()), row.size
        # The first value that is not 0; 0 for a vector of zeros.
        first = row[np.flatnonzero(row)[:1]].sum()
        larger_part = n / 2 < positive < n
        all_negative = positive == 0 and first < 0
        half = 2 * positive == n and first > 0
        if larger_part or all_negative or half:
            row *= -1
    return rows


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if length > 0:
        return vector / np.float32(length)
    return vector


# ----------------------------------------------------------------------- images


def spectra(
    features: Tensor, images: Tensor, patch_size: int, settings: SpectralSettings
) -> list[Spectrum]:
    """The eigenvectors of images of one size.

    On an NVIDIA GPU all images are solved at once, unless colour or the Laplacian without `lapnorm`
    is asked for; everything else is solved on the CPU.

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
