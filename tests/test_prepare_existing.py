"""Preparations that find files in place: resumed, linked, kept, or refused."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tiny import archives as made
from tiny.prepared import file_states, refusal, run_prepare
from unseen.data.benchmarks import get_benchmark
from unseen.data.prepare import ade20k, context, preparation, prepare, voc
from unseen.data.prepare.preparation import Preparation
from unseen.errors import DataError
from unseen.files import replacing


def test_ready_masks_need_no_archives(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of another preparation are linked with --from.

    Neither SBD's .mat files nor COCO's annotations nor pycocotools are needed.
    """
    done, root = tmp_path / "done", tmp_path / "data"
    for name in ("voc", "context", "coco-20i"):
        run_prepare(name, done, archives)
    shutil.rmtree(done / "VOCdevkit" / "VOCaug")
    (done / "VOCdevkit" / "VOC2010" / "trainval_merged.json").unlink()
    for path in (done / "COCO2014" / "annotations").glob("*.json"):
        path.unlink()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    for path in archives.glob("*.*"):
        path.unlink()
    for name in ("voc", "context", "coco-20i"):
        run_prepare(name, root, done)
    for folder in ("VOC2012/SegmentationClassAug", "VOC2010/SegmentationClassContext"):
        assert (
            file_states(root / "VOCdevkit" / folder).keys()
            == file_states(done / "VOCdevkit" / folder).keys()
        )


def test_roots_under_other_names(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the data set under any name, the folder itself as '.', and the folder above."""
    root = tmp_path / "data"
    for name in ("voc", "context"):
        run_prepare(name, root, archives)
    before = file_states(root)
    monkeypatch.chdir(root / "VOCdevkit" / "VOC2012")
    run_prepare("voc", Path(), None, "--check")
    run_prepare("context", root / "VOCdevkit", None, "--check")
    assert (
        context.context_folder(tmp_path / "new" / "VOCdevkit")
        == tmp_path / "new" / "VOCdevkit" / "VOC2010"
    )
    monkeypatch.chdir(tmp_path)
    (root / "VOCdevkit" / "VOC2012").rename(tmp_path / "pascal")
    run_prepare("voc", tmp_path / "pascal", None, "--check")
    assert len(file_states(root)) + len(file_states(tmp_path / "pascal")) == len(before)


def test_annotations_where_mmsegmentation_keeps_them(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mmseg"
    (source / "VOCdevkit" / "VOC2010").mkdir(parents=True)
    shutil.move(archives / "trainval_merged.json", source / "VOCdevkit" / "VOC2010")
    shutil.move(archives / "VOCtrainval_03-May-2010.tar", source)
    run_prepare("context", tmp_path / "data", source)
    base = tmp_path / "data" / "VOCdevkit" / "VOC2010"
    shutil.rmtree(base / "SegmentationClassContext")
    annotations = base / "trainval_merged.json"
    content = annotations.read_bytes()
    annotations.unlink()
    annotations.write_bytes(content + b" ")
    message = refusal(capsys, "context", tmp_path / "data", source)
    assert f"{annotations} is not the published file" in message


def test_unfinished_files_are_removed(archives: Path, tmp_path: Path) -> None:
    """A killed preparation can leave a partly written file.

    No benchmark takes it for an image, and the next preparation removes it.
    """
    root = tmp_path / "data"
    run_prepare("ade20k-150", root, archives)
    images = root / "ade" / "ADEChallengeData2016" / "images" / "training"
    left, other = images / ".unseen-00000000-1-0123abcd.jpg", images / ".photo-12345678.jpg"
    for path in (left, other):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    assert len(get_benchmark("ade20k-150").data("train", root)) == 3
    run_prepare("ade20k-150", root, None)
    assert not left.exists()
    assert other.exists()


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_terminated_preparation_removes_its_file(
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
        run_prepare("voc", tmp_path / "data", archives)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (
        list((tmp_path / "data" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").iterdir()) == []
    )


def test_lists_in_place_are_verified(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    run_prepare("pascal-5i", root, archives)
    (root / "lists" / "pascal" / "val" / "fold0.txt").write_text("2007_000000__01\n")
    assert "published lists in lists/pascal: 7 instead of 8" in refusal(
        capsys, "pascal-5i", root, None, "--check"
    )
    message = refusal(capsys, "pascal-5i", root, archives)
    assert "fold0.txt is not HSNet's published list; move it away" in message


def test_other_lists_are_not_overwritten(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainaug.txt").write_text("2007_000000\n")
    message = refusal(capsys, "voc", root, archives)
    assert "names other images than belong in it (1 instead of 3); move it away" in message
    assert (lists / "trainaug.txt").read_text() == "2007_000000\n"


def test_unpacked_folders_are_linked(archives: Path, tmp_path: Path) -> None:
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
    before = file_states(unpacked)
    run_prepare("voc", root, unpacked)
    run_prepare("coco-stuff", root, unpacked)
    name = f"VOCdevkit/VOC2012/JPEGImages/{made.VOC_NAMES[0]}.jpg"
    assert (root / name).samefile(unpacked / name)
    assert file_states(unpacked) == before
    run_prepare("voc", unpacked / "VOCdevkit" / "VOC2012", unpacked)  # in place
    assert len(list((unpacked / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").iterdir())) == 4
    assert not (unpacked / "VOCdevkit" / "VOC2012" / "VOCdevkit").exists()


def test_processes_make_the_same_masks(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "MIN_PARALLEL_ITEMS", 1)
    prepare("ade20k-847", tmp_path / "many", archives, jobs=2)
    prepare("ade20k-847", tmp_path / "one", archives, jobs=1)
    masks = {
        str(p.relative_to(tmp_path / "many")): p.read_bytes()
        for p in (tmp_path / "many").rglob("*.png")
    }
    assert len(masks) == 2 * 4
    assert all((tmp_path / "one" / name).read_bytes() == content for name, content in masks.items())
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


def test_check_names_what_is_missing(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    run_prepare("voc", root, archives)
    base = root / "VOCdevkit" / "VOC2012"
    (base / "JPEGImages" / f"{made.VOC_NAMES[2]}.jpg").unlink()
    (base / "SegmentationClassAug" / f"{made.VOC_NAMES[3]}.png").unlink()
    before = file_states(root)
    message = refusal(capsys, "voc", root, None, "--check")
    assert (
        "SegmentationClassAug: 3 instead of 4; listed images that are missing: 1 instead of 0;"
        " listed masks that are missing: 1 instead of 0" in message
    )
    assert f"unseen prepare voc --root {root} makes what is missing" in message
    assert file_states(root) == before
