"""A first demonstration: train on 15 classes, segment 20, on a laptop, in minutes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from unseen.api import evaluate, load, train
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.errors import DataError
from unseen.files import (
    REPORT,
    SHEET,
    check_output_folder,
    check_replaceable,
    write_json,
    write_png,
)
from unseen.image_counts import NAME as COUNTS
from unseen.report_page import NAME as PAGE
from unseen.reports import Report, print_reports
from unseen.runs import (
    CONFIG,
    COST,
    CURVES,
    FORMER_STATE,
    HOLDER,
    LOCK,
    METRICS,
    SCORES,
    STATE,
    WEIGHTS,
)
from unseen.settings import EvaluationSettings, ModelSettings, TrainSettings
from unseen.visualize import Row, sheet

BASELINES = ("clip", "maskclip", "sclip", "clearclip", "naclip")
"""Methods without training that are scored too; the demo stays the same when others join."""
MARK = "demo.json"
"""Lies in every folder a demo wrote; a folder without it is never emptied."""
PICTURE = "demo.png"
RUN_NAMES = (CONFIG, COST, CURVES, WEIGHTS, SCORES, METRICS, STATE, FORMER_STATE, LOCK, HOLDER)
"""What a run folder holds."""


def run_demo(
    out: Path,
    model: ModelSettings,
    settings: TrainSettings,
    *,
    limit: int | None = None,
    progress: bool = True,
) -> dict[str, Report]:
    """Train, score, draw; returns the reports by method.

    Args:
        out: Folder for everything; an earlier demo in it is replaced.
        model: The trained method and its tower.
        settings: How to train it.
        limit: Score only the first so many scenes.
        progress: Show progress bars.

    Raises:
        DataError: `out` holds something that is not a demo.
    """
    # Whatever is wrong with the settings is said before an earlier demo goes.
    scoring = EvaluationSettings(limit=limit, progress=progress)
    _clear(out, model.method)
    console, bench = Console(), get_benchmark("doodles")
    console.print(
        f"[bold]1[/bold]  training {model.method} on masks of {len(bench.seen)} classes; it never"
        f" sees a mask of {', '.join(bench.unseen)}"
    )
    train(model, settings, bench.name, out / "run", progress=progress)

    console.print("[bold]2[/bold]  scoring it on all 20 classes, beside methods without training")
    reports = {
        name: evaluate(name, bench, settings=scoring, out=out / name, clip=model.clip)[0]
        for name in BASELINES
    }
    # Chosen before the trained method joins the reports.
    best = max(reports, key=lambda name: reports[name].scores["hIoU"])
    trained = out / model.method
    reports[model.method] = evaluate(out / "run", settings=scoring, out=trained)[0]
    print_reports(list(reports.values()))

    console.print(
        f"[bold]3[/bold]  drawing: {best} (the best without training) and {model.method} on the"
        " same scenes"
    )
    rows = _draw(out / PICTURE, reports, model.method, best)
    predictor = load(out / "run")
    text = predictor.encode(bench.class_names)
    for i, row in enumerate(rows[:3]):
        predictor.segment_encoded(row.image, text).save(out / "segmented", f"scene{i}")
    _write_scores(out, reports)
    console.print(
        f"open {out / 'demo.png'}; reports in {out}/*/report.json; label maps in"
        f" {out / 'segmented'}; the run in {out / 'run'}",
        markup=False,
        soft_wrap=True,
    )
    return reports


def _draw(path: Path, reports: Mapping[str, Report], trained: str, best: str) -> list[Row]:
    """Write the sheet of the trained method beside the best one without training."""
    bench: Benchmark = reports[trained].benchmark
    pairs = zip(reports[trained].rows, reports[best].rows, strict=True)
    rows = [
        replace(
            row,
            predictions={
                f"{best}, no training": other.predictions["prediction"],
                trained: row.predictions["prediction"],
            },
        )
        for row, other in pairs
    ]
    scores = {name: reports[name].scores for name in (trained, best)}
    figures = [
        f"{name}: mIoU seen {numbers['mIoU_S']:.1f}, unseen {numbers['mIoU_U']:.1f}"
        for name, numbers in scores.items()
    ]
    image = sheet(
        rows,
        bench.class_names,
        bench.unseen,
        title=f"{trained} trained on {len(bench.seen)} classes, scored on 20",
        subtitle="   ".join([*figures, "(Doodles numbers; grey: not scored)"]),
        across=2,
    )
    write_png(path, image)
    return rows


def _write_scores(out: Path, reports: Mapping[str, Report]) -> None:
    scores = {name: report.as_dict()["scores"] for name, report in reports.items()}
    write_json(out / MARK, scores)


def _clear(out: Path, method: str) -> None:
    """Make room for a demo: an earlier one is removed, anything else stays and stops it.

    Raises:
        DataError: A folder with other files; nothing is removed then.
    """
    if out.exists():
        check_output_folder(out)
        files = [path for path in out.rglob("*") if not path.is_dir() or path.is_symlink()]
        for path in files:
            if not (out / MARK).exists() or not _is_of_demo(path.relative_to(out), method):
                raise DataError(f"{path} is not a demo's; choose another folder with --out")
        check_replaceable(path for path in files if path.suffix in (".json", ".png", ".yaml"))
        for path in files:
            path.unlink()
    write_json(out / MARK, {})


def _is_of_demo(path: Path, method: str) -> bool:
    """Whether a demo, or a run in it, writes a file of this name."""
    top, *below = path.parts
    if top == "run":
        return "/".join(below) in RUN_NAMES
    if top == "segmented":
        return re.fullmatch(r"scene\d\.(png|overlay\.png|json)", "/".join(below)) is not None
    if top in (*BASELINES, method):
        return below in ([REPORT], [PAGE], [SHEET], [COUNTS])
    return path.parts in ((MARK,), (PICTURE,))
