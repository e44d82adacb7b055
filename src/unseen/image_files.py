"""Which files of a folder are images, by their names: none is opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from unseen.errors import DataError

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif", ".jp2",
)  # fmt: skip
"""Suffixes of the images that are looked for in folders."""


def images_in(
    folder: Path, *, recursive: bool = False, remedy: str = "check the path"
) -> list[Path]:
    """The images in a folder, sorted by their paths.

    Hidden files and folders are passed over: they may be what a killed process left.

    Args:
        folder: Where to look.
        recursive: Also in the folders in it, as deep as they lie; links to folders are not
            followed.
        remedy: What to do about a folder without images.

    Raises:
        DataError: It holds none, or cannot be looked at.
    """

    def fail(error: OSError) -> None:
        raise error

    images: list[Path] = []
    try:
        for place, folders, names in os.walk(folder, onerror=fail):
            folders[:] = [name for name in folders if recursive and not name.startswith(".")]
            paths = (Path(place, name) for name in names)
            images += [path for path in paths if looks_like_an_image(path)]
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise  # the command line has a sentence for it
        raise DataError(
            f"{error.filename or folder} cannot be looked at ({error.strerror}); check its path and"
            " permissions"
        ) from error
    if not images:
        raise DataError(f"the folder {folder} holds no images ({', '.join(SUFFIXES)}); {remedy}")
    return sorted(images)


def looks_like_an_image(path: Path) -> bool:
    """Whether a file has the suffix of an image and is not hidden."""
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()
