"""Flags made from settings: the fields of a dataclass, documented by its docstring.

A group of flags parses to the values that were given and not to a whole dataclass: what is not
given follows from a recipe, a run folder or a benchmark, which are known only after parsing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypedDict,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml
from cyclopts import Group, Parameter, Token

from unseen.methods.options import Option, argument_docs
from unseen.settings import ModelSettings
from unseen.vocabulary import Combine

if TYPE_CHECKING:
    from unseen.sources import ModelChoices

Given = Mapping[str, Any]
"""Values by name, groups as mappings."""
NOTHING: Given = MappingProxyType({})
FLAT = Parameter(name="*")
"""For a dataclass whose fields are flags without its name in front."""


def read_value(text: str) -> Any:
    """A value whose type is not known: a number, a list, true, false, null, or else the text."""
    if not text:  # YAML takes nothing for null
        return text
    for read in (json.loads, yaml.safe_load):  # JSON first, as YAML takes 1e-3 for text
        try:
            return read(text)
        except (ValueError, yaml.YAMLError):
            continue
    return text


def write_value(value: Any) -> str:
    """A value as the command line takes it: text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), default=str)


def _read_any(_: Any, tokens: Sequence[Token]) -> Any:
    """`read_value` as a converter of cyclopts."""
    return read_value(tokens[0].value)


Options = dict[str, Annotated[Any, Parameter(converter=_read_any)]]
"""Options of a method by name; their types are the method's."""


@dataclass(frozen=True)
class DataFlags:
    """Where data are.

    Attributes:
        root: Folder of the benchmark's data.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
    """

    root: Path | None = None
    lists: Path | None = None

    def __str__(self) -> str:
        """The same flags again, with a space in front, for the next command."""
        given = {"root": self.root, "lists": self.lists}
        return "".join(f" --{name} {path}" for name, path in given.items() if path)


@dataclass(frozen=True)
class ModelFlags:
    """What a method is built with.

    Attributes:
        clip: Tower: "doodles" (the default where no recipe says another), ARCHITECTURE/TAG of
            open_clip such as ViT-B-16-quickgelu/openai, or a weight file; a run has its own.
        published: Follow the released code instead of our choices: options of the method and, on a
            benchmark it was published on, training, test size, templates, words and metrics.
        options: Options of the method, --options.NAME VALUE; `unseen list METHOD` shows them.
    """

    clip: str | None = None
    published: bool = False
    options: Options | None = None

    def given(self) -> ModelChoices:
        """What was given, by name."""
        given = {name: value for name, value in vars(self).items() if value not in (None, False)}
        return cast("ModelChoices", given)


@dataclass(frozen=True)
class WordFlags:
    """How classes are put into words, besides their names.

    Attributes:
        combine: What becomes of the synonyms of a class: "mean", their text features are averaged
            (the default), or "max", the best one counts for each pixel.
        background_words: Words for what is none of the classes, separated by commas, or a file of
            them; a pixel most like one of them gets no class.
    """

    combine: Combine | None = None
    background_words: str | None = None

    def given(self) -> dict[str, Any]:
        """What was given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ClassFileFlags(WordFlags):
    """How the classes of a benchmark are put into words.

    Attributes:
        class_file: Text file with a line a class, in the order of the benchmark's classes: what is
            asked in place of the class's name, synonyms separated by commas. Or one that comes with
            the package (unseen list class-files).
    """

    class_file: str | None = None


def settings_flags(settings: Any, title: str, *, defaults: bool = True, flat: bool = False) -> Any:
    """A type that cyclopts parses: one flag for each field of a dataclass, groups for nested ones.

    Args:
        settings: An instance, whose values are shown as the defaults.
        title: Of the group in `--help`.
        defaults: Show them.
        flat: The flags have no group's name in front.
    """
    docs = argument_docs(type(settings).__doc__ or "")
    hints = get_type_hints(type(settings))
    entries: dict[str, Any] = {}
    for name in (field.name for field in fields(settings)):
        value = getattr(settings, name)
        if is_dataclass(value):
            entries[name] = settings_flags(value, title, defaults=defaults)
        else:
            entries[name] = flag(hints[name], docs.get(name, ""), value if defaults else None)
    return Annotated[_mapping(title, entries), _panel(title, flat)]


def model_flags(model: ModelSettings, options: Mapping[str, Option]) -> Any:
    """The flags of `ModelFlags` with one flag for each option of a method, to be shown in help.

    Args:
        model: The values to show as defaults.
        options: Of the method.
    """
    docs = argument_docs(ModelFlags.__doc__ or "")
    parts = {
        name: flag(option.kind, option.doc, model.options.get(name, option.default))
        for name, option in options.items()
    }
    title = f"Options of {model.method}"
    entries = {
        "clip": flag(str, docs["clip"], model.clip),
        "published": flag(bool, docs["published"], model.published),
        "options": Annotated[_mapping(title, parts), _panel(title, flat=False)],
    }
    return Annotated[_mapping("Model", entries), FLAT]


def flag(kind: Any, doc: str, default: Any = None) -> Any:
    """A type with what `--help` shows about it."""
    shown = default is not None and (write_value(default) or "''")
    show = Parameter(help=doc, show_default=shown)
    if _tuple_of(kind) is None:
        return Annotated[kind, show]
    # One JSON list instead of several words, as in recipes and run folders.
    read = Parameter(
        n_tokens=1, json_list=False, converter=partial(_read_list, kind), metavar="LIST"
    )
    return Annotated[kind, Parameter.combine(show, read)]


def _read_list(kind: Any, _: Any, tokens: Sequence[Token]) -> tuple[Any, ...] | None:
    """A list as JSON, [2,3], for a parameter of the type `kind`, as a converter of cyclopts.

    Raises:
        ValueError: Not such a list; says what to give.
    """
    of = _tuple_of(kind)
    value = read_value(tokens[0].value)
    if value is None and kind is not of:
        return None
    parts = get_args(of)
    length = None if parts[-1] is Ellipsis else len(parts)
    of_floats = parts[0] is float
    allowed = (int, float) if of_floats else parts[0]
    fits = isinstance(value, list) and length in (None, len(value))
    if not fits or not all(isinstance(part, allowed) for part in value):
        size = "" if length is None else f" of {length}"
        raise ValueError(f"give a list{size} such as {'[0.5,2]' if of_floats else '[2,3]'}")
    return tuple(parts[0](part) for part in value)


def _tuple_of(kind: Any) -> Any:
    """The tuple type that `kind` is, or that it is besides None; None for other types."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is tuple:
        return kind
    return None


def _mapping(title: str, entries: dict[str, Any]) -> Any:
    make: Any = TypedDict  # of fields that are known only when the program runs
    return make(title, entries, total=False)


def _panel(title: str, flat: bool) -> Parameter:
    """A panel of `--help`; names of grouped settings are spelt as recipes spell them."""
    group = Group(title, sort_key=1)
    if flat:
        return Parameter(group=group, name="*")
    return Parameter(group=group, name_transform=str)
