"""Archives: found in a folder or downloaded, never believed without their checksum."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from unseen.errors import DataError

if TYPE_CHECKING:
    from unseen.data.prepare.published import Archive
    from unseen.data.prepare.work import Work

CHUNK = 1 << 20
TRIES = 4
"""Times in a row that a server may give nothing new before we stop asking."""
PAUSE = 1.0
"""Seconds before the second of these; doubled from then on."""


def known_archive(archive: Archive, work: Work) -> Path | None:
    """Where the archive lies already, if it does: in the folder given with --from, or among earlier
    downloads.
    """
    below = ("", "downloads", *archive.also)
    places = [
        folder / end for folder in (work.source, work.root) if folder is not None for end in below
    ]
    return next(
        (place / archive.file for place in places if (place / archive.file).is_file()), None
    )


def obtain(archive: Archive, work: Work) -> Path:
    """The verified archive, downloaded where it is not at hand.

    Raises:
        DataError: Not to be had, or not the published file.
    """
    path = known_archive(archive, work)
    if path is not None:
        return verified(archive, path, work)
    if not archive.urls:
        raise by_hand([archive], work)
    return _download(archive, work)


def by_hand(archives: Sequence[Archive], work: Work) -> DataError:
    """What to say of archives of one page that a person has to fetch."""
    names, one = " and ".join(archive.file for archive in archives), len(archives) == 1
    return DataError(
        f"{names} {'lies' if one else 'lie'} behind a login or a form: get"
        f" {'it' if one else 'them'} from {archives[0].page}, then put {'it' if one else 'them'}"
        f" into {work.downloads}, or give the folder with --from"
    )


def verified(archive: Archive, path: Path, work: Work) -> Path:
    """The path of an archive that is at hand.

    Raises:
        DataError: It is not the published file.
    """
    problem = _problem(archive, path, work)
    if problem:
        raise DataError(
            f"{path} is not the published file ({problem}): cut short or changed; take it away and"
            f" run again, or fetch it anew from {archive.page}"
        )
    return path


def _download(archive: Archive, work: Work) -> Path:
    path, part = work.downloads / archive.file, work.downloads / f"{archive.file}.part"
    try:
        work.downloads.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
        free = shutil.disk_usage(work.downloads).free
    except OSError as error:
        raise DataError(
            f"{work.downloads} cannot be written ({error.strerror or error}); choose another place"
            " with --root"
        ) from error
    if archive.size is not None and archive.size - have > free:
        raise DataError(
            f"{archive.file} takes {_mb(archive.size - have)}, but {work.downloads} has {_mb(free)}"
            " left; free some space, or choose another place with --root"
        )
    reasons = []
    for url in archive.urls:
        for again in (True, False):
            resumed = part.exists()
            reason = _fetch(url, part, archive, work)
            if reason is None:
                reason = _problem(archive, part, work)
                if reason is None:
                    part.replace(path)
                    return path
                part.unlink()
                if resumed and again:
                    continue  # the server's file may have changed between the two halves
                reason = f"what it gives is not the published file ({reason})"
            break
        reasons.append(f"{url}: {reason}")
    kept = f"{_mb(part.stat().st_size)} are kept, run again to go on, or " if part.exists() else ""
    with suppress(OSError):  # where something is kept
        work.downloads.rmdir()
    raise DataError(
        f"{archive.file} could not be downloaded ({'; '.join(reasons)}); {kept}fetch it by other"
        f" means from {archive.page} and give its folder with --from"
    )


def _fetch(url: str, part: Path, archive: Archive, work: Work) -> str | None:
    """Download to `part`, going on where it ends and whenever the server breaks off; why not, else
    None.
    """
    fruitless, reason = 0, ""
    with work.bar(archive.file, archive.size, bytes_=True) as advance:
        while fruitless < TRIES:
            before = part.stat().st_size if part.exists() else 0
            try:
                if _append(url, part, before, archive, advance):
                    return None
                reason = "the server broke off"
            except HTTPError as error:
                if (
                    error.code == 416 and before
                ):  # nothing lies beyond what is there: whole, or too long
                    if archive.size in (None, before):
                        return None
                    part.unlink()
                    continue
                reason = f"answer {error.code} {error.reason}"
                if error.code in (401, 403, 404, 410):
                    return reason
            except (URLError, OSError, HTTPException) as error:
                if (
                    isinstance(error, OSError)
                    and not isinstance(error, URLError | ConnectionError | TimeoutError)
                    and error.filename is not None
                ):
                    raise DataError(
                        f"{part} cannot be written ({error.strerror}); choose another place with"
                        " --root"
                    ) from error
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if (part.stat().st_size if part.exists() else 0) > before:
                fruitless = 0
            else:
                fruitless += 1
                if fruitless < TRIES:
                    time.sleep(PAUSE * 2 ** (fruitless - 1))
    return reason


def _append(
    url: str, part: Path, before: int, archive: Archive, advance: Callable[[int], None]
) -> bool:
    """One request; whether the file is whole now. What is there is given up only for an answer that
    can be the file.
    """
    request = Request(
        url, headers={"User-Agent": "unseen", **({"Range": f"bytes={before}-"} if before else {})}
    )
    with urlopen(request, timeout=30) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {before}-"
        )
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (before if goes_on else 0)
        if answer.headers.get_content_type() == "text/html":
            raise URLError("a web page instead of the file")
        if total is not None and archive.size not in (None, total):
            raise URLError(f"{total} bytes instead of {archive.size}")
        try:
            with part.open("ab" if goes_on else "wb") as file:
                advance(before if goes_on else 0)
                while chunk := answer.read(CHUNK):
                    try:
                        file.write(chunk)
                    except OSError as error:
                        raise DataError(
                            f"{part} cannot be written ({error.strerror or error}); free some"
                            " space; what is there is kept"
                        ) from error
                    advance(file.tell())
        except HTTPException:
            return False
    return total is None or part.stat().st_size >= total


def _problem(archive: Archive, path: Path, work: Work) -> str | None:
    """Why `path` is not the published archive, if it is not."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"{size} bytes instead of {archive.size}"
    if archive.digest is None:
        return None
    kind, _, wanted = archive.digest.partition(":")
    made = hashlib.new(kind, usedforsecurity=False)
    try:
        with (
            path.open("rb") as file,
            work.bar(f"checking {archive.file}", size, bytes_=True) as advance,
        ):
            while chunk := file.read(CHUNK):
                made.update(chunk)
                advance(file.tell())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); restore it") from error
    return (
        None
        if made.hexdigest().startswith(wanted)
        else f"{kind} {made.hexdigest()} instead of {wanted}"
    )


def _mb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
