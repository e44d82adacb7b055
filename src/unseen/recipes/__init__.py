"""Recipes: what a method's published or chosen settings for a benchmark are, one YAML file a
method, one section a benchmark.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from unseen.settings import ModelSettings, Regime, TrainSettings, TransformSettings, is_own


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


def settings(method: str, benchmark: str, **train: Any) -> tuple[ModelSettings, TrainSettings]:
    """The defaults, then the recipe, then the given values of `TrainSettings`: as `unseen train`
    resolves them.
    """
    found = recipe(method, benchmark, train.get("regime", "inductive"))
    stages = dict(found.get("train", {}))
    transforms = TransformSettings(**stages.pop("transforms", {}))
    return ModelSettings(method, **found.get("model", {})), TrainSettings(
        **{**stages, "transforms": transforms, **train}
    )


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        out[key] = (
            _merged(out[key], value)
            if isinstance(value, dict) and isinstance(out.get(key), dict)
            else value
        )
    return out
