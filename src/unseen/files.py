"""Images in, results out. Nothing half-written ever stands under its final name."""

from __future__ import annotations

import errno
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from unseen.errors import DataError

UNFINISHED = re.compile(r"\..+-unfinished-[a-z0-9_]{8}(\.\w+)?")
"""Names of files that are being written."""


@contextmanager
def replacing(path: Path, flag: str = "--out") -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name `path` when the block ends well and
    disappears when it does not.

    Args:
        path: The final name.
        flag: The flag that chooses another place, for the message.

    Raises:
        DataError: The folder cannot be made or written to, or the disk is full.
    """
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.parent / f".{path.stem}-unfinished-{secrets.token_hex(4)}{path.suffix}"
        # The mode of a new file tells the umask; reading the umask itself would mean setting it
        # for the whole process, while other threads may be writing.
        name.touch(exist_ok=False)
        beside = name
        mode = stat.S_IMODE(beside.stat().st_mode)
        yield beside
        # Some writers (safetensors) make the file anew, readable by its owner alone.
        beside.chmod(mode)
        beside.replace(path)
    except OSError as error:
        remedy = (
            "free some space"
            if error.errno == errno.ENOSPC
            else f"choose another place with {flag}"
        )
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}); {remedy}"
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def read_image(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """An image as (H, W, 3) uint8, RGB.

    Args:
        path: Any format Pillow reads; transparency is dropped, greys become RGB.
        upright: Turn it as its EXIF data asks. Off for data sets, whose masks belong to the stored
            pixels.

    Raises:
        DataError: Missing, not an image, or truncated.
    """
    try:
        with Image.open(path) as image:
            whole = ImageOps.exif_transpose(image) if upright else image
            if whole.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to white
                return np.repeat(
                    (np.asarray(whole, dtype=np.uint32) >> 8)
                    .clip(0, 255)
                    .astype(np.uint8)[..., None],
                    3,
                    axis=2,
                )
            return np.array(whole.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"the image {path} does not exist; check the path") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the image {path} cannot be read ({_short(error)}); replace the file or leave it out"
        ) from error


LOSSY = ("JPEG", "MPO", "WEBP")
"""Formats that do not keep ids."""


def read_labels(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The ids of a label map (H, W): uint8 of a grey or palette PNG, uint16 of a grey PNG or TIFF
    with 16 bits.

    Palette indices are read as they are, never as colours.

    Raises:
        DataError: Missing, not readable, stored as colours, or with a loss.
    """
    try:
        with Image.open(path) as image:
            if image.format in LOSSY:
                raise DataError(
                    f"the label map {path} is a {image.format}, which blurs ids into their"
                    " neighbours; make it again as a PNG, from the ids"
                )
            if image.mode in ("I;16", "I;16B"):
                return np.array(image).astype(np.uint16)
            if image.mode not in ("L", "P", "1"):
                raise DataError(
                    f"the label map {path} is stored as {image.mode} colours; save class ids as an"
                    " 8-bit grey or palette PNG"
                )
            if (
                image.mode == "L"
                and path.suffix.lower() == ".png"
                and _bit_depth(path) not in (1, 8)
            ):
                raise DataError(
                    f"the label map {path} is a grey PNG of {_bit_depth(path)} bits, whose ids are"
                    " not kept when read; save it with 8 bits"
                )
            return np.array(image, dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(
            f"the label map {path} does not exist; check the data set's folder"
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the label map {path} cannot be read ({_short(error)}); restore the file"
        ) from error


def _bit_depth(path: Path) -> int:
    """Of a PNG's samples, from its header."""
    with path.open("rb") as file:
        return file.read(25)[24]


def write_labels(
    path: Path, labels: NDArray[np.uint8], palette: list[tuple[int, int, int]]
) -> None:
    """Save ids (H, W) as an indexed PNG whose palette shows them in colour; the ids stay readable
    as such.
    """
    image = Image.fromarray(labels, mode="P")
    image.putpalette(
        [channel for colour in (palette + [(0, 0, 0)] * 256)[:256] for channel in colour]
    )
    with replacing(path) as beside:
        image.save(beside, format="PNG", optimize=True)


def _short(error: Exception) -> str:
    return (
        "not an image" if isinstance(error, UnidentifiedImageError) else str(error).split("\n")[0]
    )


SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


def find_images(places: Sequence[Path]) -> list[Path]:
    """The files given, and the images in the folders given, in order; each once.

    Raises:
        DataError: A file that does not exist, a folder without images, or two images whose results
            would take the same name.
    """
    files = [file for place in places for file in _images_in(place)]
    # An image given twice, perhaps by two paths, keeps its first place and path.
    unique = {file.resolve(): file for file in reversed(files)}
    files = list(reversed(unique.values()))
    first: dict[str, Path] = {}
    for path in files:
        if first.setdefault(path.stem, path) != path:
            raise DataError(
                f"{first[path.stem]} and {path} would write the same results; rename one, or"
                " segment them into different --out folders"
            )
    return files


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


def check_not_among(files: Sequence[Path], out: Path) -> None:
    """Refuse to write results into the folder of an image, which they could replace.

    Raises:
        DataError: One of the images is in the folder.
    """
    for file in files:
        if file.resolve().parent == out.resolve():
            raise DataError(
                f"the results would be written beside {file} and could replace images; choose"
                " another folder with --out"
            )
