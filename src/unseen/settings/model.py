"""Which segmenter, and names of settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unseen.settings.ranges import SWITCH, Allowed, check_ranges, text


@dataclass(frozen=True)
class ModelSettings:
    """Which segmenter.

    Attributes:
        method: Name in `unseen list`.
        clip: Tower: "doodles", `ARCHITECTURE/TAG` of open_clip, or a weight file.
        published: Start from the released code's choices instead of ours.
        options: Keyword arguments of the method.
    """

    method: str = "naclip"
    clip: str = "doodles"
    published: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values of the wrong kind."""
        check_ranges(self, "", MODEL_RANGES)


MODEL_RANGES = {
    "method": text(),
    "clip": text(),
    "published": SWITCH,
    "options": Allowed(
        lambda value: (
            isinstance(value, dict)
            and all(isinstance(name, str) and name != "published" for name in value)
        ),
        "give values by the names of a method's options",
    ),
}
"""What the fields of `ModelSettings` may be."""


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted keys: {"a": {"b": 1}} is {"a.b": 1}."""
    out: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def is_own(benchmark: str) -> bool:
    """Whether a benchmark is a folder of your own data, which has a classes.txt.

    See `unseen.data.own.layout`.
    """
    return (Path(benchmark) / "classes.txt").is_file()
