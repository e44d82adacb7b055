"""Where else the numbers of a run go: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from unseen.errors import SettingError
from unseen.files import write_text
from unseen.texts import read_text

PROJECT = "unseen"
"""Of the runs, in Weights & Biases and MLflow."""


class Curve(Protocol):
    """Takes the numbers of single steps."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, counted from 0."""

    def close(self) -> None:
        """Write what is still held back."""


class TensorBoardCurve:
    """Event files for TensorBoard.

    Args:
        folder: Where they lie.
        start: The step a run begins or is resumed with.
        told: Not written.

    Raises:
        SettingError: The package tensorboard does not work.
    """

    def __init__(self, folder: Path, start: int, told: Mapping[str, Any]) -> None:
        del told
        # torch has the writer, but it needs the package tensorboard, an extra. `unseen.plans` has
        # looked for it, though it may be there and not work.
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingError(
                f"--train.logger tensorboard: the package cannot be imported ({error}); install it"
                " again with pip install 'unseen[track]'"
            ) from error

        # Events from `start` on, which a resumed run writes again, are hidden by TensorBoard.
        self.writer = SummaryWriter(str(folder), purge_step=start or None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar for every number."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still held back."""
        self.writer.close()


class WandbCurve:
    """A run of Weights & Biases, in the project "unseen", named after the run folder.

    With WANDB_MODE=offline it lies in the folder, to be sent later with `wandb sync`.

    Args:
        folder: Where its files lie.
        start: The step a run begins or is resumed with; it then goes on with the same run.
        told: Settings that the run shows.

    Raises:
        SettingError: It cannot be started: nobody is logged in, or there is no network.
    """

    def __init__(self, folder: Path, start: int, told: Mapping[str, Any]) -> None:
        import wandb

        known = _known_run(folder / "wandb.txt", start, lambda: secrets.token_hex(4))
        try:
            self.run = wandb.init(
                project=PROJECT,
                name=folder.resolve().parent.name,
                dir=str(folder),
                id=known,
                resume="allow",
                config=dict(told),
                settings=wandb.Settings(silent=True),
            )
        except wandb.Error as error:
            raise SettingError(
                f"--train.logger wandb: the run cannot be started ({error}); log in with wandb"
                " login, or set WANDB_MODE=offline"
            ) from error
        # By a number of its own, as steps may come again after a resume.
        self.run.define_metric("*", step_metric="step")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        self.run.log({**values, "step": step})

    def close(self) -> None:
        """Wait until everything is sent."""
        self.run.finish()


class MlflowCurve:
    """A run of MLflow, in the experiment "unseen", named after the run folder.

    It goes to MLFLOW_TRACKING_URI, by default to the file mlflow.db in the folder.

    Args:
        folder: Where its files lie.
        start: The step a run begins or is resumed with; it then goes on with the same run.
        told: Settings that the run shows.

    Raises:
        SettingError: The server cannot be reached.
    """

    def __init__(self, folder: Path, start: int, told: Mapping[str, Any]) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        try:
            self.client = MlflowClient(tracking_uri=place)
            self.run = _known_run(folder / "mlflow.txt", start, lambda: self._new_run(folder, told))
        except MlflowException as error:
            raise SettingError(
                f"--train.logger mlflow: {place} cannot be used ({error}); check"
                " MLFLOW_TRACKING_URI"
            ) from error

    def _new_run(self, folder: Path, told: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        experiment = self.client.get_experiment_by_name(PROJECT)
        if experiment is None:
            number = self.client.create_experiment(PROJECT)
        else:
            number = experiment.experiment_id
        run = self.client.create_run(number, run_name=folder.resolve().parent.name)
        params = [Param(_plain(name), str(value)[:500]) for name, value in told.items()]
        for first in range(0, len(params), 100):  # so many a request
            self.client.log_batch(run.info.run_id, params=params[first : first + 100])
        return str(run.info.run_id)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step that are numbers."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        metrics = [Metric(name, value, now, step) for name, value in known.items()]
        try:
            self.client.log_batch(self.run, metrics=metrics)
        except MlflowException as error:
            # A server that goes away is no reason to lose a training.
            logging.getLogger("unseen").warning("MLflow lacks step %d (%s)", step, error)

    def close(self) -> None:
        """Say that the run has ended."""
        self.client.set_terminated(self.run)


def _plain(name: str) -> str:
    """A name as MLflow takes it: class names are in some."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def _known_run(path: Path, start: int, make: Callable[[], str]) -> str:
    """The name by which a service knows a run; a resumed one has its own."""
    if start and path.exists():
        return read_text(path).strip()
    name = make()
    write_text(path, f"{name}\n", ours=True)
    return name


LOGGERS: dict[str, type[TensorBoardCurve | WandbCurve | MlflowCurve]] = {
    "tensorboard": TensorBoardCurve,
    "wandb": WandbCurve,
    "mlflow": MlflowCurve,
}
"""What `train.logger` adds to the CSV files, by its values."""
