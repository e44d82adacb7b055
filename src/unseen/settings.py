"""What a run can be told, as plain dataclasses: the command line makes its flags from them, recipes
fill them, run folders store them.

Nothing heavy is imported here, so `--help` answers at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from unseen.errors import SettingError
from unseen.ranges import SWITCH, Allowed, check_ranges, interval, number, one_of, whole


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted keys: {"a": {"b": 1}} is {"a.b": 1}."""
    out: dict[str, Any] = {}
    for key, value in nested.items():
        out |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return out


def is_own(benchmark: str) -> bool:
    """Whether a benchmark's name is that of a folder of one's own data: one that holds classes.txt
    (`unseen.data.own.layout`).
    """
    return (Path(benchmark) / "classes.txt").is_file()


LEGACY_NAMES = {
    "words": "classes",
    "inference.plain": "inference.antialias",
    "inference.segments": "inference.refinement",
    "inference.segments_threshold": "inference.refinement_threshold",
    "options.void": "options.ignored_as",
    "options.word_start": "options.text_start",
}
"""Flags and settings that version 0.1 called otherwise: their names there and their names today."""
LEGACY_VALUES: dict[str, dict[Any, Any]] = {
    "inference.plain": {True: False, False: True},
    "inference.segments": {"agreement": "segment_iou"},
    "train.unseen_pixels": {"void": "ignore", "skip": "drop_image"},
}
"""By a setting's name in version 0.1, values it had there and what they are today."""


def from_legacy(name: str, value: Any) -> tuple[str, Any]:
    """A setting of version 0.1 or of today, by its dotted name, as today's name and value."""
    values = LEGACY_VALUES.get(name, {})
    if isinstance(value, Hashable):
        value = values.get(value, value)
    return LEGACY_NAMES.get(name, name), value


def update_legacy(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings that version 0.1 may have written, with today's names and values.

    Args:
        settings: By name, groups as dictionaries.
        prefix: Dotted name of the group they belong to, with a dot at its end.
    """
    updated = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            updated[key] = update_legacy(value, f"{prefix}{key}.")
        else:
            name, today = from_legacy(f"{prefix}{key}", value)
            updated[name.removeprefix(prefix)] = today
    return updated


Regime = Literal["inductive", "transductive", "supervised"]
Refinement = Literal["none", "segment_iou"]


@dataclass(frozen=True)
class InferenceSettings:
    """From an image to its label map.

    Attributes:
        short_side: Resize so that the shorter side has this many pixels; None leaves the image as
            it is.
        square: Instead, resize the image to a square of this side, whatever its ratio (HSNet's
            evaluation).
        canvas: Instead, resize the image into a black square of this side and keep its ratio (BAM's
            and ESDA's evaluation).
        antialias: Smooth before an image is made smaller. False is SAZS's evaluation, for whole
            images resized to a square: the method's score maps are also resized to the image's own
            size in one step, not in two.
        window: Side of the square sliding window in pixels; None takes the whole image at once.
        stride: Step of the window in pixels; the last one is moved back to the border.
        window_batch: Windows computed at a time.
        refinement: "segment_iou" replaces the mask of a class by the eigen-segment with the highest
            IoU with it (`unseen.segments.refinement`).
        refinement_threshold: Masks and segments of a lower IoU are left as they are; `unseen
            evaluate --choose-threshold` chooses one on seen classes.
        segments_features: Network the segments are computed with: "timm:NAME" or a CLIP; None takes
            the method's own tower.
        segments_dir: Folder to read them from instead (`unseen eigenvectors`).
        segments_count: Eigen-segments of an image, the constant one included.
    """

    short_side: int | None = None
    square: int | None = None
    canvas: int | None = None
    antialias: bool = True
    window: int | None = None
    stride: int | None = None
    window_batch: int = 8
    refinement: Refinement = "none"
    refinement_threshold: float = 0.7
    segments_features: str | None = None
    segments_dir: str | None = None
    segments_count: int = 5

    def __post_init__(self) -> None:
        """Refuse values that contradict each other or mean nothing.

        Raises:
            SettingError: Two sizes or two sources of segments at once, or a number out of range.
        """
        for name in ("short_side", "square", "canvas", "window", "stride", "window_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                least = "at least 1" if name in ("stride", "window_batch") else "0 or more"
                raise SettingError(f"--inference.{name} is {value}; give {least}")
        self._check_segments()
        given = [
            name for name in ("short_side", "square", "canvas") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise SettingError(
                f"--inference.{given[0]} and --inference.{given[1]} exclude each other; set one of"
                " them to 0"
            )
        if not self.antialias and (self.square is None or self.window is not None):
            raise SettingError(
                "--inference.antialias false is for whole images resized to a square; give"
                " --inference.square, and set --inference.window to 0"
            )

    def _check_segments(self) -> None:
        if not 0 < self.refinement_threshold <= 1:
            raise SettingError(
                f"--inference.refinement_threshold is {self.refinement_threshold}; give an IoU"
                " above 0 and at most 1"
            )
        if self.segments_count < 1:
            raise SettingError(
                f"--inference.segments_count is {self.segments_count}; give at least 1"
            )
        if self.refinement == "segment_iou" and self.segments_count < 2:
            raise SettingError(
                "--inference.segments_count is 1, the constant segment alone, which refines no"
                " mask; give at least 2"
            )
        if self.segments_features and self.segments_dir:
            raise SettingError(
                "--inference.segments_dir and --inference.segments_features exclude each other; set"
                " one of them to ''"
            )


def check_threshold(threshold: float | None) -> None:
    """Refuse a `--threshold` that is no confidence.

    Raises:
        SettingError: Below 0 or above 1.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise SettingError(f"--threshold is {threshold}; give a confidence between 0 and 1")


def change_inference(
    base: InferenceSettings, given: InferenceSettings | Mapping[str, Any] | None
) -> InferenceSettings:
    """Inference settings, changed or replaced.

    Args:
        base: Those of a run or a benchmark.
        given: A mapping replaces single fields; 0 and "" stand for None in fields that may be None.
            Whole settings replace `base`; None leaves it.

    Raises:
        SettingError: A field that does not exist, or a value out of its range.
    """
    if given is None:
        return base
    if isinstance(given, InferenceSettings):
        return given
    defaults = {entry.name: entry.default for entry in fields(InferenceSettings)}
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise SettingError(
                f"there is no inference setting {name!r}{meant}; choose among {', '.join(defaults)}"
            )
        nothing = value in (0, "") and not isinstance(value, bool)
        if nothing and defaults[name] is None:
            value = None
        changes[name] = value
    return replace(base, **changes)


def check_segments_used(
    settings: InferenceSettings, given: InferenceSettings | Mapping[str, Any] | None
) -> None:
    """Refuse values about eigen-segments where none refine the masks.

    Args:
        settings: What is used.
        given: What was changed for it.

    Raises:
        SettingError: Names the first such value.
    """
    if settings.refinement != "none" or not isinstance(given, Mapping):
        return
    names = ("segments_dir", "segments_features", "segments_count", "refinement_threshold")
    unused = next((name for name in names if given.get(name)), None)
    if unused is not None:
        raise SettingError(
            f"--inference.{unused} is given and no segments are used; add --inference.refinement"
            " segment_iou, or remove it"
        )


Draw = Literal["all", "hsnet", "sazs", "bam"]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a segmenter is scored.

    Attributes:
        limit: Only the first so many images, or episodes; the report then lies in a folder
            ...-first-N of its own.
        threshold: Pixels whose best class has a lower confidence (0..1) get no class: they are
            background where that is scored (voc-21), and in folds.
        episodes: How the pairs of image and query class of a fold are drawn: "all" of HSNet's list
            once, or 1000 as "hsnet", "sazs" or "bam" (ESDA: seed 923) draw them.
        seeds: Of drawn episodes, one evaluation each.
        oracle: Let the labels choose between a mask and the eigen-segments, as SAZS was scored: not
            a result, and marked in the report.
        released_counts: Count ignored pixels of folds into unions, as the released SAZS does.
        choose_threshold: Choose inference.refinement_threshold on the seen classes of so many
            training images first; 0 leaves it.
        batch_size: Most images of one size computed together, with large vocabularies fewer.
        workers: Processes that read images.
        shown: Images on the sheet, spread over the set.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ...
        progress: Show a progress bar.
    """

    limit: int | None = None
    threshold: float | None = None
    episodes: Draw = "all"
    seeds: tuple[int, ...] = (0,)
    oracle: bool = False
    released_counts: bool = False
    choose_threshold: int = 0
    batch_size: int = 16
    workers: int = 0
    shown: int = 8
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values that mean nothing or contradict each other.

        Raises:
            SettingError: A number out of range, or two settings that exclude each other.
        """
        check_threshold(self.threshold)
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"--limit is {self.limit}; give at least 1 image")
        for name, least in (("choose_threshold", 0), ("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise SettingError(
                    f"--{flag} is {getattr(self, name)}; give a number of {least} or more"
                )
        self._check_seeds()
        if self.choose_threshold and self.threshold is not None:
            raise SettingError(
                "--choose-threshold looks at masks as they are without --threshold; choose first,"
                " then give --inference.refinement_threshold"
            )

    def _check_seeds(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise SettingError(
                f"--seeds is {list(self.seeds)}; give different numbers of 0 or more, such as"
                " [0,1,2]"
            )
        if self.seeds != (0,) and self.episodes == "all":
            raise SettingError(
                "--seeds is for drawn episodes, and nothing is drawn; add --episodes hsnet, sazs or"
                " bam, or remove it"
            )

    @property
    def complete(self) -> bool:
        """Whether the score is that of the benchmark's own protocol, on all of its images."""
        own = EvaluationSettings()
        free = ("batch_size", "workers", "shown", "device", "progress")
        return all(
            getattr(self, entry.name) == getattr(own, entry.name)
            for entry in fields(self)
            if entry.name not in free
        )


@dataclass(frozen=True)
class SpectralSettings:
    """How an image's graph is made and cut.

    Attributes:
        count: Eigenvectors of an image, the constant one included.
        colour: Weight of the edges between neighbours in colour and position; 0 for none.
        lapnorm: Solve (D - W) v = μ D v; false solves (D - W) v = μ v, which is dense and slow for
            large images.
        cell: Side in pixels of the cells the feature map is resized to (bilinear); patches by
            default.
    """

    count: int = 5
    colour: float = 0.0
    lapnorm: bool = True
    cell: int | None = None

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        if self.count < 1:
            raise SettingError(f"--count is {self.count} eigenvectors; give at least 1")
        if not 0 <= self.colour < math.inf:
            raise SettingError(f"the weight of colour (--colour) is {self.colour}; give 0 or more")
        if self.cell is not None and self.cell < 1:
            raise SettingError(f"--cell is {self.cell} pixels; give at least 1")


@dataclass(frozen=True)
class ExtractionSettings:
    """Which images `eigenvectors` takes, with which network, and what it writes.

    Attributes:
        features: Network whose keys are compared: timm:NAME (timm:vit_small_patch16_224.dino, as
            Deep Spectral Methods), timm:NAME@FILE, or a CLIP: "doodles", ARCHITECTURE/TAG of
            open_clip, a weight file.
        split: Of a benchmark: "train", or "val" (the default).
        limit: Only the first so many images.
        png: Write the segments as NAME_k0.png, ... too: 0 and 255, as SAZS reads them.
        shown: Images on the sheet, spread over all.
        device: "auto", "cpu", "cuda", ...
        progress: Show a progress bar.
    """

    features: str = "doodles"
    split: Literal["train", "val"] | None = None
    limit: int | None = None
    png: bool = False
    shown: int = 6
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse splits that do not exist, and no images."""
        if self.split not in (None, "train", "val"):
            raise SettingError(f"there is no split called {self.split!r}; choose train or val")
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"--limit is {self.limit}; give at least 1 image")


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
        flip: Probability of a horizontal flip.
        photometric: Random brightness, contrast, saturation and hue.
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
    flip: float = 0.5
    photometric: bool = True

    def __post_init__(self) -> None:
        """Refuse values that cannot be drawn from."""
        check_ranges(self, "train.transforms", TRANSFORM_RANGES)


def _is_box(value: Any) -> bool:
    """Whether a value is (long, short) in pixels."""
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    return is_pair and all(whole(1).holds(side) for side in value) and value[0] >= value[1]


TRANSFORM_RANGES = {
    "resize": Allowed(_is_box, "give the long and the short side in pixels").or_none(),
    "scale": interval(0),
    "crop": whole(1).or_none(),
    "max_class_share": number(0, open_low=True).or_none(),
    "zoom": interval(0).or_none(),
    "rotate": number(0, 180),
    "pillow": SWITCH,
    "blur": SWITCH,
    "min_positives": number(0, 1),
    "centre": SWITCH,
    "flip": number(0, 1),
    "photometric": SWITCH,
}
"""What the fields of `TransformSettings` may be."""

UnseenPixels = Literal["ignore", "background", "drop_image"]
Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["poly", "cosine", "step", "constant"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Strategy = Literal["auto", "ddp"]
Logger = Literal["csv", "tensorboard"]


@dataclass(frozen=True)
class TrainSettings:
    """How a segmenter is trained.

    Attributes:
        regime: inductive (names and pixels of unseen classes unknown), transductive (their names
            known, their pixels given pseudo labels by the network itself) or supervised (all
            masks).
        pseudo_label_void: Transductive: give ignored pixels pseudo labels too (the paper's variant
            without dagger).
        unseen_pixels: Methods queried with one class per image: how pixels of unseen classes are
            labelled in training. "ignore": not at all; "background": as background (HSNet's lists,
            SAZS, EdgeCLIP: masks of unseen classes are used); "drop_image": images that show any
            are left out (BAM, ESDA).
        steps: Optimiser steps.
        batch_size: Images per step, over all devices and accumulated parts.
        accumulate: Parts a batch is computed in, one after the other.
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
        save_every: Steps between resumable states.
        snapshots: Steps after which the weights are kept as a run folder of their own, OUT/step-N.
        log_every: Steps between rows of the curve.
        logger: "csv": logs/metrics.csv; "tensorboard": event files beside it.
        devices: "auto", or a number of devices.
        nodes: Number of machines.
        strategy: "ddp" for several devices; "auto" chooses.
        transforms: Augmentation.
    """

    regime: Regime = "inductive"
    pseudo_label_void: bool = False
    unseen_pixels: UnseenPixels = "ignore"
    steps: int = 20_000
    batch_size: int = 16
    accumulate: int = 1
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
    snapshots: tuple[int, ...] = ()
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
    "pseudo_label_void": SWITCH,
    "unseen_pixels": one_of(UnseenPixels),
    "steps": whole(1),
    "batch_size": whole(1),
    "accumulate": whole(1),
    "optimizer": one_of(Optimizer),
    "lr": number(0, open_low=True),
    "weight_decay": number(0),
    "decay_norms": SWITCH,
    "schedule": one_of(Schedule),
    "power": number(0),
    "min_lr": number(0),
    "warmup": whole(0),
    "warmup_ratio": number(0, 1),
    "clip_norm": number(0, open_low=True).or_none(),
    "seed": whole(0),
    "precision": one_of(Precision),
    "workers": whole(0),
    "save_every": whole(1),
    "snapshots": Allowed(
        lambda steps: all(whole(1).holds(step) for step in steps),
        "give whole numbers of at least 1",
    ),
    "log_every": whole(1),
    "logger": one_of(Logger),
    "devices": Allowed(
        lambda name: name == "auto" or (str(name).isdigit() and int(name) > 0),
        "give 'auto' or a number of devices",
    ),
    "nodes": whole(1),
    "strategy": one_of(Strategy),
    "transforms": Allowed(
        lambda value: isinstance(value, TransformSettings), "give TransformSettings"
    ),
}
"""What the fields of `TrainSettings` may be."""


@dataclass(frozen=True)
class ModelSettings:
    """Which segmenter.

    Attributes:
        method: Name in `unseen list`.
        clip: Tower: "doodles", `ARCHITECTURE/TAG` of open_clip, or a weight file.
        published: Start from the released code's choices instead of ours.
        options: Keyword arguments of the method.
    """

    method: str = "naclip"
    clip: str = "doodles"
    published: bool = False
    options: dict[str, Any] = field(default_factory=dict)
