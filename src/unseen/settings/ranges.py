"""Which values a setting may have, and the message about any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from unseen.errors import SettingError


@dataclass(frozen=True)
class Allowed:
    """The values that a setting may have.

    Attributes:
        holds: Whether a value is allowed.
        remedy: What to give instead, after "give" or "choose".
    """

    holds: Callable[[Any], bool]
    remedy: str

    def or_none(self) -> Allowed:
        """The same values, or None."""
        return Allowed(lambda value: value is None or self.holds(value), f"{self.remedy}, or null")


MOST = 10**9
"""Of numbers that have no limit of their own: beyond it, a number is a mistake."""


def whole(low: int, high: int = MOST) -> Allowed:
    """Whole numbers from `low` to `high`."""
    most = "" if high == MOST else f" and at most {high}"
    return Allowed(
        lambda value: _is_int(value) and low <= value <= high,
        f"give a whole number of at least {low}{most}",
    )


def text(*, empty: bool = False) -> Allowed:
    """Text in one line."""
    return Allowed(
        lambda value: isinstance(value, str) and value.isprintable() and (empty or bool(value)),
        "give a text in one line",
    )


def several(of: Allowed, *, least: int = 0) -> Allowed:
    """A list of at least so many values, each of them allowed."""
    return Allowed(
        lambda values: (
            isinstance(values, (tuple, list))
            and len(values) >= least
            and all(of.holds(value) for value in values)
        ),
        f"give a list{' that is not empty' if least else ''}; for each entry, {of.remedy}",
    )


def number(
    low: float, high: float = MOST, *, open_low: bool = False, open_high: bool = False
) -> Allowed:
    """Finite numbers from `low` to `high`; `open_low`: above `low`; `open_high`: below `high`."""

    def holds(value: Any) -> bool:
        # Not a number fails here before it is compared.
        inside = _is_number(value) and low <= value <= high
        return inside and not (open_low and value == low) and not (open_high and value == high)

    least = f"above {low:g}" if open_low else f"of at least {low:g}"
    most = f" and {'below' if open_high else 'at most'} {high:g}"
    return Allowed(holds, f"give a number {least}{'' if high == MOST else most}")


def interval(low: float, high: float) -> Allowed:
    """Two numbers above `low` and at most `high`, the smaller one first."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, (tuple, list))
            and len(value) == 2
            and all(_is_number(end) and low < end <= high for end in value)
            and value[0] <= value[1]
        )

    return Allowed(
        holds, f"give two numbers above {low:g} and at most {high:g}, the smaller one first"
    )


def one_of(choices: Any) -> Allowed:
    """The values of a `Literal`."""
    # From the type itself, so that annotation and check cannot differ.
    values = get_args(choices)
    return Allowed(
        lambda value: isinstance(value, str) and value in values,
        "choose one of " + ", ".join(map(repr, values)),
    )


SEED = whole(0, 2**32 - 1)
SWITCH = Allowed(lambda value: isinstance(value, bool), "give true or false")


def check_ranges(settings: Any, group: str, table: Mapping[str, Allowed]) -> None:
    """Refuse the first value that its table does not allow.

    Args:
        settings: A dataclass.
        group: Its name on the command line, as in --GROUP.NAME; "" where flags have none.
        table: The allowed values by field; fields that are not in it are not checked.

    Raises:
        SettingError: Names the setting, its value and the remedy.
    """
    for name, allowed in table.items():
        value = getattr(settings, name)
        if not allowed.holds(value):
            flag = f"--{group}.{name}" if group else f"--{name.replace('_', '-')}"
            raise SettingError(f"{flag} is {shown(value)}; {allowed.remedy}")


def shown(value: Any) -> str:
    """A value as a message shows it: what is long is cut."""
    try:
        told = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; a list in itself
        told = f"a {type(value).__name__}"
    return told if len(told) <= 60 else f"{told[:57]}..."


def _is_int(value: Any) -> bool:
    # For Python, True is an int; as a number of steps it is a mistake.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # YAML reads .inf and .nan as floats, which no setting can mean.
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)
