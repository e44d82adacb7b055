"""Training of any segmenter: the Lightning module around it, parameter groups, schedules, pseudo
labels, and batches that resume exactly.

Every random number of a step follows from (seed, step), never from what ran before, so a run that
was killed and resumed ends in the weights of the uninterrupted one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset, Sampler

from unseen.data.benchmarks import Benchmark
from unseen.data.datasets import Sample, SegmentationSet
from unseen.data.transforms import Padding, TrainTransform
from unseen.errors import DataError, SettingError
from unseen.labels import BACKGROUND, IGNORE, MAX_8BIT_CLASSES, PADDING, subset_lookup
from unseen.segmenter import ClipSegmenter, Prediction, Segmenter, TextFeatures
from unseen.settings import Regime, TrainSettings

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(
        logging.WARNING
    )  # no advertisements, no list of absent hardware

SMALL_TALK = (
    ".*does not have many workers.*",
    ".*LeafSpec.*",
    ".*exists and is not empty.*",
    ".*`weights_only`.*",
    ".*lr_scheduler.step.*",
    ".*dataloader is not resumable.*",
    ".*in eval mode.*",
    ".*logging interval.*",
    ".*across ranks is zero.*",
)
"""Warnings of Lightning about what is meant so here."""

STATE = "state/last.ckpt"
"""Where a run folder keeps what it needs to go on."""


# --------------------------------------------------------------------- targets


def targets_of(
    labels: Tensor,
    prediction: Prediction,
    *,
    regime: Regime,
    seen: Sequence[int],
    unseen: Sequence[int],
    pseudo_label_void: bool = False,
) -> Tensor:
    """What the loss sees, from the data set's labels (B, H, W), which stay as they are.

    inductive: ids become places among the seen words; all else is void. supervised: ids as they
    are. transductive: pixels of unseen classes get the unseen word that the network itself, in this
    very forward, scores highest there (their true class is never looked at; ZegCLIP §3.4, the
    variant with dagger).

    Args:
        labels: Ids of the whole vocabulary; 255 void, 254 filled up, 253 none of the words (void to
            methods with many words).
        prediction: Of this step; its words are the seen ones (inductive) or the whole vocabulary.
        regime: See above.
        seen: Ids of the seen words.
        unseen: Ids of the unseen words.
        pseudo_label_void: Transductive: guess void pixels as well, but not filled-up ones (the
            variant without dagger).
    """
    if regime == "inductive":
        return subset_lookup(seen).to(labels.device)[labels]
    void = torch.where((labels == PADDING) | (labels == BACKGROUND), IGNORE, labels)
    if regime == "supervised":
        return void
    ids = torch.as_tensor(unseen, device=labels.device)
    hidden = torch.isin(labels, ids) | ((labels == IGNORE) if pseudo_label_void else False)
    logits = Prediction(prediction.logits.detach()[:, list(unseen)], prediction.covers).resized(
        (labels.shape[-2], labels.shape[-1])
    )
    return torch.where(hidden, ids[logits.argmax(dim=1)], void)


# --------------------------------------------------------------------- batches


class TrainingItems(Dataset[tuple[Tensor, ...]]):
    """Augmented pairs by (number, key); the key seeds the augmentation.

    Args:
        data: Images with labels.
        transform: Augments a pair.
        asked: For methods with one word an image: the words that may be asked for. A pair's labels
            are then 1 on a word that is in the image, 255 on void pixels and hidden words, 0
            elsewhere, and the word's place in this list comes third.
        hidden: Ids of words whose pixels become 255.
        shunned: Ids of words whose images are passed over.
        things: Whether other words are 2 and more, each another number, instead of 0.
    """

    def __init__(
        self,
        data: SegmentationSet,
        transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        asked: Sequence[int] | None = None,
        hidden: Sequence[int] = (),
        shunned: Sequence[int] = (),
        things: bool = False,
    ) -> None:
        self.data, self.transform, self.asked, self.things = data, transform, asked, things
        self.hidden, self.shunned = torch.tensor([*hidden, IGNORE]), frozenset(shunned)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, ...]:
        number, key = item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            if self.asked is None:
                sample = self.data[number]
                return self.transform(sample.image, sample.labels)
            sample, place = self._with_a_word(number)
            others = _things(sample.labels) if self.things else torch.zeros_like(sample.labels)
            labels = torch.where(
                sample.labels == self.asked[place],
                1,
                torch.where(torch.isin(sample.labels, self.hidden), IGNORE, others),
            )
            return *self.transform(sample.image, labels), torch.tensor(place)

    def _with_a_word(self, number: int) -> tuple[Sample, int]:
        """The sample, or the next fitting one (it shows a word that may be asked for, and none that
        is shunned), and the place of one of its words, drawn.
        """
        assert self.asked is not None
        for further in range(len(self.data)):
            sample = self.data[(number + further) % len(self.data)]
            present = set(np.unique(sample.labels.numpy()).tolist())
            places = [place for place, word in enumerate(self.asked) if word in present]
            if places and not present & self.shunned:
                return sample, places[int(torch.randint(len(places), ()))]
        fitting = "without an unseen one" if self.shunned else "at all"
        raise DataError(
            f"no training image shows any of the words to train on {fitting}; check the masks and"
            " the list of words"
        )


def _things(labels: Tensor) -> Tensor:
    """Ids from 2 on; what is none of the words is 0."""
    return torch.where(labels >= BACKGROUND, 0, labels + 2)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (number, key) pairs of every part of every step, from a given step on.

    Each epoch is a permutation of its own; the last incomplete batch of an epoch is dropped. A
    batch is dealt to ranks and accumulated parts in order, so runs on any number of devices see the
    same batches.

    Args:
        length: Samples.
        batch_size: Of a whole step.
        parts: Accumulated parts of a step.
        steps: Where to stop.
        seed: Of order and keys.
        rank: Of this process.
        ranks: Processes.
        start: Asked for the step to begin with whenever an iteration begins: Lightning cuts a
            resumed run into several.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        parts: int,
        steps: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        start: Callable[[], int] = lambda: 0,
    ) -> None:
        if batch_size % (parts * ranks):
            raise SettingError(
                f"batch_size {batch_size} cannot be dealt to {ranks} devices in {parts} parts; make"
                f" it a multiple of {parts * ranks}"
            )
        self.length, self.batch_size, self.parts, self.steps = length, batch_size, parts, steps
        self.seed, self.rank, self.ranks, self.start = seed, rank, ranks, start

    def __len__(self) -> int:
        return (self.steps - self.start()) * self.parts

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The whole batch of a step."""
        # A set smaller than a batch is gone through as often as it takes to fill one.
        repeats = -(-self.batch_size // self.length)
        per_epoch = self.length * repeats // self.batch_size
        epoch, place = divmod(step, per_epoch)
        order = (
            np.random.default_rng([self.seed, epoch]).permutation(self.length * repeats)
            % self.length
        )
        numbers = order[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        keys = np.random.SeedSequence([self.seed, step]).generate_state(self.batch_size).tolist()
        return list(zip(numbers, keys, strict=True))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // (self.parts * self.ranks)
        for step in range(self.start(), self.steps):
            batch = self.batch(step)
            for part in range(self.parts):
                first = (part * self.ranks + self.rank) * share
                yield batch[first : first + share]


# ---------------------------------------------------------------------- module


class Training(L.LightningModule):
    """A segmenter, its vocabulary and its regime, for Lightning's Trainer.

    Args:
        segmenter: Any trainable method.
        text: The encoded vocabulary, all K words.
        seen: Ids of the seen words.
        unseen: Ids of the others.
        settings: How to train.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        text: TextFeatures,
        seen: Sequence[int],
        unseen: Sequence[int],
        settings: TrainSettings,
    ) -> None:
        super().__init__()
        self.segmenter, self.settings = segmenter, settings
        self.seen, self.unseen = list(seen), list(unseen)
        self.text = text.select(self.seen) if settings.regime == "inductive" else text
        self._place = (-1, 0)  # step, accumulated part
        self.strict_loading = (
            False  # the frozen part is not in the state; `on_load_checkpoint` checks the rest
        )

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        """One part of one step."""
        images, labels, *asked = batch
        step = self.trainer.global_step
        self._place = (
            step,
            self._place[1] + 1 if self._place[0] == step else 0,
        )  # Lightning's own count of batches starts again on a resume
        key = np.random.SeedSequence(
            [self.settings.seed, *self._place, self.global_rank]
        ).generate_state(1)[0]
        torch.manual_seed(
            int(key)
        )  # dropout after a resume is the dropout of the uninterrupted run
        settings, text = self.settings, self.text.to(self.device)
        prediction: Prediction = self.segmenter(
            images / 255, text.select(asked[0].tolist()) if asked else text
        )
        targets = labels
        if not asked:
            targets = targets_of(
                labels,
                prediction,
                regime=settings.regime,
                seen=self.seen,
                unseen=self.unseen,
                pseudo_label_void=settings.pseudo_label_void,
            )
        losses = self.segmenter.loss(prediction, targets)
        if not torch.isfinite(losses["total"]):
            raise SettingError(
                f"the loss became {losses['total'].item()} at step {self.trainer.global_step};"
                " lower --train.lr or use --train.precision 32-true"
            )
        self.log_dict({f"loss/{name}": value for name, value in losses.items() if name != "total"})
        self.log("loss", losses["total"], prog_bar=True)
        return losses["total"]

    def configure_optimizers(self) -> Any:
        """The optimiser and a schedule that follows the steps."""
        settings, groups = self.settings, parameter_groups(self.segmenter, self.settings)
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, settings) / settings.lr
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained part only: the tower can be had again from its source."""
        kept = {f"segmenter.{name}" for name in self.segmenter.trainable_state()}
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in kept
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a state of another model."""
        mine = {
            f"segmenter.{name}": tensor.shape
            for name, tensor in self.segmenter.trainable_state().items()
        }
        if mine != {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}:
            raise SettingError(
                "the state to resume from belongs to another model; resume with the settings the"
                " run was started with, or start a new one"
            )


def parameter_groups(segmenter: Segmenter, settings: TrainSettings) -> list[dict[str, Any]]:
    """Two groups: weights, which decay, and norms and biases (one dimension), which do not unless
    `decay_norms`.
    """
    trainable = [p for p in segmenter.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim > 1 or settings.decay_norms]
    others = [p for p in trainable if not (p.ndim > 1 or settings.decay_norms)]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate at a step, counted from 0.

    poly: (lr - min) (1 - t/T)^power + min. While warming up, it is multiplied by 1 - (1 - t/warmup)
    (1 - ratio).
    """
    done = min(step / settings.steps, 1.0)
    if settings.schedule == "poly":
        rate = (settings.lr - settings.min_lr) * (1 - done) ** settings.power + settings.min_lr
    elif settings.schedule == "cosine":
        rate = settings.lr * 0.5 * (1 + np.cos(np.pi * done))
    elif settings.schedule == "step":
        rate = settings.lr * 0.1 ** min(2, int(3 * done))
    else:
        rate = settings.lr
    if step < settings.warmup:
        rate *= 1 - (1 - step / settings.warmup) * (1 - settings.warmup_ratio)
    return float(rate)


class _Batches(L.LightningDataModule):
    """Builds the loader when Lightning asks for it: by then the step to resume from is known."""

    def __init__(self, items: TrainingItems, settings: TrainSettings) -> None:
        super().__init__()
        self.items, self.settings = items, settings

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        sampler = StepSampler(
            len(self.items),
            self.settings.batch_size,
            parts=self.settings.accumulate,
            steps=self.settings.steps,
            seed=self.settings.seed,
            rank=trainer.global_rank,
            ranks=trainer.world_size,
            start=lambda: trainer.global_step,
        )
        return DataLoader(
            self.items,
            batch_sampler=sampler,
            num_workers=self.settings.workers,
            persistent_workers=self.settings.workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_stacked,
        )


def _stacked(items: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    sizes = {tuple(item[1].shape) for item in items}
    if len(sizes) > 1:
        raise SettingError(
            "images of a batch have different sizes"
            f" ({', '.join(f'{w}x{h}' for h, w in sorted(sizes))}); give --train.transforms.crop"
        )
    return tuple(torch.stack(parts) for parts in zip(*items, strict=True))


class _Events(Callback):
    """Calls back when training begins and after given steps, in the process that writes."""

    def __init__(
        self, begin: Callable[[], None], steps: Sequence[int], take: Callable[[int], None]
    ) -> None:
        self.begin, self.steps, self.take = begin, set(steps), take

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """All settings have been found good by now."""
        if trainer.is_global_zero:
            self.begin()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Lightning calls this after every part of a step."""
        if trainer.global_step in self.steps and trainer.is_global_zero:
            self.steps.discard(trainer.global_step)
            self.take(trainer.global_step)


def fit(
    segmenter: Segmenter,
    text: TextFeatures,
    benchmark: Benchmark,
    root: Path | None,
    out: Path,
    settings: TrainSettings,
    *,
    resume: bool = False,
    progress: bool = True,
    begin: Callable[[], None] = lambda: None,
    snapshot: Callable[[int], None] = lambda step: None,
) -> bool:
    """Train `segmenter` in place on the benchmark's training split; logs and resumable states go to
    the folder `out`.

    Args:
        segmenter: Any trainable method.
        text: The benchmark's vocabulary, encoded.
        benchmark: Says which words are seen.
        root: Where its data lie.
        out: Run folder.
        settings: How to train.
        resume: Go on from the state in `out`, if there is one.
        progress: Show a progress bar.
        begin: Called before the first step.
        snapshot: Called with the step after each of `settings.snapshots`.

    Returns:
        Whether this is the process that writes the results; False in the others of a distributed
        run.

    Raises:
        SettingError: The method has nothing to train, or settings that contradict each other.
    """
    if not segmenter.trainable:
        raise SettingError(
            f"this method ({type(segmenter).__name__}) has nothing to train; evaluate it or segment"
            " with it as it is"
        )
    if len(benchmark.class_names) > MAX_8BIT_CLASSES:
        count = len(benchmark.class_names)
        raise SettingError(
            f"{benchmark.title} has {count} words, and a method can be trained on {MAX_8BIT_CLASSES}; train"
            " on another one and evaluate on this"
        )
    transductive = settings.regime == "transductive" and settings.pseudo_label_void
    mean = (
        tuple((255 * segmenter.clip.mean).flatten().tolist())
        if isinstance(segmenter, ClipSegmenter)
        else (0.0, 0.0, 0.0)
    )
    transform = TrainTransform(
        settings.transforms, Padding(mean, PADDING if transductive else IGNORE)
    )
    supervised, binary = settings.regime == "supervised", segmenter.kind == "binary"
    if binary and settings.regime == "transductive":
        raise SettingError(
            "a method with one word an image cannot label unseen words itself; train it inductive"
            " or supervised"
        )
    seen = list(range(len(benchmark.class_names))) if supervised else benchmark.seen_ids
    unseen = [] if supervised else benchmark.unseen_ids
    hidden, shunned = (
        unseen if settings.unseen_pixels == what else [] for what in ("void", "skip")
    )
    items = TrainingItems(
        benchmark.data("train", root),
        transform,
        seen if binary else None,
        hidden,
        shunned,
        segmenter.reads_things,
    )
    module = Training(segmenter, text, seen, unseen, settings)
    module.train()  # Lightning leaves the mode as it finds it
    trainer = L.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip_norm,
        precision=_precision(settings.precision),
        devices=settings.devices if settings.devices == "auto" else int(settings.devices),
        num_nodes=settings.nodes,
        strategy=settings.strategy,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        logger=[
            CSVLogger(out, name="logs", version=""),
            TensorBoardLogger(out, name="logs", version=""),
        ],
        log_every_n_steps=min(settings.log_every, settings.steps),
        callbacks=_callbacks(out, settings, progress, _Events(begin, settings.snapshots, snapshot)),
        enable_model_summary=False,
        enable_checkpointing=True,
    )
    state = out / STATE if resume and (out / STATE).exists() else None
    if state is not None and trainer.is_global_zero:
        _keep_curve(out / "logs")
    run(trainer, module, _Batches(items, settings), state)
    segmenter.eval()
    return bool(trainer.is_global_zero)


def run(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, state: Path | None
) -> None:
    """Lightning's `fit` with attention that suits the device, without its small talk, and with a
    word on how to go on after Ctrl-C.

    On CPUs attention is computed in plain matrix products: forward and backward of a training step
    are 1.7 times as fast as with the fused kernel (`benchmarks/attention.py`).
    """
    with (
        _small_talk_off(),
        (
            sdpa_kernel(SDPBackend.MATH)
            if trainer.strategy.root_device.type == "cpu"
            else nullcontext()
        ),
    ):
        try:
            trainer.fit(
                module,
                datamodule=data,
                ckpt_path=None if state is None else str(state),
                weights_only=True,
            )
        except SystemExit as stop:  # Lightning's answer to Ctrl-C
            saved = state is not None or bool(
                getattr(trainer.checkpoint_callback, "best_model_path", "")
            )
            how = (
                "go on from the last saved state with --resume"
                if saved
                else "nothing was saved yet (--train.save_every), so start again"
            )
            raise KeyboardInterrupt(f"stopped after step {trainer.global_step}; {how}") from stop


def _keep_curve(logs: Path) -> None:
    """Lightning's logger begins a new metrics.csv; what the stopped run wrote stays as
    metrics.1.csv, metrics.2.csv, ...
    """
    curve = logs / "metrics.csv"
    if curve.exists():
        curve.rename(logs / f"metrics.{1 + len(list(logs.glob('metrics.*.csv')))}.csv")


@contextmanager
def _small_talk_off() -> Iterator[None]:
    with warnings.catch_warnings():
        for about in SMALL_TALK:
            warnings.filterwarnings("ignore", message=about)
        yield


def _callbacks(
    out: Path, settings: TrainSettings, progress: bool, events: Callback
) -> list[Callback]:
    every = min(settings.save_every, settings.steps)
    state = ModelCheckpoint(
        (out / STATE).parent,
        filename=Path(STATE).stem,
        every_n_train_steps=every,
        save_top_k=1,
        enable_version_counter=False,
    )
    return [state, events, *([TQDMProgressBar(refresh_rate=10)] if progress else [])]


def _precision(name: str) -> Any:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16-mixed" if supported else "32-true"
