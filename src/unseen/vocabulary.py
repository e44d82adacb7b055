"""The classes that a segmenter is asked for, in one object for every verb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from unseen.errors import VocabularyError


@dataclass(frozen=True)
class Vocabulary:
    """A list of classes, each of which gets one score map.

    Attributes:
        names: K class names, stripped of blanks at their ends.
        synonyms: Further names of a class, by its name; their text features are averaged with its
            own.
        templates: Key of `unseen.backbones.clip.templates.TEMPLATES`; None takes the method's own.

    Raises:
        VocabularyError: No classes, an empty name, a name given twice, synonyms of no class.
    """

    names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    templates: str | None = None

    def __post_init__(self) -> None:
        """Check the names."""
        # The only way to normalise a field of a frozen dataclass.
        object.__setattr__(self, "names", check_names(self.names))
        stray = next((name for name in self.synonyms if name not in self.names), None)
        if stray is not None:
            raise VocabularyError(
                f"synonyms are given for {stray!r}, which is not among the classes; add the class,"
                " or remove the synonyms"
            )

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Sequence[int]) -> Vocabulary:
        """The vocabulary of some of the classes, in the order of `indices`."""
        names = tuple(self.names[i] for i in indices)
        kept = {name: words for name, words in self.synonyms.items() if name in names}
        return replace(self, names=names, synonyms=kept)

    def names_of(self, name: str) -> tuple[str, ...]:
        """A class's own name and its synonyms."""
        return (name, *self.synonyms.get(name, ()))


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The class names, stripped of blanks at their ends.

    Raises:
        VocabularyError: No names, an empty one, or one given twice.
    """
    # A string is a sequence of strings too: its letters would become the classes.
    if isinstance(names, str):
        raise VocabularyError(f"the classes are one string, {names!r}; give a list of class names")
    odd = next((name for name in names if not isinstance(name, str)), None)
    if odd is not None:
        raise VocabularyError(f"{odd!r} among the classes is not a text; give a list of strings")
    stripped = tuple(name.strip() for name in names)
    if not stripped:
        raise VocabularyError("the list of classes is empty; give at least one class name")
    if "" in stripped:
        raise VocabularyError(
            f"class {stripped.index('') + 1} of the list is empty; remove it or fill it in"
        )
    # Two maps of one name could not be told apart in a legend or a label list.
    twice = next((name for i, name in enumerate(stripped) if name in stripped[:i]), None)
    if twice is not None:
        raise VocabularyError(
            f"the class {twice!r} is in the list twice; every class gets one map, so remove one of"
            " them"
        )
    return stripped
