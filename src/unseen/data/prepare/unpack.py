"""Archives and folders into their places: nothing outside the place, no links, no bombs, nothing
half-written, nothing overwritten.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from unseen.data.prepare.fetch import CHUNK, by_hand, known_archive, obtain
from unseen.data.prepare.work import deep_names, names
from unseen.errors import DataError
from unseen.files import replacing

if TYPE_CHECKING:
    from unseen.data.prepare.published import Archive
    from unseen.data.prepare.work import Work

LARGEST_FILE, LARGEST_GROWTH = 4 << 30, 100
"""Bytes of one unpacked file; how many times its archive's size all of them may take (plus a
gigabyte)."""


@dataclass(frozen=True)
class Part:
    """Files of an archive and where they belong.

    Attributes:
        inside: Folder in the archive.
        to: Folder they go to.
        suffixes: Only files that end so.
        count: How many there are, where known.
        needs: Names that must be there for the part to be complete; with neither these nor `count`,
            nothing says that it is.
        also: Other places, below the folder given with --from, where people keep the same files
            unpacked.
        deep: Whether files lie in folders below.
        optional: Taken along, but not missed: nothing reads it.
        made: Made by a tool, of which there are several: what is in place is kept, however many
            bytes it has.
    """

    inside: str
    to: Path
    suffixes: tuple[str, ...]
    count: int | None = None
    needs: frozenset[str] = frozenset()
    also: tuple[str, ...] = ()
    deep: bool = False
    optional: bool = False
    made: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything is in its place."""
        if self.count is None and not self.needs:
            return False
        found = self.present()
        return (self.count is None or len(found) >= self.count) and self.needs <= found

    def present(self) -> set[str]:
        """The names of the files in place."""
        if self.deep:
            return {path.name for suffix in self.suffixes for path in deep_names(self.to, suffix)}
        return {name for suffix in self.suffixes for name in names(self.to, suffix)}

    def destination(self, path: PurePosixPath) -> Path | None:
        """Where a member of the archive belongs, if it is wanted."""
        inside = PurePosixPath(self.inside)
        if (
            not path.is_relative_to(inside)
            or not path.name.endswith(self.suffixes)
            or path.name.startswith(".")
        ):
            return None
        rest = path.relative_to(inside)
        return self.to / rest if self.deep or len(rest.parts) == 1 else None


def ensure(work: Work, archive: Archive, parts: Sequence[Part]) -> None:
    """See that the parts of an archive are in their places: there already, in an unpacked folder,
    or in the archive, which is fetched if need be.

    Raises:
        DataError: Not to be had, damaged, unsafe, or in conflict with what is there.
    """
    open_ = adopt(work, parts)
    if all(part.optional for part in open_):
        work.say(f"{archive.file}: its files are in place")
        return
    if known_archive(archive, work) is None and all(
        part.count is None and not part.needs and part.present() for part in open_
    ):
        work.say(
            f"{archive.file} is not at hand and its number of files not published; going on with"
            f" those in {open_[0].to}"
        )
        return
    path = obtain(archive, work)
    work.say(f"unpacking {path}")
    unpack(path, open_, work)


def adopt(work: Work, parts: Sequence[Part]) -> list[Part]:
    """Take what lies unpacked below --from into its places; the parts that are still to be had."""
    open_ = [part for part in parts if not part.complete]
    for part in list(open_):
        found = unpacked(part, work)
        if found is not None:
            _adopt(found, part, work)
            if part.complete or not (part.count or part.needs):
                open_.remove(part)
            elif part.count:
                work.say(
                    f"{len(part.present())} of {part.count} files are in {part.to} now; the rest is"
                    " still to be had"
                )
    return open_


def demand(work: Work, wanted: Sequence[tuple[Archive, Sequence[Part]]]) -> None:
    """See that archives which cannot be downloaded are at hand where they are needed, all of them
    before any is opened.

    Raises:
        DataError: Some are not.
    """
    missing = [
        archive
        for archive, parts in wanted
        if not archive.urls
        and known_archive(archive, work) is None
        and any(not (part.optional or part.complete or unpacked(part, work)) for part in parts)
    ]
    if missing:
        raise by_hand(missing, work)


def unpacked(part: Part, work: Work) -> Path | None:
    """The folder below --from that holds the part unpacked: the path it has in the archive, or an
    end of it.
    """
    if work.source is None:
        return None
    ends = [
        PurePosixPath(*PurePosixPath(part.inside).parts[i:])
        for i in range(len(PurePosixPath(part.inside).parts))
    ]
    folders = [work.source / end for end in (*ends, *map(PurePosixPath, part.also))]
    if part.inside and work.source.name == ends[-1].name:
        folders.append(work.source)
    for folder in folders:
        if folder.is_dir() and not (part.to.exists() and folder.samefile(part.to)):
            found = (deep_names if part.deep else names)(folder, "")
            if any(str(name).endswith(part.suffixes) for name in found):
                return folder
    return None


def _adopt(folder: Path, part: Part, work: Work) -> None:
    """Take the files of an unpacked folder into their places: as hard links on the same disk, else
    as copies.
    """
    work.say(f"taking the files of {folder}")
    files = [
        path
        for suffix in part.suffixes
        for path in (
            deep_names(folder, suffix)
            if part.deep
            else sorted(folder / name for name in names(folder, suffix))
        )
    ]
    with work.bar(f"{folder.name} into place", len(files)) as advance:
        for done, path in enumerate(files, start=1):
            target = part.to / path.relative_to(folder)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}); restore it") from error
            if not (part.made and target.exists()) and not _kept(target, size, folder):
                link_or_copy(path, target)
            advance(done)


def link_or_copy(path: Path, target: Path) -> None:
    """A file in another place too: a hard link on the same disk, else a copy."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path.resolve(), target)
    except OSError:
        with replacing(target, "--root") as beside:
            shutil.copyfile(path, beside)


def _kept(target: Path, size: int, source: Path) -> bool:
    """Whether the file is in place already.

    Raises:
        DataError: One of another size is.
    """
    try:
        there = target.stat().st_size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error.strerror}); choose another place with --root"
        ) from error
    if there != size:
        raise DataError(
            f"{target} has {there} bytes, but {size} in {source}: it is cut short or was changed;"
            " move it away and run again"
        )
    return True


def unpack(path: Path, parts: Sequence[Part], work: Work) -> None:
    """Unpack the wanted files of a .tar, .tgz or .zip; those in place already are left as they are.

    Raises:
        DataError: Damaged or cut short, a path that leads outside, a link among the wanted files,
            or far too large.
    """
    try:
        opened = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
        budget, wanted = (1 << 30) + LARGEST_GROWTH * path.stat().st_size, 0
        with work.bar(path.name, path.stat().st_size, bytes_=True) as advance:
            for name, size, link, content, offset in opened:
                advance(offset)
                target = _target(name, parts, path)
                if target is None:
                    continue
                if link:
                    raise DataError(
                        f"{path} holds {name} as a link, which the published archive does not;"
                        " fetch it anew"
                    )
                budget -= size
                if size > LARGEST_FILE or budget < 0:
                    raise DataError(
                        f"{path} unpacks to far more than belongs in it ({name}: {size} bytes);"
                        " nothing more was unpacked: fetch it anew"
                    )
                wanted += 1
                if not _kept(target, size, path):
                    _write(target, size, content, f"{name} in {path}")
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DataError(
            f"{path} is damaged or cut short ({_short(error)}); delete it and fetch it anew, what"
            " was unpacked is kept"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); restore it") from error
    if not wanted:
        raise DataError(
            f"{path} holds none of the files expected in {parts[0].inside or 'it'}; it is another"
            " archive of that name: fetch the published one"
        )


Member = tuple[str, int, bool, Callable[[], IO[bytes]], int]
"""Name, bytes, whether it is no plain file, how to open it, place in the archive."""


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                kind = (
                    info.external_attr >> 28
                )  # the file type of Unix's mode; 0 where another system packed
                yield (
                    info.filename,
                    info.file_size,
                    kind not in (0, 8),
                    lambda info=info: archive.open(info),  # type: ignore[misc]
                    info.header_offset,
                )


def _tar_members(path: Path) -> Iterator[Member]:
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as archive:
        for info in archive:
            if not info.isdir():

                def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                    opened = archive.extractfile(info)
                    assert opened is not None
                    return opened

                yield info.name, info.size, not info.isreg(), content, raw.tell()


def _target(name: str, parts: Sequence[Part], path: Path) -> Path | None:
    clean = PurePosixPath(name.removeprefix("./"))
    if (
        clean.is_absolute()
        or ".." in clean.parts
        or "\\" in name
        or "\0" in name
        or (clean.parts and ":" in clean.parts[0])
    ):
        raise DataError(
            f"{path} holds {name!r}, which would be written outside of its folder; do not trust"
            " this archive, fetch the published one"
        )
    return next((target for part in parts if (target := part.destination(clean)) is not None), None)


def _write(target: Path, size: int, content: Callable[[], IO[bytes]], what: str) -> None:
    with replacing(target, "--root") as beside, beside.open("wb") as file:
        written = 0
        for chunk in _chunks(content, what):
            written += len(chunk)
            file.write(chunk)
        if written != size:
            raise DataError(
                f"{what} is cut short ({written} of {size} bytes); delete the archive and fetch it"
                " anew, what was unpacked is kept"
            )


def _chunks(content: Callable[[], IO[bytes]], what: str) -> Iterator[bytes]:
    """The content, whose faults are the archive's and not the disk's that is written to."""
    try:
        with content() as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{what} is damaged or cut short ({_short(error)}); delete the archive and fetch it"
            " anew, what was unpacked is kept"
        ) from error


def _short(error: Exception) -> str:
    """The first line of what it says."""
    return str(error).partition("\n")[0] or type(error).__name__
