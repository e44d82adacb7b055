"""What an evaluation is about to do: which models on which benchmarks, and how.

Every row is checked here before anything is built, and before torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from unseen.data.benchmarks import Benchmark, check_flags_used, folds_of, get_benchmark
from unseen.errors import SettingError
from unseen.methods.options import nearest
from unseen.recipes import FROM, Protocol, require_published
from unseen.runs import Run
from unseen.settings import (
    EvaluationSettings,
    InferenceSettings,
    change_inference,
    check_segments_used,
)
from unseen.sources import ModelChoices, ModelSource, find_model
from unseen.vocabulary import GivenVocabulary, Vocabulary, change_vocabulary, check_combine_used

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
        source: What was given.
        benchmark: What to score it on.
        inference: Size, windows and refinement.
        vocabulary: The benchmark's classes and how they are put into words.
        settings: How to score.
        own: Whether the model is a run that was trained on the same classes.
    """

    model: str
    source: ModelSource
    benchmark: Benchmark
    inference: InferenceSettings
    vocabulary: Vocabulary
    settings: EvaluationSettings
    own: bool

    @property
    def regime(self) -> str | None:
        """How the run was trained; None for methods without training."""
        run = self.source.run
        return None if run is None else run.train.get("regime")

    @property
    def run_folder(self) -> Path | None:
        """The run's folder, where its scores are kept; None where nothing is to be written."""
        return None if self.source.fetched else self.source.folder

    @property
    def built_from(self) -> ModelSource:
        """The source with the benchmark's templates; imports the method.

        A run on its own benchmark keeps its own.
        """
        if self.own:
            return self.source
        return self.source.on(self.benchmark)

    @property
    def title(self) -> str:
        """The model's name in tables.

        It has behind it how the run was trained, if it has seen more than the masks of seen
        classes.
        """
        run = self.source.run
        if run is None:
            return self.model
        if self.regime in ("supervised", "transductive"):
            return f"{run.model.method} ({self.regime})"
        return run.model.method


@dataclass(frozen=True)
class Changes:
    """What a user wants otherwise than a run, a benchmark or a published protocol has it.

    Attributes:
        inference: Single fields, or whole settings.
        vocabulary: How the classes are put into words (`unseen.vocabulary.change_vocabulary`).
        settings: How to score: single fields, or whole settings; a published protocol fills in what
            is not given, of whole settings what has its default.
        choices: What models are built with.
    """

    inference: GivenInference = None
    vocabulary: GivenVocabulary = None
    settings: EvaluationSettings | Mapping[str, Any] | None = None
    choices: ModelChoices = field(default_factory=ModelChoices)

    @property
    def any(self) -> bool:
        """Whether anything but `settings` differs."""
        given = (self.choices.get("options"), self.choices.get("text_embeddings"))
        return any((self.inference, self.vocabulary, *given))

    def scoring(self, protocol: Protocol) -> EvaluationSettings:
        """How to score, by the protocol where nothing is given."""
        given = self.settings or {}
        if isinstance(given, EvaluationSettings):
            given = given.changed
        known = {entry.name for entry in fields(EvaluationSettings)}
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            raise SettingError(
                f"there is no evaluation setting {unknown!r}{nearest(unknown, known)}; choose among"
                f" {', '.join(sorted(known))}"
            )
        published = _with_tuples(protocol.evaluation)
        if "episodes" in given:  # the protocol's seeds belong to its own way of drawing
            published.pop("seeds", None)
        return EvaluationSettings(**{**published, **given})


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def plan_entries(
    models: Sequence[str | Path],
    benchmark: str | Benchmark | None,
    places: Places,
    changes: Changes,
) -> list[Entry]:
    """The rows of the tables, in order: models on a benchmark, or each run on its own.

    Raises:
        UnseenError: Models, data or settings that do not fit together.
    """
    _check_words(changes)
    entries = list(_entries(models, benchmark, places, changes))
    if places.out is not None and len(entries) > 1:
        raise SettingError(
            "--out is one folder, but there are several reports to write; remove it, or evaluate"
            " one at a time"
        )
    check_flags_used([entry.benchmark for entry in entries], places.root, places.lists)
    for entry in entries:
        words = bool(entry.vocabulary.background)
        entry.benchmark.check_settings(entry.inference, entry.settings, words=words)
        check_combine_used(entry.vocabulary, changes.vocabulary)
        if not entry.settings.oracle:
            check_segments_used(entry.inference, changes.inference)
        entry.benchmark.check_root(places.root)
        _check_unseen(entry)
    return entries


def _check_words(changes: Changes) -> None:
    """Refuse words for classes whose vectors come from a file."""
    given = changes.vocabulary
    if not changes.choices.get("text_embeddings") or not isinstance(given, Mapping):
        return
    if given.get("class_file") or given.get("background_words"):
        raise SettingError(
            "--text-embeddings holds the vectors of the classes, so other words for them would not"
            " be read; remove --class-file and --background-words, or the embeddings"
        )


def _entries(
    models: Sequence[str | Path],
    benchmark: str | Benchmark | None,
    places: Places,
    changes: Changes,
) -> Iterator[Entry]:
    names = [str(model) for model in models]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise SettingError(
            f"{twice} is given twice; one run or method is one row, so remove one of them"
        )
    for name in names:
        source = find_model(name, changes.choices)
        for bench in _benchmarks(source, benchmark, places.lists):
            yield _entry(name, source, bench, changes)


def _entry(name: str, source: ModelSource, bench: Benchmark, changes: Changes) -> Entry:
    """One row: what the run or the benchmark says, then the published protocol, then changes."""
    run = source.run
    # On its own benchmark a run is scored as it was trained: same size, words and templates.
    own = run is not None and bench.same_classes_as(run.benchmark, run.class_names)
    base, vocabulary = bench.inference, bench.vocabulary
    if run is not None and own:
        base, vocabulary = run.inference, run.vocabulary
    protocol = Protocol()
    if changes.choices.get("published"):
        protocol = require_published(source.settings.method, bench.name, _trained(run, own))
        source = source.by(protocol)
    for mapping in (protocol.inference, changes.inference):
        base = change_inference(base, mapping)
    for words in (protocol.vocabulary, changes.vocabulary):
        vocabulary = change_vocabulary(vocabulary, words)
    return Entry(name, source, bench, base, vocabulary, changes.scoring(protocol), own)


def _trained(run: Run | None, own: bool) -> str | None:
    """How a run was trained, as `unseen.recipes.published` wants it."""
    if run is None:
        return None
    return run.train.get("regime") if own else f"{FROM}{run.benchmark}"


def _benchmarks(
    source: ModelSource, benchmark: str | Benchmark | None, lists: Path | None
) -> list[Benchmark]:
    """What a model is scored on."""
    if isinstance(benchmark, Benchmark):
        return [benchmark]
    if source.run is not None:
        return [get_benchmark(benchmark or source.run.benchmark, lists)]
    return [get_benchmark(name, lists) for name in folds_of(benchmark or "doodles")]


def _check_unseen(entry: Entry) -> None:
    """Refuse folds whose classes an inductive run was trained on, which would be no result.

    Runs of another regime may be scored: their titles say what they have seen.
    """
    bench, run = entry.benchmark, entry.source.run
    if run is None or bench.episodes is None or entry.regime != "inductive":
        return
    known = [name for name in bench.unseen if name in run.seen]
    if known:
        more = f" and {len(known) - 1} more" if len(known) > 1 else ""
        raise SettingError(
            f"{entry.model} was trained on masks of {known[0]!r}{more} of the unseen classes of"
            f" {bench.name}, so they would not be unseen; evaluate it on {run.benchmark}"
        )
