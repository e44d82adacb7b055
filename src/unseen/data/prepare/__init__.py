"""From published archives to the folders that the benchmarks read.

A preparation downloads, verifies, unpacks, converts and counts. Every step leaves out files that
exist already, so that an interrupted preparation can be continued. Files get their names only when
they are complete, and none is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unseen.data.prepare import ade20k, cityscapes, coco, context, voc
from unseen.data.prepare.preparation import Count, Preparation
from unseen.errors import DataError, SettingError
from unseen.files import sweep, unwritable


@dataclass(frozen=True)
class Dataset:
    """How to prepare one data set.

    Attributes:
        make: Does the steps that are not done yet.
        count: Compares numbers of files with the published ones.
        folder: The folder of the data set below the root.
        benchmark: The benchmark to continue with.
        lists: Whether the benchmark takes HSNet's lists.
    """

    make: Callable[[Preparation], None]
    count: Callable[[Path], list[Count]]
    folder: Callable[[Path], Path]
    benchmark: str
    lists: bool = False


# PASCAL-5i and COCO-20i are folds of data sets, with the lists of episodes besides.
DATASETS = {
    "voc": Dataset(voc.prepare_voc, voc.count_voc, voc.voc_folder, "voc"),
    "context": Dataset(
        context.prepare_context, context.count_context, context.context_folder, "context"
    ),
    "coco-stuff": Dataset(
        coco.prepare_coco_stuff, coco.count_coco_stuff, coco.stuff_folder, "coco-stuff"
    ),
    "pascal-5i": Dataset(
        voc.prepare_pascal_folds, voc.count_pascal_folds, voc.voc_folder, "pascal-5i/0", lists=True
    ),
    "coco-20i": Dataset(
        coco.prepare_coco_folds, coco.count_coco_folds, coco.folds_folder, "coco-20i/0", lists=True
    ),
    "ade20k-150": Dataset(ade20k.prepare_ade, ade20k.count_ade, ade20k.ade_folder, "ade20k-150"),
    "ade20k-847": Dataset(
        ade20k.prepare_ade_full, ade20k.count_ade_full, ade20k.ade_full_folder, "ade20k-847"
    ),
    "cityscapes": Dataset(
        cityscapes.prepare_cityscapes,
        cityscapes.count_cityscapes,
        cityscapes.cityscapes_folder,
        "cityscapes",
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
    """Prepare a data set below `root`, and count its files.

    Args:
        name: Key of `DATASETS`.
        root: Folder of all data sets, or the data set's own.
        source: Folder of archives or unpacked data sets to use instead of downloading.
        check: Only count.
        jobs: Processes for conversions; as many as there are cores by default.

    Returns:
        The counts, some of which may not be the published ones.

    Raises:
        SettingError: No such data set, no valid number of processes, or pycocotools is missing.
        DataError: A file is missing, damaged or in the way; finished files are kept.
    """
    _check_arguments(name, source, jobs)
    dataset = DATASETS[name]
    folder = dataset.folder(root)
    if not check:
        is_new = not root.exists()
        _make_root(root)
        # The data set's folder, and two others that preparations write to.
        for parent in (folder, folder.parent / "VOCaug", root / "lists"):
            _remove_unfinished(parent)
        try:
            dataset.make(Preparation(root, source, jobs or os.cpu_count() or 1))
        finally:
            if is_new:
                with suppress(OSError):  # there are files in it
                    root.rmdir()
    elif not folder.is_dir():
        raise DataError(
            f"{folder} does not exist, so there is nothing to check; run without --check first, or"
            " correct --root"
        )
    # Counted on disk, so that files of earlier runs and of other people count as well.
    return dataset.count(root)


def _check_arguments(name: str, source: Path | None, jobs: int | None) -> None:
    """Refuse arguments that cannot be right, before anything is written."""
    if name not in DATASETS:
        raise SettingError(
            f"there is no data set called {name!r} to prepare; choose one of {', '.join(DATASETS)}"
        )
    if jobs is not None and jobs < 1:
        raise SettingError(f"--jobs is {jobs}; give at least 1 process")
    if source is not None and not source.is_dir():
        # People often give the archive itself.
        problem = "does not exist; check the path"
        if source.exists():
            problem = "is not a folder; give the folder it lies in"
        raise DataError(f"{source}, given with --from, {problem}")


def _make_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root, error, "--root") from error


def _remove_unfinished(folder: Path) -> None:
    """Remove the files that killed preparations were writing, in all folders below."""
    for parent, _, _ in os.walk(folder):
        sweep(Path(parent))
