"""What a benchmark's data are: from a root and a split to labelled images, and from a fold to its
images and pairs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from unseen.data.ade import ADE150, ADE847
from unseen.data.classes import CITYSCAPES, COCO, COCO_STUFF, CONTEXT, DOODLES, DOODLES_FOLDS, VOC
from unseen.data.datasets import (
    Background,
    DoodleScenes,
    LabelledImages,
    Pair,
    SegmentationSet,
    ade_pairs,
    cityscapes_pairs,
    coco_fold_pair,
    coco_stuff_pairs,
    context_pairs,
    voc_base,
    voc_fold_pair,
    voc_pairs,
)
from unseen.data.episodes import (
    Draw,
    Episode,
    bam_list,
    coco_list,
    draw,
    find_list,
    paired,
    pascal_list,
)
from unseen.data.own.layout import ClassList, own_pairs
from unseen.errors import DataError, SettingError
from unseen.files import read_labels


def require_root(root: Path | None, name: str) -> Path:
    """The root, where a benchmark has to have one.

    Raises:
        DataError: It has none, or one that is not there.
    """
    if root is None:
        raise DataError(
            f"the benchmark {name} needs its images; say where they lie with --root FOLDER"
            " (`unseen prepare` puts them there)"
        )
    if not root.is_dir():
        raise DataError(
            f"the folder {root} given with --root does not exist; check the path (`unseen prepare`"
            " puts images there)"
        )
    return root


def with_background(pairs: list[Pair], words: int, background: Background) -> SegmentationSet:
    """Label maps stored as 0 = background, 1..words = classes."""
    if background == "class":
        return LabelledImages(pairs, words + 1)
    return LabelledImages(pairs, words, background=0, keep_background=background == "threshold")


def voc(
    background: Background, root: Path | None, split: str, hidden: tuple[int, ...] = ()
) -> SegmentationSet:
    """PASCAL VOC; training images that hold one of the stored ids `hidden` are left out."""
    pairs = voc_pairs(require_root(root, "voc"), split)
    return with_background(
        without(pairs, hidden) if split == "train" and hidden else pairs, len(VOC), background
    )


def context(
    background: Background, root: Path | None, split: str, hidden: tuple[int, ...] = ()
) -> SegmentationSet:
    """PASCAL Context; `hidden` as for `voc`."""
    pairs = context_pairs(require_root(root, "context"), split)
    return with_background(
        without(pairs, hidden) if split == "train" and hidden else pairs, len(CONTEXT), background
    )


def without(pairs: list[Pair], ids: tuple[int, ...]) -> list[Pair]:
    """The pairs whose label maps hold none of the stored ids; reads all of them, over all cores.

    Raises:
        DataError: None is left.
    """

    def shows(pair: Pair) -> bool:
        return bool(np.isin(read_labels(pair.labels), ids).any())

    with ThreadPoolExecutor() as pool:
        kept = [
            pair for pair, hidden in zip(pairs, pool.map(shows, pairs), strict=True) if not hidden
        ]
    if not kept:
        raise DataError(
            f"every one of the {len(pairs)} training images shows an unseen class, so none is"
            " left to train on; add images"
        )
    return kept


def coco_stuff(root: Path | None, split: str) -> SegmentationSet:
    """COCO-Stuff 164K."""
    return LabelledImages(
        coco_stuff_pairs(require_root(root, "coco-stuff"), split), len(COCO_STUFF)
    )


def ade150(root: Path | None, split: str) -> SegmentationSet:
    """ADE20K of the scene parsing challenge: 0 is void, 1..150 are the classes."""
    return LabelledImages(
        ade_pairs(require_root(root, "ade20k-150"), split), len(ADE150), background=0
    )


def ade847(root: Path | None, split: str) -> SegmentationSet:
    """The full ADE20K: ids 0..846 in 16 bits, 65535 is void."""
    return LabelledImages(
        ade_pairs(require_root(root, "ade20k-847"), split, full=True), len(ADE847)
    )


def cityscapes(root: Path | None, split: str) -> SegmentationSet:
    """Cityscapes: training ids 0..18, 255 is void."""
    return LabelledImages(
        cityscapes_pairs(require_root(root, "cityscapes"), split), len(CITYSCAPES)
    )


def own(folder: Path, classes: ClassList, root: Path | None, split: str) -> SegmentationSet:
    """A folder of one's own (`unseen.data.own.layout`).

    Raises:
        SettingError: Another root is given besides.
    """
    if root is not None and root.resolve() != folder.resolve():
        raise SettingError(
            f"{folder} is named as the benchmark and {root} as its --root; a folder of your own is"
            " both, so leave --root away"
        )
    keep = classes.background == "threshold"
    return LabelledImages(
        own_pairs(folder, split),
        len(classes.class_names),
        background=0 if classes.first_id else None,
        keep_background=keep,
    )


def doodles(things: tuple[int, int], size: int, root: Path | None, split: str) -> SegmentationSet:
    """Scenes of the embedded world."""
    seed, count = {"train": (1, 20_000), "val": (3, 500)}[split]
    return DoodleScenes(seed, count, size=size, min_things=things[0], max_things=things[1])


# ----------------------------------------------------------------------- folds


def pascal_fold(fold: int, lists: Path | None, root: Path | None, split: str) -> SegmentationSet:
    """HSNet's training images: those of the other folds' lists; some show novel classes."""
    assert root is not None
    base, pairs = voc_base(root), []
    for other in range(4):
        if (other == fold) == (split == "val"):
            source = find_list(lists, f"pascal/{_part(split)}/fold{other}.txt")
            pairs += paired(
                pascal_list(source),
                partial(voc_fold_pair, base),
                source,
                range(5 * other, 5 * other + 5),
            )[0]
    return LabelledImages(list(dict.fromkeys(pairs)), len(VOC), background=0, keep_background=True)


def pascal_episodes(
    fold: int, lists: Path | None, root: Path | None, how: Draw, seed: int
) -> tuple[SegmentationSet, list[Episode]]:
    """PASCAL-5i's validation images and pairs."""
    base, novel = voc_base(require_root(root, f"pascal-5i/{fold}")), range(5 * fold, 5 * fold + 5)
    if how == "bam":
        source = base / "ImageSets" / "Segmentation" / "val.txt"
        if not source.is_file():
            raise DataError(f"{source} is missing; restore PASCAL VOC's list of validation images")
        pairs, episodes = bam_list(
            [voc_fold_pair(base, stem) for stem in source.read_text(encoding="utf-8").split()],
            len(VOC),
            novel,
        )
    else:
        source = find_list(lists, f"pascal/val/fold{fold}.txt")
        pairs, episodes = paired(pascal_list(source), partial(voc_fold_pair, base), source, novel)
    return LabelledImages(pairs, len(VOC), background=0, keep_background=True), draw(
        episodes, how, uniform_classes=False, seed=seed
    )


def coco_fold(fold: int, lists: Path | None, root: Path | None, split: str) -> SegmentationSet:
    """HSNet's training images of the held-out fold; some show novel classes."""
    source, novel = (
        find_list(lists, f"coco/{_part(split)}/fold{fold}.pkl"),
        range(fold, len(COCO), 4),
    )
    classes = novel if split == "val" else [i for i in range(len(COCO)) if i not in novel]
    pairs, _ = paired(
        coco_list(source),
        partial(coco_fold_pair, require_root(root, f"coco-20i/{fold}")),
        source,
        classes,
    )
    return LabelledImages(pairs, len(COCO), background=0, keep_background=True)


def coco_episodes(
    fold: int, lists: Path | None, root: Path | None, how: Draw, seed: int
) -> tuple[SegmentationSet, list[Episode]]:
    """COCO-20i's validation images and pairs."""
    place = require_root(root, f"coco-20i/{fold}")
    if how == "bam":
        raise SettingError(
            "BAM's draw follows the order of its own COCO list, which is published nowhere stable;"
            " choose --episodes all, hsnet or sazs"
        )
    source = find_list(lists, f"coco/val/fold{fold}.pkl")
    pairs, episodes = paired(
        coco_list(source), partial(coco_fold_pair, place), source, range(fold, len(COCO), 4)
    )
    return LabelledImages(pairs, len(COCO), background=0, keep_background=True), draw(
        episodes, how, uniform_classes=True, seed=seed
    )


def _part(split: str) -> str:
    return "trn" if split == "train" else "val"


def doodles_fold(fold: int, root: Path | None, split: str) -> SegmentationSet:
    """Training scenes of the other folds' things alone; validation scenes of all things."""
    seed, count = {"train": (1, 20_000), "val": (3, 500)}[split]
    words = (
        tuple(i for i, name in enumerate(DOODLES) if name not in DOODLES_FOLDS[fold])
        if split == "train"
        else None
    )
    return DoodleScenes(
        seed, count, size=96, min_things=2, max_things=4, words=words, keep_background=True
    )


def doodles_episodes(
    fold: int, root: Path | None, how: Draw, seed: int
) -> tuple[SegmentationSet, list[Episode]]:
    """The fold's validation scenes and pairs."""
    if how == "bam":
        raise SettingError(
            "BAM's draw is made for photographs, whose objects may be small, and PASCAL-5i's list;"
            " choose --episodes all, hsnet or sazs"
        )
    scenes = doodles_fold(fold, root, "val")
    novel = [i for i, name in enumerate(DOODLES) if name in DOODLES_FOLDS[fold]]
    shown = [
        set(scenes[i].labels.flatten().tolist()) for i in range(len(scenes))
    ]  # each scene drawn once
    episodes = [
        Episode(i, class_id)
        for i, things in enumerate(shown)
        for class_id in novel
        if class_id in things
    ]
    return scenes, draw(episodes, how, uniform_classes=True, seed=seed)
