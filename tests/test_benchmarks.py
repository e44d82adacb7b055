"""Every generalised benchmark on four images in its true layout, through the command line.

Also runs across data sets, and vocabularies above 253 classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny import given_scores, write_voc
from tiny.commands import FEW, error_of, run_command
from tiny.sets import (
    FULL,
    write_ade,
    write_ade_full,
    write_cityscapes,
    write_coco_stuff,
    write_context,
)
from unseen.data.ade import ADE150, ADE847
from unseen.data.benchmarks import BENCHMARKS, families, folds_of, get_benchmark
from unseen.data.classes import (
    CITYSCAPES,
    COCO_STUFF,
    CONTEXT,
    CONTEXT_ZS3,
    VOC,
    VOC_ZS3,
    shared_classes,
)
from unseen.data.datasets import LabelledImages
from unseen.decision import best_rows
from unseen.errors import DataError, SettingError
from unseen.inference import label_maps, labels_of_rows
from unseen.labels import BACKGROUND, IGNORE, PADDING, index_to_label, label_to_index, subset_lookup
from unseen.metrics import ConfusionMatrix
from unseen.palettes import colours
from unseen.score_maps import Resize
from unseen.segmenter import TextFeatures
from unseen.settings import DrawSettings
from unseen.visualize import label_palette, paint

SMALL = (
    f"--clip doodles {FEW} --train.transforms.resize [128,32] "
    "--train.transforms.crop 32 --train.workers 0"
)
TINY = "--inference.short_side 32 --inference.window 0"

# --------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("names", "count", "first", "last", "digest"),
    [
        (ADE150, 150, "wall", "flag", "f9dbd8a75a0722c9"),
        (ADE847, 847, "wall", "adding machine, totalizer, totaliser", "ee311c5f3b780a16"),
        (CITYSCAPES, 19, "road", "bicycle", "5995d02d6c574d51"),
    ],
)
def test_lists_of_classes(
    names: tuple[str, ...], count: int, first: str, last: str, digest: str
) -> None:
    assert (len(names), len(set(names)), names[0], names[-1]) == (count, count, first, last)
    assert all(name == name.strip() for name in names)
    assert hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] == digest


def test_nested_splits() -> None:
    for base, hidden, vocabulary in (
        ("voc-zs3", VOC_ZS3, VOC),
        ("context-zs3", CONTEXT_ZS3, CONTEXT),
    ):
        assert folds_of(base) == [f"{base}/{count}" for count in (2, 4, 6, 8, 10)]
        assert set(hidden) <= set(vocabulary)
        for count in (2, 4, 6, 8, 10):
            bench = get_benchmark(f"{base}/{count}")
            assert bench.unseen == hidden[:count]
            assert bench.class_names == ("background", *vocabulary)
            assert "background" in bench.seen
    assert VOC_ZS3[:6] == ("cow", "motorbike", "aeroplane", "sofa", "cat", "tvmonitor")
    assert set(CONTEXT_ZS3) == set(get_benchmark("context").unseen)
    with pytest.raises(
        SettingError, match="voc-zs3 has 5 splits; choose one of voc-zs3/2, voc-zs3/4"
    ):
        get_benchmark("voc-zs3")


def test_how_backgrounds_are_treated() -> None:
    kinds = {bench.base: bench.background for bench in BENCHMARKS.values()}
    assert {name for name, kind in kinds.items() if kind == "class"} == {
        "context-60",
        "voc-zs3",
        "context-zs3",
    }
    assert {name for name, kind in kinds.items() if kind == "threshold"} == {
        "voc-21",
        "context-60-threshold",
        "coco-object",
    }
    assert {name for name, kind in kinds.items() if kind == "rest"} == {
        "pascal-5i",
        "coco-20i",
        "doodles-5i",
    }
    assert get_benchmark("voc-21").scored_names == (*VOC, "background")
    assert get_benchmark("voc").scored_names == VOC


def test_benchmarks_that_are_scored_alike() -> None:
    same = {
        name
        for name in BENCHMARKS
        for other in ("voc",)
        if get_benchmark(name).same_classes_as(other, VOC)
    }
    assert same == {"voc", "voc-21"}, "not the folds, nor ZS3's splits"
    assert not get_benchmark("pascal-5i/3").same_classes_as("voc", VOC)
    assert not get_benchmark("voc").same_classes_as("pascal-5i/3", VOC)
    assert get_benchmark("context").same_classes_as("context-60-threshold", CONTEXT)
    assert not get_benchmark("voc").same_classes_as("/a/folder", VOC)


def test_a_run_on_the_same_classes_with_another_background(tmp_path: Path) -> None:
    root = voc(tmp_path / "data")
    common = f"--root {root} {TINY}"
    run_command(
        f"train zegclip --benchmark voc --root {root}",
        SMALL,
        f"--options.decoder_heads 2 --out {tmp_path / 'run'}",
    )
    run_command(
        f"evaluate {tmp_path / 'run'} --benchmark voc-21",
        common,
        f"--threshold 0.5 --out {tmp_path / 'eval'}",
    )
    protocol = report_of(tmp_path / "eval")["protocol"]
    assert (protocol["calibrated"], protocol["trained_on"], protocol["background"]) == (
        True,
        None,
        "threshold",
    )


def test_benchmarks_in_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"voc", "pascal-5i/0..3", "voc-zs3/2..10", "ade20k-847", "cityscapes"} <= set(families())
    assert sum(map(len, families().values())) == len(BENCHMARKS)
    run_command("list benchmarks")
    out = capsys.readouterr().out
    assert "context-zs3/2..10" in out
    assert "2..10" in out


# --------------------------------------------------------------- through the verbs


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def counted(report: dict[str, Any]) -> dict[str, int]:
    """Labelled pixels of the classes that have any."""
    rows = report["confusion"]["pixels"]
    assert sum(map(sum, rows)) == report["pixels"]
    return {
        name: sum(row)
        for name, row in zip(report["confusion"]["rows"], rows, strict=True)
        if sum(row)
    }


def voc(root: Path) -> Path:
    return write_voc(root / "VOC2012", count=12)


def voc_pixels(*, background: bool) -> dict[str, int]:
    """Of images 9, 10, 11 of `write_voc`: 8 of 24 columns a class, 19 of 20 rows."""
    pixels = {VOC[i % 15]: 19 * 8 for i in (9, 10, 11)} | {
        VOC[15 + i % 5]: 19 * 8 for i in (9, 10, 11)
    }
    return {**pixels, "background": 3 * 19 * 8} if background else pixels


CASES: dict[str, tuple[Callable[[Path], Path], dict[str, int]]] = {
    "voc": (voc, voc_pixels(background=False)),
    "voc-21": (voc, voc_pixels(background=True)),
    "voc-zs3/2": (voc, voc_pixels(background=True)),
    "context": (write_context, {"wall": 2 * 20 * 7, "motorbike": 20 * 7, "tree": 20 * 7}),
    "context-60": (
        write_context,
        {"wall": 2 * 20 * 7, "motorbike": 20 * 7, "tree": 20 * 7, "background": 2 * 20 * 8},
    ),
    "context-60-threshold": (
        write_context,
        {"wall": 2 * 20 * 7, "motorbike": 20 * 7, "tree": 20 * 7, "background": 2 * 20 * 8},
    ),
    "context-zs3/4": (
        write_context,
        {"wall": 2 * 20 * 7, "motorbike": 20 * 7, "tree": 20 * 7, "background": 2 * 20 * 8},
    ),
    "coco-stuff": (write_coco_stuff, {"person": 2 * 20 * 8, "cow": 2 * 20 * 7, "wood": 2 * 20 * 8}),
    "ade20k-150": (write_ade, {"wall": 2 * 20 * 10, "flag": 2 * 20 * 10}),
    "cityscapes": (write_cityscapes, {"road": 2 * 16 * 8, "bicycle": 2 * 16 * 8}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_train_and_evaluate(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, pixels = CASES[name]
    root, bench = write(tmp_path / "data"), get_benchmark(name)
    common = f"--benchmark {name} --root {root}"
    run_command(
        "train zegclip",
        common,
        SMALL,
        f"--options.decoder_heads 2 --options.templates single --out {tmp_path / 'run'}",
    )
    threshold = ["--threshold", "0.5"] if bench.background == "threshold" else []
    run_command(
        f"evaluate {tmp_path / 'run'}", common, TINY, *threshold, f"--out {tmp_path / 'eval'}"
    )
    report = report_of(tmp_path / "eval")
    assert counted(report) == pixels
    assert report["protocol"]["background"] == bench.background
    assert report["protocol"]["trained_on"] is None
    assert report["protocol"]["calibrated"] is True
    assert (report["scores"]["mIoU_U"] is None) == (not bench.unseen)
    assert (tmp_path / "eval" / "sheet.png").exists()
    assert f"{len(bench.unseen)} unseen classes" in capsys.readouterr().out or not bench.unseen
    with pytest.raises(DataError):
        bench.data("val", tmp_path / "run")


def test_images_with_unseen_pixels_are_left_out(tmp_path: Path) -> None:
    root = write_context(tmp_path / "data")
    data = get_benchmark("context-zs3/2").data("train", root)
    assert isinstance(data, LabelledImages)
    assert [pair.image.stem for pair in data.pairs] == ["2008_000001"], "0 shows a cow"
    assert len(get_benchmark("context-zs3/2").data("val", root)) == 2, "validation is whole"
    (root / "ImageSets" / "SegmentationContext" / "train.txt").write_text("2008_000000\n")
    with pytest.raises(DataError, match="every one of the 1 training images shows an unseen class"):
        get_benchmark("context-zs3/2").data("train", root)


def test_masks_that_are_missing(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "cityscapes")
    assert len(get_benchmark("cityscapes").data("val", tmp_path)) == 2, "the folder above"
    for mask in root.glob("gtFine/val/*/*_labelTrainIds.png"):
        mask.unlink()
    with pytest.raises(
        DataError,
        match=(
            r"_gtFine_labelTrainIds\.png is missing; complete it with `unseen prepare cityscapes`"
        ),
    ):
        get_benchmark("cityscapes").data("val", root)
    ade = write_ade(tmp_path / "ADEChallengeData2016")
    assert get_benchmark("ade20k-150").data("val", tmp_path)[0].labels.unique().tolist() == [
        0,
        149,
        IGNORE,
    ]
    (ade / "annotations" / "validation" / "ADE_00000002.png").unlink()
    with pytest.raises(
        DataError,
        match=r"ADE_00000002\.png is missing; complete it with `unseen prepare ade20k-150`",
    ):
        get_benchmark("ade20k-150").data("val", ade)
    with pytest.raises(
        DataError, match=r"is not ADE20K's folder .*; give the ADE20K_2021_17_01 folder with --root"
    ):
        get_benchmark("ade20k-847").data("val", tmp_path)


# ----------------------------------------------------------------- across data sets


@pytest.fixture(scope="module")
def stuff_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on COCO-Stuff."""
    folder = tmp_path_factory.mktemp("stuff")
    root = write_coco_stuff(folder / "data")
    options = "--options.decoder_heads 2 --options.templates single --options.num_prompts 2"
    run_command(
        f"train zegclip --benchmark coco-stuff --root {root}",
        SMALL,
        options,
        f"--out {folder / 'run'}",
    )
    return folder / "run"


@pytest.mark.parametrize("name", ["voc", "context", "context-60", "ade20k-150", "cityscapes"])
def test_a_run_on_another_data_set(
    stuff_run: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, pixels = CASES[name]
    options = "--options.templates single"
    run_command(
        f"evaluate {stuff_run} --benchmark {name} --root {write(tmp_path / 'data')}",
        TINY,
        options,
        f"--out {tmp_path / 'eval'}",
    )
    report, bench = report_of(tmp_path / "eval"), get_benchmark(name)
    assert counted(report) == pixels, "all classes are scored"
    protocol = report["protocol"]
    assert protocol["calibrated"] is False, "no class is calibrated"
    assert (protocol["trained_on"]["benchmark"], protocol["trained_on"]["classes"]) == (
        "coco-stuff",
        156,
    )
    shared = protocol["trained_on"]["shared"]
    assert shared == shared_classes(get_benchmark("coco-stuff").seen, bench.class_names)
    known = [report["iou"][name] for name in shared if report["iou"][name] is not None]
    new = [
        report["iou"][name]
        for name in bench.class_names
        if name not in shared and report["iou"][name] is not None
    ]
    for score, values in (("mIoU_shared", known), ("mIoU_novel", new), ("mIoU", known + new)):
        assert report["scores"][score] == (
            pytest.approx(np.mean(values), abs=1e-3) if values else None
        )
    assert (
        f"{len(shared)} of the {len(bench.class_names)} classes were seen with masks in training on"
        " coco-stuff" in " ".join(capsys.readouterr().out.split())
    )


def test_which_classes_are_shared() -> None:
    training = get_benchmark("coco-stuff").seen
    assert shared_classes(
        training,
        ["pottedplant", "Dining-Table", "sky", "wall", "cow", "building, edifice", "sofa", "desk"],
    ) == ["pottedplant", "Dining-Table", "sky", "wall", "building, edifice", "desk"]
    assert shared_classes(training, CITYSCAPES) == [
        "building",
        "wall",
        "fence",
        "traffic light",
        "sky",
        "person",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]
    assert shared_classes(COCO_STUFF, COCO_STUFF) == list(COCO_STUFF)
    assert shared_classes((), VOC) == []


# ------------------------------------------------------------ more than 253 classes


def test_labels_skip_the_special_values() -> None:
    labels = index_to_label(torch.arange(847))
    assert labels[[0, 252, 253, 846]].tolist() == [0, 252, 256, 849]
    assert not {BACKGROUND, PADDING, IGNORE} & set(labels.tolist())
    assert torch.equal(label_to_index(labels), torch.arange(847))
    assert label_to_index(labels.numpy()).tolist() == list(range(847))
    table = subset_lookup([846, 0, 253])
    assert table[torch.tensor([849, 0, 256, 1, 255, 848])].tolist() == [
        0,
        1,
        2,
        IGNORE,
        IGNORE,
        IGNORE,
    ]


def test_metric_and_best_classes_above_253() -> None:
    scores = torch.zeros(1, 300, 1, 4)
    for column, class_id in enumerate((1, 252, 253, 299)):
        scores[0, class_id, 0, column] = 1
    best = best_rows(given_scores(scores), Resize.none((1, 4)))
    text = TextFeatures(tuple(map(str, range(300))), torch.zeros(300, 2))
    assert labels_of_rows(text, scores.device)[best.row].tolist() == [[[1, 252, 256, 302]]]
    matrix = ConfusionMatrix(300)
    matrix.update(
        torch.tensor([[1, 256, 256, IGNORE, 0]]), torch.tensor([[1, 252, 256, 302, IGNORE]])
    )
    assert [tuple(entry) for entry in matrix.counts.nonzero().tolist()] == [
        (1, 1),
        (252, 253),
        (253, 253),
        (299, 300),
    ]
    with pytest.raises(ValueError, match=r"outside 0\.\.299"):
        matrix.update(torch.tensor([303]), torch.tensor([0]))


def test_colours_above_253() -> None:
    table = label_palette(colours(300))
    assert (table[252], table[256], table[302]) == tuple(colours(300)[i] for i in (252, 253, 299))
    assert table[253] == table[255] == (0, 0, 0)
    assert label_palette(colours(20))[20:] == [(0, 0, 0)] * 236
    assert len(label_palette(colours(253))) == 256
    image, labels = np.zeros((1, 3, 3), dtype=np.uint8), np.array([[302] * 3])
    painted = paint(image, labels, colours(300), DrawSettings(alpha=1.0))
    assert painted[0, 0].tolist() == list(colours(300)[299])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_full_ade20k(
    tmp_path: Path, suffix: str, stuff_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_ade_full(tmp_path / "ADE20K_2021_17_01", suffix=suffix)
    labels = get_benchmark("ade20k-847").data("val", tmp_path)[0].labels
    assert labels[0, ::4].tolist() == [0, 252, 256, 257, 258, 259, 849, IGNORE]
    common = f"--benchmark ade20k-847 --root {root} --options.templates single"
    if suffix == ".tif":
        ids = np.array(Image.open(next(root.glob("annotations/validation/*.tif"))))
        ids[0, 0] = 847
        Image.fromarray(ids).save(root / "annotations" / "validation" / "ADE_00000001.tif")
        assert "holds the id 847; valid are 0 to 846 and 65535 for ignored pixels" in error_of(
            capsys, "evaluate naclip", common, TINY
        )
        return
    run_command(f"evaluate {stuff_run}", common, TINY, f"--out {tmp_path / 'eval'}")
    report = report_of(tmp_path / "eval")
    assert counted(report) == {ADE847[i]: 2 * 16 * 4 for i in FULL[:-1]}
    assert len(report["iou"]) == 847
    assert "building, edifice" in report["protocol"]["trained_on"]["shared"]
    assert (tmp_path / "eval" / "sheet.png").exists()
    assert "847 classes, and a method can be trained on at most 253" in error_of(
        capsys, "train zegclip", common, SMALL, "--options.decoder_heads 2"
    )


def test_large_vocabularies_take_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr("unseen.evaluation.loop.MAPS_AT_ONCE", 150)
    monkeypatch.setattr(
        "unseen.evaluation.protocols.label_maps",
        lambda segmenter, images, *rest, **more: (
            sizes.append(len(images)) or label_maps(segmenter, images, *rest, **more)
        ),
    )
    root = write_ade(tmp_path / "data")
    run_command(
        f"evaluate naclip --benchmark ade20k-150 --root {root}",
        TINY,
        f"--options.templates single --out {tmp_path}",
    )
    assert sizes == [1, 1]
