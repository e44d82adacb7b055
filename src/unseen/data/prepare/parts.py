"""Parts of archives: which files belong where, and how they get there from wherever they are.

A part is complete already, or is linked from an unpacked folder below --from, or is unpacked from
its archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from unseen.data.prepare.fetch import find_archive, manual_download_error, obtain
from unseen.data.prepare.folders import file_names, find_files, in_place, link_or_copy
from unseen.data.prepare.unpack import unpack
from unseen.errors import DataError

if TYPE_CHECKING:
    from unseen.data.prepare.preparation import Preparation
    from unseen.data.prepare.published import Archive


@dataclass(frozen=True)
class Part:
    """Files of an archive and where they belong.

    Attributes:
        folder: Folder in the archive.
        target: Folder they go to.
        suffixes: Only files with these endings.
        count: Their number, where it is published.
        required: Names that a complete part has. Without these and `count`, it is not possible to
            decide whether a part is complete.
        other_folders: Other places, below the folder given with --from, where people keep the same
            files unpacked.
        recursive: Whether the files are in subfolders.
        optional: Unpacked if the archive is opened, but not required: nothing reads it.
        keep_existing: Different tools make these files, so that those in place are kept whatever
            their size.
    """

    folder: str
    target: Path
    suffixes: tuple[str, ...]
    count: int | None = None
    required: frozenset[str] = frozenset()
    other_folders: tuple[str, ...] = ()
    recursive: bool = False
    optional: bool = False
    keep_existing: bool = False

    @property
    def countable(self) -> bool:
        """Whether it is possible to decide that the part is complete."""
        return self.count is not None or bool(self.required)

    @property
    def complete(self) -> bool:
        """Whether all files are in their places."""
        if not self.countable:
            return False
        names = self.present()
        # More files than published are fine: other preparations may write to the same folder.
        return len(names) >= (self.count or 0) and self.required <= names

    def present(self) -> set[str]:
        """The names of the files in place."""
        return {path.name for path in self.files_in(self.target)}

    def files_in(self, folder: Path) -> list[Path]:
        """The files with the part's suffixes in a folder, in order."""
        if self.recursive:
            return [path for suffix in self.suffixes for path in find_files(folder, suffix)]
        return [
            folder / name for suffix in self.suffixes for name in sorted(file_names(folder, suffix))
        ]

    def destination(self, path: PurePosixPath) -> Path | None:
        """The place of a member of the archive; None if it does not belong to the part."""
        folder = PurePosixPath(self.folder)
        if not path.is_relative_to(folder) or path.name.startswith("."):
            return None
        relative = path.relative_to(folder)
        if not path.name.endswith(self.suffixes) or (
            len(relative.parts) > 1 and not self.recursive
        ):
            return None
        return self.target / relative


def ensure(prep: Preparation, archive: Archive, parts: Sequence[Part]) -> None:
    """Bring the parts of an archive into their places; download the archive only if necessary.

    Raises:
        DataError: The archive cannot be obtained, is damaged or unsafe, or its files conflict with
            those in place.
    """
    incomplete = link_unpacked(prep, parts)
    if all(part.optional for part in incomplete):
        prep.log(f"{archive.file}: its files are in place")
        return
    # It cannot be decided whether these parts are complete: files in place are taken for all of
    # them, unless the archive is local anyway.
    if find_archive(archive, prep) is None and all(
        not part.countable and part.present() for part in incomplete
    ):
        prep.log(
            f"{archive.file} is not local and its number of files not published; continuing with"
            f" those in {incomplete[0].target}"
        )
        return
    # Only now is a download necessary.
    path = obtain(archive, prep)
    prep.log(f"unpacking {path}")
    unpack(path, incomplete, prep)


def link_unpacked(prep: Preparation, parts: Sequence[Part]) -> list[Part]:
    """Link files that are unpacked below --from into their places.

    Returns:
        The parts that are still incomplete.
    """
    incomplete = []
    for part in parts:
        if part.complete:
            continue
        folder = find_unpacked(part, prep)
        if folder is not None:
            _link_folder(folder, part, prep)
            # A folder that somebody unpacked is taken for complete where nothing can be counted.
            if part.complete or not part.countable:
                continue
            if part.count:
                prep.log(
                    f"{len(part.present())} of {part.count} files are in {part.target} now; the"
                    " rest is still missing"
                )
        incomplete.append(part)
    return incomplete


def require_local(
    prep: Preparation, parts_by_archive: Sequence[tuple[Archive, Sequence[Part]]]
) -> None:
    """Require archives that cannot be downloaded to be local, before any archive is opened.

    Raises:
        DataError: An archive is not local, though its parts are missing.
    """
    missing = [
        archive
        for archive, parts in parts_by_archive
        if not archive.urls
        and find_archive(archive, prep) is None
        and any(not (part.optional or part.complete or find_unpacked(part, prep)) for part in parts)
    ]
    if missing:
        raise manual_download_error(missing, prep)


def find_unpacked(part: Part, prep: Preparation) -> Path | None:
    """The folder below --from that holds the part unpacked.

    Its path is the one in the archive, or an end of that, or another that is in common use.
    """
    if prep.source is None:
        return None
    folder = PurePosixPath(part.folder)
    ends = [str(PurePosixPath(*folder.parts[i:])) for i in range(len(folder.parts))]
    candidates = [prep.source / end for end in (*ends, *part.other_folders)]
    # --from may also be the innermost folder itself.
    if part.folder and prep.source.name == folder.name:
        candidates.append(prep.source)
    for candidate in candidates:
        # A source that is the root itself has the files in their places already.
        is_target = part.target.exists() and candidate.is_dir() and candidate.samefile(part.target)
        if candidate.is_dir() and not is_target and part.files_in(candidate):
            return candidate
    return None


def _link_folder(folder: Path, part: Part, prep: Preparation) -> None:
    """Link the files of an unpacked folder into their places."""
    prep.log(f"linking the files of {folder}")
    files = part.files_in(folder)
    with prep.progress(f"{folder.name} into place", len(files)) as advance:
        for done, path in enumerate(files, start=1):
            target = part.target / path.relative_to(folder)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}); restore it") from error
            # Masks that different tools made differ in size, though not in their ids.
            kept = part.keep_existing and target.exists()
            if not kept and not in_place(target, size, folder):
                link_or_copy(path, target)
            advance(done)
