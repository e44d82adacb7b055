"""Several seeds by one command, which goes on where it was stopped."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tiny.commands import FEW, error_of, run_command
from unseen import api
from unseen.runs import read_config

LINE = f"train zegclip {FEW}"


def test_a_run_for_each_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"{LINE} --out {tmp_path / 'runs'} --seeds 3,1")
    told = capsys.readouterr().out
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (3, 1)]
    assert f"next: unseen evaluate {folders[0]} {folders[1]}" in told
    assert [read_config(folder).train["seed"] for folder in folders] == [3, 1]
    run_command(f"{LINE} --out {tmp_path / 'alone'} --train.seed 1")
    one, other = (
        load_file(folder / "weights.safetensors") for folder in (folders[1], tmp_path / "alone")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_scored_together_they_share_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of scores tells them apart, their reports are of one model."""
    run_command(f"{LINE} --out {tmp_path} --seeds 0,1")
    folders = [str(tmp_path / f"seed-{seed}") for seed in (0, 1)]
    capsys.readouterr()
    run_command("evaluate", *folders, "--limit 3")
    assert capsys.readouterr().out.count("zegclip") == 2
    run_command("compare", *folders, "--format csv")
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["model"], row["seeds"]) == ("zegclip", "2")
    assert float(row["mIoU sd"]) >= 0


def test_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is missing; a finished run of other settings is not taken for one of these."""
    train = api.train

    def stopping(*given: object, **named: object) -> object:
        if "seed-1" in str(named["out"]):
            raise KeyboardInterrupt
        return train(*given, **named)  # type: ignore[arg-type]

    line = f"{LINE} --out {tmp_path}"
    with monkeypatch.context() as patch:
        patch.setattr(api, "train", stopping)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            run_command(line, "--seeds 0,1")
    stamp = (tmp_path / "seed-0" / "weights.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    run_command(line, "--seeds 0,1")
    assert f"{tmp_path / 'seed-0'} is finished" in capsys.readouterr().out
    assert (tmp_path / "seed-0" / "weights.safetensors").stat().st_mtime_ns == stamp
    assert (tmp_path / "seed-1" / "weights.safetensors").exists()
    error = error_of(capsys, line, "--seeds 0,2 --train.lr 0.5")
    assert "seed-0 was begun with other settings: train.lr" in error
    assert not (tmp_path / "seed-2").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seeds 0,1,0", "the seed 0 is given twice"),
        ("--seeds 0,one", "--seeds is '0,one'; give numbers separated by commas"),
        ("--seeds -1", "give numbers separated by commas"),
        ("--seeds 0,1 --train.seed 2", "--seeds and --train.seed are both given"),
        ("--seeds 0,1 --resume", "goes on with what is missing by itself"),
        ("--seeds 0,1 --train.devices 2", "one run after the other on one device"),
    ],
)
def test_what_is_refused(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, f"{LINE} --out {tmp_path / 'runs'}", flags)
    assert not (tmp_path / "runs").exists()
