"""The classes that a segmenter is asked for, in one object for every verb.

Nothing heavy is imported here: class files are checked before torch is.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from unseen.arguments import check_kind
from unseen.errors import DataError, VocabularyError
from unseen.settings.ranges import shown
from unseen.texts import is_file, is_path, is_special, read_text

Combine = Literal["mean", "max"]
NO_CLASS = -1
"""In place of the index of a class: the words of the background."""


LONGEST_LINE = 100_000
"""Characters of a list of names."""
LONGEST_NAME = 500
"""Characters of a name; a text tower reads about 300."""


@dataclass(frozen=True)
class Vocabulary:
    """A list of classes, each of which gets one score map.

    Attributes:
        names: K class names, stripped of blanks at their ends.
        synonyms: What is put into prompts for a class, by its name: one or several names, its own
            among them or not. Its own name where there is no entry.
        combine: What becomes of the names of a class: "mean", their text features are averaged, or
            "max", each name has a score map and the highest one counts (SCLIP, NACLIP, ClearCLIP).
        templates: Key of `unseen.backbones.clip.templates.TEMPLATES`, a file of templates, or the
            templates themselves; None takes the method's own.
        background: Words for what is none of the classes: a pixel that is most like one of them
            gets no class.

    Raises:
        VocabularyError: No classes, an empty name, a name given twice, synonyms of no class.
    """

    names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    combine: Combine = "mean"
    templates: str | tuple[str, ...] | None = None
    background: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names."""
        for name, kind in _KINDS.items():
            check_kind(name, getattr(self, name), kind, VocabularyError)
        # The only way to normalise a field of a frozen dataclass.
        object.__setattr__(self, "names", check_names(self.names))
        stray = next((name for name in self.synonyms if name not in self.names), None)
        if stray is not None:
            raise VocabularyError(
                f"synonyms are given for {stray!r}, which is not among the classes; add the class,"
                " or remove the synonyms"
            )
        synonyms = {
            name: _words(words, f"the synonyms of {name!r}")
            for name, words in self.synonyms.items()
        }
        object.__setattr__(self, "synonyms", synonyms)
        self._check_shared()
        if self.background:
            words = _words(self.background, "the words for the background")
            object.__setattr__(self, "background", words)

    def _check_shared(self) -> None:
        """Refuse a word of two classes, which could not be told apart by it."""
        owner: dict[str, str] = {}
        for name in self.names:
            for word in self.names_of(name):
                if word in owner:
                    raise VocabularyError(
                        f"{word!r} stands for {owner[word]!r} and for {name!r}, which could not be"
                        " told apart; remove it from one of them"
                    )
                owner[word] = name

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Sequence[int]) -> Vocabulary:
        """The vocabulary of some of the classes, in the order of `indices`."""
        names = tuple(self.names[i] for i in indices)
        kept = {name: words for name, words in self.synonyms.items() if name in names}
        return replace(self, names=names, synonyms=kept)

    def names_of(self, name: str) -> tuple[str, ...]:
        """What is put into prompts for a class."""
        return self.synonyms.get(name, (name,))

    @property
    def is_plain(self) -> bool:
        """Whether every row of text features is a class: nothing is combined by maximum."""
        return not self.background and (self.combine == "mean" or not self.synonyms)

    @cached_property
    def rows(self) -> tuple[tuple[str, int], ...]:
        """What gets a score map of its own, each with the index of its class or `NO_CLASS`."""
        rows = []
        for index, name in enumerate(self.names):
            words = self.names_of(name) if self.combine == "max" else (name,)
            rows += [(word, index) for word in words]
        return (*rows, *((word, NO_CLASS) for word in self.background))

    def asked(self) -> Vocabulary:
        """The rows as a plain vocabulary, each once.

        Raises:
            VocabularyError: A word of the background is a class whose synonyms are averaged.
        """
        synonyms = {} if self.combine == "max" else dict(self.synonyms)
        clash = next((word for word in self.background if word in synonyms), None)
        if clash is not None:
            raise VocabularyError(
                f"{clash!r} is a word for the background and a class with synonyms; remove one of"
                " them, or combine synonyms by max"
            )
        unique = dict.fromkeys(word for word, _ in self.rows)
        return Vocabulary(tuple(unique), synonyms, templates=self.templates)

    def facts(self) -> dict[str, Any]:
        """What a report and a run folder say of it beside the names, as JSON types."""
        return {
            "synonyms": {name: list(words) for name, words in self.synonyms.items()},
            "combine": self.combine,
            "background_words": list(self.background),
        }


_KINDS = {
    "synonyms": Mapping[str, Sequence[str]],
    "combine": Combine,
    "templates": str | Sequence[str] | None,
    "background": Sequence[str],
}
"""Of the fields of a vocabulary that are not checked as lists of names."""


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The class names, stripped of blanks at their ends.

    Raises:
        VocabularyError: No names, an empty one, or one given twice.
    """
    stripped = _stripped(names, "the classes")
    if not stripped:
        raise VocabularyError("the list of classes is empty; give at least one class name")
    if "" in stripped:
        raise VocabularyError(
            f"class {stripped.index('') + 1} of the list is empty; remove it or fill it in"
        )
    # Two maps of one name could not be told apart in a legend or a label list.
    if len(set(stripped)) < len(stripped):
        twice = Counter(stripped).most_common(1)[0][0]
        raise VocabularyError(
            f"the class {twice!r} is in the list twice; every class gets one map, so remove one of"
            " them"
        )
    return stripped


def _stripped(words: Sequence[str], what: str) -> tuple[str, ...]:
    """Words without blanks at their ends."""
    # A string is a sequence of strings too: its letters would become the classes.
    if isinstance(words, str):
        raise VocabularyError(f"{what} are one string, {words!r}; give a list of names")
    check_kind(what, words, Sequence[str], VocabularyError)
    stripped = tuple(word.strip() for word in words)
    for word in stripped:
        _check_word(word, what)
    return stripped


def _check_word(word: str, what: str) -> None:
    """Refuse what no file, table or tokenizer could hold as a name."""
    if len(word) > LONGEST_NAME:
        raise VocabularyError(
            f"one of {what} has {len(word)} characters ({word[:20]!r}...); give at most"
            f" {LONGEST_NAME}"
        )
    # Cc are control characters, Cs halves of characters, as bytes that are not UTF-8 become.
    odd = next((char for char in word if unicodedata.category(char) in ("Cc", "Cs")), None)
    if odd is not None and unicodedata.category(odd) == "Cs":
        raise VocabularyError(
            f"one of {what} is no UTF-8 ({word[:40]!r}); correct it, or set a locale of UTF-8, such"
            " as LC_ALL=C.UTF-8"
        )
    if odd is not None:
        raise VocabularyError(
            f"one of {what} holds the character {odd!r} ({word[:40]!r}), which cannot be shown;"
            " remove it"
        )


def _words(words: Sequence[str], what: str) -> tuple[str, ...]:
    """Words without blanks at their ends; refuses none, empty ones, and one given twice."""
    stripped = _stripped(words, what)
    if not stripped or "" in stripped:
        raise VocabularyError(f"one of {what} is empty; remove it or fill it in")
    if len(set(stripped)) < len(stripped):
        raise VocabularyError(f"one of {what} is given twice; remove one of the two")
    return stripped


# ------------------------------------------------------------------- class files

KNOWN_FILES = "vocabularies.yaml"
MARK = re.compile(r"\s#\s*(seen|unseen|ignore|threshold)\b")
"""What stands behind a class in `classes.txt` of your own data (`unseen.data.own.layout`)."""


def split_words(line: str, place: str) -> tuple[str, ...]:
    """Names separated by commas; a name with a comma stands in double quotes.

    Raises:
        VocabularyError: Double quotes that are not closed.
    """
    line = line.strip()
    if len(line) > LONGEST_LINE:
        raise VocabularyError(
            f"{place} has {len(line)} characters; give at most {LONGEST_LINE}, or a file with a"
            " class a line"
        )
    odd = next((char for char in line if char in "\r\n\0"), None)
    if odd is not None:
        raise VocabularyError(f"{place} holds the character {odd!r}; separate classes by commas")
    try:
        words = next(csv.reader([line], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise VocabularyError(
            f"the double quotes in {place} are not closed ({shown(line)}); close or remove them"
        ) from error
    return tuple(word.strip() for word in words)


def joined_words(words: Sequence[str]) -> str:
    """A line from which `split_words` reads the same names."""
    lines = []
    for word in words:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([word])
        lines.append(line.getvalue())
    return ", ".join(lines)


def read_class_file(path: Path) -> tuple[tuple[str, ...], ...]:
    """The lines of a class file: a class a line, its synonyms behind commas.

    Raises:
        DataError: No such file, or no text.
        VocabularyError: An empty line between others, or quotes that are not closed.
    """
    lines = read_text(path).rstrip().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        if MARK.search(line):
            raise VocabularyError(
                f"line {number} of {path} has a mark ({line.strip()}), which is for classes.txt of"
                " your own data; remove it"
            )
        words = split_words(line, f"line {number} of {path}")
        if not words or "" in words:
            raise VocabularyError(
                f"line {number} of {path} has an empty name; a line is a class, its synonyms behind"
                " commas"
            )
        rows.append(words)
    if not rows:
        raise VocabularyError(f"{path} is empty; write a class a line")
    return tuple(rows)


def class_rows(given: str) -> tuple[tuple[str, ...], ...]:
    """The lines of a class file: a path, or the name of one that comes with the package.

    Raises:
        DataError: The file cannot be read.
        VocabularyError: No such file, or a line that is no class.
    """
    if is_file(given) or is_special(given):  # reading a pipe or a device is refused
        return read_class_file(Path(given))
    return known_class_file(given)


def known_class_file(name: str) -> tuple[tuple[str, ...], ...]:
    """The lines of a class file that comes with the package: those of released codes.

    Raises:
        VocabularyError: No such file; the message names those there are.
    """
    files = known_class_files()
    if name not in files:
        raise VocabularyError(
            f"there is no class file called {shown(name)}; give the path of a text file with a"
            f" class a line, or one of {', '.join(files)}"
        )
    return files[name]


def known_class_files() -> dict[str, tuple[tuple[str, ...], ...]]:
    """The class files that come with the package, by name."""
    text = (resources.files("unseen") / "data" / KNOWN_FILES).read_text(encoding="utf-8")
    return {
        name: tuple(split_words(line, name) for line in lines)
        for name, lines in yaml.safe_load(text).items()
    }


# ----------------------------------------------------------------------- changes

GivenVocabulary = Vocabulary | Mapping[str, Any] | None
CHANGES = ("class_file", "combine", "background_words")
NOTHING = "none"
"""In place of a class file or of words: without those of a benchmark, a run or a protocol."""


def change_vocabulary(base: Vocabulary, given: GivenVocabulary) -> Vocabulary:
    """A vocabulary with other words for the same classes.

    Args:
        base: Of a benchmark or a run.
        given: A mapping changes how classes are put into words: `class_file` (a path, or the name
            of one that comes with the package), `combine` ("mean" or "max") and `background_words`
            (names in a list, or separated by commas; a file of them). "none" takes the base's
            synonyms or words away. A whole vocabulary of the same classes replaces `base`; None
            leaves it.

    Raises:
        VocabularyError: Other classes, or words that mean nothing.
        DataError: A file that cannot be read.
    """
    if given is None:
        return base
    if isinstance(given, Vocabulary):
        if given.names != base.names:
            raise VocabularyError(
                f"the vocabulary has the classes {', '.join(given.names[:3])}, ..., and those of"
                f" the data are {', '.join(base.names[:3])}, ...; give words for the same classes,"
                " in the same order"
            )
        return given
    unknown = next((name for name in given if name not in CHANGES), None)
    if unknown is not None:
        raise VocabularyError(f"a vocabulary has no {unknown!r}; choose among {', '.join(CHANGES)}")
    changes: dict[str, Any] = {}
    file, combine = given.get("class_file"), given.get("combine")
    if file == NOTHING:
        changes["synonyms"] = {}
    elif file is not None:
        changes["synonyms"] = _synonyms(base.names, class_rows(str(file)), str(file))
    if combine is not None:
        changes["combine"] = combine
    if given.get("background_words") is not None:
        changes["background"] = background_words(given["background_words"])
    return replace(base, **changes)


def check_combine_used(vocabulary: Vocabulary, given: GivenVocabulary) -> None:
    """Refuse a way to combine synonyms where no class has any.

    Raises:
        VocabularyError: It was given, and changes nothing.
    """
    if isinstance(given, Mapping) and given.get("combine") and not vocabulary.synonyms:
        raise VocabularyError(
            f"--combine {given['combine']} is for synonyms, and no class has any; give a class file"
            " with synonyms, or remove it"
        )


def background_words(given: str | Sequence[str]) -> tuple[str, ...]:
    """Words for the background: a list, words separated by commas, or a file of words.

    Raises:
        DataError: A file that does not exist.
    """
    if not isinstance(given, str):
        return tuple(given)
    if given == NOTHING:
        return ()
    if is_path(given) and not is_file(given):
        raise DataError(
            f"the file of words {given} does not exist; check the path, or give words separated by"
            " commas"
        )
    if is_file(given) or given in known_class_files():
        return tuple(word for row in class_rows(given) for word in row)
    return split_words(given, "the words for the background")


def _synonyms(
    names: Sequence[str], rows: Sequence[Sequence[str]], source: str
) -> dict[str, tuple[str, ...]]:
    """What is put into prompts for the classes of a benchmark, from a class file in their order.

    What stands on a line is asked in place of the class's name.

    Raises:
        VocabularyError: Another number of lines, or a line of another class.
    """
    if len(rows) != len(names):
        raise VocabularyError(
            f"{source} has {len(rows)} lines and there are {len(names)} classes; write a line a"
            " class, in the order of the classes"
        )
    for number, (name, row) in enumerate(zip(names, rows, strict=True), start=1):
        # A forgotten or exchanged line would shift every class in silence.
        if row[0] != name and row[0] in names:
            raise VocabularyError(
                f"line {number} of {source} is {row[0]!r}, and class {number} is {name!r}; write"
                " the lines in the order of the classes"
            )
    pairs = zip(names, rows, strict=True)
    return {name: tuple(row) for name, row in pairs if tuple(row) != (name,)}
