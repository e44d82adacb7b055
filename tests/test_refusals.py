"""Command lines that are refused: names, values, flags and run folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tiny.commands import FEW, error_of


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
    assert "type int" in error_of(capsys, "train zegclip", new, "--options.num_prompts ten")
    assert "give at least 1" in error_of(capsys, "train zegclip", new, "--options.decoder_heads 0")
    assert "probability" in error_of(capsys, "train zegclip", new, "--options.dropout 2")
    assert "--inference.window is -3; give 0 or more" in error_of(
        capsys, "evaluate naclip --inference.window -3"
    )
    assert "starts from an inductive run" in error_of(
        capsys, "train zegclip", new, "--train.regime transductive"
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
        (run / "config.yaml").read_text().replace("format: 3", "format: 7")
    )
    assert "layout version 7" in error_of(capsys, f"evaluate {broken}")
    assert "not a run folder" in error_of(capsys, f"evaluate {tmp_path}")
    assert "holds a finished run" in error_of(capsys, f"train zegclip --out {run}", FEW)
    (tmp_path / "half" / "state").mkdir(parents=True)
    (tmp_path / "half" / "state" / "last.ckpt").touch()
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
