"""PASCAL VOC 2012 with SBD's masks, the folds on it, and PASCAL Context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unseen.data.classes import VOC
from unseen.data.prepare.fetch import obtain, verified
from unseen.data.prepare.masks import CONTEXT_VALUES, VOID, drawn
from unseen.data.prepare.published import ARCHIVES, CONTEXT_COUNTS, KNOWN, Archive
from unseen.data.prepare.unpack import Part, adopt, ensure, link_or_copy, unpacked
from unseen.data.prepare.work import Count, Work, names, place, read_list, save_mask, write_list
from unseen.errors import DataError
from unseen.files import read_labels

LISTS = "ImageSets/Segmentation"


def voc_folder(root: Path) -> Path:
    """Where VOC 2012 lies or will lie."""
    return place(root, "VOCdevkit/VOC2012", "JPEGImages", "SegmentationClass")


def prepare_voc(work: Work) -> None:
    """Images and masks of VOC; SBD's masks with VOC's own over them; the lists `aug` and
    `trainaug`.
    """
    base, inside, known = voc_folder(work.root), "VOCdevkit/VOC2012", KNOWN["voc"]
    ensure(
        work,
        ARCHIVES["voc2012"],
        [
            Part(
                f"{inside}/{LISTS}",
                base / LISTS,
                (".txt",),
                needs=frozenset({"train.txt", "val.txt"}),
            ),
            Part(f"{inside}/JPEGImages", base / "JPEGImages", (".jpg",), known["JPEGImages"]),
            Part(
                f"{inside}/SegmentationClass",
                base / "SegmentationClass",
                (".png",),
                known["SegmentationClass"],
            ),
        ],
    )
    train, val = (set(read_list(base / LISTS / f"{name}.txt")) for name in ("train", "val"))
    masks = base / "SegmentationClassAug"
    adopt(
        work,
        [
            Part(
                f"{inside}/SegmentationClassAug",
                masks,
                (".png",),
                known["SegmentationClassAug"],
                made=True,
            )
        ],
    )
    stems = {Path(name).stem for name in names(masks, ".png")}
    if not (base / LISTS / "aug.txt").exists() and stems & (train | val):
        work.say(
            f"{masks} holds masks of VOC's own images already, which are kept; the benchmarks"
            " read those of SegmentationClass first"
        )
    own = [
        (base / "SegmentationClass" / f"{stem}.png", masks / f"{stem}.png")
        for stem in sorted((train | val) - stems)
    ]
    work.each("VOC's own masks", copy_mask, own)
    if len(stems - train - val) < known["aug"]:
        sbd = base.parent / "VOCaug" / "dataset"
        ensure(
            work,
            ARCHIVES["sbd"],
            [
                Part(
                    "benchmark_RELEASE/dataset",
                    sbd,
                    (".txt",),
                    needs=frozenset({"train.txt", "val.txt"}),
                    also=("VOCdevkit/VOCaug/dataset", "VOCaug/dataset"),
                ),
                Part(
                    "benchmark_RELEASE/dataset/cls",
                    sbd / "cls",
                    (".mat",),
                    known["sbd"],
                    also=("VOCdevkit/VOCaug/dataset/cls", "VOCaug/dataset/cls"),
                ),
            ],
        )
        listed = {stem for name in ("train", "val") for stem in read_list(sbd / f"{name}.txt")}
        others = sorted(listed - train - val - stems)
        work.each(
            "SBD's masks",
            sbd_mask,
            [(sbd / "cls" / f"{stem}.mat", masks / f"{stem}.png") for stem in others],
        )
        stems |= listed
    stems |= train | val
    write_list(base / LISTS / "aug.txt", sorted(stems - train - val))
    write_list(base / LISTS / "trainaug.txt", sorted(stems - val))


def copy_mask(paths: tuple[Path, Path]) -> None:
    """One of VOC's own masks: palette indices as plain grey, void rims kept."""
    save_mask(paths[1], _within(read_labels(paths[0]), len(VOC), paths[0]))


def sbd_mask(paths: tuple[Path, Path]) -> None:
    """One of SBD's masks, from its .mat file; SBD knows no void."""
    from scipy.io import loadmat

    try:
        labels = np.asarray(
            loadmat(paths[0], squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation
        )
    except Exception as error:  # scipy raises what it likes on damaged files
        reason = (
            "it does not exist"
            if isinstance(error, FileNotFoundError)
            else str(error).split("\n")[0] or type(error).__name__
        )
        raise DataError(
            f"SBD's mask {paths[0]} cannot be read ({reason}); delete the folder {paths[0].parent}"
            " and run again to unpack it anew"
        ) from error
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.max(initial=0) > len(VOC):
        raise DataError(
            f"SBD's mask {paths[0]} is not a map of the ids 0 to {len(VOC)}; delete the folder"
            f" {paths[0].parent} and run again to unpack it anew"
        )
    save_mask(paths[1], labels)


def _within(labels: Any, largest: int, path: Path) -> Any:
    odd = labels[(labels > largest) & (labels != VOID)]
    if len(odd):
        raise DataError(
            f"the mask {path} holds the id {odd[0]}; known are 0 to {largest} and {VOID}: restore"
            " it from its archive"
        )
    return labels


def count_voc(root: Path) -> list[Count]:
    """Lists, images and masks of VOC 2012."""
    base, known = voc_folder(root), KNOWN["voc"]
    pictures = {Path(name).stem for name in names(base / "JPEGImages", ".jpg")}
    counts, listed = [], set[str]()
    for name in ("train", "val", "aug", "trainaug"):
        file = base / LISTS / f"{name}.txt"
        stems = set(read_list(file)) if file.is_file() else set()
        listed |= stems
        counts.append(Count(f"{LISTS}/{name}.txt", len(stems), known[name]))
    return [
        *counts,
        Count(
            "SegmentationClass",
            len(names(base / "SegmentationClass", ".png")),
            known["SegmentationClass"],
        ),
        Count(
            "SegmentationClassAug",
            len(names(base / "SegmentationClassAug", ".png")),
            known["SegmentationClassAug"],
        ),
        Count("listed images that are missing", len(listed - pictures), 0),
        Count(
            "listed masks that are missing",
            len(
                listed - {Path(name).stem for name in names(base / "SegmentationClassAug", ".png")}
            ),
            0,
        ),
    ]


# ------------------------------------------------------------------------ folds


def prepare_pascal_folds(work: Work) -> None:
    """VOC 2012 with SBD, and HSNet's lists."""
    prepare_voc(work)
    prepare_lists(work, "pascal")


def count_pascal_folds(root: Path) -> list[Count]:
    """As VOC, and HSNet's lists."""
    return [*count_voc(root), count_lists(root, "pascal")]


def prepare_lists(work: Work, which: str) -> None:
    """HSNet's lists of one data set into `lists`, each checked against what was published."""
    from unseen.data.episodes import HASHES, SOURCE, is_published

    for name, digest in HASHES.items():
        target = work.root / "lists" / name
        if not name.startswith(f"{which}/"):
            continue
        if target.is_file():
            if not is_published(target.read_bytes(), name):
                raise DataError(
                    f"{target} is not HSNet's published list; move it away and run again"
                )
            continue
        places = (
            []
            if work.source is None
            else [
                work.source / name,
                work.source / "lists" / name,
                work.source / name.partition("/")[2],
            ]
        )
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            path = obtain(
                Archive(
                    name.replace("/", "-"),
                    "https://github.com/juhongm999/hsnet",
                    (f"{SOURCE}/{name}",),
                    None,
                    f"sha256:{digest}",
                ),
                work,
            )
        elif not is_published(path.read_bytes(), name):
            raise DataError(
                f"{path} is not HSNet's published list; take it away, or restore it from"
                " https://github.com/juhongm999/hsnet (data/splits)"
            )
        link_or_copy(path, target)


def count_lists(root: Path, which: str) -> Count:
    """HSNet's lists, as far as they are the published ones."""
    from unseen.data.episodes import HASHES, is_published

    mine = [(root / "lists" / name, name) for name in HASHES if name.startswith(f"{which}/")]
    return Count(
        f"published lists in lists/{which}",
        sum(path.is_file() and is_published(path.read_bytes(), name) for path, name in mine),
        len(mine),
    )


# ---------------------------------------------------------------------- context


CONTEXT_LISTS = "ImageSets/SegmentationContext"


def context_folder(root: Path) -> Path:
    """Where VOC 2010 lies or will lie."""
    return place(root, "VOCdevkit/VOC2010", "JPEGImages", "SegmentationClassContext")


def prepare_context(work: Work) -> None:
    """Images of VOC 2010; masks of 59 classes and lists from PASCAL in Detail's annotations."""
    base = context_folder(work.root)
    if not _context_done(base):
        adopt(
            work,
            [
                Part(f"VOCdevkit/VOC2010/{folder}", base / folder, (suffix,), made=suffix == ".png")
                for folder, suffix in _CONTEXT_FOLDERS
            ],
        )
        ready = Part(f"VOCdevkit/VOC2010/{CONTEXT_LISTS}", base / CONTEXT_LISTS, (".txt",), 2)
        lists = unpacked(ready, work)
        if lists is not None and _context_whole(base, lists):
            adopt(work, [ready])
    if not _context_done(base):
        path = base / "trainval_merged.json"
        found = (
            verified(ARCHIVES["detail"], path, work)
            if path.is_file()
            else obtain(ARCHIVES["detail"], work)
        )
        work.say(f"reading {found}")
        phases, annotations = _detail(found)
        if found != path:
            link_or_copy(found, path)
        wanted = frozenset(f"{stem}.jpg" for stems in phases.values() for stem in stems)
        ensure(
            work,
            ARCHIVES["voc2010"],
            [Part("VOCdevkit/VOC2010/JPEGImages", base / "JPEGImages", (".jpg",), needs=wanted)],
        )
        masks = base / "SegmentationClassContext"
        done = names(masks, ".png")
        items = [
            (masks / f"{stem}.png", height, width, segments)
            for stem, (height, width, segments) in annotations.items()
            if f"{stem}.png" not in done
        ]
        work.each("Context's masks", context_mask, items)
        for phase, stems in phases.items():
            write_list(base / CONTEXT_LISTS / f"{phase}.txt", stems)


def _context_done(base: Path) -> bool:
    return _context_whole(base, base / CONTEXT_LISTS)


def _context_whole(base: Path, folder: Path) -> bool:
    """Whether images and masks of all names on the lists in `folder` are in place."""
    lists = [folder / f"{phase}.txt" for phase in ("train", "val")]
    if not all(path.is_file() for path in lists):
        return False
    stems = {stem for path in lists for stem in read_list(path)}
    return all(
        {f"{stem}{suffix}" for stem in stems} <= names(base / folder, suffix)
        for folder, suffix in _CONTEXT_FOLDERS
    )


_CONTEXT_FOLDERS = (("JPEGImages", ".jpg"), ("SegmentationClassContext", ".png"))
Segments = list[tuple[int, Any]]


def _detail(path: Path) -> tuple[dict[str, list[str]], dict[str, tuple[int, int, Segments]]]:
    """Names by phase, and for each name height, width and (value, segmentation) in the order of the
    file.

    Raises:
        DataError: Not PASCAL in Detail's annotations.
    """
    try:
        content = json.loads(path.read_bytes())
        phases: dict[str, list[str]] = {"train": [], "val": []}
        pictures: dict[int, tuple[int, int, Segments]] = {}
        stems: dict[str, int] = {}
        for image in content["images"]:
            if image["phase"] in phases:
                stem, number = (
                    Path(image["file_name"]).stem,
                    (image["image_id"] if "image_id" in image else image["id"]),
                )
                phases[image["phase"]].append(stem)
                pictures[number], stems[stem] = (
                    (
                        int(image["height"]),
                        int(image["width"]),
                        [],
                    ),
                    number,
                )
        for segment in content["annos_segmentation"]:
            if segment["image_id"] in pictures:
                pictures[segment["image_id"]][2].append(
                    (CONTEXT_VALUES.get(segment["category_id"], VOID), segment["segmentation"])
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not PASCAL in Detail's trainval_merged.json ({type(error).__name__}:"
            f" {error}); delete it and run again"
        ) from error
    return {phase: sorted(found) for phase, found in phases.items()}, {
        stem: pictures[number] for stem, number in stems.items()
    }


def context_mask(item: tuple[Path, int, int, Segments]) -> None:
    """One mask, drawn segment over segment."""
    path, height, width, segments = item
    try:
        labels = drawn(segments, height, width)
    except DataError as error:
        raise DataError(
            f"the annotation of {path.stem} in trainval_merged.json is damaged ({error}); delete"
            " that file and run again"
        ) from error
    picture = path.parents[1] / "JPEGImages" / f"{path.stem}.jpg"
    try:
        with Image.open(picture) as image:
            size = image.size
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"the image {picture} cannot be read; restore it from its archive"
        ) from error
    if size != (width, height):
        raise DataError(
            f"the image {picture} is {size[0]}x{size[1]} pixels, its annotation {width}x{height};"
            " restore it from its archive"
        )
    save_mask(path, labels)


def count_context(root: Path) -> list[Count]:
    """Lists, images and masks of PASCAL Context."""
    base = context_folder(root)
    found, listed = [], set[str]()
    for phase in ("train", "val"):
        file = base / CONTEXT_LISTS / f"{phase}.txt"
        stems = set(read_list(file)) if file.is_file() else set()
        listed |= stems
        known = CONTEXT_COUNTS[phase]
        found.append(
            Count(
                f"{CONTEXT_LISTS}/{phase}.txt",
                len(stems),
                len(stems) if len(stems) in known else known[0],
            )
        )
    for folder, suffix in _CONTEXT_FOLDERS:
        found.append(
            Count(
                f"listed names missing in {folder}",
                len({f"{stem}{suffix}" for stem in listed} - names(base / folder, suffix)),
                0,
            )
        )
    return found
