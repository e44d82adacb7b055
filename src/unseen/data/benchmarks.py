"""Benchmarks as data: everything that moves a number is fixed here, and every report repeats it.

Splits are given by name, never by number: the numbers follow from the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from unseen.data.classes import DOODLES, DOODLES_FOLDS, VOC
from unseen.data.datasets import DoodleScenes, LabelledImages, SegmentationSet, voc_pairs
from unseen.errors import DataError, SettingError
from unseen.settings import InferenceSettings


@dataclass(frozen=True)
class Benchmark:
    """Generalised zero-shot segmentation: train on masks of the seen words, predict among all of them.

    Attributes:
        name: As on the command line.
        summary: One sentence.
        vocabulary: K words in the order of the label ids.
        unseen: Those without masks in training.
        templates: Key of the sentence patterns.
        inference: Size and windows of the evaluation, for every method.
        needs_root: Whether `--root` must say where the data lie.
        open: (root, split) to the data; split is "train" or "val".
        protocol: What else a report should say.
    """

    name: str
    summary: str
    vocabulary: tuple[str, ...]
    unseen: tuple[str, ...]
    templates: str
    inference: InferenceSettings
    open: Callable[[Path | None, str], SegmentationSet]
    needs_root: bool = True
    protocol: dict[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> tuple[str, ...]:
        """The words with masks in training, in the order of the vocabulary."""
        return tuple(name for name in self.vocabulary if name not in self.unseen)

    @property
    def unseen_ids(self) -> list[int]:
        """Label ids of the unseen words."""
        return [i for i, name in enumerate(self.vocabulary) if name in self.unseen]

    @property
    def seen_ids(self) -> list[int]:
        """Label ids of the seen words."""
        return [i for i, name in enumerate(self.vocabulary) if name not in self.unseen]

    def data(self, split: str, root: Path | None) -> SegmentationSet:
        """The pictures and label maps of a split.

        Raises:
            DataError: No root where one is needed, or not the layout that belongs there.
        """
        if self.needs_root and root is None:
            raise DataError(f"the benchmark {self.name} needs its pictures; say where they lie with --root FOLDER")
        return self.open(root, split)


def _voc(root: Path | None, split: str) -> SegmentationSet:
    assert root is not None
    return LabelledImages(voc_pairs(root, split), len(VOC), background=0)


def _doodles(things: tuple[int, int], size: int, root: Path | None, split: str) -> SegmentationSet:
    seed, count = {"train": (1, 20_000), "val": (3, 500)}[split]
    return DoodleScenes(seed, count, size=size, min_things=things[0], max_things=things[1])


BENCHMARKS: dict[str, Benchmark] = {
    "voc": Benchmark(
        name="voc",
        summary="PASCAL VOC 2012, 15 seen and 5 unseen classes, background not scored",
        vocabulary=VOC,
        unseen=("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
        templates="single",
        inference=InferenceSettings(short_side=512, window=512, stride=426),
        open=_voc,
        protocol={"labels": "0 (background) and 255 are void; 1..20 become 0..19", "train": "10 582 pictures (VOC train + SBD)", "val": "1 449 pictures"},
    ),
    "doodles": Benchmark(
        name="doodles",
        summary="the embedded world: drawn scenes of 20 things, 15 seen and 5 unseen; needs no files",
        vocabulary=DOODLES,
        unseen=DOODLES_FOLDS[3],
        templates="single",
        inference=InferenceSettings(window=64, stride=32, window_batch=64),
        open=partial(_doodles, (2, 4), 96),
        needs_root=False,
        protocol={
            "labels": "background is void",
            "train": "20 000 scenes of seed 1",
            "val": "500 scenes of seed 3",
            "note": "Doodles numbers say nothing about photographs",
        },
    ),
}


def get_benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
        SettingError: No such benchmark.
    """
    if name not in BENCHMARKS:
        raise SettingError(f"there is no benchmark called {name!r}; choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
