"""Methods and runs side by side: which benchmarks each is scored on, how, and where reports go.

First every row is planned and checked, then the segmenters are built, one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unseen.building import build, device_named, encode
from unseen.clip_segmenter import TextSegmenter
from unseen.data.benchmarks import Benchmark, check_outside
from unseen.evaluation.entries import Entry, Places
from unseen.evaluation.loop import choose_threshold, evaluate
from unseen.evaluation.protocols import Candidate
from unseen.files import REPORT, SHEET, check_replaceable, write_json
from unseen.image_counts import NAME as COUNTS
from unseen.profiling import own_cost
from unseen.report_page import NAME as PAGE
from unseen.reports import Report
from unseen.runs import HUB, SCORES, read_scores
from unseen.settings import EvaluationSettings
from unseen.sources import ModelSource
from unseen.sources import run_folder as default_folder


def compare(entries: Sequence[Entry], places: Places, *, changed: bool) -> list[Report]:
    """Score every row of a plan (`unseen.evaluation.entries`); writes the reports.

    Args:
        entries: Models on benchmarks.
        places: Where data lie and reports go.
        changed: Whether anything but the scoring differs from what a run or a benchmark says; such
            scores are not kept in the run folder.

    Returns:
        The reports, in the order of models, folds and seeds.

    Raises:
        UnseenError: Weights or data that cannot be read.
    """
    reports: list[Report] = []
    if places.save:
        for entry in entries:
            if entry.run_folder is not None:
                read_scores(entry.run_folder)  # before anything is computed
            for folder in _folders(entry, places).values():
                check_outside(entry.benchmark, folder)
                check_replaceable(folder / name for name in (REPORT, PAGE, SHEET, COUNTS))
    for entry, place, segmenter in _built(entries):
        made = [replace(each, run=place) for each in _reports(entry, segmenter, places)]
        keep = entry.settings.complete and places.save and not changed
        if keep and entry.run_folder is not None:
            _keep_scores(entry.run_folder, made[0])
        reports += made
    return reports


def _built(entries: Sequence[Entry]) -> Iterator[tuple[Entry, str, TextSegmenter]]:
    """Every row with its segmenter, and its folder where several have the same title.

    Rows of one source share the segmenter, as the folds of a method without training do.
    """
    device = device_named(entries[0].settings.device)
    rows = Counter((entry.title, entry.benchmark.name) for entry in entries)
    last, segmenter = None, None
    for entry in entries:
        wanted = entry.built_from, entry.benchmark.class_names
        if segmenter is None or wanted != last:
            last, segmenter = wanted, build(*wanted).to(device)
        several = rows[entry.title, entry.benchmark.name] > 1
        yield entry, str(entry.source.folder or "") if several else "", segmenter


# ---------------------------------------------------------------------- scoring


def _reports(
    entry: Entry,
    segmenter: TextSegmenter,
    places: Places,
) -> Iterator[Report]:
    """One report a seed, saved where they belong."""
    bench, run, settings = entry.benchmark, entry.source.run, entry.settings
    candidate = Candidate(
        entry.title,
        segmenter,
        encode(segmenter, entry.vocabulary),
        entry.inference,
        # On another benchmark every class counts as trained on, so that no score is reduced
        # (the released codes' configurations for other data sets).
        calibrated=run.calibrated_ids(bench.class_names) if run and entry.own else None,
        trained_on=None if entry.own else run,
        about={**_about(entry.built_from), **entry.vocabulary.facts()},
    )
    if settings.choose_threshold:
        candidate = _with_threshold(candidate, bench, places.root, settings)
    # The candidate is the same for all seeds: they draw the episodes, and nothing else.
    cost: dict[str, Any] | None = None
    for seed, folder in _folders(entry, places).items():
        report = evaluate(candidate, bench, places.root, replace(settings, seeds=(seed,)))
        # Afterwards: data that cannot be scored are told at once.
        cost = cost or own_cost(segmenter, candidate.text, candidate.inference, bench)
        report = replace(report, cost=cost)
        yield report.save(folder) if places.save else report


def _about(source: ModelSource) -> dict[str, Any]:
    """What the report says of a model."""
    about: dict[str, Any] = {"model": asdict(source.settings), "train": None, "chosen": None}
    about["text_embeddings"] = None
    if source.run is not None:
        about["train"], about["chosen"] = source.run.train, source.run.chosen
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


def _folders(entry: Entry, places: Places) -> dict[int, Path]:
    """Where the report of each seed belongs."""
    folder, seeds = _folder(entry, places), entry.settings.seeds
    return {seed: folder / f"seed-{seed}" if len(seeds) > 1 else folder for seed in seeds}


def _folder(entry: Entry, places: Places) -> Path:
    """Where the report belongs; that of a part of the images lies beside the whole one."""
    settings = entry.settings
    if places.out is not None:
        return places.out
    name = entry.model.removeprefix(HUB).replace("/", "-") if entry.source.fetched else entry.model
    folder = default_folder(name, entry.benchmark.name)
    if entry.run_folder is not None:
        folder = entry.run_folder / f"eval-{entry.benchmark.slug}"
    parts = [folder.name]
    if settings.episodes != "all":
        parts.append(settings.episodes)
    if settings.limit is not None:
        parts.append(f"first-{settings.limit}")
    return folder.with_name("-".join(parts))


def _keep_scores(folder: Path, report: Report) -> None:
    """Write the scores of a whole evaluation into the run's metrics.json."""
    scores = read_scores(folder)
    scores[report.benchmark.name] = report.as_dict()["scores"]
    write_json(folder / SCORES, scores, ours=True)
