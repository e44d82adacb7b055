"""A grid of trainings by one command, which goes on where it was stopped."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tiny import write_own
from tiny.commands import error_of, run_command
from tiny.scenes import use_few_scenes
from unseen.runs import read_config
from unseen.sweeps import folder_name, read_sweep

GRID = """
method: zegclip
benchmark: doodles
grid:
  train.lr: [1e-3, 0.002]
  options.num_prompts: [2, 4]
set:
  train.steps: 1
  train.batch_size: 2
  train.transforms.crop: 64
seeds: [5]
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_few_scenes(monkeypatch)
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def test_every_combination_is_trained_and_compared(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"sweep {grid} --out {tmp_path / 'runs'} --format csv"
    run_command(line)
    out = capsys.readouterr().out
    table = list(csv.DictReader(io.StringIO(out[out.index("model,seeds") :])))
    names = [f"lr={lr},num_prompts={n}" for lr in ("0.001", "0.002") for n in (2, 4)]
    assert [row["model"] for row in table] == [f"zegclip ({name})" for name in names]
    runs = [read_config(tmp_path / "runs" / name / "seed-5") for name in names]
    assert [run.train["lr"] for run in runs] == [0.001, 0.001, 0.002, 0.002]
    assert [run.model.options["num_prompts"] for run in runs] == [2, 4, 2, 4]
    assert all(run.train["transforms"]["crop"] == 64 for run in runs)
    # A part of the images that was scored by hand is not the sweep's score.
    run_command(f"evaluate {tmp_path / 'runs' / names[0] / 'seed-5'} --limit 2")
    capsys.readouterr()
    # Again: only what is missing.
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    (tmp_path / "runs" / names[1] / "seed-5" / "weights.safetensors").unlink()
    run_command(line)
    capsys.readouterr()
    report = tmp_path / "runs" / names[1] / "seed-5" / "eval-doodles" / "report.json"
    assert report.stat().st_mtime_ns > max(weights.values()), "trained again, so scored again"
    for path, stamp in weights.items():
        assert (path.stat().st_mtime_ns == stamp) == (names[1] not in str(path))


def test_several_at_a_time(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ray Tune: the runs and the table of a sweep without it; and it goes on."""
    pytest.importorskip("ray.tune")
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path / "zoo")  # workers know nothing of fewer scenes
    text = GRID.replace("train.lr: [1e-3, 0.002]", "train.lr: [1e-3]")
    grid.write_text(text.replace("benchmark: doodles", "benchmark: zoo\nclip: doodles"))
    run_command(f"sweep {grid} --out one --format csv")
    told = capsys.readouterr().out
    table = rows(told[told.index("model,seeds") :])
    finished, other = (Path(f"many/lr=0.001,num_prompts={n}/seed-5") for n in (2, 4))
    finished.parent.mkdir(parents=True)
    shutil.copytree("one/lr=0.001,num_prompts=2/seed-5", finished)
    stamp = (finished / "weights.safetensors").stat().st_mtime_ns
    # What is refused in a worker is one sentence here, and the other runs are trained.
    shutil.rmtree(finished / "eval-zoo")
    (finished / "eval-zoo").mkdir()
    (finished / "eval-zoo" / "report.html").write_text("mine")
    line = f"sweep {grid} --out many --format csv --engine ray --workers 2"
    assert "report.html exists and was not written by unseen" in error_of(capsys, line)
    assert (other / "eval-zoo" / "report.json").exists()
    (finished / "eval-zoo" / "report.html").unlink()
    run_command(line)
    again = rows(capsys.readouterr().out)  # and nothing of Ray's
    assert [(row["model"], row["seeds"]) for row in again] == [
        (row["model"], row["seeds"]) for row in table
    ]
    assert (finished / "weights.safetensors").stat().st_mtime_ns == stamp
    alone = Path("one", *other.parts[1:])
    assert read_config(other) == read_config(alone)
    first, second = (load_file(run / "weights.safetensors") for run in (alone, other))
    # Not to the bit: rounding in bf16 differs with the number of threads.
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def rows(table: str) -> list[dict[str, str]]:
    """The rows of a table as CSV."""
    return list(csv.DictReader(io.StringIO(table)))


def test_workers_are_for_an_engine(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--workers is for --engine ray" in error_of(capsys, f"sweep {grid} --workers 2")


def test_a_cluster_that_is_not_there(
    grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    def init(**_: object) -> None:
        raise ConnectionError("no cluster")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    line = f"sweep {grid} --out {grid.parent / 'runs'} --engine ray"
    assert "there is no Ray cluster at auto (RAY_ADDRESS)" in error_of(capsys, line)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: zegclip", "methods: zegclip", "is no sweep"),
        ("seeds: [5]", "seed: 5", "says 'seed', which no sweep has"),
        ("seeds: [5]", "seeds: [5, 5]", "seeds that are all different"),
        ("seeds: [5]", "seeds: five", "seeds in"),
        ("train.lr: [1e-3, 0.002]", "lr: [1e-3]", "give train.NAME or options.NAME"),
        ("train.lr: [1e-3, 0.002]", "train.lr: 1e-3", "give a list of values"),
        ("train.lr: [1e-3, 0.002]", "train.lr: [1e-3, 1e-3]", "has a value twice"),
        ("train.lr: [1e-3, 0.002]", "train.lr: [1e-3, 0.001]", "has a value twice"),
        ("train.lr: [1e-3, 0.002]", "train.transforms: [{}]", "a part of it; remove one"),
        ("seeds: [5]", "published: maybe", "published in"),
        ("seeds: [5]", "clip: 5", "clip in"),
        ("train.steps: 1", "train.lr: 1", "under grid and under set"),
        ("train.steps: 1", "train.seed: 1", "list the seeds under seeds"),
        ("train.lr: [1e-3, 0.002]", "train.lr: [fast]", "lr is 'fast'"),
        ("options.num_prompts", "options.no_such", "no_such"),
        ("method: zegclip", "method: naclip", "nothing to train"),
    ],
)
def test_what_is_refused(
    old: str, new: str, message: str, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in GRID
    grid.write_text(GRID.replace(old, new))
    out = grid.parent / "runs"
    assert message in error_of(capsys, f"sweep {grid} --out {out}")
    assert not out.exists()


def test_names_of_combinations() -> None:
    assert folder_name({"train.lr": 0.1, "options.scale": "a/b"}) == "lr=0.1,scale=a_b"
    assert folder_name({"train.scale": 1, "options.scale": 2}) == "train.scale=1,options.scale=2"


def test_python(grid: Path) -> None:
    made = list(read_sweep(grid).combinations())
    assert len(made) == 4
    assert made[0][2].lr == 0.001
