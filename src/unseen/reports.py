"""What evaluations measured: report.json, a sheet of images, tables on the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from unseen.data.benchmarks import Benchmark
from unseen.files import REPORT, REPORT_FORMAT, SHEET, write_json, write_png
from unseen.image_counts import NAME as COUNTS
from unseen.image_counts import ImageCounts
from unseen.metrics import Metric, rounded
from unseen.report_page import NAME as PAGE
from unseen.report_page import Shown, Told, write_page
from unseen.visualize import Row, sheet


@dataclass(frozen=True)
class Report:
    """What an evaluation measured, and everything that moves the number.

    Attributes:
        title: Of the model, for tables and sheets, with what was done to its own masks.
        benchmark: What it was scored on.
        metric: The counts of all images or episodes.
        images: How many images.
        pixels: Labelled pixels, counted on the labels alone.
        protocol: Classes, background, windows, templates, options, seed, versions.
        rows: Some images with truth and prediction.
        shown: Images worth a look (`unseen.evaluation.gallery`).
        shared: The classes that a run has seen with masks on another benchmark; None where it was
            trained on this one or not at all.
        cost: What the model costs (`unseen.profiling.Cost`); None where that was not measured.
        single: What every image adds, so that reports can be compared (`unseen.compared`).
        folder: Where it was saved; None if it was not.
        run: The run folder, for tables in which several runs have the same title.
    """

    title: str
    benchmark: Benchmark
    metric: Metric
    images: int
    pixels: int
    protocol: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    shared: tuple[str, ...] | None = None
    cost: dict[str, Any] | None = None
    single: ImageCounts | None = None
    folder: Path | None = None
    run: str = ""

    @property
    def row(self) -> str:
        """What its row in a table is headed with."""
        return f"{self.title} ({self.run})" if self.run else self.title

    @property
    def scores(self) -> dict[str, float]:
        """The protocol's numbers, in percent.

        For runs trained on another benchmark also mIoU_shared and mIoU_novel, over the classes seen
        in that training and the others.
        """
        scores = self.metric.summary(self.benchmark.seen_ids, self.benchmark.unseen_ids)
        if self.shared is not None:
            names = self.benchmark.class_names
            iou = self.metric.iou[: len(names)]
            shared = torch.tensor([name in self.shared for name in names])
            scores["mIoU_shared"] = 100 * iou[shared].nanmean().item()
            scores["mIoU_novel"] = 100 * iou[~shared].nanmean().item()
        return scores

    @property
    def heads(self) -> dict[str, str]:
        """The scores that tables and sheets show, and what they are headed with."""
        split = ("mIoU_S", "mIoU_U", "hIoU")
        hidden: tuple[str, ...] = split
        if self.benchmark.unseen:
            hidden = ("mAcc",)
            # Where nothing but the classes is scored, seen and unseen ones say it all.
            if self.benchmark.episodes is None and self.benchmark.background != "threshold":
                hidden = ("mAcc", "mIoU")
        heads = {name: head for name, head in self.metric.heads.items() if name not in hidden}
        if self.shared is not None:
            heads |= {"mIoU_shared": "mIoU seen in training", "mIoU_novel": "mIoU novel"}
        return heads

    def as_dict(self) -> dict[str, Any]:
        """The whole report as JSON types; numbers that do not exist are null."""
        return {
            "format": REPORT_FORMAT,
            "model": self.title,
            "benchmark": self.benchmark.name,
            "scores": {name: rounded(value) for name, value in self.scores.items()},
            "images": self.images,
            "pixels": self.pixels,
            "protocol": self.protocol,
            "cost": self.cost,
            **self.metric.as_dict(self.benchmark.scored_names, self.benchmark.unseen_ids),
        }

    def save(self, folder: Path) -> Report:
        """Write report.json, report.html, sheet.png and the counts of single images.

        Returns:
            The report that knows its folder.
        """
        if self.single is not None:
            self.single.save(folder / COUNTS)
        write_json(folder / REPORT, self.as_dict())
        write_page(folder / PAGE, self.as_dict(), self._told(str(folder)))
        if self.rows:
            write_png(folder / SHEET, self.sheet())
        return replace(self, folder=folder)

    def _told(self, place: str) -> Told:
        """What report.html says beside report.json."""
        bench, how = self.benchmark, "The images that went worst and best, and of each class some"
        how += " that went worst. The number is the mean IoU of the classes labelled in the image."
        if bench.episodes is not None:
            how = "The episodes that went worst and best, and of each class some that went worst."
            how += " The number is the IoU of the query class."
        return Told(
            title=bench.title,
            heads=self.heads,
            names=bench.scored_names,
            unseen=[] if bench.episodes else list(bench.unseen),
            images=self.shown,
            how=how,
            place=place,
        )

    def sheet(self) -> Any:
        """The image of `rows`, with the scores under its title."""
        scores, folds = self.scores, self.benchmark.episodes is not None
        shown = [
            f"{head} {scores[name]:.1f}"
            for name, head in self.heads.items()
            if not math.isnan(scores[name])
        ]
        note = "(grey: not labelled, not scored)"
        if folds:
            note = "(one query class an image; grey: not the class)"
        return sheet(
            self.rows,
            self.benchmark.scored_names,
            self.benchmark.unseen,
            title=f"{self.title} on {self.benchmark.title}",
            subtitle="   ".join([*shown, note]),
            across=min(2, len(self.rows)),
            everywhere=folds,
        )


# ----------------------------------------------------------------------- tables


def print_reports(reports: Sequence[Report]) -> None:
    """Tables on the screen: one of each benchmark, and one of all folds.

    A single report is followed by the IoU of its classes.
    """
    console = Console(markup=False)  # names may hold brackets
    folds = [report for report in reports if report.benchmark.episodes is not None]
    others: dict[str, list[Report]] = {}
    for report in reports:
        if report.benchmark.episodes is None:
            others.setdefault(report.benchmark.name, []).append(report)
    for group in others.values():
        console.print(_benchmark_table(group))
    if folds:
        console.print(_fold_table(folds))
    if len(reports) == 1:
        _print_classes(reports[0], console)


def _benchmark_table(reports: Sequence[Report]) -> Table:
    """One line a model."""
    bench = reports[0].benchmark
    heads = {name: head for report in reports for name, head in report.heads.items()}
    classes = f"{len(bench.class_names)} classes"
    if bench.unseen:
        classes = f"{len(bench.seen_ids)} seen, {len(bench.unseen_ids)} unseen classes"
    if bench.background == "threshold":
        classes += " and the background"
    title = f"{bench.title}: {classes}, {reports[0].images} images (%)"
    table = Table("model", *heads.values(), title=title, title_justify="left")
    for report in reports:
        scores = report.scores
        table.add_row(report.row, *(_cell(scores.get(name, math.nan)) for name in heads))
    return table


def _fold_table(reports: Sequence[Report]) -> Table:
    """One line a model and fold, the mean over its seeds; below, the mean over a model's folds."""
    names = reports[0].metric.heads
    title = "foreground against background, one query class an image (%)"
    columns = ("model", "fold", "draw", *names.values(), "episodes")
    table = Table(*columns, title=title, title_justify="left")
    folds: dict[tuple[str, str], list[Report]] = {}
    models: dict[tuple[str, str], dict[str, list[Report]]] = {}
    # Reports of one title and fold differ in the seed alone, and share a line.
    for report in reports:
        fold = report.benchmark.name
        seeds = folds.setdefault((report.row, fold), [])
        seeds.append(report)
        models.setdefault((report.row, report.benchmark.base), {})[fold] = seeds
    for (model, fold), seeds in folds.items():
        cells = [mean_and_spread([report.scores[name] for report in seeds]) for name in names]
        episodes = sum(seeds[0].as_dict()["episodes"].values())
        table.add_row(model, fold, _drawn(seeds), *cells, str(episodes))
    # As in the papers, folds count alike, however many episodes they have.
    for (model, _), by_fold in models.items():
        if len(by_fold) > 1:
            means = [_mean_of_folds(list(by_fold.values()), name) for name in names]
            label = f"mean of {len(by_fold)} folds"
            table.add_row(model, label, "", *(f"{mean:.1f}" for mean in means), "", style="bold")
    return table


def _drawn(seeds: Sequence[Report]) -> str:
    """How the episodes of a line were drawn."""
    settings = seeds[0].protocol["evaluation"]
    parts = [settings["episodes"]]
    if len(seeds) > 1:
        parts.append(f"{len(seeds)} seeds")
    if settings["limit"]:
        parts.append(f"first {settings['limit']} only")
    return ", ".join(parts)


def _mean_of_folds(folds: Sequence[Sequence[Report]], name: str) -> float:
    return float(np.mean([np.mean([seed.scores[name] for seed in seeds]) for seeds in folds]))


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of some scores, as text; of a single one no deviation."""
    text = f"{np.mean(values):.1f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.1f}"
    return text


def _print_classes(report: Report, console: Console) -> None:
    """IoU by class, and what is known of the classes that training has seen elsewhere."""
    bench = report.benchmark
    parts = []
    for name, value in report.as_dict()["iou"].items():
        mark = " (unseen)" if name in bench.unseen and bench.episodes is None else ""
        parts.append(f"{name}{mark} {_cell(math.nan if value is None else value)}")
    console.print("IoU: " + "  ".join(parts))
    if report.shared is not None:
        trained = Path(report.protocol["trained_on"]["benchmark"]).name
        console.print(
            f"{len(report.shared)} of the {len(bench.class_names)} classes were seen with masks in"
            f" training on {trained}; report.json names them"
        )


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
