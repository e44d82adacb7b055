"""The one door for images and label maps: which files, formats and sizes are read, and how.

Whatever an image comes as, its pixels are the same: a path, what Pillow opened, or an array.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from unseen.errors import DataError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "GIF", "JPEG2000")
"""Pillow's formats that are read. The others are never tried: an EPS is a program, which Pillow
would hand to an interpreter, whatever the file is called."""
MOST_PIXELS = 25_000_000
"""Of an image or a label map. Labelling one takes some forty bytes a pixel, several in a row
seventy, as the next is read and the last written meanwhile."""
MOST_ELONGATED = 50
"""How many times as long as wide an image may be: the short side decides how far it is enlarged."""
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged files."""

Decoded = TypeVar("Decoded")


@runtime_checkable
class TensorLike(Protocol):
    """A tensor of torch, which is not imported here."""

    def detach(self) -> Any:
        """The same values without gradients."""

    def cpu(self) -> Any:
        """The same values in the main memory."""


ImageLike = str | Path | Image.Image | NDArray[Any] | TensorLike
"""What an image may be given as."""
ADDRESSES = ("http://", "https://")
"""How the address of an image begins."""


# ------------------------------------------------------------------------- files


def read_image(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """An image as (H, W, 3) uint8, RGB.

    Args:
        path: A file in one of `FORMATS`; transparency is dropped, greys become RGB.
        upright: Apply the rotation of the EXIF data. Off for data sets, whose masks belong to the
            stored pixels.

    Raises:
        DataError: Missing, not a file, not an image, truncated, or too large.
    """

    def decode(image: Image.Image) -> NDArray[np.uint8]:
        return _rgb(_turned(image) if upright else image)

    remedy = "replace the file or leave it out"
    if path.suffix.lower() in (".tif", ".tiff"):
        remedy += "; maps of other depths and bands are read with --tile"
    return read_file(path, "image", decode, remedy=remedy)


def read_file(
    path: Path,
    kind: str,
    decode: Callable[[Image.Image], Decoded],
    missing: str = "check the path",
    remedy: str = "replace the file or leave it out",
) -> Decoded:
    """What `decode` makes of an image file, whose header was judged before any pixel is read.

    Args:
        path: The file.
        kind: What it should hold, for messages: "image", "label map".
        decode: From the opened image to its content; its errors are those of a damaged file.
        missing: What to do about a file that is not there.
        remedy: What to do about a file that cannot be read.

    Raises:
        DataError: Missing, not a regular file, in another format, damaged, or too large.
    """
    name = f"the {kind} {path}"
    try:
        # A pipe or a device would be read for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{name} is not a file; {missing}")
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist; {missing}") from error
    except _DAMAGE as error:
        raise DataError(f"{name} cannot be read ({_short(error)}); {remedy}") from error
    return _decoded(path, name, decode, remedy)


def _decoded(
    source: Path | io.BytesIO, name: str, decode: Callable[[Image.Image], Decoded], remedy: str
) -> Decoded:
    """What `decode` makes of an image, whose header was judged before any pixel is read."""
    try:
        with _without_warnings(), Image.open(source, formats=FORMATS) as image:
            check_size(image.size, name)
            return decode(image)
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(name, "by its header")) from error
    except MemoryError as error:
        raise DataError(f"{name} does not fit into memory; {remedy}") from error
    except _DAMAGE as error:
        raise DataError(f"{name} cannot be read ({_short(error)}); {remedy}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without Pillow's warning about large images, which are refused in a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse an image by its size (width, height).

    Raises:
        DataError: No pixels, more than `MOST_PIXELS`, or more elongated than `MOST_ELONGATED`.
    """
    short, long = sorted(size)
    told = f"{size[0]} x {size[1]} pixels"
    if short < 1:
        raise DataError(f"{name} has {told}; give one with pixels")
    if short * long > MOST_PIXELS:
        raise DataError(_too_large(name, told))
    if long > MOST_ELONGATED * short:
        raise DataError(
            f"{name} has {told}, more than {MOST_ELONGATED} times as long as wide; cut it into"
            " pieces"
        )


def _too_large(name: str, told: str) -> str:
    most = f"{MOST_PIXELS / 1e6:.0f} million"
    return f"{name} is too large ({told}; at most {most}); make it smaller, or cut it into pieces"


def _short(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0][:100] or type(error).__name__


# ------------------------------------------------------------------------ pixels


def read_pixels(image: ImageLike) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) uint8, RGB, of whatever an image is given as.

    Args:
        image: A path, an address that begins with http:// or https://, a PIL image (turned as its
            EXIF data ask), an array (H, W), (H, W, 1) or (H, W, 3), or with transparency as a
            further channel, or a tensor (H, W) or with channels first: uint8, uint16, or floats in
            0..1 or 0..255.

    Raises:
        DataError: Anything else, or a file that cannot be read or fetched.
    """
    if isinstance(image, str) and image.startswith(ADDRESSES):
        return _fetched(image)
    if isinstance(image, (str, Path)):
        return read_image(Path(image), upright=True)
    if isinstance(image, Image.Image):
        check_size(image.size, "the PIL image")
        try:
            return _rgb(_turned(image))
        except _DAMAGE as error:
            raise DataError(
                f"the PIL image cannot be read ({_short(error)}); open the file again"
            ) from error
    if isinstance(image, np.ndarray):
        return _pixels_of_array(image)
    if isinstance(image, TensorLike):
        values = np.asarray(image.detach().cpu())
        return _pixels_of_array(np.moveaxis(values, 0, -1) if values.ndim == 3 else values)
    # Python users may give anything.
    raise DataError(
        f"the image is of type {type(image).__name__}; give a path, a PIL image, an (H, W, 3)"
        " array or a (3, H, W) tensor"
    )


MOST_FETCHED = 100_000_000
"""Bytes of an image that is fetched; one of `MOST_PIXELS` has fewer."""
FETCH_SECONDS = 30
"""How long a server may say nothing."""


def _fetched(address: str) -> NDArray[np.uint8]:
    """The pixels of an image on a server.

    Raises:
        DataError: The server does not answer, or not with an image.
    """
    # Few need it, and it takes long to import.
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        # `address` begins as one of `ADDRESSES` does, and files are no redirection of theirs.
        with urlopen(address, timeout=FETCH_SECONDS) as answer:  # noqa: S310
            content = answer.read(MOST_FETCHED + 1)
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"the image {address} cannot be fetched ({reason}); open it in a browser, or give the"
            " file"
        ) from error
    if len(content) > MOST_FETCHED:
        raise DataError(f"the image {address} is too large; make it smaller")
    name, remedy = f"the image {address}", "give the address of an image"
    return _decoded(io.BytesIO(content), name, lambda image: _rgb(_turned(image)), remedy)


def _pixels_of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    array = np.asarray(array)  # a matrix stays two-dimensional whatever is done to it
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        raise DataError(f"the array has the shape {array.shape}; give (H, W, 3), RGB")
    check_size((array.shape[1], array.shape[0]), "the array")
    try:
        colours = _eight_bits(array[..., : 3 if array.shape[2] > 2 else 1])
    except ValueError as error:
        raise DataError(f"the array's {error}; give 8 or 16 bits, or floats in 0..1") from error
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours


def _turned(image: Image.Image) -> Image.Image:
    """The image as a camera's EXIF data ask for it to be shown; damaged data turn nothing."""
    with suppress(*_DAMAGE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Pillow, about damaged EXIF data
        turned: Image.Image = ImageOps.exif_transpose(image)
        return turned
    return image


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    # Pillow would clip greys of 16 bits to white, and floats of 0..1 to black.
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_eight_bits(np.asarray(image))[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values of any depth as 8 bits: the upper half of 16 bits, floats by their range."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind not in "iuf":
        raise ValueError(f"values are {values.dtype}")
    low, high = values.min(), values.max()
    # Compared so that NaN fails.
    if kind == "f" and low >= 0 and high <= 255:
        scaled: NDArray[np.uint8] = np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
        return scaled
    # int32 is how Pillow gives some greys of 16 bits; wider types may mean anything.
    if kind != "f" and width in (2, 4) and 0 <= low <= high <= 65535:
        upper: NDArray[np.uint8] = np.right_shift(values, 8).astype(np.uint8)
        return upper
    raise ValueError(f"values are {values.dtype} from {low} to {high}")


# -------------------------------------------------------------------- label maps

LOSSY = ("JPEG", "MPO", "WEBP")
"""Formats that do not keep ids."""
DEEP_MODES = ("I;16", "I;16B")
"""Pillow's modes of greys with 16 bits."""


def read_labels(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The ids of a label map (H, W).

    They are uint8 for a grey or palette PNG, and uint16 for a grey PNG or TIFF with 16 bits.
    Palette indices are read as they are, never as colours.

    Raises:
        DataError: Missing, not readable, too large, or stored as colours or in a lossy format.
    """

    def decode(image: Image.Image) -> NDArray[np.uint8] | NDArray[np.uint16]:
        _check_ids(path, image)
        if image.mode in DEEP_MODES:
            return np.array(image).astype(np.uint16)
        return np.array(image, dtype=np.uint8)

    missing, remedy = "check the data set's folder", "restore the file"
    return read_file(path, "label map", decode, missing, remedy)


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
