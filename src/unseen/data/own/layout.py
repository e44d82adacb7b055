"""Data of one's own: a folder of images, label maps and a list of classes, used wherever a
benchmark's name is taken.

DIR/images/NAME.jpg        images, in any usual format
DIR/labels/NAME.png        ids, grey or palette with 8 bits (255 is void), or grey with 16 bits
(65535 is void); .tif too
DIR/classes.txt            a class a line; id 0 is the first line
DIR/train.txt, val.txt     names of images, one a line, without suffix; with one list, the other
split is the rest
DIR/images/train, val      instead of lists; label maps then lie in labels/train, labels/val
Without any of these, every fifth image is for validation, by the hash of its name: the same on
every machine.

A line of `classes.txt` is a name, or a name and a mark, set off by a blank: `zebra # unseen`. What
stands before the last mark is the name, so names may hold `#`; one that ends like a mark is
followed by `# seen`. Marks: "unseen" (no masks in training), "seen" (the default), and for the
first line,
whose pixels are then no class: "ignore" (a background that is void) and "threshold" (a background
that is scored; `Background`).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from unseen.data.datasets import Background, Pair
from unseen.errors import DataError
from unseen.files import SUFFIXES

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
CLASSES = "classes.txt"
MARKS = ("unseen", "seen", "ignore", "threshold")
MARK = re.compile(rf"^(?P<name>.*\S)\s+#\s*(?P<mark>{'|'.join(MARKS)})$")
LIKE_A_MARK = re.compile(r"\s#\s*(\w+)$")
SPLITS = ("train", "val")
UNREAD = (
    "images that are not read, because images/ holds train/ or val/ without the other, or"
    " images beside them"
)


@dataclass(frozen=True)
class Classes:
    """What `classes.txt` says.

    Attributes:
        class_names: The words.
        unseen: Those without masks in training.
        background: What id 0 is, if not a word.
        first: The id of the first word.
    """

    class_names: tuple[str, ...]
    unseen: tuple[str, ...]
    background: Background
    first: int


def read_classes(path: Path) -> Classes:
    """Read a list of classes.

    Raises:
        DataError: No such file, not a text, an empty line between others, a name given twice, no
            words, or a mark where it has no meaning.
    """
    lines = _lines(
        path,
        f"a folder of your own needs images/, labels/ and {CLASSES}: one class a line, in the order"
        " of the ids",
    )
    names: list[str] = []
    marks: list[str] = []
    for number, line in enumerate(lines, start=1):
        found = MARK.match(line)
        name, mark = (found["name"], found["mark"]) if found else (line, "seen")
        alike = None if found else LIKE_A_MARK.search(line)
        if alike and difflib.get_close_matches(alike[1].lower(), MARKS, n=1, cutoff=0.8):
            raise DataError(
                f"line {number} of {path} ends in '# {alike[1]}', which is no mark but like one;"
                f" marks are # {', # '.join(MARKS)}: correct it, or put '# seen' behind a name that"
                " ends so"
            )
        if not name or name == "#":
            raise DataError(
                f"line {number} of {path} holds no class; ids follow from the lines, so fill it in"
                " or remove it"
            )
        if mark in ("ignore", "threshold") and number > 1:
            raise DataError(
                f"line {number} of {path} is marked '# {mark}', which only the first line, id 0,"
                " can be; put that class first, or make it void"
            )
        if name in names:
            raise DataError(
                f"{path} names {name!r} twice (line {names.index(name) + 1} and line {number});"
                " every id needs a name of its own"
            )
        names.append(name)
        marks.append(mark)
    first = int(bool(marks) and marks[0] in ("ignore", "threshold"))
    if len(names) == first:
        raise DataError(f"{path} names no class; write one a line, in the order of the ids")
    background: Background = (
        "threshold"
        if marks[0] == "threshold"
        else "ignore"
        if first or "background" not in names
        else "class"
    )
    return Classes(
        tuple(names[first:]),
        tuple(name for name, mark in zip(names, marks, strict=True) if mark == "unseen"),
        background,
        first,
    )


@dataclass
class Contents:
    """What a folder holds.

    Attributes:
        splits: The pairs of each split.
        how: Where the splits come from.
        unlabelled: Images without a label map, of either split.
        pictureless: Label maps without an image.
        misfits: Label maps under another suffix than those read, by the image they belong to.
        unknown: Lines of lists that name no image.
        unread: Images in folders that are not looked into: beside images/train and images/val, or
            in one of them without the other.
        nested: Whether images and label maps lie in train/ and val/.
    """

    splits: dict[str, list[Pair]]
    how: str
    unlabelled: list[Path] = field(default_factory=list)
    pictureless: list[Path] = field(default_factory=list)
    misfits: list[Path] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    nested: bool = False


def contents(folder: Path) -> Contents:
    """Look through a folder without opening its images.

    Raises:
        DataError: No images/ or labels/, two images of one name, or lists besides split folders.
    """
    images, labels = folder / "images", folder / "labels"
    for place in (images, labels):
        if not place.is_dir():
            raise DataError(
                f"{folder} has no folder {place.name}/; put images into images/ and label maps of"
                " the same names into labels/"
            )
    nested = all((images / split).is_dir() for split in SPLITS)
    lists = {
        split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()
    }
    if nested and lists:
        raise DataError(
            f"{folder} has both {next(iter(lists))}.txt and images/train, images/val; keep one of"
            " the two, so that the splits are clear"
        )
    places = [f"{split}/" for split in SPLITS] if nested else [""]
    pictures = {
        name: path
        for place in places
        for name, path in _files(images / place, place, SUFFIXES, twice=True).items()
    }
    maps = {
        name: path
        for place in places
        for name, path in _files(labels / place, place, LABEL_SUFFIXES, twice=True).items()
    }
    others = {
        name: path
        for place in places
        for name, path in _files(labels / place, place, SUFFIXES).items()
        if name not in maps
    }
    chosen, how, unknown = _chosen(pictures, lists, nested)
    wanted = dict.fromkeys(name for split in SPLITS for name in chosen[split])
    return Contents(
        {
            split: [Pair(pictures[name], maps[name]) for name in chosen[split] if name in maps]
            for split in SPLITS
        },
        how,
        [pictures[name] for name in wanted if name not in maps and name not in others],
        [path for name, path in maps.items() if name not in pictures],
        [path for name, path in others.items() if name in wanted],
        unknown,
        [
            path
            for place in ([""] if nested else SPLITS)
            for path in _files(images / place, "", SUFFIXES).values()
        ],
        nested,
    )


def own_pairs(folder: Path, split: str) -> list[Pair]:
    """The pairs of a split.

    Raises:
        DataError: Also: images without label map, names in lists without image, or an empty
            split.
    """
    found = contents(folder)
    for files, what in (
        (found.unlabelled, "images without a label map in labels/"),
        (found.unknown, "names on lists without an image in images/"),
        (found.unread, UNREAD),
    ):
        if files:
            raise DataError(
                f"{folder} has {what}:"
                f" {files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}; `unseen"
                f" check {folder}` names them"
            )
    if found.misfits:
        raise DataError(
            f"the label map {found.misfits[0]} is no PNG or TIFF; save ids as"
            f" {found.misfits[0].stem}.png, without a loss"
        )
    if not found.splits[split]:
        raise DataError(
            f"{folder} has no images for {'training' if split == 'train' else 'validation'}"
            f" ({found.how}); add some, or change the lists"
        )
    return found.splits[split]


def _chosen(
    pictures: dict[str, Path], lists: dict[str, Path], nested: bool
) -> tuple[dict[str, list[str]], str, list[str]]:
    """The names of each split, how they were found, and listed names that are no images."""
    if nested:
        return (
            {
                split: [name for name in pictures if name.startswith(f"{split}/")]
                for split in SPLITS
            },
            "images/train and images/val",
            [],
        )
    if not lists:
        rank = {
            name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in pictures
        }
        val = {name for name in pictures if rank[name] % 5 == 0} or set(
            sorted(rank, key=lambda name: rank[name])[:1]
        )
        return (
            {
                "train": [n for n in pictures if n not in val],
                "val": [n for n in pictures if n in val],
            },
            "every fifth image, by the hash of its name",
            [],
        )
    listed = {
        split: list(dict.fromkeys(filter(None, _lines(path, "restore it"))))
        for split, path in lists.items()
    }
    unknown = [
        f"{name} ({split}.txt)"
        for split, names in listed.items()
        for name in names
        if name not in pictures
    ]
    known = {split: [name for name in names if name in pictures] for split, names in listed.items()}
    for split, other in (SPLITS, SPLITS[::-1]):
        if split not in known:
            taken = set(known[other])
            known[split] = [name for name in pictures if name not in taken]
    return (
        known,
        " and ".join(path.name for path in lists.values())
        + (", the rest for the other split" if len(lists) == 1 else ""),
        unknown,
    )


def _files(
    place: Path, prefix: str, suffixes: tuple[str, ...], *, twice: bool = False
) -> dict[str, Path]:
    """Files by name without suffix, in order; with `twice`, two of one name are refused."""
    found: dict[str, Path] = {}
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            name = prefix + path.stem
            if twice and name in found:
                raise DataError(
                    f"{found[name]} and {path} share a name, so it is not clear which belongs to"
                    " which; rename or remove one"
                )
            found[name] = path
    return found


def _lines(path: Path, remedy: str) -> list[str]:
    """The lines of a text, without blanks at their ends and empty lines at the end."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text; save it so") from error
