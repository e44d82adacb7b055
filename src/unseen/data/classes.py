"""Class names and palettes, as literal data. The order of a tuple is the order of its label ids."""

from __future__ import annotations

from collections.abc import Sequence

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""PASCAL VOC without background; the value in a mask is the place in this list plus one."""

VOC_UNSEEN = ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
"""The classes of VOC without masks in training (ZegCLIP and others)."""

VOC_ZS3 = (
    "cow", "motorbike", "aeroplane", "sofa", "cat", "tvmonitor", "train", "bottle", "chair",
    "pottedplant",
)  # fmt: skip
"""The classes that ZS3's nested splits of VOC hide, in pairs."""

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 things of COCO in the order of their category ids; the value in a fold's mask is the place
in this list plus one."""

COCO_STUFF = (
    *COCO, "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage",
    "cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter",
    "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble",
    "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other",
    "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves",
    "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper",
    "pavement", "pillow", "plant-other", "plastic", "platform", "playingfield", "railing",
    "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea", "shelf",
    "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable",
    "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile",
    "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
"""COCO-Stuff 164K in the order of its training ids: the 80 things, then 91 kinds of stuff, spelled
as in the data set."""

COCO_STUFF_UNSEEN = (
    "cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard",
    "clouds", "grass", "playingfield", "river", "road", "tree", "wall-concrete",
)  # fmt: skip
"""The classes of COCO-Stuff without masks in training (ZegCLIP and others)."""

CONTEXT = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle",
    "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow",
    "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food", "grass", "ground", "horse",
    "keyboard", "light", "motorbike", "mountain", "mouse", "person", "plate", "platform",
    "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa",
    "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
"""PASCAL Context, the 59 classes in alphabetical order; the value in a mask is the place in this
list plus one."""

CONTEXT_UNSEEN = (
    "aeroplane", "bird", "boat", "cat", "cow", "fence", "keyboard", "motorbike", "sofa",
    "tvmonitor",
)  # fmt: skip
"""The classes of Context without masks in training (ZegCLIP and others)."""

CONTEXT_CASCADE = (
    "aeroplane", "bed", "bedclothes", "boat", "bottle", "car", "cloth", "cow", "keyboard", "plate",
)  # fmt: skip
"""The classes without masks of Cascade-CLIP's own numbers: those whose ids in this alphabetical
order are the ids of the usual ten in the order that begins with VOC's classes."""

CONTEXT_ZS3 = (
    "cow", "motorbike", "sofa", "cat", "boat", "fence", "bird", "tvmonitor", "keyboard",
    "aeroplane",
)  # fmt: skip
"""The classes that ZS3's nested splits of Context hide, in pairs."""

CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
    "bicycle",
)  # fmt: skip
"""Cityscapes' 19 classes in the order of their training ids."""

DOODLES = (
    "tree", "house", "car", "boat", "sun", "cloud", "fish", "flower", "mushroom", "star", "heart",
    "key", "umbrella", "balloon", "rocket", "snowman", "ladder", "clock", "cactus", "kite",
)  # fmt: skip
"""The twenty objects of the synthetic scenes (`unseen.data.doodles`)."""

DOODLES_FOLDS = tuple(tuple(DOODLES[fold::4]) for fold in range(4))
"""Four folds of five classes, interleaved."""


def shared_classes(training: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of some class names that a training list has too.

    Names are the same if they differ in case, blanks and hyphens alone ("potted plant",
    "pottedplant"), without COCO-Stuff's endings "-other" and "-stuff" ("sky-other", "sky"); of
    synonyms set off by commas one is enough. Other synonyms ("sofa", "couch") are not known.
    """
    known = {spelling for name in training for spelling in _spellings(name)}
    return [name for name in names if _spellings(name) & known]


def _spellings(name: str) -> set[str]:
    # Commas divide the synonyms of one class ("sofa, couch, lounge" in the full ADE20K).
    parts = (
        part.strip().lower().removesuffix("-other").removesuffix("-stuff")
        for part in name.split(",")
    )
    return {"".join(character for character in part if character.isalnum()) for part in parts}


def voc_palette(count: int = 256) -> list[tuple[int, int, int]]:
    """PASCAL's colour map, where id 0 is black.

    The bits of an id are dealt to red, green and blue in turn, and fill them from the highest bit.
    """
    colours = []
    for value in range(count):
        r = g = b = 0
        for bit in range(8):
            r |= (value >> (3 * bit) & 1) << (7 - bit)
            g |= (value >> (3 * bit + 1) & 1) << (7 - bit)
            b |= (value >> (3 * bit + 2) & 1) << (7 - bit)
        colours.append((r, g, b))
    return colours
