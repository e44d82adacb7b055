"""From an image to its label map: size, windows, refinement by segments."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from unseen.errors import SettingError
from unseen.settings.ranges import SWITCH, check_ranges, number, one_of, several, text, whole

Refinement = Literal["none", "segment_iou", "pamr"]
ConfidenceAt = Literal["maps", "image"]
InferencePrecision = Literal["auto", "32-true", "bf16-mixed"]


@dataclass(frozen=True)
class InferenceSettings:
    """From an image to its label map.

    Attributes:
        short_side: Resize so that the shorter side has this many pixels; None leaves the image as
            it is.
        square: Instead, resize the image to a square of this side, whatever its ratio (HSNet's
            evaluation, with --at-square).
        canvas: Instead, resize the image into a black square of this side and keep its ratio (BAM's
            and ESDA's evaluation).
        antialias: Smooth before an image is made smaller. False as in released evaluations; score
            maps of whole images then also go from the method's size to the image's own in one step,
            not in two.
        window: Side of the square sliding window in pixels; None takes the whole image at once.
        stride: Step of the window in pixels; the last one is moved back to the border.
        window_batch: Windows computed at a time.
        precision: Of the network; "auto" is bf16-mixed where the hardware computes in it, else
            32-true. Scores are resized and compared in float32 in any case.
        confidence_at: Where the confidence of the best class is computed: at the size of the score
            "maps", then resized; or at the "image"'s, as released training-free codes do, which
            takes longer.
        area_threshold: Classes that have no more than this share (0..1) of an image's pixels with a
            class lose them to others (SCLIP); None keeps all.
        refinement: "segment_iou" replaces the mask of a class by the eigen-segment with the highest
            IoU with it (`unseen.segments.refinement`); "pamr" lets score maps follow the edges of
            the image (`unseen.modules.pamr`; NACLIP).
        pamr_steps: How often.
        pamr_dilations: Distances of the neighbours that a pixel listens to.
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
    precision: InferencePrecision = "auto"
    confidence_at: ConfidenceAt = "maps"
    area_threshold: float | None = None
    refinement: Refinement = "none"
    pamr_steps: int = 10
    pamr_dilations: tuple[int, ...] = (8, 16)
    refinement_threshold: float = 0.7
    segments_features: str | None = None
    segments_dir: str | None = None
    segments_count: int = 5

    def __post_init__(self) -> None:
        """Refuse values that contradict each other or mean nothing.

        Raises:
            SettingError: Two sizes or two sources of segments at once, or a number out of range.
        """
        check_ranges(self, "inference", INFERENCE_RANGES)
        # Run folders and recipes store a list; equal settings must compare equal.
        object.__setattr__(self, "pamr_dilations", tuple(self.pamr_dilations))
        self._check_sizes()
        self._check_segments()

    def _check_sizes(self) -> None:
        given = [
            name for name in ("short_side", "square", "canvas") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise SettingError(
                f"--inference.{' and --inference.'.join(given)} exclude each other, whether given"
                " or of the run, benchmark or method; set those you do not want to 0"
            )
        if not self.antialias and self.square is None and self.short_side is None:
            raise SettingError(
                "--inference.antialias false is for images that are resized; give"
                " --inference.short_side or --inference.square"
            )

    def _check_segments(self) -> None:
        if self.area_threshold is not None and self.refinement == "segment_iou":
            raise SettingError(
                "--inference.area_threshold and --inference.refinement segment_iou exclude each"
                " other: segments would bring small classes back; give one of them"
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


_SIDE = whole(1, 8192).or_none()
INFERENCE_RANGES = {
    "short_side": _SIDE,
    "square": _SIDE,
    "canvas": _SIDE,
    "antialias": SWITCH,
    "window": _SIDE,
    "stride": _SIDE,
    "window_batch": whole(1, 2**16),
    "precision": one_of(InferencePrecision),
    "confidence_at": one_of(ConfidenceAt),
    "area_threshold": number(0, 1, open_high=True).or_none(),
    "refinement": one_of(Refinement),
    "pamr_steps": whole(1, 1000),
    "pamr_dilations": several(whole(1, 1000), least=1),
    "refinement_threshold": number(0, 1, open_low=True),
    "segments_features": text(empty=True).or_none(),
    "segments_dir": text(empty=True).or_none(),
    "segments_count": whole(1, 1000),
}
"""What the fields of `InferenceSettings` may be."""


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
    if changes.get("stride") and {**vars(base), **changes}["window"] is None:
        raise SettingError(
            f"--inference.stride is {changes['stride']}, and there are no windows; give"
            " --inference.window, or remove it"
        )
    resized = any({**vars(base), **changes}[name] for name in ("short_side", "square"))
    if not resized:  # nothing is left that could be smoothed
        changes.setdefault("antialias", True)
    return replace(base, **changes)


def check_segments_used(
    settings: InferenceSettings, given: InferenceSettings | Mapping[str, Any] | None
) -> None:
    """Refuse values about a refinement that is not used.

    Args:
        settings: What is used.
        given: What was changed for it.

    Raises:
        SettingError: Names the first such value.
    """
    if not isinstance(given, Mapping):
        return
    for name, value in given.items():
        owner = REFINEMENT_OF.get(name)
        if owner is not None and value and owner != settings.refinement:
            raise SettingError(
                f"--inference.{name} is given and {UNUSED[owner]}; add --inference.refinement"
                f" {owner}, or remove it"
            )


REFINEMENT_OF: dict[str, Refinement] = {
    "segments_dir": "segment_iou",
    "segments_features": "segment_iou",
    "segments_count": "segment_iou",
    "refinement_threshold": "segment_iou",
    "pamr_steps": "pamr",
    "pamr_dilations": "pamr",
}
"""The settings of each refinement."""
UNUSED = {"segment_iou": "no segments are used", "pamr": "maps are not refined so"}
