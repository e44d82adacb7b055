"""From published archives to the layout that the benchmarks read: fetch, verify, unpack, convert,
count.

Every step looks at what is there and does the rest, so that a stopped preparation goes on where it
was; files appear under their names only when they are whole, and nothing that is there is
overwritten.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unseen.data.prepare import coco, scenes, voc
from unseen.data.prepare.work import Count, Work
from unseen.errors import DataError, SettingError
from unseen.files import UNFINISHED


@dataclass(frozen=True)
class DataSet:
    """How to make one data set ready.

    Attributes:
        make: Does what is not done yet.
        count: What there is, against what was published.
        folder: The folder of the data set below the root.
        benchmark: Of `unseen list`, to go on with.
        lists: Whether the benchmark takes HSNet's lists.
    """

    make: Callable[[Work], None]
    count: Callable[[Path], list[Count]]
    folder: Callable[[Path], Path]
    benchmark: str
    lists: bool = False


SETS = {
    "voc": DataSet(voc.prepare_voc, voc.count_voc, voc.voc_folder, "voc"),
    "context": DataSet(voc.prepare_context, voc.count_context, voc.context_folder, "context"),
    "coco-stuff": DataSet(
        coco.prepare_coco_stuff, coco.count_coco_stuff, coco.stuff_folder, "coco-stuff"
    ),
    "pascal-5i": DataSet(
        voc.prepare_pascal_folds, voc.count_pascal_folds, voc.voc_folder, "pascal-5i/0", lists=True
    ),
    "coco-20i": DataSet(
        coco.prepare_coco_folds, coco.count_coco_folds, coco.folds_folder, "coco-20i/0", lists=True
    ),
    "ade20k-150": DataSet(scenes.prepare_ade, scenes.count_ade, scenes.ade_folder, "ade20k-150"),
    "ade20k-847": DataSet(
        scenes.prepare_ade_full, scenes.count_ade_full, scenes.ade_full_folder, "ade20k-847"
    ),
    "cityscapes": DataSet(
        scenes.prepare_cityscapes, scenes.count_cityscapes, scenes.cityscapes_folder, "cityscapes"
    ),
}


def prepare(
    name: str,
    root: Path,
    source: Path | None = None,
    *,
    check: bool = False,
    jobs: int | None = None,
) -> list[Count]:
    """Make a data set ready below `root`, and count.

    Args:
        name: Key of `SETS`.
        root: Folder of all data sets, or the data set's own.
        source: Folder of archives or unpacked data sets to use instead of downloading.
        check: Only count.
        jobs: Processes for conversions; as many as there are cores by default.

    Returns:
        What was counted; some of it may be wrong.

    Raises:
        SettingError: No such data set, or no sensible number of processes.
        DataError: Something is missing, damaged or in the way; what is done is kept.
    """
    if name not in SETS:
        raise SettingError(
            f"there is no data set called {name!r} to prepare; choose one of {', '.join(SETS)}"
        )
    if jobs is not None and jobs < 1:
        raise SettingError(f"--jobs is {jobs}; give at least 1 process")
    if source is not None and not source.is_dir():
        what = (
            "is no folder; give the folder it lies in"
            if source.exists()
            else "does not exist; check the path"
        )
        raise DataError(f"{source}, given with --from, {what}")
    if check:
        if not SETS[name].folder(root).is_dir():
            raise DataError(
                f"{SETS[name].folder(root)} does not exist, so there is nothing to check; run"
                " without --check first, or correct --root"
            )
    else:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{root} cannot be written ({error.strerror}); choose another place with --root"
            ) from error
        for place in (
            SETS[name].folder(root),
            SETS[name].folder(root).parent / "VOCaug",
            root / "lists",
        ):
            _sweep(place)
        SETS[name].make(Work(root, source, jobs or os.cpu_count() or 1))
    return SETS[name].count(root)


def _sweep(folder: Path) -> None:
    """Take away what a killed preparation was writing (`unseen.files.replacing`), but for files so
    young that another may be writing them.
    """
    for at, _, files in os.walk(folder):
        for path in (Path(at) / name for name in files if UNFINISHED.fullmatch(name)):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > 60:
                    path.unlink()
