"""The table of methods, written by hand. A new method is one file, one line here, a recipe, a test
and a section of docs/methods.md.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from unseen.backbones.clip import CLIPText
from unseen.errors import SettingError
from unseen.methods.clip_rc import CLIPRC
from unseen.methods.edgeclip import EdgeCLIP
from unseen.methods.esda import ESDA
from unseen.methods.sazs import SAZS
from unseen.methods.training_free import TrainingFree
from unseen.methods.zegclip import ZegCLIP
from unseen.segmenter import TextSegmenter


@dataclass(frozen=True)
class Method:
    """A line of the table: the class, the options that make it this method, and a sentence about
    it.
    """

    cls: type[TextSegmenter]
    summary: str
    options: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "clip": Method(TrainingFree, "CLIP's own patch features, no training", {"mode": "clip"}),
    "maskclip": Method(TrainingFree, "values of the last block, no training", {"mode": "maskclip"}),
    "sclip": Method(
        TrainingFree, "query-query plus key-key attention, no training", {"mode": "sclip"}
    ),
    "clearclip": Method(
        TrainingFree, "query-query attention, no residual, no training", {"mode": "clearclip"}
    ),
    "naclip": Method(
        TrainingFree,
        "key-key attention with a neighbourhood prior, no training",
        {"mode": "naclip"},
    ),
    "zegclip": Method(
        ZegCLIP, "visual prompts and a relationship descriptor; train on seen classes"
    ),
    "clip_rc": Method(
        CLIPRC,
        "ZegCLIP with regions: words ask once a region, queries and patches attend both ways",
    ),
    "esda": Method(
        ESDA, "one word at a time: the word as class token, rank-2 adapters, prior maps"
    ),
    "sazs": Method(
        SAZS,
        "one word at a time: a trained backbone whose pixels meet CLIP's words, with edges as a"
        " guide",
    ),
    "edgeclip": Method(
        EdgeCLIP,
        "one word at a time: prototypes from the word, refined by a ResNet's features in two"
        " rounds; contour loss",
    ),
}


def known(name: str) -> Method:
    """A line of the table.

    Raises:
        SettingError: No such method; the message names the nearest.
    """
    if name not in METHODS:
        raise SettingError(
            f"there is no method called {name!r}{_nearest(name, list(METHODS))}; `unseen list`"
            " shows all"
        )
    return METHODS[name]


def create(name: str, clip: CLIPText, *, published: bool = False, **options: Any) -> TextSegmenter:
    """A segmenter by its name in the table.

    Args:
        name: Key of `METHODS`.
        clip: The tower it stands on.
        published: Start from the released code's choices (`PUBLISHED` of the class) instead of
            ours; `options` still win.
        options: Keyword arguments of the class.

    Raises:
        SettingError: No such method or option; the message names the nearest.
    """
    method = known(name)
    allowed = [
        key
        for key in inspect.signature(method.cls).parameters
        if key not in ("clip", *method.options)
    ]
    for key in options:
        if key not in allowed:
            raise SettingError(
                f"{name} has no option {key!r}{_nearest(key, allowed)}; it has {', '.join(allowed)}"
            )
    kinds = get_type_hints(method.cls.__init__)
    for key, value in options.items():
        _check(name, key, value, kinds[key])
    released = method.cls.PUBLISHED if published else {}
    return method.cls(clip, **{**method.options, **released, **options})


def _check(method: str, key: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not of the option's type: a misspelt word would otherwise train
    something else in silence.
    """
    if get_origin(kind) in (Union, UnionType):
        allowed = [part for part in get_args(kind) if part is not type(None)]
        if value is None and len(allowed) < len(get_args(kind)):
            return
        kind = allowed[0]
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        length = None if parts[-1] is Ellipsis else len(parts)
        if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
            raise SettingError(
                f"{method}'s option {key} is {value!r}; give a"
                f" list{f' of {length}' if length else ''}, such as [2,3]"
            )
        for part in value:
            right = isinstance(
                part, (int, float) if parts[0] is float else parts[0]
            ) and not isinstance(part, bool)
            if not right:
                raise SettingError(
                    f"{method}'s option {key} is {value!r}; its parts must be of type"
                    f" {parts[0].__name__}"
                )
    elif get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise SettingError(
                f"{method}'s option {key} is {value!r}; choose one of"
                f" {', '.join(map(repr, get_args(kind)))}"
            )
    elif kind in (int, float, bool, str):
        right = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool or not isinstance(value, bool)
        )
        if not right:
            raise SettingError(
                f"{method}'s option {key} is {value!r}; give a value of type {kind.__name__}"
            )
        if kind is int and value < 1:
            raise SettingError(f"{method}'s option {key} is {value}; give at least 1")
        if "dropout" in key and not 0 <= value < 1:
            raise SettingError(f"{method}'s option {key} is {value}; give a probability below 1")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
