"""How a segmenter is trained, and how training images are augmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from unseen.settings.ranges import (
    SEED,
    SWITCH,
    Allowed,
    check_ranges,
    interval,
    number,
    one_of,
    several,
    whole,
)

Regime = Literal["inductive", "transductive", "supervised"]


UnseenPixels = Literal["ignore", "background", "drop_image"]


Sampling = Literal["images", "classes"]


Optimizer = Literal["adamw", "sgd"]


Schedule = Literal["poly", "cosine", "step", "constant"]


Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


Strategy = Literal["auto", "ddp"]


Logger = Literal["csv", "tensorboard", "wandb", "mlflow"]


LOGGER_EXTRAS = {"tensorboard": "track", "wandb": "wandb", "mlflow": "mlflow"}
"""The extras of the package that bring loggers, which are packages of the same names."""


@dataclass(frozen=True)
class TransformSettings:
    """Augmentation of training images and their labels.

    Attributes:
        resize: (long, short) box the image is resized into, keeping its ratio, before the random
            scale; None keeps its size.
        scale: Range of the random factor on that box.
        crop: Side of the square crop; smaller images are padded at the bottom and right. None
            takes whole images.
        max_class_share: Crops of one class, or whose largest class holds this share of the labelled
            pixels or more, are drawn again, up to ten times; None takes every crop.
        zoom: Range of a random factor on the image's own size, where it is not resized.
        rotate: Half of the time, rotate by up to so many degrees and pad the corners.
        pillow: Rotate and zoom as DRN's and SAZS's code does: every image is rotated first, by
            whole degrees, with its mirror image in the corners; then it is zoomed, with the Lanczos
            filter below a factor of 1 and bicubic above.
        blur: Half of the time, blur with a Gaussian of 5 pixels.
        min_positives: Methods with one query class an image: crops that keep less than this share
            of the query class's pixels are drawn again, up to thirty times.
        centre: Pad smaller images on all sides instead of at the bottom and right.
        pad_first: Pad before cropping and flipping, as DRN's and SAZS's code does, and not last.
        flip: Probability of a horizontal flip.
        photometric: Random brightness, contrast, saturation and hue.
        hsv: Saturation and hue as OpenCV changes them: saturation with the brightest channel kept,
            hue in steps of 2 degrees (released ZegCLIP and CLIP-RC).
        antialias: Smooth before an image is made smaller; released codes do not.
    """

    resize: tuple[int, int] | None = (2048, 512)
    scale: tuple[float, float] = (0.5, 2.0)
    crop: int | None = 512
    max_class_share: float | None = 0.75
    zoom: tuple[float, float] | None = None
    rotate: float = 0.0
    pillow: bool = False
    blur: bool = False
    min_positives: float = 0.0
    centre: bool = False
    pad_first: bool = False
    flip: float = 0.5
    photometric: bool = True
    hsv: bool = False
    antialias: bool = True

    def __post_init__(self) -> None:
        """Refuse values that cannot be drawn from."""
        check_ranges(self, "train.transforms", TRANSFORM_RANGES)


def _is_box(value: Any) -> bool:
    """Whether a value is (long, short) in pixels."""
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    return is_pair and all(whole(1, SIDE).holds(side) for side in value) and value[0] >= value[1]


SIDE = 8192
"""Most pixels along a side of a training image."""
TRANSFORM_RANGES = {
    "resize": Allowed(_is_box, "give the long and the short side in pixels").or_none(),
    "scale": interval(0, 100),
    "crop": whole(1, SIDE).or_none(),
    "max_class_share": number(0, 1, open_low=True).or_none(),
    "zoom": interval(0, 100).or_none(),
    "rotate": number(0, 180),
    "pillow": SWITCH,
    "blur": SWITCH,
    "min_positives": number(0, 1),
    "centre": SWITCH,
    "pad_first": SWITCH,
    "flip": number(0, 1),
    "photometric": SWITCH,
    "hsv": SWITCH,
    "antialias": SWITCH,
}
"""What the fields of `TransformSettings` may be."""


@dataclass(frozen=True)
class TrainSettings:
    """How a segmenter is trained.

    Attributes:
        regime: inductive (names and pixels of unseen classes unknown), transductive (their names
            known, their pixels given pseudo labels by the network itself) or supervised (all
            masks).
        pseudo_label_ignored: Transductive: give ignored pixels pseudo labels too (the paper's
            variant without dagger).
        unseen_pixels: Methods queried with one class per image: how pixels of unseen classes are
            labelled in training. "ignore": not at all; "background": as background (HSNet's lists,
            SAZS, EdgeCLIP: masks of unseen classes are used); "drop_image": images that show any
            are left out (BAM, ESDA).
        sampling: How the images of a batch are drawn: "images", each as often as any other; or
            "classes", a class first and then an image that shows it, so that rare classes are seen
            as often as common ones (every label map is read once, before the first step).
        steps: Optimiser steps.
        batch_size: Images per step, over all devices and accumulated parts.
        accumulate: Parts a batch is computed in, one after the other.
        recompute: Compute the blocks of CLIP's image tower again for their gradients instead of
            keeping all that they computed (gradient checkpointing): the same numbers in less memory
            and more time.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay.
        decay_norms: Decay norms and biases too, as the released configurations do in effect.
        schedule: "poly", "cosine", "step" (a tenth after each third) or "constant".
        power: Exponent of the poly schedule.
        min_lr: Learning rate at the end of the poly schedule.
        warmup: Steps of linear warm-up.
        warmup_ratio: Share of the learning rate the warm-up starts from.
        clip_norm: Largest norm of the gradient; None for no limit.
        seed: Of weights, order and augmentation.
        precision: Lightning's name, or "auto": bf16-mixed where the hardware computes in it, else
            32-true.
        workers: Processes that prepare batches.
        save_every: Most steps between resumable states.
        save_minutes: Most minutes between them.
        snapshots: Steps after which the weights are kept as a run folder of their own, OUT/step-N.
        validate_every: Steps between scores of seen and unseen classes on a part of the validation
            set; the best step by them is kept as OUT/best. None trains without.
        validate_images: Images, or episodes of a fold, that are scored each time.
        log_every: Steps between rows of the curve.
        logger: "csv": logs/metrics.csv; "tensorboard": event files beside it; "wandb": a run of
            Weights & Biases (WANDB_MODE=offline keeps it in logs/); "mlflow": a run of MLflow, in
            logs/mlflow.db unless MLFLOW_TRACKING_URI says otherwise.
        devices: "auto", or a number of devices.
        nodes: Number of machines.
        strategy: "ddp" for several devices; "auto" chooses.
        transforms: Augmentation.
    """

    regime: Regime = "inductive"
    pseudo_label_ignored: bool = False
    unseen_pixels: UnseenPixels = "ignore"
    sampling: Sampling = "images"
    steps: int = 20_000
    batch_size: int = 16
    accumulate: int = 1
    recompute: bool = False
    optimizer: Optimizer = "adamw"
    lr: float = 2e-4
    weight_decay: float = 0.01
    decay_norms: bool = False
    schedule: Schedule = "poly"
    power: float = 0.9
    min_lr: float = 1e-6
    warmup: int = 1500
    warmup_ratio: float = 1e-6
    clip_norm: float | None = None
    seed: int = 0
    precision: Precision = "auto"
    workers: int = 2
    save_every: int = 1000
    save_minutes: float = 10.0
    snapshots: tuple[int, ...] = ()
    validate_every: int | None = None
    validate_images: int = 200
    log_every: int = 50
    logger: Logger = "csv"
    devices: str = "auto"
    nodes: int = 1
    strategy: Strategy = "auto"
    transforms: TransformSettings = field(default_factory=TransformSettings)

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        check_ranges(self, "train", TRAIN_RANGES)


TRAIN_RANGES = {
    "regime": one_of(Regime),
    "pseudo_label_ignored": SWITCH,
    "unseen_pixels": one_of(UnseenPixels),
    "sampling": one_of(Sampling),
    "steps": whole(1),
    "batch_size": whole(1, 2**16),
    "accumulate": whole(1, 2**16),
    "recompute": SWITCH,
    "optimizer": one_of(Optimizer),
    "lr": number(0, 1000, open_low=True),
    "weight_decay": number(0, 1000),
    "decay_norms": SWITCH,
    "schedule": one_of(Schedule),
    "power": number(0, 100),
    "min_lr": number(0, 1000),
    "warmup": whole(0),
    "warmup_ratio": number(0, 1),
    "clip_norm": number(0, open_low=True).or_none(),
    "seed": SEED,
    "precision": one_of(Precision),
    "workers": whole(0, 1024),
    "save_every": whole(1),
    "save_minutes": number(0),
    "snapshots": several(whole(1)),
    "validate_every": whole(1).or_none(),
    "validate_images": whole(1),
    "log_every": whole(1),
    "logger": one_of(Logger),
    "devices": Allowed(
        lambda name: (
            name == "auto"
            or (isinstance(name, str) and name.isdecimal() and len(name) < 5 and int(name) > 0)
        ),
        "give 'auto' or a number of devices",
    ),
    "nodes": whole(1, 10_000),
    "strategy": one_of(Strategy),
    "transforms": Allowed(
        lambda value: isinstance(value, TransformSettings), "give TransformSettings"
    ),
}
"""What the fields of `TrainSettings` may be."""
