"""Doodles, the embedded world: scenes of simple things, with exact masks and captions.

Nothing is stored: scene ``i`` of seed ``s`` is drawn from ``numpy.random.default_rng([s, i])`` in
about a millisecond, so the same pair always gives the same pixels. Shapes are drawn without
anti-aliasing, by the same calls into image and label map: a pixel carries a thing's colour
exactly where its label says so.

Doodles proves mechanisms. A number measured on it is a Doodles number and says nothing about
photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unseen.data.classes import DOODLES
from unseen.errors import SettingError
from unseen.labels import IGNORE

COLOURS = {
    "red": (205, 40, 40), "orange": (240, 140, 30), "yellow": (240, 220, 50),
    "green": (50, 150, 60), "blue": (45, 90, 205), "purple": (130, 60, 170),
    "pink": (240, 150, 190), "brown": (125, 80, 45), "white": (240, 240, 240),
    "black": (25, 25, 25),
}  # fmt: skip

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
    angles = np.deg2rad(np.linspace(start, stop, 20))
    if ry is None:
        ry = rx
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _shape(*points: tuple[float, float]) -> Polygon:
    return np.array(points)


def _star(spikes: int, inner: float, outer: float = 1.0) -> Polygon:
    angles = np.pi * np.arange(2 * spikes) / spikes - np.pi / 2
    radii = np.where(np.arange(2 * spikes) % 2 == 0, outer, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


@cache
def _parts() -> dict[str, list[Part]]:
    """The outlines of every thing, painted in order."""
    petals = [
        (0, _disc(0.5 * np.cos(a), -0.35 + 0.5 * np.sin(a), 0.33))
        for a in np.arange(5) * 2 * np.pi / 5 - np.pi / 2
    ]
    heart = np.concatenate(
        [
            _disc(-0.48, -0.35, 0.5, 0.5, 160, 355),
            _disc(0.48, -0.35, 0.5, 0.5, 185, 380),
            [(0.0, 0.95)],
        ]
    )
    return {
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
        "flower": [(2, _box(-0.08, 0, 0.08, 1)), *petals, (1, _disc(0, -0.35, 0.28))],
        "mushroom": [
            (1, _shape((-0.22, 0), (0.22, 0), (0.32, 0.9), (-0.32, 0.9))),
            (0, _disc(0, 0.1, 0.95, 0.9, 180, 360)), (1, _disc(-0.4, -0.25, 0.15)),
            (1, _disc(0.35, -0.35, 0.17)),
        ],
        "star": [(0, _star(5, 0.42))],
        "heart": [(0, heart)],
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


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8; the index of the thing in `DOODLES`, 255 on the background.
        things: The indices drawn, without repetition, in painting order.
        colours: Names of the things' main colours, in the same order.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    things: tuple[int, ...]
    colours: tuple[str, ...]

    def caption(self, template: str, *, with_colours: bool = False) -> str:
        """The scene's things in a caption, for example "a photo of a red tree and a fish".

        Args:
            template: Prompt template with one `{}` after an article: "a photo of a {}".
            with_colours: Name the main colour of every thing.
        """
        names = [DOODLES[thing] for thing in self.things]
        if with_colours:
            names = [f"{colour} {name}" for colour, name in zip(self.colours, names, strict=True)]
        return template.format(" and a ".join(sorted(names)))


def _background(size: int, variety: float, rng: np.random.Generator) -> Image.Image:
    """A smooth field of random colours with a few strokes."""
    cells = int(rng.integers(1, 5))
    colours = (variety * rng.integers(30, 226, (cells, cells, 3)) + (1 - variety) * 225).astype(
        np.uint8
    )
    field = Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(field)
    for _ in range(int(variety * rng.integers(0, 6))):
        ends = [tuple(point) for point in rng.uniform(0, size, (2, 2)).tolist()]
        pen.line(
            ends,
            fill=tuple(rng.integers(0, 256, 3).tolist()),
            width=int(rng.integers(1, 2 + size // 24)),
        )
    return field


def _paint(
    thing: str,
    canvas: Image.Image,
    radius: float,
    centre: NDArray[np.float64],
    variety: float,
    rng: np.random.Generator,
) -> tuple[Image.Image, str]:
    """Draw one thing into the image.

    Returns:
        The pixels it covers (mode 1), and the name of its main colour.
    """
    turn, flip = variety * np.deg2rad(rng.uniform(-25, 25)), rng.choice((-1.0, 1.0))
    stretch = np.exp(variety * rng.uniform(-0.15, 0.15))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # From an outline's unit square to pixels: flip and stretch, rotate, enlarge.
    frame = radius * rotation @ np.diag([flip * stretch, 1 / stretch])
    # Three different colours for main, second and detail, varied a little from thing to thing.
    names = rng.choice(len(COLOURS), 3, replace=False)
    base = np.array(list(COLOURS.values()))[names] + rng.integers(-22, 23, (3, 3))
    colours = np.clip(variety * base + (1 - variety) * 30, 0, 255).astype(int)
    fills = [tuple(colour) for colour in colours.tolist()]
    # The same polygons go into image and mask, so the mask is exact.
    mask = Image.new("1", canvas.size)
    pen, ink = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
    for slot, outline in _parts()[thing]:
        points = (outline @ frame.T + centre).ravel().tolist()
        pen.polygon(points, fill=fills[slot])
        ink.polygon(points, fill=1)
    return mask, list(COLOURS)[names[0]]


def draw(
    seed: int,
    index: int,
    *,
    size: int = 64,
    min_things: int = 1,
    max_things: int = 3,
    classes: tuple[int, ...] | None = None,
    variety: float = 1.0,
) -> Scene:
    """Draw scene `index` of the world `seed`.

    Things may overlap: later ones hide parts of earlier ones. A scene in which less than half of a
    thing, or fewer than 12 of its pixels, can be seen is drawn again from the same generator.

    Args:
        seed: Of the world.
        index: Of the scene.
        size: Side of the square scene in pixels.
        min_things: Fewest things in a scene.
        max_things: Most things in a scene.
        variety: From 0, a dark, upright thing in the middle of a light ground (easy to learn from),
            to 1, the world as it is.
        classes: Indices of the things to draw from; all of `DOODLES` by default.
    """
    known = tuple(range(len(DOODLES))) if classes is None else classes
    if not 1 <= min_things <= max_things <= min(4, len(known)):
        raise SettingError(
            f"a scene holds 1 to 4 different things, not {min_things} to {max_things} of"
            f" {len(known)}"
        )
    rng = np.random.default_rng([seed, index])
    scene = None
    while scene is None:
        count = int(rng.integers(min_things, max_things + 1))
        things = rng.choice(np.array(known), count, replace=False).tolist()
        scene = _scene(things, size, variety, rng)
    return scene


def _scene(things: list[int], size: int, variety: float, rng: np.random.Generator) -> Scene | None:
    """A scene of these things, or None if one of them is too much hidden by others."""
    canvas, labels = _background(size, variety, rng), Image.new("L", (size, size), IGNORE)
    colours, areas = [], []
    for thing in things:
        radius, centre = _place(size, variety, rng, alone=len(things) == 1)
        mask, colour = _paint(DOODLES[thing], canvas, radius, centre, variety, rng)
        labels.paste(thing, mask=mask)
        colours.append(colour)
        areas.append(np.count_nonzero(np.asarray(mask)))
    pixels = np.asarray(labels)
    visible = np.bincount(pixels.ravel(), minlength=len(DOODLES))[things]
    if np.any(visible < np.maximum(12, 0.5 * np.array(areas))):
        return None
    # Grain on all pixels, so that a colour does not give a thing's mask away.
    grain = rng.integers(-12, 13, (size, size, 3), dtype=np.int16)
    image = np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8)
    return Scene(image, pixels, tuple(things), tuple(colours))


def _place(
    size: int, variety: float, rng: np.random.Generator, *, alone: bool
) -> tuple[float, NDArray[np.float64]]:
    """Radius and centre of a thing; one that is alone may be larger."""
    if alone:
        radius = size * rng.uniform(0.46 - 0.22 * variety, 0.46)
    else:
        radius = size * rng.uniform(0.17, 0.3)
    reach = variety * (size / 2 - 0.85 * radius)
    return radius, size / 2 + rng.uniform(-reach, reach, 2)
