"""Verbs about data sets: check, prepare."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unseen.cli.flags import FLAT, DataFlags
from unseen.errors import DataError, SettingError

if TYPE_CHECKING:
    from unseen.data.prepare.preparation import Count

DATA = DataFlags()


def check(
    source: str,
    /,
    *,
    data: Annotated[DataFlags, FLAT] = DATA,
    out: Path | None = None,
    samples: int = 8,
) -> int:
    """Look at every file of a data set before any training.

    The exit code is 2 if anything would stop or spoil training. Reports ids that are not on the
    list, classes never labelled, sizes that differ, label maps saved as JPEG or colours, a
    background that shifts every id, images of validation in training, missing partners and
    unreadable files. Writes check.json, and sheet.png with some labelled images to look at.

    Args:
        source: A folder of your own data (images/, labels/, classes.txt), or a benchmark of
            `unseen list`.
        data: Where its data are.
        out: Folder to write to; runs/check-NAME by default.
        samples: Images on the sheet.
    """
    if samples < 1:
        raise SettingError(f"--samples is {samples}; give at least 1")
    from unseen.data.benchmarks import check_outside, get_benchmark

    if not Path(source).is_dir():
        get_benchmark(source, data.lists).check_root(data.root)
    from unseen.data.own.checking import check_data
    from unseen.data_report import CHECK, print_check, save_check
    from unseen.files import SHEET, check_replaceable

    bench = get_benchmark(source, data.lists)
    folder = out or Path("runs") / f"check-{bench.slug}"
    check_outside(bench, folder)
    check_replaceable([folder / CHECK, folder / SHEET])
    checked = check_data(source, root=data.root, lists=data.lists)
    drawn = save_check(checked, folder, samples)
    print_check(checked)
    sheet = f" and {folder / SHEET}: compare its colours and class names" if drawn else ""
    print(f"wrote {folder / CHECK}{sheet}")
    return 2 if checked.errors else 0


def prepare(
    name: str,
    /,
    *,
    root: Path = Path("data"),
    source: Annotated[Path | None, Parameter(name="--from")] = None,
    check: bool = False,
    jobs: int | None = None,
) -> None:
    """Make a data set ready: download or take archives, verify, unpack, convert, count.

    Run again after a stop, it goes on where it was. Nothing that is there is overwritten.
    Downloaded archives stay in ROOT/downloads; delete them when all is done.

    Args:
        name: voc (with SBD), context, coco-stuff, pascal-5i, coco-20i, ade20k-150, ade20k-847 or
            cityscapes.
        root: Folder of all data sets, or the data set's own.
        source: Folder of archives or unpacked data sets to use instead of downloading.
        check: Only count what there is.
        jobs: Processes for conversions; as many as there are cores by default.
    """
    from unseen.data.prepare import DATASETS
    from unseen.data.prepare import prepare as run

    # A terminated preparation takes away the file it is writing, as an interrupted one does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        counts = run(name, root, source, check=check, jobs=jobs)
    finally:
        signal.signal(signal.SIGTERM, before)
    _print_counts(name, counts)
    _refuse_wrong(name, root, counts, check)
    data = DATASETS[name]
    lists = f" --lists {root / 'lists'}" if data.lists else ""
    print(
        "ready; next: unseen evaluate naclip --clip ViT-B-16-quickgelu/openai --benchmark"
        f" {data.benchmark} --root {data.folder(root)}{lists}"
    )


def _print_counts(name: str, counts: Sequence[Count]) -> None:
    """A table of what there is, beside what was published."""
    from rich.console import Console
    from rich.table import Table

    table = Table(name, "there", "published", "", box=None, header_style="bold", pad_edge=False)
    for count in counts:
        expected = "" if count.expected is None else str(count.expected)
        table.add_row(count.title, str(count.actual), expected, count.verdict)
    Console(markup=False).print(table)


def _refuse_wrong(name: str, root: Path, counts: Sequence[Count], check: bool) -> None:
    """Refuse a data set that is not what was published.

    Raises:
        DataError: Some of its counts differ.
    """
    from unseen.data.prepare import DATASETS

    wrong = [str(count) for count in counts if count.binding and not count.matches]
    if not wrong:
        return
    remedy = "complete or correct the sources and run again"
    if check:
        remedy = f"unseen prepare {name} --root {root} makes what is missing"
    raise DataError(
        f"{name} in {DATASETS[name].folder(root)} is not what was published ({'; '.join(wrong)});"
        f" {remedy}"
    )
