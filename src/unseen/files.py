"""Writing files completely or not at all."""

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
from PIL import Image

from unseen.errors import DataError

UNFINISHED = re.compile(r"\..+-unfinished-[a-z0-9_]{8}(\.\w+)?")
"""Names of files that are being written; a killed process leaves such a file behind."""


@contextmanager
def replacing(path: Path, flag: str = "--out") -> Iterator[Path]:
    """A path beside `path` to write to.

    The file takes the name `path` when the block ends without an error, and else is removed.

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
        # A new file's mode follows the umask. Reading the umask itself would mean setting it for
        # the whole process, while other threads may be writing.
        name.touch(exist_ok=False)
        beside = name
        mode = stat.S_IMODE(beside.stat().st_mode)
        yield beside
        # Some writers (safetensors) make the file anew, readable by its owner alone.
        beside.chmod(mode)
        # Renaming within a folder is atomic: readers find the old file or the complete new one.
        beside.replace(path)
    except OSError as error:
        remedy = f"choose another place with {flag}"
        if error.errno == errno.ENOSPC:
            remedy = "free some space"
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}); {remedy}"
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_labels(
    path: Path, labels: NDArray[np.uint8], palette: list[tuple[int, int, int]]
) -> None:
    """Save ids (H, W) as an indexed PNG, whose palette shows them in colour."""
    image = Image.fromarray(labels, mode="P")
    full_palette = (palette + [(0, 0, 0)] * 256)[:256]
    image.putpalette([channel for colour in full_palette for channel in colour])
    with replacing(path) as beside:
        image.save(beside, format="PNG", optimize=True)


def check_output_folder(out: Path) -> None:
    """Refuse to write into what is not a folder.

    Raises:
        DataError: It is a file.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, not a folder; choose another place with --out")


def check_not_among(files: Sequence[Path], out: Path) -> None:
    """Refuse to write results into the folder of an image, which they could replace.

    Raises:
        DataError: One of the images is in the folder, or it is none.
    """
    check_output_folder(out)
    for file in files:
        if file.resolve().parent == out.resolve():
            raise DataError(
                f"the results would be written beside {file} and could replace images; choose"
                " another folder with --out"
            )
