"""How a segmenter is scored."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from unseen.errors import SettingError
from unseen.settings.ranges import (
    SEED,
    SWITCH,
    check_ranges,
    number,
    one_of,
    several,
    shown,
    text,
    whole,
)

Draw = Literal["all", "hsnet", "sazs", "bam"]


TableFormat = Literal["table", "md", "csv", "tex"]
"""How tables are printed: for the screen, Markdown, CSV or LaTeX."""


def check_threshold(threshold: float | None) -> None:
    """Refuse a `--threshold` that is no confidence.

    Raises:
        SettingError: Below 0 or above 1.
    """
    if not number(0, 1).or_none().holds(threshold):
        raise SettingError(f"--threshold is {shown(threshold)}; give a confidence between 0 and 1")


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
        at_square: Score images resized to --inference.square at that size, with label maps resized
            by the nearest pixel, as HSNet does, and not at their own size.
        choose_threshold: Choose inference.refinement_threshold on the seen classes of so many
            training images first; 0 leaves it.
        batch_size: Most images of one size computed together, with large vocabularies fewer.
        workers: Processes that read images.
        shown: Images on the sheet, spread over the set; with 0 there is no sheet, and no image in
            report.html.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ...
        progress: Show a progress bar.
    """

    limit: int | None = None
    threshold: float | None = None
    episodes: Draw = "all"
    seeds: tuple[int, ...] = (0,)
    oracle: bool = False
    released_counts: bool = False
    at_square: bool = False
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
        check_ranges(self, "", EVALUATION_RANGES)
        # Recipes store a list; equal settings must compare equal.
        object.__setattr__(self, "seeds", tuple(self.seeds))
        self._check_seeds()
        if self.choose_threshold and self.threshold is not None:
            raise SettingError(
                "--choose-threshold looks at masks as they are without --threshold; choose first,"
                " then give --inference.refinement_threshold"
            )

    def _check_seeds(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
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
    def changed(self) -> dict[str, Any]:
        """The fields that do not have their defaults."""
        own = EvaluationSettings()
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(own, name)}

    @property
    def complete(self) -> bool:
        """Whether the score is that of the benchmark's own protocol, on all of its images."""
        free = {"batch_size", "workers", "shown", "device", "progress"}
        return self.changed.keys() <= free


EVALUATION_RANGES = {
    "limit": whole(1).or_none(),
    "threshold": number(0, 1).or_none(),
    "episodes": one_of(Draw),
    "seeds": several(SEED, least=1),
    "oracle": SWITCH,
    "released_counts": SWITCH,
    "at_square": SWITCH,
    "choose_threshold": whole(0),
    "batch_size": whole(1, 2**16),
    "workers": whole(0, 1024),
    "shown": whole(0, 1000),
    "device": text(),
    "progress": SWITCH,
}
"""What the fields of `EvaluationSettings` may be."""
