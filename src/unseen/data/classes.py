"""Class names and palettes, as literal data. The order of a tuple is the order of its label ids."""

from __future__ import annotations

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""PASCAL VOC without background; the value in a mask is the place in this list plus one."""

DOODLES = (
    "tree", "house", "car", "boat", "sun", "cloud", "fish", "flower", "mushroom", "star",
    "heart", "key", "umbrella", "balloon", "rocket", "snowman", "ladder", "clock", "cactus", "kite",
)  # fmt: skip
"""The twenty things of the embedded world (`unseen.data.doodles`)."""

DOODLES_FOLDS = tuple(tuple(DOODLES[fold::4]) for fold in range(4))
"""Four folds of five things each, interleaved."""


def voc_palette(count: int = 256) -> list[tuple[int, int, int]]:
    """PASCAL's colour map: the bits of an id are dealt to red, green and blue, high bits first; id 0 is black."""
    colours = []
    for value in range(count):
        r = g = b = 0
        for bit in range(8):
            r |= (value >> (3 * bit) & 1) << (7 - bit)
            g |= (value >> (3 * bit + 1) & 1) << (7 - bit)
            b |= (value >> (3 * bit + 2) & 1) << (7 - bit)
        colours.append((r, g, b))
    return colours
