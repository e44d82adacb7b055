"""What holds whatever is put in: readers, writers, windows and the vocabulary's parser."""

from __future__ import annotations

import csv
import io
import itertools
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.torch import save

from hostile.files import GOOD_IMAGES
from unseen.backbones.archives import read_state_dict, write_tensors
from unseen.backbones.clip.text import StoredText
from unseen.data.own.layout import read_classes
from unseen.errors import LONGEST, UnseenError, VocabularyError
from unseen.files import about, write_json, write_labels, write_png, write_text
from unseen.images import read_image, read_labels, read_pixels
from unseen.inference import window_starts
from unseen.legends import fit_text
from unseen.palettes import colours
from unseen.segments.source import load_spectrum
from unseen.texts import read_json, read_text, read_yaml
from unseen.visualize import label_palette
from unseen.vocabulary import Vocabulary, read_class_file, split_words

TEXT = st.text(max_size=200)
SIZES = st.tuples(st.integers(1, 30), st.integers(1, 30))


def _tensors() -> bytes:
    return save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1)})


def _array() -> bytes:
    memory = io.BytesIO()
    np.save(memory, np.ones((2, 3), np.float32))
    return memory.getvalue()


def _checkpoint() -> bytes:
    memory = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(3)}}, memory)
    return memory.getvalue()


READERS: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "image.png": (read_image, GOOD_IMAGES["png"]),
    "image.jpg": (read_image, GOOD_IMAGES["jpeg"]),
    "image.tif": (read_image, GOOD_IMAGES["tiff"]),
    "image.webp": (read_image, GOOD_IMAGES["webp"]),
    "image.gif": (read_image, GOOD_IMAGES["gif"]),
    "labels.png": (read_labels, GOOD_IMAGES["palette"]),
    "a.safetensors": (read_state_dict, _tensors()),
    "a.pth": (read_state_dict, _checkpoint()),
    "kept.safetensors": (load_spectrum, _tensors()),
    "rows.npy": (lambda path: StoredText.read(path, ("cat", "dog")), _array()),
    "a.txt": (read_text, b"cat\ndog\n"),
    "a.yaml": (read_yaml, b"model:\n  method: zegclip\n  options: {a: [1, 2.5, null]}\n"),
    "a.json": (read_json, b'{"a": [1, 2.5, null, "x"]}'),
    "words.txt": (read_class_file, b'cat, kitten\n"dog, hot"\n'),
    "classes.txt": (read_classes, b"background # ignore\ncat, kitten # unseen\ndog\n"),
}
"""By file name, a reader and what it reads."""


def reads_or_refuses(name: str, path: Path, content: bytes) -> None:
    """Whatever a file holds, it is read, or refused in a sentence that names it."""
    path.write_bytes(content)
    try:
        READERS[name][0](path)
    except UnseenError as error:
        assert path.name in str(error)
        assert len(str(error)) <= LONGEST


@pytest.mark.parametrize("name", READERS)
@given(content=st.binary(max_size=400))
def test_any_bytes(tmp_path: Path, name: str, content: bytes) -> None:
    reads_or_refuses(name, tmp_path / name, content)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_damaged_files(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Some bytes of a good file are others, are missing, or follow twice."""
    content = bytearray(READERS[name][1])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[place] = value
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    change = data.draw(st.sampled_from(["nothing", "cut", "remove", "repeat"]))
    changed = {
        "nothing": content,
        "cut": content[:end],
        "remove": content[:start] + content[end:],
        "repeat": content[:end] + content[start:],
    }[change]
    reads_or_refuses(name, tmp_path / name, bytes(changed))


# ------------------------------------------------------------------------- writers


@given(labels=arrays.arrays(np.uint8, SIZES))
def test_labels_come_back(tmp_path: Path, labels: np.ndarray) -> None:
    write_labels(tmp_path / "labels.png", labels, label_palette(colours(254)))
    assert np.array_equal(read_labels(tmp_path / "labels.png"), labels)


@given(pixels=arrays.arrays(np.uint8, SIZES.map(lambda size: (*size, 3))))
def test_pixels_come_back(tmp_path: Path, pixels: np.ndarray) -> None:
    """And are the same given as a path, as an image and as an array."""
    path = tmp_path / "image.png"
    write_png(path, Image.fromarray(pixels))
    for given_as in (path, str(path), Image.open(path), pixels):
        assert np.array_equal(read_pixels(given_as), pixels)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(string.ascii_letters, max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(content=JSON)
def test_json_comes_back(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "a.json", {"content": content})
    assert read_json(tmp_path / "a.json")["content"] == content


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
def test_texts_come_back(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "a.txt", text, ours=True)
    assert read_text(tmp_path / "a.txt") == text


@given(values=arrays.arrays(np.float32, SIZES, elements=st.floats(-9, 9, width=32)))
def test_tensors_come_back(tmp_path: Path, values: np.ndarray) -> None:
    tensors = {"a": torch.from_numpy(values), "b": torch.from_numpy(values).half()}
    write_tensors(tmp_path / "a.safetensors", tensors, {"about": about()})
    back = read_state_dict(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


# ------------------------------------------------------------------------- windows


@given(length=st.integers(1, 3000), window=st.integers(1, 800), data=st.data())
def test_windows_hold_every_pixel(length: int, window: int, data: st.DataObject) -> None:
    """They lie inside, begin where the one before has not ended, and none is there twice."""
    stride = data.draw(st.integers(1, window))
    starts = window_starts(length, window, stride)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    assert all(0 < after - before <= stride for before, after in itertools.pairwise(starts))


# ---------------------------------------------------------------------- vocabulary

WORD = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)
    .map(str.strip)
    .filter(bool)
)


@given(words=st.lists(WORD, min_size=1, max_size=5))
def test_written_words_are_read_as_they_are(words: list[str]) -> None:
    memory = io.StringIO()
    csv.writer(memory, lineterminator="").writerow(words)
    assert split_words(memory.getvalue(), "a line") == tuple(words)


@given(line=TEXT)
def test_any_line_is_words_or_refused(line: str) -> None:
    assume("\n" not in line and "\r" not in line)
    try:
        words = split_words(line, "a line")
    except VocabularyError as error:
        assert "a line" in str(error)
    else:
        assert all(word == word.strip() for word in words)


@given(names=st.lists(TEXT, max_size=6))
def test_names_are_kept_or_refused(names: list[str]) -> None:
    try:
        kept = Vocabulary(tuple(names))
    except VocabularyError:
        return
    assert kept.names == tuple(name.strip() for name in names)
    assert Vocabulary(kept.names) == kept
    assert kept.is_plain
    assert [word for word, _ in kept.rows] == list(kept.names)


@given(text=TEXT, width=st.integers(1, 400), size=st.integers(6, 30))
def test_texts_fit(text: str, width: int, size: int) -> None:
    shown, font = fit_text(text, size, width)
    assert font.getlength(shown) <= width or len(shown) <= 2
