"""Scores while training: they disturb nothing, and the best step by them is kept."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import unseen
from tiny.commands import run_command
from tiny.scenes import use_few_scenes
from unseen import progress
from unseen.data.benchmarks import get_benchmark
from unseen.errors import DataError
from unseen.evaluation.validation import best_by
from unseen.progress import ProgressBar, loss_shown
from unseen.recipes import resolve
from unseen.runs import read_config
from unseen.training import records

TRAIN = {"steps": 6, "batch_size": 2, "warmup": 0, "log_every": 1, "workers": 0, "save_every": 3}
VALIDATED = {**TRAIN, "validate_every": 2, "validate_images": 5}


def train(out: Path, given: dict[str, Any], method: str = "zegclip", **how: Any) -> None:
    benchmark = how.pop("benchmark", "doodles")
    model, settings = resolve(method, benchmark, train=given)
    unseen.train(model, settings, benchmark, out, progress=False, **how)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "validation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def _few_scenes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_few_scenes(patch)
        yield


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that is scored after every second one."""
    out = tmp_path_factory.mktemp("validated") / "run"
    train(out, VALIDATED)
    return out


def test_the_run_is_not_disturbed(validated: Path, tmp_path: Path) -> None:
    """Its weights are, to the bit, those of one that is never scored."""
    train(tmp_path / "plain", TRAIN)
    runs = (validated, tmp_path / "plain")
    one, other = (load_file(each / "weights.safetensors") for each in runs)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "plain" / "best").exists()
    assert not (tmp_path / "plain" / "logs" / "validation.csv").exists()


def test_scores_are_those_of_an_evaluation(validated: Path, tmp_path: Path) -> None:
    """Of the same images, spread over the set, with the weights of the last step."""
    assert [row["step"] for row in rows(validated)] == ["1", "3", "5"]
    (report,) = unseen.evaluate(validated, save=False, settings={"progress": False})
    assert set(rows(validated)[0]) == {*report.scores, "step"}
    train(tmp_path / "all", {**VALIDATED, "validate_images": 12, "validate_every": 6})
    (last,) = rows(tmp_path / "all")
    for name, value in report.scores.items():
        assert float(last[name]) == pytest.approx(value, abs=1e-6)


def test_the_best_step_is_kept(validated: Path) -> None:
    """As a run folder that says how it was chosen."""
    scores = {int(row["step"]) + 1: float(row["hIoU"]) for row in rows(validated)}
    best = max(scores, key=lambda step: (scores[step], -step))
    chosen = read_config(validated / "best").chosen
    assert chosen == {"step": best, "score": "hIoU", "value": round(scores[best], 4), "images": 5}
    assert read_config(validated).chosen is None
    (report,) = unseen.evaluate(validated / "best", save=False, settings={"limit": 2, "shown": 0})
    assert report.protocol["chosen"] == chosen


def test_without_the_score_another_one_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images without an unseen class have no hIoU; of equal ones the mIoU decides."""
    told = iter([math.nan, math.nan, math.nan])
    miou = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr(
        "unseen.evaluation.validation.Validation.__call__",
        lambda _: {"mIoU": next(miou), "hIoU": next(told)},
    )
    train(tmp_path / "nan", VALIDATED)
    chosen = read_config(tmp_path / "nan" / "best").chosen
    assert chosen == {"step": 4, "score": "mIoU", "value": 30.0, "images": 5}
    told, miou = iter([0.0, 0.0, 0.0]), iter([10.0, 30.0, 20.0])
    train(tmp_path / "zero", VALIDATED)
    chosen = read_config(tmp_path / "zero" / "best").chosen
    assert chosen == {"step": 4, "score": "hIoU", "value": 0.0, "images": 5}


def test_what_a_killed_run_left_is_forgotten(validated: Path, tmp_path: Path) -> None:
    """Before its first state; a new run there has neither its scores nor its best step."""
    for name in ("config.yaml", "logs", "best", "curves.png"):
        copy = shutil.copytree if (validated / name).is_dir() else shutil.copy
        (tmp_path / "run").mkdir(exist_ok=True)
        copy(validated / name, tmp_path / "run" / name)
    train(tmp_path / "run", TRAIN)
    assert not (tmp_path / "run" / "logs" / "validation.csv").exists()
    assert not (tmp_path / "run" / "best" / "weights.safetensors").exists()


@pytest.mark.parametrize("name", ["best/config.yaml", "curves.png", "cost.json"])
def test_files_of_others_are_told_first(name: str, tmp_path: Path) -> None:
    """Before anything is trained."""
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(DataError, match=f"{name} exists and was not written by unseen"):
        train(tmp_path / "run", VALIDATED)
    assert path.read_text() == "mine"


def test_a_stopped_run_has_the_scores_of_the_whole_one(
    validated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind a validation whose state was never saved."""
    validate = records.Records._validate

    def stopping(self: records.Records, curve: Any, taken: int) -> None:
        validate(self, curve, taken)
        if taken == 4:
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(records.Records, "_validate", stopping)
        with pytest.raises(ZeroDivisionError):
            train(tmp_path / "cut", VALIDATED)
    assert [row["step"] for row in rows(tmp_path / "cut")] == ["1", "3"]
    train(tmp_path / "cut", VALIDATED, resume=True)
    assert rows(tmp_path / "cut") == rows(validated)
    names = ("weights.safetensors", "best/weights.safetensors")
    for name in names:
        one, other = (load_file(each / name) for each in (validated, tmp_path / "cut"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert read_config(tmp_path / "cut" / "best") == read_config(validated / "best")


def test_folds_are_scored_by_their_classes(tmp_path: Path) -> None:
    given = {**VALIDATED, "steps": 2}
    train(tmp_path / "run", given, "esda", benchmark="doodles-5i/0")
    (row,) = rows(tmp_path / "run")
    assert set(row) == {"mIoU", "FB_IoU", "step"}
    assert read_config(tmp_path / "run" / "best").chosen["score"] == "mIoU"  # type: ignore[index]
    assert best_by(get_benchmark("doodles-5i/0")) == "mIoU"
    assert best_by(get_benchmark("doodles")) == "hIoU"


def test_the_curves_have_a_picture(validated: Path) -> None:
    """With scores, and, of a run that was never scored, without."""
    with Image.open(validated / "curves.png") as picture:
        picture.load()
        assert picture.width > 500
        assert "written by unseen" in picture.info["Software"]


def test_the_command_says_what_was_chosen(
    validated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(f"evaluate {validated / 'best'} --limit 2 --out {tmp_path / 'scores'}")
    out = capsys.readouterr().out
    step = read_config(validated / "best").chosen["step"]  # type: ignore[index]
    assert f"step {step} was chosen by hIoU on 5 images of the validation set" in out


# --------------------------------------------------------------------- the bar


def test_a_log_file_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is for terminals: elsewhere a line tells now and then how far it is."""
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    text = io.StringIO()
    with ProgressBar(True, Console(file=text, width=40)) as bar:
        task = bar.add_task("training [a]", total=20_000, completed=100, note="")
        for loss in (2.5, 1.25):
            bar.update(task, advance=1, note=loss_shown(loss, 1e-4, {"hIoU": 43.21}))
            bar.draw_when_due()
    lines = text.getvalue().splitlines()
    assert lines[0] == "training [a] 101/20000  loss 2.5  lr 0.0001  hIoU 43.2"
    assert lines[1].startswith("training [a] 102/20000  loss 1.25  lr 0.0001  hIoU 43.2")
    assert "\x1b" not in text.getvalue()
    quiet = io.StringIO()
    with ProgressBar(False, Console(file=quiet)) as bar:
        bar.add_task("training", total=2, note="")
        bar.draw_when_due()
    assert quiet.getvalue() == ""
