"""Eigen-segments of one image, a grid of 60 by 60 patches and five vectors: ours against the
plain ways, side by side, on one thread.

Run: OMP_NUM_THREADS=1 python benchmarks/spectral.py [--rounds 7] [--side 60]
Features: the doodle tower's keys on a drawn scene that large (C = 128), and three made up ones as
wide as DINO ViT-S/16's (C = 384): smooth fields with more and more noise, and noise alone, whose
eigenvalues lie so close together that every iteration is slow. Prints median milliseconds of the
processor's time, which neighbours on the machine disturb less, and the ratio to ours; `off` is the
largest difference of an eigenvector from the dense solver's in double precision, over its largest
entry.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg
from torch.nn import functional as F

from unseen.backbones.vit import load_keys
from unseen.data.doodles import draw
from unseen.segments.solvers import eigenpairs
from unseen.segments.spectral import affinity, l2_normalize

K = 5


def features(side: int) -> dict[str, np.ndarray]:
    """Unit rows by name."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.from_numpy(draw(3, 0, size=8 * side, min_things=4, max_things=4).image).permute(
        2, 0, 1
    )[None]
    found = {"doodle keys": load_keys("doodles")(scene)[0]}
    for noise in (0.5, 1.0, 2.0):
        field = (
            F.interpolate(
                torch.randn(1, 384, 5, 5, generator=generator), (side, side), mode="bicubic"
            )[0]
            .flatten(1)
            .T
        )
        found[f"field + {noise} noise"] = (
            F.normalize(field, dim=1)
            + noise * torch.randn(side**2, 384, generator=generator) / 384**0.5
        )
    found["noise alone"] = torch.randn(side**2, 384, generator=generator)
    return {name: l2_normalize(rows).numpy() for name, rows in found.items()}


def plain(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The affinity and its row sums, as one writes them down."""
    weights = rows @ rows.T
    weights[weights < 0] = 0
    weights /= weights.max()
    return weights, weights.sum(axis=1)


def dense(rows: np.ndarray) -> np.ndarray:
    """LAPACK on the normalised matrix, five eigenpairs, in the precision of the features."""
    weights, degrees = plain(rows)
    scale = degrees**-0.5
    return (
        eigh(weights * scale * scale[:, None], subset_by_index=(len(rows) - K, len(rows) - 1))[1][
            :, ::-1
        ].T
        * scale
    )


def inverted(rows: np.ndarray) -> np.ndarray:
    """ARPACK's shift-invert at 0 on (D - W) v = μ D v, as the released recipe does it."""
    weights, degrees = plain(rows)
    return eigsh(np.diag(degrees) - weights, k=K, M=np.diag(degrees), sigma=-1e-3, which="LM")[1].T


def blocks(rows: np.ndarray) -> np.ndarray:
    """SciPy's LOBPCG on the normalised matrix, the constant vector taken out."""
    weights, degrees = plain(rows)
    scale = degrees**-0.5
    constant = np.sqrt(degrees / degrees.sum())[:, None]

    def times(x: np.ndarray) -> np.ndarray:
        return scale[:, None] * (weights @ (scale[:, None] * x))

    start = np.random.default_rng(0).standard_normal((len(rows), K - 1 + 3), dtype=np.float32)
    operator = LinearOperator(weights.shape, matvec=times, matmat=times, dtype=np.float32)
    values, vectors = lobpcg(operator, start, Y=constant, largest=True, tol=1e-5, maxiter=100)
    vectors = vectors[:, np.argsort(-values)[: K - 1]]
    return np.column_stack([constant, vectors]).T * scale


def ours(rows: np.ndarray) -> np.ndarray:
    return eigenpairs(affinity(rows), K)[1]


def seconds(task: Callable[[], object]) -> float:
    start = time.process_time()
    task()
    return time.process_time() - start


def off(found: np.ndarray, exact: np.ndarray) -> float:
    found = found * (np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1))[:, None]
    return max(
        min(np.abs(a - b).max(), np.abs(a + b).max()) / np.abs(b).max()
        for a, b in zip(found, exact, strict=True)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # LOBPCG's, where it stops short
    for name, rows in features(given.side).items():
        weights = affinity(rows)
        tasks = {
            "affinity": lambda r=rows: affinity(r),
            "eigenpairs": lambda j=weights: eigenpairs(j, K),
            "ours": lambda r=rows: ours(r),
        }
        others = {"LOBPCG": blocks, "dense": dense, "shift-invert": inverted}
        times: dict[str, list[float]] = {key: [] for key in (*tasks, *others)}
        for turn in range(given.rounds + 1):
            for key, task in tasks.items():
                taken = seconds(task)
                times[key] += [taken] if turn else []  # the first round warms up
            for key, way in others.items():
                if turn < 3 or key == "LOBPCG":
                    taken = seconds(lambda r=rows, w=way: w(r))
                    times[key] += [taken] if turn else []
        middle = {key: 1000 * statistics.median(found) for key, found in times.items()}
        exact = dense(rows.astype(np.float64))
        print(
            f"{name}, {rows.shape[0]} patches of {rows.shape[1]} channels: affinity"
            f" {middle['affinity']:.0f} ms, eigenpairs {middle['eigenpairs']:.0f} ms"
        )
        print(
            f"  {'ours, together':16s} {middle['ours']:7.0f} ms          off"
            f" {off(ours(rows), exact):.0e}"
        )
        for key, way in others.items():
            print(
                f"  {key:16s} {middle[key]:7.0f} ms  x {middle[key] / middle['ours']:5.1f}  off"
                f" {off(way(rows), exact):.0e}"
            )
