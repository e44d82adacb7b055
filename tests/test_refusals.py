"""Command lines that are refused: names, values, flags and run folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import unseen
from tiny import write_own
from tiny.commands import FEW, error_of
from unseen.errors import SettingError


def test_bad_names(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not PASCAL VOC's folder" in error_of(
        capsys, f"evaluate naclip --benchmark voc --root {tmp_path}"
    )
    assert "did you mean 'num_prompts'" in error_of(
        capsys, f"train zegclip --options.num_promts 3 --out {tmp_path / 'x'}"
    )
    assert "choose doodles" in error_of(capsys, "pretrain web")
    assert "no file and no open_clip tag" in error_of(
        capsys, f"segment {photo} --classes a --clip missing.pt"
    )


def test_bad_values(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = f"--out {tmp_path / 'x'}"
    assert "'ignore', 'negative'" in error_of(
        capsys, "train zegclip", new, "--options.ignored_as background"
    )
    assert "give a whole number" in error_of(
        capsys, "train zegclip", new, "--options.num_prompts ten"
    )
    assert "of at least 1" in error_of(capsys, "train zegclip", new, "--options.decoder_heads 0")
    assert "below 1" in error_of(capsys, "train zegclip", new, "--options.dropout 2")
    assert "--inference.window is -3; give a whole number of at least 1" in error_of(
        capsys, "evaluate naclip --inference.window -3"
    )
    assert "starts from an inductive run" in error_of(
        capsys, "train zegclip", new, "--train.regime transductive"
    )
    # An old name of --classes, which this verb has under neither.
    assert "there is no --words (did you mean --class-file?)" in error_of(
        capsys, "train zegclip --words w.txt"
    )
    assert "there is no --limi" in error_of(capsys, "evaluate naclip --limi 2")
    assert "did you mean doodles-5i/0?" in error_of(
        capsys, "evaluate naclip --benchmark doodels-5i/0"
    )
    assert "not available here" in error_of(capsys, f"segment {photo} --classes tree --device tpu9")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train zegclip --train.steps ten", "--train.steps is 'ten'; give a whole number"),
        (
            "train zegclip --trian.steps 10",
            "there is no --trian.steps (did you mean --train.steps?); unseen train --help shows"
            " all flags",
        ),
        (
            "train zegclip --train.regime x",
            "--train.regime is 'x'; choose one of 'inductive', 'transductive', 'supervised'",
        ),
        (
            "evaluate naclip --inference.window abc",
            "--inference.window is 'abc'; give a whole number",
        ),
        ("segment a.jpg --classes cat --threshold high", "--threshold is 'high'; give a number"),
        ("segment a.jpg", "--classes is missing; unseen segment --help says what to give"),
        ("segment a.jpg --classes", "--classes needs a value; unseen segment --help says more"),
        ("train", "METHOD is missing; unseen train --help says what to give"),
    ],
)
def test_messages_of_the_parser(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, line) == f"unseen: {message}"


def test_bad_runs(
    run: Path, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (broken / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes()[:1000])
    assert "not a complete safetensors file" in error_of(
        capsys, f"segment {photo} --classes tree --model {broken}"
    )
    (broken / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("format: 4", "format: 7")
    )
    assert "layout version 7" in error_of(capsys, f"evaluate {broken}")
    assert "not a run folder" in error_of(capsys, f"evaluate {tmp_path}")
    assert "holds a finished run" in error_of(capsys, f"train zegclip --out {run}", FEW)
    (tmp_path / "half" / "state").mkdir(parents=True)
    (tmp_path / "half" / "state" / "last.ckpt").touch()
    assert "is no run folder (no config.yaml in it)" in error_of(
        capsys, f"train zegclip --out {tmp_path / 'half'}", FEW
    )
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "weights.safetensors").write_text("a network of somebody else's")
    assert "theirs is no run folder (no config.yaml in it)" in error_of(
        capsys, f"train zegclip --out {tmp_path / 'theirs'}", FEW
    )
    (tmp_path / "half" / "config.yaml").write_text((run / "config.yaml").read_text())
    assert "go on with --resume" in error_of(
        capsys, f"train zegclip --out {tmp_path / 'half'}", FEW
    )
    assert "another model" in error_of(
        capsys,
        f"train zegclip --out {tmp_path / 'n'} --init {run}",
        FEW,
        "--options.decoder_layers 2",
    )
    torch.save({"a": Path("x")}, tmp_path / "code.pt")
    assert "may run code" in error_of(
        capsys, f"segment {photo} --classes tree --clip {tmp_path / 'code.pt'}"
    )


def test_a_logger_that_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missed before anything is written."""
    monkeypatch.setattr("unseen.plans.find_spec", lambda name: None)
    line = f"train zegclip --out {tmp_path / 'run'} --train.logger"
    assert "install it with pip install 'unseen[track]'" in error_of(
        capsys, line, "tensorboard", FEW
    )
    assert not (tmp_path / "run").exists()


def test_results_among_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_own(tmp_path / "own")
    before = sorted(own.rglob("*"))
    for line in (
        f"evaluate naclip --benchmark {own} --out {own / 'images'}",
        f"check {own} --out {own / 'labels' / 'below'}",
        f"train zegclip --clip doodles --benchmark {own} --out {own / 'images' / 'run'}",
    ):
        assert "would be written among the files of" in error_of(capsys, line)
    assert sorted(own.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    ["pretrain --steps 1.5", "train zegclip --train.workers 1.9", "evaluate naclip --limit 2.5"],
)
def test_fractions_of_whole_numbers(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give a whole number" in error_of(capsys, line)


def test_names_too_long_for_a_file(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 5000
    for line in (
        f"segment {photo} --classes a --clip {long}.pt",
        f"segment {long} --classes a",
        f"train zegclip --out {long}",
        f"evaluate {long}",
        f"check {long}",
    ):
        assert "is too long for the name of a file; " in error_of(capsys, line)


def test_settings_that_would_be_ignored(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out {tmp_path / 'out'}"
    assert "clip has no published protocol" in error_of(
        capsys, f"segment {photo} --classes a --model clip --published {out}"
    )
    assert "there are no windows; give --inference.window" in error_of(
        capsys, f"evaluate naclip --inference.window 0 --inference.stride 16 {out}"
    )
    np.save(tmp_path / "rows.npy", np.array([[1.0, 0.0], [np.nan, 1.0]]))
    flags = f"--text-embeddings {tmp_path / 'rows.npy'} {out}"
    assert "row 2 of" in error_of(capsys, f"segment {photo} --classes a,b {flags}")
    (tmp_path / "words.txt").write_text("a, c\nb\n")
    both = f"segment {photo} --classes {tmp_path / 'words.txt'} --combine max {flags}"
    assert "so synonyms and words for the background would not be read" in error_of(capsys, both)
    assert "is no class file" in error_of(capsys, f"segment {photo} --classes {tmp_path} {out}")
    with pytest.raises(SettingError, match="no evaluation setting 'limt' .did you mean 'limit'"):
        unseen.evaluate("naclip", settings={"limt": 5})
