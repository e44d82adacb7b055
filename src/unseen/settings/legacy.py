"""What version 0.1 called otherwise: one table for the command line and for run folders."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

LEGACY_NAMES = {
    "words": "classes",
    "inference.plain": "inference.antialias",
    "inference.segments": "inference.refinement",
    "inference.segments_threshold": "inference.refinement_threshold",
    "train.pseudo_label_void": "train.pseudo_label_ignored",
    "options.void": "options.ignored_as",
    "options.word_start": "options.text_start",
}
"""Flags and settings that version 0.1 called otherwise: their names there and their names today."""


LEGACY_VALUES: dict[str, dict[Any, Any]] = {
    "inference.plain": {True: False, False: True},
    "inference.segments": {"agreement": "segment_iou"},
    "train.unseen_pixels": {"void": "ignore", "skip": "drop_image"},
}
"""By a setting's name in version 0.1, values it had there and what they are today."""


def from_legacy(name: str, value: Any) -> tuple[str, Any]:
    """A setting of version 0.1 or of today, by its dotted name, as today's name and value."""
    values = LEGACY_VALUES.get(name, {})
    if isinstance(value, Hashable):
        value = values.get(value, value)
    return LEGACY_NAMES.get(name, name), value


def update_legacy(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings that version 0.1 may have written, with today's names and values.

    Args:
        settings: By name, groups as dictionaries.
        prefix: Dotted name of the group they belong to, with a dot at its end.
    """
    updated = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            updated[key] = update_legacy(value, f"{prefix}{key}.")
        else:
            name, today = from_legacy(f"{prefix}{key}", value)
            updated[name.removeprefix(prefix)] = today
    return updated
