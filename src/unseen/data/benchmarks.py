"""Benchmarks as data: everything that moves a number is fixed here, and every report repeats it.

Splits are given by name, never by number: the numbers follow from the vocabulary. A folder of one's
own is a benchmark too (`unseen.data.own.layout`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from unseen.data import openers
from unseen.data.ade import ADE150, ADE847
from unseen.data.classes import (
    CITYSCAPES,
    COCO,
    COCO_STUFF,
    CONTEXT,
    CONTEXT_ZS3,
    DOODLES,
    DOODLES_FOLDS,
    VOC,
    VOC_ZS3,
)
from unseen.data.datasets import Background, SegmentationSet
from unseen.data.episodes import Draw, Episode
from unseen.data.own.layout import CLASSES, read_classes, require_parts
from unseen.errors import DataError, SettingError
from unseen.settings import InferenceSettings, is_own


@dataclass(frozen=True)
class Benchmark:
    """Train on masks of the seen words; then either predict among all words (generalised), or be
    asked one word at a time (folds).

    Attributes:
        name: As on the command line; the whole path of a folder of one's own.
        summary: One sentence.
        class_names: K words in the order of the label ids.
        unseen: Those without masks in training; none where a benchmark is for runs trained
            elsewhere, or for methods without training.
        templates: Key of the sentence patterns.
        inference: Size and windows of the evaluation, for every method.
        open: (root, split) to the data; split is "train" or "val".
        needs_root: Whether `--root` must say where the data lie.
        background: What becomes of labelled pixels that show none of the classes.
        protocol: What else a report should say.
        episodes: For folds: (root, way to draw, seed) to the validation images and the pairs to
            ask about.
        folder: Of one's own data.
    """

    name: str
    summary: str
    class_names: tuple[str, ...]
    unseen: tuple[str, ...]
    templates: str
    inference: InferenceSettings
    open: Callable[[Path | None, str], SegmentationSet]
    needs_root: bool = True
    background: Background = "ignore"
    protocol: dict[str, str] = field(default_factory=dict)
    episodes: Callable[[Path | None, Draw, int], tuple[SegmentationSet, list[Episode]]] | None = (
        None
    )
    folder: Path | None = None

    @property
    def base(self) -> str:
        """The name without the fold."""
        return self.title.partition("/")[0]

    @property
    def title(self) -> str:
        """The name in tables and images: the folder's own name, for one's own data."""
        return self.folder.name if self.folder else self.name

    @property
    def slug(self) -> str:
        """The name as a part of file names."""
        return self.title.replace("/", "-")

    @property
    def scored_names(self) -> tuple[str, ...]:
        """The classes of the confusion matrix: the words, and the background where it is scored
        without being a word.
        """
        return (
            (*self.class_names, "background")
            if self.background == "threshold"
            else self.class_names
        )

    @property
    def seen(self) -> tuple[str, ...]:
        """The words with masks in training, in the order of the vocabulary."""
        return tuple(name for name in self.class_names if name not in self.unseen)

    @property
    def unseen_ids(self) -> list[int]:
        """Places of the unseen words."""
        return [i for i, name in enumerate(self.class_names) if name in self.unseen]

    @property
    def seen_ids(self) -> list[int]:
        """Places of the seen words."""
        return [i for i, name in enumerate(self.class_names) if name not in self.unseen]

    def same_classes_as(self, name: str, vocabulary: Sequence[str]) -> bool:
        """Whether it is the benchmark of that name and vocabulary, or asks the same words in the
        same way.

        So do benchmarks that differ in what they make of the background alone (voc, voc-21), and a
        folder of one's own that has moved.
        """
        if self.name == name:
            return True
        if self.class_names != tuple(vocabulary) or self.episodes is not None:
            return False
        other = BENCHMARKS.get(name)
        return (
            self.folder is not None
            if other is None
            else self.folder is None and other.episodes is None and other.unseen == self.unseen
        )

    def data(self, split: str, root: Path | None) -> SegmentationSet:
        """The images and label maps of a split.

        Raises:
            DataError: No root where one is needed, or not the layout that belongs there.
        """
        self.check_root(root)
        return self.open(root, split)

    def check_root(self, root: Path | None) -> None:
        """Refuse a root that is not there, before anything costly is done.

        Raises:
            DataError: None where one is needed, or a folder that does not exist.
        """
        if self.needs_root:
            openers.require_root(root, self.name)


COCO_STUFF_UNSEEN = (
    "cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds", "grass", "playingfield", "river", "road", "tree",
    "wall-concrete",
)  # fmt: skip
CONTEXT_UNSEEN = (
    "aeroplane",
    "bird",
    "boat",
    "cat",
    "cow",
    "fence",
    "keyboard",
    "motorbike",
    "sofa",
    "tvmonitor",
)
WINDOWS = InferenceSettings(short_side=512, window=512, stride=426)
"""Size and windows of the released ZegCLIP and CLIP-RC."""


# ----------------------------------------------------------------------- folds


def _folds(lists: Path | None = None) -> dict[str, Benchmark]:
    found = {}
    for fold in range(4):
        for name, vocabulary, unseen, templates, inference, opener, episodes, what in (
            ("pascal-5i", VOC, VOC[5 * fold : 5 * fold + 5], "single", InferenceSettings(canvas=480), partial(openers.pascal_fold, fold, lists),
             partial(openers.pascal_episodes, fold, lists), "PASCAL-5i"),
            ("coco-20i", COCO, COCO[fold::4], "single", InferenceSettings(canvas=352), partial(openers.coco_fold, fold, lists),
             partial(openers.coco_episodes, fold, lists), "COCO-20i"),
            ("doodles-5i", DOODLES, DOODLES_FOLDS[fold], "single", InferenceSettings(), partial(openers.doodles_fold, fold),
             partial(openers.doodles_episodes, fold), "the embedded world"),
        ):  # fmt: skip
            found[f"{name}/{fold}"] = Benchmark(
                name=f"{name}/{fold}", summary=f"{what} in folds: one word at a time, foreground against background", class_names=vocabulary,
                unseen=unseen, templates=templates, inference=inference, background="rest", open=opener, needs_root=name != "doodles-5i",
                protocol={"labels": "255 is void; what is not the word is background", "given": "the class of an episode, which is in the image"},
                episodes=episodes,
            )  # fmt: skip
    return found


# ---------------------------------------------------------------- generalised

VOC_UNSEEN = ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
VOC_PICTURES = {"train": "10 582 images (VOC train + SBD)", "val": "1 449 images"}
CONTEXT_PICTURES = {"train": "4 996 images", "val": "5 104 images"}
THRESHOLD = (
    "0 is the background, a class of its own in pAcc and mIoU: where the best word is less"
    " confident than --threshold; 255 is void"
)


def _voc(
    name: str,
    summary: str,
    labels: str,
    background: Background,
    unseen: tuple[str, ...] = VOC_UNSEEN,
    *,
    drop: bool = False,
) -> Benchmark:
    hidden = tuple(1 + i for i, word in enumerate(VOC) if word in unseen) if drop else ()
    words = ("background", *VOC) if background == "class" else VOC
    train = (
        {"train": "those of 10 582 images (VOC train + SBD) that show no unseen class"}
        if drop
        else {}
    )
    return Benchmark(
        name=name, summary=summary, class_names=words, unseen=unseen, templates="single", inference=WINDOWS, background=background,
        open=partial(openers.voc, background, hidden=hidden), protocol={"labels": labels, **VOC_PICTURES, **train},
    )  # fmt: skip


def _context(
    name: str,
    summary: str,
    labels: str,
    background: Background,
    unseen: tuple[str, ...] = CONTEXT_UNSEEN,
    *,
    drop: bool = False,
) -> Benchmark:
    hidden = tuple(1 + i for i, word in enumerate(CONTEXT) if word in unseen) if drop else ()
    words = ("background", *CONTEXT) if background == "class" else CONTEXT
    train = {"train": "those of 4 996 images that show no unseen class"} if drop else {}
    return Benchmark(
        name=name, summary=summary, class_names=words, unseen=unseen, templates="multi", inference=WINDOWS, background=background,
        open=partial(openers.context, background, hidden=hidden), protocol={"labels": labels, **CONTEXT_PICTURES, **train},
    )  # fmt: skip


def _zs3() -> list[Benchmark]:
    """ZS3's nested splits: of ten classes in pairs, the first 2, 4, ... 10 are unseen."""
    made = []
    for count in (2, 4, 6, 8, 10):
        about = (
            "ZS3's nested splits: 2 to 10 unseen classes, background a seen word, training images"
            " with unseen pixels left out"
        )
        for base, pairs, maker, most in (
            ("voc", VOC_ZS3, _voc, 20),
            ("context", CONTEXT_ZS3, _context, 59),
        ):
            labels = f"0 is the background, 1..{most} the classes; 255 is void"
            summary = f"{'PASCAL VOC' if base == 'voc' else 'PASCAL Context'}, {about}"
            made.append(
                maker(f"{base}-zs3/{count}", summary, labels, "class", pairs[:count], drop=True)
            )
    return sorted(made, key=lambda each: each.base, reverse=True)


def _whole(
    name: str,
    summary: str,
    class_names: tuple[str, ...],
    opener: Callable[[Path | None, str], SegmentationSet],
    **protocol: str,
) -> Benchmark:
    """A benchmark whose words are all scored together."""
    return Benchmark(
        name=name,
        summary=summary,
        class_names=class_names,
        unseen=(),
        templates="multi",
        inference=WINDOWS,
        open=opener,
        protocol=protocol,
    )


BENCHMARKS: dict[str, Benchmark] = {
    bench.name: bench
    for bench in (
        _voc("voc", "PASCAL VOC 2012, 15 seen and 5 unseen classes, background not scored", "0 (background) and 255 are void; 1..20 become 0..19", "ignore"),
        Benchmark(
            name="coco-stuff",
            summary="COCO-Stuff 164K, 156 seen and 15 unseen classes",
            class_names=COCO_STUFF,
            unseen=COCO_STUFF_UNSEEN,
            templates="multi",
            inference=WINDOWS,
            open=openers.coco_stuff,
            protocol={"labels": "training ids 0..170; 255 is void", "train": "118 287 images", "val": "5 000 images"},
        ),
        _context(
            "context",
            "PASCAL Context, 49 seen and 10 unseen classes, background not scored",
            "0 (background) and 255 are void; 1..59 become 0..58",
            "ignore",
        ),
        _context(
            "context-60",
            "PASCAL Context with the background as a seen class: 50 seen and 10 unseen classes",
            "0 is the background, 1..59 the classes; 255 is void",
            "class",
        ),
        Benchmark(
            name="doodles",
            summary="the embedded world: drawn scenes of 20 things, 15 seen and 5 unseen; needs no files",
            class_names=DOODLES,
            unseen=DOODLES_FOLDS[3],
            templates="single",
            inference=InferenceSettings(window=64, stride=32, window_batch=64),
            open=partial(openers.doodles, (2, 4), 96),
            needs_root=False,
            protocol={
                "labels": "background is void",
                "train": "20 000 scenes of seed 1",
                "val": "500 scenes of seed 3",
                "note": "Doodles numbers say nothing about photographs",
            },
        ),
        *_folds().values(),
        _voc("voc-21", "PASCAL VOC 2012 with the background scored as where no word is confident", THRESHOLD, "threshold"),
        _context("context-60-threshold", "PASCAL Context with the background scored as where no word is confident", THRESHOLD, "threshold"),
        *_zs3(),
        _whole(
            "ade20k-150", "ADE20K of the scene parsing challenge, all of its 150 classes", ADE150, openers.ade150,
            labels="0 (other) and 255 are void; 1..150 become 0..149", train="20 210 images", val="2 000 images",
        ),
        _whole(
            "ade20k-847", "the full ADE20K, all of 847 classes; for evaluation", ADE847, openers.ade847,
            labels="ids 0..846 in 16 bits; 65535 is void", val="2 000 images",
        ),
        _whole(
            "cityscapes", "Cityscapes, all of its 19 classes", CITYSCAPES, openers.cityscapes,
            labels="training ids 0..18; 255 is void", train="2 975 images", val="500 images",
        ),
    )
}  # fmt: skip


# -------------------------------------------------------------------- look-ups


def folds_of(name: str) -> list[str]:
    """The names of a benchmark's folds or nested splits, given its name without one; else the name
    itself.
    """
    return [known for known in BENCHMARKS if known.startswith(f"{name}/")] or [name]


def families() -> dict[str, list[Benchmark]]:
    """The benchmarks by how they are shown in lists: parts of one together, as "pascal-5i/0..3"."""
    found: dict[str, list[Benchmark]] = {}
    for bench in BENCHMARKS.values():
        parts = folds_of(bench.base)
        ends = [part.partition("/")[2] for part in (parts[0], parts[-1])]
        found.setdefault(
            bench.base + (f"/{ends[0]}..{ends[1]}" if len(parts) > 1 else ""), []
        ).append(bench)
    return found


def get_benchmark(name: str, lists: Path | None = None) -> Benchmark:
    """A benchmark by name, or from a folder of one's own.

    Args:
        name: Key of `BENCHMARKS`, folds as "pascal-5i/0"; or a folder (`unseen.data.own.layout`).
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.

    Raises:
        SettingError: No such benchmark.
        DataError: A folder that is not one of one's own data.
    """
    parts = folds_of(name)
    if parts != [name]:
        kind = "folds" if BENCHMARKS[parts[0]].episodes else "splits"
        raise SettingError(f"{name} has {len(parts)} {kind}; choose one of {', '.join(parts)}")
    if name in BENCHMARKS:
        return _folds(lists)[name] if BENCHMARKS[name].episodes is not None else BENCHMARKS[name]
    if is_own(name) or Path(name).is_dir():
        return own_benchmark(Path(name))
    if Path(name).is_absolute():  # as a run on a folder of one's own remembers it
        raise DataError(
            f"the folder {name} is not there; where it has moved, name it with --benchmark"
        )
    near = difflib.get_close_matches(name, BENCHMARKS, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise SettingError(
        f"there is no benchmark called {name!r}{meant}; choose one of {', '.join(families())}, or"
        f" give a folder with images/, labels/ and {CLASSES}"
    )


def own_benchmark(folder: Path) -> Benchmark:
    """The benchmark of a folder of one's own.

    Raises:
        DataError: Not such a folder.
    """
    folder = folder.resolve()
    classes = read_classes(folder / CLASSES)
    require_parts(folder)
    labels = f"id 0 is the first line of {CLASSES}; the highest value, 255 or 65535, is void"
    zero = (
        {"ignore": "; id 0 (background) is void", "threshold": f"; {THRESHOLD}"}.get(
            classes.background, ""
        )
        if classes.first_id
        else ""
    )
    return Benchmark(
        name=str(folder), summary="data of one's own", class_names=classes.class_names, unseen=classes.unseen, templates="multi", inference=WINDOWS,
        background=classes.background, open=partial(openers.own, folder, classes), needs_root=False, protocol={"labels": labels + zero}, folder=folder,
    )  # fmt: skip
