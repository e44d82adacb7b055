"""COCO-Stuff 164K, and COCO-20i on COCO 2014."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.data.classes import COCO
from unseen.data.prepare import hsnet
from unseen.data.prepare.folders import file_names, file_stems, locate_dataset, save_mask
from unseen.data.prepare.masks import (
    BAD_ANNOTATIONS,
    COCO_STUFF_TABLE,
    IGNORE,
    Segments,
    draw_labels,
    require_known_ids,
    require_pycocotools,
)
from unseen.data.prepare.parts import Part, ensure, link_unpacked
from unseen.data.prepare.preparation import Count, Preparation
from unseen.data.prepare.published import (
    ARCHIVES,
    COCO_20I_VAL_COUNTS,
    COCO_IDS,
    PUBLISHED_COUNTS,
)
from unseen.errors import DataError
from unseen.images import read_labels

TRAINING_IDS = "_labelTrainIds.png"
STUFF_SPLITS, FOLD_SPLITS = ("train2017", "val2017"), ("train2014", "val2014")


def stuff_folder(root: Path) -> Path:
    """The folder of COCO-Stuff below `root`."""
    return locate_dataset(root, "coco_stuff164k", "images", "annotations/train2017")


def prepare_coco_stuff(prep: Preparation) -> None:
    """Images of COCO 2017, raw masks, and masks of training ids beside them."""
    base, counts = stuff_folder(prep.root), PUBLISHED_COUNTS["coco-stuff"]
    for split in STUFF_SPLITS:
        images = Part(
            split,
            base / "images" / split,
            (".jpg",),
            counts[split],
            other_folders=(
                f"images/{split}",
                f"coco_stuff164k/images/{split}",
                f"coco/{split}",
                f"coco/images/{split}",
            ),
        )
        ensure(prep, ARCHIVES[split], [images])
    folders = {split: base / "annotations" / split for split in STUFF_SPLITS}
    if all(len(file_names(folders[split], TRAINING_IDS)) >= counts[split] for split in folders):
        return
    # Raw masks that are in place need no archive.
    if any(len(_raw_stems(folders[split])) < counts[split] for split in folders):
        ensure(prep, ARCHIVES["stuff"], [_raw_masks(base, split) for split in STUFF_SPLITS])
    for split, folder in folders.items():
        stems = sorted(_raw_stems(folder) - file_stems(folder, TRAINING_IDS))
        prep.run_all(
            f"training ids of {split}",
            convert_stuff_mask,
            [(folder / f"{stem}.png", folder / f"{stem}{TRAINING_IDS}") for stem in stems],
        )


def _raw_stems(folder: Path) -> set[str]:
    """The names of raw masks, without those of training ids in the same folder."""
    names = file_names(folder, ".png")
    return {Path(name).stem for name in names if not name.endswith(TRAINING_IDS)}


def _raw_masks(base: Path, split: str) -> Part:
    # Masks of training ids in the same folder must not be counted as raw ones: the names that are
    # required are those of the images.
    stems = file_stems(base / "images" / split, ".jpg")
    return Part(
        split,
        base / "annotations" / split,
        (".png",),
        required=frozenset(f"{stem}.png" for stem in stems),
        other_folders=(
            f"annotations/{split}",
            f"coco_stuff164k/annotations/{split}",
            f"stuffthingmaps_trainval2017/{split}",
            f"stuffthingmaps/{split}",
        ),
    )


def convert_stuff_mask(paths: tuple[Path, Path]) -> None:
    """Save one raw mask as one of training ids."""
    # stuffthingmaps stores COCO's category ids less one, so its largest value is 181.
    raw = read_labels(paths[0])
    require_known_ids(raw, 181, paths[0], "restore it from stuffthingmaps")
    save_mask(paths[1], COCO_STUFF_TABLE[raw])


def count_coco_stuff(root: Path) -> list[Count]:
    """Images and masks of COCO-Stuff."""
    base, counts = stuff_folder(root), []
    for split in STUFF_SPLITS:
        images = file_stems(base / "images" / split, ".jpg")
        masks = file_stems(base / "annotations" / split, TRAINING_IDS)
        published = PUBLISHED_COUNTS["coco-stuff"][split]
        counts += [
            Count(f"images/{split}", len(images), published),
            Count(f"annotations/{split}/*{TRAINING_IDS}", len(masks), published),
            Count(f"images of {split} without mask", len(images - masks), 0),
        ]
    return counts


# ------------------------------------------------------------------------ folds


def folds_folder(root: Path) -> Path:
    """The folder of COCO 2014 below `root`."""
    return locate_dataset(root, "COCO2014", "val2014", "train2014")


def prepare_coco_folds(prep: Preparation) -> None:
    """Images of COCO 2014, masks of the 80 classes drawn from its annotations, HSNet's lists."""
    base, counts = folds_folder(prep.root), PUBLISHED_COUNTS["coco-20i"]
    # Masks that are ready save both the annotations and pycocotools.
    if not _fold_masks_complete(base):
        link_unpacked(prep, [_ready_masks(base, split) for split in FOLD_SPLITS])
    drawing = not _fold_masks_complete(base)
    if drawing:
        require_pycocotools()  # before anything is downloaded
    for split in FOLD_SPLITS:
        other_folders = (f"COCO2014/{split}", f"coco/{split}", f"coco/images/{split}")
        images = Part(split, base / split, (".jpg",), counts[split], other_folders=other_folders)
        ensure(prep, ARCHIVES[split], [images])
    if drawing:
        _draw_fold_masks(prep, base)
    hsnet.prepare_lists(prep, "coco")


def _fold_masks_complete(base: Path) -> bool:
    counts = PUBLISHED_COUNTS["coco-20i"]
    return all(
        len(file_names(base / "annotations" / split, ".png")) >= counts[f"masks {split}"]
        for split in FOLD_SPLITS
    )


def _ready_masks(base: Path, split: str) -> Part:
    """Masks that another preparation made."""
    return Part(
        f"COCO2014/annotations/{split}",
        base / "annotations" / split,
        (".png",),
        PUBLISHED_COUNTS["coco-20i"][f"masks {split}"],
        other_folders=(f"annotations/{split}",),
        keep_existing=True,
    )


def _draw_fold_masks(prep: Preparation, base: Path) -> None:
    """Draw the masks that are missing from the instances files."""
    names = frozenset(f"instances_{split}.json" for split in FOLD_SPLITS)
    files = Part(
        "annotations",
        base / "annotations",
        tuple(sorted(names)),
        required=names,
        other_folders=("COCO2014/annotations", "coco/annotations"),
    )
    ensure(prep, ARCHIVES["instances2014"], [files])
    for split in FOLD_SPLITS:
        folder = base / "annotations" / split
        path = base / "annotations" / f"instances_{split}.json"
        prep.log(f"reading {path}")
        present = file_stems(folder, ".png")
        items = [
            (folder / f"{stem}.png", *image)
            for stem, image in _read_instances(path).items()
            if stem not in present
        ]
        prep.run_all(f"masks of {split}", draw_instances, items)


def _read_instances(path: Path) -> dict[str, tuple[int, int, Segments]]:
    """COCO's annotations of single objects; those of crowds are left out.

    Returns:
        By the name of every image with an annotation: height, width, segments in the order of the
        file.

    Raises:
        DataError: Another file.
    """
    try:
        return _parse_instances(json.loads(path.read_bytes()))
    except BAD_ANNOTATIONS as error:
        raise DataError(
            f"{path} is not COCO's instances file ({type(error).__name__}: {error}); delete it and"
            " run again"
        ) from error


def _parse_instances(content: Any) -> dict[str, tuple[int, int, Segments]]:
    # Masks hold 0 for the background, so that classes start at 1.
    values = {category: value for value, category in enumerate(COCO_IDS, start=1)}
    sizes = {
        image["id"]: (Path(image["file_name"]).stem, int(image["height"]), int(image["width"]))
        for image in content["images"]
    }
    images: dict[str, tuple[int, int, Segments]] = {}
    # An image without annotations gets no mask: the published lists do not name it either.
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            stem, height, width = sizes[annotation["image_id"]]
            _, _, segments = images.setdefault(stem, (height, width, []))
            segments.append((values[annotation["category_id"]], annotation["segmentation"]))
    return dict(sorted(images.items()))


def draw_instances(item: tuple[Path, int, int, Segments]) -> None:
    """Draw one mask, annotation over annotation.

    Raises:
        DataError: An annotation is damaged.
    """
    path, height, width, segments = item
    try:
        labels = draw_labels(segments, height, width)
    except DataError as error:
        raise DataError(
            f"an annotation of {path.stem} is damaged ({error}); delete the instances file and run"
            " again"
        ) from error
    save_mask(path, labels)


def count_coco_folds(root: Path) -> list[Count]:
    """Images, masks and lists of COCO 2014; if all are complete, also the sizes of the folds.

    Other sizes of the folds are no errors, because it is not documented how the masks behind the
    published lists were drawn.
    """
    base, published, counts = folds_folder(root), PUBLISHED_COUNTS["coco-20i"], []
    for split in FOLD_SPLITS:
        images = file_names(base / split, ".jpg")
        masks = file_names(base / "annotations" / split, ".png")
        counts += [
            Count(split, len(images), published[split]),
            Count(f"annotations/{split}", len(masks), published[f"masks {split}"]),
        ]
    counts.append(hsnet.count_lists(root, "coco"))
    if all(count.matches for count in counts):
        counts += _count_folds(base / "annotations" / "val2014")
    return counts


def _count_folds(masks: Path) -> list[Count]:
    """By fold: images and (image, class) pairs in which a novel class covers `AREA` pixels."""
    from unseen.data.episodes import AREA

    # Decoding PNGs releases the interpreter lock, so that threads are enough.
    with ThreadPoolExecutor() as pool:
        areas = list(
            pool.map(class_areas, sorted(masks / name for name in file_names(masks, ".png")))
        )
    large = np.array(areas) >= AREA  # (images, 80)
    counts = []
    for fold, (images, pairs) in enumerate(COCO_20I_VAL_COUNTS):
        novel = large[:, fold::4]  # the fold's classes: every fourth
        counts += [
            Count(
                f"fold {fold}: images with a novel class of {AREA} pixels",
                int(novel.any(axis=1).sum()),
                images,
                binding=False,
            ),
            Count(
                f"fold {fold}: (image, class) pairs of {AREA} pixels",
                int(novel.sum()),
                pairs,
                binding=False,
            ),
        ]
    return counts


def class_areas(mask: Path) -> NDArray[np.int64]:
    """Pixels (80,) of each class in a mask."""
    areas: NDArray[np.int64] = np.bincount(read_labels(mask).ravel(), minlength=IGNORE + 1)
    return areas[1 : len(COCO) + 1]
