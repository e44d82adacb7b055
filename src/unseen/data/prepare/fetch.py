"""Archives: local or downloaded, and always compared with the published checksum."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from unseen.errors import DataError
from unseen.files import unwritable

if TYPE_CHECKING:
    from unseen.data.prepare.preparation import Preparation
    from unseen.data.prepare.published import Archive

CHUNK = 1 << 20
TRIES = 4
"""After so many requests in a row without a new byte, the download is given up."""
PAUSE = 1.0
"""Seconds before the second of these requests; doubled from then on."""


class _GiveUpError(Exception):
    """A server's answer that another request would not change."""


def find_archive(archive: Archive, prep: Preparation) -> Path | None:
    """The archive's path in the folder given with --from or among earlier downloads."""
    # A file that the user gives comes before an earlier download.
    for root in (prep.source, prep.root):
        if root is not None:
            for folder in ("", "downloads", *archive.other_folders):
                path = root / folder / archive.file
                if path.is_file():
                    return path
                if os.path.lexists(path):
                    raise DataError(
                        f"{path} is not a plain file; put the archive there, or move it away to"
                        " have it downloaded"
                    )
    return None


def obtain(archive: Archive, prep: Preparation) -> Path:
    """The path of the verified archive, which is downloaded unless it is local.

    Raises:
        DataError: The archive cannot be obtained, or is not the published file.
    """
    path = find_archive(archive, prep)
    if path is not None:
        return verify(archive, path, prep)
    if not archive.urls:
        raise manual_download_error([archive], prep)
    return _download(archive, prep)


def manual_download_error(archives: Sequence[Archive], prep: Preparation) -> DataError:
    """The error for archives of one web page that only a person can download."""
    names = " and ".join(archive.file for archive in archives)
    verb, pronoun = ("is", "it") if len(archives) == 1 else ("are", "them")
    return DataError(
        f"{names} {verb} behind a login or a form: download {pronoun} from {archives[0].page}, then"
        f" put {pronoun} into {prep.downloads}, or give the folder with --from"
    )


def verify(archive: Archive, path: Path, prep: Preparation) -> Path:
    """The path of a local archive.

    Raises:
        DataError: It is not the published file.
    """
    mismatch = _mismatch(archive, path, prep)
    if mismatch:
        raise DataError(
            f"{path} is not the published file ({mismatch}): cut short or changed; move it away and"
            f" run again, or download it anew from {archive.page}"
        )
    return path


def _mismatch(archive: Archive, path: Path, prep: Preparation) -> str | None:
    """How `path` differs from the published archive, if it does."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"{size} bytes instead of {archive.size}"
    if archive.digest is None:
        return None
    # Some sources publish only the first digits of a checksum.
    algorithm, _, expected = archive.digest.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with (
            path.open("rb") as file,
            prep.progress(f"checking {archive.file}", size, in_bytes=True) as advance,
        ):
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                advance(file.tell())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); restore it") from error
    if digest.hexdigest().startswith(expected):
        return None
    return f"{algorithm} {digest.hexdigest()} instead of {expected}"


# --------------------------------------------------------------------- download


def _download(archive: Archive, prep: Preparation) -> Path:
    """Download to NAME.part, which a later run goes on with, and rename it once it is verified."""
    part = prep.downloads / f"{archive.file}.part"
    _require_space(archive, part, prep)
    reasons = []
    # The next address continues the file that an earlier one began: all give the same bytes.
    for url in archive.urls:
        reason = _fetch_verified(url, part, archive, prep)
        if reason is None:
            return part.replace(prep.downloads / archive.file)
        reasons.append(f"{url}: {reason}")
    # What was downloaded is kept for the next run; an empty folder is not.
    kept = ""
    if part.exists():
        kept = f"{_format_size(_size(part))} are kept, run again to continue, or "
    with suppress(OSError):  # not empty
        prep.downloads.rmdir()
    raise DataError(
        f"{archive.file} could not be downloaded ({'; '.join(reasons)}); {kept}download it by other"
        f" means from {archive.page} and give its folder with --from"
    )


def _require_space(archive: Archive, part: Path, prep: Preparation) -> None:
    """Make the folder of downloads and check that the rest of the archive fits on its disk.

    Raises:
        DataError: The folder cannot be written, or the disk is too full.
    """
    try:
        prep.downloads.mkdir(parents=True, exist_ok=True)
        present = _size(part)
        free = shutil.disk_usage(prep.downloads).free
    except OSError as error:
        raise unwritable(prep.downloads, error, "--root") from error
    if archive.size is not None and archive.size - present > free:
        raise DataError(
            f"{archive.file} needs {_format_size(archive.size - present)}, but {prep.downloads} has"
            f" {_format_size(free)} left; free some space, or choose another place with --root"
        )


def _fetch_verified(url: str, part: Path, archive: Archive, prep: Preparation) -> str | None:
    """Download from one address and verify; return the reason of a failure, else None.

    A resumed download with a wrong checksum is repeated once from the start, because the server's
    file may have changed since its first half.
    """
    while True:
        resumed = part.exists()
        reason = _fetch(url, part, archive, prep)
        if reason is not None:
            return reason
        mismatch = _mismatch(archive, part, prep)
        if mismatch is None:
            return None
        part.unlink()
        if not resumed:
            return f"the server's file is not the published one ({mismatch})"


def _fetch(url: str, part: Path, archive: Archive, prep: Preparation) -> str | None:
    """Append to `part` until it is complete; return the reason of a failure, else None."""
    failures, reason = 0, ""
    with prep.progress(archive.file, archive.size, in_bytes=True) as advance:
        while failures < TRIES:
            present = _size(part)
            try:
                if _append(url, part, archive, advance):
                    return None
                reason = "the server broke off"
            except _GiveUpError as error:
                return str(error)
            except (OSError, HTTPException) as error:
                # Errors of the connection have no file name; those of the disk do.
                if isinstance(error, OSError) and not isinstance(error, URLError):
                    _raise_disk_error(part, error)
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            # A server that breaks off again and again is fine as long as it sends something new.
            if _size(part) > present:
                failures = 0
            else:
                failures += 1
                if failures < TRIES:
                    pause = PAUSE * 2 ** (failures - 1)
                    prep.log(f"{archive.file}: {reason}; trying again in {pause:.0f} s")
                    time.sleep(pause)
    return reason


def _raise_disk_error(part: Path, error: OSError) -> None:
    """Raise an error of the disk, and ignore one of the connection.

    Raises:
        DataError: The file cannot be written.
    """
    if error.filename is not None and not isinstance(error, ConnectionError | TimeoutError):
        raise unwritable(part, error, "--root") from error


def _append(url: str, part: Path, archive: Archive, advance: Callable[[int], None]) -> bool:
    """Make one request and return whether the file is complete now.

    Raises:
        _GiveUpError: The server refuses.
        DataError: The disk is full.
    """
    start = _size(part)
    headers = {"User-Agent": "unseen"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = Request(url, headers=headers)  # noqa: S310 - the addresses are in `ARCHIVES`
        with urlopen(request, timeout=30) as answer:  # noqa: S310
            # A server without ranges sends the file from its beginning.
            expected = f"bytes {start}-"
            resumes = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
                expected
            )
            if not resumes:
                start = 0
            total = _announced_size(answer, start, archive)
            if not _write_answer(answer, part, start, advance):
                return False
    except HTTPError as error:
        # 416: there is nothing after the bytes that are downloaded.
        if error.code == 416 and start:
            return _finished_before(part, start, archive)
        reason = f"answer {error.code} {error.reason}"
        # Neither a missing file nor a forbidden one appears within seconds; other errors pass.
        if error.code in (401, 403, 404, 410):
            raise _GiveUpError(reason) from error
        raise URLError(reason) from error
    return total is None or _size(part) >= total


def _finished_before(part: Path, present: int, archive: Archive) -> bool:
    """Whether the downloaded bytes are the complete file; too many bytes are deleted."""
    if archive.size in (None, present):
        return True
    part.unlink()
    return False


def _announced_size(answer: Any, start: int, archive: Archive) -> int | None:
    """The size of the complete file that the server announces.

    Raises:
        URLError: The answer is another file, which must not replace the downloaded bytes.
    """
    # Servers answer with pages for logins, quotas and maintenance.
    if answer.headers.get_content_type() == "text/html":
        raise URLError("a web page instead of the file")
    length = answer.headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit()):
        return None
    total = int(length) + start
    if archive.size not in (None, total):
        raise URLError(f"{total} bytes instead of {archive.size}")
    return total


def _write_answer(answer: Any, part: Path, start: int, advance: Callable[[int], None]) -> bool:
    """Write an answer's bytes from `start` on and return whether it came to its end.

    Raises:
        DataError: The disk is full.
    """
    mode = "ab" if start else "wb"
    try:
        with part.open(mode) as file:
            advance(start)
            while chunk := answer.read(CHUNK):
                try:
                    file.write(chunk)
                except OSError as error:
                    raise DataError(
                        f"{part} cannot be written ({error.strerror or error}); free some space;"
                        " the downloaded part is kept"
                    ) from error
                advance(file.tell())
    except HTTPException:  # fewer bytes than announced
        return False
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _format_size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
