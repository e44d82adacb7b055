"""Data sets from their archives: four-image versions in the true formats, a server that breaks
off and lies, and everything that can be wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tiny import archives as made
from unseen.__main__ import main
from unseen.data import episodes
from unseen.data.benchmarks import get_benchmark
from unseen.data.prepare import (
    DATASETS,
    ade20k,
    context,
    fetch,
    preparation,
    prepare,
    unpack,
    voc,
)
from unseen.data.prepare.parts import Part
from unseen.data.prepare.preparation import Preparation
from unseen.data.prepare.published import ARCHIVES, Archive
from unseen.errors import DataError, SettingError
from unseen.files import read_labels, replacing

FEW = [
    "--train.steps",
    "2",
    "--train.batch_size",
    "2",
    "--train.warmup",
    "0",
    "--train.workers",
    "0",
    "--clip",
    "doodles",
]
SMALL = [
    "--train.transforms.resize",
    "[128,64]",
    "--train.transforms.crop",
    "64",
    "--options.decoder_heads",
    "4",
]

ONE = ["--options.templates", "single"]


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tiny archives, published as such, with HSNet's lists that belong to them."""
    folder = tmp_path / "archives"
    folder.mkdir()
    made.write_voc_archives(folder)
    made.write_context_archives(folder)
    made.write_stuff_archives(folder)
    made.write_things_archives(folder)
    made.write_ade_archives(folder)
    made.write_streets_archives(folder)
    made.publish(folder, monkeypatch)
    a, b, c = made.VOC_NAMES[:3]
    pascal = {
        "trn": [[f"{a}__01", f"{b}__02"], [f"{a}__06"], [f"{a}__11"], [f"{a}__16", f"{b}__17"]],
        "val": [[f"{c}__03"], [f"{c}__06"], [f"{c}__11"], [f"{c}__18"]],
    }
    hashes = {}
    for split in ("trn", "val"):
        for fold in range(4):
            side = "train" if split == "trn" else "val"
            numbers = [1, 2] if split == "trn" else [4]
            classes = {
                class_id: [f"{side}2014/COCO_{side}2014_{n:012d}.jpg" for n in numbers]
                for class_id in ((79,) if (fold == 0) == (split == "trn") else (0,))
            }
            for name, content in (
                (f"pascal/{split}/fold{fold}.txt", made.lines(*pascal[split][fold])),
                (f"coco/{split}/fold{fold}.pkl", pickle.dumps(classes)),
            ):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
                hashes[name] = hashlib.sha256(content).hexdigest()[:16]
    monkeypatch.setattr(episodes, "HASHES", hashes)
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    return folder


def ready(name: str, root: Path, source: Path | None, *more: str) -> None:
    main(
        [
            "prepare",
            name,
            "--root",
            str(root),
            *(["--from", str(source)] if source else []),
            "--jobs",
            "1",
            *more,
        ]
    )


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Call with a mistake: exit code 2 and one sentence after the lines of progress."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its bytes and time."""
    return {
        str(p.relative_to(root)): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in root.rglob("*")
        if p.is_file()
    }


# ---------------------------------------------------------------------- data sets


def test_voc_and_its_folds(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    ready("voc", root, archives)
    out = capsys.readouterr().out
    assert "WRONG" not in out
    assert "next: unseen evaluate" in out
    base, lists = (
        root / "VOCdevkit" / "VOC2012",
        root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation",
    )
    a, b, c, d = made.VOC_NAMES
    assert {path.stem: path.read_text().split() for path in lists.iterdir()} == {
        "train": [a, b],
        "val": [c],
        "trainval": [a, b, c],
        "aug": [d],
        "trainaug": [a, b, d],
    }
    for name in made.VOC_NAMES:
        with Image.open(base / "SegmentationClassAug" / f"{name}.png") as image:
            assert image.mode == "L"
            assert np.array_equal(
                np.array(image), made.VOC_OWN.get(name, made.VOC_SBD.get(name))
            ), "VOC's own masks lie over SBD's"
    assert not (base / "Annotations").exists()
    before = files(root)
    ready("voc", root, archives)
    assert files(root) == before, "nothing is done twice"
    (base / "SegmentationClassAug" / f"{d}.png").unlink()
    (base / "JPEGImages" / f"{b}.jpg").unlink()
    ready("voc", root, archives)
    assert files(root).keys() == before.keys(), "what is missing is made again"
    train = [
        "train",
        "zegclip",
        "--benchmark",
        "voc",
        "--root",
        str(root),
        "--out",
        str(tmp_path / "run"),
        *FEW,
        *SMALL,
    ]
    evaluate_two_steps(train, tmp_path / "run", "voc", root, images=1)

    ready("pascal-5i", root, archives)
    assert len(list((root / "lists" / "pascal").rglob("*.txt"))) == 8
    common = ["--benchmark", "pascal-5i/0", "--root", str(root), "--lists", str(root / "lists")]
    main(
        [
            "train",
            "esda",
            *common,
            "--out",
            str(tmp_path / "fold"),
            *FEW,
            "--train.transforms.crop",
            "48",
            "--train.unseen_pixels",
            "ignore",
        ]
    )
    main(["evaluate", str(tmp_path / "fold"), *common, "--inference.canvas", "48"])
    assert (
        sum(
            json.loads((tmp_path / "fold" / "eval-pascal-5i-0" / "report.json").read_text())[
                "episodes"
            ].values()
        )
        == 1
    )


def evaluate_two_steps(
    train: list[str], run: Path, benchmark: str, root: Path, images: int
) -> None:
    main(train)
    main(
        [
            "evaluate",
            str(run),
            "--root",
            str(root),
            "--inference.short_side",
            "64",
            "--inference.window",
            "64",
            "--inference.stride",
            "48",
        ]
    )
    assert json.loads((run / f"eval-{benchmark}" / "report.json").read_text())["images"] == images


def test_voc_with_masks_of_sbd_at_hand(archives: Path, tmp_path: Path) -> None:
    """mmsegmentation's folder holds SBD's masks alone: VOC's are added without SBD's archive, and
    nothing is changed."""
    (archives / "benchmark.tgz").unlink()
    masks_of = tmp_path / "data" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    masks_of.mkdir(parents=True)
    for name, mask in made.VOC_SBD.items():
        Image.fromarray(mask).save(masks_of / f"{name}.png")
    before = files(masks_of)
    ready("voc", tmp_path / "data", archives)
    after = files(masks_of)
    assert after.keys() == {f"{name}.png" for name in made.VOC_NAMES}
    assert before.items() <= after.items()


def test_context(archives: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    expected = made.write_context_archives(archives)
    ready("context", root, archives)
    base = root / "VOCdevkit" / "VOC2010"
    assert {p.stem for p in (base / "JPEGImages").iterdir()} == {*expected, "2008_999999"}
    assert {p.stem for p in (base / "SegmentationClassContext").iterdir()} == set(expected), (
        "what is neither for training nor for validation has no mask"
    )
    for name, mask in expected.items():
        assert np.array_equal(read_labels(base / "SegmentationClassContext" / f"{name}.png"), mask)
    assert (
        base / "ImageSets" / "SegmentationContext" / "val.txt"
    ).read_text() == "2008_000002\n2008_000003\n"
    before = files(root)
    ready("context", root, None)
    assert files(root) == before
    train = [
        "train",
        "zegclip",
        "--benchmark",
        "context",
        "--root",
        str(root),
        "--out",
        str(tmp_path / "run"),
        *FEW,
        *SMALL,
    ]
    evaluate_two_steps(train, tmp_path / "run", "context", root, images=2)


def test_coco_stuff(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    ready("coco-stuff", root, archives)
    base, train = root / "coco_stuff164k", made.STUFF_RAW["train2017"]
    mask = read_labels(base / "annotations" / "train2017" / f"{train[0]}_labelTrainIds.png")
    assert np.array_equal(mask, made.blocks(0, 10, 255, 11, 170, 255, 83, 24)), (
        "values of absent things become void"
    )
    before = files(root)
    (base / "annotations" / "train2017" / f"{train[1]}_labelTrainIds.png").unlink()
    ready("coco-stuff", root, archives)
    after = files(root)
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in before) == 1, (
        "the missing mask alone is made"
    )
    asked = [
        "train",
        "zegclip",
        "--benchmark",
        "coco-stuff",
        "--root",
        str(base),
        "--out",
        str(tmp_path / "run"),
        *FEW,
        *SMALL,
    ]
    evaluate_two_steps(asked, tmp_path / "run", "coco-stuff", base, images=1)
    raw = base / "annotations" / "val2017" / "000000000139.png"
    (raw.parent / "000000000139_labelTrainIds.png").unlink()
    raw.unlink()
    Image.fromarray(made.blocks(1, 200)).save(raw)
    (archives / "stuffthingmaps_trainval2017.zip").unlink()
    assert "holds the id 200; known are 0 to 181 and 255" in said(
        capsys, "prepare", "coco-stuff", "--root", str(root), "--jobs", "1"
    )


def test_coco_folds(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    ready("coco-20i", root, archives)
    out = capsys.readouterr().out
    assert "fold 0: images with a novel class of 2048 pixels" in out
    assert "other" in out, "the published number is another, which is a remark"
    folder = root / "COCO2014" / "annotations"
    expected = np.zeros((made.H, made.W), dtype=np.uint8)
    expected[4:20, 4:20], expected[10:30, 10:30], expected[:6, 40:50] = 1, 80, 80
    assert np.array_equal(
        read_labels(folder / "val2014" / "COCO_val2014_000000000004.png"), expected
    )
    assert {p.stem[-1] for p in (folder / "train2014").iterdir()} == {
        "1",
        "2",
    }, "crowds are left out, and so is an image with nothing else"
    before = files(root)
    ready("coco-20i", root, archives)
    assert files(root) == before
    common = ["--benchmark", "coco-20i/0", "--root", str(root), "--lists", str(root / "lists")]
    main(
        [
            "train",
            "esda",
            *common,
            "--out",
            str(tmp_path / "fold"),
            *FEW,
            "--train.transforms.crop",
            "48",
            "--train.unseen_pixels",
            "ignore",
        ]
    )
    main(["evaluate", str(tmp_path / "fold"), *common, "--inference.canvas", "48"])
    assert (
        sum(
            json.loads((tmp_path / "fold" / "eval-coco-20i-0" / "report.json").read_text())[
                "episodes"
            ].values()
        )
        == 1
    )


def test_ade(archives: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    ready("ade20k-150", root, archives)
    base = root / "ade" / "ADEChallengeData2016"
    assert np.array_equal(
        read_labels(base / "annotations" / "validation" / "ADE_val_00000003.png"),
        made.blocks(0, 1, 150, 4),
    )
    assert len(list((base / "images" / "training").iterdir())) == 3
    train = [
        "train",
        "zegclip",
        "--benchmark",
        "ade20k-150",
        "--root",
        str(root),
        "--out",
        str(tmp_path / "run"),
        *FEW,
        *SMALL,
        *ONE,
    ]
    evaluate_two_steps(train, tmp_path / "run", "ade20k-150", root, images=1)

    ready("ade20k-847", root, archives)
    base = root / "ADE20K_2021_17_01"
    with Image.open(base / "annotations" / "training" / "ADE_train_00000002.png") as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.unique(np.array(image)), [0, 302, 846, 65535])
        assert np.array(image)[0].tolist() == [0] * 13 + [846] * 13 + [65535] * 13 + [302] * 13
    assert {p.name for p in (base / "images" / "validation").iterdir()} == {"ADE_val_00000003.jpg"}
    before = files(root)
    ready("ade20k-847", root, None)
    assert files(root) == before
    shutil.rmtree(base / "images" / "ADE")
    ready("ade20k-847", root, None)
    # 847 words are for evaluation, by a run trained elsewhere
    main(
        [
            "evaluate",
            str(tmp_path / "run"),
            "--benchmark",
            "ade20k-847",
            "--root",
            str(root),
            *ONE,
            "--inference.short_side",
            "64",
            "--inference.window",
            "0",
        ]
    )
    assert (
        json.loads((tmp_path / "run" / "eval-ade20k-847" / "report.json").read_text())["images"]
        == 1
    )


def test_cityscapes(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    assert "gtFine_trainvaltest.zip are behind a login" in said(
        capsys, "prepare", "cityscapes", "--root", str(root)
    )
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        shutil.copy(archives / name, root / "downloads")
    ready("cityscapes", root, None)
    mask = read_labels(
        root
        / "cityscapes"
        / "gtFine"
        / "train"
        / "ulm"
        / "ulm_000001_000019_gtFine_labelTrainIds.png"
    )
    assert np.array_equal(mask, made.blocks(0, 18, 255, 255, 13))
    assert (
        root / "cityscapes" / "leftImg8bit" / "test" / "bonn" / "bonn_000003_000019_leftImg8bit.png"
    ).is_file()
    ready("cityscapes", root / "cityscapes", None, "--check")
    train = [
        "train",
        "zegclip",
        "--benchmark",
        "cityscapes",
        "--root",
        str(root),
        "--out",
        str(tmp_path / "run"),
        *FEW,
        *SMALL,
        *ONE,
    ]
    evaluate_two_steps(train, tmp_path / "run", "cityscapes", root, images=1)


def test_cityscapes_without_its_test_images(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mmsegmentation keeps it; and with masks of training ids alone."""
    root = tmp_path / "data"
    ready("cityscapes", root, archives)
    base = root / "cityscapes"
    shutil.rmtree(base / "leftImg8bit" / "test")
    shutil.rmtree(base / "gtFine" / "test")
    for raw in base.rglob("*_labelIds.png"):
        raw.unlink()
    before = files(base)
    ready("cityscapes", root, None)
    ready("cityscapes", root, None, "--check")
    assert files(base) == before
    (base / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine_labelTrainIds.png").unlink()
    assert "gtFine_trainvaltest.zip is behind a login" in said(
        capsys, "prepare", "cityscapes", "--root", str(root)
    )


def test_masks_that_are_ready_need_no_archives(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of another preparation are linked with --from, without SBD's .mat files, COCO's
    annotations or pycocotools."""
    done, root = tmp_path / "done", tmp_path / "data"
    for name in ("voc", "context", "coco-20i"):
        ready(name, done, archives)
    shutil.rmtree(done / "VOCdevkit" / "VOCaug")
    (done / "VOCdevkit" / "VOC2010" / "trainval_merged.json").unlink()
    for path in (done / "COCO2014" / "annotations").glob("*.json"):
        path.unlink()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    for path in archives.glob("*.*"):
        path.unlink()
    for name in ("voc", "context", "coco-20i"):
        ready(name, root, done)
    for folder in ("VOC2012/SegmentationClassAug", "VOC2010/SegmentationClassContext"):
        assert (
            files(root / "VOCdevkit" / folder).keys() == files(done / "VOCdevkit" / folder).keys()
        )


def test_roots_by_other_names(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the data set under any name, the folder itself as '.', and the folder above."""
    root = tmp_path / "data"
    for name in ("voc", "context"):
        ready(name, root, archives)
    before = files(root)
    monkeypatch.chdir(root / "VOCdevkit" / "VOC2012")
    ready("voc", Path(), None, "--check")
    ready("context", root / "VOCdevkit", None, "--check")
    assert (
        context.context_folder(tmp_path / "new" / "VOCdevkit")
        == tmp_path / "new" / "VOCdevkit" / "VOC2010"
    )
    monkeypatch.chdir(tmp_path)
    (root / "VOCdevkit" / "VOC2012").rename(tmp_path / "pascal")
    ready("voc", tmp_path / "pascal", None, "--check")
    assert len(files(root)) + len(files(tmp_path / "pascal")) == len(before)


def test_annotations_where_mmsegmentation_keeps_them(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mmseg"
    (source / "VOCdevkit" / "VOC2010").mkdir(parents=True)
    shutil.move(archives / "trainval_merged.json", source / "VOCdevkit" / "VOC2010")
    shutil.move(archives / "VOCtrainval_03-May-2010.tar", source)
    ready("context", tmp_path / "data", source)
    base = tmp_path / "data" / "VOCdevkit" / "VOC2010"
    shutil.rmtree(base / "SegmentationClassContext")
    annotations = base / "trainval_merged.json"
    content = annotations.read_bytes()
    annotations.unlink()
    annotations.write_bytes(content + b" ")
    message = said(
        capsys,
        "prepare",
        "context",
        "--root",
        str(tmp_path / "data"),
        "--from",
        str(source),
        "--jobs",
        "1",
    )
    assert f"{annotations} is not the published file" in message


def test_what_a_killed_preparation_leaves(archives: Path, tmp_path: Path) -> None:
    """Killed outright it can leave a file that was being written: no benchmark takes it for a
    image, and the next preparation removes it."""
    root = tmp_path / "data"
    ready("ade20k-150", root, archives)
    images = root / "ade" / "ADEChallengeData2016" / "images" / "training"
    left, other = (
        images / ".ADE_train_00000000-unfinished-lbpuh01o.jpg",
        images / ".mine-12345678.jpg",
    )
    for path in (left, other):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    assert len(get_benchmark("ade20k-150").data("train", root)) == 3
    ready("ade20k-150", root, None)
    assert not left.exists()
    assert other.exists()


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_terminated_preparation_takes_its_file_away(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(path: Path, labels: np.ndarray) -> None:
        with replacing(path) as beside:
            beside.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    monkeypatch.setattr(voc, "save_mask", terminated)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        ready("voc", tmp_path / "data", archives)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (
        list((tmp_path / "data" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").iterdir()) == []
    )


def test_lists_in_place_are_looked_at(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    ready("pascal-5i", root, archives)
    (root / "lists" / "pascal" / "val" / "fold0.txt").write_text("2007_000000__01\n")
    assert "published lists in lists/pascal: 7 instead of 8" in said(
        capsys, "prepare", "pascal-5i", "--root", str(root), "--check"
    )
    message = said(
        capsys, "prepare", "pascal-5i", "--root", str(root), "--from", str(archives), "--jobs", "1"
    )
    assert "fold0.txt is not HSNet's published list; move it away" in message


def test_fold_counts_follow_bams_rule(archives: Path, tmp_path: Path) -> None:
    """Of one mask: class 1 on 2048 pixels, class 6 (the same fold) on 2047, class 2 on 3000."""
    ready("coco-20i", tmp_path, archives)
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask.reshape(-1)[:2048] = 1
    mask.reshape(-1)[2048:4095] = 5
    mask.reshape(-1)[5000:8000] = 2
    Image.fromarray(mask).save(
        tmp_path / "COCO2014" / "annotations" / "val2014" / "COCO_val2014_000000000004.png"
    )
    counts = {count.title: count.actual for count in prepare("coco-20i", tmp_path, check=True)}
    expected = [1, 1, 0, 0]
    assert [
        counts[f"fold {fold}: images with a novel class of 2048 pixels"] for fold in range(4)
    ] == expected
    assert [
        counts[f"fold {fold}: (image, class) pairs of 2048 pixels"] for fold in range(4)
    ] == expected


def test_unpacked_folders_are_taken_as_links(archives: Path, tmp_path: Path) -> None:
    """Whatever was unpacked by hand, under any of the usual names."""
    unpacked, root = tmp_path / "unpacked", tmp_path / "data"
    for name in ("VOCtrainval_11-May-2012.tar", "benchmark.tgz"):
        with tarfile.open(archives / name) as archive:
            archive.extractall(unpacked, filter="data")
    for name in ("train2017.zip", "val2017.zip"):
        with zipfile.ZipFile(archives / name) as zipped:
            zipped.extractall(unpacked / "coco" / "images")
    with zipfile.ZipFile(archives / "stuffthingmaps_trainval2017.zip") as zipped:
        zipped.extractall(unpacked / "stuffthingmaps")
    before = files(unpacked)
    ready("voc", root, unpacked)
    ready("coco-stuff", root, unpacked)
    name = f"VOCdevkit/VOC2012/JPEGImages/{made.VOC_NAMES[0]}.jpg"
    assert (root / name).samefile(unpacked / name)
    assert files(unpacked) == before
    ready("voc", unpacked / "VOCdevkit" / "VOC2012", unpacked)  # in place
    assert len(list((unpacked / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").iterdir())) == 4
    assert not (unpacked / "VOCdevkit" / "VOC2012" / "VOCdevkit").exists()


def test_processes_make_the_same_masks(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "MIN_PARALLEL_ITEMS", 1)
    prepare("ade20k-847", tmp_path / "many", archives, jobs=2)
    prepare("ade20k-847", tmp_path / "one", archives, jobs=1)
    found = {
        str(p.relative_to(tmp_path / "many")): p.read_bytes()
        for p in (tmp_path / "many").rglob("*.png")
    }
    assert len(found) == 2 * 4
    assert all((tmp_path / "one" / name).read_bytes() == content for name, content in found.items())
    broken = tmp_path / "many" / "ADE20K_2021_17_01"
    shutil.rmtree(broken / "annotations")
    next(broken.rglob("*_seg.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        Preparation(tmp_path, None, 2).run_all(
            "masks",
            ade20k.convert_ade_full,
            [
                (
                    p.with_name(p.name.replace("_seg.png", ".jpg")),
                    tmp_path / "i",
                    tmp_path / "m.png",
                )
                for p in broken.rglob("*_seg.png")
            ],
        )


# --------------------------------------------------------------------- downloads


class _Server(BaseHTTPRequestHandler):
    """Serves a folder; breaks off after so many bytes a request, lies, or knows no ranges, as
    asked."""

    folder: ClassVar[Path]
    breaks: ClassVar[int | None] = None
    wrong: ClassVar[int] = 0
    ranges: ClassVar[bool] = True
    page: ClassVar[bool] = False
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.folder / self.path.rpartition("/")[2]
        self.asked.append(self.headers.get("Range", ""))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if type(self).page:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>come back later</html>")
            return
        if type(self).wrong:
            type(self).wrong -= 1
            data = bytes(len(data))
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and self.ranges else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : None if self.breaks is None else start + self.breaks])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Server]]:
    handler = type(
        "Handler",
        (_Server,),
        {
            "folder": archives,
            "asked": [],
            "breaks": None,
            "wrong": 0,
            "ranges": True,
            "page": False,
        },
    )
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    made.publish(archives, monkeypatch, f"http://127.0.0.1:{served.server_address[1]}")
    yield handler
    served.shutdown()
    served.server_close()


def test_download_goes_on_after_every_break(server: type[_Server], tmp_path: Path) -> None:
    size = (server.folder / "ADEChallengeData2016.zip").stat().st_size
    server.breaks = size // 5
    root = tmp_path / "data"
    ready("ade20k-150", root, None)
    assert server.asked[0] == ""
    assert server.asked[1:] == [f"bytes={n * (size // 5)}-" for n in range(1, len(server.asked))]
    assert (root / "downloads" / "ADEChallengeData2016.zip").read_bytes() == (
        server.folder / "ADEChallengeData2016.zip"
    ).read_bytes()
    assert {p.name for p in (root / "downloads").iterdir()} == {"ADEChallengeData2016.zip"}


def test_a_later_run_goes_on(
    server: type[_Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, root = "ADEChallengeData2016.zip", tmp_path / "data"
    content = (server.folder / name).read_bytes()
    (root / "downloads").mkdir(parents=True)
    part = root / "downloads" / f"{name}.part"
    part.write_bytes(content[:1000])
    server.breaks = 0
    message = said(capsys, "prepare", "ade20k-150", "--root", str(root))
    assert "could not be downloaded" in message
    assert "are kept, run again to continue" in message
    assert part.read_bytes() == content[:1000]
    server.breaks = None
    ready("ade20k-150", root, None)
    assert server.asked[-1] == "bytes=1000-"


def test_a_web_page_does_not_cost_what_is_there(
    server: type[_Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, root = "ADEChallengeData2016.zip", tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    part, start = root / "downloads" / f"{name}.part", (server.folder / name).read_bytes()[:1000]
    part.write_bytes(start)
    server.page = True
    message = said(capsys, "prepare", "ade20k-150", "--root", str(root))
    assert "a web page instead of the file" in message
    assert part.read_bytes() == start
    server.page, server.ranges = False, False
    ready("ade20k-150", root, None)


def test_a_server_without_ranges(server: type[_Server], tmp_path: Path) -> None:
    server.ranges, root = False, tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / "ADEChallengeData2016.zip.part").write_bytes(b"something else")
    ready("ade20k-150", root, None)


def test_wrong_bytes_are_thrown_away(
    server: type[_Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    part = root / "downloads" / "ADEChallengeData2016.zip.part"
    part.write_bytes(b"half of another file")
    ready(
        "ade20k-150", root, None
    )  # wrong with its first half, so fetched once more from the start
    assert server.asked == ["bytes=20-", ""]
    shutil.rmtree(root)
    server.wrong = 1
    message = said(capsys, "prepare", "ade20k-150", "--root", str(root))
    assert "what it sends is not the published file (sha256" in message
    assert not (root / "downloads").exists(), "nothing is kept"
    whole = (server.folder / "ADEChallengeData2016.zip").read_bytes()
    part.parent.mkdir()
    part.write_bytes(whole)
    ready("ade20k-150", root, None)  # killed between the last byte and the check
    part.write_bytes(whole + b"x")
    (root / "downloads" / "ADEChallengeData2016.zip").unlink()
    (
        root / "ade" / "ADEChallengeData2016" / "images" / "training" / "ADE_train_00000000.jpg"
    ).unlink()
    ready("ade20k-150", root, None)  # too long


def test_no_network_and_no_such_file(
    server: type[_Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (server.folder / "val2017.zip").unlink()
    message = said(capsys, "prepare", "coco-stuff", "--root", str(tmp_path / "data"))
    assert "answer 404" in message
    assert "give its folder with --from" in message
    assert (
        len(list((tmp_path / "data" / "coco_stuff164k" / "images" / "train2017").iterdir())) == 3
    ), "what is done is kept"
    monkeypatch.setitem(
        ARCHIVES, "ade", Archive("a.zip", "the page", ("http://127.0.0.1:9/a.zip",))
    )
    message = said(capsys, "prepare", "ade20k-150", "--root", str(tmp_path / "data"))
    assert "Connection refused" in message
    assert "the page" in message


@pytest.mark.parametrize("name", ["context", "coco-20i"])
def test_pycocotools_is_required_before_a_download(
    name: str,
    server: type[_Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    message = said(capsys, "prepare", name, "--root", str(tmp_path / "data"))
    assert "pip install 'unseen[data]'" in message
    assert server.asked == []


def test_no_room(
    server: type[_Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    assert "free some space" in said(
        capsys, "prepare", "ade20k-150", "--root", str(tmp_path / "data")
    )
    assert server.asked == []


def test_a_full_disk_while_unpacking(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(content: object, what: str) -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpack, "_chunks", full)
    root = tmp_path / "data"
    message = said(capsys, "prepare", "ade20k-150", "--root", str(root), "--from", str(archives))
    assert "No space left on device" in message
    assert "free some space" in message
    assert not [p for p in root.rglob("*") if p.is_file()], "no half-written file stays"
    monkeypatch.undo()


# --------------------------------------------------------------------- bad input


def test_damaged_archives(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, key, file in (
        ("voc", "voc2012", "VOCtrainval_11-May-2012.tar"),
        ("voc", "sbd", "benchmark.tgz"),
        ("ade20k-150", "ade", "ADEChallengeData2016.zip"),
    ):
        path, root = archives / file, tmp_path / key
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        asked = ["prepare", name, "--root", str(root), "--from", str(archives), "--jobs", "1"]
        message = said(capsys, *asked)
        assert f"{path} is not the published file" in message
        assert f"{len(whole) // 2} bytes instead of {len(whole)}" in message
        monkeypatch.setitem(
            ARCHIVES, key, Archive(file, "page")
        )  # no checksum is published: its own structure must tell
        assert "damaged or cut short" in said(capsys, *asked)
        assert not list(root.rglob(".*"))
        path.write_bytes(whole)
        ready(name, root, archives)  # goes on
    path = archives / "gtFine_trainvaltest.zip"
    content = bytearray(path.read_bytes())
    place = content.index(b"labelIds.png") + 40
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    monkeypatch.setitem(ARCHIVES, "cityscapes-masks", Archive(path.name, "page"))
    assert "damaged or cut short" in said(
        capsys,
        "prepare",
        "cityscapes",
        "--root",
        str(tmp_path / "c"),
        "--from",
        str(archives),
        "--jobs",
        "1",
    )


def hostile(tmp_path: Path, members: list[tarfile.TarInfo]) -> Path:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path


@pytest.mark.parametrize(
    "name",
    ["../../evil.jpg", "/tmp/evil.jpg", "in/../../evil.jpg", "in\\..\\evil.jpg", "C:/evil.jpg"],
)
def test_archives_that_reach_outside(name: str, tmp_path: Path) -> None:
    info = tarfile.TarInfo(name)
    info.size = 3
    parts = [Part("in", tmp_path / "out", (".jpg",), recursive=True)]
    with pytest.raises(DataError, match="outside of its folder"):
        unpack.unpack(hostile(tmp_path, [info]), parts, Preparation(tmp_path))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(DataError, match="outside of its folder"):
        unpack.unpack(tmp_path / "a.zip", parts, Preparation(tmp_path))
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archives_with_links(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("in/a.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=r"holds in/a\.jpg as a link"):
        unpack.unpack(
            hostile(tmp_path, [info]),
            [Part("in", tmp_path / "out", (".jpg",))],
            Preparation(tmp_path),
        )
    link = zipfile.ZipInfo("in/a.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"holds in/a\.jpg as a link"):
        unpack.unpack(
            tmp_path / "a.zip", [Part("in", tmp_path / "out", (".jpg",))], Preparation(tmp_path)
        )
    assert not (tmp_path / "out").exists()


def test_archives_that_swell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.jpg", bytes(5000))
    part = Part("in", tmp_path / "out", (".jpg",))
    monkeypatch.setattr(unpack, "LARGEST_FILE", 4000)
    with pytest.raises(DataError, match="far more than belongs in it"):
        unpack.unpack(tmp_path / "a.zip", [part], Preparation(tmp_path))
    with pytest.raises(DataError, match="holds none of the files expected"):
        unpack.unpack(
            tmp_path / "a.zip",
            [Part("elsewhere", tmp_path / "out", (".jpg",))],
            Preparation(tmp_path),
        )
    monkeypatch.undo()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="has 4 bytes, but 5000 in"):
        unpack.unpack(tmp_path / "a.zip", [part], Preparation(tmp_path))
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"mine"


def test_mistakes_on_the_command_line(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "data")
    assert "no data set called 'vok' to prepare; choose one of voc, context" in said(
        capsys, "prepare", "vok", "--root", root
    )
    assert "--jobs is 0" in said(capsys, "prepare", "voc", "--root", root, "--jobs", "0")
    assert "given with --from, does not exist" in said(
        capsys, "prepare", "voc", "--root", root, "--from", str(tmp_path / "no")
    )
    for name in DATASETS:
        assert "nothing to check; run without --check first" in said(
            capsys, "prepare", name, "--root", root, "--check"
        )
    (tmp_path / "file").write_text("")
    assert "cannot be written" in said(
        capsys, "prepare", "voc", "--root", str(tmp_path / "file" / "data"), "--from", str(archives)
    )
    with pytest.raises(SettingError):
        prepare("vok", tmp_path)


def test_a_folder_that_cannot_be_written(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "data"
    (root / "VOCdevkit").mkdir(parents=True)
    (root / "VOCdevkit" / "VOC2012").write_text("a file where a folder belongs")
    message = said(capsys, "prepare", "voc", "--root", str(root), "--from", str(archives))
    assert "another place with --root" in message

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    message = said(
        capsys,
        "prepare",
        "voc",
        "--root",
        str(tmp_path / "fixed"),
        "--from",
        str(archives),
        "--jobs",
        "1",
    )
    assert "cannot be written (Read-only file system); choose another place with --root" in message


def test_check_names_what_is_missing(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    ready("voc", root, archives)
    base = root / "VOCdevkit" / "VOC2012"
    (base / "JPEGImages" / f"{made.VOC_NAMES[2]}.jpg").unlink()
    (base / "SegmentationClassAug" / f"{made.VOC_NAMES[3]}.png").unlink()
    before = files(root)
    message = said(capsys, "prepare", "voc", "--root", str(root), "--check")
    assert (
        "SegmentationClassAug: 3 instead of 4; listed images that are missing: 1 instead of 0;"
        " listed masks that are missing: 1 instead of 0" in message
    )
    assert f"unseen prepare voc --root {root} makes what is missing" in message
    assert files(root) == before


def test_other_peoples_lists_are_not_overwritten(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainaug.txt").write_text("2007_000000\n")
    message = said(
        capsys, "prepare", "voc", "--root", str(root), "--from", str(archives), "--jobs", "1"
    )
    assert "names other images than belong in it (1 instead of 3); move it away" in message
    assert (lists / "trainaug.txt").read_text() == "2007_000000\n"


def test_files_that_are_not_what_they_say(
    archives: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.mat").write_bytes(b"no matrix")
    for path in (tmp_path / "a.mat", tmp_path / "b.mat"):
        with pytest.raises(DataError, match="SBD's mask .* cannot be read"):
            voc.convert_sbd_mask((path, tmp_path / "a.png"))
    Image.fromarray(made.blocks(0, 44)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="holds the id 44"):
        voc.copy_mask((tmp_path / "m.png", tmp_path / "a.png"))
    assert not (tmp_path / "a.png").exists()
    for key, name, file in (
        ("detail", "context", "trainval_merged.json"),
        ("instances2014", "coco-20i", "annotations_trainval2014.zip"),
    ):
        monkeypatch.setitem(ARCHIVES, key, Archive(file, "page"))
        if file.endswith(".json"):
            (archives / file).write_text('{"images": 3}')
        else:
            made.pack(
                archives / file,
                {f"annotations/instances_{split}2014.json": b"[]" for split in ("train", "val")},
            )
        message = said(
            capsys,
            "prepare",
            name,
            "--root",
            str(tmp_path / "data"),
            "--from",
            str(archives),
            "--jobs",
            "1",
        )
        assert "delete it and run again" in message
    (archives / "pascal" / "val" / "fold2.txt").write_text("2007_000000__01\n")
    message = said(
        capsys,
        "prepare",
        "pascal-5i",
        "--root",
        str(tmp_path / "data"),
        "--from",
        str(archives),
        "--jobs",
        "1",
    )
    assert "is not HSNet's published list" in message


def test_preparing_needs_no_torch_in_its_processes() -> None:
    code = (
        "import sys, unseen.data.prepare; assert not {'torch', 'scipy', 'rich', 'open_clip'} &"
        " sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
