"""`unseen check`: what is wrong with a data set, in words and in images, before it is trained
on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.datasets import LabelledImages, Pair, SegmentationSet
from unseen.data.own.layout import CLASSES, LABEL_SUFFIXES, SPLITS, UNREAD, contents, read_classes
from unseen.data.own.survey import Finding, Looked, Survey, survey
from unseen.errors import DataError, SettingError
from unseen.files import replacing, write_text
from unseen.labels import BACKGROUND, IGNORE, MAX_8BIT_CLASSES
from unseen.visualize import Row, sheet, spread


@dataclass(frozen=True)
class Checked:
    """A data set that was looked at.

    Attributes:
        benchmark: Its words.
        survey: What was found.
        splits: Where the splits come from, for data of one's own.
    """

    benchmark: Benchmark
    survey: Survey
    splits: str | None

    @property
    def errors(self) -> list[Finding]:
        """What would stop or spoil training."""
        return [finding for finding in self.survey.findings if finding.level == "error"]

    def save(self, folder: Path, samples: int = 8) -> bool:
        """Write `check.json`, and `sheet.png` if any image has labels; whether it has."""
        counts = {
            split: {"images": len(each), "pixels": self.survey.pixels(split)}
            for split, each in self.survey.looked.items()
        }
        about = {
            "data": self.benchmark.name,
            "splits": self.splits,
            "findings": [asdict(finding) for finding in self.survey.findings],
            **counts,
        }
        write_text(folder / "check.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        rows = self._rows(samples)
        if rows:
            line = (
                "look whether colours and words fit   (grey:"
                f" {'background, or ' if self.benchmark.background == 'threshold' else ''}not"
                " labelled)"
            )
            picture = sheet(
                rows,
                self.benchmark.scored_names,
                self.benchmark.unseen,
                title=f"Labels of {self.benchmark.title}",
                subtitle=line,
                across=2,
            )
            with replacing(folder / "sheet.png") as beside:
                picture.save(beside)
        return bool(rows)

    def _rows(self, samples: int) -> list[Row]:
        """Images with their labels, spread over the splits; ids that are not on the list are
        shown as void.
        """
        count, first, rows = len(self.benchmark.class_names), self.survey.first, []
        for split, each in self.survey.looked.items():
            good = [
                one for one in each if not one.trouble and one.size == one.label_size and one.areas
            ]
            for place in spread(len(good), (samples + 1) // 2):
                one = good[place]
                highest = max(one.areas) + 1 - first
                data = LabelledImages(
                    [one.pair],
                    max(count, highest),
                    background=0 if first else None,
                    keep_background=True,
                )
                sample = data[0]
                labels = sample.labels.numpy()
                past = labels >= count + 3 * (labels > IGNORE)
                shown = np.where((labels == BACKGROUND) | past, IGNORE, labels)
                rows.append(
                    Row(
                        sample.image.permute(1, 2, 0).numpy(),
                        shown,
                        {},
                        f"{split}: {one.pair.image.stem}",
                    )
                )
        return rows


def check(
    source: str, *, root: Path | None = None, lists: Path | None = None, progress: bool = True
) -> Checked:
    """Look at every file of a data set.

    Args:
        source: A folder of one's own data, or the name of a benchmark.
        root: Where the benchmark's data lie.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        progress: Show a progress bar.

    Raises:
        SettingError: No such benchmark, or one without files.
        DataError: A folder without classes.txt, images/ or labels/.
    """
    benchmark = get_benchmark(source, lists)
    early, pairs, how, first = _own(benchmark) if benchmark.folder else _named(benchmark, root)

    def tracked(items: Iterable[Looked], count: int) -> Iterable[Looked]:
        return track(
            items,
            description=f"looking at {benchmark.title}",
            total=count,
            transient=True,
            disable=not progress,
        )

    scored = benchmark.class_names if benchmark.episodes is None else benchmark.unseen
    found = survey(
        pairs,
        benchmark.class_names,
        first,
        taught=benchmark.seen,
        scored=scored,
        tracked=tracked,
        own=benchmark.folder is not None,
    )
    found.findings = sorted([*early, *found.findings], key=lambda finding: finding.level != "error")
    return Checked(benchmark, found, how)


def _own(benchmark: Benchmark) -> tuple[list[Finding], dict[str, list[Pair]], str, int]:
    """What can be said of a folder without opening its files, and its pairs; misnamed label maps
    are looked at too.
    """
    assert benchmark.folder is not None
    found, findings = contents(benchmark.folder), list[Finding]()
    add = partial(_add, findings)
    where = "labels/train or labels/val, as the image lies," if found.nested else "labels/"
    add(
        "error",
        UNREAD,
        "put all of them into images/train and images/val, or all into images/; their label maps"
        " likewise",
        found.unread,
    )
    add(
        "error",
        "images without a label map",
        f"save it in {where} under the image's name ({LABEL_SUFFIXES[0]}), or remove the image",
        found.unlabelled,
    )
    add(
        "error",
        "label maps that are no PNG or TIFF",
        "make them again as PNGs, from the ids; a JPEG has blurred them, and converting it does not"
        " help",
        found.misfits,
    )
    add(
        "error",
        "names on lists without an image in images/",
        "correct the lists: one name a line, without suffix",
        found.unknown,
    )
    add(
        "warning",
        "label maps without an image, which are not used",
        "restore the image, or remove them",
        found.pictureless,
    )
    for split in SPLITS:
        if not found.splits[split]:
            what, use = ("training", "train on") if split == "train" else ("validation", "score")
            findings.append(
                Finding(
                    "error",
                    f"there are no labelled images for {what} ({found.how})",
                    f"add some to {use}",
                )
            )
    return findings, found.splits, found.how, read_classes(benchmark.folder / CLASSES).first


def _named(
    benchmark: Benchmark, root: Path | None
) -> tuple[list[Finding], dict[str, list[Pair]], None, int]:
    """The pairs of a benchmark's splits, or why they cannot be had."""
    findings, pairs, first = list[Finding](), dict[str, list[Pair]](), 0
    for split in SPLITS:
        try:
            data: SegmentationSet = benchmark.data(split, root)
        except DataError as error:
            if benchmark.needs_root and root is None:
                raise
            what, _, remedy = str(error).rpartition("; ")
            unused = split == "train" and len(benchmark.class_names) > MAX_8BIT_CLASSES
            findings.append(Finding("warning" if unused else "error", f"{split}: {what}", remedy))
            continue
        if not isinstance(data, LabelledImages):
            raise SettingError(
                f"{benchmark.name} is drawn when it is asked for and has no files to check; give a"
                " folder, or a benchmark with --root"
            )
        pairs[split], first = data.pairs, 1 if data.background == 0 else 0
    if not pairs:
        raise DataError(f"{findings[0].what}; {findings[0].remedy}")
    return findings, pairs, None, first


def _add(
    findings: list[Finding], level: str, what: str, remedy: str, files: list[Path] | list[str]
) -> None:
    if files:
        findings.append(
            Finding(
                "error" if level == "error" else "warning",
                what,
                remedy,
                tuple(str(file) for file in files),
            )
        )


def print_checked(checked: Checked) -> None:
    """A table of the splits, and a line for everything found."""
    bench, console = checked.benchmark, Console()
    words = (
        f"{len(bench.seen)} seen, {len(bench.unseen)} unseen"
        if bench.unseen
        else f"{len(bench.class_names)}, none marked unseen"
    )
    title = f"{bench.title}: classes: {words}" + (
        f"; splits: {checked.splits}" if checked.splits else ""
    )
    table = Table(
        "split",
        "images",
        "labelled pixels",
        "void",
        "classes shown",
        title=escape(title),
        title_justify="left",
    )
    for split, looked in checked.survey.looked.items():
        pixels = checked.survey.pixels(split)
        whole = sum(w * h for w, h in (one.label_size for one in looked))
        labelled = sum(pixels.values())
        void = f"{100 * (1 - labelled / whole):.1f} %" if whole else "–"
        table.add_row(
            split,
            str(len(looked)),
            f"{labelled:,}",
            void,
            f"{sum(area > 0 for area in pixels.values())} of {len(pixels)}",
        )
    console.print(table)
    for finding in checked.survey.findings:
        console.print(
            f"[bold {'red' if finding.level == 'error' else 'yellow'}]{finding.level}[/] "
            f" {escape(finding.line())}",
            soft_wrap=True,
            highlight=False,
        )
    if not checked.survey.findings:
        console.print("nothing to mend")
