"""Classes from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unseen.errors import DataError, VocabularyError
from unseen.texts import is_file, is_folder, is_path, is_special
from unseen.vocabulary import (
    Vocabulary,
    change_vocabulary,
    check_combine_used,
    class_rows,
    known_class_files,
    split_words,
)


def read_vocabulary(classes: str, words: Mapping[str, Any]) -> Vocabulary:
    """The classes of a list separated by commas, or of a file as `classes.txt` of your own data.

    Args:
        classes: What --classes says: names, or a file.
        words: What the flags of `WordFlags` say, by name: synonyms, templates, the background.

    Raises:
        UnseenError: Double quotes that are not closed, or a file that cannot be read.
    """
    if is_file(classes):
        from unseen.data.own.layout import read_classes

        listed = read_classes(Path(classes))
        try:
            vocabulary = Vocabulary(listed.class_names, listed.synonyms)
        except VocabularyError as error:
            raise VocabularyError(f"{classes}: {error}") from error
    elif classes in known_class_files():
        rows = class_rows(classes)
        synonyms = {row[0]: row for row in rows if len(row) > 1}
        vocabulary = Vocabulary(tuple(row[0] for row in rows), synonyms)
    elif is_path(classes) or is_folder(classes) or is_special(classes):
        raise DataError(
            f"{classes} is no class file; give a text file with a class a line, or class names"
            " separated by commas"
        )
    else:
        line = classes.strip().removesuffix(",")
        vocabulary = Vocabulary(split_words(line, "--classes"))
    vocabulary = change_vocabulary(vocabulary, words)
    check_combine_used(vocabulary, words)
    return vocabulary
