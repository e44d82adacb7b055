"""Eigenvectors of the graph of an image's patches: Lanczos on the CPU, LOBPCG in batches.

The smallest eigenvalues μ of (D - W) v = μ D v, for weights W and their row sums D, are found as
the largest θ = 1 - μ of A = D^-½ W D^-½, with vectors u = D^½ v: at that end the eigenvalues are
far apart, and iterations need no inverse. The eigenvector of θ = 1 is known, √D 1, and is projected
out. What an iteration does not solve goes to a dense solver.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import ssymv
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor
from torch.nn import functional as F

from unseen.errors import SettingError

Floats = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]]
DENSE_BELOW = 400
"""Graphs of fewer patches than this, or than four times the vectors, are solved densely, on the CPU
in double precision."""
RESIDUAL = 1e-5
"""Largest ‖A u - θ u‖ of a unit vector u that is accepted; others go to the dense solver."""
TIE = 2e-6
"""Eigenvalues of A that differ by no more than this count as equal."""
MIN_DEGREE = 1e-12
"""A patch whose edges weigh less in total counts as connected to itself alone, with weight 1."""


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
    # LAPACK numbers eigenvalues from the smallest and computes only those of the subset.
    subset = (n - count, n - 1)
    if smallest:
        subset = (0, count - 1)
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
    """As `affinity` and `eigenpairs`, for a batch of graphs of equal size, on any device.

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
    # A graph without edges is divided by the smallest number and stays 0.
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
    # Drawn on the CPU, where a seed gives the same numbers whatever the device.
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
    # A vector of NaNs counts as not converged.
    residual = (matrix @ vectors - values[:, None, :] * vectors).norm(dim=1).amax(dim=1)
    return values, vectors, residual.nan_to_num(nan=1.0) > RESIDUAL


def sign_and_trim(
    values: Numbers, vectors: Numbers, count: int, tie: float
) -> tuple[Floats, Floats]:
    """The first eigenpairs, with fixed signs, and 0 for vectors that are arbitrary.

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
