"""Class names and palettes, as literal data. The order of a tuple is the order of its label ids."""

from __future__ import annotations

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""PASCAL VOC without background; the value in a mask is the place in this list plus one."""

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 things of COCO in the order of their category ids; the value in a fold's mask is the place in this list plus one."""

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
