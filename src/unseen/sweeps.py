"""A grid of trainings: every combination of some settings, each with the same seeds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unseen.arguments import check_kind
from unseen.data.benchmarks import Benchmark
from unseen.errors import DataError, SettingError
from unseen.files import REPORT
from unseen.recipes import resolve
from unseen.runs import WEIGHTS
from unseen.settings import ModelSettings, TrainSettings
from unseen.texts import read_yaml

GROUPS = ("train", "options")
"""Of the settings that a sweep may change: those of the training and those of the method."""


@dataclass(frozen=True)
class Sweep:
    """What a file of a sweep says.

    Attributes:
        method: A trainable method.
        benchmark: What is trained on.
        grid: Settings such as "train.lr" with the values that are tried.
        set: Settings that all runs have.
        seeds: Of the runs of every combination.
        clip: Tower, if it is not the recipe's.
        published: Follow the released code where nothing else is said.
    """

    method: str
    benchmark: str
    grid: dict[str, list[Any]]
    set: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    clip: str | None = None
    published: bool = False

    def combinations(self) -> Iterator[tuple[str, ModelSettings, TrainSettings]]:
        """Every combination, with a name for its folder.

        Raises:
            SettingError: Values that cannot be trained with.
        """
        for values in itertools.product(*self.grid.values()):
            tried = dict(zip(self.grid, values, strict=True))
            groups = _in_groups({**self.set, **tried})
            model = {"options": groups["options"], "published": self.published}
            if self.clip is not None:
                model["clip"] = self.clip
            chosen = resolve(self.method, self.benchmark, model=model, train=groups["train"])
            yield folder_name(tried), *chosen


def read_sweep(path: Path) -> Sweep:
    """A sweep from a YAML file.

    Raises:
        DataError: It cannot be read, or says something else.
        SettingError: A setting that a sweep does not have, or that stands in it twice.
    """
    told = read_yaml(path)
    if not isinstance(told, dict) or not {"method", "benchmark", "grid"} <= told.keys():
        raise DataError(f"{path} is no sweep: it needs method, benchmark and grid")
    known = Sweep.__dataclass_fields__
    strange = next((name for name in told if name not in known), None)
    if strange is not None:
        raise DataError(f"{path} says {strange!r}, which no sweep has; it has {', '.join(known)}")
    for name, kind in (("grid", dict), ("set", dict), ("method", str), ("benchmark", str)):
        check_kind(f"{name} in {path}", told.get(name, kind()), kind, DataError)
    check_kind(f"seeds in {path}", told.get("seeds", [0]), list[int], DataError)
    check_kind(f"clip in {path}", told.get("clip"), str | None, DataError)
    check_kind(f"published in {path}", told.get("published", False), bool, DataError)
    sweep = Sweep(**{**told, "grid": _numbers(told["grid"]), "set": _numbers(told.get("set", {}))})
    _check_names(sweep, path)
    _check_grid(sweep, path)
    return sweep


def _check_names(sweep: Sweep, path: Path) -> None:
    """Refuse settings of other groups, and those that are said twice.

    Raises:
        SettingError: Names the first.
    """
    for name in (*sweep.grid, *sweep.set):
        group, _, rest = str(name).partition(".")
        if group not in GROUPS or not rest:
            raise SettingError(f"{path} sets {name!r}; give train.NAME or options.NAME")
        if name == "train.seed":
            raise SettingError(f"{path} sets train.seed; list the seeds under seeds")
    both = next((name for name in sweep.grid if name in sweep.set), None)
    if both is not None:
        raise SettingError(f"{path} says {both} under grid and under set; remove one of them")
    names = [*map(str, sweep.grid), *map(str, sweep.set)]
    for name in names:
        inside = next((other for other in names if other.startswith(f"{name}.")), None)
        if inside is not None:
            raise SettingError(f"{path} says {name} and {inside}, a part of it; remove one of them")


def _check_grid(sweep: Sweep, path: Path) -> None:
    """Refuse a grid without values, and values or seeds that stand in it twice.

    Raises:
        SettingError: Names the first.
    """
    for name, values in sweep.grid.items():
        if not isinstance(values, list) or not values:
            raise SettingError(f"{path}: {name} in the grid is {values!r}; give a list of values")
        names = {folder_name({name: value}) for value in values}
        if len(names) < len(values) or _has_equal(values):
            raise SettingError(f"{path}: {name} in the grid has a value twice; give it once")
    if not sweep.grid or not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
        raise SettingError(f"{path} needs a grid, and seeds that are all different")


def _has_equal(values: list[Any]) -> bool:
    """Whether two values are the same; 1 and true are not."""
    pairs = itertools.combinations([(isinstance(value, bool), value) for value in values], 2)
    return any(one == other for one, other in pairs)


def _in_groups(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings such as "train.transforms.crop" as mappings of mappings."""
    groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
    for name, value in values.items():
        place = groups
        *above, last = name.split(".")
        for part in above:
            place = place.setdefault(part, {})
        place[last] = copy.deepcopy(value)
    return groups


def _numbers(settings: Any) -> Any:
    """Settings with numbers where YAML read texts."""
    if isinstance(settings, dict):
        return {name: _numbers(value) for name, value in settings.items()}
    return list(map(_number, settings)) if isinstance(settings, list) else _number(settings)


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for a text, where people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def folder_name(tried: Mapping[str, Any]) -> str:
    """A name of a combination: its settings by their last names, as far as those differ."""
    lasts = [name.rpartition(".")[2] for name in tried]
    names = lasts if len(set(lasts)) == len(lasts) else list(tried)
    words = (f"{name}={value}" for name, value in zip(names, tried.values(), strict=True))
    return ",".join(words).replace("/", "_").replace(" ", "")


def report_of(run: Path, benchmark: Benchmark) -> Path:
    """Where the report of a whole evaluation lies."""
    return run / f"eval-{benchmark.slug}" / REPORT


def is_scored(run: Path, benchmark: Benchmark) -> bool:
    """Whether a run has a whole report that was written after its weights."""
    report = report_of(run, benchmark)
    trained = (run / WEIGHTS).stat().st_mtime_ns
    return report.exists() and report.stat().st_mtime_ns > trained
