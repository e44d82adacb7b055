"""Doodles: synthetic scenes of simple objects, with exact masks and captions.

Nothing is stored: scene ``i`` of seed ``s`` is drawn from ``numpy.random.default_rng([s, i])`` in
about a millisecond, so the same pair always gives the same pixels. Shapes are drawn without
anti-aliasing, by the same calls into image and label map: a pixel has an object's colour exactly
where it has its label.

Doodles shows that a mechanism works. Scores on it say nothing about scores on photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unseen.data.classes import DOODLES
from unseen.data.doodle_shapes import SHAPES
from unseen.errors import SettingError
from unseen.labels import IGNORE

COLOURS = {
    "red": (205, 40, 40), "orange": (240, 140, 30), "yellow": (240, 220, 50),
    "green": (50, 150, 60), "blue": (45, 90, 205), "purple": (130, 60, 170),
    "pink": (240, 150, 190), "brown": (125, 80, 45), "white": (240, 240, 240),
    "black": (25, 25, 25),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8; the index of the object in `DOODLES`, 255 on the background.
        things: Indices of the objects drawn, without repetition, in painting order.
        colours: Names of the objects' main colours, in the same order.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    things: tuple[int, ...]
    colours: tuple[str, ...]

    def caption(self, template: str, *, with_colours: bool = False) -> str:
        """The scene's objects in a caption, for example "a photo of a red tree and a fish".

        Args:
            template: Prompt template with one `{}` after an article: "a photo of a {}".
            with_colours: Name the main colour of every object.
        """
        names = [DOODLES[thing] for thing in self.things]
        if with_colours:
            names = [f"{colour} {name}" for colour, name in zip(self.colours, names, strict=True)]
        # Sorted, so that the order of names gives away nothing about the order of painting.
        return template.format(" and a ".join(sorted(names)))


def _background(size: int, variety: float, rng: np.random.Generator) -> Image.Image:
    """A smooth field of random colours with a few strokes."""
    cells = int(rng.integers(1, 5))
    # A grid of one to four colours a side, smoothed by resizing; without variety, light grey.
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
    """Draw one object into the image.

    Returns:
        The pixels it covers (mode 1), and the name of its main colour.
    """
    turn, flip = variety * np.deg2rad(rng.uniform(-25, 25)), rng.choice((-1.0, 1.0))
    stretch = np.exp(variety * rng.uniform(-0.15, 0.15))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # From an outline's unit square to pixels: flip and stretch, rotate, enlarge.
    frame = radius * rotation @ np.diag([flip * stretch, 1 / stretch])
    # Three different colours for main, second and detail, varied a little from object to object.
    names = rng.choice(len(COLOURS), 3, replace=False)
    base = np.array(list(COLOURS.values()))[names] + rng.integers(-22, 23, (3, 3))
    colours = np.clip(variety * base + (1 - variety) * 30, 0, 255).astype(int)
    fills = [tuple(colour) for colour in colours.tolist()]
    # The same polygons go into image and mask, so the mask is exact.
    mask = Image.new("1", canvas.size)
    pen, ink = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
    for slot, outline in SHAPES[thing]:
        points = (outline @ frame.T + centre).ravel().tolist()
        pen.polygon(points, fill=fills[slot])
        ink.polygon(points, fill=1)
    return mask, list(COLOURS)[names[0]]


def draw(  # noqa: PLR0913 - keyword-only
    seed: int,
    index: int,
    *,
    size: int = 64,
    min_things: int = 1,
    max_things: int = 3,
    classes: tuple[int, ...] | None = None,
    variety: float = 1.0,
) -> Scene:
    """Draw scene `index` of those that belong to `seed`.

    Objects may overlap: later ones hide parts of earlier ones. A scene in which less than half of
    an object, or fewer than 12 of its pixels, can be seen is drawn again from the same generator.

    Args:
        seed: Of a set of scenes.
        index: Of the scene.
        size: Side of the square scene in pixels.
        min_things: Fewest objects in a scene.
        max_things: Most objects in a scene.
        classes: Indices of the classes to draw from; all of `DOODLES` by default.
        variety: From 0, a dark, upright object in the middle of a light ground (easy to learn
            from), to 1, scenes as the benchmarks use them.
    """
    choices = tuple(range(len(DOODLES))) if classes is None else classes
    if not 1 <= min_things <= max_things <= min(4, len(choices)):
        raise SettingError(
            f"a scene holds 1 to 4 different objects, not {min_things} to {max_things} of"
            f" {len(choices)}; correct the numbers"
        )
    rng = np.random.default_rng([seed, index])
    scene = None
    while scene is None:
        count = int(rng.integers(min_things, max_things + 1))
        things = rng.choice(np.array(choices), count, replace=False).tolist()
        scene = _scene(things, size, variety, rng)
    return scene


def _scene(things: list[int], size: int, variety: float, rng: np.random.Generator) -> Scene | None:
    """A scene of these objects, or None if others hide too much of one of them."""
    canvas, labels = _background(size, variety, rng), Image.new("L", (size, size), IGNORE)
    colours, areas = [], []
    for thing in things:
        radius, centre = _place(size, variety, rng, alone=len(things) == 1)
        mask, colour = _paint(DOODLES[thing], canvas, radius, centre, variety, rng)
        labels.paste(thing, mask=mask)
        colours.append(colour)
        areas.append(np.count_nonzero(np.asarray(mask)))
    pixels = np.asarray(labels)
    # What is left of every object once the later ones are painted over it.
    visible = np.bincount(pixels.ravel(), minlength=len(DOODLES))[things]
    if np.any(visible < np.maximum(12, 0.5 * np.array(areas))):
        return None
    # Grain on all pixels, so that an object's mask cannot be read off one exact colour.
    grain = rng.integers(-12, 13, (size, size, 3), dtype=np.int16)
    image = np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8)
    return Scene(image, pixels, tuple(things), tuple(colours))


def _place(
    size: int, variety: float, rng: np.random.Generator, *, alone: bool
) -> tuple[float, NDArray[np.float64]]:
    """Radius and centre of an object in pixels; one that is alone may be larger."""
    if alone:
        radius = size * rng.uniform(0.46 - 0.22 * variety, 0.46)
    else:
        radius = size * rng.uniform(0.17, 0.3)
    # At most 15 % of the radius may lie outside of the scene.
    reach = variety * (size / 2 - 0.85 * radius)
    return radius, size / 2 + rng.uniform(-reach, reach, 2)
