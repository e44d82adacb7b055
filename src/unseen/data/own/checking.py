"""`unseen check`: the faults of a folder of your own, or of a benchmark's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.progress import track

from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.datasets import LabelledImages
from unseen.data.own.faults import Finding, Level, worst_first
from unseen.data.own.findings import find_faults, layout_findings
from unseen.data.own.layout import CLASSES, SPLITS, read_classes, read_folder
from unseen.data.own.survey import PairRecord, Survey, read_pairs
from unseen.data.pairs import Pair
from unseen.errors import DataError, SettingError
from unseen.labels import MAX_8BIT_CLASSES


@dataclass(frozen=True)
class DataCheck:
    """The result of reading every file of a data set.

    Attributes:
        benchmark: Its classes.
        survey: The records of its files.
        findings: The faults, errors first.
        split_source: What the splits of your own data follow from; None for other benchmarks.
    """

    benchmark: Benchmark
    survey: Survey
    findings: list[Finding]
    split_source: str | None

    @property
    def errors(self) -> list[Finding]:
        """The findings that would stop or spoil training."""
        return [finding for finding in self.findings if finding.level == "error"]


@dataclass
class _Files:
    """A data set's files, and the faults that are known before they are opened."""

    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    first_id: int = 0
    ignored_ids: tuple[int, ...] = ()
    others: bool = False
    findings: list[Finding] = field(default_factory=list)
    split_source: str | None = None


def check_data(
    source: str, *, root: Path | None = None, lists: Path | None = None, progress: bool = True
) -> DataCheck:
    """Look at every file of a data set.

    Args:
        source: A folder of your own data, or the name of a benchmark.
        root: Where the benchmark's data lie.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        progress: Show a progress bar.

    Raises:
        SettingError: No such benchmark, or one without files.
        DataError: A folder without classes.txt, images/ or labels/.
    """
    benchmark = get_benchmark(source, lists)
    if benchmark.folder is not None:
        files = _own_files(benchmark.folder)
    else:
        files = _benchmark_files(benchmark, root)

    # Wraps the records instead of being called for them: reading stays lazy and in threads.
    def show_progress(records: Iterable[PairRecord], count: int) -> Iterable[PairRecord]:
        title = f"reading {benchmark.title}"
        return track(records, escape(title), count, transient=True, disable=not progress)

    # Folds score their unseen classes alone.
    scored = benchmark.class_names
    if benchmark.episodes is not None:
        scored = benchmark.unseen
    survey = Survey(
        read_pairs(files.pairs, show_progress),
        benchmark.class_names,
        files.first_id,
        {"train": benchmark.seen, "val": scored},
        own=benchmark.folder is not None,
        ignored_ids=files.ignored_ids,
        others=files.others,
    )
    findings = worst_first([*files.findings, *find_faults(survey)])
    return DataCheck(benchmark, survey, findings, files.split_source)


def _own_files(folder: Path) -> _Files:
    contents = read_folder(folder)
    classes = read_classes(folder / CLASSES)
    return _Files(
        contents.pairs,
        classes.first_id,
        classes.ignored_ids,
        findings=layout_findings(contents),
        split_source=contents.splits.source,
    )


def _benchmark_files(benchmark: Benchmark, root: Path | None) -> _Files:
    """The pairs of a benchmark's splits; a split that cannot be opened is a finding."""
    files = _Files()
    for split in SPLITS:
        # The other split is worth checking even if this one is missing.
        try:
            data = benchmark.data(split, root)
        except DataError as error:
            # Without a root there is nothing to check at all.
            if benchmark.needs_root and root is None:
                raise
            files.findings.append(_missing_split(benchmark, split, error))
            continue
        if not isinstance(data, LabelledImages):
            raise SettingError(
                f"{benchmark.name} is drawn when it is used and has no files to check; give a"
                " folder, or a benchmark with --root"
            )
        files.pairs[split] = data.pairs
        files.first_id, files.others = data.first_id, data.others == "background"
    if not files.pairs:
        finding = files.findings[0]
        raise DataError(f"{finding.problem}; {finding.remedy}")
    return files


def _missing_split(benchmark: Benchmark, split: str, error: DataError) -> Finding:
    # Messages of DataError are "PROBLEM; REMEDY".
    problem, _, remedy = str(error).rpartition("; ")
    # Vocabularies of this size cannot be trained on, so their training images are not needed.
    unused = split == "train" and len(benchmark.class_names) > MAX_8BIT_CLASSES
    level: Level = "warning" if unused else "error"
    return Finding(level, f"{split}: {problem}", remedy)
