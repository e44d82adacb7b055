"""The training loop, on Lightning Fabric: devices, precision, accumulation, resuming.

`fit` puts a method and a benchmark together, `run_loop` takes the steps.

Every random number of a step follows from (seed, step, part, rank), never from what ran before, so
a run that was killed and resumed ends in the weights of the uninterrupted one.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from unseen.data.benchmarks import Benchmark
from unseen.errors import Interrupted, SettingError
from unseen.labels import MAX_8BIT_CLASSES
from unseen.precision import chosen_precision
from unseen.progress import ProgressBar, loss_shown
from unseen.runs import WEIGHTS, has_state
from unseen.segmenter import Prediction, QuerySegmenter, Segmenter, TextFeatures
from unseen.settings import TrainSettings
from unseen.training.batches import (
    Items,
    StepSampler,
    check_labelled,
    images_by_class,
    make_loader,
    stack_items,
    trained_ids,
    training_items,
)
from unseen.training.interrupts import Interrupts
from unseen.training.lock import run_lock
from unseen.training.records import Records, RunControl
from unseen.training.schedules import learning_rate, make_optimizer
from unseen.training.state import read_state, restore_optimizer, restore_tensors
from unseen.training.targets import targets_of
from unseen.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

START_IMAGES = 8
"""Most images that an aligned start looks at."""


@dataclass(frozen=True)
class Job:
    """What the loop trains.

    Attributes:
        module: Its forward takes a part of a batch and returns losses by name, among them "total".
        optimizer: Over the module's parameters, with their peak learning rates.
        factor: From a step, counted from 0, to the factor on every learning rate.
        batches: From (first step, rank, number of ranks) to the parts of all batches from that step
            on.
        trained: The tensors that a state keeps, by name.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]
    batches: Callable[[int, int, int], Iterable[Any]]
    trained: Callable[[], dict[str, Tensor]]


# ------------------------------------------------------------- a method, a benchmark


def fit(
    segmenter: Segmenter,
    text: TextFeatures,
    benchmark: Benchmark,
    root: Path | None,
    settings: TrainSettings,
    control: RunControl,
) -> bool:
    """Train `segmenter` in place on the training split of a benchmark.

    Args:
        segmenter: Any trainable method.
        text: The benchmark's vocabulary, encoded.
        benchmark: Says which classes are seen.
        root: Where its data lie.
        settings: How to train.
        control: Where to write, whether to resume.

    Returns:
        Whether this is the process that writes the results; False in the others of a distributed
        run.

    Raises:
        SettingError: The method has nothing to train, or settings that do not fit it or each other.
    """
    check_trainable(segmenter, benchmark, settings)
    segmenter.recompute_blocks(settings.recompute)
    fabric = make_fabric(settings)
    data = benchmark.data("train", root)
    shown = control.progress and fabric.is_global_zero
    check_labelled(data, trained_ids(benchmark, settings))
    items = training_items(segmenter, benchmark, data, settings, progress=shown)
    groups: Sequence[NDArray[np.int64]] = ()
    if settings.sampling == "classes":
        groups = images_by_class(items, trained_ids(benchmark, settings), progress=shown)
    step = TrainingStep(segmenter, text, benchmark, settings)
    if segmenter.starts_from_images and control.anew:
        step.start_from(items, StepSampler(len(items), settings, groups))

    def batches(start: int, rank: int, ranks: int) -> Iterable[Any]:
        sampler = StepSampler(len(items), settings, groups, start=start, rank=rank, ranks=ranks)
        return make_loader(items, sampler, settings)

    job = Job(
        module=step,
        optimizer=make_optimizer(segmenter, settings),
        factor=lambda step: learning_rate(step, settings) / settings.lr,
        batches=batches,
        trained=segmenter.trainable_state,
    )
    # Fabric moves the segmenter to its own device; the caller gets it back where it was.
    device = segmenter.device
    run_loop(fabric, job, settings, control)
    segmenter.to(device).eval()
    return bool(fabric.is_global_zero)


def check_trainable(segmenter: Segmenter, benchmark: Benchmark, settings: TrainSettings) -> None:
    """Refuse a method, a vocabulary or a regime that cannot be trained.

    Raises:
        SettingError: One of them.
    """
    if not segmenter.trainable:
        raise SettingError(
            f"this method ({type(segmenter).__name__}) has nothing to train; evaluate it or segment"
            " with it as it is"
        )
    # Label maps of more classes need 16 bits, and the transforms of training know 8-bit labels.
    count = len(benchmark.class_names)
    if count > MAX_8BIT_CLASSES:
        raise SettingError(
            f"{benchmark.title} has {count} classes, and a method can be trained on at most"
            f" {MAX_8BIT_CLASSES}; train on another benchmark and evaluate on this one"
        )
    if isinstance(segmenter, QuerySegmenter) and settings.regime == "transductive":
        raise SettingError(
            "a method that is queried with one class per image cannot give pseudo labels to unseen"
            " classes; train it inductive or supervised"
        )


class TrainingStep(nn.Module):
    """From images and labels to losses: the module that Fabric runs and synchronises.

    Args:
        segmenter: Any trainable method.
        text: The encoded vocabulary, all K classes.
        benchmark: Says which classes are seen.
        settings: How to train.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        text: TextFeatures,
        benchmark: Benchmark,
        settings: TrainSettings,
    ) -> None:
        super().__init__()
        self.segmenter, self.text = segmenter, text
        seen = trained_ids(benchmark, settings)
        unseen = [] if settings.regime == "supervised" else benchmark.unseen_ids
        # Inductive training knows nothing of the unseen classes, not even their names.
        if settings.regime == "inductive":
            self.text = text.select(seen)
        self.targets = partial(
            targets_of,
            regime=settings.regime,
            seen=seen,
            unseen=unseen,
            pseudo_label_ignored=settings.pseudo_label_ignored,
        )

    def start_from(self, items: Items, sampler: StepSampler) -> None:
        """Show the segmenter some images of the first batch, in every process the same."""
        keys = sampler.batch(0)[:START_IMAGES]
        images = stack_items([items[key] for key in keys])[0].to(self.segmenter.device)
        self.segmenter.start_from(images / 255, self.text.to(images.device))

    def forward(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Losses by name, among them "total".

        Args:
            batch: Images (B, 3, H, W) uint8, labels (B, H, W), and for methods that are queried
                with one class per image the index (B,) of each image's query class.
        """
        images, labels, *queries = batch
        text = self.text.to(images.device)
        # Trained prompts change with every step: the features are encoded again, with gradients.
        if self.segmenter.trains_text:
            text = self.segmenter.encode_text(Vocabulary(self.text.names))
        if isinstance(self.segmenter, QuerySegmenter):
            # One query class for each image: row b of the features belongs to image b.
            query = text.select(queries[0].tolist())
            return self.segmenter.loss(self.segmenter.forward_query(images / 255, query), labels)
        # The network never sees labels: those are compared with its prediction afterwards.
        prediction: Prediction = self.segmenter(images / 255, text)
        return self.segmenter.loss(prediction, self.targets(labels, prediction))


# ------------------------------------------------------------------------- the loop


def make_fabric(settings: TrainSettings) -> Fabric:
    """Devices and precision; further processes of a distributed run begin here."""
    devices: str | int = settings.devices
    if settings.devices != "auto":
        devices = int(settings.devices)
        available = torch.cuda.device_count() or os.cpu_count() or 1
        if devices > available:
            raise SettingError(
                f"--train.devices is {devices}, and this machine has {available}; give at most that"
                " many, or auto"
            )
    # It would tell every user what "auto" has chosen, which config.yaml says.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    fabric = Fabric(
        devices=devices,
        num_nodes=settings.nodes,
        strategy=settings.strategy,
        precision=_precision(settings.precision),
    )
    if settings.nodes > 1:
        _log.warning("unseen: waiting for the processes of all %d machines", settings.nodes)
    # After this line, the code runs once in every process.
    fabric.launch()
    return fabric


def _precision(name: str) -> Any:
    """Lightning's name of a precision, on the device that Fabric will choose."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return chosen_precision(name, device)


def _check_unfinished(folder: Path) -> None:
    """Refuse a run that another process has finished since it was looked at.

    Raises:
        SettingError: There are weights.
    """
    if (folder / WEIGHTS).exists():
        raise SettingError(f"{folder} holds a finished run by now; choose another --out")


def run_loop(fabric: Fabric, job: Job, settings: TrainSettings, control: RunControl) -> None:
    """Take all steps from the first, or from the state to resume from.

    Raises:
        SettingError: A state of another model, or a loss that is not finite.
        Interrupted: A signal asked for an end; a state was saved, the message says how to go on.
    """
    # Groups may have different peaks; the schedule multiplies all of them by one factor.
    peak_rates = [group["lr"] for group in job.optimizer.param_groups]
    module, optimizer = fabric.setup(job.module, job.optimizer)
    module.train()
    records = Records(fabric, optimizer, job.trained, settings, control)
    with run_lock(control.out) if fabric.is_global_zero else nullcontext():
        _check_unfinished(control.out)
        start = 0
        if control.goes_on:
            start = restore(read_state(control.out), fabric, job, optimizer)
        # After `restore`, which may refuse the state: nothing is written before that.
        records.begin(start)
        parts = iter(job.batches(start, fabric.global_rank, fabric.world_size))
        shown = control.progress and fabric.is_global_zero
        interrupts = Interrupts()
        try:
            with (
                autocast_uncached(),
                ProgressBar(shown) as bar,
                interrupts.noted(),
            ):
                task = bar.add_task("training", total=settings.steps, completed=start, note="")
                for step in range(start, settings.steps):
                    for group, peak in zip(optimizer.param_groups, peak_rates, strict=True):
                        group["lr"] = peak * job.factor(step)
                    losses = take_step(fabric, module, optimizer, parts, step, settings)
                    records.write(step + 1, losses)
                    rate = optimizer.param_groups[0]["lr"]
                    note = loss_shown(records.loss, rate, records.scores)
                    bar.update(task, advance=1, note=note)
                    bar.draw_when_due()
                    if step + 1 < settings.steps and interrupts.end_after(fabric, step + 1):
                        records.save(step + 1)
                        raise KeyboardInterrupt
            records.end()
        except KeyboardInterrupt:
            stop(fabric, records, interrupts.signal or signal.SIGINT)
        finally:
            records.close()


def take_step(
    fabric: Fabric,
    module: Any,
    optimizer: torch.optim.Optimizer,
    parts: Iterator[Any],
    step: int,
    settings: TrainSettings,
) -> dict[str, Tensor]:
    """One step of the optimiser: gradients of all parts of a batch, then an update.

    Returns:
        The losses, as means over the parts.

    Raises:
        SettingError: A loss that is not finite.
    """
    mean_losses: dict[str, Tensor] = {}
    for part in range(settings.accumulate):
        batch = fabric.to_device(next(parts))
        # For dropout and the like: another seed for each part and process, the same after a resume.
        key = np.random.SeedSequence([settings.seed, step, part, fabric.global_rank])
        torch.manual_seed(int(key.generate_state(1)[0]))
        # Processes exchange their gradients once a step, with those of the last part.
        more = part < settings.accumulate - 1
        with fabric.no_backward_sync(module, enabled=more):
            losses: dict[str, Tensor] = module(batch)
            # Stopped before the update, so that the last saved state is not overwritten by NaNs.
            if not torch.isfinite(losses["total"]):
                raise SettingError(
                    f"the loss became {losses['total'].item()} at step {step}; lower --train.lr or"
                    " use --train.precision 32-true"
                )
            fabric.backward(losses["total"] / settings.accumulate)
        for name, value in losses.items():
            share = value.detach() / settings.accumulate
            mean_losses[name] = mean_losses.get(name, 0) + share
    if settings.clip_norm is not None:
        # With float16, gradients may overflow: the scaler then leaves out the update.
        fabric.clip_gradients(
            module, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
    optimizer.step()
    optimizer.zero_grad()
    return mean_losses


def restore(
    state: dict[str, Any], fabric: Fabric, job: Job, optimizer: torch.optim.Optimizer
) -> int:
    """Load a state into model, optimiser and precision; returns the number of steps taken."""
    groups = [{**group} for group in optimizer.param_groups]
    # Tensors are copied in place: optimiser and wrapped module hold the same ones.
    restore_tensors(job.trained(), state["trained"])
    restore_optimizer(optimizer, state["optimizer"])
    fabric.strategy.precision.load_state_dict(state["precision"])
    # Rates and decay are those of the settings, whatever a state says.
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update({name: value for name, value in own.items() if name != "params"})
    return int(state["step"])


@contextmanager
def autocast_uncached() -> Iterator[None]:
    """Cast weights to bf16 anew wherever they are used.

    A weight that several blocks use, such as the prompts' projection, would otherwise be cast once
    a step, and its gradients summed in bf16 instead of float32.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def stop(fabric: Fabric, records: Records, number: int) -> None:
    """End after a signal, with one sentence of the process that writes.

    Raises:
        Interrupted: In that process.
        SystemExit: In the others.
    """
    code = 128 + number  # what shells report of a program that a signal has ended
    if not fabric.is_global_zero:
        raise SystemExit(code)
    remedy = "nothing was saved yet (--train.save_every), so start again"
    saved = records.saved[0]
    if has_state(records.control.out):
        place = "there" if saved == records.taken else f"step {saved}, which was saved last,"
        remedy = f"go on from {place} with --resume"
    raise Interrupted(f"stopped after step {records.taken}; {remedy}", code) from None
