"""`unseen check`: every kind of broken folder is named, with its files and a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tiny import write_folds, write_own, write_voc
from tiny.commands import error_of, run_command
from unseen.data.benchmarks import get_benchmark
from unseen.data.own.checking import check_data
from unseen.data.own.ids import may_be_shifted
from unseen.data_report import _labelled_image, save_check
from unseen.errors import DataError
from unseen.visualize import sheet


def classes(folder: Path, text: str) -> None:
    (folder / "classes.txt").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_own(tmp_path / "zoo")


def mask(folder: Path, i: int) -> NDArray[np.uint8]:
    return np.array(Image.open(folder / "labels" / f"p {i}.png"))


def keep(folder: Path, i: int, ids: NDArray[Any]) -> None:
    Image.fromarray(ids).save(folder / "labels" / f"p {i}.png")


def lines(folder: Path, level: str = "error") -> list[str]:
    return [
        finding.line()
        for finding in check_data(str(folder), progress=False).findings
        if finding.level == level
    ]


def test_a_sound_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"check {folder} --out {tmp_path / 'out'}")
    about = json.loads((tmp_path / "out" / "check.json").read_text())
    assert about["findings"] == []
    assert (about["train"]["images"], about["val"]["images"]) == (7, 3)
    assert sum(about["val"]["pixels"].values()) == 3 * (20 * 30 - 30)
    assert Image.open(tmp_path / "out" / "sheet.png").width > 400
    out = capsys.readouterr().out
    assert "nothing to correct" in out
    assert "3 seen, 1 unseen" in out


def test_ids_that_are_not_listed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        ids = mask(folder, i)
        ids[3, :2] = 9, 77
        keep(folder, i, ids)
    with pytest.raises(SystemExit) as stopped:
        run_command(f"check {folder} --out {tmp_path / 'out'}")
    assert stopped.value.code == 2
    [line] = lines(folder)
    assert line.startswith("ids that are not on the list of classes (9, 77; valid are 0 to 3): ")
    assert line.endswith(
        "p 2.png and 2 more; add the classes, or set those pixels to the ignored value (255; 65535"
        " with 16 bits)"
    )
    assert (tmp_path / "out" / "sheet.png").exists()
    assert "error" in capsys.readouterr().out


def test_a_single_unlisted_pixel_is_no_background(folder: Path) -> None:
    """A pixel of the id above the last one, in a folder whose ids start at 0."""
    classes(folder, "cat\ndog\ntree # unseen\nsky\n")
    ids = mask(folder, 3)
    ids[0, 0] = 4
    keep(folder, 3, ids)
    [line] = lines(folder)
    assert line.startswith("ids that are not on the list of classes (4; valid are 0 to 3): ")


def test_classes_stored_one_too_low(folder: Path) -> None:
    classes(folder, "background # ignore\ncat\ndog\ntree\nsky # unseen\n")
    assert any(
        "no label map holds 4, the id of the last class, but some hold 0" in line
        for line in lines(folder, "warning")
    )


def test_palettes_that_differ(folder: Path) -> None:
    """The ids are places in palettes that were made for every image alone."""
    for i, colours in ((1, [0, 0, 0, 128, 0, 0, 0, 128, 0]), (2, [0, 0, 0, 0, 128, 0, 128, 0, 0])):
        image = Image.fromarray(np.minimum(mask(folder, i), 2).astype(np.uint8), mode="P")
        image.putpalette(colours)
        image.save(folder / "labels" / f"p {i}.png")
    assert any("palettes give an id another colour" in line for line in lines(folder, "warning"))


def test_half_a_layout(folder: Path) -> None:
    """Loose images beside images/train and images/val, or only one of the two, are reported."""
    for split in ("train", "val"):
        (folder / f"{split}.txt").unlink()
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir()
            (folder / kind / f"p {3 if split == 'train' else 4}.png").rename(
                folder / kind / split / "a.png"
            )
    [line] = lines(folder)
    assert line.startswith("images that are not read")
    assert (
        "and 5 more; put all of them into images/train and images/val, or all into images/" in line
    )
    with pytest.raises(DataError, match="images that are not read"):
        get_benchmark(str(folder)).data("train", None)
    shutil.rmtree(folder / "images" / "val")
    assert any("images that are not read" in line and "train" in line for line in lines(folder))


def test_marks_that_are_nearly_one(folder: Path) -> None:
    for line in ("cat # Unseen", "cat # unseeen", "cat #Ignore"):
        classes(folder, f"dog\n{line}\ntree\nsky\n")
        with pytest.raises(DataError, match="line 2 of .* which is no mark but like one"):
            lines(folder)
    classes(folder, "dog\nC # sharp\ntree\ncat # Unseen # seen\n")
    assert get_benchmark(str(folder)).class_names == ("dog", "C # sharp", "tree", "cat # Unseen")


def test_ids_one_too_high(folder: Path) -> None:
    classes(folder, "background # ignore\ncat\ndog\ntree\n")
    for i in range(10):
        ids = mask(folder, i)
        keep(folder, i, np.where(ids == 255, 255, ids + 1).astype(np.uint8))
    [line] = lines(folder)
    assert line.startswith(
        "ids run from 1 to 4, and no label map holds 0, the background: every id seems to be one"
        " too high: "
    )
    assert "subtract 1 from every id" in line


def test_ids_that_were_blurred(folder: Path) -> None:
    ids = mask(folder, 2)
    ids[:4, :10] = np.arange(40, 80, dtype=np.uint8).reshape(4, 10)
    keep(folder, 2, ids)
    [line] = lines(folder)
    assert "were saved as JPEG" in line


def test_images_with_a_rotation_in_exif(folder: Path) -> None:
    path = folder / "images" / "p 2.png"
    with Image.open(path) as image:
        image.load()
        tags = image.getexif()
        tags[0x0112] = 3
        image.save(path, exif=tags)
    assert any(
        line.startswith("images whose EXIF data ask for a rotation") and "p 2.png" in line
        for line in lines(folder, "warning")
    )


def test_a_background_that_is_not_listed(folder: Path) -> None:
    classes(folder, "cat\ndog\ntree # unseen\n")
    [line] = lines(folder)
    assert (
        "ids run from 0 to 3, but only 3 lines are listed: either a background, id 0, is missing"
        in line
    )
    assert "or 3 as the last" in line
    assert "write 'background # ignore' (not scored) or 'background' (a class)" in line
    assert "add the last class or 'unlabelled # ignore'" in line
    for i in range(10):
        ids = mask(folder, i)
        keep(folder, i, np.where(ids == 0, 255, ids).astype(np.uint8))
    [line] = lines(folder)
    assert "ids run from 1 to 3, but the first of 3 lines has the id 0: either" in line
    classes(folder, "background # ignore\ncat\ndog\ntree # unseen\n")
    assert lines(folder) == []


def test_both_readings_of_doubtful_ids_are_on_the_sheet(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CamVid's eleven classes stand before its unlabelled pixels, not behind a background."""
    classes(folder, "ground\ncat\ndog\n")
    checked = check_data(str(folder), progress=False)
    assert may_be_shifted(checked.survey)
    record = checked.survey.all_records[0]
    stored = np.array(Image.open(record.pair.labels)).astype(int)
    image, labels, others = _labelled_image(checked, record)
    assert np.array_equal(labels, np.where(stored < 3, stored, 255))
    [(name, shifted)] = others.items()
    assert name == "with a background in front"
    assert np.array_equal(shifted, np.where((stored > 0) & (stored < 4), stored - 1, 255))
    assert image.shape[:2] == shifted.shape
    drawn: list[bool] = []

    def draw(*rows: Any, everywhere: bool, **given: Any) -> Image.Image:
        drawn.append(everywhere)
        return sheet(*rows, everywhere=everywhere, **given)

    monkeypatch.setattr("unseen.data_report.sheet", draw)
    assert save_check(checked, folder / "out")
    assert drawn == [True], "pixels without a label in the listed reading have one in the other"
    classes(folder, "ground\ncat\ndog\nunlabelled # ignore\n")
    assert lines(folder) == []
    again = check_data(str(folder), progress=False)
    assert not may_be_shifted(again.survey)
    assert again.survey.class_ids == [0, 1, 2]
    assert sum(again.survey.pixels("train").values()) < sum(
        sum(record.areas.values()) for record in again.survey.records["train"]
    )


def test_classes_without_pixels(folder: Path) -> None:
    classes(folder, "ground\ncat\ndog\ntree # unseen\nyeti\nghost # unseen\n")
    assert lines(folder) == []
    first, second = lines(folder, "warning")
    assert first.startswith("seen classes that no training image shows: yeti; check")
    assert second.startswith(
        "classes that no validation image shows, which cannot be scored: yeti, ghost; check"
    )
    for i in range(7):
        keep(folder, i, np.full((20, 30), 255, dtype=np.uint8))
    assert (
        "no pixel of train is labelled with a class to train on; check label maps, classes.txt and"
        " splits" in lines(folder)
    )
    assert any(
        line.startswith("label maps of train without a labelled pixel") and line.count("p ") == 3
        for line in lines(folder, "warning")
    )


def test_sizes(folder: Path) -> None:
    keep(folder, 8, np.zeros((21, 30), dtype=np.uint8))
    [line] = lines(folder)
    assert (
        "p 8.png (30x21, its image 30x20); make them again at the image's size, with"
        " nearest-neighbour resizing" in line
    )


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_label_maps_saved_with_a_loss(folder: Path, suffix: str) -> None:
    ids = mask(folder, 2)
    (folder / "labels" / "p 2.png").unlink()
    with (folder / "labels" / f"p 2.{suffix}").open("wb") as file:
        Image.fromarray(ids).save(file, format="JPEG")
    [line] = lines(folder)
    assert f"p 2.{suffix}; make them again as PNGs, from the ids" in line
    with pytest.raises(DataError, match="from the ids" if suffix == "png" else "is no PNG or TIFF"):
        get_benchmark(str(folder)).data("train", None)[2]


def test_colours(folder: Path) -> None:
    Image.fromarray(np.repeat(mask(folder, 2)[..., None] * 60, 3, axis=2)).save(
        folder / "labels" / "p 2.png"
    )
    [line] = lines(folder)
    assert line.startswith("label maps that hold colours instead of ids: ")
    assert "p 2.png; replace every colour by its class's id" in line
    Image.fromarray(mask(folder, 3)).convert("P").save(folder / "labels" / "p 2.png")
    assert lines(folder) == [], "palettes hold ids"


def test_leaks(folder: Path) -> None:
    with (folder / "val.txt").open("a") as file:
        file.write("p 0\n")
    shutil.copy(folder / "images" / "p 1.png", folder / "images" / "p 9.png")
    both, same = lines(folder)
    assert both.startswith("images that are in training and in validation: ")
    assert both.endswith("p 0.png; take them out of one of the two")
    assert "in training under another name" in same
    assert same.count("p 9.png") == same.count("p 1.png") == 1
    shutil.copy(folder / "images" / "p 1.png", folder / "images" / "p 2.png")
    assert any("are in train more than once" in line for line in lines(folder, "warning"))


def test_partners_and_lists(folder: Path) -> None:
    (folder / "labels" / "p 1.png").unlink()
    (folder / "images" / "p 2.png").unlink()
    missing, unknown = sorted(lines(folder))
    assert missing.startswith("images without a label map: ")
    assert "p 1.png; save it in labels/ under the image's name" in missing
    assert unknown.startswith("names on lists without an image in images/: p 2 (train.txt); ")
    [line] = lines(folder, "warning")
    assert line.startswith("label maps without an image, which are not used: ")
    with pytest.raises(DataError, match="images without a label map"):
        get_benchmark(str(folder)).data("train", None)


def test_unreadable_files(folder: Path) -> None:
    image, labels = folder / "images" / "p 1.png", folder / "labels" / "p 2.png"
    image.write_bytes(image.read_bytes()[:200])
    labels.write_bytes(b"nothing")
    first, second = lines(folder)
    assert "images that cannot be read" in first
    assert "p 1.png; replace them" in first
    assert "label maps that cannot be read" in second
    assert "p 2.png; make them again" in second


def test_an_empty_split(folder: Path) -> None:
    (folder / "val.txt").write_text("")
    [line] = lines(folder)
    assert line.startswith("there are no labelled images for validation (train.txt and val.txt)")


def test_named_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_voc(tmp_path / "VOC2012", count=20)
    run_command(f"check voc --root {root} --out {tmp_path / 'out'}")
    out = capsys.readouterr().out
    assert "15 seen, 5 unseen" in out
    assert json.loads((tmp_path / "out" / "check.json").read_text())["train"]["images"] == 15
    assert "has no files to check" in error_of(capsys, "check doodles")
    assert "--root" in error_of(capsys, "check voc")
    folds = write_folds(tmp_path / "folds")
    warnings = [
        finding.line()
        for finding in check_data(
            "pascal-5i/0", root=folds, lists=folds.parent / "lists", progress=False
        ).findings
    ]
    assert (
        "classes that no validation image shows, which cannot be scored: boat; check their ids and"
        " spelling, or label some" in warnings
    )
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    [line] = [finding.line() for finding in check_data("voc", root=root, progress=False).errors]
    assert line.startswith("val: ")
    assert "val.txt is missing; `unseen prepare voc` makes PASCAL VOC's lists" in line


def test_the_check_needs_no_tower(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self: pytest.fail("a network was made"))
    assert lines(folder) == []
