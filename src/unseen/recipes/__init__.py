"""Recipes: the settings of a method for a benchmark, and what its released code does there.

Every method has a YAML file with one section for each benchmark. Its section `published` says, for
each benchmark that the method was published on, what --published sets beside the method's own
quirks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

from unseen.data.benchmarks import BENCHMARKS
from unseen.errors import SettingError
from unseen.settings import ModelSettings, Regime, TrainSettings, TransformSettings, is_own

RELEASED: Mapping[str, Any] = {"inference": {"precision": "32-true"}}
"""What holds for all protocols, as fields of `Protocol`: no released code computes in bf16."""
FROM = "from "
"""Begins, in place of a regime, the name of the other benchmark that a run was trained on."""
TEST = ("inference", "vocabulary", "evaluation")
"""Fields of `Protocol` that are about the test."""
DRAWN = "doodles"
"""How the names of benchmarks begin that the tower of the package knows."""
PHOTOGRAPHS = "ViT-B-16-quickgelu/openai"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def recipe(method: str, benchmark: str, regime: Regime = "inductive") -> dict[str, Any]:
    """The settings of a method's recipe for a benchmark and regime.

    Returns:
        Nested dictionaries `model` and `train`; empty if the recipe has no such section.
    """
    sections = _sections(method)
    values: dict[str, Any] = {}
    base = _base(benchmark, sections)
    # The section of a regime holds only the differences from that of the benchmark.
    for name in (base, f"{base}/{regime}"):
        values = _merged(values, sections.get(name, {}))
    return values


@lru_cache(maxsize=32)
def _sections(method: str) -> dict[str, Any]:
    """The recipe's file; empty if the method has none."""
    file = resources.files("unseen") / "recipes" / f"{method}.yaml"
    if not file.is_file():
        return {}
    sections: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return sections


def _base(benchmark: str, sections: Mapping[str, Any]) -> str:
    """The name of a benchmark's section."""
    # The path of a folder has slashes too, but no section.
    if benchmark not in sections and is_own(benchmark):
        return "own"
    return benchmark.partition("/")[0]  # the folds of a benchmark share their recipe


# --------------------------------------------------------------------- published


@dataclass(frozen=True)
class Protocol:
    """What the released code of a method does on a benchmark, beside the method's quirks.

    Attributes:
        model: Values of `ModelSettings`.
        train: Values of `TrainSettings`.
        inference: Changes to the benchmark's `InferenceSettings`.
        vocabulary: Changes to its vocabulary (`unseen.vocabulary.change_vocabulary`).
        evaluation: Values of `EvaluationSettings`.
        test_options: Options that the test of a run on another benchmark changes.
        note: What of it was not released, as a sentence for who trains by it.
        cost: What was published of its cost on a square of 512 pixels, as fields of
            `unseen.profiling.Cost`, with the source and what it was measured at.
    """

    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    test_options: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    cost: dict[str, Any] = field(default_factory=dict)


def published_on(method: str) -> tuple[str, ...]:
    """The benchmarks, folds under one name, that a method has a published protocol for."""
    return tuple(name for name in _sections(method).get("published", {}) if "/" not in name)


def published_across(method: str) -> tuple[tuple[str, str], ...]:
    """Benchmarks on which runs on another one were tested, each with that other one."""
    names = (name.partition(f"/{FROM}") for name in _sections(method).get("published", {}))
    return tuple((tested, trained) for tested, across, trained in names if across)


def published(method: str, benchmark: str, regime: str | None = None) -> Protocol | None:
    """The published protocol of a method on a benchmark; None where there is none.

    Args:
        method: Name of a method.
        benchmark: Name of a benchmark.
        regime: How it is trained, where that changes more than the training; or "from NAME"
            with the benchmark that a run was trained on, if that is another.
    """
    sections = _sections(method).get("published", {})
    base = _base(benchmark, sections)
    own, section = sections.get(base), sections.get(f"{base}/{regime}")
    if regime is not None and regime.startswith(FROM):
        if section is None:
            return None
        # The run keeps its model; only the benchmark's test counts.
        own = {name: own[name] for name in TEST if name in own} if own else {}
    if own is None:
        return None
    return Protocol(**_merged(RELEASED, _merged(own, section or {})))


def require_published(method: str, benchmark: str, regime: str | None = None) -> Protocol:
    """The published protocol of a method on a benchmark, as `published`.

    Raises:
        SettingError: There is none; the message names the benchmarks that have one.
    """
    protocol = published(method, benchmark, regime)
    if protocol is not None:
        return protocol
    tested, others = f"for {benchmark}", published_on(method)
    if regime is not None and regime.startswith(FROM):
        tested = f"for runs on {regime.removeprefix(FROM)} tested on {benchmark}"
        others = tuple(f"runs on {x}" for on, x in published_across(method) if on == benchmark)
    remedy = "remove --published"
    if others:
        remedy = f"choose one of {', '.join(others)}, or remove --published"
    raise SettingError(
        f"{method} has no published protocol {tested}, so --published cannot follow one;"
        f" {remedy} and change single choices with --options.NAME (unseen list {method})"
    )


# -------------------------------------------------------------------- resolution


def resolve(
    method: str,
    benchmark: str,
    *,
    model: Mapping[str, Any] = NOTHING,
    train: Mapping[str, Any] = NOTHING,
) -> tuple[ModelSettings, TrainSettings]:
    """The settings of a training: the defaults, then the recipe, then what is given.

    With `published` in `model`, what the released code does comes between recipe and given values.

    Args:
        method: Name of a method.
        benchmark: Name of a benchmark, or a folder of your own data.
        model: Values of `ModelSettings`; options are added to the recipe's.
        train: Values of `TrainSettings`, those of `transforms` as a mapping.

    Raises:
        SettingError: Values that cannot be trained with, no published protocol to follow, or
            photographs without a tower that knows some.
    """
    chosen = recipe(method, benchmark, train.get("regime", "inductive"))
    protocol = Protocol()
    if model.get("published"):
        protocol = require_published(method, benchmark, train.get("regime"))
    shows_photographs = benchmark in BENCHMARKS and not benchmark.startswith(DRAWN)
    if not chosen and not model.get("clip") and shows_photographs:
        raise SettingError(
            f"{method} has no recipe for {benchmark}, so its tower is not known; give one that"
            f" knows photographs (--clip {PHOTOGRAPHS}), and the training with --train.steps and"
            " others"
        )
    chosen = _merged(chosen, {"model": protocol.model, "train": protocol.train})
    model_values = _merged(chosen.get("model", {}), model)
    train_values = _merged(chosen.get("train", {}), train)
    # Transforms are a dataclass of their own inside `TrainSettings`.
    transforms = TransformSettings(**_with_tuples(train_values.pop("transforms", {})))
    settings = TrainSettings(**_with_tuples(train_values), transforms=transforms)
    return ModelSettings(method, **model_values), settings


def settings(method: str, benchmark: str, **train: Any) -> tuple[ModelSettings, TrainSettings]:
    """As `resolve`, with values of `TrainSettings` as keyword arguments."""
    return resolve(method, benchmark, train=train)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Lists of YAML as the tuples that settings hold."""
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return {**values, **lists}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `over` in place of those of `base`, group by group."""
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            value = _merged(out[key], value)
        out[key] = value
    return out
