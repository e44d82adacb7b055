"""Benchmarks as data: everything that changes a number is fixed here, and every report repeats it.

Splits are given by class name, never by number: the numbers follow from the vocabulary. A folder of
your own is a benchmark too (`unseen.data.own.layout`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unseen.data.benchmarks.base import BENCHMARKS, THRESHOLD, WINDOWS, Benchmark
from unseen.data.benchmarks.catalogue import fold_benchmarks
from unseen.data.layouts import labelled_images
from unseen.data.own.layout import CLASSES, ClassList, own_pairs, read_classes, require_parts
from unseen.errors import DataError, SettingError
from unseen.settings import is_own

if TYPE_CHECKING:
    from unseen.data.datasets import SegmentationSet

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "check_flags_used",
    "families",
    "folds_of",
    "get_benchmark",
    "own_benchmark",
]


def folds_of(name: str) -> list[str]:
    """The names of a benchmark's folds or nested splits: "pascal-5i" gives "pascal-5i/0", ...

    Any other name is returned as a list of one.
    """
    return [other for other in BENCHMARKS if other.startswith(f"{name}/")] or [name]


def families() -> dict[str, list[Benchmark]]:
    """The benchmarks grouped for lists: folds of one data set together, as "pascal-5i/0..3"."""
    grouped: dict[str, list[Benchmark]] = {}
    for benchmark in BENCHMARKS.values():
        parts = folds_of(benchmark.base)
        title = benchmark.base
        # Folds and nested splits are numbered, so the first and the last name all of them.
        if len(parts) > 1:
            first, last = (part.partition("/")[2] for part in (parts[0], parts[-1]))
            title += f"/{first}..{last}"
        grouped.setdefault(title, []).append(benchmark)
    return grouped


def get_benchmark(name: str, lists: Path | None = None) -> Benchmark:
    """A benchmark by name, or from a folder of your own.

    Args:
        name: Key of `BENCHMARKS`, folds as "pascal-5i/0"; or a folder (`unseen.data.own.layout`).
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.

    Raises:
        SettingError: No such benchmark.
        DataError: The folder has another layout than your own data need.
    """
    parts = folds_of(name)
    if parts != [name]:
        kind = "folds" if BENCHMARKS[parts[0]].episodes else "splits"
        raise SettingError(f"{name} has {len(parts)} {kind}; choose one of {', '.join(parts)}")
    benchmark = BENCHMARKS.get(name)
    if benchmark is not None:
        # Folds hold the folder of their lists, so they are made anew for the one given here.
        return benchmark if benchmark.episodes is None else fold_benchmarks(lists)[name]
    # A folder without classes.txt gets the message about that file, not one about benchmarks.
    if is_own(name) or Path(name).is_dir():
        return own_benchmark(Path(name))
    # Runs save the whole path of a folder: it may have moved since.
    if Path(name).is_absolute():
        raise DataError(
            f"the folder {name} does not exist; where it has moved, name it with --benchmark"
        )
    close_names = difflib.get_close_matches(name, BENCHMARKS, n=1)
    hint = f" (did you mean {close_names[0]}?)" if close_names else ""
    raise SettingError(
        f"there is no benchmark called {name!r}{hint}; choose one of {', '.join(families())}, or"
        f" give a folder with images/, labels/ and {CLASSES}"
    )


def check_outside(benchmark: Benchmark, out: Path) -> None:
    """Refuse to write results among the images or label maps of your own data.

    Raises:
        DataError: `out` lies among them.
    """
    folder = Path(benchmark.name)
    if not is_own(benchmark.name):
        return
    place = Path(os.path.realpath(out))  # `resolve` fails on links in a circle
    for part in ("images", "labels"):
        if place.is_relative_to(os.path.realpath(folder / part)):
            raise DataError(
                f"the results would be written among the files of {folder / part}; choose another"
                " folder with --out"
            )


def check_flags_used(
    benchmarks: Sequence[Benchmark], root: Path | None, lists: Path | None
) -> None:
    """Refuse a folder that none of the benchmarks reads: it would be ignored in silence.

    Raises:
        SettingError: `--root` where no data are read, or `--lists` where there are no folds.
    """
    names = ", ".join(dict.fromkeys(benchmark.title for benchmark in benchmarks))
    if root is not None and not any(bench.needs_root or bench.folder for bench in benchmarks):
        raise SettingError(
            f"{names} needs no files, so --root {root} would not be used; remove it, or give"
            " another --benchmark"
        )
    # Doodles have folds too, but draw them.
    if lists is not None and not any(bench.episodes and bench.needs_root for bench in benchmarks):
        raise SettingError(
            f"--lists is for the folds of PASCAL-5i and COCO-20i, and {names} has none; remove it"
        )


def own_benchmark(folder: Path) -> Benchmark:
    """The benchmark of a folder of your own.

    Raises:
        DataError: Not such a folder.
    """
    # Resolved, because the path is the benchmark's name in reports and runs.
    folder = folder.resolve()
    classes = read_classes(folder / CLASSES)
    require_parts(folder)
    labels = f"id 0 is the first line of {CLASSES}; the highest value, 255 or 65535, is ignored"
    if classes.background == "threshold":
        labels += f"; {THRESHOLD}"
    elif classes.first_id:
        labels += "; id 0 (background) is ignored"
    if classes.ignored_ids:
        labels += f"; ids {', '.join(map(str, classes.ignored_ids))} are ignored"
    return Benchmark(
        name=str(folder),
        summary="your own data",
        class_names=classes.class_names,
        unseen=classes.unseen,
        templates="multi",
        inference=WINDOWS,
        open=partial(_open_own, folder, classes),
        needs_root=False,
        background=classes.background,
        protocol={"labels": labels},
        folder=folder,
        synonyms=classes.synonyms,
    )


def _open_own(folder: Path, classes: ClassList, root: Path | None, split: str) -> SegmentationSet:
    if root is not None and root.resolve() != folder.resolve():
        raise SettingError(
            f"{folder} is given as the benchmark and {root} as its --root; a folder of your own is"
            " both, so leave --root away"
        )
    # Without a background in front, label maps store the classes from 0 on.
    stored_background = classes.background if classes.first_id else None
    count = len(classes.class_names)
    return labelled_images(own_pairs(folder, split), count, stored_background, classes.ignored_ids)
