"""Unpacking archives safely.

Nothing is written outside of the target folders. Links, and files that unpack to an implausible
size, are refused. A file gets its name only when it is complete, and none is overwritten.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from unseen.data.prepare.fetch import CHUNK
from unseen.data.prepare.folders import in_place
from unseen.errors import DataError
from unseen.files import replacing

if TYPE_CHECKING:
    from unseen.data.prepare.parts import Part
    from unseen.data.prepare.preparation import Preparation

LARGEST_FILE = 4 << 30
"""Bytes that one unpacked file may have."""
LARGEST_GROWTH = 100
"""Limit of the unpacked files together: so many times the archive's size, plus a gigabyte."""

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    NotImplementedError,  # zipfile: an unknown compression
    RuntimeError,  # zipfile: encrypted
)


@dataclass(frozen=True)
class _Member:
    """One file in an archive.

    Attributes:
        name: Its path.
        size: Bytes, as announced; a damaged or malicious archive may hold another number.
        regular: Whether it is a plain file, not a link or device.
        open: Opens its content.
        offset: Bytes of the archive before it, for the progress bar.
    """

    name: str
    size: int
    regular: bool
    open: Callable[[], IO[bytes]]
    offset: int


def unpack(path: Path, parts: Sequence[Part], prep: Preparation) -> None:
    """Unpack the files of the parts from a .tar, .tgz or .zip; those in place already are kept.

    Raises:
        DataError: The archive is damaged or cut short, holds a link or a path that leads outside,
            or is far too large.
    """
    try:
        count = _unpack_members(path, parts, prep)
    except _DAMAGE as error:
        raise DataError(
            f"{path} is damaged or cut short ({_first_line(error)}); delete it and download it"
            " anew; unpacked files are kept"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); restore it") from error
    # An archive without any of the files would else count as done.
    if not count:
        raise DataError(
            f"{path} holds none of the files expected in {parts[0].folder or 'it'}; it is another"
            " archive of that name: download the published one"
        )


def _unpack_members(path: Path, parts: Sequence[Part], prep: Preparation) -> int:
    """Unpack, and count the archive's members that belong to the parts."""
    # By content, not by name: people rename archives.
    members = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
    budget, count = (1 << 30) + LARGEST_GROWTH * path.stat().st_size, 0
    with prep.progress(path.name, path.stat().st_size, in_bytes=True) as advance:
        for member in members:
            advance(member.offset)
            target = _destination(member.name, parts, path)
            if target is None:
                continue
            if not member.regular:
                raise DataError(
                    f"{path} holds {member.name} as a link, which the published archive does not;"
                    " download it anew"
                )
            # Checked by the sizes that the archive announces; `_write` checks that they are true.
            budget -= member.size
            if member.size > LARGEST_FILE or budget < 0:
                raise DataError(
                    f"{path} unpacks to far more than belongs in it ({member.name}: {member.size}"
                    " bytes); nothing more was unpacked: download it anew"
                )
            count += 1
            if not in_place(target, member.size, path):
                _write(target, member, path)
    return count


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                # The file type of Unix's mode: 8 for a plain file, 0 if another system packed.
                file_type = info.external_attr >> 28

                def content(info: zipfile.ZipInfo = info) -> IO[bytes]:
                    return archive.open(info)

                yield _Member(
                    info.filename, info.file_size, file_type in (0, 8), content, info.header_offset
                )


def _tar_members(path: Path) -> Iterator[_Member]:
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as archive:
        for info in archive:
            if not info.isdir():

                def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                    stream = archive.extractfile(info)
                    assert stream is not None
                    return stream

                yield _Member(info.name, info.size, info.isreg(), content, raw.tell())


def _destination(name: str, parts: Sequence[Part], path: Path) -> Path | None:
    """The place of a member, or None if it belongs to none of the parts.

    Raises:
        DataError: The member's path leads outside of its folder on some operating system.
    """
    member = PurePosixPath(name.removeprefix("./"))
    # PurePosixPath keeps drive letters and backslashes, which Windows would follow.
    windows = "\\" in name or (member.parts and ":" in member.parts[0])
    if member.is_absolute() or ".." in member.parts or windows or "\0" in name:
        raise DataError(
            f"{path} holds {name!r}, which would be written outside of its folder; do not trust"
            " this archive, download the published one"
        )
    for part in parts:
        target = part.destination(member)
        if target is not None:
            return target
    return None


def _write(target: Path, member: _Member, path: Path) -> None:
    with replacing(target, "--root") as beside, beside.open("wb") as file:
        written = 0
        for chunk in _chunks(member, path):
            written += len(chunk)
            file.write(chunk)
        # The budget was checked with the announced size.
        if written != member.size:
            raise _damaged(member, path, f"{written} of {member.size} bytes")


def _chunks(member: _Member, path: Path) -> Iterator[bytes]:
    """The member's content in chunks.

    Raises:
        DataError: The archive is damaged. Errors of writing do not occur in here.
    """
    try:
        with member.open() as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except (OSError, *_DAMAGE) as error:
        raise _damaged(member, path, _first_line(error)) from error


def _damaged(member: _Member, path: Path, reason: str) -> DataError:
    return DataError(
        f"{member.name} in {path} is damaged or cut short ({reason}); delete the archive and"
        " download it anew; unpacked files are kept"
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
