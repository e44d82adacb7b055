"""Benchmarks as data: everything that moves a number is fixed here, and every report repeats it.

Splits are given by name, never by number: the numbers follow from the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from unseen.data.classes import COCO, COCO_STUFF, CONTEXT, DOODLES, DOODLES_FOLDS, VOC
from unseen.data.datasets import (
    DoodleScenes,
    LabelledImages,
    SegmentationSet,
    coco_fold_pair,
    coco_stuff_pairs,
    context_pairs,
    voc_base,
    voc_fold_pair,
    voc_pairs,
)
from unseen.data.episodes import Draw, Episode, bam_list, coco_list, draw, find_list, paired, pascal_list
from unseen.errors import DataError, SettingError
from unseen.settings import InferenceSettings


@dataclass(frozen=True)
class Benchmark:
    """Train on masks of the seen words; then either predict among all words (generalised), or be asked one word at a time (folds).

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
        episodes: For folds: (root, way to draw, seed) to the validation pictures and the pairs to ask about.
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
    episodes: Callable[[Path | None, Draw, int], tuple[SegmentationSet, list[Episode]]] | None = None

    @property
    def base(self) -> str:
        """The name without the fold."""
        return self.name.partition("/")[0]

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
        return self.open(_needed(root, self.name) if self.needs_root else root, split)


def _voc(root: Path | None, split: str) -> SegmentationSet:
    assert root is not None
    return LabelledImages(voc_pairs(root, split), len(VOC), background=0)


def _coco_stuff(root: Path | None, split: str) -> SegmentationSet:
    assert root is not None
    return LabelledImages(coco_stuff_pairs(root, split), len(COCO_STUFF))


def _context(with_background: bool, root: Path | None, split: str) -> SegmentationSet:
    assert root is not None
    return LabelledImages(context_pairs(root, split), len(CONTEXT) + with_background, background=None if with_background else 0)


COCO_STUFF_UNSEEN = (
    "cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds", "grass", "playingfield", "river", "road", "tree",
    "wall-concrete",
)  # fmt: skip
CONTEXT_UNSEEN = ("aeroplane", "bird", "boat", "cat", "cow", "fence", "keyboard", "motorbike", "sofa", "tvmonitor")
WINDOWS = InferenceSettings(short_side=512, window=512, stride=426)
"""Size and windows of the released ZegCLIP and CLIP-RC."""


def _doodles(things: tuple[int, int], size: int, root: Path | None, split: str) -> SegmentationSet:
    seed, count = {"train": (1, 20_000), "val": (3, 500)}[split]
    return DoodleScenes(seed, count, size=size, min_things=things[0], max_things=things[1])


# ----------------------------------------------------------------------- folds


def _pascal_fold(fold: int, lists: Path | None, root: Path | None, split: str) -> SegmentationSet:
    """HSNet's training pictures: those of the other folds' lists; some show novel classes."""
    assert root is not None
    base, pairs = voc_base(root), []
    for other in range(4):
        if (other == fold) == (split == "val"):
            source = find_list(lists, f"pascal/{_part(split)}/fold{other}.txt")
            pairs += paired(pascal_list(source), partial(voc_fold_pair, base), source, range(5 * other, 5 * other + 5))[0]
    return LabelledImages(list(dict.fromkeys(pairs)), len(VOC), background=0, keep_background=True)


def _pascal_episodes(fold: int, lists: Path | None, root: Path | None, how: Draw, seed: int) -> tuple[SegmentationSet, list[Episode]]:
    base, novel = voc_base(_needed(root, f"pascal-5i/{fold}")), range(5 * fold, 5 * fold + 5)
    if how == "bam":
        source = base / "ImageSets" / "Segmentation" / "val.txt"
        if not source.is_file():
            raise DataError(f"{source} is missing; restore PASCAL VOC's list of validation pictures")
        pairs, episodes = bam_list([voc_fold_pair(base, stem) for stem in source.read_text(encoding="utf-8").split()], len(VOC), novel)
    else:
        source = find_list(lists, f"pascal/val/fold{fold}.txt")
        pairs, episodes = paired(pascal_list(source), partial(voc_fold_pair, base), source, novel)
    return LabelledImages(pairs, len(VOC), background=0, keep_background=True), draw(episodes, how, uniform_classes=False, seed=seed)


def _coco_fold(fold: int, lists: Path | None, root: Path | None, split: str) -> SegmentationSet:
    """HSNet's training pictures of the held-out fold; some show novel classes."""
    source, novel = find_list(lists, f"coco/{_part(split)}/fold{fold}.pkl"), range(fold, len(COCO), 4)
    classes = novel if split == "val" else [i for i in range(len(COCO)) if i not in novel]
    pairs, _ = paired(coco_list(source), partial(coco_fold_pair, _needed(root, f"coco-20i/{fold}")), source, classes)
    return LabelledImages(pairs, len(COCO), background=0, keep_background=True)


def _coco_episodes(fold: int, lists: Path | None, root: Path | None, how: Draw, seed: int) -> tuple[SegmentationSet, list[Episode]]:
    place = _needed(root, f"coco-20i/{fold}")
    if how == "bam":
        raise SettingError("BAM's draw follows the order of its own COCO list, which is published nowhere stable; choose --episodes all, hsnet or sazs")
    source = find_list(lists, f"coco/val/fold{fold}.pkl")
    pairs, episodes = paired(coco_list(source), partial(coco_fold_pair, place), source, range(fold, len(COCO), 4))
    return LabelledImages(pairs, len(COCO), background=0, keep_background=True), draw(episodes, how, uniform_classes=True, seed=seed)


def _needed(root: Path | None, name: str) -> Path:
    if root is None:
        raise DataError(f"the benchmark {name} needs its pictures; say where they lie with --root FOLDER")
    return root


def _part(split: str) -> str:
    return "trn" if split == "train" else "val"


def _doodles_fold(fold: int, root: Path | None, split: str) -> SegmentationSet:
    """Training scenes of the other folds' things alone; validation scenes of all things."""
    seed, count = {"train": (1, 20_000), "val": (3, 500)}[split]
    words = tuple(i for i, name in enumerate(DOODLES) if name not in DOODLES_FOLDS[fold]) if split == "train" else None
    return DoodleScenes(seed, count, size=96, min_things=2, max_things=4, words=words, keep_background=True)


def _doodles_episodes(fold: int, root: Path | None, how: Draw, seed: int) -> tuple[SegmentationSet, list[Episode]]:
    scenes = _doodles_fold(fold, root, "val")
    novel = [i for i, name in enumerate(DOODLES) if name in DOODLES_FOLDS[fold]]
    shown = [set(scenes[i].labels.flatten().tolist()) for i in range(len(scenes))]  # each scene drawn once
    episodes = [Episode(i, class_id) for i, things in enumerate(shown) for class_id in novel if class_id in things]
    return scenes, draw(episodes, how, uniform_classes=True, seed=seed)


def _folds(lists: Path | None = None) -> dict[str, Benchmark]:
    found = {}
    for fold in range(4):
        for name, vocabulary, unseen, templates, inference, opener, episodes, what in (
            ("pascal-5i", VOC, VOC[5 * fold : 5 * fold + 5], "single", InferenceSettings(canvas=480), partial(_pascal_fold, fold, lists),
             partial(_pascal_episodes, fold, lists), "PASCAL-5i"),
            ("coco-20i", COCO, COCO[fold::4], "single", InferenceSettings(canvas=352), partial(_coco_fold, fold, lists),
             partial(_coco_episodes, fold, lists), "COCO-20i"),
            ("doodles-5i", DOODLES, DOODLES_FOLDS[fold], "single", InferenceSettings(), partial(_doodles_fold, fold),
             partial(_doodles_episodes, fold), "the embedded world"),
        ):  # fmt: skip
            found[f"{name}/{fold}"] = Benchmark(
                name=f"{name}/{fold}", summary=f"{what} in folds: one word at a time, foreground against background", vocabulary=vocabulary,
                unseen=unseen, templates=templates, inference=inference, open=opener, needs_root=name != "doodles-5i",
                protocol={"labels": "255 is void; what is not the word is background", "given": "the class of an episode, which is in the picture"},
                episodes=episodes,
            )  # fmt: skip
    return found


BENCHMARKS: dict[str, Benchmark] = {
    "voc": Benchmark(
        name="voc",
        summary="PASCAL VOC 2012, 15 seen and 5 unseen classes, background not scored",
        vocabulary=VOC,
        unseen=("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
        templates="single",
        inference=WINDOWS,
        open=_voc,
        protocol={"labels": "0 (background) and 255 are void; 1..20 become 0..19", "train": "10 582 pictures (VOC train + SBD)", "val": "1 449 pictures"},
    ),
    "coco-stuff": Benchmark(
        name="coco-stuff",
        summary="COCO-Stuff 164K, 156 seen and 15 unseen classes",
        vocabulary=COCO_STUFF,
        unseen=COCO_STUFF_UNSEEN,
        templates="multi",
        inference=WINDOWS,
        open=_coco_stuff,
        protocol={"labels": "training ids 0..170; 255 is void", "train": "118 287 pictures", "val": "5 000 pictures"},
    ),
    "context": Benchmark(
        name="context",
        summary="PASCAL Context, 49 seen and 10 unseen classes, background not scored",
        vocabulary=CONTEXT,
        unseen=CONTEXT_UNSEEN,
        templates="multi",
        inference=WINDOWS,
        open=partial(_context, False),
        protocol={"labels": "0 (background) and 255 are void; 1..59 become 0..58", "train": "4 996 pictures", "val": "5 104 pictures"},
    ),
    "context-60": Benchmark(
        name="context-60",
        summary="PASCAL Context with the background as a seen class: 50 seen and 10 unseen classes",
        vocabulary=("background", *CONTEXT),
        unseen=CONTEXT_UNSEEN,
        templates="multi",
        inference=WINDOWS,
        open=partial(_context, True),
        protocol={"labels": "0 is the background, 1..59 the classes; 255 is void", "train": "4 996 pictures", "val": "5 104 pictures"},
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
    **_folds(),
}


def folds_of(name: str) -> list[str]:
    """The names of a benchmark's folds, given its name without one; else the name itself."""
    return [known for known in BENCHMARKS if known.startswith(f"{name}/")] or [name]


def get_benchmark(name: str, lists: Path | None = None) -> Benchmark:
    """A benchmark by name.

    Args:
        name: Key of `BENCHMARKS`; folds as "pascal-5i/0".
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.

    Raises:
        SettingError: No such benchmark.
    """
    folds = folds_of(name)
    if folds != [name]:
        raise SettingError(f"{name} has {len(folds)} folds; choose one of {', '.join(folds)}")
    if name in BENCHMARKS and BENCHMARKS[name].episodes is not None:
        return _folds(lists)[name]
    if name not in BENCHMARKS:
        bases = dict.fromkeys(bench.base + ("/0..3" if bench.episodes else "") for bench in BENCHMARKS.values())
        raise SettingError(f"there is no benchmark called {name!r}; choose one of {', '.join(bases)}")
    return BENCHMARKS[name]
