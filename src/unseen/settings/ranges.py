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


def whole(low: int) -> Allowed:
    """Whole numbers of at least `low`."""
    return Allowed(
        lambda value: _is_int(value) and value >= low, f"give a whole number of at least {low}"
    )


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Allowed:
    """Finite numbers from `low` to `high`; `open_low`: above `low`."""

    def holds(value: Any) -> bool:
        # Not a number fails here before it is compared.
        inside = _is_number(value) and low <= value <= high
        return inside and not (open_low and value == low)

    least = f"above {low:g}" if open_low else f"of at least {low:g}"
    most = "" if high == math.inf else f" and at most {high:g}"
    return Allowed(holds, f"give a number {least}{most}")


def interval(low: float) -> Allowed:
    """Two numbers above `low`, the smaller one first."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, (tuple, list))
            and len(value) == 2
            and all(_is_number(end) and end > low for end in value)
            and value[0] <= value[1]
        )

    return Allowed(holds, f"give two numbers above {low:g}, the smaller one first")


def one_of(choices: Any) -> Allowed:
    """The values of a `Literal`."""
    # From the type itself, so that annotation and check cannot differ.
    values = get_args(choices)
    return Allowed(lambda value: value in values, "choose one of " + ", ".join(map(repr, values)))


SWITCH = Allowed(lambda value: isinstance(value, bool), "give true or false")


def check_ranges(settings: Any, group: str, table: Mapping[str, Allowed]) -> None:
    """Refuse the first value that its table does not allow.

    Args:
        settings: A dataclass.
        group: Its name on the command line, as in --GROUP.NAME.
        table: The allowed values by field; fields that are not in it are not checked.

    Raises:
        SettingError: Names the setting, its value and the remedy.
    """
    for name, allowed in table.items():
        value = getattr(settings, name)
        if not allowed.holds(value):
            raise SettingError(f"--{group}.{name} is {value!r}; {allowed.remedy}")


def _is_int(value: Any) -> bool:
    # For Python, True is an int; as a number of steps it is a mistake.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # YAML reads .inf and .nan as floats, which no setting can mean.
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)
