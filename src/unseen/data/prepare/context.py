"""PASCAL Context: images of VOC 2010, masks of 59 classes from PASCAL in Detail's annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unseen.data.prepare.fetch import obtain, verify
from unseen.data.prepare.folders import (
    file_names,
    link_or_copy,
    listed_names,
    locate_dataset,
    save_mask,
    write_list,
)
from unseen.data.prepare.masks import (
    BAD_ANNOTATIONS,
    CONTEXT_VALUES,
    IGNORE,
    Segments,
    draw_labels,
    require_pycocotools,
)
from unseen.data.prepare.parts import Part, ensure, find_unpacked, link_unpacked
from unseen.data.prepare.preparation import Count, Preparation
from unseen.data.prepare.published import ARCHIVES, CONTEXT_COUNTS
from unseen.errors import DataError
from unseen.images import read_file

LISTS = "ImageSets/SegmentationContext"
_PHASES = ("train", "val")
_FOLDERS = (("JPEGImages", ".jpg"), ("SegmentationClassContext", ".png"))
_ARCHIVE_FOLDER = "VOCdevkit/VOC2010"


def context_folder(root: Path) -> Path:
    """The folder of VOC 2010 below `root`."""
    return locate_dataset(root, "VOCdevkit/VOC2010", "JPEGImages", "SegmentationClassContext")


def prepare_context(prep: Preparation) -> None:
    """Images of VOC 2010; masks of 59 classes and lists from PASCAL in Detail's annotations."""
    base = context_folder(prep.root)
    if not _complete(base, base / LISTS):
        _link_ready_masks(prep, base)
    # Checked again, because links may have completed it.
    if not _complete(base, base / LISTS):
        require_pycocotools()  # before anything is downloaded
        _draw_masks(prep, base)


def _complete(base: Path, lists: Path) -> bool:
    """Whether images and masks of all names on the lists in the folder `lists` are in place."""
    files = [lists / f"{phase}.txt" for phase in _PHASES]
    if not all(file.is_file() for file in files):
        return False
    stems = set[str]().union(*map(listed_names, files))
    return all(
        {f"{stem}{suffix}" for stem in stems} <= file_names(base / folder, suffix)
        for folder, suffix in _FOLDERS
    )


def _link_ready_masks(prep: Preparation, base: Path) -> None:
    """Link images, masks and lists that another preparation made."""
    link_unpacked(
        prep,
        [
            Part(
                f"{_ARCHIVE_FOLDER}/{folder}",
                base / folder,
                (suffix,),
                keep_existing=suffix == ".png",
            )
            for folder, suffix in _FOLDERS
        ],
    )
    # Lists of other images would be in the way of those written by `_draw_masks`.
    lists = Part(f"{_ARCHIVE_FOLDER}/{LISTS}", base / LISTS, (".txt",), len(_PHASES))
    folder = find_unpacked(lists, prep)
    if folder is not None and _complete(base, folder):
        link_unpacked(prep, [lists])


def _draw_masks(prep: Preparation, base: Path) -> None:
    """Draw masks and write lists from PASCAL in Detail's annotations."""
    path = base / "trainval_merged.json"
    if path.is_file():
        annotations = verify(ARCHIVES["detail"], path, prep)
    else:
        annotations = obtain(ARCHIVES["detail"], prep)
    prep.log(f"reading {annotations}")
    phases, images = _read_detail(annotations)
    # Only a file that could be read is kept, where mmsegmentation keeps it.
    if annotations != path:
        link_or_copy(annotations, path)
    ensure(
        prep,
        ARCHIVES["voc2010"],
        [
            Part(
                f"{_ARCHIVE_FOLDER}/JPEGImages",
                base / "JPEGImages",
                (".jpg",),
                required=frozenset(f"{stem}.jpg" for stem in images),
            )
        ],
    )
    masks = base / "SegmentationClassContext"
    present = file_names(masks, ".png")
    prep.run_all(
        "Context's masks",
        draw_context_mask,
        [
            (masks / f"{stem}.png", *image)
            for stem, image in images.items()
            if f"{stem}.png" not in present
        ],
    )
    # Lists come last: where they exist, the masks are complete.
    for phase, stems in phases.items():
        write_list(base / LISTS / f"{phase}.txt", stems)


def _read_detail(path: Path) -> tuple[dict[str, list[str]], dict[str, tuple[int, int, Segments]]]:
    """PASCAL in Detail's annotations.

    Returns:
        The names of the images by phase, and by name: height, width, segments in the order of the
        file.

    Raises:
        DataError: Another file.
    """
    try:
        return _parse_detail(json.loads(path.read_bytes()))
    except BAD_ANNOTATIONS as error:
        raise DataError(
            f"{path} is not PASCAL in Detail's trainval_merged.json ({type(error).__name__}:"
            f" {error}); delete it and run again"
        ) from error


def _parse_detail(
    content: Any,
) -> tuple[dict[str, list[str]], dict[str, tuple[int, int, Segments]]]:
    phases: dict[str, list[str]] = {phase: [] for phase in _PHASES}
    images: dict[str, tuple[int, int, Segments]] = {}
    segments: dict[int, Segments] = {}
    for image in content["images"]:
        if image["phase"] not in phases:
            continue
        stem = Path(image["file_name"]).stem
        # Detail's own key, or COCO's.
        image_id = image["image_id"] if "image_id" in image else image["id"]
        phases[image["phase"]].append(stem)
        segments[image_id] = []
        images[stem] = (int(image["height"]), int(image["width"]), segments[image_id])
    for segment in content["annos_segmentation"]:
        if segment["image_id"] in segments:
            # Categories beyond the 59 are ignored.
            value = CONTEXT_VALUES.get(segment["category_id"], IGNORE)
            segments[segment["image_id"]].append((value, segment["segmentation"]))
    return {phase: sorted(stems) for phase, stems in phases.items()}, images


def draw_context_mask(item: tuple[Path, int, int, Segments]) -> None:
    """Draw one mask, segment over segment.

    Raises:
        DataError: The annotation is damaged or has another size than the image.
    """
    path, height, width, segments = item
    try:
        labels = draw_labels(segments, height, width)
    except DataError as error:
        raise DataError(
            f"the annotation of {path.stem} in trainval_merged.json is damaged ({error}); delete"
            " that file and run again"
        ) from error
    # An image of another size would be paired with a mask that does not lie over it.
    image_path = path.parents[1] / "JPEGImages" / f"{path.stem}.jpg"
    size = read_file(
        image_path,
        "image",
        lambda image: image.size,
        remedy="restore it from its archive",
    )
    if size != (width, height):
        raise DataError(
            f"the image {image_path} is {size[0]}x{size[1]} pixels, its annotation"
            f" {width}x{height}; restore it from its archive"
        )
    save_mask(path, labels)


def count_context(root: Path) -> list[Count]:
    """Lists, images and masks of PASCAL Context."""
    base = context_folder(root)
    lists = {phase: listed_names(base / LISTS / f"{phase}.txt") for phase in _PHASES}
    counts = []
    for phase, stems in lists.items():
        published = CONTEXT_COUNTS[phase]
        # Either of two published numbers is right.
        expected = len(stems) if len(stems) in published else published[0]
        counts.append(Count(f"{LISTS}/{phase}.txt", len(stems), expected))
    listed = set[str]().union(*lists.values())
    for folder, suffix in _FOLDERS:
        missing = {f"{stem}{suffix}" for stem in listed} - file_names(base / folder, suffix)
        counts.append(Count(f"listed names missing in {folder}", len(missing), 0))
    return counts
