"""Eigenvectors of the patch graph: the released ones (sazs_eig), solvers, degenerate images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import golden
from unseen.errors import DataError, SettingError
from unseen.segments import solvers
from unseen.segments.solvers import batched_eigenpairs, eigenpairs, signed
from unseen.segments.spectral import (
    SpectralSettings,
    Spectrum,
    affinity,
    colour_affinity,
    l2_normalize,
    shrunk,
    spectra,
)

TOLERANCE = 1e-5  # suggested with the fixtures, up to sign
VARIANTS = {
    "default": SpectralSettings(),
    "nolapnorm": SpectralSettings(lapnorm=False),
    "color_knn": SpectralSettings(colour=10),
    "up8": SpectralSettings(cell=8),
}


def smooth(h: int, w: int, channels: int = 64, seed: int = 0) -> Tensor:
    """Unit rows (h·w, channels) of a smooth field with noise: few clear segments."""
    generator = torch.Generator().manual_seed(seed)
    field = (
        F.interpolate(torch.randn(1, channels, 4, 4, generator=generator), (h, w), mode="bicubic")[
            0
        ]
        .flatten(1)
        .T
    )
    return l2_normalize(field + 0.05 * torch.randn(h * w, channels, generator=generator))


def spectrum(
    features: Tensor, image: Tensor, patch_size: int, settings: SpectralSettings
) -> Spectrum:
    return spectra(features[None], image[None], patch_size, settings)[0]


def off(ours: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two vectors, up to sign."""
    return float(min(np.abs(ours - expected).max(), np.abs(ours + expected).max()))


# ----------------------------------------------------------------------- parity


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return golden("sazs_eig")[0]


def test_affinity_and_colours_are_the_released_ones(released: dict[str, Tensor]) -> None:
    weights = affinity(l2_normalize(released["features"]).numpy())
    assert np.abs(weights - np.triu(released["default.affinity"].numpy())).max() <= 1e-6
    lowres = shrunk(released["image_jpg_decoded"].permute(2, 0, 1), (6, 8))
    assert np.array_equal(lowres, released["color_knn.image_lowres"].numpy())
    assert np.array_equal(colour_affinity(lowres).toarray(), released["color_knn.W_color"].numpy())


@pytest.mark.parametrize("name", VARIANTS)
def test_eigenvectors_are_the_released_ones(name: str, released: dict[str, Tensor]) -> None:
    """Equal up to sign and to the error of the released vector.

    That error is its residual over the gap to the next eigenvalue (ARPACK in single precision).
    """
    image = released["image_jpg_decoded"].permute(2, 0, 1)
    ours = spectrum(released["features"], image, 16, VARIANTS[name])
    values, vectors = (
        released[f"{name}.eigenvalues"].numpy(),
        released[f"{name}.eigenvectors"].numpy(),
    )
    assert np.abs(ours.eigenvalues - values).max() <= TOLERANCE
    slack = np.zeros(5)
    if name == "nolapnorm":
        weights = released["default.affinity"].double().numpy()
        laplacian = np.diag(weights.sum(1)) - weights
        exact = np.linalg.eigvalsh(laplacian)
        released_residual, our_residual = (
            np.linalg.norm(laplacian @ v.T - v.T * values, axis=0)
            for v in (vectors.astype(float), ours.eigenvectors.astype(float))
        )
        assert our_residual[4] < released_residual[4]
        slack[4] = released_residual[4] / min(exact[4] - exact[3], exact[5] - exact[4])
        assert slack[4] < 3e-4
    assert [
        off(own, other) <= max(TOLERANCE, room)
        for own, other, room in zip(ours.eigenvectors, vectors, slack, strict=True)
    ] == [True] * 5


def test_segments_are_the_released_ones(released: dict[str, Tensor]) -> None:
    image = released["image_jpg_decoded"].permute(2, 0, 1)
    ours = spectrum(released["features"], image, 16, SpectralSettings())
    small = torch.from_numpy(ours.eigenvectors > 0).view(5, 6, 8)
    assert torch.equal(small[1:], released["default.segments"][1:].bool())
    assert small[0].all(), "the constant vector is positive, whatever sign the released code's had"
    assert ours.segments.shape == (5, 101, 137)
    assert torch.equal(
        ours.segments[:, :96, :128], small.repeat_interleave(16, 1).repeat_interleave(16, 2)
    )
    assert torch.equal(ours.segments[:, 96:, :], ours.segments[:, 95:96, :].expand(-1, 5, -1)), (
        "the rim repeats"
    )
    assert torch.equal(ours.segments[:, :, 128:], ours.segments[:, :, 127:128].expand(-1, -1, 9))


# ---------------------------------------------------------------------- solvers


def dense(
    features: Tensor, count: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    with monkeypatch.context() as patch:
        patch.setattr(solvers, "DENSE_BELOW", 10**9)
        return eigenpairs(affinity(features.numpy()), count)


@pytest.mark.parametrize("shape", [(20, 21), (30, 40)])
def test_lanczos_finds_what_the_dense_solver_finds(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = smooth(*shape)
    values, vectors = eigenpairs(affinity(features.numpy()), 5)
    exact, expected = dense(features, 5, monkeypatch)
    assert np.abs(values - exact).max() <= TOLERANCE
    assert np.abs(vectors - expected).max() <= TOLERANCE, "signs too"
    weights = (features @ features.T).clamp(min=0).double().numpy()
    degrees = weights.sum(1)
    residual = (
        np.diag(degrees) @ vectors.T - weights @ vectors.T - degrees[:, None] * vectors.T * values
    )
    assert np.abs(residual).max() < 1e-4 * degrees.max() ** 0.5
    assert np.abs(vectors * degrees @ vectors.T - np.eye(5)).max() < 1e-4


@pytest.mark.parametrize("n", [144, 900])
def test_batched_solver_finds_the_same(n: int) -> None:
    features = torch.stack([smooth(n // 12, 12, seed=seed) for seed in (0, 1)])
    values, vectors = batched_eigenpairs(features, 5)
    for value, vector, rows in zip(values, vectors, features, strict=True):
        alone = eigenpairs(affinity(rows.numpy()), 5)
        assert np.abs(value - alone[0]).max() <= TOLERANCE
        assert np.abs(vector - alone[1]).max() <= TOLERANCE


def test_batched_solver_falls_back_to_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    features = smooth(20, 21)[None]
    expected = batched_eigenpairs(features, 5)

    def poor(matrix: Tensor, k: int, X: Tensor, **_: object) -> tuple[Tensor, Tensor]:  # noqa: N803
        return torch.ones(len(matrix), k), F.normalize(X, dim=1)

    monkeypatch.setattr(torch, "lobpcg", poor)
    fallback = batched_eigenpairs(features, 5)
    assert np.abs(fallback[1] - expected[1]).max() <= TOLERANCE


def test_vectors_that_did_not_converge_are_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    features = smooth(20, 21)
    expected = eigenpairs(affinity(features.numpy()), 5)

    def poor(
        operator: object, k: int, v0: np.ndarray, **_: object
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.linspace(0.1, 0.9, k, dtype=np.float32), np.eye(len(v0), k, dtype=np.float32)

    def none(*_: object, **__: object) -> None:
        raise solvers.ArpackError(-9999)

    for broken in (poor, none):
        monkeypatch.setattr(solvers, "eigsh", broken)
        fallback = eigenpairs(affinity(features.numpy()), 5)
        assert np.abs(fallback[1] - expected[1]).max() <= TOLERANCE


def test_equal_eigenvalues_are_all_found() -> None:
    """Two unconnected copies of an image have pairs of equal eigenvalues.

    A single Krylov space holds one vector of every pair in exact arithmetic.
    """
    half = smooth(15, 20)
    values, _ = eigenpairs(affinity(torch.block_diag(half, half).numpy()), 6)
    assert np.abs(values[0::2] - values[1::2]).max() < TOLERANCE
    assert values[2] > 0.01


def test_same_features_same_vectors() -> None:
    for n in (10, 25):
        weights = affinity(smooth(20, n).numpy())
        first, second = (eigenpairs(weights.copy(), 5) for _ in range(2))
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])


def test_signs_follow_a_fixed_rule() -> None:
    rows = np.array(
        [
            [1, 1, 1, -1],
            [1, 1, 1, 1],
            [-1, -1, -1, -1],
            [1, 1, -1, -1],
            [-1, 1, 1, -1],
            [0, 1, -1, 0],
            [0, 0, 0, 0],
        ],
        dtype=np.float32,
    )
    expected = [
        [-1, -1, -1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [-1, -1, 1, 1],
        [-1, 1, 1, -1],
        [0, 1, -1, 0],
        [0, 0, 0, 0],
    ]
    assert signed(rows).tolist() == expected
    assert rows[0, 0] == 1, "the given vectors stay as they are"


# ------------------------------------------------------------------- degenerate


@pytest.mark.parametrize("lapnorm", [True, False])
@pytest.mark.parametrize("n", [9, 420])
def test_an_image_of_one_colour_has_the_constant_vector_alone(n: int, lapnorm: bool) -> None:
    values, vectors = eigenpairs(
        affinity(l2_normalize(torch.ones(n, 8)).numpy()), 5, lapnorm=lapnorm
    )
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(0, abs=1e-4)
    assert (vectors[0] > 0).all()
    assert not vectors[1:].any(), (
        "all other vectors have one eigenvalue and could be any: none is returned, and their"
        " segments are empty"
    )


def test_an_image_of_two_colours_has_one_cut() -> None:
    features = torch.tensor([[1.0, 0.2], [0.2, 1.0]])[torch.arange(450) % 2]
    _, vectors = eigenpairs(affinity(l2_normalize(features).numpy()), 5)
    assert (vectors[1] > 0).tolist() == [False, True] * 225
    assert not vectors[2:].any()


@pytest.mark.parametrize("n", [6, 500])
def test_patches_without_features(n: int) -> None:
    features = smooth(n, 1)
    features[1] = 0
    values, vectors = eigenpairs(affinity(features.numpy()), 4)
    assert np.isfinite(values).all()
    assert np.isfinite(vectors).all()
    nothing = eigenpairs(affinity(np.zeros((n, 4), dtype=np.float32)), 4)
    assert np.isfinite(nothing[0]).all()
    assert not nothing[1][1:].any()


def test_as_many_vectors_as_patches() -> None:
    values, vectors = eigenpairs(affinity(smooth(1, 3).numpy()), 3)
    assert values.shape == (3,)
    assert np.isfinite(vectors).all()
    assert (eigenpairs(np.ones((1, 1), dtype=np.float32), 1)[1] > 0).all()


def test_graphs_without_solutions_are_refused() -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    with pytest.raises(SettingError, match="4 patches has no 5 eigenvectors; ask for fewer"):
        spectrum(torch.randn(4, 8), image, 16, SpectralSettings())
    with pytest.raises(SettingError, match="4 patches has no 5"):
        batched_eigenpairs(torch.randn(1, 4, 8), 5)
    with pytest.raises(DataError, match="32x32 pixels, smaller than one patch of 64"):
        spectrum(torch.randn(4, 8), image, 64, SpectralSettings())
    with pytest.raises(DataError, match="not finite"):
        spectrum(torch.full((4, 8), torch.nan), image, 16, SpectralSettings(2))
    with pytest.raises(SettingError, match="cells of 64 pixels"):
        spectrum(torch.randn(4, 8), image, 16, SpectralSettings(2, cell=64))
    for wrong, message in (
        ({"count": 0}, "at least 1"),
        ({"colour": -1.0}, "at least 0"),
        ({"colour": float("nan")}, "at least 0"),
        ({"cell": 0}, "at least 1"),
    ):
        with pytest.raises(SettingError, match=message):
            SpectralSettings(**wrong)
