"""What a choice of `choices.py` and `search.py` changes, read from one line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from unseen.cli.flags import read_value


@dataclass(frozen=True)
class Choice:
    """What a choice says.

    Attributes:
        options: Of the method.
        train: Values of `TrainSettings`.
        scored: Options that are changed after training; they need no run of their own.
        inference: Values of `InferenceSettings`; nor do they.
        mixed: Share of the end in the weights of a run and its first step; None for the end itself.
        method: Another method; empty for the one that is asked about.
    """

    options: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    scored: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)
    mixed: float | None = None
    method: str = ""

    @classmethod
    def read(cls, text: str) -> Choice:
        """A choice from its changes, joined by "+": NAME=VALUE, or a method; "ours" for none."""
        choice = cls()
        groups = {"train": choice.train, "scored": choice.scored, "inference": choice.inference}
        for change in text.split("+"):
            name, _, value = change.partition("=")
            group, _, inner = name.partition(".")
            if not value:
                choice = replace(choice, method="" if name == "ours" else name)
            elif name == "mixed":
                choice = replace(choice, mixed=read_value(value))
            elif group in groups:
                groups[group][inner] = read_value(value)
            else:
                choice.options[name] = read_value(value)
        return choice


def run_name(text: str) -> str:
    """The name of a choice's run, which other weights, options and tests of it share."""
    later = ("mixed", "scored.", "inference.")
    changes = [change for change in text.split("+") if not change.startswith(later)]
    return "+".join(changes).replace("/", "_") or "ours"
