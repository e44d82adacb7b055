"""The first thing anyone sees: train on 15 words, segment 20, on a laptop, in minutes."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from unseen.api import load
from unseen.api import train as train_run
from unseen.building import ModelSource, build, encode
from unseen.data.benchmarks import get_benchmark
from unseen.errors import DataError
from unseen.evaluation import Report, evaluate, print_reports
from unseen.files import replacing, write_text
from unseen.methods import METHODS
from unseen.settings import ModelSettings, TrainSettings
from unseen.visualize import Row, sheet

MARK = "demo.json"
"""Lies in every folder a demo wrote; a folder without it is never emptied."""


def run_demo(
    out: Path,
    model: ModelSettings,
    train: TrainSettings,
    *,
    limit: int | None = None,
    progress: bool = True,
) -> dict[str, Report]:
    """Train, score, draw; returns the reports by model.

    Args:
        out: Folder for everything; an earlier demo in it is replaced.
        model: The trained method and its tower.
        train: How to train it.
        limit: Score only the first so many scenes.
        progress: Show progress bars.

    Raises:
        DataError: `out` holds something that is not a demo.
    """
    _clear(out)
    console, bench = Console(), get_benchmark("doodles")
    console.print(
        f"[bold]1[/bold]  training {model.method} on masks of {len(bench.seen_ids)} words; it never"
        f" sees a mask of {', '.join(bench.unseen)}"
    )
    done = train_run(model, train, bench.name, out / "run", progress=progress)
    assert done is not None, "one process"
    segmenter, text = done

    console.print("[bold]2[/bold]  scoring it on all 20 words, beside the methods without training")
    reports: dict[str, Report] = {}
    for name in [n for n, m in METHODS.items() if not m.trainable]:
        settings = replace(model, method=name, options={"templates": bench.templates})
        source = ModelSource(settings)
        free = build(source)
        words = encode(free, bench.class_names, source)
        about = {"model": asdict(settings)}
        reports[name] = evaluate(
            free,
            words,
            bench,
            None,
            title=name,
            inference=bench.inference,
            limit=limit,
            progress=progress,
            about=about,
        )
    about = {"model": asdict(model), "train": asdict(train)}
    reports[model.method] = evaluate(
        segmenter,
        text,
        bench,
        None,
        title=model.method,
        inference=bench.inference,
        seen=bench.seen_ids,
        limit=limit,
        progress=progress,
        about=about,
    )
    for name, report in reports.items():
        report.save(out / name)
    print_reports(list(reports.values()))

    best = max((n for n in reports if n != model.method), key=lambda n: reports[n].scores["hIoU"])
    console.print(
        f"[bold]3[/bold]  drawing: {best} (the best without training) and {model.method} on the"
        " same scenes"
    )
    rows = [
        Row(
            mine.image,
            mine.truth,
            {
                f"{best}, no training": free.predictions["prediction"],
                model.method: mine.predictions["prediction"],
            },
        )
        for mine, free in zip(reports[model.method].rows, reports[best].rows, strict=True)
    ]
    figures = (
        f"{name}: mIoU seen {reports[name].scores['mIoU_S']:.1f}, unseen"
        f" {reports[name].scores['mIoU_U']:.1f}"
        for name in (model.method, best)
    )
    subtitle = "   ".join(figures) + "   (Doodles numbers; grey: not scored)"
    with replacing(out / "demo.png") as beside:
        sheet(
            rows,
            bench.class_names,
            bench.unseen,
            title=f"{model.method} trained on {len(bench.seen)} words, asked for 20",
            subtitle=subtitle,
            across=2,
        ).save(beside)
    predictor = load(str(out / "run"))
    for i, row in enumerate(rows[:3]):
        predictor.segment_encoded(row.image, text).save(out / "segmented", f"scene{i}")
    write_text(
        out / MARK,
        json.dumps({name: report.as_dict()["scores"] for name, report in reports.items()}, indent=1)
        + "\n",
    )
    console.print(
        f"open {out / 'demo.png'}; reports in {out}/*/report.json; label maps in"
        f" {out / 'segmented'}; the run in {out / 'run'}"
    )
    return reports


def _clear(out: Path) -> None:
    """Make room for a demo: an earlier demo goes, anything else stays and stops it."""
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists()):
            raise DataError(
                f"{out} holds files that are not a demo's; choose another folder with --out"
            )
        shutil.rmtree(out)
    write_text(out / MARK, "{}\n")
