"""Labelling many images: which they are, how their results are named."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unseen
from tiny.commands import error_of, run_command
from unseen import predictor
from unseen.errors import DataError, SettingError, UnseenError
from unseen.files import write_labels
from unseen.images import read_pixels
from unseen.inference import LabelMaps, label_maps
from unseen.labelling import whole
from unseen.labelling.sources import Item, Shard, find_items
from unseen.labelling.whole import WholeJob
from unseen.predictor import Predictor
from unseen.segmentation import Segmentation
from unseen.segmenter import TextFeatures


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_of(*places: str | Path, recursive: bool = False) -> list[str]:
    return [item.name for item in find_items(places, recursive=recursive)]


# ------------------------------------------------------------------- what is given


def test_images_and_folders_in_order_and_once(tmp_path: Path) -> None:
    touch(tmp_path, "z.dat", "folder/b.JPG", "folder/a.png", "folder/in/c.webp")
    places = [tmp_path / "z.dat", tmp_path / "folder", tmp_path / "folder" / "." / "a.png"]
    assert names_of(*places) == ["z", "a", "b"]
    assert names_of(*places, recursive=True) == ["z", "a", "b", "in/c"]
    assert [item.path.name for item in find_items(places)] == ["z.dat", "a.png", "b.JPG"]
    assert find_items([]) == []


def test_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "1/left.png", "1/right.png", "2/left.png", "2/in/left.png", "x[1].png")
    assert names_of(f"{tmp_path}/*/right.png") == ["1/right"]
    assert names_of(f"{tmp_path}/*/left.png") == ["1/left", "2/left"]
    assert names_of(f"{tmp_path}/**/left.png") == ["1/left", "2/in/left", "2/left"]
    assert names_of(tmp_path / "x[1].png") == ["x[1]"]
    with pytest.raises(DataError, match=r"no image is named as '.*up\*' says"):
        find_items([f"{tmp_path}/up*"])


def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a b.jpg", "c.png")
    lines = f"{tmp_path / 'c.png'}\n\n  {tmp_path / 'a b.jpg'}  \n"
    (tmp_path / "list.txt").write_text(lines, encoding="utf-8")
    assert names_of(tmp_path / "list.txt") == ["c", "a b"]
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert names_of("-") == ["c", "a b"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(DataError, match="standard input names no images"):
        find_items(["-"])
    (tmp_path / "list.txt").write_text("no.jpg", encoding="utf-8")
    assert names_of(tmp_path / "list.txt") == ["no"]


def test_a_list_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is missing does not stop the others."""
    files = photographs(tmp_path, 40)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path / 'no.jpg'}\n{files[0]}\n"))
    error = error_of(capsys, f"segment - --classes boat,tree --out {tmp_path / 'out'}")
    assert "no.jpg does not exist" in error
    assert (tmp_path / "out" / "0.json").exists()


def test_what_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    with pytest.raises(DataError, match=r"no image or folder .*no\.jpg; check the path"):
        find_items([tmp_path / "no.jpg"])
    with pytest.raises(DataError, match="holds no images .* with --recursive"):
        find_items([tmp_path])
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(DataError, match="check the path"):
        find_items([tmp_path / "loop.png"])


def test_results_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "out").mkdir()
    write_labels(tmp_path / "out" / "a.png", np.zeros((2, 2), dtype=np.uint8), [(0, 0, 0)])
    assert names_of(tmp_path, recursive=True) == ["a"]
    with pytest.raises(DataError, match="out holds results alone, and no images"):
        find_items([tmp_path / "out"])


# -------------------------------------------------------------- names of results


def test_folders_and_suffixes_tell_images_apart(tmp_path: Path) -> None:
    touch(tmp_path, "x/1/a.png", "y/1/a.png", "y/1/a.jpg", "y/1/b.png")
    assert names_of(tmp_path / "x", tmp_path / "y", recursive=True) == [
        "x/1/a.png",
        "1/a.jpg",
        "y/1/a.png",
        "1/b",
    ]
    assert names_of(tmp_path / "x/1", tmp_path / "y/1/a.jpg") == ["x/1/a", "y/1/a"]


def test_results_of_one_image_are_never_those_of_another(tmp_path: Path) -> None:
    """a.png and a.overlay.png would both write a.overlay.png."""
    touch(tmp_path, "a.png", "a.overlay.png")
    items = find_items([tmp_path])
    assert [item.name for item in items] == ["a.overlay.png", "a.png"]
    results = [result for item in items for result in item.results(tmp_path)]
    assert len(set(results)) == 6


# ------------------------------------------------------------------------- a job


def label(
    model: Predictor, text: TextFeatures, files: list[Path], out: Path, batch: int = 1
) -> list[tuple[Path, Mapping[str, Any] | UnseenError]]:
    job = WholeJob(model, text, out, batch=batch)
    return [(item.path, result) for item, result in job.run(find_items(files))]


def test_files_are_labelled_in_order_while_others_are_read_and_written(tmp_path: Path) -> None:
    for name, side in (("a", 40), ("b", 50), ("d", 60)):
        pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    model = unseen.load("naclip")
    text = model.encode(["boat", "key"])
    files = [tmp_path / f"{name}.png" for name in "abcd"]
    found = label(model, text, files, tmp_path / "out")
    assert [file for file, _ in found] == files
    for file, result in found:
        if file.stem == "c":
            assert isinstance(result, DataError)
            continue
        assert not isinstance(result, UnseenError)
        wanted = model.segment_encoded(file, text)
        assert result == wanted.as_dict()
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / file.name)), wanted.labels)
    assert not (tmp_path / "out" / "c.png").exists()
    assert label(model, text, [], tmp_path / "out") == []


def test_the_next_image_is_read_before_the_network_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, read = [tmp_path / f"{number}.png" for number in range(3)], {}
    for file in files:
        Image.new("RGB", (20, 20), (9, 9, 9)).save(file)
        read[file] = threading.Event()
    model = unseen.load("naclip")
    text, computed = model.encode(["boat"]), []

    def reading(file: Path) -> np.ndarray:
        read[file].set()
        return read_pixels(file)

    def computing(*given: Any, **named: Any) -> LabelMaps:
        # Without reading ahead this waits in vain.
        assert read[files[min(len(computed) + 1, 2)]].wait(20)
        computed.append(given)
        return label_maps(*given, **named)

    monkeypatch.setattr(whole, "read_pixels", reading)
    monkeypatch.setattr(predictor, "label_maps", computing)
    assert len(label(model, text, files, tmp_path / "out")) == 3


def test_what_fails_while_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.new("RGB", (20, 20), (9, 9, 9)).save(file)
    model = unseen.load("naclip")
    text, save = model.encode(["boat"]), Segmentation.save

    def saving(self: Segmentation, folder: Path, stem: str) -> dict[str, Any]:
        if stem == "1":
            raise DataError("no space")
        return save(self, folder, stem)

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "save", saving)
        found = dict(label(model, text, files, tmp_path / "out"))
    assert [isinstance(found[file], DataError) for file in files] == [False, True, False]
    with pytest.raises(SettingError, match="threshold is 7"):
        WholeJob(model, text, tmp_path / "out", threshold=7.0)
    # Closed early, it leaves whole results.
    some = WholeJob(model, text, tmp_path / "early").run(find_items(files))
    assert next(iter(some))[0].path == files[0]
    some.close()  # type: ignore[attr-defined]
    assert (tmp_path / "early" / "0.json").exists()
    assert not [path for path in (tmp_path / "early").iterdir() if path.name.startswith(".")]
    # A bug in the third does not hide the second.
    calls: list[Any] = []
    told: list[Path] = []

    def failing(*given: Any, **named: Any) -> LabelMaps:
        calls.append(given)
        if len(calls) == 3:
            raise ZeroDivisionError
        return label_maps(*given, **named)

    monkeypatch.setattr(predictor, "label_maps", failing)
    outcomes = WholeJob(model, text, tmp_path / "bug").run(find_items(files))
    with pytest.raises(ZeroDivisionError):
        told.extend(item.path for item, _ in outcomes)
    assert told == files[:2]


def photographs(folder: Path, *sides: int) -> list[Path]:
    """Images of noise, squares of these sides."""
    folder.mkdir(exist_ok=True)
    files = []
    for number, side in enumerate(sides):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        files.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def test_images_of_one_size_are_computed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = photographs(tmp_path, 40, 40, 40, 50, 40)
    (tmp_path / "3.5.png").write_bytes(b"no image")
    files.insert(4, tmp_path / "3.5.png")
    model = unseen.load("naclip", inference={"precision": "32-true"})
    text = model.encode(["boat", "key"])
    alone = dict(label(model, text, files, tmp_path / "alone"))
    sizes = []

    def counted(segmenter: Any, images: Any, *given: Any, **named: Any) -> LabelMaps:
        sizes.append(len(images))
        return label_maps(segmenter, images, *given, **named)

    monkeypatch.setattr(predictor, "label_maps", counted)
    together = dict(label(model, text, files, tmp_path / "together", batch=2))
    assert sizes == [2, 1, 1, 1]
    for file in files:
        one, other = alone[file], together[file]
        if file.stem == "3.5":
            assert isinstance(one, DataError)
            assert isinstance(other, DataError)
            continue
        assert not isinstance(one, UnseenError)
        assert not isinstance(other, UnseenError)
        assert one["margin"] == pytest.approx(other["margin"], abs=2e-4)
        maps = [
            np.asarray(Image.open(tmp_path / place / file.name)) for place in ("alone", "together")
        ]
        assert (maps[0] == maps[1]).mean() > 0.99  # sums are rounded otherwise in batches


def test_what_is_done_stays_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path, 40, 50, 60)
    line = f"segment {tmp_path} --classes boat,key --out {tmp_path / 'out'}"
    run_command(line)
    assert "labelled 3 images" in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    # Another image, a changed one, a result that was lost.
    photographs(tmp_path, 40, 50, 60, 70)
    (tmp_path / "out" / "1.overlay.png").unlink()
    Image.new("RGB", (44, 44)).save(tmp_path / "2.png")
    for file in (tmp_path / "0.png", tmp_path / "1.png"):
        content = json.loads((tmp_path / "out" / f"{file.stem}.json").read_text())
        os.utime(file, ns=(content["image"]["changed"], content["image"]["changed"]))
    run_command(line)
    assert "labelled 3 images" in (told := capsys.readouterr().out)
    assert "1 had been labelled with the same settings" in told
    for path, stamp in stamps.items():
        assert (path.stat().st_mtime_ns == stamp) == (path.name in ("0.png", "0.overlay.png"))
    for again in ("", "--again", "--threshold 0.1", "--inference.short_side 64"):
        run_command(f"{line} {again}")
        count = 4 if again else 0
        assert f"labelled {count} images" in capsys.readouterr().out
    # Results of another version are made again.
    content = json.loads((tmp_path / "out" / "0.json").read_text())
    (tmp_path / "out" / "0.json").write_text(json.dumps({**content, "format": 2}, indent=1))
    run_command(f"{line} --inference.short_side 64")
    assert "labelled 1 image in" in capsys.readouterr().out


def test_a_first_class_with_a_comma(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The index is known again, and tells the job that was last, as a table of Parquet does."""
    pytest.importorskip("pyarrow")
    photographs(tmp_path, 40, 50)
    line = f"segment {tmp_path} --out {tmp_path / 'out'}"
    for _ in range(2):
        run_command(line, """--classes '"table, laid", cat' --parquet""")
    assert "2 had been labelled" in capsys.readouterr().out
    run_command(line, "--classes dog,cat")
    from pyarrow.parquet import read_table

    assert "share of dog" in read_table(tmp_path / "out" / "index.parquet").column_names
    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(SystemExit):
        run_command(line, "--classes bird,cat")
    table = read_table(tmp_path / "out" / "index.parquet")
    assert (table.num_rows, table.column_names[-2]) == (0, "share of bird")


def test_every_result_says_what_it_was_made_with(run: Path, tmp_path: Path) -> None:
    photographs(tmp_path, 40, 50)
    out = tmp_path / "out"
    run_command(
        f"segment {tmp_path} --classes 'boat, key' --model {run} --out {out} --threshold 0.2"
    )
    told = json.loads((out / "1.json").read_text())
    assert told["image"]["file"] == str(tmp_path / "1.png")
    assert told["image"]["bytes"] == (tmp_path / "1.png").stat().st_size
    made_with = told["made_with"]
    assert made_with["vocabulary"]["names"] == ["boat", "key"]
    assert made_with["threshold"] == 0.2
    assert (made_with["model"]["method"], made_with["model"]["run"]) == ("zegclip", run.name)
    assert len(made_with["model"]["weights"]) == 16
    assert made_with["model"]["towers"]["clip"]["source"] == "doodles"
    assert made_with == {
        key: value
        for key, value in json.loads((out / "job.json").read_text()).items()
        if key != "about"
    }
    with Image.open(out / "1.png") as labels:
        in_file = json.loads(labels.info["unseen"])
    assert in_file == {"image": told["image"], **made_with}


def test_the_index_names_the_least_sure_first(tmp_path: Path) -> None:
    photographs(tmp_path, 40, 50, 60)
    out = tmp_path / "out"
    run_command(f"segment {tmp_path} --classes boat,key --out {out}")
    head, *rows = csv.reader((out / "index.csv").read_text().splitlines())
    assert head == [
        *["image", "result", "height", "width", "margin", "entropy", "no_class"],
        *["share of boat", "share of key"],
    ]
    # One that can no longer be read is not in it, though its former results are there.
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        run_command(f"segment {tmp_path} --classes boat,key --out {out}")
    assert len((out / "index.csv").read_text().splitlines()) == 3
    margins = [float(row[4]) for row in rows]
    assert margins == sorted(margins)
    assert {row[1] for row in rows} == {"0.png", "1.png", "2.png"}
    for row in rows:
        told = json.loads((out / row[1]).with_suffix(".json").read_text())
        assert [float(row[4]), float(row[5])] == [told["margin"], told["entropy"]]
        assert float(row[7]) + float(row[8]) == pytest.approx(1)
    only = unseen.segment(tmp_path / "0.png", ["boat"])
    assert (only.margin, only.entropy) == (pytest.approx(1), pytest.approx(0, abs=1e-6))


def test_many_images_have_a_bar_instead_of_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unseen.cli.images.FEW", 2)
    photographs(tmp_path, 40, 50, 60)
    run_command(f"segment {tmp_path} --classes boat,key --out {tmp_path / 'out'}")
    said = capsys.readouterr()
    assert said.out.startswith("labelled 3 images in ")
    assert len(said.out.splitlines()) == 1


def test_a_result_can_be_saved_when_its_image_has_gone(tmp_path: Path) -> None:
    (file,) = photographs(tmp_path, 40)
    result = unseen.segment(file, ["boat", "key"])
    file.unlink()
    result.save(tmp_path / "out", "0")
    assert json.loads((tmp_path / "out" / "0.json").read_text())["image"]["file"] == str(file)


# ------------------------------------------------------------------------- shards


def test_parts_of_a_job(tmp_path: Path) -> None:
    """Each image is in one part, and stays there when others come."""
    items = [Item(tmp_path / f"{i}.png", f"in/{i}") for i in range(200)]
    parts = [Shard(i, 4).part(items) for i in range(4)]
    assert sorted(item.name for part in parts for item in part) == sorted(i.name for i in items)
    assert all(30 < len(part) < 70 for part in parts)
    assert Shard(2, 4).part(items[::2]) == [item for item in parts[2] if item in items[::2]]
    assert Shard().part(items) == items
    assert Shard.of("3/16") == Shard(3, 16)
    for text in ("4/4", "1", "-1/4", "a/b", "0/0", "1/4/2", "1.0/4"):
        with pytest.raises(SettingError, match="--shard is"):
            Shard.of(text)


def test_shards_make_what_one_process_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photos", 40, 44, 48, 52, 56)
    words = f"segment {tmp_path / 'photos'} --classes boat,tree --out"
    run_command(f"{words} {tmp_path / 'whole'}")
    for index in (2, 0, 1):
        run_command(f"{words} {tmp_path / 'parts'} --shard {index}/3")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    made = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert [name for name in made if name != ".index.lock"] == names
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    error = error_of(capsys, f"{words} {tmp_path / 'parts'} --shard 0/3 --to coco")
    assert "call unseen export-labels when all parts are done" in error


# ------------------------------------------------------------------- other results


def test_results_of_another_image_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless it has gone, or moved with its folder."""
    photographs(tmp_path / "a", 40)
    photographs(tmp_path / "b", 44)
    words, out = f"--classes boat,tree --out {tmp_path / 'out'}", tmp_path / "out" / "0.json"
    run_command(f"segment {tmp_path / 'a'} {words}")
    before = out.read_bytes()
    error = error_of(capsys, f"segment {tmp_path / 'b'} {words}")
    assert f"0.json is of another image, {tmp_path / 'a' / '0.png'}" in error
    assert out.read_bytes() == before
    run_command(f"segment {tmp_path / 'a' / '.' / '0.png'} {words} --threshold 0.5")
    (tmp_path / "a").rename(tmp_path / "c")
    run_command(f"segment {tmp_path / 'c'} {words}")
    capsys.readouterr()
    run_command(f"segment {tmp_path / 'c'} --classes boat --out {tmp_path / 'one'}")
    assert "'boat' is the only class, so every pixel gets it" in capsys.readouterr().err


def test_an_index_as_parquet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows and columns as the CSV, with types."""
    parquet = pytest.importorskip("pyarrow.parquet")
    photographs(tmp_path / "photos", 40, 44)
    words = f"segment {tmp_path / 'photos'} --classes boat,tree --out {tmp_path / 'out'} --parquet"
    run_command(words)
    run_command(words)  # it replaces its own
    table = parquet.read_table(tmp_path / "out" / "index.parquet")
    with (tmp_path / "out" / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert table.column_names == rows[0]
    told = [[str(value) for value in row.values()] for row in table.to_pylist()]
    assert told == rows[1:]
    assert str(table.schema.field("height").type) == "int64"
    for content in (b"mine", None):
        other = tmp_path / "out" / "index.parquet"
        if content is None:
            parquet.write_table(table.replace_schema_metadata({}), other)
        else:
            other.write_bytes(content)
        before = other.read_bytes()
        assert "index.parquet exists and was not written by unseen" in error_of(capsys, words)
        assert other.read_bytes() == before
    monkeypatch.setattr("unseen.cli.segment_flags.find_spec", lambda _: None)
    assert "pip install 'unseen[parquet]'" in error_of(capsys, words)
