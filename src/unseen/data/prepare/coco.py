"""COCO-Stuff 164K and the folds on COCO 2014."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.data.classes import COCO
from unseen.data.prepare.masks import COCO_STUFF_TABLE, VOID, drawn
from unseen.data.prepare.published import ARCHIVES, COCO_20I_VAL, COCO_IDS, KNOWN
from unseen.data.prepare.unpack import Part, adopt, ensure
from unseen.data.prepare.voc import Segments, count_lists, prepare_lists
from unseen.data.prepare.work import Count, Work, names, place, save_mask
from unseen.errors import DataError
from unseen.files import read_labels

MASK = "_labelTrainIds.png"
STUFF, THINGS = ("train2017", "val2017"), ("train2014", "val2014")


def stuff_folder(root: Path) -> Path:
    """Where COCO-Stuff lies or will lie."""
    return place(root, "coco_stuff164k", "images", "annotations/train2017")


def prepare_coco_stuff(work: Work) -> None:
    """Images of COCO 2017, raw masks, and masks of training ids beside them."""
    base, known = stuff_folder(work.root), KNOWN["coco-stuff"]
    for split in STUFF:
        also = (
            f"images/{split}",
            f"coco_stuff164k/images/{split}",
            f"coco/{split}",
            f"coco/images/{split}",
        )
        ensure(
            work,
            ARCHIVES[split],
            [Part(split, base / "images" / split, (".jpg",), known[split], also=also)],
        )
    raw = {
        split: {
            name for name in names(base / "annotations" / split, ".png") if not name.endswith(MASK)
        }
        for split in STUFF
    }
    made = {split: names(base / "annotations" / split, MASK) for split in STUFF}
    if any(len(made[split]) < known[split] for split in STUFF):
        if any(len(raw[split]) < known[split] for split in STUFF):
            parts = []
            for split in STUFF:
                also = (
                    f"annotations/{split}",
                    f"coco_stuff164k/annotations/{split}",
                    f"stuffthingmaps_trainval2017/{split}",
                    f"stuffthingmaps/{split}",
                )
                # Masks made earlier must not count as raw ones: all raw names are those of the
                # images.
                needs = frozenset(
                    f"{Path(name).stem}.png" for name in names(base / "images" / split, ".jpg")
                )
                parts.append(
                    Part(split, base / "annotations" / split, (".png",), needs=needs, also=also)
                )
            ensure(work, ARCHIVES["stuff"], parts)
        for split in STUFF:
            folder = base / "annotations" / split
            stems = [
                Path(name).stem for name in sorted(names(folder, ".png")) if not name.endswith(MASK)
            ]
            todo = [stem for stem in stems if f"{stem}{MASK}" not in made[split]]
            work.each(
                f"training ids of {split}",
                coco_stuff_mask,
                [(folder / f"{stem}.png", folder / f"{stem}{MASK}") for stem in todo],
            )


def coco_stuff_mask(paths: tuple[Path, Path]) -> None:
    """One mask of training ids."""
    raw = read_labels(paths[0])
    odd = raw[(raw > 181) & (raw != VOID)]
    if len(odd):
        raise DataError(
            f"the mask {paths[0]} holds the id {odd[0]}; raw masks of COCO-Stuff hold 0 to 181 and"
            f" {VOID}: restore it from stuffthingmaps"
        )
    save_mask(paths[1], COCO_STUFF_TABLE[raw])


def count_coco_stuff(root: Path) -> list[Count]:
    """Images and masks of COCO-Stuff."""
    base, found = stuff_folder(root), []
    for split in STUFF:
        pictures, masks = (
            names(base / "images" / split, ".jpg"),
            names(base / "annotations" / split, MASK),
        )
        known = KNOWN["coco-stuff"][split]
        found += [
            Count(f"images/{split}", len(pictures), known),
            Count(f"annotations/{split}/*{MASK}", len(masks), known),
        ]
        found.append(
            Count(
                f"images of {split} without mask",
                len(
                    {Path(name).stem for name in pictures}
                    - {name.removesuffix(MASK) for name in masks}
                ),
                0,
            )
        )
    return found


# ------------------------------------------------------------------------ folds


def folds_folder(root: Path) -> Path:
    """Where COCO 2014 lies or will lie."""
    return place(root, "COCO2014", "val2014", "train2014")


def prepare_coco_folds(work: Work) -> None:
    """Images of COCO 2014, masks of the 80 things drawn from the annotations, HSNet's lists."""
    base, known = folds_folder(work.root), KNOWN["coco-20i"]
    for split in THINGS:
        ensure(
            work,
            ARCHIVES[split],
            [
                Part(
                    split,
                    base / split,
                    (".jpg",),
                    known[split],
                    also=(f"COCO2014/{split}", f"coco/{split}", f"coco/images/{split}"),
                )
            ],
        )
    if any(
        len(names(base / "annotations" / split, ".png")) < known[f"masks {split}"]
        for split in THINGS
    ):
        ready = [
            Part(
                f"COCO2014/annotations/{split}",
                base / "annotations" / split,
                (".png",),
                known[f"masks {split}"],
                also=(f"annotations/{split}",),
                made=True,
            )
            for split in THINGS
        ]
        adopt(work, ready)
    if any(
        len(names(base / "annotations" / split, ".png")) < known[f"masks {split}"]
        for split in THINGS
    ):
        files = frozenset(f"instances_{split}.json" for split in THINGS)
        part = Part(
            "annotations",
            base / "annotations",
            tuple(sorted(files)),
            needs=files,
            also=("COCO2014/annotations", "coco/annotations"),
        )
        ensure(work, ARCHIVES["instances2014"], [part])
        for split in THINGS:
            folder = base / "annotations" / split
            done, path = names(folder, ".png"), base / "annotations" / f"instances_{split}.json"
            work.say(f"reading {path}")
            pictures = _instances(path)
            items = [
                (folder / f"{stem}.png", *picture)
                for stem, picture in pictures.items()
                if f"{stem}.png" not in done
            ]
            work.each(f"masks of {split}", coco_mask, items)
    prepare_lists(work, "coco")


def _instances(path: Path) -> dict[str, tuple[int, int, Segments]]:
    """For each image with an annotation that is not a crowd's: height, width, (value,
    segmentation) in the order of the file.

    Raises:
        DataError: Not COCO's annotations.
    """
    values = {category: value for value, category in enumerate(COCO_IDS, start=1)}
    try:
        content = json.loads(path.read_bytes())
        pictures = {
            image["id"]: (Path(image["file_name"]).stem, int(image["height"]), int(image["width"]))
            for image in content["images"]
        }
        found: dict[str, tuple[int, int, Segments]] = {}
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                stem, height, width = pictures[annotation["image_id"]]
                found.setdefault(stem, (height, width, []))[2].append(
                    (values[annotation["category_id"]], annotation["segmentation"])
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not COCO's instances file ({type(error).__name__}: {error}); delete it and"
            " run again"
        ) from error
    return dict(sorted(found.items()))


def coco_mask(item: tuple[Path, int, int, Any]) -> None:
    """One mask, drawn annotation over annotation."""
    path, height, width, segments = item
    try:
        labels = drawn(segments, height, width)
    except DataError as error:
        raise DataError(
            f"an annotation of {path.stem} is damaged ({error}); delete the instances file and run"
            " again"
        ) from error
    save_mask(path, labels)


def count_coco_folds(root: Path) -> list[Count]:
    """Images, masks and lists of COCO 2014; and, where the masks are whole, how many images and
    pairs they give the folds.

    The last are remarks: nobody documents how the masks of the published lists were drawn.
    """
    from unseen.data.episodes import AREA

    base, known, found = folds_folder(root), KNOWN["coco-20i"], []
    for split in THINGS:
        found.append(Count(split, len(names(base / split, ".jpg")), known[split]))
        found.append(
            Count(
                f"annotations/{split}",
                len(names(base / "annotations" / split, ".png")),
                known[f"masks {split}"],
            )
        )
    found.append(count_lists(root, "coco"))
    if all(count.right for count in found):
        folder = base / "annotations" / "val2014"
        with ThreadPoolExecutor() as pool:
            large = (
                np.array(
                    list(
                        pool.map(areas_of, sorted(folder / name for name in names(folder, ".png")))
                    )
                )
                >= AREA
            )  # (images, 80)
        for fold, (images, both) in enumerate(COCO_20I_VAL):
            mine = large[:, fold::4]
            found.append(
                Count(
                    f"fold {fold}: images with a novel class of {AREA} pixels",
                    int(mine.any(axis=1).sum()),
                    images,
                    binding=False,
                )
            )
            found.append(
                Count(
                    f"fold {fold}: (image, class) pairs of {AREA} pixels",
                    int(mine.sum()),
                    both,
                    binding=False,
                )
            )
    return found


def areas_of(mask: Path) -> NDArray[np.int64]:
    """Pixels of each of the 80 classes."""
    areas: NDArray[np.int64] = np.bincount(read_labels(mask).ravel(), minlength=VOID + 1)[
        1 : len(COCO) + 1
    ]
    return areas
