"""Verbs about what has been trained: evaluate, convert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.flags import (
    FLAT,
    NOTHING,
    ClassFileFlags,
    DataFlags,
    Given,
    ModelFlags,
    Options,
    settings_flags,
)
from unseen.cli.notices import about_tower, notify
from unseen.errors import CheckpointError
from unseen.recipes import published
from unseen.settings import EvaluationSettings, InferenceSettings, Regime

if TYPE_CHECKING:
    from unseen.reports import Report

GROUPS: dict[str, dict[str, Any]] = {
    "evaluate": {
        "evaluation": settings_flags(EvaluationSettings(), "Evaluation", flat=True),
        "inference": settings_flags(InferenceSettings(), "Inference", defaults=False),
    },
}
"""By verb, its parameters that are mappings, and the flags that fill them."""
DATA, MODEL, WORDS = DataFlags(), ModelFlags(), ClassFileFlags()


@dataclass(frozen=True)
class EvaluateFlags:
    """What is scored, and how its classes are put into words.

    Attributes:
        benchmark: A benchmark of `unseen list`, or a folder of your own data; a run's own by
            default. Without training, a name without fold means all folds.
        out: Folder for the report; RUN/eval-BENCHMARK or runs/METHOD-BENCHMARK by default.
        text_embeddings: A .npy file, (K, D) or (K, prompts, D), to use instead of the text tower.
        words: How the classes are put into words.
    """

    benchmark: str | None = None
    out: Path | None = None
    text_embeddings: Path | None = None
    words: Annotated[ClassFileFlags, FLAT] = WORDS


EVALUATE = EvaluateFlags()


def evaluate(
    models: list[str],
    /,
    *,
    flags: Annotated[EvaluateFlags, FLAT] = EVALUATE,
    data: Annotated[DataFlags, FLAT] = DATA,
    model: Annotated[ModelFlags, FLAT] = MODEL,
    evaluation: Given = NOTHING,
    inference: Given = NOTHING,
) -> None:
    """Score methods or runs on a benchmark.

    Writes report.json, report.html and sheet.png for each.

    Args:
        models: Methods without training of `unseen list`, or run folders.
        flags: On what, and where to.
        data: Where the benchmark's data are.
        model: What a method is built with.
        evaluation: Values of `EvaluationSettings`.
        inference: Single values to change; a run on its own benchmark keeps its own, all else the
            benchmark's.
    """
    from unseen.evaluation.entries import Changes, Places, plan_entries

    places = Places(data.root, data.lists, flags.out)
    choices = model.given()
    choices["text_embeddings"] = flags.text_embeddings
    changes = Changes(inference, flags.words.given(), evaluation, choices)
    plan_entries(models, flags.benchmark, places, changes)
    from unseen import api

    given: dict[str, Any] = {**vars(data), "out": flags.out, **choices}
    given |= {"settings": evaluation, "inference": inference, "vocabulary": flags.words.given()}
    reports = api.evaluate(models, flags.benchmark, **given)
    _print_reports(reports)


def _print_reports(reports: Sequence[Report]) -> None:
    """Where reports were written and what a reader has to know of their numbers, then tables."""
    from unseen.reports import print_reports

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
    if protocol["chosen"] is not None:
        chosen = protocol["chosen"]
        print(
            f"step {chosen['step']} was chosen by {chosen['score']} on {chosen['images']} images of"
            " the validation set: where the same images score, the number is too high"
        )
    print(f"wrote {report.folder}/report.json; look at {report.folder}/report.html")


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
        method: A trained method of the table; `unseen list METHOD` says how it is published.
        file: The checkpoint: mmcv's .pth of ZegCLIP and its kin, or that of the method's own code.
        benchmark: What it was trained on: its classes, seen classes and windows; folds as
            pascal-5i/0.
        flags: What else a checkpoint does not say.
    """
    from unseen.methods import known
    from unseen.methods.options import check as check_options
    from unseen.plans import plan_conversion
    from unseen.sources import run_folder

    out = flags.out or run_folder(f"{method}-published", benchmark)
    plan_conversion(method, file, out, benchmark)
    if known(method).trainable:  # else there is nothing to convert, which is said first
        check_options(method, flags.options or {}, known(method).choices)
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
    protocol = published(method, benchmark, flags.regime)
    if protocol is None:
        notify(
            f"unseen: {method} was not published on {benchmark}; the run is evaluated in float32,"
            " in all else as the benchmark says"
        )
    flag = "" if protocol is None else " --published"
    print(f"wrote {out}; next: unseen evaluate {out}{flag} --root DATA")


def push(run: Path, repo: str, /, *, license: str, private: bool = False) -> None:
    """Put a run on the Hugging Face hub, where others load it as hf://USER/NAME.

    It goes with a card that says what it was trained on, its classes and scores.

    Args:
        run: Run folder.
        repo: USER/NAME on the hub.
        license: Of the weights, by the hub's name: mit, apache-2.0, cc-by-4.0, other, ...
        private: A new repository is only for its owner.
    """
    from unseen.sharing import push_run

    address = push_run(run, repo, licence=license, private=private)
    print(f"pushed {run}; others load it as {address}")
