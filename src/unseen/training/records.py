"""What a run writes while it trains: curves, states, snapshots."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from unseen.runs import BEST, CONFIG, LOGS, SCORED, TEXT, WEIGHTS, has_state
from unseen.settings import TrainSettings
from unseen.training.curves import VALIDATION, CsvCurve, draw_curves, open_curves
from unseen.training.loggers import Curve
from unseen.training.state import save_state


@dataclass(frozen=True)
class RunControl:
    """Where a run writes, and what happens besides the training.

    Attributes:
        out: Run folder; curves and states go there.
        resume: Go on from the state in `out`, if there is one.
        init: The weights are those of another run.
        progress: Show progress bars.
        told: Settings that loggers show.
        begin: Called before the first step, when all settings have proved to be valid.
        snapshot: Called with the number of steps taken, after each of `settings.snapshots`.
        validate: Called after each `settings.validate_every` steps; gives the scores, in percent.
        best_by: The score by which the best step is chosen.
        keep_best: Called with the number of steps taken, when its scores are the best so far, and
            with the score that says so.
        end: Called after the last step, while the run folder is still locked.

    The functions are called in the process that writes.
    """

    out: Path
    resume: bool = False
    init: bool = False
    progress: bool = True
    told: Mapping[str, Any] = field(default_factory=dict)
    begin: Callable[[], None] = lambda: None
    snapshot: Callable[[int], None] = lambda step: None
    validate: Callable[[], dict[str, float]] = dict
    best_by: str = "hIoU"
    keep_best: Callable[[int, str, float], None] = lambda step, name, score: None
    end: Callable[[], None] = lambda: None

    @property
    def goes_on(self) -> bool:
        """Whether there is a state to go on from."""
        return self.resume and has_state(self.out)

    @property
    def anew(self) -> bool:
        """Whether training begins with new weights."""
        return not self.init and not self.goes_on


class Records:
    """Writes what is due after a step; every process calls it, one of them writes.

    Args:
        fabric: The processes.
        optimizer: Its state and learning rates are written.
        trained: The tensors that a state keeps, by name.
        settings: What is due after which steps.
        control: Where to write.

    Attributes:
        loss: The total loss written last; None before the first.
        scores: The scores of the validation before; none before the first.
        taken: Steps taken.
        saved: The step of the last state, and when it was written.
    """

    def __init__(
        self,
        fabric: Fabric,
        optimizer: torch.optim.Optimizer,
        trained: Callable[[], dict[str, Tensor]],
        settings: TrainSettings,
        control: RunControl,
    ) -> None:
        self.fabric, self.optimizer, self.trained = fabric, optimizer, trained
        self.settings, self.control = settings, control
        self.curves: list[Curve] = []
        self.validation: CsvCurve | None = None
        self.best = self._rank({})
        self.scores: dict[str, float] = {}
        self.loss: float | None = None
        self.taken, self.saved = 0, (0, time.monotonic())

    def begin(self, start: int) -> None:
        """Open the curves of a run whose next step is `start`."""
        self.taken, self.saved = start, (start, time.monotonic())
        # The configuration is written first: curves without one would belong to no run.
        if self.fabric.is_global_zero:
            self.control.begin()
            if not start:
                self._forget_former()
            logs = self.control.out / LOGS
            self.curves = open_curves(logs, self.settings.logger, start, self.control.told)
            if self.settings.validate_every is not None:
                self.validation = CsvCurve(logs, start, VALIDATION)
                for row in self.validation.kept:
                    scores = {name: float(value or "nan") for name, value in row.items()}
                    self.best = max(self.best, self._rank(scores))

    def write(self, taken: int, losses: dict[str, Tensor]) -> None:
        """Write what is due after `taken` steps; `losses` are those of the last one."""
        self.taken = taken
        # Logging is the one record that all processes take part in.
        if self._is_due(taken, self.settings.log_every):
            self._log(taken - 1, losses)
        if not self.fabric.is_global_zero:
            return
        # Before the state, so that a run which goes on from it has the scores of its steps.
        if self.validation is not None and self._is_due(taken, self.settings.validate_every):
            self._validate(self.validation, taken)
        minutes = (time.monotonic() - self.saved[1]) / 60
        if self._is_due(taken, self.settings.save_every) or minutes >= self.settings.save_minutes:
            self.save(taken)
        if taken in self.settings.snapshots:
            self.control.snapshot(taken)

    def end(self) -> None:
        """Write the result of a finished run."""
        if self.fabric.is_global_zero:
            self.control.end()  # first: a picture that cannot be drawn costs no weights
            if self.validation is None:  # else it has been drawn with the last scores
                draw_curves(self.control.out)

    def close(self) -> None:
        """Close the curves."""
        for curve in self.curves:
            curve.close()

    def _validate(self, curve: CsvCurve, taken: int) -> None:
        """Score the network, and keep it if it is the best so far."""
        self.scores = self.control.validate()
        for each in (curve, *self.curves[1:]):
            each.add(taken - 1, self.scores)
        rank = self._rank(self.scores)
        if rank > self.best:
            self.best = rank
            named = self.control.best_by if math.isfinite(rank[0]) else "mIoU"
            self.control.keep_best(taken, named, self.scores[named])
        draw_curves(self.control.out)

    def _rank(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """What steps are compared by; of equal ones, and of those without the score, mIoU decides.

        A few images may show no unseen class, and hIoU has no value.
        """
        values = (scores.get(name, math.nan) for name in (self.control.best_by, "mIoU"))
        one, other = (value if math.isfinite(value) else -math.inf for value in values)
        return one, other

    def _forget_former(self) -> None:
        """Remove what a run left that was killed before its first state."""
        left = [self.control.out / BEST / name for name in (CONFIG, WEIGHTS, TEXT)]
        for path in (*left, self.control.out / SCORED):
            path.unlink(missing_ok=True)

    def _is_due(self, taken: int, every: int | None) -> bool:
        # The last step is always due: the end of a run is what one wants to see and to keep.
        return every is not None and (taken % every == 0 or taken == self.settings.steps)

    def _log(self, step: int, losses: dict[str, Tensor]) -> None:
        # The mean needs all processes, so it is taken before one of them writes.
        values = _mean_over_ranks(self.fabric, losses)
        self.loss = values["loss"]
        for curve in self.curves:
            curve.add(step, {**values, "lr": self.optimizer.param_groups[0]["lr"]})

    def save(self, taken: int) -> None:
        """Write a state after `taken` steps, unless it is there."""
        if not self.fabric.is_global_zero or self.saved[0] == taken:
            return
        save_state(
            self.control.out,
            step=taken,
            trained=self.trained(),
            optimizer=self.optimizer.state_dict(),
            # Of the scaler that float16 needs; empty for other precisions.
            precision=self.fabric.strategy.precision.state_dict(),
        )
        self.saved = (taken, time.monotonic())


def _mean_over_ranks(fabric: Fabric, losses: dict[str, Tensor]) -> dict[str, float]:
    """The losses as numbers, "loss" for the total and "loss/NAME" for the terms, sorted by name."""
    means: dict[str, float] = {}
    for name in sorted(losses):
        mean = fabric.all_reduce(losses[name], reduce_op="mean")
        assert isinstance(mean, Tensor)
        means[f"loss/{name}"] = mean.item()
    return {"loss": means.pop("loss/total"), **means}
