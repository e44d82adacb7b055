"""Verbs that train: pretrain, train, demo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.flags import (
    FLAT,
    NOTHING,
    DataFlags,
    Given,
    ModelFlags,
    settings_flags,
)
from unseen.cli.notices import about_release, about_tower, about_warmup
from unseen.errors import SettingError
from unseen.recipes import resolve
from unseen.settings import TrainSettings
from unseen.settings.ranges import SEED, check_ranges, whole

if TYPE_CHECKING:
    from unseen.plans import TrainingPlan

GROUPS: dict[str, dict[str, Any]] = {
    "train": {"train": settings_flags(TrainSettings(), "Training")},
}
"""By verb, its parameters that are mappings, and the flags that fill them."""


def pretrain(
    world: str = "doodles",
    /,
    *,
    out: Path = Path("runs/doodle-clip"),
    steps: int = 16_000,
    batch_size: int = 64,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Pre-train the small CLIP of Doodles on images and captions.

    Writes doodles.safetensors into the folder.

    Args:
        world: "doodles".
        out: Folder for weights, log and resumable state.
        steps: Optimiser steps; the shipped weights took the default.
        batch_size: Scenes a step.
        seed: Of scenes and first values.
        resume: Go on from the state in the folder.
    """
    if world != "doodles":
        raise SettingError(f"there is no world called {world!r} to pre-train on; choose doodles")
    from unseen import pretrain as module

    accuracy = module.pretrain(out, seed=seed, steps=steps, batch_size=batch_size, resume=resume)
    print(f"zero-shot accuracy on scenes with a single thing, 20 classes: {accuracy:.1f} %")
    print(f"wrote {out / module.WEIGHTS}")


@dataclass(frozen=True)
class TrainFlags:
    """What is trained on, and where it is kept.

    Attributes:
        benchmark: A benchmark of `unseen list`, folds as pascal-5i/0; or a folder of your own data
            (images/, labels/, classes.txt; see `unseen check`).
        out: Run folder; runs/METHOD-BENCHMARK by default.
        text_embeddings: A .npy file, (K, D) or (K, prompts, D), to use instead of the text tower,
            one row a class of the benchmark.
        class_file: Text file with a line a class, in the order of the benchmark's classes: what is
            asked in place of the class's name, synonyms separated by commas (they are averaged). Or
            one that comes with the package (unseen list class-files).
        init: Run folder whose trained weights to start from (transductive second stage).
        resume: Go on from the state in the run folder.
        seeds: Train a run for each seed, separated by commas, one after the other, into
            OUT/seed-N; the same command again goes on with what is missing.
    """

    benchmark: str = "doodles"
    out: Path | None = None
    text_embeddings: Path | None = None
    class_file: str | None = None
    init: Path | None = None
    resume: bool = False
    seeds: str | None = None


DATA, MODEL, TRAIN = DataFlags(), ModelFlags(), TrainFlags()


def train(
    method: str,
    /,
    *,
    run: Annotated[TrainFlags, FLAT] = TRAIN,
    data: Annotated[DataFlags, FLAT] = DATA,
    model: Annotated[ModelFlags, FLAT] = MODEL,
    train: Given = NOTHING,
) -> None:
    """Train a method on the seen classes of a benchmark.

    Writes a run folder for evaluate and segment. Settings come from the defaults, then the recipe
    of the method for the benchmark, then the command line.

    Args:
        method: A trainable method of `unseen list`; `unseen train METHOD --help` shows its options.
        run: What is trained on, and where to.
        data: Where the benchmark's data are.
        model: What the method is built with.
        train: Values of `TrainSettings`.
    """
    from unseen.plans import plan_seeds, plan_training

    # Planned here, before torch is imported, and again by `api.train` for those who call it.
    chosen, settings = resolve(method, run.benchmark, model=model.given(), train=train)
    where: dict[str, Any] = {**vars(run), **vars(data)}
    del where["seeds"]
    if run.seeds is None:
        train_planned(plan_training(chosen, settings, **where), data, where)
        return
    if "seed" in train:
        raise SettingError("--seeds and --train.seed are both given; remove one of them")
    if run.resume:
        raise SettingError("--seeds goes on with what is missing by itself; remove --resume")
    plans = plan_seeds(chosen, settings, read_seeds(run.seeds), **where)
    for plan in plans:
        if plan.is_finished:
            print(f"{plan.folder} is finished")
            continue
        train_planned(plan, data, {**where, "out": plan.folder, "resume": plan.resume})
    folders = " ".join(str(plan.folder) for plan in plans)
    print(_next(folders, plans[0], data))


def train_planned(plan: TrainingPlan, data: DataFlags, where: dict[str, Any]) -> None:
    """Train as planned, with what somebody should know before and afterwards."""
    # Further processes of a distributed run would repeat what the first has printed.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        released = about_release(plan.protocol.note)
        tower = about_tower(plan.model.clip, plan.benchmark.class_names, "give --clip")
        for notice in filter(None, (tower, released, about_warmup(plan.settings))):
            print(notice)
    from unseen import api

    if api.train(plan.model, plan.settings, **where) is not None:
        print(f"wrote {plan.folder}; {_next(str(plan.folder), plan, data)}")


def _next(folders: str, plan: TrainingPlan, data: DataFlags) -> str:
    """How to score what was trained, as it was trained."""
    published = " --published" if plan.model.published else ""
    return f"next: unseen evaluate {folders}{published}{data}"


def read_seeds(line: str) -> list[int]:
    """Seeds separated by commas.

    Raises:
        SettingError: One that is none, or given twice.
    """
    words = [word.strip() for word in line.strip(" []").split(",")]
    for place, word in enumerate(words):
        if not word.isdecimal() or not SEED.holds(int(word)):
            raise SettingError(f"--seeds is {line!r}; give numbers separated by commas: 0,1,2")
        if int(word) in map(int, words[:place]):
            raise SettingError(f"the seed {word} is given twice; give it once")
    return [int(word) for word in words]


def demo(
    *,
    out: Path = Path("demo"),
    seed: int = 0,
    steps: int | None = None,
    limit: int | None = None,
) -> None:
    """Train ZegCLIP on 15 of the 20 doodle classes, score it on all, and draw its label maps.

    Methods without training are scored beside it.

    Args:
        out: Folder for the run, the reports and the images; an earlier demo there is replaced.
        seed: Of training.
        steps: Training steps; the recipe's by default.
        limit: Score only the first so many scenes.
    """
    numbers = SimpleNamespace(seed=seed, steps=steps)
    check_ranges(numbers, "", {"seed": SEED, "steps": whole(1).or_none()})
    given: dict[str, Any] = {"seed": seed, "devices": "1"}
    if steps is not None:
        given["steps"] = steps
    model, settings = resolve("zegclip", "doodles", train=given)
    from unseen.demo import run_demo

    run_demo(out, model, settings, limit=limit)
