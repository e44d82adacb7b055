"""What training, converting and cutting are about to do, checked before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict, Unpack

from unseen.data.benchmarks import Benchmark, check_flags_used, check_outside, get_benchmark
from unseen.errors import CheckpointError, DataError, SettingError
from unseen.files import SHEET, check_output_folder, check_replaceable
from unseen.image_files import images_in
from unseen.methods import known
from unseen.recipes import Protocol, published
from unseen.runs import (
    BEST,
    CONFIG,
    COST,
    CURVES,
    FORMER_STATE,
    HOLDER,
    LOGS,
    METRICS,
    SCORED,
    STATE,
    TEXT,
    WEIGHTS,
    Run,
    has_state,
    read_config,
    versions,
)
from unseen.settings import LOGGER_EXTRAS, ModelSettings, TrainSettings, change_inference, is_own
from unseen.sources import ModelSource, benchmark_templates, run_folder, settled
from unseen.vocabulary import Vocabulary, change_vocabulary

LAUNCHERS = {"MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE"}
"""Variables by which those who start a process on several machines are known."""


@dataclass(frozen=True)
class TrainingPlan:
    """The arguments of `unseen.train`, their checks, and the run they describe.

    Attributes:
        model: Method, tower and options.
        settings: How to train.
        benchmark: On what.
        root: Where its data are.
        folder: Of the run.
        text_embeddings: A file with the vectors of the classes, in place of the text tower.
        init: Run whose trained weights to start from.
        resume: Whether to go on from the state in the folder.
        class_file: What stands for each class in prompts (`unseen.vocabulary`).
    """

    model: ModelSettings
    settings: TrainSettings
    benchmark: Benchmark
    root: Path | None
    folder: Path
    text_embeddings: Path | None = None
    init: Path | None = None
    resume: bool = False
    class_file: str | None = None

    @property
    def protocol(self) -> Protocol:
        """What the released code does on the benchmark, where the model is to follow it."""
        if not self.model.published:
            return Protocol()
        name, regime = self.benchmark.name, self.settings.regime
        return published(self.model.method, name, regime) or Protocol()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The benchmark's classes with their synonyms."""
        words = change_vocabulary(self.benchmark.vocabulary, self.protocol.vocabulary)
        return change_vocabulary(words, {"class_file": self.class_file})

    @property
    def source(self) -> ModelSource:
        """What to build: the benchmark's templates stand in for an option that is not given."""
        given = settled(self.model.options)
        options = {**benchmark_templates(self.model, self.benchmark), **given}
        return ModelSource(
            replace(self.model, options=options), text_embeddings=self.text_embeddings
        )

    @property
    def is_finished(self) -> bool:
        """Whether the run has been trained."""
        return (self.folder / WEIGHTS).exists()

    @property
    def has_state(self) -> bool:
        """Whether it goes on from the state of a stopped run."""
        return self.resume and has_state(self.folder)

    def check(self) -> None:
        """Refuse what cannot be trained, before a tower is loaded.

        Raises:
            UnseenError: A folder that holds another run, a stage without the one before it, missing
                data, or no class to train on.
        """
        if not known(self.model.method).trainable:
            raise SettingError(
                f"{self.model.method} has nothing to train; evaluate it or segment with it as it is"
            )
        for path, flag in ((self.text_embeddings, "--text-embeddings"), (self.init, "--init")):
            if path is not None and not path.exists():
                raise DataError(f"{path}, given with {flag}, does not exist; check the path")
        # Further processes of a distributed run see what the first one has begun.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _check_folder(self.folder, self.resume, self.settings.snapshots)
        if self.settings.regime == "transductive" and self.init is None and not self.resume:
            raise SettingError(
                "transductive training starts from an inductive run: give it with --init RUN, or"
                " RUN/step-N of a run with --train.snapshots [N]"
            )
        if self.settings.nodes > 1 and not LAUNCHERS & os.environ.keys():
            raise SettingError(
                f"--train.nodes is {self.settings.nodes}, and nothing here says where the other"
                " machines are; start it on each of them with torchrun or srun"
            )
        logger = self.settings.logger
        if logger in LOGGER_EXTRAS and find_spec(logger) is None:
            raise SettingError(
                f"--train.logger {logger} needs the package {logger}; install it with pip install"
                f" 'unseen[{LOGGER_EXTRAS[logger]}]'"
            )
        self.benchmark.check_root(self.root)
        _ = self.vocabulary  # a class file of other classes is refused
        if self.settings.regime != "supervised" and not self.benchmark.seen:
            raise SettingError(
                f"every class of {self.benchmark.title} is marked unseen, so there is none to train"
                " on; mark some as seen"
            )

    def run(self, towers: dict[str, dict[str, str]]) -> Run:
        """What config.yaml will say; on a resume, checked against what it says already.

        Args:
            towers: Source and fingerprint of every frozen tower.

        Raises:
            SettingError: A resume with other settings than those the run was begun with.
        """
        bench, embeddings = self.benchmark, self.text_embeddings
        run = Run(
            model=self.source.settings,
            benchmark=bench.name,
            class_names=bench.class_names,
            seen=bench.class_names if self.settings.regime == "supervised" else bench.seen,
            inference=change_inference(bench.inference, self.protocol.inference),
            train=asdict(self.settings),
            versions=versions(),
            towers=towers,
            text_embeddings=embeddings.name if embeddings else None,
            init=str(self.init) if self.init else None,
            synonyms=self.vocabulary.facts()["synonyms"],
        )
        if not (self.resume and (self.folder / CONFIG).exists()):
            return run
        begun = read_config(self.folder)
        run = replace(run, init=run.init or begun.init)
        different = begun.differs(run)
        if different:
            raise SettingError(
                f"the run in {self.folder} was begun with other settings: {different}; resume it"
                " with the same, or start a new one with another --out"
            )
        return run


class TrainingStart(TypedDict, total=False):
    """What a training starts from besides its settings.

    Attributes:
        text_embeddings: A .npy file (K, D) to use instead of the text tower, one row a class of the
            benchmark; copied into the folder.
        init: Run folder whose trained weights to start from.
        resume: Go on from the state in the run folder.
        class_file: A class a line, in the order of the benchmark, with its synonyms; or the name of
            one that comes with the package. Their text features are averaged.
    """

    text_embeddings: Path | None
    init: Path | None
    resume: bool
    class_file: str | None


def plan_training(
    model: ModelSettings,
    settings: TrainSettings,
    benchmark: str = "doodles",
    out: str | Path | None = None,
    *,
    root: str | Path | None = None,
    lists: Path | None = None,
    **start: Unpack[TrainingStart],
) -> TrainingPlan:
    """The plan of `unseen.train`, which documents the arguments; checked.

    Raises:
        UnseenError: Settings, data or folders that do not fit together.
    """
    known(model.method)
    bench = get_benchmark(benchmark, lists)
    folder = Path(out) if out else run_folder(model.method, bench.name)
    place = Path(root) if root else None
    check_flags_used([bench], place, lists)
    check_outside(bench, folder)
    plan = TrainingPlan(model, settings, bench, place, folder, **start)
    plan.check()
    return plan


def plan_seeds(
    model: ModelSettings,
    settings: TrainSettings,
    seeds: Sequence[int],
    benchmark: str = "doodles",
    out: str | Path | None = None,
    **where: Any,
) -> list[TrainingPlan]:
    """The plans of a run for each seed, in OUT/seed-N; what is finished or begun goes on.

    Args:
        model: As for `plan_training`, as all that follows.
        settings: All but the seed; one device each, as the runs follow each other in one process.
        seeds: The seeds.
        benchmark: What is trained on.
        out: The folder of all of them.
        **where: What else `plan_training` takes.

    Raises:
        UnseenError: As `plan_training`, for the first run that cannot be trained, before any is;
            and for several devices, and a run there that was begun with other settings.
    """
    if settings.nodes > 1 or settings.devices not in ("auto", "1") or settings.strategy == "ddp":
        raise SettingError(
            "--seeds trains one run after the other on one device; for several devices give each"
            " seed a command of its own, with --train.seed"
        )
    folder = Path(out) if out else run_folder(model.method, get_benchmark(benchmark).name)
    plans = []
    for seed in seeds:
        own = replace(settings, seed=seed, devices="1")
        place = folder / f"seed-{seed}"
        resume = has_state(place)
        if not (place / WEIGHTS).exists():
            how = {**where, "resume": resume}
            plans.append(plan_training(model, own, benchmark, place, **how))
            continue
        how = {name: where.get(name) for name in ("text_embeddings", "init", "class_file")}
        bench, root = get_benchmark(benchmark, where.get("lists")), where.get("root")
        done = TrainingPlan(model, own, bench, root, place, **how, resume=True)
        done.run(read_config(place).towers)  # refuses one of other settings
        plans.append(done)
    return plans


def _check_folder(folder: Path, resume: bool, snapshots: Sequence[int]) -> None:
    """Refuse to begin where a run lies, and to go on where one has ended or none was begun."""
    check_output_folder(folder)
    check_run_files(folder, snapshots)
    finished = (folder / WEIGHTS).exists()
    if resume and finished:
        raise SettingError(
            f"the run in {folder} is finished, so there is nothing to resume; remove --resume and"
            " choose another --out to train again"
        )
    if resume and not (folder / CONFIG).exists():
        raise SettingError(
            f"{folder} holds no run to go on with; check --out, or remove --resume to start one"
        )
    if finished:
        raise SettingError(f"{folder} holds a finished run; choose another --out, or remove it")
    if has_state(folder) and not resume:
        raise SettingError(
            f"{folder} holds a run that was stopped; go on with --resume; choose another --out, or"
            " remove it"
        )


def check_run_files(folder: Path, snapshots: Sequence[int] = ()) -> None:
    """Refuse a folder in which a run would write over other files, or through links.

    Raises:
        DataError: Names the first one.
    """
    names = (CONFIG, WEIGHTS, TEXT, METRICS, SCORED, STATE, FORMER_STATE)
    files = [folder / name for name in names]
    for path in (folder / LOGS, (folder / STATE).parent, folder / HOLDER, *files):
        if path.is_symlink():
            raise DataError(f"{path} is a link, which a run would write through; remove it")
    if not (folder / CONFIG).exists():
        foreign = [path for path in (*files, folder / HOLDER) if os.path.lexists(path)]
        if foreign:
            raise DataError(
                f"{foreign[0]} exists, and {folder} is no run folder (no config.yaml in it); move"
                " it away, or choose another place with --out"
            )
    others = [BEST, *(f"step-{n}" for n in snapshots)]
    inside = [folder / other / name for other in others for name in (CONFIG, WEIGHTS)]
    check_replaceable([folder / CONFIG, folder / COST, folder / CURVES, *inside])


def plan_conversion(method: str, file: Path, out: Path, benchmark: str) -> Benchmark:
    """The benchmark that a checkpoint was trained on, if the checkpoint can be converted.

    Raises:
        CheckpointError: There is no such file, or it is a folder.
        SettingError: No such method or benchmark, or a folder that is not empty.
    """
    known(method)
    if not file.exists():
        raise CheckpointError(f"{file} does not exist; check the path")
    check_output_folder(out)
    if out.exists() and any(out.iterdir()):
        raise SettingError(f"{out} exists and is not empty; choose another --out, or remove it")
    return get_benchmark(benchmark)


def plan_extraction(
    source: str, out: Path, root: Path | None, lists: Path | None, split: str | None
) -> Benchmark | list[Path]:
    """What eigenvectors are computed of: a benchmark, or the images of a folder.

    Raises:
        DataError: A file, no such source, missing data, or a folder that the eigenvectors would be
            written into, or that holds a sheet of somebody else's.
        SettingError: No such benchmark.
    """
    path = Path(source)
    check_output_folder(out)
    check_replaceable([out / SHEET])
    if path.is_file():
        raise DataError(f"{source} is a file; give the folder of images it lies in, or a benchmark")
    if not path.is_dir() or is_own(source):
        benchmark = get_benchmark(source, lists)
        check_flags_used([benchmark], root, lists)
        benchmark.check_root(root)
        return benchmark
    for flag, value in (("root", root), ("lists", lists), ("split", split)):
        if value is not None:
            raise SettingError(
                f"--{flag} is for benchmarks, and {source} is a folder of images; remove it"
            )
    files = images_in(path)
    first: dict[str, Path] = {}
    for file in files:
        if first.setdefault(file.stem, file) != file:
            raise DataError(
                f"{first[file.stem]} and {file} would write the same eigenvectors; rename one, or"
                " put them into different folders"
            )
    if out.resolve() == path.resolve():
        raise DataError(
            f"the eigenvectors would be written among the images of {source}; choose another"
            " folder with --out"
        )
    return files
