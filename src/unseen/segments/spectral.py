"""Segments of an image from the eigenvectors of a graph of its patches, without words and without
labels.

Melas-Kyriazi et al., "Deep Spectral Methods", CVPR 2022, arXiv 2205.07839; SAZS (CVPR 2023, arXiv
2304.08491) reads their segments. Patches are joined by W, the cosine of their features with
negatives cut, and D holds W's row sums; the smallest solutions of (D - W) v = μ D v cut the image
where the fewest joints break, and v > 0 is a segment. v₀ is constant: everything.

On the CPU, W is only ever held as its upper triangle, and Lanczos runs on A = D^-½ W D^-½, whose
largest eigenvalues θ = 1 - μ are far apart, with the known vector of θ = 1 taken out.
`benchmarks/spectral.py` compares it with the plain ways.
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
"""Fewer patches than this, or than four a vector, are solved densely, on CPUs in double
precision."""
RESIDUAL = 1e-5
"""The most ‖A u - θ u‖ may be for unit u; what is above goes to the dense solver."""
TIE = 2e-6
"""Eigenvalues of A closer than this count as one."""
NO_JOINTS = 1e-12
"""A patch whose joints sum to less counts as joined to itself alone, by 1."""
NEIGHBOURS = ((20, 2.0), (10, 0.1))
"""Colour neighbours: how many, and the weight of the position beside the colour."""


@dataclass(frozen=True)
class SpectralSettings:
    """How an image's graph is made and cut.

    Attributes:
        count: K, eigenvectors, the constant one included.
        colour: λ, weight of the joints between neighbours in colour and position.
        lapnorm: Solve (D - W) v = μ D v; without, (D - W) v = μ v, which is dense and slow.
        cell: Side in pixels of a cell of the feature map, to which the patches' features are
            resized (bilinear); None leaves patches.
    """

    count: int = 5
    colour: float = 0.0
    lapnorm: bool = True
    cell: int | None = None

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        if self.count < 1:
            raise SettingError(f"{self.count} eigenvectors are asked for; give at least 1")
        if not 0 <= self.colour < np.inf:
            raise SettingError(f"the weight of colour is {self.colour}; give 0 or more")
        if self.cell is not None and self.cell < 1:
            raise SettingError(f"the cell is {self.cell} pixels; give at least 1")


@dataclass(frozen=True)
class Spectrum:
    """The solutions for one image.

    Attributes:
        eigenvalues: (K,) float32, ascending.
        eigenvectors: (K, N) float32, row-major over the grid.
        grid: h and w; N = h·w.
        covers: Height and width in pixels the grid lies over, from the top left.
        size: Of the image; a rim smaller than a patch may lie outside the grid.
    """

    eigenvalues: Floats
    eigenvectors: Floats
    grid: tuple[int, int]
    covers: tuple[int, int]
    size: tuple[int, int]

    @cached_property
    def segments(self) -> Tensor:
        """(K, H, W) bool: where a vector is positive, nearest neighbour; the rim repeats the pixels
        beside it.
        """
        small = torch.from_numpy(self.eigenvectors > 0).view(1, -1, *self.grid).to(torch.uint8)
        inside = F.interpolate(small, self.covers, mode="nearest")[0]
        rows, columns = (
            torch.arange(n).clamp(max=covered - 1)
            for n, covered in zip(self.size, self.covers, strict=True)
        )
        return inside[:, rows][:, :, columns].bool()


# ------------------------------------------------------------------------ graph


def affinity(features: Floats) -> Floats:
    """Joints (N, N) between rows (N, C) of length 1, 0..1; the upper triangle alone, the rest is
    0.
    """
    joints: Floats = ssyrk(1.0, np.ascontiguousarray(features, dtype=np.float32).T, trans=1)
    np.maximum(joints, 0, out=joints)
    top = joints.max()
    if top > 0 and top != 1:
        joints /= top
    return joints


def colour_affinity(image: NDArray[np.uint8]) -> csr_array:
    """How often two pixels of an image (h, w, 3) are among each other's neighbours in colour and
    position (N, N): 0 to 4.
    """
    h, w = image.shape[:2]
    rows, columns = np.meshgrid(np.linspace(0, 1, h), np.linspace(0, 1, w), indexing="ij")
    count = h * w
    total = csr_array((count, count), dtype=np.float32)
    for neighbours, weight in NEIGHBOURS:
        points = np.column_stack(
            [image.reshape(-1, 3) / 255, weight * columns.ravel(), weight * rows.ravel()]
        )
        k = min(neighbours, count)
        nearest = cKDTree(points).query(points, k=k)[1].reshape(-1)
        found = csr_array(
            (np.ones(count * k, dtype=np.float32), (np.repeat(np.arange(count), k), nearest)),
            shape=(count, count),
        )
        total = total + found + found.T
    return csr_array(total)


def rows_of(features: Tensor) -> Tensor:
    """Features (…, N, C) made unit, float32.

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


def eigenpairs(joints: Floats, count: int, *, lapnorm: bool = True) -> tuple[Floats, Floats]:
    """The `count` smallest solutions, eigenvalues (K,) ascending and eigenvectors (K, N), of joints
    whose upper triangle is read.

    Vectors satisfy vᵀ D v = 1 (vᵀ v = 1 without `lapnorm`). Their signs are fixed (`signed`). Where
    equal eigenvalues go on past the K-th, their vectors could be any; they are 0 then, whose
    segment is empty: an image of one colour has v₀ and nothing else.

    Raises:
        SettingError: Fewer patches than vectors.
    """
    n = len(joints)
    if n < count:
        raise SettingError(
            f"the image has {n} patches and so no {count} eigenvectors; ask for fewer, or enlarge"
            " the image"
        )
    degrees: Floats = ssymv(1.0, joints, np.ones(n, dtype=np.float32))
    if not lapnorm:
        degrees = np.where(degrees < NO_JOINTS, 1, degrees)
        values, vectors = _dense(
            np.diag(degrees.astype(np.float64)) - joints, count + 1, smallest=True
        )
        return _finished(values, vectors, count, TIE * max(1.0, float(degrees.max())))
    scale: Floats = (np.where(degrees < NO_JOINTS, 1, degrees) ** -0.5).astype(np.float32)
    constant = _unit(
        np.sqrt(degrees)
    )  # A has it with θ = 1; patches without joints are no part of it
    found = _lanczos(joints, scale, constant, count) if n >= max(DENSE_BELOW, 4 * count) else None
    values, vectors = found or _dense(
        joints.astype(np.float64) * scale * scale[:, None] - 2 * np.outer(constant, constant), count
    )
    return _finished(
        np.r_[0, 1 - values],
        np.column_stack([constant, vectors]).astype(np.float32) * scale[:, None],
        count,
        TIE,
    )


def _dense(
    matrix: NDArray[np.float64], count: int, *, smallest: bool = False
) -> tuple[Numbers, Numbers]:
    """The outermost eigenpairs of a symmetric matrix whose upper triangle is read: the smallest
    ascending, or the largest descending.
    """
    n = len(matrix)
    count = min(count, n)
    values, vectors = eigh(
        matrix,
        lower=False,
        subset_by_index=(0, count - 1) if smallest else (n - count, n - 1),
        overwrite_a=True,
        check_finite=False,
    )
    return (values, vectors) if smallest else (values[::-1], vectors[:, ::-1])


def _lanczos(
    joints: Floats, scale: Floats, constant: Floats, count: int
) -> tuple[Numbers, Numbers] | None:
    """The largest eigenpairs of A beside the constant one, which is moved to θ = -1, descending;
    None where they did not converge.
    """

    def times(x: NDArray[Any]) -> Floats:
        x = x.ravel()
        y: Floats = scale * ssymv(1.0, joints, scale * x) - (2 * (constant @ x)) * constant
        return y

    n = len(joints)
    operator = LinearOperator((n, n), matvec=times, dtype=np.float32)
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
    worst = max(
        float(np.linalg.norm(times(u) - theta * u))
        for theta, u in zip(values, vectors.T, strict=True)
    )
    aligned = np.abs(vectors.T @ vectors - np.eye(count)).max() < RESIDUAL
    return (values[::-1], vectors[:, ::-1]) if worst < RESIDUAL and aligned else None


@torch.no_grad()
def batched_eigenpairs(features: Tensor, count: int) -> tuple[Floats, Floats]:
    """As `affinity` and `eigenpairs`, for a batch (B, N, C) of unit rows on any device: eigenvalues
    (B, K), eigenvectors (B, K, N).

    Small graphs are solved densely, larger ones by LOBPCG; images whose vectors it leaves with a
    residual go to the dense solver.
    """
    n = features.shape[1]
    if n < count:
        raise SettingError(
            f"the images have {n} patches and so no {count} eigenvectors; ask for fewer, or"
            " enlarge the images"
        )
    joints = (features @ features.transpose(1, 2)).clamp_(min=0)
    joints /= joints.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(joints.dtype).tiny)
    degrees = joints.sum(dim=2)
    scale = torch.where(degrees < NO_JOINTS, 1.0, degrees) ** -0.5
    constant = F.normalize(degrees.sqrt(), dim=1)
    matrix = (
        scale[:, :, None] * joints * scale[:, None, :]
        - 2 * constant[:, :, None] * constant[:, None, :]
    )
    wanted = min(count, n)
    values, vectors = (
        features.new_zeros(len(features), wanted),
        features.new_zeros(len(features), n, wanted),
    )
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    if n >= max(DENSE_BELOW, 4 * count):
        start = torch.randn(n, wanted, generator=torch.Generator().manual_seed(0)).to(features)
        try:
            values, vectors = torch.lobpcg(
                matrix,
                k=wanted,
                X=start.expand(len(features), -1, -1).contiguous(),
                largest=True,
                niter=100,
                tol=RESIDUAL / 10,
            )
            left = (matrix @ vectors - values[:, None, :] * vectors).norm(dim=1).amax(
                dim=1
            ).nan_to_num(nan=1.0) > RESIDUAL
        except RuntimeError:
            pass  # all of them are left
    if left.any():
        all_values, all_vectors = torch.linalg.eigh(matrix[left])
        values[left], vectors[left] = (
            all_values[:, -wanted:].flip(1),
            all_vectors[:, :, -wanted:].flip(2),
        )
    solved = torch.cat([constant[:, :, None], vectors], dim=2) * scale[:, :, None]
    solved, values = solved.cpu(), F.pad(1 - values, (1, 0)).cpu()
    pairs = [
        _finished(mine.numpy(), theirs.numpy(), count, TIE)
        for mine, theirs in zip(values, solved, strict=True)
    ]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def _finished(values: Numbers, vectors: Numbers, count: int, tie: float) -> tuple[Floats, Floats]:
    """Eigenvalues (K,) and signed eigenvectors (K, N) from columns that may hold one more;
    arbitrary vectors become 0.
    """
    rows = signed(np.ascontiguousarray(vectors.T[:count], dtype=np.float32))
    if len(values) > count:
        rows[np.abs(values[:count] - values[count]) <= tie] = 0
    return values[:count].astype(np.float32), rows


def signed(vectors: Floats) -> Floats:
    """Vectors (K, N) with the released rule's signs (the smaller part is positive) where it has
    none made definite.

    The released rule turns a vector that is positive on more than half of the patches, but not on
    all. Besides, a vector of one sign is made positive, and one that is positive on exactly half is
    negative at the first patch where it is not 0.
    """
    rows = vectors.copy()
    for row in rows:
        positive, n = int((row > 0).sum()), row.size
        first = row[np.flatnonzero(row)[:1]].sum()
        if (
            n / 2 < positive < n
            or (positive == 0 and first < 0)
            or (2 * positive == n and first > 0)
        ):
            row *= -1
    return rows


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return vector / np.float32(length) if length > 0 else vector


# --------------------------------------------------------------------- images


def spectra(
    features: Tensor, images: Tensor, patch_size: int, settings: SpectralSettings
) -> list[Spectrum]:
    """The solutions for images of one size; on a GPU all at once, unless colour or the plain
    Laplacian is asked for.

    Args:
        features: (B, N, C), one row for each whole patch, row-major.
        images: (B, 3, H, W) uint8.
        patch_size: Side of a patch in pixels.
        settings: How.

    Raises:
        DataError: Images smaller than a patch, or features that are not finite.
        SettingError: Fewer patches than vectors.
    """
    size = (images.shape[-2], images.shape[-1])
    if min(size) < patch_size:
        raise DataError(
            f"the image is {size[1]}x{size[0]} pixels, smaller than one patch of {patch_size};"
            " enlarge it"
        )
    grid = (size[0] // patch_size, size[1] // patch_size)
    covers = (grid[0] * patch_size, grid[1] * patch_size)
    rows = rows_of(features)
    if settings.cell is not None:
        shape = (covers[0] // settings.cell, covers[1] // settings.cell)
        if min(shape) < 1:
            raise SettingError(
                f"cells of {settings.cell} pixels are larger than the image"
                f" ({size[1]}x{size[0]}); give a smaller one"
            )
        if shape != grid:  # not made unit again, as in the released recipe
            maps = rows.transpose(1, 2).reshape(len(rows), -1, *grid)  # (B, C, h, w)
            rows = (
                F.interpolate(maps, shape, mode="bilinear", align_corners=False)
                .flatten(2)
                .transpose(1, 2)
            )
        grid = shape
    if rows.device.type != "cpu" and settings.lapnorm and settings.colour == 0:
        found = zip(*batched_eigenpairs(rows, settings.count), strict=True)
        return [Spectrum(values, vectors, grid, covers, size) for values, vectors in found]
    solved = []
    for mine, image in zip(rows.cpu().numpy(), images, strict=True):
        joints = affinity(mine)
        if settings.colour > 0:
            joints += (
                settings.colour * triu(colour_affinity(shrunk(image, grid)), format="csr").toarray()
            )
        solved.append(
            Spectrum(
                *eigenpairs(joints, settings.count, lapnorm=settings.lapnorm), grid, covers, size
            )
        )
    return solved


def shrunk(image: Tensor, grid: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (3, H, W) uint8 at the size of its grid, (h, w, 3) uint8, by Pillow's bilinear
    filter.
    """
    whole = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    return np.asarray(whole.resize((grid[1], grid[0]), Image.Resampling.BILINEAR))
