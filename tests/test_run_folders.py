"""Run folders that others have written to: links, foreign files, damaged parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import unseen
from test_convert import checkpoint
from tiny.commands import FEW, ONE_STEP, error_of, run_command
from unseen.errors import CheckpointError, DataError, SettingError
from unseen.files import write_json

SMALL = f"{ONE_STEP} --train.workers 0 --train.transforms.crop 32"


@pytest.mark.parametrize(
    "name", ["state/running.txt", "logs/metrics.csv", "logs", "state", "text_embeddings.npy"]
)
def test_nothing_is_written_through_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    other.mkdir()
    (other / "mine").write_text("precious")
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(other if "." not in name else other / "mine")
    error = error_of(capsys, f"train zegclip --out {run}", SMALL)
    assert f"{run / name} is a link" in error
    assert [path.name for path in other.iterdir()] == ["mine"]
    assert (other / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    "name",
    ["state/running.txt", "logs/metrics.csv", "text_embeddings.npy", "state/last.ckpt",
     "step-1/config.yaml"],
)  # fmt: skip
def test_files_of_others_in_a_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    line = f"train zegclip --out {tmp_path / 'run'} --train.snapshots [1]"
    assert f"{path} exists" in error_of(capsys, line, SMALL)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "content", [b"mine\n", b"step,loss\nx,1\n", b"loss,step\n1\n", b"caf\xe9", b"a\0b\n", None]
)
def test_damaged_curves(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    stopped = tmp_path / "run"
    run_command(f"train zegclip --out {stopped}", FEW, "--train.save_every 1")
    (stopped / "weights.safetensors").unlink()
    curve = stopped / "logs" / "metrics.csv"
    curve.unlink()
    if content is None:
        curve.mkdir()
    else:
        curve.write_bytes(content)
    line = f"train zegclip --out {stopped} --resume"
    assert "metrics.csv" in error_of(capsys, line, FEW, "--train.save_every 1")


def test_folders_beside_a_converted_run(tmp_path: Path) -> None:
    """Only what the program itself was writing is removed."""
    whole, _, flags = checkpoint("zegclip_a")
    torch.save(whole, tmp_path / "a.pth")
    (tmp_path / ".run-unfinished").mkdir()
    (tmp_path / ".run-unfinished" / "thesis.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for out in ("run", "link"):
        run_command(
            f"convert zegclip {tmp_path / 'a.pth'} --benchmark voc --out {tmp_path / out}", *flags
        )
        assert (tmp_path / out / "weights.safetensors").exists()
    assert (tmp_path / ".run-unfinished" / "thesis.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".unseen*"))


# ------------------------------------------------------------------------- marks


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photo.json", '{"notes": "my numbers for the map written by unseen 0.2"}'),
        ("photo.json", '{\n "format": "my own"}'),
        ("photo.json", "format: my own\n"),
    ],
)
def test_files_that_only_mention_the_program(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    line = f"segment {photo} --classes boat --out {tmp_path / 'out'}"
    assert "was not written by unseen" in error_of(capsys, line)
    assert (tmp_path / "out" / name).read_text() == content


def test_a_demo_removes_its_own_files_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = tmp_path / "demo"
    write_json(demo / "demo.json", {})
    for name in ("run/logs/thesis.txt", "segmented/scene0.png", "naclip/report.json", "run"):
        path = demo / name
        shutil.rmtree(demo / "run", ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        error_of(capsys, f"demo --out {demo} --steps 1 --limit 1")
        assert path.read_text() == "mine"
        path.unlink()


# ----------------------------------------------------------------------- settings

EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a text as classes": lambda stored: stored.update(class_names="boat"),
    "no classes": lambda stored: stored.update(class_names=[]),
    "a class twice": lambda stored: stored["class_names"].append(stored["class_names"][0]),
    "seen is no class": lambda stored: stored["seen"].append("nope"),
    "a regime": lambda stored: stored["train"].update(regime="evil"),
    "synonyms of no class": lambda stored: stored.update(synonyms={"nope": ["a"]}),
    "no inference": lambda stored: stored.update(inference={}),
    "an argument as option": lambda stored: stored["model"]["options"].update(clip="x"),
    "published as option": lambda stored: stored["model"]["options"].update(published=True),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_settings_of_a_run(run: Path, tmp_path: Path, edit: str) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    stored = yaml.safe_load((copied / "config.yaml").read_text())
    EDITS[edit](stored)
    (copied / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises((CheckpointError, SettingError)):
        unseen.load(copied)


@pytest.mark.parametrize("option", ["clip", "published", "name", "method"])
def test_options_that_are_called_like_arguments(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    given = f"--options.{option} x"
    error_of(capsys, f"segment {photo} --classes boat {given}")
    error_of(capsys, f"train zegclip --out {tmp_path / 'run'} {given}", SMALL)
    file = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1)}, file)
    error_of(capsys, f"convert zegclip {file} --benchmark voc --out {tmp_path / 'c'} {given}")


# ------------------------------------------------------------------------ results


def test_names_of_results(tmp_path: Path) -> None:
    result = unseen.segment(Image.new("RGB", (40, 30)), ["boat", "key"])
    for stem in ("../out", str(tmp_path / "out"), "", "a\0b", "a/b"):
        with pytest.raises((DataError, SettingError)):
            result.save(tmp_path / "results", stem)
    result.save(str(tmp_path / "results"), "photo")
    assert json.loads((tmp_path / "results" / "photo.json").read_text())["width"] == 40
    with pytest.raises(SettingError, match="at least 0"):
        result.largest(-1)
    with pytest.raises(DataError, match="shorter name"):
        result.save(tmp_path / "results", "x" * 245)
