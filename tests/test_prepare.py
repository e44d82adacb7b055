"""Every data set from its archives: four-image versions in the true formats."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny import archives as made
from tiny.commands import FEW, run_command
from tiny.prepared import file_states, refusal, run_prepare
from unseen.data.prepare import prepare
from unseen.images import read_labels

FEW_STEPS = f"{FEW} --train.workers 0 --clip doodles"
SMALL = "--train.transforms.resize [128,64] --train.transforms.crop 64"
ONE_TEMPLATE = "--options.templates single"


def train_and_evaluate(
    benchmark: str, root: Path, run: Path, *options: str, images: int = 1
) -> None:
    """Two steps of ZegCLIP, and an evaluation that must see so many images."""
    line = f"train zegclip --benchmark {benchmark} --root {root} --out {run}"
    run_command(line, FEW_STEPS, SMALL, "--options.decoder_heads 4", *options)
    size = "--inference.short_side 64 --inference.window 64 --inference.stride 48"
    run_command(f"evaluate {run} --root {root}", size)
    assert json.loads((run / f"eval-{benchmark}" / "report.json").read_text())["images"] == images


def train_and_evaluate_fold(benchmark: str, root: Path, run: Path) -> None:
    """Two steps of ESDA, and an evaluation that must see one episode."""
    data = f"--benchmark {benchmark} --root {root} --lists {root / 'lists'}"
    options = "--train.transforms.crop 48 --train.unseen_pixels ignore"
    run_command("train esda", data, f"--out {run}", FEW_STEPS, options)
    run_command(f"evaluate {run}", data, "--inference.canvas 48")
    report = run / f"eval-{benchmark.replace('/', '-')}" / "report.json"
    assert sum(json.loads(report.read_text())["episodes"].values()) == 1


def test_voc_and_its_folds(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    run_prepare("voc", root, archives)
    out = capsys.readouterr().out
    assert "WRONG" not in out
    assert "next: unseen evaluate" in out
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
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
    before = file_states(root)
    run_prepare("voc", root, archives)
    assert file_states(root) == before, "nothing is done twice"
    (base / "SegmentationClassAug" / f"{d}.png").unlink()
    (base / "JPEGImages" / f"{b}.jpg").unlink()
    run_prepare("voc", root, archives)
    assert file_states(root).keys() == before.keys(), "missing files are made again"
    train_and_evaluate("voc", root, tmp_path / "run")

    run_prepare("pascal-5i", root, archives)
    assert len(list((root / "lists" / "pascal").rglob("*.txt"))) == 8
    train_and_evaluate_fold("pascal-5i/0", root, tmp_path / "fold")


def test_voc_with_masks_of_sbd_at_hand(archives: Path, tmp_path: Path) -> None:
    """VOC's masks are added to mmsegmentation's folder of SBD's masks, without SBD's archive."""
    (archives / "benchmark.tgz").unlink()
    masks_of = tmp_path / "data" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    masks_of.mkdir(parents=True)
    for name, mask in made.VOC_SBD.items():
        Image.fromarray(mask).save(masks_of / f"{name}.png")
    before = file_states(masks_of)
    run_prepare("voc", tmp_path / "data", archives)
    after = file_states(masks_of)
    assert after.keys() == {f"{name}.png" for name in made.VOC_NAMES}
    assert before.items() <= after.items()


def test_context(archives: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    expected = made.write_context_archives(archives)
    run_prepare("context", root, archives)
    base = root / "VOCdevkit" / "VOC2010"
    assert {p.stem for p in (base / "JPEGImages").iterdir()} == {*expected, "2008_999999"}
    assert {p.stem for p in (base / "SegmentationClassContext").iterdir()} == set(expected), (
        "images in neither split have no mask"
    )
    for name, mask in expected.items():
        assert np.array_equal(read_labels(base / "SegmentationClassContext" / f"{name}.png"), mask)
    assert (
        base / "ImageSets" / "SegmentationContext" / "val.txt"
    ).read_text() == "2008_000002\n2008_000003\n"
    before = file_states(root)
    run_prepare("context", root, None)
    assert file_states(root) == before
    train_and_evaluate("context", root, tmp_path / "run", images=2)


def test_coco_stuff(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    run_prepare("coco-stuff", root, archives)
    base, train = root / "coco_stuff164k", made.STUFF_RAW["train2017"]
    mask = read_labels(base / "annotations" / "train2017" / f"{train[0]}_labelTrainIds.png")
    assert np.array_equal(mask, made.blocks(0, 10, 255, 11, 170, 255, 83, 24)), (
        "values of absent classes are ignored"
    )
    before = file_states(root)
    (base / "annotations" / "train2017" / f"{train[1]}_labelTrainIds.png").unlink()
    run_prepare("coco-stuff", root, archives)
    after = file_states(root)
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in before) == 1, (
        "the missing mask alone is made"
    )
    train_and_evaluate("coco-stuff", base, tmp_path / "run")
    raw = base / "annotations" / "val2017" / "000000000139.png"
    (raw.parent / "000000000139_labelTrainIds.png").unlink()
    raw.unlink()
    Image.fromarray(made.blocks(1, 200)).save(raw)
    (archives / "stuffthingmaps_trainval2017.zip").unlink()
    assert "holds the id 200; valid are 0 to 181 and 255" in refusal(capsys, "coco-stuff", root)


def test_coco_folds(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    run_prepare("coco-20i", root, archives)
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
    before = file_states(root)
    run_prepare("coco-20i", root, archives)
    assert file_states(root) == before
    train_and_evaluate_fold("coco-20i/0", root, tmp_path / "fold")


def test_fold_counts_follow_bams_rule(archives: Path, tmp_path: Path) -> None:
    """Of one mask: class 1 on 2048 pixels, class 6 (the same fold) on 2047, class 2 on 3000."""
    run_prepare("coco-20i", tmp_path, archives)
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


def test_ade(archives: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    run_prepare("ade20k-150", root, archives)
    base = root / "ade" / "ADEChallengeData2016"
    assert np.array_equal(
        read_labels(base / "annotations" / "validation" / "ADE_val_00000003.png"),
        made.blocks(0, 1, 150, 4),
    )
    assert len(list((base / "images" / "training").iterdir())) == 3
    train_and_evaluate("ade20k-150", root, tmp_path / "run", ONE_TEMPLATE)

    run_prepare("ade20k-847", root, archives)
    base = root / "ADE20K_2021_17_01"
    with Image.open(base / "annotations" / "training" / "ADE_train_00000002.png") as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.unique(np.array(image)), [0, 302, 846, 65535])
        assert np.array(image)[0].tolist() == [0] * 13 + [846] * 13 + [65535] * 13 + [302] * 13
    assert {p.name for p in (base / "images" / "validation").iterdir()} == {"ADE_val_00000003.jpg"}
    before = file_states(root)
    run_prepare("ade20k-847", root, None)
    assert file_states(root) == before
    shutil.rmtree(base / "images" / "ADE")
    run_prepare("ade20k-847", root, None)
    # 847 classes are for evaluation, by a run trained elsewhere
    run_command(
        f"evaluate {tmp_path / 'run'} --benchmark ade20k-847 --root {root}",
        ONE_TEMPLATE,
        "--inference.short_side 64 --inference.window 0",
    )
    assert (
        json.loads((tmp_path / "run" / "eval-ade20k-847" / "report.json").read_text())["images"]
        == 1
    )


def test_cityscapes(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    assert "gtFine_trainvaltest.zip are behind a login" in refusal(capsys, "cityscapes", root)
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        shutil.copy(archives / name, root / "downloads")
    run_prepare("cityscapes", root, None)
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
    run_prepare("cityscapes", root / "cityscapes", None, "--check")
    train_and_evaluate("cityscapes", root, tmp_path / "run", ONE_TEMPLATE)


def test_cityscapes_without_its_test_images(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mmsegmentation keeps it; and with masks of training ids alone."""
    root = tmp_path / "data"
    run_prepare("cityscapes", root, archives)
    base = root / "cityscapes"
    shutil.rmtree(base / "leftImg8bit" / "test")
    shutil.rmtree(base / "gtFine" / "test")
    for raw in base.rglob("*_labelIds.png"):
        raw.unlink()
    before = file_states(base)
    run_prepare("cityscapes", root, None)
    run_prepare("cityscapes", root, None, "--check")
    assert file_states(base) == before
    (base / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine_labelTrainIds.png").unlink()
    assert "gtFine_trainvaltest.zip is behind a login" in refusal(capsys, "cityscapes", root)


def test_conversions_need_no_torch() -> None:
    code = (
        "import sys, unseen.data.prepare; assert not {'torch', 'scipy', 'rich', 'open_clip'} &"
        " sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
