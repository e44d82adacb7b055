"""The one door for files written: whole or not at all, and never over a file of somebody else's."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseen.errors import DataError

if TYPE_CHECKING:  # every command imports this module, and few write images
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MARK = "written by unseen"
"""Stands near the start of all files of the program's own."""
_BEGINNINGS = re.compile(
    rb'# written by unseen |\{\n "about": "written by unseen '
    rb"|<!doctype html>\n<!-- written by unseen "
    # Text files of version 0.1 had no mark.
    rb'|\{\n "format": [12],|format: [12]\n'
    # Tables are read by programs that know no comments.
    rb'|image,result,height,width,margin,entropy,no_class,"?share of '
)
"""How text files of the program's own begin."""
_PNG, _PNG_MARK = b"\x89PNG", b"Software\0written by unseen "
_PNG_END = b"IEND\xaeB`\x82"
_TENSORS, _TENSOR_KEYS = b'{"__metadata__":{"', (b'unseen":', b'format":"1"', b'format":"2"')
"""How files of tensors begin that have no mark: eigenvectors, and weights of former versions."""
_HEAD = 4096
"""Bytes in which a mark is looked for."""
RESULTS = (".png", ".overlay.png", ".json")
"""How the names of the results of an image end: label map, overlay, numbers."""
TILED = ".tif"
"""In place of the first, of an image that was labelled in parts."""
RESULTS_FORMAT = 3
"""Version of the numbers beside a label map."""
MANIFEST, INDEX = "job.json", "index.csv"
"""Beside the results of a job: what they are made with, and a line of numbers for each image."""
PARQUET = "index.parquet"
"""The same numbers for programs that read Parquet."""
LONGEST_NAME = 255
"""Bytes of a file's name."""
REPORT, REPORT_FORMAT = "report.json", 2
"""What an evaluation measured, and the version of the file."""
SHEET = "sheet.png"
"""Images with what was made of them, beside the results of most verbs."""
UNFINISHED = re.compile(r"\.unseen-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}(\.\w+)?")
"""Names of files that are being written; a killed process leaves such a file behind."""
_LEFT_AFTER = 24 * 3600
"""Seconds without a change after which an unfinished file of another machine was left behind."""
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.ENAMETOOLONG: "give what it is named after a shorter name",
}


def about() -> str:
    """The mark, with the version."""
    return f"{MARK} {version('unseen')}"


# --------------------------------------------------------------------- replacing


@contextmanager
def replacing(path: Path, flag: str = "--out", *, ours: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to.

    The file takes the name `path` when the block ends without an error, and else is removed. It
    lies in the same folder, so that it takes the name in one step on every file system, and its
    bytes are on the disk before that: what a crash of the machine leaves is the old file or the
    new one.

    Args:
        path: The final name.
        flag: The flag that chooses another place, for the message.
        ours: Whether a file that has the name is known to be the program's own.

    Raises:
        DataError: The folder cannot be made or written to, the disk is full, or a file of somebody
            else's has the name.
    """
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not ours:
            check_replaceable([path], flag)
        _sweep_once(path.parent)
        name = unfinished_name(path.suffix)
        # A new file's mode follows the umask. Reading the umask itself would mean setting it for
        # the whole process, while other threads may be writing.
        (path.parent / name).touch(exist_ok=False)
        beside = path.parent / name
        mode = stat.S_IMODE(beside.stat().st_mode)
        yield beside
        # Some writers (safetensors) make the file anew, readable by its owner alone.
        beside.chmod(mode)
        _flush(beside)
        # Renaming within a folder is atomic: readers find the old file or the complete new one.
        beside.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise unwritable(path, error, flag) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError, flag: str = "--out") -> DataError:
    """What to raise where a file or a folder cannot be written."""
    remedy = _REMEDIES.get(error.errno or 0, f"choose another place with {flag}")
    return DataError(f"{path} cannot be written ({error.strerror or error}); {remedy}")


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot do this for folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def check_replaceable(paths: Iterable[Path], flag: str = "--out") -> None:
    """Refuse to write over files that the program has not written.

    Raises:
        DataError: Names the first one.
    """
    for path in paths:
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            raise DataError(
                f"the name of {path.name[:40]}... would have {len(path.name)} characters; give what"
                " it is named after a shorter name"
            )
        if os.path.lexists(path) and not has_mark(path):
            raise DataError(
                f"{path} exists and was not written by unseen; move it away, or choose another"
                f" place with {flag}"
            )


def has_mark(path: Path) -> bool:
    """Whether a file's beginning says that the program has written it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_PNG):
        return _PNG_MARK in head
    # Eight bytes are the length of the header of a safetensors file.
    if head[8:].startswith(_TENSORS):
        names = tuple(_TENSORS + key for key in _TENSOR_KEYS)
        return b'"about":"written by unseen ' in head or head[8:].startswith(names)
    return _BEGINNINGS.match(head) is not None


def is_whole(path: Path) -> bool:
    """Whether a file is there, with its end if it is a PNG: copies that were stopped have none."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return True
        file.seek(-min(len(_PNG_END), path.stat().st_size), os.SEEK_END)
        return file.read() == _PNG_END


# ---------------------------------------------------------------- what kills leave


@cache
def _machine() -> str:
    """A name of this start of this machine, or container: process numbers mean something here."""
    parts = [os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def unfinished_name(suffix: str = "") -> str:
    """A name for what is being written, by which others know whether its process is alive."""
    return f".unseen-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


@cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing in a folder: files, and run folders."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = UNFINISHED.fullmatch(entry.name)
            # Another process may have removed it.
            if found and _was_left(entry, found):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        Path(entry.path).unlink()


def _was_left(entry: os.DirEntry[str], name: re.Match[str]) -> bool:
    if name["machine"] == _machine():
        return not is_alive(int(name["process"]))
    return time.time() - entry.stat().st_mtime > _LEFT_AFTER


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs; on Windows, where asking ends it, always."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


# ------------------------------------------------------------------------- kinds


def write_text(path: Path, text: str, *, ours: bool = False) -> None:
    """Write a text as it is: it has the mark, unless the place is the program's own."""
    with replacing(path, ours=ours) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any], *, ours: bool = False) -> None:
    """Write a JSON object, after a line that says what wrote it."""
    # Names of any script stay readable.
    text = json.dumps({"about": about(), **content}, indent=1, ensure_ascii=False)
    write_text(path, text + "\n", ours=ours)


def write_png(
    path: Path,
    image: Image.Image,
    *,
    small: bool = False,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Write an image as a PNG with the mark.

    Args:
        path: Its place.
        image: The image.
        small: Spend time on a smaller file.
        told: What is kept in the file as JSON, as the text "unseen".
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", about())
    if told:
        info.add_itxt("unseen", json.dumps(told, ensure_ascii=False))
    with replacing(path) as beside:
        # The weakest compression takes a third of the time, and photographs hardly care.
        image.save(beside, format="PNG", compress_level=1, optimize=small, pnginfo=info)


def write_labels(
    path: Path,
    labels: NDArray[np.uint8],
    palette: list[tuple[int, int, int]],
    told: Mapping[str, Any] | None = None,
) -> None:
    """Save ids (H, W) as an indexed PNG, whose palette shows them in colour; `told` as above."""
    from PIL import Image

    image = Image.fromarray(labels, mode="P")
    full_palette = (palette + [(0, 0, 0)] * 256)[:256]
    image.putpalette([channel for colour in full_palette for channel in colour])
    write_png(path, image, small=True, told=told)


def file_state(path: Path) -> dict[str, Any] | None:
    """Name, size and time of the last change of a file, as JSON types; None if it has gone."""
    try:
        state = path.stat()
    except OSError:
        return None
    return {"file": path_text(path), "bytes": state.st_size, "changed": state.st_mtime_ns}


def path_text(path: str | Path) -> str:
    """A path as text: bytes of a name that are none become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file that cannot have a mark to where only the program writes."""
    with replacing(target, ours=True) as beside:
        shutil.copyfile(source, beside)


# ----------------------------------------------------------------------- folders


def cache_folder() -> Path:
    """Where downloads and the like are kept: in XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "unseen"
    return Path.home() / ".cache" / "unseen"


def check_output_folder(out: Path) -> None:
    """Refuse to write into what is not a folder.

    Raises:
        DataError: It is a file, or a link to nothing.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, not a folder; choose another place with --out")
    if out.is_symlink() and not out.exists():
        raise DataError(f"{out} is a link to nothing; choose another place with --out")


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
