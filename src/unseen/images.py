"""The one door for images and label maps: which files, formats and sizes are read, and how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from unseen.errors import DataError


def read_image(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """An image as (H, W, 3) uint8, RGB.

    Args:
        path: Any format that Pillow reads; transparency is dropped, greys become RGB.
        upright: Apply the rotation of the EXIF data. Off for data sets, whose masks belong to the
            stored pixels.

    Raises:
        DataError: Missing, not an image, or truncated.
    """
    try:
        with Image.open(path) as image:
            if upright:
                return _rgb(ImageOps.exif_transpose(image))
            return _rgb(image)
    except FileNotFoundError as error:
        raise DataError(f"the image {path} does not exist; check the path") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the image {path} cannot be read ({_short(error)}); replace the file or leave it out"
        ) from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if not image.mode.startswith("I"):
        return np.array(image.convert("RGB"))
    # Pillow would clip greys of 16 bits to white, so their upper 8 bits are taken here.
    grey = (np.asarray(image, dtype=np.uint32) >> 8).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


LOSSY = ("JPEG", "MPO", "WEBP")
"""Formats that do not keep ids."""
DEEP_MODES = ("I;16", "I;16B")
"""Pillow's modes of greys with 16 bits."""


def read_labels(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The ids of a label map (H, W).

    They are uint8 for a grey or palette PNG, and uint16 for a grey PNG or TIFF with 16 bits.
    Palette indices are read as they are, never as colours.

    Raises:
        DataError: Missing, not readable, or stored as colours or in a lossy format.
    """
    try:
        with Image.open(path) as image:
            _check_ids(path, image)
            if image.mode in DEEP_MODES:
                return np.array(image).astype(np.uint16)
            return np.array(image, dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(
            f"the label map {path} does not exist; check the data set's folder"
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the label map {path} cannot be read ({_short(error)}); restore the file"
        ) from error


def _check_ids(path: Path, image: Image.Image) -> None:
    """Refuse a label map whose pixels are not the ids that were stored."""
    if image.format in LOSSY:
        raise DataError(
            f"the label map {path} is a {image.format}, which blurs ids into their neighbours; make"
            " it again as a PNG, from the ids"
        )
    if image.mode not in ("L", "P", "1", *DEEP_MODES):
        raise DataError(
            f"the label map {path} is stored as {image.mode} colours; save class ids as an 8-bit"
            " grey or palette PNG"
        )
    # Pillow stretches greys of 2 and 4 bits to 0..255, so ids would change without an error. Greys
    # of 1 bit have another mode, in which ids stay 0 and 1.
    if image.mode == "L" and path.suffix.lower() == ".png" and _bit_depth(path) not in (1, 8):
        raise DataError(
            f"the label map {path} is a grey PNG of {_bit_depth(path)} bits, whose ids are not kept"
            " when read; save it with 8 bits"
        )


def _bit_depth(path: Path) -> int:
    """Of a PNG's samples, from its header."""
    # Signature (8 bytes), length and name of the first chunk (8), width (4), height (4), bit depth.
    with path.open("rb") as file:
        return file.read(25)[24]


def _short(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error).split("\n")[0]


SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
"""Suffixes of the images that are looked for in folders."""


def find_images(places: Sequence[Path]) -> list[Path]:
    """The files given, and the images in the folders given, in order and without repetition.

    Raises:
        DataError: A file that does not exist, a folder without images, or two images whose results
            would take the same name.
    """
    # By resolved path, as an image that is given by two paths is one image.
    images: dict[Path, Path] = {}
    for place in places:
        for path in _images_in(place):
            images.setdefault(path.resolve(), path)
    # Results are named after the image alone, without folder and suffix.
    by_stem: dict[str, Path] = {}
    for path in images.values():
        first = by_stem.setdefault(path.stem, path)
        if first != path:
            raise DataError(
                f"{first} and {path} would write the same results; rename one, or segment them into"
                " different --out folders"
            )
    return list(images.values())


def _images_in(place: Path) -> list[Path]:
    """A file itself, or the images in a folder, sorted."""
    if not place.exists():
        raise DataError(f"the image {place} does not exist; check the path")
    if not place.is_dir():
        return [place]
    files = sorted(p for p in place.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"the folder {place} holds no images ({', '.join(SUFFIXES)}); check the path"
        )
    return files
