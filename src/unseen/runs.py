"""Run folders: what was trained, how, and the trained weights.

They are readable by eye, and loadable without running anything that lies in them.

RUN/config.yaml          resolved settings, vocabulary, versions
RUN/weights.safetensors  the trained part; the frozen tower comes from its own source
RUN/clip.safetensors     the frozen tower, in runs converted from a checkpoint that brings its own
RUN/text_embeddings.npy  the text features, where they did not come from the text tower
RUN/metrics.json         what evaluations of this run measured last, by benchmark
RUN/logs/, RUN/state/    curves; what `--resume` needs
RUN/curves.png           the curves as a picture
RUN/cost.json            parameters, multiply-adds, time and memory of a label map
RUN/best/                a run folder of the best step, with `--train.validate_every`
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from unseen.arguments import check_kind
from unseen.errors import CheckpointError, DataError, VocabularyError
from unseen.files import about, write_text
from unseen.settings import (
    InferenceSettings,
    ModelSettings,
    Regime,
    TrainSettings,
    flat,
    update_legacy,
)
from unseen.texts import read_json, read_yaml
from unseen.vocabulary import Vocabulary

FORMAT = 4
"""Version of the folder's layout. 1 was written by version 0.1; 2 had other defaults of options;
until 3 inference was in float32."""
WEIGHTS, CONFIG = "weights.safetensors", "config.yaml"
STATE, FORMER_STATE = "state/last.ckpt", "state/previous.ckpt"
SCORES, LOGS, METRICS = "metrics.json", "logs", "logs/metrics.csv"
SCORED = "logs/validation.csv"
BEST, CURVES, COST = "best", "curves.png", "cost.json"
LOCK, HOLDER = "state/lock", "state/running.txt"
"""What is locked while a run is trained, and who has locked it."""
HUB = "hf://"
"""How the address of a run on the Hugging Face hub begins."""
TEXT, TOWER = "text_embeddings.npy", "clip.safetensors"
HARMLESS = {
    "inference.precision",
    *(
        f"train.{name}"
        for name in [
            "workers",
            "save_every",
            "save_minutes",
            "snapshots",
            "validate_every",
            "validate_images",
            "log_every",
            "logger",
            "devices",
            "nodes",
            "strategy",
            "accumulate",
            "recompute",
        ]
    ),
}
"""Settings that a resumed run may change."""


@dataclass(frozen=True)
class Run:
    """What `config.yaml` says.

    Attributes:
        model: Method, tower and options.
        benchmark: What it was trained on.
        class_names: Its classes.
        seen: Those whose masks were trained on.
        inference: Size and windows to predict with.
        train: The training settings, as a dictionary.
        versions: Of the packages that made it.
        towers: Source and fingerprint of every frozen tower, by name.
        text_embeddings: The name of the file its text features came from, if not from the text
            tower; a copy lies in the folder.
        init: The run folder its first weights came from.
        synonyms: What stands for a class in prompts, where it is not its name alone.
        chosen: Of a step that is kept as the best, how it was chosen: step, score, its value, and
            on how many images of the validation set.
    """

    model: ModelSettings
    benchmark: str
    class_names: tuple[str, ...]
    seen: tuple[str, ...]
    inference: InferenceSettings
    train: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    towers: dict[str, dict[str, str]] = field(default_factory=dict)
    text_embeddings: str | None = None
    init: str | None = None
    synonyms: dict[str, list[str]] = field(default_factory=dict)
    chosen: dict[str, Any] | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes it was trained on, with their synonyms."""
        return Vocabulary(
            self.class_names, {name: tuple(words) for name, words in self.synonyms.items()}
        )

    def calibrated_ids(self, names: Sequence[str]) -> list[int] | None:
        """Indices of the classes whose scores the method reduces (calibrated stacking).

        They are the classes trained on, in inductive runs; None where no class has that advantage.

        Args:
            names: The classes to predict.
        """
        if self.train.get("regime") != "inductive":
            return None
        return [i for i, name in enumerate(names) if name in self.seen]

    def differs(self, other: Run) -> str | None:
        """The first setting that decides the weights and differs between two runs.

        None if they agree; else a phrase with both values.
        """
        mine, theirs = (flat({**_plain(asdict(run)), "versions": {}}) for run in (self, other))
        for name in sorted(mine.keys() | theirs.keys()):
            if name not in HARMLESS and mine.get(name) != theirs.get(name):
                return f"{name} is {mine.get(name)!r} there and {theirs.get(name)!r} here"
        return None


def has_state(folder: Path) -> bool:
    """Whether a run can go on from a state."""
    return any((folder / name).exists() for name in (STATE, FORMER_STATE))


def versions() -> dict[str, str]:
    """Of Python and the packages that decide numbers."""
    return {
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in ("unseen", "torch", "torchvision", "open_clip_torch", "lightning")
        },
    }


def save_config(folder: Path, run: Run) -> None:
    """Write `config.yaml`: at the start of a training, so that `--resume` can compare."""
    config = {"format": FORMAT, **asdict(run)}
    text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    write_text(folder / CONFIG, f"# {about()}\n{text}")


def read_config(folder: Path) -> Run:
    """What the folder's `config.yaml` says.

    Raises:
        CheckpointError: Not a run folder, or one of another version.
    """
    path = folder / CONFIG
    if not path.exists():
        raise CheckpointError(
            f"{folder} is not a run folder (no config.yaml in it); give the --out folder of `unseen"
            " train`"
        )
    try:
        stored = read_yaml(path)
    except DataError as error:
        raise CheckpointError(f"{error}, or train again") from error
    layout = stored.get("format") if isinstance(stored, dict) else None
    if type(layout) is not int or layout not in range(1, FORMAT + 1):
        raise CheckpointError(
            f"{folder} has the layout version {layout}, this unseen reads versions 1 to {FORMAT};"
            " use the unseen that wrote it, or train again"
        )
    try:
        if layout == 1:
            stored = _from_format_1(stored)
        if layout < FORMAT:
            stored["inference"].setdefault("precision", "32-true")
        if layout < 3:
            stored["model"]["options"] = _former_defaults(stored["model"])
            stored["train"] = _with_new_settings(stored["train"])
        else:
            _check_complete(stored["inference"], InferenceSettings)
        model = ModelSettings(**stored.pop("model"))
        inference = InferenceSettings(**stored.pop("inference"))
        for name in ("class_names", "seen"):
            check_kind(f"{name} in {path}", stored[name], list[str], CheckpointError)
        names, seen = tuple(stored.pop("class_names")), tuple(stored.pop("seen"))
        del stored["format"]
        run = Run(model=model, inference=inference, class_names=names, seen=seen, **stored)
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not complete ({error}); restore it or train again"
        ) from error
    for name, kind in get_type_hints(Run).items():
        check_kind(f"{name} in {path}", getattr(run, name), kind, CheckpointError)
    _check_classes(run, path)
    return run


def _check_classes(run: Run, path: Path) -> None:
    """Refuse classes that nothing can be asked for, and a regime that nothing is trained in."""
    try:
        _ = run.vocabulary
    except VocabularyError as error:
        raise CheckpointError(f"{path}: {error}") from error
    stray = next((name for name in run.seen if name not in run.class_names), None)
    if stray is not None:
        raise CheckpointError(
            f"{path} says that {stray!r} was seen, which is none of its classes; restore it or"
            " train again"
        )
    check_kind(f"train.regime in {path}", run.train.get("regime"), Regime | None, CheckpointError)


def _check_complete(stored: Mapping[str, Any], settings: type[Any]) -> None:
    """Raise a KeyError for a setting that is not stored: its default is not what was used."""
    for entry in fields(settings):
        if entry.name not in stored:
            raise KeyError(entry.name)


def _from_format_1(stored: dict[str, Any]) -> dict[str, Any]:
    """What a config.yaml of version 0.1 says, in today's names."""
    stored = update_legacy(stored)
    stored["model"]["options"] = update_legacy(stored["model"]["options"], "options.")
    stored["class_names"] = stored.pop("vocabulary")
    fingerprint = stored.pop("tower")
    stored["towers"] = {}
    if fingerprint != "none":  # text embeddings in place of a tower
        stored["towers"]["clip"] = {"fingerprint_0_1": fingerprint}
    return stored


def _former_defaults(model: dict[str, Any]) -> dict[str, Any]:
    """The options of a run of an earlier layout, with the defaults that were others then."""
    former = FORMER_DEFAULTS.get(model["method"], {})
    return {**former, **model["options"]}


def _with_new_settings(train: dict[str, Any]) -> dict[str, Any]:
    """The training settings of an earlier layout, with those it had not at what they were then."""
    if "steps" not in train:  # a converted checkpoint
        return train
    new = asdict(TrainSettings())
    transforms = {**new["transforms"], **train.get("transforms", {})}
    return {**new, **train, "transforms": transforms}


FORMER_DEFAULTS: dict[str, dict[str, Any]] = {
    "zegclip": {"start": "released"},
    "clip_rc": {"start": "released"},
}
"""By method, defaults of options that have changed since layout 2."""


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def read_scores(folder: Path) -> dict[str, Any]:
    """What the run's metrics.json says so far.

    Raises:
        DataError: It is another file.
    """
    path = folder / SCORES
    if not path.exists():
        return {}
    scores = read_json(path)
    if not isinstance(scores, dict):
        raise DataError(f"{path} holds no scores of a run; remove it")
    return {name: value for name, value in scores.items() if name != "about"}
