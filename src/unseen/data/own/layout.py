"""Your own data: a folder of images, label maps and a list of classes.

Such a folder can be given wherever a benchmark's name is taken:

    DIR/images/NAME.jpg     images, in any usual format
    DIR/labels/NAME.png     class ids, as a grey or palette PNG with 8 bits (255 is ignored) or a
                            grey one with 16 bits (65535 is ignored); .tif too
    DIR/classes.txt         one class a line; the first line is id 0
    DIR/train.txt, val.txt  names of images, one a line, without suffix; if there is only one list,
                            the remaining images are the other split
    DIR/images/train, val   instead of lists; label maps then lie in labels/train, labels/val

Without lists and split folders, every fifth image is for validation, by the hash of its name: the
same on every machine.

A line of `classes.txt` is a class, its synonyms behind commas (a name with a comma in double
quotes), and perhaps a mark after a blank: `zebra # unseen`, `cow, cattle`. Only the last `#` of a
line begins a mark, so names may hold `#`; a name that itself ends like a mark needs `# seen` after
it. Marks are "unseen" (no masks in training), "seen" (the default), "ignore" (the id is no class
and its pixels are ignored) and, for the first line alone, "threshold" (a background whose pixels
are scored; see `Background`).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unseen.data.pairs import Background, Pair
from unseen.errors import DataError, VocabularyError
from unseen.image_files import SUFFIXES
from unseen.texts import read_text
from unseen.vocabulary import Vocabulary, split_words

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
CLASSES = "classes.txt"
NO_CLASS_MARKS = ("ignore", "threshold")
MARKS = ("unseen", "seen", *NO_CLASS_MARKS)
SPLITS = ("train", "val")
UNREAD = (
    "images that are not read, because images/ holds train/ or val/ without the other, or images"
    " beside them"
)
# The name takes as much as it can, so that only the last `#` begins a mark.
_MARKED = re.compile(rf"^(?P<name>.*\S)\s+#\s*(?P<mark>{'|'.join(MARKS)})$")
_MISPLACED = re.compile(rf"\s#\s*({'|'.join(MARKS)})\b")
_LIKE_A_MARK = re.compile(r"\s#\s*(\w+)$")


# -------------------------------------------------------------- list of classes


@dataclass(frozen=True)
class ClassList:
    """The content of `classes.txt`.

    Attributes:
        class_names: The classes, without lines marked "ignore" or "threshold".
        unseen: Those without masks in training.
        background: How labelled pixels of no class are treated.
        first_id: The stored id of the first class: 1 where id 0 is a background, else 0.
        ignored_ids: Stored ids of further lines marked "ignore".
        synonyms: The names of classes that have several, by class.
    """

    class_names: tuple[str, ...]
    unseen: tuple[str, ...]
    background: Background
    first_id: int
    ignored_ids: tuple[int, ...] = ()
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_classes(path: Path) -> ClassList:
    """Read a list of classes.

    Raises:
        DataError: The file is missing or is no text, has an empty line between others, names a
            class twice or none at all, or has a mark where it has no meaning.
    """
    # All dictionaries are in the order of the lines, which is the order of the ids.
    marks: dict[str, str] = {}
    numbers: dict[str, int] = {}
    synonyms: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(_class_lines(path), start=1):
        words, mark = _words_and_mark(line, f"line {number} of {path}")
        name = words[0]
        if mark == "threshold" and number > 1:
            raise DataError(
                f"line {number} of {path} is marked '# {mark}', which only the first line, id 0,"
                " can be; move that class to the first line, or have its pixels ignored"
            )
        if name in marks:
            raise DataError(
                f"{path} names {name!r} twice (line {numbers[name]} and line {number}); give every"
                " id another name"
            )
        marks[name], numbers[name] = mark, number
        if len(words) > 1:
            synonyms[name] = words
    return _class_list(path, marks, synonyms)


def _class_list(
    path: Path, marks: Mapping[str, str], synonyms: Mapping[str, tuple[str, ...]]
) -> ClassList:
    """The list of classes from the marks and synonyms of every line, in the order of the ids."""
    names = tuple(name for name, mark in marks.items() if mark not in NO_CLASS_MARKS)
    if not names:
        raise DataError(f"{path} names no class; write one a line, in the order of the ids")
    # A mark of the background takes the first line out of the classes, so ids start at 1.
    first_mark = next(iter(marks.values()))
    first_id = int(first_mark in NO_CLASS_MARKS)
    background: Background = "ignore"
    if first_mark == "threshold":
        background = "threshold"
    elif first_id == 0 and "background" in names:
        background = "class"
    ignored = (index for index, mark in enumerate(marks.values()) if mark == "ignore")
    words = {name: words for name, words in synonyms.items() if name in names}
    try:
        Vocabulary(names, words)
    except VocabularyError as error:
        raise DataError(f"{path}: {error}") from error
    return ClassList(
        names,
        tuple(name for name, mark in marks.items() if mark == "unseen"),
        background,
        first_id,
        tuple(index for index in ignored if index >= first_id),
        words,
    )


def _class_lines(path: Path) -> list[str]:
    remedy = (
        f"your folder needs images/, labels/ and {CLASSES}: one class a line, in the order of the"
        " ids"
    )
    return _lines(path, remedy)


def _words_and_mark(line: str, place: str) -> tuple[tuple[str, ...], str]:
    """The class name, its synonyms, and the mark of a line, "seen" without one.

    Args:
        line: Without blanks at its ends.
        place: Where the line stands, for messages.
    """
    marked = _MARKED.match(line)
    if marked:
        return _words(marked["name"], place), marked["mark"]
    if line in ("", "#"):
        raise DataError(
            f"{place} holds no class; ids follow from the lines, so fill it in or remove it"
        )
    misplaced = _MISPLACED.search(line)
    if misplaced or line.startswith("# "):
        raise DataError(
            f"{place}, {line!r}, has a '#' that ends no line with a mark; a mark stands at the end,"
            " behind all synonyms, there are no comments, and a name that holds ' # unseen' or the"
            " like needs '# seen' after it"
        )
    # A misspelt mark would silently become a part of the name.
    alike = _LIKE_A_MARK.search(line)
    if alike and difflib.get_close_matches(alike[1].lower(), MARKS, n=1, cutoff=0.8):
        raise DataError(
            f"{place} ends in '# {alike[1]}', which is no mark but like one; marks are"
            f" # {', # '.join(MARKS)}: correct it, or write '# seen' after a name that ends so"
        )
    return _words(line, place), "seen"


def _words(text: str, place: str) -> tuple[str, ...]:
    """A class name and its synonyms."""
    try:
        words = split_words(text, place)
    except VocabularyError as error:
        raise DataError(str(error)) from error
    if not words or "" in words:
        raise DataError(
            f"{place} has an empty name between commas; a line is a class, its synonyms behind"
            " commas, and a name with a comma stands in double quotes"
        )
    return words


# ------------------------------------------------------------- files and splits


@dataclass(frozen=True)
class Splits:
    """Which images belong to which split.

    Attributes:
        names: Names of images by split.
        source: Where the splits come from, as a phrase for messages and reports.
        unknown: Listed names without an image, with their list: "a (val.txt)".
    """

    names: dict[str, list[str]]
    source: str
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FolderContents:
    """The files of a folder of your own data.

    Attributes:
        splits: Which image belongs to which split.
        pairs: Images with label maps, by split.
        unlabelled: Images of a split without a label map.
        unpaired: Label maps without an image.
        wrong_format: Files of labels/ in a format that is not read, under the name of an image.
        unread: Images that no split contains: beside images/train and images/val, or in one of
            these two without the other.
        nested: Whether images and label maps lie in train/ and val/.
    """

    splits: Splits
    pairs: dict[str, list[Pair]]
    unlabelled: list[Path]
    unpaired: list[Path]
    wrong_format: list[Path]
    unread: list[Path]
    nested: bool


def read_folder(folder: Path) -> FolderContents:
    """Look through a folder without opening its images.

    Raises:
        DataError: There is no images/ or labels/, two files share a name, or there are lists as
            well as split folders.
    """
    require_parts(folder)
    # One split folder without the other would leave the images beside it without a split.
    nested = all((folder / "images" / split).is_dir() for split in SPLITS)
    lists = [f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()]
    if nested and lists:
        raise DataError(
            f"{folder} has both {lists[0]} and images/train, images/val; keep one of the two, so"
            " that the splits are clear"
        )
    # Names are paths below images/ without suffix: "train/a" in split folders, else "a".
    folders_read, folders_unread = [""], [f"{split}/" for split in SPLITS]
    if nested:
        folders_read, folders_unread = folders_unread, folders_read
    images = _files_by_name(folder / "images", folders_read, SUFFIXES, unique=True)
    labels = _files_by_name(folder / "labels", folders_read, LABEL_SUFFIXES, unique=True)
    # Of every image format, to recognise label maps saved as JPEG.
    other_labels = _files_by_name(folder / "labels", folders_read, SUFFIXES)
    splits = _splits(folder, images, nested=nested)
    # An image may be on both lists; it is named once.
    used = dict.fromkeys(name for split in SPLITS for name in splits.names[split])
    without_map = [name for name in used if name not in labels]
    pairs = {
        split: [Pair(images[name], labels[name]) for name in names if name in labels]
        for split, names in splits.names.items()
    }
    return FolderContents(
        splits=splits,
        pairs=pairs,
        unlabelled=[images[name] for name in without_map if name not in other_labels],
        unpaired=[path for name, path in labels.items() if name not in images],
        wrong_format=[other_labels[name] for name in without_map if name in other_labels],
        unread=list(_files_by_name(folder / "images", folders_unread, SUFFIXES).values()),
        nested=nested,
    )


def require_parts(folder: Path) -> None:
    """Refuse a folder without images/ or labels/.

    Raises:
        DataError: One of the two is missing.
    """
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise DataError(
                f"{folder} has no folder {part}/; put images into images/ and label maps of the"
                " same names into labels/"
            )


def own_pairs(folder: Path, split: str) -> list[Pair]:
    """The images and label maps of a split ("train" or "val").

    Raises:
        DataError: Anything that `read_folder` refuses, images without a label map, listed names
            without an image, or an empty split.
    """
    # `unseen check` reports all of these; training stops at the first, so that no image is left out
    # unnoticed.
    contents = read_folder(folder)
    for files, problem in (
        (contents.unlabelled, "images without a label map in labels/"),
        (contents.splits.unknown, "names on lists without an image in images/"),
        (contents.unread, UNREAD),
    ):
        if files:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            raise DataError(
                f"{folder} has {problem}: {files[0]}{more}; `unseen check {folder}` names them all"
            )
    if contents.wrong_format:
        path = contents.wrong_format[0]
        raise DataError(
            f"the label map {path} is no PNG or TIFF, which keep ids; save them as {path.stem}.png"
        )
    if not contents.pairs[split]:
        use = {"train": "training", "val": "validation"}[split]
        raise DataError(
            f"{folder} has no images for {use} ({contents.splits.source}); add some, or change the"
            " lists"
        )
    return contents.pairs[split]


def _splits(folder: Path, images: Mapping[str, Path], *, nested: bool) -> Splits:
    if nested:
        by_folder = {split: [n for n in images if n.startswith(f"{split}/")] for split in SPLITS}
        return Splits(by_folder, "images/train and images/val")
    lists = {split: folder / f"{split}.txt" for split in SPLITS}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    if lists:
        return _splits_by_lists(images, lists)
    return _splits_by_hash(images)


def _splits_by_hash(images: Iterable[str]) -> Splits:
    """Every fifth image for validation, and at least one."""
    # Hashes, unlike random numbers or the order of files, stay when images are added.
    hashes = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in images}
    val = {name for name, value in hashes.items() if value % 5 == 0}
    # Of few images it can happen that no hash is divisible by five.
    if hashes and not val:
        val = {min(hashes, key=lambda name: hashes[name])}
    names = {
        "train": [name for name in hashes if name not in val],
        "val": [name for name in hashes if name in val],
    }
    return Splits(names, "every fifth image, by the hash of its name")


def _splits_by_lists(images: Mapping[str, Path], lists: dict[str, Path]) -> Splits:
    """The splits of train.txt and val.txt, or of one of them and the rest of the images."""
    names: dict[str, list[str]] = {}
    unknown = []
    for split, path in lists.items():
        # Without empty lines and repeated names, in the order of the list.
        listed = list(dict.fromkeys(filter(None, _lines(path, "restore it"))))
        names[split] = [name for name in listed if name in images]
        unknown += [f"{name} ({path.name})" for name in listed if name not in images]
    source = " and ".join(path.name for path in lists.values())
    # At most one of the two lists is missing here.
    for split, other in (SPLITS, SPLITS[::-1]):
        if split not in names:
            taken = set(names[other])
            names[split] = [name for name in images if name not in taken]
            source += ", the rest for the other split"
    return Splits({split: names[split] for split in SPLITS}, source, unknown)


def _files_by_name(
    folder: Path, prefixes: Iterable[str], suffixes: tuple[str, ...], *, unique: bool = False
) -> dict[str, Path]:
    """Files by name without suffix, in order.

    Args:
        folder: Where to look.
        prefixes: Folders in it, which become the beginning of the names; "" for the folder itself.
        suffixes: Of files to take.
        unique: Refuse two files of one name instead of taking the last one.
    """
    files: dict[str, Path] = {}
    for prefix in prefixes:
        place = folder / prefix
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            # Hidden files are often previews that a file manager has put beside the images.
            if path.name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            if not path.is_file():
                continue
            name = prefix + path.stem
            if unique and name in files:
                raise DataError(
                    f"{files[name]} and {path} share a name, so it is not clear which belongs to"
                    " which; rename or remove one"
                )
            files[name] = path
    return files


def _lines(path: Path, remedy: str) -> list[str]:
    """The lines of a text, without blanks at their ends and empty lines at the end."""
    return [line.strip() for line in read_text(path, missing=remedy).rstrip().splitlines()]
