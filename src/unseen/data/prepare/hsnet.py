"""HSNet's lists of episodes, which define the folds of PASCAL-5i and COCO-20i."""

from __future__ import annotations

from pathlib import Path

from unseen.data.prepare.fetch import obtain
from unseen.data.prepare.folders import link_or_copy
from unseen.data.prepare.preparation import Count, Preparation
from unseen.data.prepare.published import Archive
from unseen.errors import DataError

PAGE = "https://github.com/juhongm999/hsnet"


def prepare_lists(prep: Preparation, dataset: str) -> None:
    """Put the lists of "pascal" or "coco" into `lists`, each compared with the published one.

    Raises:
        DataError: A list cannot be obtained, or one in place differs from the published one.
    """
    from unseen.data.episodes import HASHES, is_published

    for name in HASHES:
        if not name.startswith(f"{dataset}/"):
            continue
        # A list that another person changed is refused, not overwritten.
        target = prep.root / "lists" / name
        if not target.is_file():
            link_or_copy(_find_list(name, prep), target)
        elif not is_published(target.read_bytes(), name):
            raise DataError(f"{target} is not HSNet's published list; move it away and run again")


def _find_list(name: str, prep: Preparation) -> Path:
    """The path of a list below --from, or of the downloaded one."""
    from unseen.data.episodes import HASHES, SOURCE, is_published

    # In a copy of HSNet's tree, in an earlier root, or in the folder of one data set.
    if prep.source is not None:
        for relative in (name, f"lists/{name}", name.partition("/")[2]):
            path = prep.source / relative
            if not path.is_file():
                continue
            if not is_published(path.read_bytes(), name):
                raise DataError(
                    f"{path} is not HSNet's published list; move it away, or restore it from"
                    f" {PAGE} (data/splits)"
                )
            return path
    # The names of lists of different splits are the same, so that downloads need the folder's name.
    url, digest = f"{SOURCE}/{name}", f"sha256:{HASHES[name]}"
    return obtain(Archive(name.replace("/", "-"), PAGE, (url,), None, digest), prep)


def count_lists(root: Path, dataset: str) -> Count:
    """The lists that are the published ones."""
    from unseen.data.episodes import HASHES, is_published

    names = [name for name in HASHES if name.startswith(f"{dataset}/")]
    paths = {name: root / "lists" / name for name in names}
    published = [
        name
        for name, path in paths.items()
        if path.is_file() and is_published(path.read_bytes(), name)
    ]
    return Count(f"published lists in lists/{dataset}", len(published), len(names))
