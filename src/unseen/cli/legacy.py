"""How command lines of version 0.1 are written, in terms of today's.

--train.decay_norms true    a value after a flag that needs none
--options '{"mode": "clip"}'   a group of settings as JSON
--words "cat, dog"          names and values that have changed (`unseen.settings`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from unseen.cli.flags import read_value, write_value
from unseen.settings import LEGACY_NAMES, LEGACY_VALUES, from_legacy

GROUPS = ("--options", "--train", "--inference")
"""Flags that take a mapping of further settings."""


def modernised(arguments: Sequence[str]) -> list[str]:
    """The words of a command line with today's flags and values."""
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if not word.startswith("--"):
            words.append(word)
            continue
        flag, equals, value = word.partition("=")
        if "." in flag:  # a setting's name, as recipes and run folders write it
            flag = f"--{_dotted(flag)}"
        if not equals and (flag in GROUPS or _is_legacy(flag)):
            value = next(rest, "")
            equals = "="
        words += _today(flag, equals, value)
    return list(_with_switches_set(words))


def as_typed(message: str, arguments: Sequence[str]) -> str:
    """A message about flags with those names that were typed."""
    typed = {word.partition("=")[0] for word in arguments}
    for before, today in LEGACY_NAMES.items():
        if f"--{before}" in typed and f"--{today}" not in typed:
            message = re.sub(rf"--{re.escape(today)}\b", f"--{before}", message, count=1)
    return message


def _is_legacy(flag: str) -> bool:
    name = _dotted(flag)
    return name in LEGACY_NAMES or name in LEGACY_VALUES


def _dotted(flag: str) -> str:
    """The name of a setting from its flag, whichever way it is spelt."""
    return flag.removeprefix("--").replace("-", "_")


def _today(flag: str, equals: str, value: str) -> list[str]:
    """One flag, or several for a group given as JSON."""
    group = read_value(value) if flag in GROUPS else None
    if isinstance(group, dict):
        parts = (_today(f"{flag}.{key}", "=", write_value(part)) for key, part in _flat(group))
        return [word for words in parts for word in words]
    if not equals or not _is_legacy(flag):
        return [f"{flag}{equals}{value}"]
    before = read_value(value)
    name, today = from_legacy(_dotted(flag), before)
    if today != before:
        value = write_value(today)
    return [f"--{name}={value}"]


def _flat(group: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in group.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _with_switches_set(words: Sequence[str]) -> Iterator[str]:
    """`--flag true` as `--flag=true`, which a switch takes as well as any other flag."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and "=" not in word and rest and rest[0] in ("true", "false"):
            word = f"{word}={rest.pop(0)}"
        yield word
