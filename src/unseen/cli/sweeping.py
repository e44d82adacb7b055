"""The verb about grids of trainings: sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from unseen.cli.comparing import show
from unseen.cli.flags import FLAT, DataFlags
from unseen.cli.training import train_planned
from unseen.settings import TableFormat

DATA = DataFlags()


def sweep(
    file: Path,
    /,
    *,
    out: Path = Path("runs/sweep"),
    data: Annotated[DataFlags, FLAT] = DATA,
    format: TableFormat = "table",
) -> None:
    """Train and score every combination of some settings, one run after the other.

    The same command again goes on with what is missing. What a grid chooses is chosen on the images
    that score it: score the choice on others.

    Args:
        file: A YAML file: method, benchmark, grid (settings such as train.lr with lists of values),
            and where they are wanted set (settings of all runs), seeds, clip, published.
        out: Folder for the runs, in a folder for every combination.
        data: Where the benchmark's data are.
        format: Of the table of scores: for the screen, Markdown, CSV or LaTeX.
    """
    from unseen.compared.stored import check_alike, find_report, grouped
    from unseen.compared.tables import score_table
    from unseen.plans import plan_seeds
    from unseen.sweeps import is_scored, read_sweep

    wanted = read_sweep(file)
    where: dict[str, Any] = dict(vars(data))
    plans = [
        plan
        for name, model, settings in wanted.combinations()
        for plan in plan_seeds(model, settings, wanted.seeds, wanted.benchmark, out / name, **where)
    ]
    for number, plan in enumerate(plans, start=1):
        print(f"run {number} of {len(plans)}: {plan.folder}")
        if not plan.is_finished:
            given = {"benchmark": wanted.benchmark, "out": plan.folder, "resume": plan.resume}
            train_planned(plan, data, {**where, **given})
    from unseen import api

    for plan in plans:
        if not is_scored(plan.folder):
            api.evaluate(plan.folder, **where)
    reports = [find_report(plan.folder, plan.benchmark.name) for plan in plans]
    check_alike(reports)
    show(score_table(grouped(reports)), format)
