"""Methods and runs side by side: which benchmarks each is scored on, how, and where reports go.

First every row is planned and checked, then the segmenters are built, one at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unseen.building import build, device_named, encode
from unseen.clip_segmenter import TextSegmenter
from unseen.data.benchmarks import Benchmark, folds_of, get_benchmark
from unseen.errors import SettingError
from unseen.evaluation import check_fit, choose_threshold, evaluate
from unseen.files import write_text
from unseen.protocols import Candidate
from unseen.reports import Report
from unseen.settings import EvaluationSettings, InferenceSettings, change_inference
from unseen.sources import ModelChoices, ModelSource, find_model
from unseen.sources import run_folder as default_folder

SCORES = "metrics.json"
"""In a run folder: the scores of its last whole evaluation on each benchmark."""
GivenInference = InferenceSettings | Mapping[str, Any] | None


@dataclass(frozen=True)
class Places:
    """Where data lie and reports go.

    Attributes:
        root: Folder of the benchmark's data.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        out: Folder of the report; RUN/eval-BENCHMARK or runs/METHOD-BENCHMARK by default.
        save: Whether to write reports at all.
    """

    root: Path | None = None
    lists: Path | None = None
    out: Path | None = None
    save: bool = True


@dataclass(frozen=True)
class Entry:
    """A model on a benchmark: one row of the tables.

    Attributes:
        model: As it was given.
        source: What to build.
        benchmark: What to score it on.
        inference: Size, windows and refinement.
        own: Whether the model is a run that was trained on the same classes.
    """

    model: str
    source: ModelSource
    benchmark: Benchmark
    inference: InferenceSettings
    own: bool

    @property
    def regime(self) -> str | None:
        """How the run was trained; None for methods without training."""
        run = self.source.run
        return None if run is None else run.train.get("regime")

    def title(self, several: bool) -> str:
        """The model's name in tables: with its folder if several runs of the method are scored, and
        with how it was trained if it has seen more than the masks of seen classes.
        """
        run, notes = self.source.run, []
        if run is None:
            return self.model
        if self.regime in ("supervised", "transductive"):
            notes.append(str(self.regime))
        if several:
            notes.append(str(self.source.folder))
        return " ".join([run.model.method, *(f"({note})" for note in notes)])


def compare(
    models: Sequence[str | Path],
    benchmark: str | Benchmark | None,
    places: Places,
    settings: EvaluationSettings,
    inference: GivenInference,
    choices: ModelChoices,
) -> list[Report]:
    """Score models on a benchmark, or each run on its own; writes the reports.

    Args:
        models: Methods without training, by name, and run folders.
        benchmark: By name, folder or as an object; a run's own by default, doodles without one.
            Without training, a name without fold means all folds.
        places: Where data lie and reports go.
        settings: How to score.
        inference: Single fields, or whole settings, in place of the run's or benchmark's own.
        choices: Tower and options of the models.

    Returns:
        The reports, in the order of models, folds and seeds.

    Raises:
        UnseenError: Models, data or settings that do not fit together.
    """
    entries = list(_entries(models, benchmark, places, inference, choices))
    if places.out is not None and len(entries) > 1:
        raise SettingError(
            "--out is one folder, but there are several reports to write; remove it, or evaluate"
            " one at a time"
        )
    for entry in entries:
        _check(entry, places, settings, inference)
    changed = bool(inference) or any(choices.get(name) for name in ("options", "text_embeddings"))
    whole = settings.complete and not changed
    rows = Counter((entry.title(several=False), entry.benchmark.name) for entry in entries)
    reports: list[Report] = []
    last: tuple[ModelSource, TextSegmenter] | None = None
    for entry in entries:
        # The folds of a method without training are scored with one and the same segmenter.
        if last is None or last[0] != entry.source:
            segmenter = build(entry.source, entry.benchmark.class_names)
            last = entry.source, segmenter.to(device_named(settings.device))
        title = entry.title(several=rows[entry.title(several=False), entry.benchmark.name] > 1)
        made = list(_reports(entry, title, last[1], places, settings))
        if whole and places.save and entry.source.folder is not None:
            _keep_scores(entry.source.folder, made[0])
        reports += made
    return reports


# --------------------------------------------------------------------- planning


def _entries(
    models: Sequence[str | Path],
    benchmark: str | Benchmark | None,
    places: Places,
    inference: GivenInference,
    choices: ModelChoices,
) -> Iterator[Entry]:
    """The rows of the tables, in order."""
    names = [str(model) for model in models]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise SettingError(
            f"{twice} is given twice; one run or method is one row, so remove one of them"
        )
    for name in names:
        source = find_model(name, choices)
        for bench in _benchmarks(source, benchmark, places.lists):
            run = source.run
            own = run is not None and bench.same_classes_as(run.benchmark, run.class_names)
            base = bench.inference
            if run is not None and own:
                base = run.inference
            # A run on its own benchmark keeps its own templates as well.
            chosen = source if own else source.on(bench)
            yield Entry(name, chosen, bench, change_inference(base, inference), own)


def _benchmarks(
    source: ModelSource, benchmark: str | Benchmark | None, lists: Path | None
) -> list[Benchmark]:
    """What a model is scored on."""
    if isinstance(benchmark, Benchmark):
        return [benchmark]
    if source.run is not None:
        return [get_benchmark(benchmark or source.run.benchmark, lists)]
    return [get_benchmark(name, lists) for name in folds_of(benchmark or "doodles")]


def _check(
    entry: Entry, places: Places, settings: EvaluationSettings, inference: GivenInference
) -> None:
    """Refuse what would be no result, before anything is built.

    Raises:
        UnseenError: Settings that do not fit the benchmark, segments that are not used, missing
            data, or classes that would not be unseen.
    """
    bench, run = entry.benchmark, entry.source.run
    check_fit(bench, entry.inference, settings)
    if isinstance(inference, Mapping) and entry.inference.refinement == "none":
        named = inference.get("segments_dir") or inference.get("segments_features")
        if named and not settings.oracle:
            raise SettingError(
                "segments are named and not used; add --inference.refinement segment_iou, or remove"
                " --inference.segments_dir and _features"
            )
    bench.check_root(places.root)
    if run is None or bench.episodes is None or entry.regime != "inductive":
        return
    known = [name for name in bench.unseen if name in run.seen]
    if known:
        more = f" and {len(known) - 1} more" if len(known) > 1 else ""
        raise SettingError(
            f"{entry.model} was trained on masks of {known[0]!r}{more} of the classes that"
            f" {bench.name} asks for, so they would not be unseen; evaluate it on {run.benchmark}"
        )


# ---------------------------------------------------------------------- scoring


def _reports(
    entry: Entry,
    title: str,
    segmenter: TextSegmenter,
    places: Places,
    settings: EvaluationSettings,
) -> Iterator[Report]:
    """One report a seed, saved where they belong."""
    bench, run = entry.benchmark, entry.source.run
    candidate = Candidate(
        title,
        segmenter,
        encode(segmenter, bench.class_names),
        entry.inference,
        # On another benchmark every class counts as trained on, so that no score is reduced
        # (the released codes' configurations for other data sets).
        calibrated=run.lowered(bench.class_names) if run and entry.own else None,
        trained_on=None if entry.own else run,
        about=_about(entry.source),
    )
    if settings.choose_threshold:
        candidate = _with_threshold(candidate, bench, places.root, settings)
    folder = _folder(entry, places, settings)
    for seed in settings.seeds:
        report = evaluate(candidate, bench, places.root, replace(settings, seeds=(seed,)))
        if places.save:
            report = report.save(folder if len(settings.seeds) == 1 else folder / f"seed-{seed}")
        yield report


def _about(source: ModelSource) -> dict[str, Any]:
    """What the report says of a model."""
    about: dict[str, Any] = {"model": asdict(source.settings), "train": None}
    about["text_embeddings"] = None
    if source.run is not None:
        about["train"] = source.run.train
        about["text_embeddings"] = source.run.text_embeddings
    if source.text_embeddings is not None:
        about["text_embeddings"] = str(source.text_embeddings)
    return about


def _with_threshold(
    candidate: Candidate, bench: Benchmark, root: Path | None, settings: EvaluationSettings
) -> Candidate:
    """The candidate with the threshold of refinement that is best on seen classes in training."""
    images = settings.choose_threshold
    scores = choose_threshold(candidate, bench, root, images=images, progress=settings.progress)
    # Of equal scores the highest threshold, which changes least.
    best = max(scores, key=lambda threshold: (scores[threshold], threshold))
    tried = {str(threshold): round(score, 4) for threshold, score in scores.items()}
    return replace(
        candidate,
        inference=replace(candidate.inference, refinement_threshold=best),
        about={**candidate.about, "threshold_chosen": {"images": images, "mIoU_seen": tried}},
    )


def _folder(entry: Entry, places: Places, settings: EvaluationSettings) -> Path:
    """Where the report belongs; that of a part of the images lies beside the whole one."""
    if places.out is not None:
        return places.out
    folder = default_folder(entry.model, entry.benchmark.name)
    if entry.source.folder is not None:
        folder = entry.source.folder / f"eval-{entry.benchmark.slug}"
    parts = [folder.name]
    if settings.episodes != "all":
        parts.append(settings.episodes)
    if settings.limit is not None:
        parts.append(f"first-{settings.limit}")
    return folder.with_name("-".join(parts))


def _keep_scores(folder: Path, report: Report) -> None:
    """Write the scores of a whole evaluation into the run's metrics.json."""
    path, scores = folder / SCORES, {}
    if path.exists():
        scores = json.loads(path.read_text(encoding="utf-8"))
    scores[report.benchmark.name] = report.as_dict()["scores"]
    write_text(path, json.dumps(scores, indent=1) + "\n")
