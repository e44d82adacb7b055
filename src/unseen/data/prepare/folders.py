"""The folders of data sets: finding them, listing their files, adding files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.errors import DataError
from unseen.files import replacing, unwritable
from unseen.texts import read_text


def file_names(folder: Path, suffix: str = "") -> set[str]:
    """The names of a folder's finished files that end in `suffix`; none if there is no folder.

    Raises:
        DataError: The path cannot be read as a folder.
    """
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name
                for entry in entries
                if entry.name.endswith(suffix)
                and not entry.name.startswith(".")  # hidden, or being written
                and not entry.is_dir()
            }
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read as a folder ({error.strerror}); move it away, or choose"
            " another place with --root"
        ) from error


def file_stems(folder: Path, suffix: str) -> set[str]:
    """As `file_names`, without the suffix."""
    return {name.removesuffix(suffix) for name in file_names(folder, suffix)}


def find_files(folder: Path, suffix: str) -> list[Path]:
    """The finished files anywhere below a folder that end in `suffix`, in order."""
    return sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    )


def locate_dataset(root: Path, path: str, *markers: str) -> Path:
    """The folder of a data set, whether it exists or not.

    Users give the folder above (`root`/`path`), one in between, or that of the data set itself.

    Args:
        root: Folder of all data sets, or that of the data set.
        path: Where the data set belongs below a folder of all data sets.
        markers: Folders inside the data set. The first is enough below `root`; `root` itself is the
            data set if it has its name or all of two or more markers.
    """
    # A link to the data set's folder may have another name than the folder.
    parts, root_names = Path(path).parts, {root.name, root.resolve().name}
    candidates = [root.joinpath(*parts[i:]) for i in range(len(parts))]
    for folder in candidates:
        if (folder / markers[0]).exists():
            return folder
    if parts[-1] in root_names:
        return root
    if len(markers) > 1 and all((root / marker).exists() for marker in markers):
        return root
    # The folder does not exist yet. A root that has the name of the first folder of the path is
    # that folder, so the rest of the path belongs below it.
    if parts[0] in root_names and len(parts) > 1:
        return candidates[1]
    return candidates[0]


def link_or_copy(path: Path, target: Path) -> None:
    """Put a file in another place too: as a hard link on the same disk, else as a copy."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Resolved: a link to a symbolic link would break when its file is moved.
        os.link(path.resolve(), target)
    # Other disks and some file systems have no hard links.
    except OSError:
        with replacing(target, "--root") as beside:
            shutil.copyfile(path, beside)


def in_place(target: Path, size: int, source: Path) -> bool:
    """Whether a file of `size` bytes is in its place already.

    Raises:
        DataError: The file in place has another size, or the folder cannot be read.
    """
    try:
        actual = target.stat().st_size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unwritable(target, error, "--root") from error
    # Sizes alone: comparing contents would read tens of gigabytes.
    if actual != size:
        raise DataError(
            f"{target} has {actual} bytes, but {size} in {source}: it is cut short or was changed;"
            " move it away and run again"
        )
    return True


def save_mask(path: Path, labels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Save ids (H, W) as a grey PNG of 8 or 16 bits, completely or not at all."""
    with replacing(path, "--root") as beside:
        Image.fromarray(labels).save(beside, format="PNG")


def read_list(path: Path) -> list[str]:
    """The names in a list file.

    Raises:
        DataError: The list is missing or is no text.
    """
    return read_text(path, missing="restore it from its archive").split()


def write_list(path: Path, stems: Sequence[str]) -> None:
    """Write a list of names, or keep an existing list of the same names in any order.

    Raises:
        DataError: The existing list has other names.
    """
    if path.exists():
        names = read_list(path)
        if set(names) != set(stems):
            raise DataError(
                f"{path} names other images than belong in it ({len(names)} instead of"
                f" {len(stems)}); move it away and run again"
            )
        return
    with replacing(path, "--root") as beside:
        beside.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


def listed_names(file: Path) -> set[str]:
    """The names on a list, none if there is no such file."""
    return set(read_list(file)) if file.is_file() else set()
