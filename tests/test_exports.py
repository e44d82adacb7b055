"""Label maps in the formats of other tools, read back by these tools themselves."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

import unseen
from tiny.commands import error_of, run_command
from unseen.exports.formats import FORMATS
from unseen.exports.runs import brush_bytes, coco_mask, coco_runs, coco_text, run_lengths
from unseen.exports.yolo import one_ring, regions
from unseen.files import file_state
from unseen.labelling.results import find_results
from unseen.segmentation import Segmentation
from unseen.settings import ExportSettings

cv2 = pytest.importorskip("cv2")
datumaro = pytest.importorskip("datumaro")
brush = pytest.importorskip("label_studio_sdk.converter.brush")
decode_rle, encode_rle = brush.decode_rle, brush.encode_rle

NAMES = ("cat", 'a "sofa", old', "<b>größe</b> 猫", "tree")
MASK = np.zeros((4, 5), dtype=bool)
MASK[1, 2:4] = MASK[2, 1:3] = True
"""The mask of the specification."""
Labels = NDArray[np.uint8]


def blobs(height: int, width: int, seed: int) -> Labels:
    """A label map of smooth regions with holes, and one class missing."""
    rng = np.random.default_rng(seed)
    noise = rng.random((4, height // 8 + 1, width // 8 + 1)).astype(np.float32)
    large = np.stack(
        [cv2.resize(each, (width, height), None, 0, 0, cv2.INTER_CUBIC) for each in noise]
    )
    labels = large.argmax(axis=0).astype(np.uint8)
    labels[labels == 1] = 255
    return labels


def save(folder: Path, name: str, labels: Labels, names: tuple[str, ...] = NAMES) -> None:
    """The results of one image, which lies in a folder beside, made with the settings "now"."""
    photo = folder.parent / "photos" / f"{name}.jpg"
    photo.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*labels.shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    Segmentation(
        pixels,
        names,
        labels,
        np.ones(labels.shape, dtype=np.float32),
        margin=0.25,
        origin=file_state(photo),
        made_with={"fingerprint": "now"},
    ).save(folder / Path(name).parent, Path(name).name)


@pytest.fixture
def maps(tmp_path: Path) -> dict[str, Labels]:
    """Results of three images below tmp_path / "out", by name."""
    made = {
        "a": blobs(60, 80, 0),
        "in/b.c": blobs(48, 90, 1),
        "empty": np.full((8, 9), 255, np.uint8),
    }
    for name, labels in made.items():
        save(tmp_path / "out", name, labels)
    return made


def exported(tmp_path: Path, format_: str, *flags: str) -> Path:
    """The folder of an export."""
    run_command(f"export-labels {tmp_path / 'out'} --to {format_}", *flags)
    return tmp_path / "out" / "exports" / format_


# -------------------------------------------------------------------------- runs


def test_runs_of_the_specification() -> None:
    assert coco_runs(MASK).tolist() == [6, 1, 2, 2, 2, 1, 6]
    assert coco_text(coco_runs(MASK)) == "61210O4"
    assert run_lengths(MASK.ravel()).tolist() == [7, 2, 2, 2, 7]
    assert run_lengths(np.ones(3, dtype=bool)).tolist() == [0, 3]
    brush = [0, 0, 0, 80, 57, 27, 254, 27, 0, 159, 254, 112, 9, 255, 240, 216, 0]
    assert brush_bytes(MASK) == brush


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_runs_are_those_of_the_tools(mask: NDArray[np.bool_]) -> None:
    theirs = coco_masks.encode(np.asfortranarray(mask.view(np.uint8)))
    assert coco_mask(mask) == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    image = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    assert (decode_rle(brush_bytes(mask)) == image).all()
    # Theirs may end in a byte of nothing.
    assert encode_rle(image)[: len(brush_bytes(mask))] == brush_bytes(mask)


def test_long_runs() -> None:
    """Longer than a brush can write at once."""
    mask = np.zeros((700, 300), dtype=bool)
    mask[200:500] = True
    assert (decode_rle(brush_bytes(mask)).reshape(700, 300, 4)[..., 3] == 255 * mask).all()


# ------------------------------------------------------------------ without a loss


def from_coco(folder: Path) -> dict[str, Labels]:
    data = COCO(str(folder / "annotations.json"))
    read = {}
    for image in data.loadImgs(data.getImgIds()):
        labels = np.full((image["height"], image["width"]), 255, dtype=np.uint8)
        for each in data.loadAnns(data.getAnnIds([image["id"]])):
            mask = data.annToMask(each).astype(bool)
            assert each["area"] == mask.sum()
            assert each["bbox"] == coco_masks.toBbox(each["segmentation"]).tolist()
            labels[mask] = each["category_id"] - 1
        read[image["file_name"]] = labels
    assert tuple(c["name"] for c in data.loadCats(data.getCatIds())) == NAMES
    return read


def from_panoptic(folder: Path) -> dict[str, Labels]:
    told = json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))
    images = {image["id"]: image["file_name"] for image in told["images"]}
    read = {}
    for each in told["annotations"]:
        colours = np.asarray(Image.open(folder / "panoptic" / each["file_name"])).astype(int)
        ids = colours @ [1, 256, 65536]
        labels = np.full(ids.shape, 255, dtype=np.uint8)
        for segment in each["segments_info"]:
            assert segment["area"] == (ids == segment["id"]).sum()
            labels[ids == segment["id"]] = segment["category_id"] - 1
        assert {0, *(s["id"] for s in each["segments_info"])} >= set(np.unique(ids).tolist())
        read[images[each["image_id"]]] = labels
    assert tuple(c["name"] for c in told["categories"]) == NAMES
    return read


def from_label_studio(folder: Path) -> dict[str, Labels]:
    view = ElementTree.parse(folder / "interface.xml").getroot()
    assert tuple(label.get("value") for label in view.iter("Label")) == NAMES
    read = {}
    for task in json.loads((folder / "tasks.json").read_text(encoding="utf-8")):
        (prediction,) = task["predictions"]
        assert prediction["score"] == 0.25
        brushes = prediction["result"]
        assert len({each["id"] for each in brushes}) == len(brushes)
        labels = np.full((8, 9), 255, dtype=np.uint8)  # of the one without brushes
        for k, each in enumerate(brushes):
            assert each["from_name"] == view.find("BrushLabels").get("name")  # type: ignore[union-attr]
            assert each["to_name"] == view.find("Image").get("name")  # type: ignore[union-attr]
            size = each["original_height"], each["original_width"]
            labels = labels if k else np.full(size, 255, dtype=np.uint8)
            painted = decode_rle(each["value"]["rle"]).reshape(*size, 4)[..., 3] == 255
            labels[painted] = NAMES.index(each["value"]["brushlabels"][0])
        read[task["data"]["image"]] = labels
    return read


def from_datumaro(folder: Path) -> dict[str, Labels]:
    return by_datumaro(folder, "datumaro")


def from_voc(folder: Path) -> dict[str, Labels]:
    return by_datumaro(folder, "voc_segmentation")


def from_cvat(folder: Path) -> dict[str, Labels]:
    unpacked = folder.parent / "unpacked"
    zipfile.ZipFile(folder / "annotations.zip").extractall(unpacked)
    return by_datumaro(unpacked, "voc_segmentation")


def by_datumaro(folder: Path, kind: str) -> dict[str, Labels]:
    """Label maps as Datumaro reads a folder, which is what CVAT does with an archive."""
    data = datumaro.Dataset.import_from(str(folder), kind)
    names = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    read = {}
    for item in data:
        labels = None
        for each in item.annotations:
            if labels is None:
                labels = np.full(each.image.shape, 255, dtype=np.uint8)
            if names[each.label] != "background":
                labels[each.image.astype(bool)] = NAMES.index(names[each.label])
        read[f"{item.id}.jpg"] = np.full((8, 9), 255, np.uint8) if labels is None else labels
    return read


def from_png(folder: Path) -> dict[str, Labels]:
    names = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    assert names == {str(i): name for i, name in enumerate(NAMES, start=1)}
    read = {}
    for file in (folder / "labels").rglob("*.png"):
        labels = np.asarray(Image.open(file))
        name = file.relative_to(folder / "labels").as_posix()
        read[f"{name[:-4]}.jpg"] = (labels - 1).astype(np.uint8)
    return read


READERS: dict[str, Callable[[Path], dict[str, Labels]]] = {
    "png": from_png,
    "coco": from_coco,
    "coco-panoptic": from_panoptic,
    "label-studio": from_label_studio,
    "datumaro": from_datumaro,
    "voc": from_voc,
    "cvat": from_cvat,
}


@pytest.mark.parametrize("format_", READERS)
def test_formats_of_masks_hold_every_pixel(
    format_: str, maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(tmp_path, format_)
    line = capsys.readouterr().out
    assert line == f"{format_}: 3 images  ->  {folder}\n"
    read = READERS[format_](folder)
    assert read.keys() == {f"{name}.jpg" for name in maps}
    for name, labels in maps.items():
        assert (read[f"{name}.jpg"] == labels).all(), name
    assert json.loads((folder / "export.json").read_text())["changed"] == 0


def test_every_format_is_read_back() -> None:
    assert {*READERS, "yolo", "geo"} == set(FORMATS)  # yolo below, geo in test_geo.py


# ----------------------------------------------------------------------- outlines


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.booleans()))
def test_outlines_with_every_corner_are_the_mask(mask: NDArray[np.bool_]) -> None:
    """Filled as shapes with holes cut open, at the middles of pixels."""
    settings = ExportSettings(tolerance=0.0, smallest=0)
    inside = np.zeros(mask.shape, dtype=bool)
    for polygon in regions(mask, settings):
        inside |= filled(one_ring(polygon), mask.shape)
    assert (inside == mask).all()


def filled(ring: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels whose middles lie in a ring: rays to the left cross it an odd number of times."""
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    crossings = np.zeros(size, dtype=int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        rows = (y > min(y0, y1)) & (y < max(y0, y1))
        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0) if y0 != y1 else np.zeros_like(y)
        crossings += rows[:, None] & (at[:, None] < x[None])
    return crossings % 2 == 1


def test_yolo(maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The outlines as OpenCV fills them, and how much of the pixels they are said to miss."""
    folder = exported(tmp_path, "yolo", "--with-images")
    assert "% of the pixels are not as in the label maps" in capsys.readouterr().out
    told = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert told["names"] == dict(enumerate(NAMES))
    assert {p.name for p in (folder / "images").rglob("*.jpg")} == {"a.jpg", "b.c.jpg", "empty.jpg"}
    overlap, union, wrong, pixels = 0, 0, 0, 0
    for name, labels in maps.items():
        read = np.full(labels.shape, 255, dtype=np.uint8)
        for line in (folder / "labels" / f"{name}.txt").read_text().splitlines():
            label, *corners = line.split()
            ring = np.array(corners, dtype=float).reshape(-1, 2) * labels.shape[::-1]
            assert len(ring) >= 3
            # In OpenCV whole numbers are the middles of pixels.
            cv2.fillPoly(read, [np.round(ring - 0.5).astype(np.int32)], int(label))
        overlap += int(((read == labels) & (labels != 255)).sum())
        union += int(((read != 255) | (labels != 255)).sum())
        wrong, pixels = wrong + int((read != labels).sum()), pixels + labels.size
    assert overlap / union > 0.85
    share = json.loads((folder / "export.json").read_text())["changed"]
    assert 0 < share <= wrong / pixels < 0.15


def test_yolo_with_every_corner_loses_nothing(maps: dict[str, Labels], tmp_path: Path) -> None:
    folder = exported(tmp_path, "yolo", "--tolerance 0 --smallest 0")
    assert json.loads((folder / "export.json").read_text())["changed"] == 0


# ------------------------------------------------------------- names, places, stops


def test_a_class_called_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In VOC and CVAT it is black, as no class is."""
    labels = np.array([[0, 1, 255, 2]], dtype=np.uint8)
    save(tmp_path / "out", "a", labels, ("cat", "background", "tree"))
    folder = exported(tmp_path, "voc")
    assert "25 % of the pixels" in capsys.readouterr().out
    ids = np.asarray(Image.open(folder / "SegmentationClass" / "a.png"))
    assert ids.tolist() == [[1, 0, 0, 2]]


def test_a_colon_is_told_and_other_formats_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "out", "a", blobs(20, 20, 0), ("a:b", "c", "d", "e"))
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to cvat,coco")
    assert "'a:b' has a colon" in error
    assert not (tmp_path / "out" / "exports" / "cvat").exists()
    assert (tmp_path / "out" / "exports" / "coco" / "annotations.json").exists()


def test_names_of_classes_are_no_markup(maps: dict[str, Labels], tmp_path: Path) -> None:
    text = (exported(tmp_path, "label-studio") / "interface.xml").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "&lt;b&gt;größe" in text


def test_a_damaged_label_map_does_not_stop_the_others(
    maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "a.png"
    file.write_bytes(file.read_bytes()[:100])
    save(tmp_path / "out", "in/b.c", maps["a"])
    told = json.loads((tmp_path / "out" / "in" / "b.c.json").read_text(encoding="utf-8"))
    told["height"] = 7
    (tmp_path / "out" / "in" / "b.c.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        run_command(f"export-labels {tmp_path / 'out'} --to coco,png")
    assert stopped.value.code == 2
    damaged, other = capsys.readouterr().err.splitlines()  # once, not for each format
    assert "a.png cannot be read; label the image again" in damaged
    assert "b.c.png is not the one that in/b.c.json tells of" in other
    assert from_coco(tmp_path / "out" / "exports" / "coco").keys() == {"empty.jpg"}


def test_images_that_have_gone(
    maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "a.jpg").unlink()
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to voc --with-images")
    assert "the image a.jpg is not where it was" in error
    images = (tmp_path / "out" / "exports" / "voc" / "JPEGImages").rglob("*.jpg")
    assert {file.name for file in images} == {"b.c.jpg", "empty.jpg"}


def test_addresses_of_images(maps: dict[str, Labels], tmp_path: Path) -> None:
    save(tmp_path / "out", "in/a ü", blobs(20, 20, 0))
    folder = exported(tmp_path, "label-studio", "--prefix '/data/local-files/?d='")
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert tasks[2]["data"]["image"] == "/data/local-files/?d=in/a%20%C3%BC.jpg"


def test_an_export_is_replaced_unless_somebody_worked_on_it(
    maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(tmp_path, "voc")
    (tmp_path / "out" / "a.json").unlink()
    assert not (exported(tmp_path, "voc") / "SegmentationClass" / "a.png").exists()
    assert sorted(p.name for p in folder.parent.iterdir()) == ["voc"]
    later = time.time() + 5
    os.utime(folder / "SegmentationClass" / "empty.png", (later, later))
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to voc")
    assert "empty.png has been changed since it was exported" in error
    (folder / "export.json").write_text("{}")
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to voc")
    assert "voc exists and is no export of unseen" in error


def test_a_full_disk_leaves_the_export_before(
    maps: dict[str, Labels],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = exported(tmp_path, "coco-panoptic")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to coco-panoptic")
    assert "cannot be written (No space left on device); free some space" in error
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert [path.name for path in folder.parent.iterdir()] == ["coco-panoptic"]


def test_results_of_other_settings_are_left_out(
    maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = {"fingerprint": "now"}
    (tmp_path / "out" / "job.json").write_text(json.dumps(manifest), encoding="utf-8")
    other = json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8"))
    other["made_with"] = {"fingerprint": "then"}
    (tmp_path / "out" / "a.json").write_text(json.dumps(other), encoding="utf-8")
    assert from_coco(exported(tmp_path, "coco")).keys() == {"in/b.c.jpg", "empty.jpg"}
    assert "1 results of other settings" in capsys.readouterr().err


@pytest.mark.parametrize("format_", FORMATS)
def test_images_of_one_name_stay_apart(format_: str, tmp_path: Path) -> None:
    """a.png and a.jpg of one folder, and an a.jpg of another that was labelled before."""
    for name, colour in (("x/a.jpg", 40), ("y/a.jpg", 80), ("y/a.png", 120)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (colour, 9, 9)).save(tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("a.*")}
    out = tmp_path / "out"
    for place in (tmp_path / "x" / "a.jpg", tmp_path / "y"):
        run_command(f"segment {place} --classes tree,fish --out {out}")
    has_images = FORMATS[format_].images is not None  # type: ignore[index]
    run_command(f"export-labels {out} --to {format_} {'--with-images' * has_images}")
    assert {path: path.read_bytes() for path in before} == before
    folder = out / "exports" / format_
    assert json.loads((folder / "export.json").read_text())["images"] == 3
    names = {result.stem for result in find_results(out)[0]}
    assert len(names) == 3
    if has_images:
        assert len(list((folder / FORMATS[format_].images).glob("a*"))) == 3  # type: ignore[index, operator]


def test_a_job_exports_its_own_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where nothing was left to do, and another job has been there since."""
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), (90, 9, 9)).save(tmp_path / f"{name}.jpg")
    out = tmp_path / "out"
    run_command(f"segment {tmp_path / '*.jpg'} --classes tree,fish --out {out}")
    run_command(f"segment {tmp_path / 'a.jpg'} --classes tree,boat --out {out}")
    run_command(f"segment {tmp_path / 'b.jpg'} --classes tree,fish --out {out} --to coco")
    data = json.loads((out / "exports" / "coco" / "annotations.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["b.jpg"]
    assert [each["name"] for each in data["categories"]] == ["tree", "fish"]


def test_flags_that_no_format_reads(
    maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"export-labels {tmp_path / 'out'} --to coco,voc"
    assert "--tolerance is for yolo, and coco, voc does not" in error_of(
        capsys, line, "--tolerance 3"
    )
    assert "--vectors is for geo" in error_of(capsys, line, "--vectors geojson")
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to cvat --with-images")
    assert "--with-images is for png, coco" in error


def test_images_that_were_changed_are_not_taken(
    maps: dict[str, Labels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "a.jpg")
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to coco --with-images")
    assert "photos/a.jpg has been changed since; label it again" in error
    assert not (tmp_path / "out" / "exports" / "coco" / "images" / "a.jpg").exists()


def test_what_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert "there is no folder" in error_of(capsys, f"export-labels {out} --to coco")
    out.mkdir()
    (out / "other.json").write_text("[1]")
    assert "holds no label maps" in error_of(capsys, f"export-labels {out} --to coco")
    save(out, "a", blobs(20, 20, 0))
    save(out, "b", blobs(20, 20, 1), ("cat", "dog"))
    assert "other classes than a.json" in error_of(capsys, f"export-labels {out} --to coco")
    assert "no format 'coc'" in error_of(capsys, f"export-labels {out} --to coc")
    assert "given twice" in error_of(capsys, f"export-labels {out} --to coco,coco")
    assert "tolerance is -1" in error_of(capsys, f"export-labels {out} --to coco --tolerance -1")
    monkeypatch.setattr("unseen.exports.formats.find_spec", lambda _: None)
    error = error_of(capsys, f"export-labels {out} --to yolo")
    assert "yolo needs rasterio and shapely; install them with pip install 'unseen[geo]'" in error
    assert not (out / "exports").exists()


def test_segment_writes_formats_too(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_command(f"segment {photo} --classes tree,fish --out {out} --to coco,png")
    run_command(f"segment {photo} --classes tree,fish --out {out} --to coco")
    data = COCO(str(out / "exports" / "coco" / "annotations.json"))
    assert data.imgs[1]["file_name"] == "photo.jpg"
    labels = np.asarray(Image.open(out / "photo.png"))
    assert sum(each["area"] for each in data.anns.values()) == labels.size


def test_python(maps: dict[str, Labels], tmp_path: Path) -> None:
    made = unseen.export_labels(tmp_path / "out", ["coco", "yolo"], tmp_path / "there")
    assert [each.format for each in made] == ["coco", "yolo"]
    assert [each.images for each in made] == [3, 3]
    assert made[0].changed == 0 < made[1].changed
    assert (tmp_path / "there" / "yolo" / "data.yaml").exists()
    assert len(find_results(tmp_path / "out")[0]) == 3
