"""Loggers: what a run writes to other services, in their modes without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny.commands import error_of
from unseen.settings import LOGGER_EXTRAS
from unseen.training.curves import open_curves
from unseen.training.loggers import LOGGERS


def written(folder: Path, logger: str) -> None:
    """Three steps, of which the last two come again after a resume."""
    for start, steps in ((0, (0, 1, 2)), (1, (1, 2))):
        curves = open_curves(folder / "logs", logger, start, {"model.method": "zegclip"})
        for step in steps:
            for curve in curves:
                curve.add(step, {"loss": 3.0 - step, "loss/dice": 1.0, "hIoU": float("nan")})
        for curve in curves:
            curve.close()


def test_mlflow_keeps_one_run_over_resumes(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        written(tmp_path / "my run", "mlflow")
    place = f"sqlite:///{tmp_path / 'my run' / 'logs' / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("unseen")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model.method": "zegclip"}
    assert run.data.metrics == {"loss": 1.0, "loss/dice": 1.0}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {each.step: each.value for each in history} == {0: 3.0, 1: 2.0, 2: 1.0}


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    written(tmp_path / "my run", "wandb")
    logs = tmp_path / "my run" / "logs"
    known = (logs / "wandb.txt").read_text().strip()
    files = sorted((logs / "wandb").glob(f"offline-run-*-{known}*/run-{known}.wandb"))
    assert len(files) == 1 or len(files) == 2
    content = b"".join(file.read_bytes() for file in files)
    assert b"my run" in content
    assert b"loss/dice" in content
    assert b"zegclip" in content


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(Exception, match="--train.logger mlflow: nonsense://nowhere cannot be used"):
        open_curves(tmp_path / "logs", "mlflow", 0, {})


@pytest.mark.parametrize("logger", LOGGERS)
def test_what_is_not_installed_is_said_first(
    logger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unseen.plans.find_spec", lambda _: None)
    error = error_of(capsys, f"train zegclip --out {tmp_path / 'run'} --train.logger {logger}")
    assert f"pip install 'unseen[{LOGGER_EXTRAS[logger]}]'" in error
    assert not (tmp_path / "run").exists()
