"""The verb `segment` and its twin in Python: results, class names, images and places to write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unseen
from tiny.commands import error_of, run_command
from unseen.backbones.clip.loading import load_clip
from unseen.errors import SettingError, VocabularyError
from unseen.segmentation import Segmentation
from unseen.vocabulary import Vocabulary


def test_segment(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"segment {photo} --classes 'tree, fish ,red house' --out {tmp_path / 'out'}")
    labels = Image.open(tmp_path / "out" / "photo.png")
    assert labels.mode == "P"
    assert labels.size == (80, 60)
    ids = np.array(labels)
    assert set(np.unique(ids)) <= {0, 1, 2}
    about = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert [entry["name"] for entry in about["classes"]] == ["tree", "fish", "red house"]
    for entry in about["classes"]:
        assert entry["share"] == pytest.approx((ids == entry["id"]).mean(), abs=1e-6)
    assert (tmp_path / "out" / "photo.overlay.png").exists()
    assert "photo.jpg" in capsys.readouterr().out


def test_segment_with_a_run_and_python(run: Path, photo: Path, tmp_path: Path) -> None:
    run_command(
        f"segment {photo} --classes tree,kite --model {run} --out {tmp_path / 'out'}",
        "--threshold 0.9999",
    )
    assert (np.array(Image.open(tmp_path / "out" / "photo.png")) == 255).all()
    model = unseen.load(str(run))
    result = model.segment(photo, ["tree", "kite"])
    assert result.unseen == ("kite",)
    assert result.labels.shape == (60, 80)
    assert result.mask("tree").sum() + result.mask("kite").sum() == 60 * 80
    again = model.segment(Image.open(photo), ["tree", "kite"])
    assert (again.labels == result.labels).all()
    quick = unseen.segment(np.array(Image.open(photo)), ["tree"])
    assert quick.shares == {"tree": 1.0}
    assert unseen.list_methods()[0] == "clip"
    assert "doodles" in unseen.list_benchmarks()


def test_a_bad_image_does_not_end_a_folder(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(photo.read_bytes()[:300])
    error = error_of(capsys, f"segment {tmp_path} --classes tree,fish --out {tmp_path / 'out'}")
    assert "bad.jpg cannot be read" in error
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "index.csv",
        "job.json",
        "photo.json",
        "photo.overlay.png",
        "photo.png",
    ]


def test_class_names_with_commas_and_names_the_tower_does_not_know(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out {tmp_path / 'out'}"
    run_command(f"segment {photo}", """--classes 'tree, "house, red"'""", out)
    names = [
        entry["name"]
        for entry in json.loads((tmp_path / "out" / "photo.json").read_text())["classes"]
    ]
    assert names == ["tree", "house, red"]
    assert capsys.readouterr().err == ""
    run_command(f"segment {photo} --classes 'tree, sofa'", out)
    assert "cannot recognise 'sofa'" in capsys.readouterr().err
    assert "are not closed" in error_of(
        capsys, f"segment {photo}", """--classes 'tree, "house, red'""", out
    )


def test_a_class_file_with_synonyms_and_words_for_the_background(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--words` of version 0.1 is `--classes`, and a file is its classes, not its name."""
    words, out = tmp_path / "words.txt", tmp_path / "out"
    words.write_text("tree, wood\nfish\n")
    for flag in ("--classes", "--words"):
        run_command(f"segment {photo} {flag} {words} --out {out} --combine max")
        stored = json.loads((out / "photo.json").read_text())["classes"]
        assert [entry["name"] for entry in stored] == ["tree", "fish"]
    both = Vocabulary(("tree", "fish"), {"tree": ("tree", "wood")}, "max")
    labels = np.array(Image.open(out / "photo.png"))
    assert np.array_equal(unseen.load("naclip").segment(photo, both).labels, labels)
    run_command(f"segment {photo} --classes fish --out {out} --background-words 'tree, key'")
    behind = np.array(Image.open(out / "photo.png"))
    words_too = Vocabulary(("fish",), background=("tree", "key"))
    assert np.array_equal(behind, unseen.load("naclip").segment(photo, words_too).labels)
    assert (behind == 255).any()
    capsys.readouterr()
    missing = error_of(capsys, f"segment {photo} --classes {tmp_path / 'nothing.txt'}")
    assert "nothing.txt is no class file; give a text file with a class a line" in missing
    words.write_text("tree\ntree\n")
    assert "names 'tree' twice" in error_of(capsys, f"segment {photo} --classes {words}")
    words.write_text("tree # unseen\nnothing # ignore\nfish\n")
    run_command(f"segment {photo} --classes {words} --out {out}")
    stored = json.loads((out / "photo.json").read_text())["classes"]
    assert [entry["name"] for entry in stored] == ["tree", "fish"], "marks are no names"


def test_vectors_of_the_classes_from_a_file(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = load_clip("doodles")
    np.save(tmp_path / "rows.npy", clip.encode_names(["tree", "fish"], ["a photo of a {}"]).numpy())
    run_command(f"segment {photo} --classes tree,fish --out {tmp_path / 'tower'}")
    flags = f"--text-embeddings {tmp_path / 'rows.npy'}"
    run_command(f"segment {photo} --classes tree,fish --out {tmp_path / 'file'} {flags}")
    maps = [np.array(Image.open(tmp_path / name / "photo.png")) for name in ("tower", "file")]
    assert np.array_equal(*maps)
    assert "but 3 classes of width 128 are needed" in error_of(
        capsys, f"segment {photo} --classes a,b,c {flags}"
    )
    assert "does not exist" in error_of(
        capsys, f"segment {photo} --classes a --text-embeddings {tmp_path / 'no.npy'}"
    )


def test_python_refuses_like_the_command_line(
    run: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = unseen.load(str(run))
    with pytest.raises(SettingError, match="threshold is 3"):
        model.segment(photo, ["tree"], threshold=3)
    with pytest.raises(SettingError, match=r"names is \[1, 2\]; give a list with a text for each"):
        model.segment(photo, [1, 2])  # type: ignore[list-item]
    with pytest.raises(VocabularyError, match="one string, 'tree'; give a list"):
        model.segment(photo, "tree")
    with pytest.raises(VocabularyError, match="254 classes are more .* give at most 253"):
        model.segment(photo, [f"tree {i}" for i in range(254)])
    with pytest.raises(SettingError, match="'tpu9' is not available here"):
        unseen.load("naclip", device="tpu9")
    assert "has a tower of its own" in error_of(
        capsys, f"segment {photo} --classes tree --model {run} --clip doodles"
    )
    assert "is a folder" in error_of(capsys, f"convert zegclip {run} --benchmark voc")
    assert "is not a file of weights" in error_of(
        capsys, f"convert zegclip {photo} --benchmark voc"
    )


def test_bad_class_names(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out {tmp_path / 'out'}"
    assert "empty" in error_of(capsys, f"segment {photo} --classes ''", out)
    assert "'tree' is in the list twice" in error_of(
        capsys, f"segment {photo} --classes tree,fish,tree", out
    )
    assert "reads at most 77" in error_of(
        capsys, f"segment {photo} --classes '{'tree ' * 90}'", out
    )
    assert "class 2" in error_of(capsys, f"segment {photo} --classes tree,,fish", out)
    assert "at most 253" in error_of(
        capsys, f"segment {photo} --classes", ",".join(f"c{i}" for i in range(254)), out
    )
    assert not (tmp_path / "out").exists()


def test_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.jpg").write_text("not an image")
    (tmp_path / "empty").mkdir()
    error = error_of(capsys, f"segment {tmp_path / 'no.jpg'} --classes tree")
    assert "there is no image or folder" in error
    assert "notes.jpg" in error_of(capsys, f"segment {tmp_path / 'notes.jpg'} --classes tree")
    assert "holds no images" in error_of(capsys, f"segment {tmp_path / 'empty'} --classes tree")


def test_no_place_to_write(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in error_of(
        capsys, f"segment {photo} --classes tree --out {tmp_path / 'file' / 'out'}"
    )


def test_results_never_replace_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert "choose another folder" in error_of(
        capsys, f"segment {tmp_path / 'a.png'} --classes tree --out {tmp_path}"
    )
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_full_disk_leaves_nothing_behind(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    def full(self: Image.Image, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        error = error_of(capsys, f"segment {photo} --classes tree --out {tmp_path / 'out'}")
    assert "No space left on device" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_a_list_of_images_and_tensors(photo: Path) -> None:
    model = unseen.load("naclip")
    pixels = np.array(Image.open(photo))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [photo, str(photo), Image.open(photo), pixels, tensor, tensor / 255]
    one = model.segment(photo, ["tree", "fish"])
    results = model.segment(kinds, ["tree", "fish"])
    assert len(results) == len(kinds)
    for result in results:
        assert (result.labels == one.labels).all()
    assert model.segment([], ["tree"]) == []


def test_label_maps_for_other_libraries() -> None:
    """As transformers' pipeline returns them, and as supervision draws them."""
    pytest.importorskip("supervision")
    labels = np.full((6, 8), 255, dtype=np.uint8)
    labels[:2, :3] = labels[4:, 5:] = 0
    labels[3, 2] = 2
    confidence = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    image = np.zeros((6, 8, 3), dtype=np.uint8)
    result = Segmentation(image, ("tree", "fish", "kite"), labels, confidence)
    entries = result.to_transformers()
    assert [entry["label"] for entry in entries] == ["tree", "kite"]
    for entry, label in zip(entries, (0, 2), strict=True):
        assert entry["mask"].mode == "L"
        assert (np.array(entry["mask"]) == 255 * (labels == label)).all()
        assert entry["score"] == pytest.approx(confidence[labels == label].mean())
    found = result.to_supervision()
    assert found.class_id.tolist() == [0, 0, 2]
    assert found.data["class_name"].tolist() == ["tree", "tree", "kite"]
    assert found.mask.sum(axis=(1, 2)).tolist() == [6, 6, 1]
    assert found.confidence[2] == confidence[3, 2]
    assert found.xyxy[:2].tolist() == [[0, 0, 2, 1], [5, 4, 7, 5]]
    assert len(found.with_nms(0.5)) == 3
    nothing = Segmentation(image, ("tree",), np.full_like(labels, 255), confidence)
    assert nothing.to_transformers() == []
    assert len(nothing.to_supervision()) == 0


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    labels = np.zeros((2, 2), dtype=np.uint8)
    result = Segmentation(
        np.zeros((2, 2, 3), np.uint8), ("a",), labels, np.ones((2, 2), np.float32)
    )
    with pytest.raises(SettingError, match="pip install supervision"):
        result.to_supervision()
