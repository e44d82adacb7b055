"""Your own data: the list of classes, splits, every verb on a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tiny import write_own
from tiny.commands import FEW, error_of, run_command
from unseen.api import train
from unseen.data.benchmarks import get_benchmark
from unseen.data.own.checking import check_data
from unseen.data.own.layout import read_classes, read_folder
from unseen.errors import DataError, SettingError
from unseen.labels import BACKGROUND, IGNORE
from unseen.settings import ModelSettings, TrainSettings

SMALL = (
    f"--clip doodles {FEW} --train.transforms.resize null --train.transforms.crop 32 "
    "--train.workers 0"
)


def classes(folder: Path, text: str) -> Path:
    (folder / "classes.txt").write_text(text, encoding="utf-8")
    return folder / "classes.txt"


# -------------------------------------------------------------- list of classes


def test_marks_and_names(tmp_path: Path) -> None:
    listed = read_classes(
        classes(
            tmp_path,
            "\ufeffcat\nsofa   # unseen\nC# sharp\n#1 # unseen\nodd # unseen #"
            " seen\nbus#unseen\n\n",
        )
    )
    assert listed.class_names == ("cat", "sofa", "C# sharp", "#1", "odd # unseen", "bus#unseen")
    assert listed.unseen == ("sofa", "#1")
    assert (listed.background, listed.first_id) == ("ignore", 0)


@pytest.mark.parametrize(
    ("line", "background", "first_id"),
    [
        ("background", "class", 0),
        ("rest # ignore", "ignore", 1),
        ("none # threshold", "threshold", 1),
    ],
)
def test_backgrounds(tmp_path: Path, line: str, background: str, first_id: int) -> None:
    listed = read_classes(classes(tmp_path, f"{line}\ncat\n"))
    assert (listed.background, listed.first_id) == (background, first_id)
    assert listed.class_names == (("cat",) if first_id else ("background", "cat"))


def test_any_id_may_be_no_class(tmp_path: Path) -> None:
    listed = read_classes(classes(tmp_path, "cat\nmaybe # ignore\ndog # unseen\nrest # ignore\n"))
    assert (listed.class_names, listed.unseen) == (("cat", "dog"), ("dog",))
    assert (listed.background, listed.first_id, listed.ignored_ids) == ("ignore", 0, (1, 3))
    behind = read_classes(classes(tmp_path, "back # ignore\ncat\nrest # ignore\n"))
    assert (behind.first_id, behind.ignored_ids, behind.class_names) == (1, (2,), ("cat",))


def test_synonyms_stand_behind_commas(tmp_path: Path) -> None:
    listed = read_classes(classes(tmp_path, 'cat, kitten # unseen\n"table, laid"\nsofa\n'))
    assert listed.class_names == ("cat", "table, laid", "sofa")
    assert listed.synonyms == {"cat": ("cat", "kitten")}
    assert listed.unseen == ("cat",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n\ndog\n", "line 2 of .* holds no class; ids follow from the lines"),
        ("cat\ndog\ncat # unseen\n", r"names 'cat' twice \(line 1 and line 3\)"),
        ("cat\ndog # threshold\n", "line 2 of .* is marked '# threshold', which only the first"),
        ("cat # ignore\ndog # ignore\n", "names no class"),
        ("cat # unseen, kitten\ndog\n", "line 1 of .* has a '#' that ends no line with a mark"),
        ("cat # unseen class\ndog\n", "behind all synonyms, there are no comments"),
        ("# my classes\ndog\n", "there are no comments"),
        ("cat, \ndog\n", "line 1 of .* has an empty name between commas"),
        ('"cat\n', "the double quotes in line 1 of .* are not closed"),
        ("", "names no class"),
        ("background # ignore\n", "names no class"),
    ],
)
def test_lists_that_mean_nothing(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_classes(classes(tmp_path, text))


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_classes(tmp_path / "classes.txt")


# ----------------------------------------------------------------------- splits


def stems(folder: Path, split: str) -> list[str]:
    return [pair.image.stem for pair in read_folder(folder).pairs[split]]


def test_splits_by_lists(tmp_path: Path) -> None:
    write_own(tmp_path)
    names = [f"p {i}" for i in range(10)]
    assert (stems(tmp_path, "train"), stems(tmp_path, "val")) == (names[:7], names[7:])
    (tmp_path / "train.txt").unlink()
    assert (stems(tmp_path, "train"), stems(tmp_path, "val")) == (names[:7], names[7:]), "the rest"
    (tmp_path / "val.txt").unlink()
    train, val = stems(tmp_path, "train"), stems(tmp_path, "val")
    assert sorted(train + val) == names
    assert 1 <= len(val) <= 5
    assert val == stems(tmp_path, "val")


def test_splits_by_folders(tmp_path: Path) -> None:
    write_own(tmp_path)
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (tmp_path / kind / split).mkdir()
        for path in sorted(p for p in (tmp_path / kind).iterdir() if p.is_file()):
            path.rename(
                tmp_path
                / kind
                / ("val" if path.stem in ("p 7", "p 8", "p 9") else "train")
                / path.name
            )
    with pytest.raises(DataError, match=r"has both train\.txt and images/train"):
        read_folder(tmp_path)
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).unlink()
    assert stems(tmp_path, "val") == ["p 7", "p 8", "p 9"]
    assert check_data(str(tmp_path), progress=False).errors == []


def test_ids_and_ignored_pixels(tmp_path: Path) -> None:
    data = get_benchmark(str(write_own(tmp_path))).data("val", None)
    assert data[0].labels.unique().tolist() == [0, 1, 2, 3, IGNORE]
    classes(tmp_path, "nothing # ignore\ncat\ndog\ntree # unseen\n")
    bench = get_benchmark(str(tmp_path))
    assert (bench.class_names, bench.unseen, bench.background) == (
        ("cat", "dog", "tree"),
        ("tree",),
        "ignore",
    )
    assert bench.data("val", None)[0].labels.unique().tolist() == [0, 1, 2, IGNORE]
    classes(tmp_path, "nothing # threshold\ncat\ndog\ntree # unseen\n")
    assert get_benchmark(str(tmp_path)).data("val", None)[0].labels.unique().tolist() == [
        0,
        1,
        2,
        BACKGROUND,
        IGNORE,
    ]
    assert get_benchmark(str(tmp_path)).scored_names == ("cat", "dog", "tree", "background")


def test_label_maps_with_16_bits(tmp_path: Path) -> None:
    write_own(tmp_path)
    classes(tmp_path, "".join(f"class {i}\n" for i in range(300)))
    ids = np.full((20, 30), 65535, dtype=np.uint16)
    ids[0, :5] = [0, 252, 253, 255, 299]
    Image.fromarray(ids).save(tmp_path / "labels" / "p 7.png")
    labels = get_benchmark(str(tmp_path)).data("val", None)[0].labels
    assert labels[0, :6].tolist() == [0, 252, 256, 258, 302, IGNORE]
    with pytest.raises(
        SettingError, match="has 300 classes, and a method can be trained on at most 253"
    ):
        train(
            ModelSettings("zegclip", options={"num_prompts": 2}),
            TrainSettings(steps=1),
            str(tmp_path),
            tmp_path / "run",
            progress=False,
        )


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=(
            r"classes\.txt does not exist; your folder needs images/, labels/ and"
            r" classes\.txt"
        ),
    ):
        get_benchmark(str(tmp_path))
    classes(tmp_path, "cat\n")
    with pytest.raises(DataError, match="has no folder images/; put images"):
        get_benchmark(str(tmp_path))
    write_own(tmp_path)
    with pytest.raises(SettingError, match="leave --root away"):
        get_benchmark(str(tmp_path)).data("val", tmp_path / "images")
    with pytest.raises(
        SettingError, match="or give a folder with images/, labels/ and classes.txt"
    ):
        get_benchmark("nowhere")
    with pytest.raises(
        DataError, match="nowhere does not exist; where it has moved, name it with --benchmark"
    ):
        get_benchmark(str(tmp_path / "nowhere"))


# ------------------------------------------------------------------------ verbs


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def test_train_evaluate_and_eigenvectors_on_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_own(tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    run_command("train zegclip --benchmark zoo", SMALL, "--options.decoder_heads 2")
    run = tmp_path / "runs" / "zegclip-zoo"
    assert "num_prompts: 10" in (run / "config.yaml").read_text(), (
        "from the recipe for a user's data"
    )
    run_command(f"evaluate {run} --out own --inference.short_side 64")
    report = report_of(tmp_path / "own")
    assert report["protocol"]["calibrated"] is True
    assert report["protocol"]["background"] == "ignore"
    assert report["protocol"]["unseen"] == ["tree"]
    counted = sum(
        int((np.array(Image.open(data / "labels" / f"p {i}.png")) != 255).sum()) for i in (7, 8, 9)
    )
    assert (
        report["pixels"]
        == sum(map(sum, report["confusion"]["pixels"]))
        == counted
        == 3 * (20 * 30 - 30)
    )
    data.rename(tmp_path / "moved")
    run_command(f"evaluate {run} --benchmark moved --inference.short_side 64")
    assert report_of(run / "eval-moved")["protocol"]["calibrated"] is True, (
        "the same classes elsewhere"
    )
    assert report_of(run / "eval-moved")["scores"] == report["scores"]
    run_command("evaluate naclip --benchmark moved --inference.short_side 64")
    assert (tmp_path / "runs" / "naclip-moved" / "sheet.png").exists()
    run_command("eigenvectors moved --out segments --count 2")
    assert sorted(path.stem for path in (tmp_path / "segments").glob("*.safetensors")) == [
        "p 7",
        "p 8",
        "p 9",
    ]
    assert "Traceback" not in capsys.readouterr().err


def test_a_scored_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_own(tmp_path / "zoo")
    classes(data, "nothing # threshold\ncat\ndog\ntree # unseen\n")
    call = f"evaluate naclip --benchmark {data} --inference.short_side 64 --out {tmp_path / 'out'}"
    assert (
        "scores the background, which is where no class is confident; give the least confidence"
        " with --threshold" in error_of(capsys, call)
    )
    run_command(call, "--threshold 1")
    report = report_of(tmp_path / "out")
    pixels = np.array(report["confusion"]["pixels"])
    assert report["confusion"]["rows"] == ["cat", "dog", "tree", "background"]
    assert pixels[:, 3].sum() == pixels.sum() == report["pixels"] == 3 * (20 * 30 - 30), (
        "no class is that confident"
    )
    assert pixels[3].sum() == sum(
        int((np.array(Image.open(data / "labels" / f"p {i}.png")) == 0).sum()) for i in (7, 8, 9)
    )
    assert report["iou"]["background"] == pytest.approx(
        100 * pixels[3].sum() / pixels.sum(), abs=1e-3
    )
    assert report["scores"]["mIoU"] == pytest.approx(report["iou"]["background"] / 4, abs=1e-3)
    assert report["scores"]["mIoU_S"] == 0
    run_command(call, "--threshold 0")
    assert np.array(report_of(tmp_path / "out")["confusion"]["pixels"])[:, 3].sum() == 0
