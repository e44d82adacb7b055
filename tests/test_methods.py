"""The table of methods: lazy, true to its classes, and open to other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from unseen.backbones.clip.loading import load_clip
from unseen.errors import SettingError
from unseen.methods import METHODS, create
from unseen.methods.options import Option, argument_docs, check
from unseen.vocabulary import Vocabulary

PLUGIN = '''
"""A method of another package."""
from unseen.methods.training_free import TrainingFree

class Blurred(TrainingFree):
    """NACLIP with another name.

    Args:
        clip: The tower.
        temperature: Factor on the cosines.
    """

    summary = "a plug-in's method"

    def __init__(self, clip, *, temperature: float = 7.0):
        super().__init__(clip, temperature=temperature)
'''


def install(folder: Path, package: str, *points: str) -> None:
    """A package with entry points, as an installer would leave it."""
    (folder / f"{package}.py").write_text(PLUGIN)
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(["[unseen.methods]", *points]) + "\n")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for packages; the table is read again before and after."""
    monkeypatch.syspath_prepend(str(tmp_path))
    METHODS.__dict__.pop("_others", None)
    yield tmp_path  # type: ignore[misc]
    METHODS.__dict__.pop("_others", None)


def test_blocks_are_counted_from_0() -> None:
    options = {"blocks": Option("blocks", tuple[int, ...], (), "")}
    check("any", {"blocks": [0, 11]}, options)
    with pytest.raises(SettingError, match="for each entry, give a whole number of at least 0"):
        check("any", {"blocks": [-1]}, options)


@pytest.mark.parametrize("name", METHODS)
def test_the_table_says_what_the_class_says(name: str) -> None:
    method = METHODS[name]
    assert method.trainable == method.cls.trainable
    assert all(option.doc for option in method.choices.values())


def test_the_table_needs_no_torch() -> None:
    code = (
        "import sys; from unseen.methods import METHODS, known;"
        "assert known('zegclip').trainable and not known('naclip').trainable;"
        "assert all(method.summary for method in METHODS.values());"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_method_of_another_package(plugins: Path) -> None:
    install(plugins, "unseen_blur", "blurred = unseen_blur:Blurred")
    assert list(METHODS)[-1] == "blurred"
    method = METHODS["blurred"]
    assert method.summary == "a plug-in's method"
    assert not method.trainable
    assert list(method.choices) == ["temperature"]
    segmenter = create("blurred", load_clip("doodles"), temperature=9.0)
    scores = segmenter(
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        segmenter.encode_text(Vocabulary(["a"])),
    )
    assert scores.logits.shape[1] == 1
    with pytest.raises(SettingError, match="did you mean 'temperature'"):
        create("blurred", load_clip("doodles"), temperatur=9.0)


def test_verbs_know_a_method_of_another_package(tmp_path: Path) -> None:
    install(tmp_path, "unseen_blur", "blurred = unseen_blur:Blurred")
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "photo.png")
    shown = unseen_with(tmp_path, "list", "methods")
    assert "a plug-in's method" in shown
    assert "Factor on the cosines." in unseen_with(tmp_path, "list", "blurred")
    words = ("photo.png", "--classes", "tree,fish", "--model", "blurred")
    assert "photo.png: " in unseen_with(tmp_path, "segment", *words)
    assert (tmp_path / "segmented" / "photo.png").exists()


def unseen_with(folder: Path, *words: str) -> str:
    """What a command prints where the packages of a folder are installed."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "unseen", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_name_that_is_taken(plugins: Path) -> None:
    install(plugins, "unseen_blur", "naclip = unseen_blur:Blurred")
    with pytest.raises(SettingError, match="'naclip' of unseen_blur has a name that unseen uses"):
        METHODS["naclip"]


def test_two_packages_of_one_name(plugins: Path) -> None:
    install(plugins, "unseen_blur", "blurred = unseen_blur:Blurred")
    install(plugins, "unseen_haze", "blurred = unseen_haze:Blurred")
    with pytest.raises(SettingError, match="has a name that unseen_(blur|haze) uses already"):
        list(METHODS)


def test_a_plugin_that_is_broken(plugins: Path) -> None:
    install(plugins, "unseen_blur", "blurred = unseen_blur:Blured")
    with pytest.raises(SettingError, match="'blurred' of unseen_blur cannot be imported"):
        METHODS["blurred"]


def test_docs_of_arguments() -> None:
    docs = argument_docs(
        "A.\n\n    Args:\n        a: One\n            two: three.\n        b: Four."
    )
    assert docs == {"a": "One two: three.", "b": "Four."}
    assert argument_docs("A.") == {}
    one = "A.\n\n    Attributes:\n        a: One\n            two: three.\n    "
    assert argument_docs(one) == {"a": "One two: three."}


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_documented(name: str) -> None:
    for option in METHODS[name].choices.values():
        assert option.doc.endswith("."), option.name


def test_values_of_options() -> None:
    known = METHODS["zegclip"].choices
    check("zegclip", {"num_prompts": 3, "prompt_depth": None, "train_grid": [2, 3]}, known)
    for name, value, remedy in (
        ("num_prompts", 0, "give a whole number of at least 1 and at most 8192"),
        ("num_prompts", True, "give a whole number"),
        ("train_grid", [2], "a list of 2"),
        ("train_grid", ["a", "b"], "for each entry, give a whole number"),
        ("dropout", 1, "at least 0 and below 1"),
        ("calibration", float("nan"), "give a number"),
        ("dice_weight", -1, "of at least 0"),
        ("scale", "x", "choose one of 'heads', 'width'"),
    ):
        with pytest.raises(SettingError, match=remedy):
            check("zegclip", {name: value}, known)
