"""Reports as they lie in folders, and which of them are the seeds of one model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unseen.arguments import check_kind
from unseen.errors import DataError, SettingError
from unseen.files import REPORT, REPORT_FORMAT
from unseen.image_counts import NAME as COUNTS
from unseen.image_counts import ImageCounts, read_counts
from unseen.runs import CONFIG
from unseen.runs import HARMLESS as SETTINGS_OF_NO_WEIGHT
from unseen.settings import flat
from unseen.texts import read_json

ABOUT_THE_MODEL = (
    "train", "trained_on", "model", "chosen", "text_embeddings", "towers", "calibrated", "versions",
    "segments", "vocabulary", "synonyms", "combine", "templates", "threshold_chosen",
)  # fmt: skip
"""Parts of a report's protocol that say what was scored, and not how."""
HARMLESS = {
    *(f"evaluation.{name}" for name in ("batch_size", "workers", "shown", "device", "progress")),
    "inference.precision",
    "inference.window_batch",
}
"""Settings of a protocol that move a number by no more than rounding."""
OF_A_SEED = {"train.seed", "chosen.step", "chosen.value", *SETTINGS_OF_NO_WEIGHT}
"""What may differ between runs that are one model with several seeds."""
REPORT_KINDS: dict[str, Any] = {
    "model": str,
    "benchmark": str,
    "scores": dict[str, float | None],
    "images": int,
    "pixels": int,
    "protocol": dict[str, Any],
    "iou": dict[str, float | None],
}
"""What report.json has to hold."""


@dataclass(frozen=True)
class Stored:
    """A report that was written before.

    Attributes:
        folder: Where it lies.
        told: What report.json says.
    """

    folder: Path
    told: dict[str, Any]

    @property
    def title(self) -> str:
        """The model's, in tables."""
        return str(self.told["model"])

    @property
    def scores(self) -> dict[str, float]:
        """By name, in percent; NaN where there was nothing to average."""
        told = self.told["scores"].items()
        return {name: math.nan if value is None else float(value) for name, value in told}

    @property
    def class_iou(self) -> dict[str, float]:
        """By class, in percent; NaN for those that occur nowhere."""
        told = self.told["iou"].items()
        return {name: math.nan if value is None else float(value) for name, value in told}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by id."""
        confusion = self.told.get("confusion")
        return tuple(
            self.told["protocol"]["vocabulary"] if confusion is None else confusion["rows"]
        )

    @property
    def unseen_ids(self) -> list[int]:
        """Ids of the classes without masks in training."""
        unseen = set(self.told["protocol"]["unseen"])
        return [i for i, name in enumerate(self.class_names) if name in unseen]

    @property
    def seen_ids(self) -> list[int]:
        """Ids of the classes with masks in training; a background that is scored is none."""
        unseen = self.unseen_ids
        return [i for i in range(len(self.told["protocol"]["vocabulary"])) if i not in unseen]

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was scored, flat."""
        told = self.told["protocol"]
        how = {name: value for name, value in told.items() if name not in ABOUT_THE_MODEL}
        how |= {name: self.told[name] for name in ("benchmark", "images", "pixels")}
        return {name: value for name, value in flat(how).items() if name not in HARMLESS}

    @property
    def trained(self) -> dict[str, Any]:
        """What was scored, flat, but for the seed."""
        told = self.told["protocol"]
        what = flat({name: told.get(name) for name in ("model", "train", "chosen", "towers")})
        what |= {"title": self.title}
        return {name: value for name, value in what.items() if name not in OF_A_SEED}

    @property
    def seed(self) -> Any:
        """Of the training; None for methods without."""
        return (self.told["protocol"].get("train") or {}).get("seed")

    def read_counts(self) -> ImageCounts | None:
        """The counts of its images; None for reports of earlier versions.

        Raises:
            DataError: They are damaged.
        """
        path = self.folder / COUNTS
        return read_counts(path) if path.exists() else None


def find_report(place: Path, benchmark: str | None = None) -> Stored:
    """The report in a folder: its own, or that of the run it is.

    Args:
        place: A folder that an evaluation wrote, its report.json, or a run folder.
        benchmark: Of a run that was scored on several, the one that is meant.

    Raises:
        DataError: None there, one of another version, or a damaged one.
        SettingError: Several there.
    """
    if place.is_file():
        if place.name != REPORT:
            raise DataError(f"{place} is no {REPORT}; give a run folder, or a folder of a report")
        return read_report(place.parent)
    if (place / REPORT).exists():
        return read_report(place)
    found = [read_report(path.parent) for path in sorted(place.glob(f"eval-*/{REPORT}"))]
    if benchmark is not None:
        found = [report for report in found if report.told["benchmark"] == benchmark]
    if len(found) > 1:
        names = ", ".join(str(report.folder) for report in found)
        raise SettingError(f"{place} has several reports; give one of {names}, or --benchmark")
    if not found:
        if (place / CONFIG).exists():
            raise DataError(
                f"the run {place} has no report{f' on {benchmark}' if benchmark else ''}; score it"
                f" with unseen evaluate {place}"
            )
        raise DataError(
            f"there is no report in {place}; give a run folder, or a folder of a report"
        )
    return found[0]


def read_report(folder: Path) -> Stored:
    """What report.json of a folder says.

    Raises:
        DataError: Another file, or a report of another version.
    """
    path = folder / REPORT
    told = read_json(path)
    known = isinstance(told, dict) and told.get("format") == REPORT_FORMAT
    if not known or not all(name in told for name in REPORT_KINDS):
        version = told.get("format") if isinstance(told, dict) else None
        raise DataError(
            f"{path} is not a whole report of version {REPORT_FORMAT} (it says {version!r}); score"
            " again"
        )
    for name, kind in REPORT_KINDS.items():
        check_kind(f"{name} in {path}", told[name], kind, DataError)
    return Stored(folder, told)


def check_alike(reports: Sequence[Stored]) -> None:
    """Refuse reports that were not scored alike.

    Raises:
        SettingError: Names the first difference.
    """
    first = reports[0]
    for other in reports[1:]:
        mine, theirs = first.protocol, other.protocol
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise SettingError(
                    f"{first.folder} and {other.folder} were scored by different protocols: {name}"
                    f" is {mine.get(name)!r} there and {theirs.get(name)!r} here; compare what is"
                    " alike, or give --mixed"
                )


@dataclass(frozen=True)
class Group:
    """The seeds of one model.

    Attributes:
        title: For tables.
        reports: One a seed.
    """

    title: str
    reports: tuple[Stored, ...]


def grouped(reports: Sequence[Stored], *, mixed: bool = False) -> list[Group]:
    """Reports by what was scored, in the order they are given.

    Args:
        reports: The reports.
        mixed: Whether one model that was scored in two ways counts as two.

    Raises:
        SettingError: A report, or a seed of one model, that is given twice.
    """
    groups: list[list[Stored]] = []
    folders = set[Path]()
    for report in reports:
        if report.folder.resolve() in folders:
            raise SettingError(f"the report {report.folder} is given twice; give it once")
        folders.add(report.folder.resolve())
        group = next((each for each in groups if _is_one_model(each[0], report, mixed)), None)
        if group is None:
            groups.append([report])
            continue
        same = next((each for each in group if each.seed == report.seed), None)
        if same is not None:
            raise SettingError(
                f"{same.folder} and {report.folder} are the same model with the same seed; give one"
                " of them"
            )
        group.append(report)
    titles = [group[0].title for group in groups]
    return [
        Group(title if titles.count(title) == 1 else f"{title} ({_place(group[0])})", tuple(group))
        for title, group in zip(titles, groups, strict=True)
    ]


def _is_one_model(one: Stored, other: Stored, mixed: bool) -> bool:
    """Whether two reports are seeds of one model."""
    return one.trained == other.trained and not (mixed and one.protocol != other.protocol)


def _place(report: Stored) -> str:
    """The folder that tells a model from others of its title."""
    folder = report.folder.resolve()
    if folder.name.startswith("eval-"):
        folder = folder.parent
    return folder.parent.name if folder.name.startswith("seed-") else folder.name
