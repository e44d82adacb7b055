"""The arguments of the public functions: of the kinds that their annotations say."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from unseen.errors import SettingError, UnseenError
from unseen.files import LONGEST_NAME
from unseen.settings.ranges import shown

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The same function; arguments of other kinds than its annotations are refused.

    Raises:
        SettingError: Names the argument, its value and what to give.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def check_and_call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        kinds = _kinds(function)
        # What "**" gathers is checked name by name.
        gathered = [name for name in given if signature.parameters[name].kind is _GATHERS]
        for name in gathered:
            given |= given.pop(name)
        for name, value in given.items():
            if name not in kinds and "**" not in kinds and name not in signature.parameters:
                raise SettingError(
                    f"{function.__name__} has no argument {name!r}; choose among {', '.join(kinds)}"
                )
            check_kind(name, value, kinds.get(name, Any))
            _check_text(name, value)
        return function(*args, **kwargs)

    return check_and_call


def check_kind(name: str, value: Any, kind: Any, error: type[UnseenError] = SettingError) -> None:
    """Refuse a value that is not of an annotated kind.

    Args:
        name: What the value is, for the message.
        value: Anything.
        kind: An annotation, with the names resolved.
        error: What to raise.
    """
    # Not needed for help, and it takes a while to import.
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    try:
        check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        raise error(f"{name} is {shown(value)}; give {_told(kind)}") from None


def _check_text(name: str, value: Any) -> None:
    """Refuse a text or a path that no file could be called, as all of them may be paths."""
    if not isinstance(value, (str, Path)):
        return
    if not str(value).strip():
        raise SettingError(f"{name} is empty; give a value, or leave it out")
    try:
        parts = os.fsencode(value).split(b"/")
    except UnicodeEncodeError:
        parts = [b"\0"]
    if b"\0" in b"".join(parts):
        raise SettingError(f"{name} is {shown(value)}, which no file can be called; correct it")
    if max(map(len, parts)) > LONGEST_NAME or len(parts) > MOST_PARTS:
        raise SettingError(
            f"{name} is {shown(value)}, which is too long for the name of a file; shorten it"
        )


MOST_PARTS = 1000
"""How many folders a path may lead through."""
_GATHERS = inspect.Parameter.VAR_KEYWORD


@cache
def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's arguments; "**" stands for any further ones."""
    kinds = get_type_hints(function)
    kinds.pop("return", None)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not _GATHERS:
            continue
        gathered = kinds.pop(name)
        inner = get_args(gathered)  # Unpack[SomeTypedDict], or a kind for all
        kinds |= get_type_hints(inner[0]) if inner else {"**": gathered}
    return kinds


_TOLD = {
    str: "a text",
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
}


def _told(kind: Any) -> str:
    """A kind as a message says it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        *most, last = dict.fromkeys(map(_told, inner))
        return f"{', '.join(most)} or {last}" if most else last
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a dictionary"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list with {_told(inner[0])} for each entry"
    if kind in _TOLD:
        return _TOLD[kind]
    return f"a {getattr(origin or kind, '__name__', kind)}"
