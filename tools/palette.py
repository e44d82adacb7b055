"""Make the colours of classes in src/unseen/palette.txt, or measure how far apart they are.

The first seven are Okabe and Ito's, for colour-blind eyes (Color Universal Design, 2008; its black
is left out). Each further one is, of a grid of colours that are neither dark nor pale nor grey, the
one that is farthest from all before it: in OKLab, for ordinary eyes and, weighted, for the three
kinds of colour blindness (Machado, Oliveira, Fernandes, IEEE TVCG 2009, severity 1).

Run: python tools/palette.py > src/unseen/palette.txt
     python tools/palette.py --measure
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
COUNT = 253
OKABE_ITO = ("e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")
IGNORED = "969696"
"""What pixels without a class are shown in."""
BLIND_WEIGHT = 1.6
"""Distances of colour-blind eyes count so many times: theirs are smaller for every pair."""
LIGHTNESS, CHROMA = (0.52, 0.93), 0.06
"""Bounds in OKLab: darker colours hide dark photographs, paler ones the paper."""
SIMULATED = {
    "red-blind": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "green-blind": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "blue-blind": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OPPONENTS = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(rgb: Array) -> Array:
    """Light of sRGB values in 0..1."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(light: Array) -> Array:
    """Lightness and two opponent colours (N, 3) of linear RGB."""
    cones: Array = np.cbrt(light @ np.array(CONES).T)
    return cones @ np.array(OPPONENTS).T


def seen(rgb: Array) -> dict[str, Array]:
    """Colours (N, 3) in OKLab, as each kind of eye sees them."""
    light = linear(rgb)
    eyes = {"ordinary": oklab(light)}
    for name, matrix in SIMULATED.items():
        eyes[name] = oklab((light @ np.array(matrix).T).clip(0, 1))
    return eyes


def distances(one: Array, others: Array) -> Array:
    """Of one colour to others, in OKLab times 100: the least over all eyes."""
    mine, theirs = seen(one[None]), seen(others)
    gaps = []
    for name in mine:
        weight = 1 if name == "ordinary" else BLIND_WEIGHT
        gaps.append(weight * np.linalg.norm(mine[name] - theirs[name], axis=1))
    return 100 * np.min(gaps, axis=0)


def of_hex(text: str) -> Array:
    """A colour of six hexadecimal digits, in 0..1."""
    return np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def make() -> list[str]:
    """All colours, as six hexadecimal digits."""
    steps = np.linspace(0, 1, 26)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    lab = seen(grid)["ordinary"]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[(lightness > LIGHTNESS[0]) & (lightness < LIGHTNESS[1]) & (chroma > CHROMA)]
    chosen = [of_hex(text) for text in OKABE_ITO]
    nearest = np.min([distances(colour, grid) for colour in [*chosen, of_hex(IGNORED)]], axis=0)
    while len(chosen) < COUNT:
        best = grid[int(nearest.argmax())]
        chosen.append(best)
        nearest = np.minimum(nearest, distances(best, grid))
    return ["".join(f"{round(255 * channel):02x}" for channel in colour) for colour in chosen]


def measure(colours: list[str], count: int) -> dict[str, float]:
    """The least distance between two of the first colours, for each kind of eye."""
    least = {}
    for name, lab in seen(np.array([of_hex(text) for text in colours[:count]])).items():
        gaps = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        least[name] = 100 * float(gaps[~np.eye(count, dtype=bool)].min())
    return least


def main() -> None:
    """Print the colours, a line each, or how far the nearest two are apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=Path, nargs="*", help="colours to measure")
    flags = parser.parse_args()
    if flags.measure is None:
        print("\n".join(make()))
        return
    for file in flags.measure:
        colours = file.read_text(encoding="ascii").split()
        for count in (7, 12, 20, 60):
            told = {name: round(value, 1) for name, value in measure(colours, count).items()}
            print(f"{file.name}, first {count}: {told}")


if __name__ == "__main__":
    main()
