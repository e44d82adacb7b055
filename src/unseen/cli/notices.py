"""What a user should know about a command that runs all the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unseen.data.classes import DOODLES
from unseen.settings import TrainSettings

if TYPE_CHECKING:
    from unseen.segmenter import TextFeatures


def notify(notice: str) -> None:
    """Print a notice on the standard error output; nothing for an empty one."""
    if notice:
        print(notice, file=sys.stderr)


def about_tower(clip: str | None, names: Sequence[str], remedy: str) -> str:
    """The notice where the tower of drawn doodles is given other classes; empty for all else.

    Args:
        clip: The tower's source.
        names: Class names.
        remedy: What to do, to go before the name of another tower.
    """
    unknown = [name for name in names if not is_doodle(name)]
    if clip != "doodles" or not unknown:
        return ""
    return (
        "unseen: the doodle tower knows drawings of twenty things and cannot recognise"
        f" {unknown[0]!r}; for photographs {remedy} ViT-B-16-quickgelu/openai"
    )


def about_one_class(text: TextFeatures, threshold: float | None) -> str:
    """The notice where every pixel gets the only class; empty for all else."""
    if len(text) > 1 or threshold is not None:
        return ""
    return (
        f"unseen: {text.vocabulary[0]!r} is the only class, so every pixel gets it; give"
        " --threshold, more classes or --background-words"
    )


def is_doodle(name: str) -> bool:
    """Whether one of the doodles' class names stands in a name, as a whole word."""
    return any(re.search(rf"\b{re.escape(doodle)}\b", name.lower()) for doodle in DOODLES)


def about_release(note: str) -> str:
    """The notice of what a published training cannot follow; empty where all was released."""
    return f"unseen: {note}" if note else ""


def about_warmup(settings: TrainSettings) -> str:
    """The notice where the learning rate never reaches its peak; empty for all else."""
    if settings.warmup < settings.steps:
        return ""
    return (
        f"unseen: the warm-up of {settings.warmup} steps is no shorter than the training of"
        f" {settings.steps}; see --train.warmup"
    )
