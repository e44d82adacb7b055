"""Recipes: what a method's published or chosen settings for a benchmark are, one YAML file a
method, one section a benchmark.
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
    """What the method's recipe says for a benchmark and regime, as nested dictionaries `model` and
    `train`; empty if it says nothing.
    """
    file = resources.files("unseen") / "recipes" / f"{method}.yaml"
    if not file.is_file():
        return {}
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    base = benchmark.partition("/")[0]  # the folds of a benchmark share their recipe
    if benchmark not in sections and is_own(benchmark):
        base = "own"
    for name in (base, f"{base}/{regime}"):
        found = _merged(found, sections.get(name, {}))
    return found


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
        benchmark: Name of a benchmark, or a folder of own data.
        model: Values of `ModelSettings`; options are added to the recipe's.
        train: Values of `TrainSettings`, those of `transforms` as a mapping.

    Raises:
        SettingError: Values that cannot be trained with.
    """
    known = recipe(method, benchmark, train.get("regime", "inductive"))
    chosen = _merged(known.get("model", {}), model)
    trained = _merged(known.get("train", {}), train)
    transforms = TransformSettings(**_with_tuples(trained.pop("transforms", {})))
    settings = TrainSettings(**_with_tuples(trained), transforms=transforms)
    return ModelSettings(method, **chosen), settings


def settings(method: str, benchmark: str, **train: Any) -> tuple[ModelSettings, TrainSettings]:
    """As `resolve`, with values of `TrainSettings` as keyword arguments."""
    return resolve(method, benchmark, train=train)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Lists of YAML as the tuples that settings hold."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `over` in place of those of `base`, group by group."""
    out = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            value = _merged(out[key], value)
        out[key] = value
    return out
