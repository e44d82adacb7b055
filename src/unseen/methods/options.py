"""The options of a method: names, types, defaults and documentation.

They are read from its constructor and from the dataclasses it takes: its `Options`, which methods
of a kind share, and its `Quirks`.

Whoever changes a method's behaviour by name (the command line, a recipe, Python) passes through
`check`, because a value of the wrong kind would otherwise train something else in silence.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from unseen.errors import SettingError
from unseen.settings.ranges import SWITCH, number, shown, text, whole

if TYPE_CHECKING:
    from unseen.segmenter import Segmenter


@dataclass(frozen=True)
class Option:
    """A keyword argument of a method.

    Attributes:
        name: Of the argument.
        kind: Its annotation, with the names resolved.
        default: Its value when nothing is given.
        doc: What the class's docstring says about it; empty if it says nothing.
    """

    name: str
    kind: Any
    default: Any
    doc: str


def options_of(cls: type, fixed: Iterable[str] = ()) -> dict[str, Option]:
    """The options of a class by name: its own, those it shares with others, then its quirks.

    Args:
        cls: A segmenter's class.
        fixed: Arguments that are not offered, besides the tower.
    """
    groups = groups_of(cls)
    options = _parameters(cls)
    for group in groups.values():
        options |= _parameters(group)
    hidden = ("clip", *groups, *fixed)
    return {name: option for name, option in options.items() if name not in hidden}


def released_options(cls: type[Segmenter]) -> dict[str, Any]:
    """The options with which the released code behaves otherwise than ours, with its values."""
    released = groups_of(cls).get("quirks")
    if released is None:
        return dict(cls.PUBLISHED)
    # Only what differs is listed, so that a report shows what the released code changes.
    ours, theirs = asdict(released()), asdict(released.released())
    quirks = {name: value for name, value in theirs.items() if value != ours[name]}
    return {**cls.PUBLISHED, **quirks}


def arguments(cls: type[Segmenter], options: dict[str, Any]) -> dict[str, Any]:
    """Options as arguments of the class: fields of a dataclass it takes go into one."""
    # Users give one flat list of options; which dataclass holds them is the method's business.
    result = dict(options)
    for argument, group in groups_of(cls).items():
        names = [name for name in _parameters(group) if name in options]
        result[argument] = group(**{name: _as_tuple(result.pop(name)) for name in names})
    return result


def groups_of(cls: type) -> dict[str, Any]:
    """The dataclasses of options that a class's own constructor takes, by argument."""
    groups = {"options": getattr(cls, "Options", None), "quirks": getattr(cls, "Quirks", None)}
    taken = inspect.signature(cls).parameters
    return {name: group for name, group in groups.items() if group is not None and name in taken}


def _parameters(cls: type) -> dict[str, Option]:
    # A dataclass's annotations are resolved class by class, where each was written.
    hints = get_type_hints(cls if is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # a dataclass documents its own fields, its base the others
        docs |= argument_docs(base.__doc__ or "")
    return {
        name: Option(name, hints.get(name, Any), parameter.default, docs.get(name, ""))
        for name, parameter in inspect.signature(cls).parameters.items()
    }


def _as_tuple(value: Any) -> Any:
    """A list, as YAML and the command line give it, as the tuple a frozen dataclass holds."""
    return tuple(value) if isinstance(value, list) else value


def argument_docs(docstring: str) -> dict[str, str]:
    """What a Google docstring says about its arguments or attributes, one paragraph a name."""
    section = re.search(r"(?:Args|Attributes):\n(.*?)(?:\n\n|\Z)", docstring, re.DOTALL)
    if section is None:
        return {}
    entries = re.split(r"\n(?=\S)", textwrap.dedent(section[1]))
    pairs = (entry.partition(":") for entry in entries)
    return {name.strip(): " ".join(text.split()) for name, _, text in pairs}


def check(method: str, options: dict[str, Any], known: dict[str, Option]) -> None:
    """Refuse options that the method does not have, and values that are not of their type.

    Raises:
        SettingError: Names the option and what it takes; for an unknown one also the nearest.
    """
    for name, value in options.items():
        if name not in known:
            raise SettingError(
                f"{method} has no option {name!r}{nearest(name, known)}; it has {', '.join(known)}"
            )
        problem = _problem(name, value, known[name].kind)
        if problem:
            raise SettingError(f"{method}'s option {name} is {shown(value)}; {problem}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is closest to a misspelt one; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    if not close:
        return ""
    return f" (did you mean {close[0]!r}?)"


def _problem(name: str, value: Any, kind: Any) -> str:
    """What to give instead of a value that is not of the kind; empty if it is."""
    if get_origin(kind) in (Union, UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        if value is None and len(parts) < len(get_args(kind)):
            return ""
        problems = [_problem(name, value, part) for part in parts]
        # Of several types the first that fits; the message is about the first of all.
        return "" if "" in problems else problems[0]
    if get_origin(kind) is tuple:
        return _problem_of_list(name, value, get_args(kind))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value in choices:
            return ""
        return f"choose one of {', '.join(map(repr, choices))}"
    if kind in KINDS:
        return _problem_of_scalar(name, value, kind)
    return ""


def _problem_of_list(name: str, value: Any, parts: tuple[Any, ...]) -> str:
    length = None if parts[-1] is Ellipsis else len(parts)
    if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
        return f"give a list{f' of {length}' if length else ''}, such as [2,3]"
    if parts[0] is int and "blocks" in name:
        allowed = BLOCKS
    elif parts[0] in KINDS:
        allowed = KINDS[parts[0]]
    else:
        return ""
    return "" if all(map(allowed.holds, value)) else f"for each entry, {allowed.remedy}"


def _problem_of_scalar(name: str, value: Any, kind: type) -> str:
    allowed = KINDS[kind]
    if kind in (int, float):
        allowed = next((limit for part, limit in LIMITS.items() if part in name), allowed)
    return "" if allowed.holds(value) else allowed.remedy


KINDS = {int: whole(1, 8192), float: number(0, 1e6), bool: SWITCH, str: text(empty=True)}
"""What an option of a type may be, unless its name is among `LIMITS`."""
BLOCKS = whole(0, 100)
"""What the entries of a list of blocks may be; the class knows how many its tower has."""
LIMITS = {
    "dropout": number(0, 1, open_high=True),
    "layers": whole(1, 100),
    "depth": whole(1, 100),
    "width": whole(1, 1024),
    "offsets": whole(0, 64),
    # Of logits; below 0 they favour seen classes, or inner pixels.
    "calibration": number(-1e6, 1e6),
    "edge_logit": number(-1e6, 1e6),
}
"""What an option may be whose name holds one of these words."""
