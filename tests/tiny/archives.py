"""Four-image versions of the published archives, in their true formats, and expected layouts."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tiny import voc_palette
from unseen.data import episodes
from unseen.data.prepare.published import (
    ADE_FULL_IDS,
    ARCHIVES,
    CONTEXT_COUNTS,
    CONTEXT_IDS,
    PUBLISHED_COUNTS,
    Archive,
)

H, W = 40, 52


def random_image(seed: int, form: str = "JPEG") -> bytes:
    """A random image."""
    return encoded(np.random.default_rng(seed).integers(0, 255, (H, W, 3), dtype=np.uint8), form)


def encoded(pixels: np.ndarray, form: str = "PNG", *, palette: bool = False) -> bytes:
    """An image file in memory."""
    image, out = Image.fromarray(pixels), io.BytesIO()
    if palette:
        image.putpalette([channel for colour in voc_palette() for channel in colour])
    image.save(out, format=form)
    return out.getvalue()


def blocks(*values: int) -> np.ndarray:
    """A label map of upright stripes."""
    return np.repeat(np.array(values, dtype=np.uint8), -(-W // len(values)))[None, :W].repeat(
        H, axis=0
    )


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    """A tar, or with mode "w:gz" a tgz."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def pack(path: Path, members: dict[str, bytes]) -> None:
    """A zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def lines(*names: str) -> bytes:
    """A list file."""
    return "".join(f"{name}\n" for name in names).encode()


def compressed(counts: list[int]) -> str:
    """COCO's compressed run lengths, written bit by bit."""
    out = []
    for i, count in enumerate(counts):
        x, more = (count - counts[i - 2] if i > 2 else count), True
        while more:
            bits = x & 31
            x >>= 5
            more = x != -1 if bits & 16 else x != 0
            out.append(chr((bits | (32 if more else 0)) + 48))
    return "".join(out)


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths of 0 and 1 in turn down the columns."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if int(pixel) != value:
            counts.append(0)
            value = int(pixel)
        counts[-1] += 1
    return counts


# ----------------------------------------------------------------------- archives

VOC_NAMES = [f"2007_{i:06d}" for i in range(4)]
VOC_OWN = {name: blocks(0, 1 + i, 16 + i, 255) for i, name in enumerate(VOC_NAMES[:3])}
VOC_SBD = {name: blocks(0, 5, 1 + i, 17) for i, name in enumerate(VOC_NAMES) if i != 1}


def write_voc_archives(folder: Path) -> None:
    """VOC and SBD: 0 and 1 are VOC's training images, 2 its validation image, 3 is SBD's only.

    SBD has masks of 0, 2 (validation) and 3.
    """
    inside = "VOCdevkit/VOC2012"
    tar(
        folder / "VOCtrainval_11-May-2012.tar",
        {
            **{
                f"{inside}/JPEGImages/{name}.jpg": random_image(i)
                for i, name in enumerate(VOC_NAMES)
            },
            **{
                f"{inside}/SegmentationClass/{name}.png": encoded(mask, palette=True)
                for name, mask in VOC_OWN.items()
            },
            f"{inside}/Annotations/{VOC_NAMES[0]}.xml": b"<x/>",
            f"{inside}/ImageSets/Main/cat_train.txt": b"-1",
            f"{inside}/ImageSets/Segmentation/train.txt": lines(*VOC_NAMES[:2]),
            f"{inside}/ImageSets/Segmentation/val.txt": lines(VOC_NAMES[2]),
            f"{inside}/ImageSets/Segmentation/trainval.txt": lines(*VOC_NAMES[:3]),
        },
    )
    members = {
        "benchmark_RELEASE/dataset/train.txt": lines(VOC_NAMES[0], VOC_NAMES[3]),
        "benchmark_RELEASE/dataset/val.txt": lines(VOC_NAMES[2]),
    }
    for name, mask in VOC_SBD.items():
        out = io.BytesIO()
        savemat(
            out,
            {
                "GTcls": {
                    "Segmentation": mask,
                    "Boundaries": np.zeros((20, 1), dtype=object),
                    "CategoriesPresent": np.unique(mask[mask > 0]),
                }
            },
        )
        members[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = out.getvalue()
        members[f"benchmark_RELEASE/dataset/img/{name}.jpg"] = random_image(VOC_NAMES.index(name))
    tar(folder / "benchmark.tgz", {**members, "benchmark_RELEASE/benchmark_code/a.m": b"%"}, "w:gz")


def write_context_archives(folder: Path) -> dict[str, np.ndarray]:
    """Two training and two validation images.

    Segments are compressed or plain run lengths or a polygon; one category is not kept.
    """
    names = [f"2008_{i:06d}" for i in range(4)]
    inside = "VOCdevkit/VOC2010"
    tar(
        folder / "VOCtrainval_03-May-2010.tar",
        {
            f"{inside}/JPEGImages/{name}.jpg": random_image(i)
            for i, name in enumerate([*names, "2008_999999"])
        },
    )
    images, segments, expected = [], [], {}
    for i, name in enumerate(names):
        number = int(name.replace("_", ""))
        images.append(
            {
                "file_name": f"{name}.jpg",
                "image_id": number,
                "phase": "train" if i < 2 else "val",
                "height": H,
                "width": W,
            }
        )
        mask = np.zeros((H, W), dtype=np.uint8)
        left, ring = blocks(1, 0, 0) == 1, (np.indices((H, W)).sum(axis=0) % 7) < 3
        stuff = CONTEXT_IDS[(10 * i + 4) % 59]
        for value, category, area, form in (
            (1, 2, left, "packed"),
            (CONTEXT_IDS.index(stuff) + 1, stuff, ring, "plain"),
            (255, 7, blocks(0, 0, 0, 1) == 1, "plain"),
        ):
            counts: object = compressed(runs(area)) if form == "packed" else runs(area)
            segments.append(
                {
                    "image_id": number,
                    "category_id": category,
                    "segmentation": {"size": [H, W], "counts": counts},
                }
            )
            mask[area] = value
        segments.append(
            {"image_id": number, "category_id": 458, "segmentation": [[2, 3, 10, 3, 10, 8, 2, 8]]}
        )
        mask[3:8, 2:10] = 59
        expected[name] = mask
    images.append(
        {
            "file_name": "2008_999999.jpg",
            "image_id": 2008999999,
            "phase": "test",
            "height": H,
            "width": W,
        }
    )
    (folder / "trainval_merged.json").write_text(
        json.dumps({"images": images, "annos_segmentation": segments, "categories": []})
    )
    return expected


STUFF_RAW = {
    "train2017": ["000000000009", "000000000025", "000000000030"],
    "val2017": ["000000000139"],
}
STUFF_VALUES = (0, 10, 11, 12, 181, 255, 94, 26)


def write_stuff_archives(folder: Path) -> None:
    """Three training images and one of validation, with values of absent things."""
    for split, names in STUFF_RAW.items():
        pack(
            folder / f"{split}.zip",
            {f"{split}/{name}.jpg": random_image(int(name)) for name in names},
        )
    masks = {
        f"{split}/{name}.png": encoded(blocks(*STUFF_VALUES))
        for split, names in STUFF_RAW.items()
        for name in names
    }
    pack(folder / "stuffthingmaps_trainval2017.zip", masks)


def write_things_archives(folder: Path) -> None:
    """COCO 2014: three training images, of which one has a crowd alone, and one of validation."""
    listed = {"train2014": [1, 2, 3], "val2014": [4]}
    members = {"annotations/captions_val2014.json": b"{}"}
    for split, numbers in listed.items():
        names = {number: f"COCO_{split}_{number:012d}" for number in numbers}
        pack(
            folder / f"{split}.zip",
            {f"{split}/{name}.jpg": random_image(number) for number, name in names.items()},
        )
        annotations = []
        for number in numbers:
            if number != 3:
                square, corner = (
                    [[4, 4, 20, 4, 20, 20, 4, 20]],
                    [
                        [10, 10, 30, 10, 30, 30, 10, 30],
                        [40, 0, 50, 0, 50, 6, 40, 6],
                    ],
                )
                annotations += [
                    {"image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": square},
                    {"image_id": number, "category_id": 90, "iscrowd": 0, "segmentation": corner},
                ]
            counts = runs(np.ones((H, W), dtype=bool))
            annotations.append(
                {
                    "image_id": number,
                    "category_id": 3,
                    "iscrowd": 1,
                    "segmentation": {"size": [H, W], "counts": counts},
                }
            )
        images = [
            {"id": number, "file_name": f"{name}.jpg", "height": H, "width": W}
            for number, name in names.items()
        ]
        members[f"annotations/instances_{split}.json"] = json.dumps(
            {"images": images, "annotations": annotations}
        ).encode()
    pack(folder / "annotations_trainval2014.zip", members)


def write_ade_archives(folder: Path) -> None:
    """ADE20K in 150 classes: three images and one; in full: the same, as colours."""
    small, full = {}, {}
    for i in range(4):
        split, stem = (
            ("training", f"ADE_train_{i:08d}") if i < 3 else ("validation", f"ADE_val_{i:08d}")
        )
        small[f"ADEChallengeData2016/images/{split}/{stem}.jpg"] = random_image(i)
        small[f"ADEChallengeData2016/annotations/{split}/{stem}.png"] = encoded(
            blocks(0, 1, 150, i + 1)
        )
        at = f"ADE20K_2021_17_01/images/ADE/{split}/urban/street/{stem}"
        colours = np.zeros((H, W, 3), dtype=np.uint8)
        for place, code in enumerate(
            (ADE_FULL_IDS[0], ADE_FULL_IDS[846], 0, ADE_FULL_IDS[300 + i])
        ):
            colours[:, 13 * place : 13 * place + 13] = (10 * (code // 256) + i, code % 256, 77)
        full |= {
            f"{at}.jpg": random_image(i),
            f"{at}_seg.png": encoded(colours),
            f"{at}_parts_1.png": encoded(colours),
            f"{at}.json": b"{}",
        }
        full[f"{at}/instance_000_{stem}.png"] = encoded(blocks(0, 1))
    pack(
        folder / "ADEChallengeData2016.zip",
        {**small, "ADEChallengeData2016/objectInfo150.txt": b""},
    )
    pack(folder / "ADE20K_2021_17_01.zip", full)


def write_streets_archives(folder: Path) -> None:
    """Cityscapes: two training images, one of validation, one of the test."""
    images, masks = {"README": b"", "license.txt": b""}, {"README": b"", "license.txt": b""}
    for split, city, frame in (
        ("train", "aachen", 0),
        ("train", "ulm", 1),
        ("val", "munster", 2),
        ("test", "bonn", 3),
    ):
        name = f"{split}/{city}/{city}_{frame:06d}_000019"
        images[f"leftImg8bit/{name}_leftImg8bit.png"] = random_image(frame, "PNG")
        masks[f"gtFine/{name}_gtFine_labelIds.png"] = encoded(blocks(7, 33, 6, 255, 26))
        masks[f"gtFine/{name}_gtFine_color.png"] = encoded(blocks(7, 33, 6, 255, 26))
        masks[f"gtFine/{name}_gtFine_polygons.json"] = b"{}"
    pack(folder / "leftImg8bit_trainvaltest.zip", images)
    pack(folder / "gtFine_trainvaltest.zip", masks)


TINY_COUNTS = {
    "voc": {
        "JPEGImages": 4,
        "SegmentationClass": 3,
        "train": 2,
        "val": 1,
        "aug": 1,
        "trainaug": 3,
        "SegmentationClassAug": 4,
        "sbd": 3,
    },
    "coco-stuff": {"train2017": 3, "val2017": 1},
    "coco-20i": {"train2014": 3, "val2014": 1, "masks train2014": 2, "masks val2014": 1},
    "ade20k-150": {"training": 3, "validation": 1},
    "ade20k-847": {"validation": 1},
    "cityscapes": {"train": 2, "val": 1, "test": 1},
}


def write_all(folder: Path) -> None:
    """All archives, and HSNet's lists that belong to them."""
    write_voc_archives(folder)
    write_context_archives(folder)
    write_stuff_archives(folder)
    write_things_archives(folder)
    write_ade_archives(folder)
    write_streets_archives(folder)
    for name, content in hsnet_lists().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def hsnet_lists() -> dict[str, bytes]:
    """HSNet's lists of the images in the archives, by name."""
    a, b, c = VOC_NAMES[:3]
    pascal = {
        "trn": [[f"{a}__01", f"{b}__02"], [f"{a}__06"], [f"{a}__11"], [f"{a}__16", f"{b}__17"]],
        "val": [[f"{c}__03"], [f"{c}__06"], [f"{c}__11"], [f"{c}__18"]],
    }
    contents = {}
    for split, side, numbers in (("trn", "train", [1, 2]), ("val", "val", [4])):
        images = [f"{side}2014/COCO_{side}2014_{number:012d}.jpg" for number in numbers]
        for fold in range(4):
            # Of COCO's classes the images show 0 and 79, which are novel in folds 0 and 3.
            class_id = 79 if (fold == 0) == (split == "trn") else 0
            contents[f"pascal/{split}/fold{fold}.txt"] = lines(*pascal[split][fold])
            contents[f"coco/{split}/fold{fold}.pkl"] = pickle.dumps({class_id: images})
    return contents


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str | None = None) -> None:
    """Make the archives, lists and counts of `write_all` the published ones.

    Archives are downloaded from `url`/NAME, if one is given.
    """
    for key, archive in list(ARCHIVES.items()):
        path = folder / archive.file
        content = path.read_bytes() if path.exists() else b""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        behind_a_login = key in ("ade-full", "cityscapes-images", "cityscapes-masks")
        urls = (f"{url}/{archive.file}",) if url and not behind_a_login else ()
        made = Archive(
            archive.file, archive.page, urls, len(content), digest, archive.other_folders
        )
        monkeypatch.setitem(ARCHIVES, key, made)
    for key, counts in TINY_COUNTS.items():
        monkeypatch.setitem(PUBLISHED_COUNTS, key, counts)
    for phase in CONTEXT_COUNTS:
        monkeypatch.setitem(CONTEXT_COUNTS, phase, (2, 3))
    hashes = {
        name: hashlib.sha256(content).hexdigest()[:16] for name, content in hsnet_lists().items()
    }
    monkeypatch.setattr(episodes, "HASHES", hashes)
