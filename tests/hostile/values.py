"""Values that nobody should have to give, in every field of the settings and every option."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from hostile.judge import Case
from tiny import tiny_clip
from unseen.checkpoints import load_run
from unseen.methods import METHODS, create
from unseen.settings import (
    EvaluationSettings,
    ExtractionSettings,
    InferenceSettings,
    ModelSettings,
    SpectralSettings,
    TrainSettings,
    TransformSettings,
    flat,
)

SETTINGS = (
    TrainSettings,
    TransformSettings,
    InferenceSettings,
    EvaluationSettings,
    SpectralSettings,
    ExtractionSettings,
    ModelSettings,
)
NONSENSE: tuple[Any, ...] = (
    -1,
    -0.5,
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    10**20,
    -(10**20),
    "x\0y",
    "line\nline",
    (-1,),
    (math.nan, math.nan),
    (2, 1, 0, -1),
    [[]],
    [None],
    {1: 2},
    {"a": {"b": []}},
    object(),
    b"bytes",
    print,
    Path("nowhere/at/all"),
    1 + 2j,
    range(3),
)
"""Right in no field at all."""
ODD: tuple[Any, ...] = (
    0,
    1,
    2,
    True,
    False,
    None,
    "",
    "x",
    "auto",
    0.5,
    (),
    [],
    {},
    (1, 2),
    1e-9,
    3.0,
)
"""Right in some field: there they have to be of its kind."""


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind; lists stand for tuples, whole numbers for floats."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner and isinstance(value, str)
    if origin is tuple:
        kinds = inner if inner[-1] is not Ellipsis else (inner[0],) * len(value or ())
        sequence = isinstance(value, (tuple, list)) and len(value) == len(kinds)
        return sequence and all(map(_fits, value, kinds))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (Any, object):
        return True
    return isinstance(value, origin or kind)


def _check_kind(name: str, value: Any, kind: Any, made: Any) -> str | None:
    """What is wrong about a value that was accepted."""
    if any(value is one for one in NONSENSE):
        return f"accepted {name} = {value!r}"
    return None if _fits(value, kind) else f"accepted {name} = {value!r}, which is no {kind}"


def settings_cases() -> Iterator[Case]:
    """Every field of every dataclass of settings, so a new one is tried without a further line."""
    for cls in SETTINGS:
        hints = get_type_hints(cls)
        for entry in fields(cls):
            for value in (*NONSENSE, *ODD):
                if entry.name == "options" and isinstance(value, dict):
                    continue  # whose names and values are the methods' matter
                yield Case(
                    f"{cls.__name__}.{entry.name} = {value!r:.40}",
                    partial(cls, **{entry.name: value}),
                    may_work=True,
                    about=(entry.name, entry.name.replace("_", "-")),
                    check=partial(_check_kind, entry.name, value, hints[entry.name]),
                )


FEW: tuple[Any, ...] = (*NONSENSE, 0, None, "x", True, 1, 2.5, 999)
"""Those tried where a network is built for each."""
SIGNED = ("calibration", "edge_logit")
"""Options that may be below 0."""


def option_cases() -> Iterator[Case]:
    """Every option of every method."""
    towers: dict[str, Any] = {}

    for name, method in METHODS.items():
        signature = inspect.signature(method.cls.__init__)
        for option, parameter in signature.parameters.items():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                continue
            for value in FEW:
                options = {**method.cls.TINY, option: value}
                yield Case(
                    f"{name} --options.{option} {value!r:.40}",
                    partial(_create, name, towers, options),
                    # What the method computes with an odd value is the contract tests' matter.
                    may_work=not any(value is one for one in NONSENSE)
                    or (option in SIGNED and value in (-1, -0.5)),
                    about=(option,),
                )


def _create(name: str, towers: dict[str, Any], options: dict[str, Any]) -> Any:
    if name not in towers:
        towers[name] = tiny_clip()
    return create(name, towers[name], **options)


def config_cases(run: Path, work: Path) -> Iterator[Case]:
    """Every line of a run's config.yaml with other values, or without it."""
    folder = work / "edited"
    folder.mkdir()
    for path in run.iterdir():
        if path.is_file() and path.name != "config.yaml":
            (folder / path.name).hardlink_to(path)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    values = (*EDITS, DELETED)
    for name in _edited_names(stored):
        for value in values:
            content = yaml.safe_load((run / "config.yaml").read_text())
            _set(content, name.split("."), value)

            def act(content: Any = content) -> Any:
                (folder / "config.yaml").write_text(yaml.safe_dump(content))
                return load_run(folder)

            yield Case(f"config {name} = {value!r:.40}", act, may_work=True)


DELETED = "(deleted)"
EDITS: tuple[Any, ...] = (None, -1, 3, "x", [], {}, [[1]], 10**20, {"a": 1})


def _edited_names(stored: dict[str, Any]) -> list[str]:
    """Dotted names of all values and of their groups, except the training's, which nobody reads."""
    groups = [name for name, value in stored.items() if isinstance(value, dict)]
    return [name for name in (*groups, *flat(stored)) if not name.startswith("train.")]


def _set(content: dict[str, Any], keys: list[str], value: Any) -> None:
    *outer, last = keys
    for key in outer:
        content = content[key]
    if value == DELETED:
        content.pop(last, None)
    else:
        content[last] = value
