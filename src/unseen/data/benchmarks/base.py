"""A benchmark: its classes, how its data are opened, and what is fixed about its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unseen.data.layouts import require_root
from unseen.data.pairs import Background
from unseen.errors import SettingError
from unseen.settings import Draw, EvaluationSettings, InferenceSettings
from unseen.vocabulary import Vocabulary

if TYPE_CHECKING:
    from unseen.data.datasets import SegmentationSet
    from unseen.data.episodes import Episode

Opener = Callable[[Path | None, str], "SegmentationSet"]
"""From root and split ("train" or "val") to the images and label maps."""
EpisodeOpener = Callable[[Path | None, Draw, int], tuple["SegmentationSet", list["Episode"]]]
"""From root, way to draw and seed to the validation images and the pairs to score."""


@dataclass(frozen=True)
class Benchmark:
    """The classes to train on, the classes to predict, and the rules of scoring.

    Training uses masks of the seen classes. Evaluation then either predicts among all classes
    (generalised zero-shot), or segments one query class at a time (folds).

    Attributes:
        name: As on the command line; for a folder of your own, its absolute path.
        summary: One sentence.
        class_names: K class names in the order of the label ids.
        unseen: Those without masks in training; none where a benchmark is for runs trained
            elsewhere, or for methods without training.
        templates: Key of the prompt templates.
        inference: Size and windows of the evaluation, for every method.
        open: Opens the data of a split.
        needs_root: Whether `--root` must give the folder of the data.
        background: How labelled pixels that show none of the classes are treated.
        protocol: What else a report should state.
        episodes: For folds: opens the validation images and the pairs to score.
        folder: Of your own data.
        synonyms: What stands for a class in prompts, where it is not its name alone.
    """

    name: str
    summary: str
    class_names: tuple[str, ...]
    unseen: tuple[str, ...]
    templates: str
    inference: InferenceSettings
    open: Opener
    needs_root: bool = True
    background: Background = "ignore"
    protocol: dict[str, str] = field(default_factory=dict)
    episodes: EpisodeOpener | None = None
    folder: Path | None = None
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes with their synonyms."""
        return Vocabulary(self.class_names, self.synonyms)

    @property
    def base(self) -> str:
        """The name without the fold."""
        return self.title.partition("/")[0]

    @property
    def title(self) -> str:
        """The name in tables and images: the folder's own name, for your own data."""
        return self.folder.name if self.folder else self.name

    @property
    def slug(self) -> str:
        """The name as a part of file names."""
        return self.title.replace("/", "-")

    @property
    def scored_names(self) -> tuple[str, ...]:
        """The classes of the confusion matrix.

        These are the vocabulary, and the background where it is scored without being a class of it.
        """
        if self.background == "threshold":
            # Last, so that the indices of the classes stay those of the vocabulary.
            return (*self.class_names, "background")
        return self.class_names

    @property
    def seen(self) -> tuple[str, ...]:
        """The classes with masks in training, in the order of the vocabulary."""
        # The order decides about the rows of text features and the labels in training.
        return tuple(name for name in self.class_names if name not in self.unseen)

    @property
    def unseen_ids(self) -> list[int]:
        """Indices of the unseen classes in the vocabulary."""
        return [i for i, name in enumerate(self.class_names) if name in self.unseen]

    @property
    def seen_ids(self) -> list[int]:
        """Indices of the seen classes in the vocabulary."""
        return [i for i, name in enumerate(self.class_names) if name not in self.unseen]

    def same_classes_as(self, name: str, class_names: Sequence[str]) -> bool:
        """Whether a run trained on the benchmark `name` can be scored here as on its own data.

        This is so for the same benchmark, for benchmarks with the same seen and unseen classes that
        differ in the background alone (voc, voc-21), and for a folder of your own that has moved.

        Args:
            name: Of the benchmark of the run.
            class_names: Vocabulary of the run.
        """
        if self.name == name:
            return True
        # Folds of other numbers have the same vocabulary, but other unseen classes.
        if self.class_names != tuple(class_names) or self.episodes is not None:
            return False
        # A name that is not in the catalogue is the path of a folder.
        other = BENCHMARKS.get(name)
        if other is None:
            return self.folder is not None
        if self.folder is not None:
            return False
        return other.episodes is None and other.unseen == self.unseen

    def data(self, split: str, root: Path | None) -> SegmentationSet:
        """The images and label maps of a split.

        Raises:
            DataError: The root is missing or has another layout.
        """
        self.check_root(root)
        return self.open(root, split)

    def check_root(self, root: Path | None) -> None:
        """Refuse a missing root before anything costly is done.

        Raises:
            DataError: A root is needed and none is given, or the folder does not exist.
        """
        # Opening the data would refuse it too, but only after the model is loaded.
        if self.needs_root:
            require_root(root, self.name)

    def check_settings(
        self,
        inference: InferenceSettings,
        settings: EvaluationSettings,
        *,
        words: bool = False,
    ) -> None:
        """Refuse settings that do not fit the benchmark or each other.

        Args:
            inference: Size, windows and refinement.
            settings: How to score.
            words: Whether there are words for the background.

        Raises:
            SettingError: Names the first of them and the remedy.
        """
        self._check_fold_settings(settings)
        if settings.at_square and inference.square is None:
            raise SettingError(
                "--at-square is for images resized to squares; give --inference.square, or remove"
                " it"
            )
        self._check_background(settings, words)
        # The oracle chooses segments by the labels, refinement without them.
        refines = inference.refinement == "segment_iou"
        if settings.oracle and refines:
            raise SettingError(
                "the oracle and --inference.refinement segment_iou exclude each other: either"
                " labels choose the segments or they do not"
            )
        if settings.choose_threshold and not refines:
            raise SettingError(
                "--choose-threshold is for --inference.refinement segment_iou; give both, or none"
                " of them"
            )

    def _check_background(self, settings: EvaluationSettings, words: bool) -> None:
        """Refuse a background that is scored and never predicted, and words where none is."""
        # No default would fit every method: their confidences have different ranges.
        if self.background == "threshold" and settings.threshold is None and not words:
            raise SettingError(
                f"{self.title} scores the background, which is where no class is confident; give"
                " the least confidence with --threshold (0 to 1), or words for the background with"
                " --background-words"
            )
        if words and self.background not in ("threshold", "rest"):
            raise SettingError(
                f"--background-words take pixels from all classes, and {self.title} does not score"
                " a background; remove them"
            )

    def _check_fold_settings(self, settings: EvaluationSettings) -> None:
        """Refuse settings of episodes where there are none."""
        if self.episodes is not None:
            return
        if settings.episodes != "all":
            raise SettingError(
                f"--episodes {settings.episodes} is for folds, and {self.name} has none; remove it"
            )
        if settings.released_counts:
            raise SettingError(
                f"--released-counts is for folds, and {self.name} has none; remove it"
            )


# Filled by the catalogue, which imports this module: a benchmark compares itself with others.
BENCHMARKS: dict[str, Benchmark] = {}
"""The benchmarks by name; `unseen.data.benchmarks.catalogue` fills it."""
WINDOWS = InferenceSettings(short_side=512, window=512, stride=426)
"""Size and windows of the released ZegCLIP and CLIP-RC."""
SCORED = (
    "a class of its own in pAcc and mIoU: where the confidence of the best class is below"
    " --threshold, or one of the --background-words wins"
)
THRESHOLD = f"0 is the background, {SCORED}; 255 is ignored"
