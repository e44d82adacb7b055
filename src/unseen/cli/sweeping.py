"""The verb about grids of trainings: sweep."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.comparing import show
from unseen.cli.flags import FLAT, NOTHING, DataFlags, Given, settings_flags
from unseen.cli.training import train_planned
from unseen.errors import SettingError
from unseen.settings import ClusterSettings, TableFormat

if TYPE_CHECKING:
    from unseen.plans import TrainingPlan

GROUPS: dict[str, dict[str, Any]] = {
    "sweep": {"cluster": settings_flags(ClusterSettings(), "Cluster", flat=True)},
}
"""By verb, its parameters that are mappings, and the flags that fill them."""
DATA = DataFlags()


def sweep(
    file: Path,
    /,
    *,
    out: Path = Path("runs/sweep"),
    data: Annotated[DataFlags, FLAT] = DATA,
    format: TableFormat = "table",
    cluster: Given = NOTHING,
) -> None:
    """Train and score every combination of some settings.

    One run after the other, or several at a time by Ray Tune (--engine ray). The same command again
    goes on with what is missing. What a grid chooses is chosen on the images that score it: score
    the choice on others.

    Args:
        file: A YAML file: method, benchmark, grid (settings such as train.lr with lists of values),
            and where they are wanted set (settings of all runs), seeds, clip, published.
        out: Folder for the runs, in a folder for every combination.
        data: Where the benchmark's data are.
        format: Of the table of scores: for the screen, Markdown, CSV or LaTeX.
        cluster: Values of `ClusterSettings`.
    """
    from unseen.compared.stored import check_alike, grouped, read_report
    from unseen.compared.tables import score_table
    from unseen.plans import plan_seeds
    from unseen.sweeps import read_sweep, report_of

    spread = ClusterSettings(**cluster)
    if spread.engine == "ray" and find_spec("ray") is None:
        raise SettingError("--engine ray needs ray; install it with pip install 'unseen[ray]'")
    wanted = read_sweep(file)
    where: dict[str, Any] = dict(vars(data))
    plans = [
        plan
        for name, model, settings in wanted.combinations()
        for plan in plan_seeds(model, settings, wanted.seeds, wanted.benchmark, out / name, **where)
    ]
    if spread.engine == "ray":
        from unseen.tuning import run_on_tune

        run_on_tune(plans, spread, where)
    else:
        _run_in_turn(plans, data)
    reports = [read_report(report_of(plan.folder, plan.benchmark).parent) for plan in plans]
    check_alike(reports)
    show(score_table(grouped(reports)), format)


def _run_in_turn(plans: Sequence[TrainingPlan], data: DataFlags) -> None:
    """Train and score what is missing, one run after the other."""
    where: dict[str, Any] = dict(vars(data))
    for number, plan in enumerate(plans, start=1):
        print(f"run {number} of {len(plans)}: {plan.folder}")
        if not plan.is_finished:
            given = {"benchmark": plan.benchmark.name, "out": plan.folder, "resume": plan.resume}
            train_planned(plan, data, {**where, **given})
    from unseen import api
    from unseen.sweeps import is_scored

    for plan in plans:
        if not is_scored(plan.folder, plan.benchmark):
            api.evaluate(plan.folder, **where)
