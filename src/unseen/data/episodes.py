"""Episodes of folds: HSNet's lists, and the (image, class) pairs that a fold is scored on.

There are four ways to draw the pairs. The literature mixes them up, and their numbers differ:

    all     every pair of the fold's list once; nothing is random (the default)
    hsnet   1000 pairs. PASCAL: in the order of the list, over and over. COCO: drawn, first the
            class, then the image, then a second image, the support image of few-shot methods
            (HSNet, EdgeCLIP: seed 0)
    sazs    as hsnet, but without drawing a support image, so that COCO's pairs differ (SAZS:
            seed 0)
    bam     1000 pairs: the images in which a class of the fold covers at least 2048 pixels, over
            and over in the order of the validation list, each with one of these classes drawn
            (ESDA: seed 923). PASCAL only: for COCO, BAM's list gives the order, and it has no
            stable address
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from unseen.data.pairs import Pair
from unseen.errors import DataError, SettingError
from unseen.files import cache_folder, replacing
from unseen.settings import Draw
from unseen.texts import read_names

if TYPE_CHECKING:  # help and refusals, which name the folds, do without
    import numpy as np

DRAWS = 1000
"""Pairs that the released codes score for every fold."""
AREA = 2 * 32 * 32
"""BAM: a class counts in an image if it covers this many pixels."""
SOURCE = "https://raw.githubusercontent.com/juhongm999/hsnet/main/data/splits"
HASHES = {
    "pascal/trn/fold0.txt": "40fded8be6afbc4b", "pascal/trn/fold1.txt": "558167c3c6fea0cd",
    "pascal/trn/fold2.txt": "d07e35f4a4ae9577", "pascal/trn/fold3.txt": "ffe09100c0c4d9c1",
    "pascal/val/fold0.txt": "748e2f4732ac502c", "pascal/val/fold1.txt": "afce1929e4dacbc1",
    "pascal/val/fold2.txt": "50b1f5218e8f882c", "pascal/val/fold3.txt": "c3825d7c52d1608d",
    "coco/trn/fold0.pkl": "5a94e113d8c150a7", "coco/trn/fold1.pkl": "69629cdd84fd57b3",
    "coco/trn/fold2.pkl": "594adc4b8ebecf9b", "coco/trn/fold3.pkl": "07b38ccc9e15ebfd",
    "coco/val/fold0.pkl": "96002389be83b473", "coco/val/fold1.pkl": "a34deecdf2858fc4",
    "coco/val/fold2.pkl": "0f275c5e9bf538f6", "coco/val/fold3.pkl": "927597bd78036a46",
}  # fmt: skip
"""First 16 digits of the SHA-256 of HSNet's published lists."""


@dataclass(frozen=True)
class Episode:
    """One query: which pixels of image `index` show class `class_id`?"""

    index: int
    class_id: int


def draw(
    episodes: Sequence[Episode], how: Draw, *, uniform_classes: bool, seed: int, count: int = DRAWS
) -> list[Episode]:
    """The pairs to score, from those of a fold's list, in its order.

    Args:
        episodes: Every pair of the list; of BAM's list for "bam".
        how: The way to draw (see the head of this module).
        uniform_classes: Whether "hsnet" and "sazs" draw class, then image (COCO), instead of
            going through the list (PASCAL).
        seed: Of the random numbers; 0 is what HSNet and SAZS use for COCO.
        count: Pairs, where not all.

    Raises:
        SettingError: There is no such way.
    """
    if how not in get_args(Draw):
        raise SettingError(
            f"there is no way to draw episodes called {how!r}; choose one of"
            f" {', '.join(get_args(Draw))}"
        )
    if how == "all" or not episodes:
        return list(episodes)
    import numpy as np

    # The released codes draw with numpy's old generator, whose numbers must be repeated.
    rng = np.random.RandomState(seed)
    if how == "bam":
        return _draw_per_image(episodes, rng, count)
    if uniform_classes:
        return _draw_per_class(episodes, rng, count, with_support=how == "hsnet")
    return [episodes[i % len(episodes)] for i in range(count)]


def _draw_per_image(
    episodes: Sequence[Episode], rng: np.random.RandomState, count: int
) -> list[Episode]:
    """Images one after the other, with one of their classes."""
    by_image: dict[int, list[Episode]] = {}
    for episode in episodes:
        by_image.setdefault(episode.index, []).append(episode)
    # Dictionaries keep the order of insertion, so images stay in the order of the list.
    images = list(by_image.values())
    drawn = []
    for i in range(count):
        options = images[i % len(images)]
        drawn.append(options[rng.randint(len(options))])
    return drawn


def _draw_per_class(
    episodes: Sequence[Episode], rng: np.random.RandomState, count: int, *, with_support: bool
) -> list[Episode]:
    """A class, then one of its images.

    Args:
        episodes: To draw from.
        rng: Random numbers.
        count: Pairs to draw.
        with_support: Draw another image of the class too, as few-shot code does for its support.
    """
    by_class: dict[int, list[Episode]] = {}
    for episode in episodes:
        by_class.setdefault(episode.class_id, []).append(episode)

    # `choice` instead of `randint`: the two consume the generator differently, and HSNet's numbers
    # must be repeated.
    def choice(options: Sequence[object]) -> int:
        return int(rng.choice(len(options), 1, replace=False)[0])

    drawn = []
    for _ in range(count):
        options = by_class[int(rng.choice(sorted(by_class), 1, replace=False)[0])]
        query = choice(options)
        # The support image must be another one. It is not used, but its random numbers are.
        while with_support and len(options) > 1 and choice(options) == query:
            pass
        drawn.append(options[query])
    return drawn


# ----------------------------------------------------------------------- lists


def is_published(data: bytes, name: str) -> bool:
    """Whether these bytes are HSNet's published list `name`."""
    return hashlib.sha256(data).hexdigest()[:16] == HASHES[name]


def find_list(lists: Path | None, name: str) -> Path:
    """One of HSNet's lists: from a given folder, or downloaded once and kept.

    Args:
        lists: Folder of the lists of one data set (`val/fold0.txt`) or of both
            (`pascal/val/fold0.txt`); None downloads from HSNet's public repository.
        name: Of the list, as "pascal/val/fold0.txt".

    Raises:
        DataError: The list is not in the folder, cannot be downloaded, or is not the published one.
    """
    if lists is not None:
        # People keep HSNet's whole tree, or the part of one data set.
        short_name = name.partition("/")[2]
        for path in (lists / name, lists / short_name):
            if path.is_file():
                return path
        raise DataError(
            f"{lists} holds no {short_name}; give the folder of HSNet's lists (data/splits in its"
            " repository) with --lists"
        )
    path = cache_folder() / "lists" / name
    if not path.is_file():
        data = _download_list(name)
        with replacing(path, ours=True) as beside:
            beside.write_bytes(data)
    return path


LONGEST_LIST = 10_000_000
"""Bytes, far more than any of the lists has."""


def _download_list(name: str) -> bytes:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    url = f"{SOURCE}/{name}"
    try:
        with urlopen(url, timeout=30) as answer:  # noqa: S310 - SOURCE is https
            data: bytes = answer.read(LONGEST_LIST)
    except (URLError, OSError, HTTPException) as error:
        cause = f"answer {error.code}" if isinstance(error, HTTPError) else error
        raise DataError(
            f"HSNet's list {name} could not be fetched from {SOURCE} ({cause}); check the network,"
            " or give a folder that has it with --lists"
        ) from error
    if not is_published(data, name):
        # Other lists give other scores without an error: HSNet's repository may change.
        raise DataError(
            f"the file at {url} is not the list that was published; give the folder of HSNet's"
            " lists with --lists"
        )
    return data


def pascal_list(path: Path) -> list[tuple[str, int]]:
    """The (image, class from 0) pairs of one of HSNet's PASCAL lists.

    Its lines read `2007_000032__01`.

    Raises:
        DataError: A line has another form.
    """
    pairs = []
    for line in read_names(path):
        stem, separator, number = line.rpartition("__")
        if not separator or not number.isdigit() or not 1 <= int(number) <= 20:
            raise DataError(
                f"{path} has the line {line!r}; lines read like 2007_000032__01, an image and a"
                " class from 01 to 20: restore the list"
            )
        # The lists count classes from 1, because masks store the background as 0.
        pairs.append((stem, int(number) - 1))
    return pairs


class _DataOnly(pickle.Unpickler):
    """Reads dictionaries, lists, numbers and strings; anything that would need code is refused."""

    # A pickle can run any code when it is read. Plain data never look up a class.

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def coco_list(path: Path) -> list[tuple[str, int]]:
    """The (image, class from 0) pairs of one of HSNet's COCO lists, class by class.

    Its images read `val2014/COCO_val2014_….jpg`.

    Raises:
        DataError: The file is no such list.
    """
    try:
        with path.open("rb") as file:
            classes = _DataOnly(file).load()
        return [
            (str(image), int(class_id))
            for class_id, images in sorted(classes.items())
            for image in images
        ]
    # Damaged bytes make the reader of pickles raise almost anything.
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        TypeError,
        ValueError,
        OverflowError,
        MemoryError,
        IndexError,
        KeyError,
    ) as error:
        raise DataError(
            f"{path} is not one of HSNet's lists (a plain dictionary from class to images);"
            " restore it"
        ) from error


# --------------------------------------------------------------- images of a fold


def paired(
    listed: Sequence[tuple[str, int]],
    locate: Callable[[str], Pair],
    source: Path,
    classes: Sequence[int],
) -> tuple[list[Pair], list[Episode]]:
    """The images of a list, in the order of their first lines, and its (image, class) pairs.

    Args:
        listed: (image, class) pairs.
        locate: Where image and mask of a name should lie.
        source: The list, for messages.
        classes: The classes the list may name.

    Raises:
        DataError: The list is empty or names a class of another fold, or an image or mask is
            missing.
    """
    if not listed:
        raise DataError(f"{source} is empty; restore the list")
    numbers: dict[str, int] = {}
    pairs: list[Pair] = []
    episodes, missing = [], []
    for name, class_id in listed:
        if class_id not in classes:
            raise DataError(
                f"{source} names class {class_id + 1} for {name}, which does not belong in this"
                " list; restore it"
            )
        # An image with several novel classes has several lines, but is opened once.
        if name not in numbers:
            pair = locate(name)
            missing += [path for path in (pair.image, pair.labels) if not path.is_file()]
            numbers[name] = len(pairs)
            pairs.append(pair)
        episodes.append(Episode(numbers[name], class_id))
    if missing:
        more = f", and {len(missing) - 1} more files are missing" if len(missing) > 1 else ""
        raise DataError(
            f"{source} names {missing[0].stem}, but {missing[0]} does not exist{more}; complete the"
            " data set, or take the lines out of the list"
        )
    return pairs, episodes


def bam_list(
    pairs: Sequence[Pair], num_classes: int, novel: Sequence[int]
) -> tuple[list[Pair], list[Episode]]:
    """BAM's validation images and pairs, by its rule on masks.

    Masks store 0 for the background, 1..C for the classes and 255 for ignored pixels. A class
    counts in an image if it covers at least `AREA` pixels; an image is kept if a novel class counts
    in it.
    """
    import numpy as np

    from unseen.images import read_labels

    kept: list[Pair] = []
    episodes: list[Episode] = []
    for pair in pairs:
        # Without the background in front and the ignored pixels at the end.
        areas = np.bincount(read_labels(pair.labels).ravel(), minlength=256)[1 : num_classes + 1]
        large = [class_id for class_id in novel if areas[class_id] >= AREA]
        if large:
            episodes += [Episode(len(kept), class_id) for class_id in large]
            kept.append(pair)
    return kept, episodes
