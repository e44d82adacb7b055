"""Which images are to be labelled, and the names that their results take."""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import Any

from unseen.errors import DataError, SettingError
from unseen.files import INDEX, MANIFEST, RESULTS, TILED, file_state, has_mark
from unseen.image_files import images_in, looks_like_an_image
from unseen.labelling.videos import Frame, check_videos_readable, frames_of, looks_like_a_video
from unseen.settings.ranges import shown
from unseen.texts import read_text

STANDARD_INPUT = ("-", "/dev/stdin")
"""Stand for a list of images that is read from standard input."""


@dataclass(frozen=True)
class Item:
    """An image to label.

    Attributes:
        path: Its file.
        name: Of its results, below the output folder: with "/" between folders, without ending.
        frame: Which frame of the file, if that is a video.
    """

    path: Path
    name: str
    frame: Frame | None = None

    @property
    def state(self) -> dict[str, Any] | None:
        """Name, size and time of the last change of its file; None if that has gone."""
        state = file_state(self.path)
        if state is None or self.frame is None:
            return state
        return {**state, "frame": self.frame.number, "seconds": round(self.frame.seconds, 3)}

    @property
    def shown(self) -> str:
        """The image's file, or the frame, as messages show it."""
        if self.frame is not None:
            return self.name
        return PurePosixPath(self.name).with_name(self.path.name).as_posix()

    def results(self, out: Path) -> list[Path]:
        """The files that are written of it."""
        return [out / (self.name + ending) for ending in RESULTS]


@dataclass(frozen=True)
class Shard:
    """One of several parts of a job, each for a process of its own.

    Attributes:
        index: From 0 on.
        count: Of parts.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Shard:
        """From "index/count", such as "0/4".

        Raises:
            SettingError: Anything else.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None or int(found[1]) >= int(found[2]):
            raise SettingError(
                f"--shard is {shown(text)}; give the part, from 0 on, and how many there are, such"
                " as 0/4 or $RANK/$WORLD_SIZE"
            )
        return cls(int(found[1]), int(found[2]))

    def part(self, items: Sequence[Item]) -> list[Item]:
        """The images of this part, whatever other images there are."""
        return [item for item in items if self._place(item) == self.index]

    def _place(self, item: Item) -> int:
        digest = hashlib.sha256(item.name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count


def tables(out: Path) -> list[Path]:
    """The files that are written of all images together."""
    return [out / MANIFEST, out / INDEX]


def find_items(
    places: Sequence[str | Path], *, recursive: bool = False, every: int = 1
) -> list[Item]:
    """The images that places stand for, in their order and without repetition.

    Results take an image's own name without its suffix, below the folders that it lies in under a
    folder that was given, or under the part of a pattern before its first wildcard. Where two
    images would take the same, their folders are put before it, and in one folder the suffixes
    stay. Frames of a video lie in a folder of its name.

    Args:
        places: Images, videos, folders of images, patterns such as "scans/*/left.png" ("**" for
            any number of folders), text files with the path of an image on each line, or "-" for
            such lines from standard input. The images of a list are not looked for yet: one that is
            missing is told when its turn comes, as one that cannot be read.
        recursive: Also take the images in folders of a folder, as deep as they lie.
        every: Of videos, take each `every`-th frame.

    Raises:
        DataError: What does not exist or cannot be read, and places without an image.
        SettingError: Videos where nothing reads them.
    """
    # By resolved path, as an image that is given by two paths is one image.
    found: dict[Path, tuple[Path, str]] = {}
    for place in places:
        for path, below in _images_of(str(place), recursive):
            found.setdefault(path.resolve(), (path, below))
    items = _told_apart(list(found.values()))
    folders = {above.as_posix() for item in items for above in PurePosixPath(item.name).parents}
    return [frame for item in items for frame in _with_frames(item, every, folders)]


def _with_frames(item: Item, every: int, folders: Collection[str]) -> list[Item]:
    """An image; or of a video, its frames, in a folder that holds no other results."""
    if not looks_like_a_video(item.path):
        return [item]
    check_videos_readable()
    place = item.name + item.path.suffix if item.name in folders else item.name
    frames = frames_of(item.path, every)
    return [Item(item.path, f"{place}/{frame.name}", frame) for frame in frames]


def _images_of(place: str, recursive: bool) -> Iterator[tuple[Path, str]]:
    """The images of one place, and what of their path counts for the names of results."""
    path = Path(place)
    if place in STANDARD_INPUT:
        yield from _listed(sys.stdin.read().splitlines(), "standard input")
    elif has_magic(place) and not path.exists():
        yield from _matching(place)
    elif path.suffix.lower() == ".txt" and path.is_file():
        yield from _listed(read_text(path).splitlines(), str(path))
    elif path.is_dir():
        yield from _in_folder(path, recursive)
    elif path.exists():
        yield path, path.name
    else:
        raise DataError(f"there is no image or folder {path}; check the path")


def _in_folder(folder: Path, recursive: bool) -> Iterator[tuple[Path, str]]:
    """The images in a folder, without results of this program, which may lie there too."""
    remedy = "check the path"
    if not recursive:
        remedy += ", or look into the folders in it with --recursive"
    files = _no_results(images_in(folder, recursive=recursive, remedy=remedy))
    if not files:
        raise DataError(f"the folder {folder} holds results alone, and no images; {remedy}")
    return ((file, file.relative_to(folder).as_posix()) for file in files)


def _no_results(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if not _is_result(file)]


def _is_result(file: Path) -> bool:
    """Whether the program has written an image: a PNG, or the label map of one in parts."""
    if file.suffix == TILED:  # which is known by what lies beside it
        return has_mark(file.with_suffix(RESULTS[2]))
    return file.suffix.lower() == ".png" and has_mark(file)


def _matching(pattern: str) -> Iterator[tuple[Path, str]]:
    """The images that a pattern names, below what of it is no pattern; other files may match."""
    # `Path.glob` knows no absolute patterns.
    files = sorted(Path(name) for name in glob(pattern, recursive=True))  # noqa: PTH207
    wanted = (file for file in files if looks_like_an_image(file) or looks_like_a_video(file))
    files = _no_results(wanted)
    if not files:
        raise DataError(f"no image is named as {pattern!r} says; check the pattern")
    parts = Path(pattern).parts
    fixed = Path(*itertools.takewhile(lambda part: not has_magic(part), parts[:-1]))
    return ((file, file.relative_to(fixed).as_posix()) for file in files)


def _listed(lines: Iterable[str], source: str) -> Iterator[tuple[Path, str]]:
    """The images whose paths stand on lines, as they are seen from the current folder."""
    paths = [Path(line.strip()) for line in lines if line.strip()]
    if not paths:
        raise DataError(f"{source} names no images; give the path of one on each line")
    return ((path, path.name) for path in paths)


# ------------------------------------------------------------------------- names


@dataclass
class _Naming:
    """How the results of an image are named.

    Attributes:
        path: The image.
        below: Its own name and the folders above it that always count.
        folders: How many of the further folders above it count.
        suffix: Whether its suffix stays.
    """

    path: Path
    below: PurePosixPath
    folders: int = 0
    suffix: bool = False

    @property
    def name(self) -> str:
        own = self.below if self.suffix else self.below.with_suffix("")
        above = self.path.resolve().parts[1 : -len(self.below.parts)]
        return PurePosixPath(*above[len(above) - self.folders :], own).as_posix()


def _told_apart(found: Sequence[tuple[Path, str]]) -> list[Item]:
    """Images with names whose results do not meet."""
    namings = [_Naming(path, PurePosixPath(below)) for path, below in found]
    while clashes := _clashes(namings):
        for group in clashes:
            # Folders tell images apart that do not lie in one.
            apart = len({naming.path.resolve().parent for naming in group}) == len(group)
            for naming in group:
                if apart:
                    naming.folders += 1
                else:
                    naming.suffix = True
    return [Item(naming.path, naming.name) for naming in namings]


def _clashes(namings: Sequence[_Naming]) -> list[list[_Naming]]:
    """Groups of images of which some results would take the same name."""
    takers: dict[str, list[int]] = defaultdict(list)
    for i, naming in enumerate(namings):
        for ending in RESULTS:
            takers[naming.name + ending].append(i)
    groups = {tuple(group) for group in takers.values() if len(group) > 1}
    return [[namings[i] for i in group] for group in sorted(groups)]
