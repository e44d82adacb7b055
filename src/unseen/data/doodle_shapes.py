"""The outlines of the objects in Doodles, as literal data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]  # (points, 2), x to the right and y down, in -1..1
Part = tuple[int, Polygon]  # colour slot (0 main, 1 second, 2 detail) and outline


def _disc(
    x: float, y: float, rx: float, ry: float | None = None, start: float = 0.0, stop: float = 360.0
) -> Polygon:
    """A filled ellipse, or a slice of it.

    Args:
        x: Centre, to the right.
        y: Centre, downwards.
        rx: Horizontal radius.
        ry: Vertical radius; that of a circle by default.
        start: Angle where the slice begins, in degrees clockwise from the right.
        stop: Angle where it ends.
    """
    # Twenty corners look round at the sizes that objects are drawn in.
    angles = np.deg2rad(np.linspace(start, stop, 20))
    if ry is None:
        ry = rx
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _shape(*points: tuple[float, float]) -> Polygon:
    return np.array(points)


def _star(spikes: int, inner: float, outer: float = 1.0) -> Polygon:
    # Spikes and notches alternate, beginning with the spike that points up.
    angles = np.pi * np.arange(2 * spikes) / spikes - np.pi / 2
    radii = np.where(np.arange(2 * spikes) % 2 == 0, outer, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


# Five discs around the middle of the flower, the first one above it.
PETALS = [
    (0, _disc(0.5 * np.cos(a), -0.35 + 0.5 * np.sin(a), 0.33))
    for a in np.arange(5) * 2 * np.pi / 5 - np.pi / 2
]
# Two slices of discs for the upper halves, joined in the tip: one outline without a seam.
HEART = np.concatenate(
    [
        _disc(-0.48, -0.35, 0.5, 0.5, 160, 355),
        _disc(0.48, -0.35, 0.5, 0.5, 185, 380),
        [(0.0, 0.95)],
    ]
)
SHAPES: dict[str, list[Part]] = {
    "tree": [(1, _box(-0.16, 0.2, 0.16, 1)), (0, _disc(0, -0.3, 0.72, 0.68))],
    "house": [
        (0, _box(-0.75, -0.1, 0.75, 0.95)), (1, _shape((-1, -0.1), (0, -0.95), (1, -0.1))),
        (2, _box(-0.2, 0.35, 0.2, 0.95)),
    ],
    "car": [
        (0, _box(-1, -0.05, 1, 0.45)),
        (0, _shape((-0.6, -0.05), (-0.35, -0.5), (0.35, -0.5), (0.6, -0.05))),
        (2, _disc(-0.55, 0.45, 0.27)), (2, _disc(0.55, 0.45, 0.27)),
    ],
    "boat": [
        (0, _shape((-1, 0.4), (1, 0.4), (0.6, 0.9), (-0.6, 0.9))),
        (2, _box(-0.07, -0.95, 0.07, 0.4)),
        (1, _shape((0.12, -0.85), (0.85, 0.25), (0.12, 0.25))),
    ],
    "sun": [(1, _star(12, 0.66)), (0, _disc(0, 0, 0.58))],
    "cloud": [
        (0, _disc(-0.5, 0.15, 0.45)), (0, _disc(0.5, 0.15, 0.45)),
        (0, _disc(0.02, -0.15, 0.55)), (0, _box(-0.5, 0.1, 0.5, 0.6)),
    ],
    "fish": [
        (0, _disc(-0.2, 0, 0.78, 0.45)), (1, _shape((0.4, 0), (1, -0.5), (1, 0.5))),
        (2, _disc(-0.6, -0.08, 0.11)),
    ],
    "flower": [(2, _box(-0.08, 0, 0.08, 1)), *PETALS, (1, _disc(0, -0.35, 0.28))],
    "mushroom": [
        (1, _shape((-0.22, 0), (0.22, 0), (0.32, 0.9), (-0.32, 0.9))),
        (0, _disc(0, 0.1, 0.95, 0.9, 180, 360)), (1, _disc(-0.4, -0.25, 0.15)),
        (1, _disc(0.35, -0.35, 0.17)),
    ],
    "star": [(0, _star(5, 0.42))],
    "heart": [(0, HEART)],
    "key": [
        (0, _disc(-0.6, 0, 0.4)), (0, _box(-0.3, -0.11, 1, 0.11)),
        (0, _box(0.5, 0.1, 0.65, 0.45)), (0, _box(0.82, 0.1, 1, 0.45)),
        (2, _disc(-0.6, 0, 0.17)),
    ],
    "umbrella": [
        (2, _box(-0.06, -0.1, 0.06, 0.85)), (2, _box(-0.06, 0.75, 0.35, 0.9)),
        (0, _disc(0, 0, 1, 0.9, 180, 360)), (1, _shape((-0.33, 0), (0, -0.9), (0.33, 0))),
    ],
    "balloon": [
        (0, _disc(0, -0.4, 0.5, 0.6)), (0, _shape((-0.14, 0.3), (0, 0.12), (0.14, 0.3))),
        (2, _box(-0.04, 0.28, 0.04, 1)),
    ],
    "rocket": [
        (1, _shape((-0.3, 0.2), (-0.75, 0.8), (-0.3, 0.65))),
        (1, _shape((0.3, 0.2), (0.75, 0.8), (0.3, 0.65))),
        (0, _shape((0, -1), (0.32, -0.45), (0.32, 0.7), (-0.32, 0.7), (-0.32, -0.45))),
        (2, _disc(0, -0.25, 0.17)), (2, _shape((-0.2, 0.7), (0.2, 0.7), (0, 1))),
    ],
    "snowman": [
        (0, _disc(0, 0.5, 0.5)), (0, _disc(0, -0.25, 0.36)),
        (2, _box(-0.38, -0.62, 0.38, -0.5)), (2, _box(-0.24, -1, 0.24, -0.55)),
        (1, _shape((0, -0.3), (0.42, -0.2), (0, -0.14))),
    ],
    "ladder": [
        (0, _box(-0.5, -1, -0.3, 1)), (0, _box(0.3, -1, 0.5, 1)),
        *[(0, _box(-0.4, y - 0.08, 0.4, y + 0.08)) for y in (-0.7, -0.23, 0.23, 0.7)],
    ],
    "clock": [
        (0, _disc(0, 0, 0.9)), (1, _disc(0, 0, 0.68)), (2, _box(-0.07, -0.55, 0.07, 0.07)),
        (2, _box(-0.07, -0.07, 0.45, 0.07)),
    ],
    "cactus": [
        (0, _box(-0.2, -0.8, 0.2, 1)), (0, _disc(0, -0.8, 0.2)),
        (0, _box(-0.75, 0.05, -0.2, 0.3)), (0, _box(-0.75, -0.4, -0.5, 0.3)),
        (0, _box(0.2, -0.15, 0.75, 0.1)), (0, _box(0.5, -0.6, 0.75, 0.1)),
    ],
    "kite": [
        (0, _shape((0, -1), (0.55, -0.35), (0, 0.4), (-0.55, -0.35))),
        (1, _shape((0, -1), (0.55, -0.35), (0, -0.35))), (2, _box(-0.04, 0.4, 0.04, 1)),
        (1, _shape((-0.25, 0.55), (-0.25, 0.8), (0.25, 0.55), (0.25, 0.8))),
    ],
}  # fmt: skip
"""The parts of every object, painted in order: later ones cover earlier ones."""
