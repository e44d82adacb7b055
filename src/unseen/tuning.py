"""The runs of a sweep, several at a time, by Ray Tune."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unseen import api
from unseen.clusters import joined
from unseen.errors import UnseenError
from unseen.plans import TrainingPlan
from unseen.settings import ClusterSettings
from unseen.sweeps import is_scored


def run_on_tune(
    plans: Sequence[TrainingPlan], settings: ClusterSettings, where: Mapping[str, Any]
) -> None:
    """Train and score runs on a Ray cluster, each in a process of its own.

    Args:
        plans: The runs; one that is finished is scored, unless it is already.
        settings: How many at a time, and what each has.
        where: What else `api.train` and `api.evaluate` take: where the data lie.

    Raises:
        SettingError: A cluster that does not answer, or more workers than it has room for.
        UnseenError: The first run that could not be trained or scored; the others have been.
        RuntimeError: A defect of the program, with what a worker told of it.
    """
    missing = [
        plan for plan in plans if not (plan.is_finished and is_scored(plan.folder, plan.benchmark))
    ]
    if not missing:
        return
    with joined(settings) as workers, tempfile.TemporaryDirectory() as notes:
        from ray import tune

        trial = partial(
            _run_trial,
            plans=missing,
            where={name: _absolute(value) for name, value in where.items()},
            folder=Path.cwd(),
            threads=settings.worker_cpus,
        )
        each = {"cpu": settings.worker_cpus, "gpu": settings.worker_gpus}
        tuner = tune.Tuner(
            tune.with_resources(trial, each),
            param_space={"run": tune.grid_search(list(range(len(missing))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=workers),
            # What Tune notes is not needed: run folders say how far a sweep is.
            run_config=tune.RunConfig(storage_path=notes, verbose=0),
        )
        results = tuner.fit()
    for result in (results[place] for place in range(len(results))):
        if result.error is not None:
            raise RuntimeError(f"a run failed:\n{result.error}")
        refused = (result.metrics or {}).get("refused")
        if refused:
            raise UnseenError(refused)


def _run_trial(
    config: Mapping[str, int],
    plans: Sequence[TrainingPlan],
    where: Mapping[str, Any],
    folder: Path,
    threads: int,
) -> dict[str, Any]:
    """Train and score a run; what was refused, if anything was."""
    os.chdir(folder)  # paths mean the same as where the sweep was begun
    torch.set_num_threads(threads)
    plan = plans[config["run"]]
    try:
        if not plan.is_finished:
            api.train(
                plan.model,
                plan.settings,
                plan.benchmark.name,
                plan.folder,
                resume=plan.resume,
                progress=False,
                **where,
            )
        api.evaluate(plan.folder, settings={"progress": False}, **where)
    except UnseenError as error:
        return {"refused": str(error)}
    return {"refused": ""}


def _absolute(value: Any) -> Any:
    return value.absolute() if isinstance(value, Path) else value
