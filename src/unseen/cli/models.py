"""Verbs about models: pretrain, train, evaluate, convert, demo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.flags import (
    FLAT,
    NOTHING,
    DataFlags,
    Given,
    ModelFlags,
    Options,
    settings_flags,
)
from unseen.cli.notices import about_tower, about_warmup, notify
from unseen.errors import CheckpointError, SettingError
from unseen.recipes import resolve
from unseen.settings import EvaluationSettings, InferenceSettings, Regime, TrainSettings

if TYPE_CHECKING:
    from unseen.reports import Report

GROUPS: dict[str, dict[str, Any]] = {
    "train": {"train": settings_flags(TrainSettings(), "Training")},
    "evaluate": {
        "evaluation": settings_flags(EvaluationSettings(), "Evaluation", flat=True),
        "inference": settings_flags(InferenceSettings(), "Inference", defaults=False),
    },
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
    """Pre-train the small CLIP of the embedded world on images and captions.

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
        text_embeddings: A .npy file (K, D) to use instead of the text tower, one row a class of the
            benchmark.
        init: Run folder whose trained weights to start from (transductive second stage).
        resume: Go on from the state in the run folder.
    """

    benchmark: str = "doodles"
    out: Path | None = None
    text_embeddings: Path | None = None
    init: Path | None = None
    resume: bool = False


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
    from unseen.plans import plan_training

    chosen, settings = resolve(method, run.benchmark, model=model.given(), train=train)
    where: dict[str, Any] = {**vars(run), **vars(data)}
    plan = plan_training(chosen, settings, **where)
    # Further processes of a distributed run would repeat what the first has printed.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        tower = about_tower(chosen.clip, plan.benchmark.class_names, "give --clip")
        for notice in filter(None, (tower, about_warmup(settings))):
            print(notice)
    from unseen import api

    if api.train(chosen, settings, **where) is not None:
        print(f"wrote {plan.folder}; next: unseen evaluate {plan.folder}{data}")


@dataclass(frozen=True)
class ConvertFlags:
    """What a checkpoint does not say about itself.

    Attributes:
        out: Run folder, runs/METHOD-published-BENCHMARK by default; written only if every tensor
            has its place.
        regime: How it was trained; logits of seen classes of inductive runs are reduced by γ.
        options: Options of the method, in place of the recipe's: --options.NAME VALUE.
        clip: The text tower, where the checkpoint holds none: SAZS, ViT-B-32-quickgelu/openai by
            default.
        vision_heads: Heads of the image tower; one for every 64 channels by default.
        text_heads: Heads of the text tower; likewise.
    """

    out: Path | None = None
    regime: Regime = "inductive"
    options: Options | None = None
    clip: str | None = None
    vision_heads: int | None = None
    text_heads: int | None = None


CONVERT = ConvertFlags()


def convert(
    method: str,
    file: Path,
    /,
    *,
    benchmark: str,
    flags: Annotated[ConvertFlags, FLAT] = CONVERT,
) -> None:
    """Turn a published checkpoint into a run folder for evaluate and segment.

    The file is read as data: nothing in it is executed. Prints what became of every tensor.

    Args:
        method: zegclip, clip_rc, esda, sazs or edgeclip.
        file: The checkpoint: mmcv's .pth of ZegCLIP and CLIP-RC, or that of the method's own code.
        benchmark: What it was trained on: its classes, seen classes and windows; folds as
            pascal-5i/0.
        flags: What else a checkpoint does not say.
    """
    from unseen.plans import plan_conversion
    from unseen.sources import run_folder

    out = flags.out or run_folder(f"{method}-published", benchmark)
    plan_conversion(method, file, out, benchmark)
    from unseen import api

    report = api.convert(
        method,
        file,
        out,
        benchmark=benchmark,
        regime=flags.regime,
        clip=flags.clip,
        vision_heads=flags.vision_heads,
        text_heads=flags.text_heads,
        **(flags.options or {}),
    )
    print("\n".join(report.lines()))
    if report.problem:
        raise CheckpointError(
            f"{file} does not fit {method} ({report.problem}) and nothing was written; check that"
            " it is a checkpoint of this method and size"
        )
    print(f"wrote {out}; next: unseen evaluate {out} --root DATA")


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
    given: dict[str, Any] = {"seed": seed, "devices": "1"}
    if steps is not None:
        given["steps"] = steps
    model, settings = resolve("zegclip", "doodles", train=given)
    from unseen.demo import run_demo

    run_demo(out, model, settings, limit=limit)


@dataclass(frozen=True)
class EvaluateFlags:
    """What is scored.

    Attributes:
        benchmark: A benchmark of `unseen list`, or a folder of your own data; a run's own by
            default. Without training, a name without fold means all folds.
        out: Folder for the report; RUN/eval-BENCHMARK or runs/METHOD-BENCHMARK by default.
        text_embeddings: A .npy file (K, D) to use instead of the text tower.
    """

    benchmark: str | None = None
    out: Path | None = None
    text_embeddings: Path | None = None


EVALUATE = EvaluateFlags()


def evaluate(
    runs: list[str],
    /,
    *,
    flags: Annotated[EvaluateFlags, FLAT] = EVALUATE,
    data: Annotated[DataFlags, FLAT] = DATA,
    model: Annotated[ModelFlags, FLAT] = MODEL,
    evaluation: Given = NOTHING,
    inference: Given = NOTHING,
) -> None:
    """Score methods or runs on a benchmark.

    Writes report.json and sheet.png for each.

    Args:
        runs: Methods without training of `unseen list`, or run folders.
        flags: On what, and where to.
        data: Where the benchmark's data are.
        model: What a method is built with.
        evaluation: Values of `EvaluationSettings`.
        inference: Single values to change; a run on its own benchmark keeps its own, all else the
            benchmark's.
    """
    from unseen.entries import Places, plan_entries

    settings = EvaluationSettings(**evaluation)
    choices = model.given()
    choices["text_embeddings"] = flags.text_embeddings
    places = Places(data.root, data.lists, flags.out)
    plan_entries(runs, flags.benchmark, places, settings, inference, choices)
    from unseen import api
    from unseen.reports import print_reports

    reports = api.evaluate(
        runs,
        flags.benchmark,
        settings=settings,
        inference=inference,
        out=flags.out,
        **vars(data),
        **choices,
    )
    for report in reports:
        _print_place(report)
    print_reports(reports)


def _print_place(report: Report) -> None:
    """Where a report was written, and what a reader has to know of its number."""
    protocol = report.protocol
    if protocol["train"] is None:
        names = report.benchmark.class_names
        for tower in protocol["towers"].values():
            notify(about_tower(tower["source"], names, "give --clip"))
    if "threshold_chosen" in protocol:
        scores = protocol["threshold_chosen"]["mIoU_seen"].items()
        print(
            f"threshold {protocol['inference']['refinement_threshold']}, from mIoU of seen classes"
            f" in training: {'  '.join(f'{each} {score:.1f}' for each, score in scores)}"
        )
    print(f"wrote {report.folder}/report.json, with sheet.png beside")
