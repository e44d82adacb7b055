"""The benchmarks of published data sets, and those of the synthetic scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unseen.data.ade import ADE150, ADE847
from unseen.data.benchmarks.base import BENCHMARKS, SCORED, THRESHOLD, WINDOWS, Benchmark
from unseen.data.classes import (
    CITYSCAPES,
    COCO,
    COCO_STUFF,
    COCO_STUFF_UNSEEN,
    CONTEXT,
    CONTEXT_CASCADE,
    CONTEXT_UNSEEN,
    CONTEXT_ZS3,
    DOODLES,
    DOODLES_FOLDS,
    VOC,
    VOC_UNSEEN,
    VOC_ZS3,
)
from unseen.data.folds import CocoFold, DoodlesFold, Fold, PascalFold
from unseen.data.layouts import (
    Layout,
    ade150_pairs,
    ade847_pairs,
    cityscapes_pairs,
    coco_stuff_pairs,
    context_pairs,
    open_coco_object,
    voc_pairs,
)
from unseen.data.pairs import Background, Pair
from unseen.settings import InferenceSettings

if TYPE_CHECKING:
    from unseen.data.datasets import SegmentationSet

# ----------------------------------------------------------------------- folds


def fold_benchmarks(lists: Path | None = None) -> dict[str, Benchmark]:
    """The folds by name, with the folder of HSNet's lists (downloaded by default)."""
    folds: list[Benchmark] = []
    for number in range(4):
        folds += [
            # The canvas has the size of the crops that ESDA trains on (see its recipe).
            _fold(PascalFold(number, lists), InferenceSettings(canvas=480)),
            _fold(CocoFold(number, lists), InferenceSettings(canvas=352)),
            _fold(DoodlesFold(number), InferenceSettings()),
        ]
    return {fold.name: fold for fold in folds}


def _fold(fold: Fold, inference: InferenceSettings) -> Benchmark:
    return Benchmark(
        name=fold.name,
        summary=f"{fold.title} in folds: one class at a time, foreground against background",
        class_names=fold.class_names,
        unseen=tuple(fold.class_names[i] for i in fold.novel),
        templates="single",
        inference=inference,
        open=fold.open,
        # Doodles are drawn, not read.
        needs_root=not isinstance(fold, DoodlesFold),
        background="rest",
        protocol={
            "labels": "255 is ignored; what is not the query class is background",
            # Easier than a vocabulary: the method never has to decide which class is in the image.
            "given": "the class of an episode, which is in the image",
        },
        episodes=fold.episodes,
    )


# ---------------------------------------------------------------- generalised


@dataclass(frozen=True)
class _Pascal:
    """PASCAL VOC or Context, whose label maps store 0 for the background and 1..K for the classes.

    Attributes:
        title: Of the data set.
        pairs: From root and split to the files.
        class_names: Without background.
        unseen: Of its usual split.
        templates: Key of the prompt templates.
        counts: Numbers of images by split, for reports.
    """

    title: str
    pairs: Callable[[Path, str], list[Pair]]
    class_names: tuple[str, ...]
    unseen: tuple[str, ...]
    templates: str
    counts: dict[str, str]

    def benchmark(self, name: str, about: str, background: Background) -> Benchmark:
        """The benchmark with the data set's usual split.

        Args:
            name: Of the benchmark.
            about: End of the summary, after the data set's title.
            background: "ignore", "class" or "threshold".
        """
        count = len(self.class_names)
        labels = {
            "ignore": f"0 (background) and 255 are ignored; 1..{count} become 0..{count - 1}",
            "class": f"0 is the background, 1..{count} the classes; 255 is ignored",
            "threshold": THRESHOLD,
        }[background]
        # As a class, the background is a seen one and comes first, as in the stored ids.
        names = self.class_names
        if background == "class":
            names = ("background", *names)
        return Benchmark(
            name=name,
            summary=f"{self.title}{about}",
            class_names=names,
            unseen=self.unseen,
            templates=self.templates,
            inference=WINDOWS,
            open=Layout(name, self.pairs, count, background).open,
            background=background,
            protocol={"labels": labels, **self.counts},
        )

    def nested(self, base: str, unseen: tuple[str, ...]) -> list[Benchmark]:
        """ZS3's nested splits: of ten classes in pairs, the first 2, 4, ... 10 are unseen."""
        about = (
            ", ZS3's nested splits: 2 to 10 unseen classes, background a seen class, training"
            " images with unseen pixels left out"
        )
        train = {"train": f"those of {self.counts['train']} that show no unseen class"}
        splits = []
        for count in (2, 4, 6, 8, 10):
            # Each split adds a pair of classes to the one before, so scores show a trend.
            usual_split = self.benchmark(f"{base}/{count}", about, "class")
            layout = self._without(usual_split.name, unseen[:count])
            protocol = {**usual_split.protocol, **train}
            splits.append(
                replace(usual_split, unseen=unseen[:count], open=layout.open, protocol=protocol)
            )
        return splits

    def _without(self, name: str, unseen: tuple[str, ...]) -> Layout:
        """The layout without training images that contain an unseen class."""
        # Stored ids start at 1, after the background.
        excluded = tuple(1 + i for i, other in enumerate(self.class_names) if other in unseen)
        return Layout(name, self.pairs, len(self.class_names), "class", excluded)


PASCAL_VOC = _Pascal(
    "PASCAL VOC",
    voc_pairs,
    VOC,
    VOC_UNSEEN,
    "single",
    {"train": "10 582 images (VOC train + SBD)", "val": "1 449 images"},
)
PASCAL_CONTEXT = _Pascal(
    "PASCAL Context",
    context_pairs,
    CONTEXT,
    CONTEXT_UNSEEN,
    "multi",
    {"train": "4 996 images", "val": "5 104 images"},
)
BELOW_THRESHOLD = " with a scored background, predicted where the confidence of every class is low"


def _coco_stuff() -> Benchmark:
    return Benchmark(
        name="coco-stuff",
        summary="COCO-Stuff 164K, 156 seen and 15 unseen classes",
        class_names=COCO_STUFF,
        unseen=COCO_STUFF_UNSEEN,
        templates="multi",
        inference=WINDOWS,
        open=Layout("coco-stuff", coco_stuff_pairs, len(COCO_STUFF)).open,
        protocol={
            "labels": "training ids 0..170; 255 is ignored",
            "train": "118 287 images",
            "val": "5 000 images",
        },
    )


def _coco_object() -> Benchmark:
    return Benchmark(
        name="coco-object",
        summary=f"COCO-Object, the 80 things of COCO{BELOW_THRESHOLD}",
        class_names=COCO,
        unseen=(),
        templates="multi",
        inference=WINDOWS,
        open=open_coco_object,
        background="threshold",
        protocol={
            "labels": f"COCO-Stuff's ids 0..79; all others, 255 too, are the background: {SCORED}",
            "val": "5 000 images",
        },
    )


def _doodles() -> Benchmark:
    return Benchmark(
        name="doodles",
        summary="Doodles, synthetic scenes of 20 classes, 15 seen and 5 unseen; needs no files",
        class_names=DOODLES,
        unseen=DOODLES_FOLDS[3],
        templates="single",
        # Scenes have 96 pixels a side, training crops 64: windows are as large as the crops.
        inference=InferenceSettings(window=64, stride=32, window_batch=64),
        open=_open_doodles,
        needs_root=False,
        protocol={
            "labels": "background is ignored",
            "train": "20 000 scenes of seed 1",
            "val": "500 scenes of seed 3",
            "note": "scores on Doodles are no evidence about photographs",
        },
    )


def _open_doodles(root: Path | None, split: str) -> SegmentationSet:
    from unseen.data.datasets import DoodleScenes  # imports torch

    return DoodleScenes.of_split(split)


def _all_classes(
    summary: str, class_names: tuple[str, ...], layout: Layout, **protocol: str
) -> Benchmark:
    """A benchmark without unseen classes, for methods trained elsewhere or not at all."""
    return Benchmark(
        name=layout.name,
        summary=summary,
        class_names=class_names,
        unseen=(),
        templates="multi",
        inference=WINDOWS,
        open=layout.open,
        protocol=protocol,
    )


# In the order of lists: the usual benchmarks, their variants, then data sets without a split.
CATALOGUE = (
    PASCAL_VOC.benchmark(
        "voc", " 2012, 15 seen and 5 unseen classes, background not scored", "ignore"
    ),
    _coco_stuff(),
    PASCAL_CONTEXT.benchmark(
        "context", ", 49 seen and 10 unseen classes, background not scored", "ignore"
    ),
    PASCAL_CONTEXT.benchmark(
        "context-60",
        " with the background as a seen class: 50 seen and 10 unseen classes",
        "class",
    ),
    _doodles(),
    *fold_benchmarks().values(),
    PASCAL_VOC.benchmark("voc-21", f" 2012{BELOW_THRESHOLD}", "threshold"),
    PASCAL_CONTEXT.benchmark("context-60-threshold", BELOW_THRESHOLD, "threshold"),
    replace(PASCAL_CONTEXT, unseen=CONTEXT_CASCADE).benchmark(
        "context-cascade",
        ", the split of Cascade-CLIP's numbers: 49 seen and 10 other unseen classes",
        "ignore",
    ),
    _coco_object(),
    *PASCAL_VOC.nested("voc-zs3", VOC_ZS3),
    *PASCAL_CONTEXT.nested("context-zs3", CONTEXT_ZS3),
    _all_classes(
        "ADE20K of the scene parsing challenge, all of its 150 classes",
        ADE150,
        Layout("ade20k-150", ade150_pairs, len(ADE150), "ignore"),
        labels="0 (other) and 255 are ignored; 1..150 become 0..149",
        train="20 210 images",
        val="2 000 images",
    ),
    _all_classes(
        "the full ADE20K, all of 847 classes; for evaluation",
        ADE847,
        # Too many classes for 8 bits and for training (`unseen.labels`).
        Layout("ade20k-847", ade847_pairs, len(ADE847)),
        labels="ids 0..846 in 16 bits; 65535 is ignored",
        val="2 000 images",
    ),
    _all_classes(
        "Cityscapes, all of its 19 classes",
        CITYSCAPES,
        Layout("cityscapes", cityscapes_pairs, len(CITYSCAPES)),
        labels="training ids 0..18; 255 is ignored",
        train="2 975 images",
        val="500 images",
    ),
)
BENCHMARKS.update((benchmark.name, benchmark) for benchmark in CATALOGUE)
