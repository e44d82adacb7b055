"""What is wrong with a data set, found by looking at every file before any training: `unseen
check`.

Reading is done by Pillow in threads, one for each core; nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unseen.data.datasets import Pair, void_of
from unseen.errors import DataError
from unseen.files import LOSSY, read_image, read_labels

Level = Literal["error", "warning"]
ORIENTATION = 0x0112
"""EXIF's tag."""


@dataclass(frozen=True)
class Finding:
    """Something to mend.

    Attributes:
        level: "error": training or scores would be stopped or spoilt; "warning": look at it.
        what: What is wrong.
        remedy: What to do.
        names: The files or classes it is wrong with.
    """

    level: Level
    what: str
    remedy: str
    names: tuple[str, ...] = ()

    def line(self, shown: int = 3) -> str:
        """One sentence, with some of the names and how many more there are."""
        more = f" and {len(self.names) - shown} more" if len(self.names) > shown else ""
        return (
            f"{self.what}{': ' if self.names else ''}{', '.join(self.names[:shown])}{more};"
            f" {self.remedy}"
        )


@dataclass(frozen=True)
class Looked:
    """What looking at one pair gave.

    Attributes:
        pair: Its files.
        digest: Of the image's pixels; "" if it cannot be read.
        size: Width and height of the image.
        label_size: Of the label map.
        areas: Pixels by stored id, void left out.
        void: Void pixels.
        trouble: Kinds of trouble, by file: "image", "labels", "lossy", "colours".
        why: What the reader said of it.
        colours: RGB of the ids, where the label map has a palette.
        turned: Whether the image asks to be turned for display (EXIF).
    """

    pair: Pair
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    label_size: tuple[int, int] = (0, 0)
    areas: dict[int, int] = field(default_factory=dict)
    void: int = 0
    trouble: tuple[str, ...] = ()
    why: str = ""
    colours: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    turned: bool = False


@dataclass
class Survey:
    """What a data set holds.

    Attributes:
        looked: By split.
        findings: What is wrong, the worst first.
        class_names: The words.
        first: The stored id of the first word.
    """

    looked: dict[str, list[Looked]]
    findings: list[Finding]
    class_names: tuple[str, ...]
    first: int

    def pixels(self, split: str) -> dict[str, int]:
        """Labelled pixels of each word."""
        total = dict.fromkeys(self.class_names, 0)
        for each in self.looked[split]:
            for value, area in each.areas.items():
                if 0 <= value - self.first < len(self.class_names):
                    total[self.class_names[value - self.first]] += area
        return total


def look(pair: Pair) -> Looked:
    """Read a pair whole."""
    trouble, why, digest, size, turned = [], "", "", (0, 0), False
    try:
        pixels = read_image(pair.image)
        size, digest = (
            (pixels.shape[1], pixels.shape[0]),
            hashlib.blake2b(
                pixels.tobytes(), digest_size=16, key=str(pixels.shape).encode()
            ).hexdigest(),
        )
        with (
            suppress(OSError, SyntaxError, ValueError),
            Image.open(pair.image) as image,
        ):  # damaged EXIF data turns nothing
            turned = image.getexif().get(ORIENTATION, 1) != 1
    except DataError as error:
        trouble.append("image")
        why = str(error)
    try:
        stored = read_labels(pair.labels)
    except DataError as error:
        trouble.append(_kind(pair.labels))
        return Looked(
            pair, digest, size, trouble=tuple(trouble), why=why or str(error), turned=turned
        )
    counts = np.bincount(stored.ravel())
    areas = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    void = areas.pop(void_of(stored), 0)
    return Looked(
        pair,
        digest,
        size,
        (stored.shape[1], stored.shape[0]),
        areas,
        void,
        tuple(trouble),
        why,
        _colours(pair.labels, areas),
        turned,
    )


def _colours(path: Path, ids: Iterable[int]) -> dict[int, tuple[int, int, int]]:
    """What a palette paints ids with; empty without one."""
    with Image.open(path) as image:
        palette = (image.getpalette() or []) if image.mode == "P" else []
    return {
        value: (palette[3 * value], palette[3 * value + 1], palette[3 * value + 2])
        for value in ids
        if 3 * value + 2 < len(palette)
    }


def _kind(path: Path) -> str:
    """Why a label map is refused."""
    try:
        with Image.open(path) as image:
            return (
                "lossy"
                if image.format in LOSSY
                else (
                    "colours"
                    if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA")
                    else "labels"
                )
            )
    except (OSError, ValueError, SyntaxError):
        return "labels"


def survey(
    splits: Mapping[str, Sequence[Pair]],
    vocabulary: tuple[str, ...],
    first: int,
    *,
    taught: Sequence[str],
    scored: Sequence[str],
    own: bool = True,
    tracked: Callable[[Iterable[Looked], int], Iterable[Looked]] = lambda items, count: items,
) -> Survey:
    """Look at every pair of the splits, each file once.

    Args:
        splits: "train" and "val".
        vocabulary: The words.
        first: The stored id of the first word; 1 where 0 is a background.
        taught: The words whose masks are trained on.
        scored: The words that validation asks for.
        own: Whether the list of classes is the user's to mend.
        tracked: Wraps the results and their number, to show progress.
    """
    pairs = list(dict.fromkeys(pair for each in splits.values() for pair in each))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        by_pair = {each.pair: each for each in tracked(pool.map(look, pairs), len(pairs))}
    looked = {split: [by_pair[pair] for pair in each] for split, each in splits.items()}
    found = Survey(looked, [], vocabulary, first)
    everything = list(by_pair.values())
    found.findings += [
        *_unreadable(everything),
        *_sizes(everything),
        *_turned(everything),
        *_ids(everything, len(vocabulary), first, own),
        *_palettes(everything),
        *_leaks(looked),
    ]
    found.findings += _labelled(found, {"train": taught, "val": scored})
    found.findings.sort(key=lambda finding: finding.level != "error")
    return found


def _unreadable(looked: list[Looked]) -> list[Finding]:
    kinds = {
        "image": ("images that cannot be read", "replace them, or leave them out"),
        "labels": ("label maps that cannot be read", "make them again"),
        "lossy": (
            "label maps saved as JPEG or WebP, which blur ids into their neighbours",
            "make them again as PNGs, from the ids; what is blurred is lost",
        ),
        "colours": (
            "label maps that hold colours instead of ids",
            "replace every colour by its class's id, and save a grey or palette PNG with 8 bits",
        ),
    }
    found = []
    for kind, (what, remedy) in kinds.items():
        names = tuple(
            str(each.pair.image if kind == "image" else each.pair.labels)
            for each in looked
            if kind in each.trouble
        )
        found += [Finding("error", what, remedy, names)] if names else []
    return found


def _sizes(looked: list[Looked]) -> list[Finding]:
    other = [
        each
        for each in looked
        if each.digest and each.label_size != (0, 0) and each.size != each.label_size
    ]
    names = tuple(
        f"{each.pair.labels} ({_by(each.label_size)}, its image {_by(each.size)})" for each in other
    )
    remedy = "make them again at the image's size, with nearest-neighbour resizing"
    return (
        [Finding("error", "label maps of another size than their image", remedy, names)]
        if names
        else []
    )


def _turned(looked: list[Looked]) -> list[Finding]:
    names = tuple(str(each.pair.image) for each in looked if each.turned)
    what = (
        "images that ask to be turned for display (EXIF), which training and scoring do not, as"
        " masks belong to the stored pixels"
    )
    return (
        [
            Finding(
                "warning",
                what,
                "if masks were drawn on the turned images, save those turned and without the tag",
                names,
            )
        ]
        if names
        else []
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


MANY = 10
"""So many ids that are not listed, with gaps between them, are no forgotten classes."""
STRAY = 0.01
"""An id above the list that covers less than this share of every label map it is in is a slip of
the pen, not a sign that all ids are shifted."""


def _ids(looked: list[Looked], count: int, first: int, own: bool) -> list[Finding]:
    """Ids that are not on the list. One above it, with a 0 below, is a background that nobody spoke
    of; the last one missing may be a shift the other way.
    """
    allowed = range(count + first)
    shown = {value for each in looked for value in each.areas}
    strange = shown - set(allowed)
    if not strange:
        last, one_less = count + first - 1, count + first - 2
        if first and count > 1 and {0, one_less} <= shown and last not in shown:
            what = (
                f"no label map holds the id {last}, the last class's, but 0 is there: stored from 0"
                " on, every class would be taken for the one before"
            )
            return [
                Finding(
                    "warning",
                    what,
                    "look at the sheet; if words and things do not fit, add 1 to every id, or make"
                    " the label maps again",
                )
            ]
        return []
    names = tuple(str(each.pair.labels) for each in looked if strange & each.areas.keys())
    listed = ", ".join(map(str, sorted(strange)[:5])) + (
        f" and {len(strange) - 5} more" if len(strange) > 5 else ""
    )
    what = (
        f"ids that are not on the list of classes ({listed}; known are {first} to"
        f" {count + first - 1})"
    )
    if not own:
        return [
            Finding(
                "error",
                what,
                "the label maps are not in this benchmark's ids: make them with `unseen prepare`,"
                " or restore them",
                names,
            )
        ]
    share = max(
        each.areas.get(count + first, 0) / (each.label_size[0] * each.label_size[1])
        for each in looked
        if each.label_size != (0, 0)
    )
    if first and strange == {count + 1} and 0 not in shown and share >= STRAY:
        shifted = (
            f"ids run from {min(shown)} to {count + 1} and 0, the background, is nowhere: every id"
            " seems to be one too high"
        )
        return [
            Finding(
                "error",
                shifted,
                "subtract 1 from every id, or leave the background off the list of classes",
                names,
            )
        ]
    if len(strange) >= MANY and strange != set(range(count + first, count + first + len(strange))):
        remedy = (
            "so many look like masks that went through JPEG or were resized smoothly: make them"
            " again from the ids"
        )
        return [Finding("error", what, remedy, names)]
    if strange == {count} and first == 0 and share >= STRAY:
        remedy = (
            "write 'background # ignore' (void) or 'background' (a class) as the first line of"
            " classes.txt"
        )
        if 0 in shown:
            shifted = (
                f"ids run from 0 to {count}, but only {count} classes are listed: 0 seems to be a"
                " background, and every id would be taken for the next class"
            )
        else:
            shifted = (
                f"ids run from 1 to {count}, but the first of {count} classes has the id 0: every"
                " id would be taken for the next class"
            )
            remedy = (
                "write 'background # ignore' as the first line of classes.txt, or subtract 1 from"
                " every id"
            )
        return [Finding("error", shifted, remedy, names)]
    return [
        Finding(
            "error",
            what,
            "add the classes, or make those pixels void (255; 65535 with 16 bits)",
            names,
        )
    ]


def _palettes(looked: list[Looked]) -> list[Finding]:
    """Label maps that paint one id in two colours: images of colours, whose palettes were chosen
    one by one.
    """
    usual: dict[int, tuple[int, int, int]] = {}
    odd = [
        each
        for each in looked
        if any(usual.setdefault(value, colour) != colour for value, colour in each.colours.items())
    ]
    names = tuple(str(each.pair.labels) for each in odd)
    what = (
        "label maps whose palettes give an id another colour than the others do, as images of"
        " colours have that were saved with palettes of their own"
    )
    return (
        [
            Finding(
                "warning",
                what,
                "look at the sheet; if words and things do not fit, replace colours by ids and save"
                " those",
                names,
            )
        ]
        if names
        else []
    )


def _leaks(looked: dict[str, list[Looked]]) -> list[Finding]:
    train, val = looked.get("train", []), looked.get("val", [])
    files = {each.pair.image for each in train}
    both = tuple(str(each.pair.image) for each in val if each.pair.image in files)
    remedy = "take them out of one of the two"
    found = (
        [Finding("error", "images that are in training and in validation", remedy, both)]
        if both
        else []
    )
    stems = {each.pair.image.stem: each for each in train}
    named = [each for each in val if each.pair.image not in files and each.pair.image.stem in stems]
    content: dict[str, Looked] = {}
    for each in train:
        content.setdefault(each.digest, each)
    same = [
        (each, content[each.digest])
        for each in val
        if each.digest and each.digest in content and each.pair.image not in files
    ]
    if same:
        names = tuple(f"{each.pair.image} = {other.pair.image}" for each, other in same)
        found.append(
            Finding(
                "error",
                "images of validation that are in training under another name",
                remedy,
                names,
            )
        )
    known = {each.pair.image for each, _ in same}
    alike = tuple(str(each.pair.image) for each in named if each.pair.image not in known)
    if alike:
        found.append(
            Finding(
                "warning",
                "images of validation whose name is that of a training image with other content",
                "rename them",
                alike,
            )
        )
    for split, ones in looked.items():
        seen: dict[str, Looked] = {}
        twice = [one for one in ones if one.digest and seen.setdefault(one.digest, one) is not one]
        if twice:
            names = tuple(f"{one.pair.image} = {seen[one.digest].pair.image}" for one in twice)
            found.append(
                Finding(
                    "warning",
                    f"images that are in {split} more than once",
                    "keep one of each",
                    names,
                )
            )
    return found


def _labelled(found: Survey, wanted_in: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Classes without pixels, images without labelled ones."""
    findings = []
    for split, each in found.looked.items():
        if not each:
            continue
        pixels, wanted = found.pixels(split), wanted_in[split]
        never = tuple(name for name in wanted if not pixels[name])
        if len(never) == len(wanted):
            what = (
                f"no pixel of {split} is labelled with"
                f" {'a class to train on' if split == 'train' else 'a class'}"
            )
            findings.append(Finding("error", what, "check label maps, classes.txt and splits"))
        elif never:
            what = (
                "seen classes that no training image shows"
                if split == "train"
                else "classes that no validation image shows, which get no score"
            )
            findings.append(
                Finding("warning", what, "check their ids and spelling, or label some", never)
            )
        empty = tuple(
            str(one.pair.labels)
            for one in each
            if one.label_size != (0, 0) and not any(v >= found.first for v in one.areas)
        )
        if empty:
            findings.append(
                Finding(
                    "warning",
                    f"label maps of {split} without a labelled pixel",
                    "label them or leave them out",
                    empty,
                )
            )
    return findings
