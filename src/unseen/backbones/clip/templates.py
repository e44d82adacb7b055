"""Prompt templates: the patterns a class name is put into before CLIP's text tower reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from unseen.errors import SettingError
from unseen.settings.ranges import shown
from unseen.texts import read_text

Templated = str | tuple[str, ...]
"""A named set of templates, a file of them, or the templates themselves."""

# Templates are copied letter by letter: a full stop or an article changes the vectors.
OWN: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "single": ("a photo of a {}",),
    "no_article": ("a photo of {}",),
    "multi": (
        "a photo of a {}.", "a photo of a small {}.", "a photo of a medium {}.",
        "a photo of a large {}.", "This is a photo of a {}.", "This is a photo of a small {}.",
        "This is a photo of a medium {}.", "This is a photo of a large {}.", "a {} in the scene.",
        "a photo of a {} in the scene.", "There is a {} in the scene.",
        "There is the {} in the scene.", "This is a {} in the scene.",
        "This is the {} in the scene.", "This is one {} in the scene.",
    ),
}  # fmt: skip
"""The bare name; one prompt (VOC); the same without article (EdgeCLIP's figure); the 15 of
ZegCLIP's "multi" (COCO-Stuff, Context)."""


class Templates(Mapping[str, tuple[str, ...]]):
    """The named sets of templates.

    The 80 of the CLIP paper ("imagenet") are read from open_clip when they are needed, because
    importing it takes seconds.
    """

    def __getitem__(self, name: str) -> tuple[str, ...]:
        """The templates of a set, each with one `{}`.

        Raises:
            SettingError: There is no such set.
        """
        if name == "imagenet":
            from open_clip import OPENAI_IMAGENET_TEMPLATES

            # open_clip has functions of a name in place of patterns.
            return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
        if name not in OWN:
            raise SettingError(
                f"there is no set of templates called {name!r}; choose one of {', '.join(self)}"
            )
        return OWN[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*OWN, "imagenet"))

    def __len__(self) -> int:
        return len(OWN) + 1


TEMPLATES = Templates()


def templates_of(given: Templated) -> tuple[str, ...]:
    """The templates of a named set, of a text file with one a line, or the given ones.

    Raises:
        SettingError: No such set or file, or a template that has not one `{}`.
    """
    source = "the list of templates"
    if isinstance(given, str):
        if not is_template_file(given):
            return TEMPLATES[given]
        source, given = given, read_templates(Path(given))
    for template in given:
        if not isinstance(template, str) or not _is_template(template):
            raise SettingError(
                f"{source} has {shown(template)}, which does not hold one {{}}, the place of the"
                " class name; write for instance 'a photo of a {}'"
            )
    if not given:
        raise SettingError("the list of templates is empty; give at least one, such as '{}'")
    return tuple(given)


def _is_template(text: str) -> bool:
    return text.count("{}") == text.count("{") == text.count("}") == 1


def is_template_file(given: str) -> bool:
    """Whether templates are given as a file: by a path, which no name of a set looks like."""
    return given.endswith(".txt") or "/" in given


def read_templates(path: Path) -> tuple[str, ...]:
    """The templates of a text file, one a line.

    Raises:
        DataError: The file cannot be read.
    """
    remedy = "write one template a line, each with a {} in place of the class name"
    lines = read_text(path, missing=remedy).splitlines()
    return tuple(line.strip() for line in lines if line.strip())
