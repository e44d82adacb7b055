"""Recipes: the published or chosen settings of a method for a benchmark.

Every method has a YAML file with one section for each benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

from unseen.settings import ModelSettings, Regime, TrainSettings, TransformSettings, is_own

NOTHING: Mapping[str, Any] = MappingProxyType({})


def recipe(method: str, benchmark: str, regime: Regime = "inductive") -> dict[str, Any]:
    """The settings of a method's recipe for a benchmark and regime.

    Returns:
        Nested dictionaries `model` and `train`; empty if the recipe has no such section.
    """
    file = resources.files("unseen") / "recipes" / f"{method}.yaml"
    if not file.is_file():
        return {}
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    base = benchmark.partition("/")[0]  # the folds of a benchmark share their recipe
    # The path of a folder has slashes too, but no section.
    if benchmark not in sections and is_own(benchmark):
        base = "own"
    # The section of a regime holds only the differences from that of the benchmark.
    for name in (base, f"{base}/{regime}"):
        values = _merged(values, sections.get(name, {}))
    return values


def resolve(
    method: str,
    benchmark: str,
    *,
    model: Mapping[str, Any] = NOTHING,
    train: Mapping[str, Any] = NOTHING,
) -> tuple[ModelSettings, TrainSettings]:
    """The settings of a training: the defaults, then the recipe, then what is given.

    Args:
        method: Name of a method.
        benchmark: Name of a benchmark, or a folder of your own data.
        model: Values of `ModelSettings`; options are added to the recipe's.
        train: Values of `TrainSettings`, those of `transforms` as a mapping.

    Raises:
        SettingError: Values that cannot be trained with.
    """
    published = recipe(method, benchmark, train.get("regime", "inductive"))
    model_values = _merged(published.get("model", {}), model)
    train_values = _merged(published.get("train", {}), train)
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
