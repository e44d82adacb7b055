"""Large images, labelled part by part: the same as at once, in their place on the earth."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import unseen
from tiny.commands import error_of, run_command
from unseen.errors import DataError, SettingError
from unseen.inference import window_starts

rasterio = pytest.importorskip("rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

from tiny.rasters import geotiff, scene  # noqa: E402
from unseen.labelling.sources import Item  # noqa: E402
from unseen.labelling.tiles import TiledJob, spans  # noqa: E402

NAMES = ["sun", "tree", "fish", "house"]


@given(st.integers(1, 400), st.integers(8, 64), st.integers(4, 64), st.integers(1, 200))
def test_parts_have_all_windows_of_their_pixels(
    length: int, window: int, stride: int, side: int
) -> None:
    """And no other way of laying windows over them than that of the whole image."""
    stride = min(stride, window)
    whole = window_starts(length, window, stride)
    parts = spans(length, window, stride, side)
    assert parts[0].start == 0
    assert parts[-1].stop == length
    assert all(one.stop == other.start for one, other in itertools.pairwise(parts))
    for part in parts:
        own = [part.first + s for s in window_starts(part.last - part.first, window, stride)]
        for pixel in (part.start, (part.start + part.stop) // 2, part.stop - 1):
            of_whole = [start for start in whole if start <= pixel < start + window]
            assert [start for start in own if start <= pixel < start + window] == of_whole


@pytest.fixture(scope="module")
def model() -> Any:
    return unseen.load("naclip", inference={"short_side": None, "window": 64, "stride": 40})


@pytest.mark.parametrize("side", [40, 100, 1000])
def test_a_tiled_image_is_labelled_as_a_whole_one(side: int, model: Any, tmp_path: Path) -> None:
    scene(300, 410).save(tmp_path / "a.png")
    whole = model.segment(tmp_path / "a.png", NAMES, threshold=0.4)
    job = TiledJob(model, model.encode(NAMES), tmp_path / "out", 0.4, side=side)
    told = job.label(Item(tmp_path / "a.png", "in/a"))
    with rasterio.open(tmp_path / "out" / "in" / "a.tif") as made:
        labels = made.read(1)
        told_inside = json.loads(made.tags()["unseen"])
    assert told_inside["vocabulary"]["names"] == NAMES
    assert told_inside["image"]["file"] == str(tmp_path / "a.png")
    assert (labels == whole.labels).mean() > 0.9999, "but for rounding"
    for entry, wanted in zip(told["classes"], whole.as_dict()["classes"], strict=True):
        assert entry["share"] == pytest.approx(wanted["share"], abs=1e-4)
        assert entry["mean_score"] == pytest.approx(wanted["mean_score"], abs=1e-3)
    assert told["margin"] == pytest.approx(whole.margin, abs=0.01)
    assert told["entropy"] == pytest.approx(whole.entropy, abs=0.01)
    assert told["no_class"] == pytest.approx(whole.as_dict()["no_class"], abs=1e-4)
    assert json.loads((tmp_path / "out" / "in" / "a.json").read_text())["height"] == 300


def test_a_geotiff_keeps_its_place(model: Any, tmp_path: Path) -> None:
    """Its reference, what has no data, and more bands or bits than an image has."""
    pixels = np.asarray(scene(200, 300)).transpose(2, 0, 1)
    plain = model.segment(scene(200, 300), NAMES)
    pixels = np.concatenate([pixels, np.full((1, 200, 300), 9, dtype=np.uint8)])
    pixels[:3, :50] = 0
    geotiff(tmp_path / "a.tif", pixels, nodata=0)
    job = TiledJob(model, model.encode(NAMES), tmp_path / "out", side=80)
    job.label(Item(tmp_path / "a.tif", "a"))
    with rasterio.open(tmp_path / "out" / "a.tif") as made:
        labels = made.read(1)
        assert made.crs.to_epsg() == 2056
        assert made.transform == from_origin(2_600_000, 1_200_000, 0.5, 0.5)
        assert made.nodata == 255
        assert made.block_shapes == [(512, 512)]
        assert made.colormap(1)[0][:3] == (230, 159, 0)
    assert (labels[:50] == 255).all()
    assert (labels[130:] == plain.labels[130:]).mean() > 0.99, "away from what is missing"
    deep = pixels[:3].astype(np.uint16) * 40
    geotiff(tmp_path / "deep.tif", deep[::-1])
    reordered = TiledJob(model, model.encode(NAMES), tmp_path / "out", side=80, bands=(3, 2, 1))
    reordered.label(Item(tmp_path / "deep.tif", "deep"))
    with rasterio.open(tmp_path / "out" / "deep.tif") as made:
        assert (made.read(1)[130:] == plain.labels[130:]).mean() > 0.8


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """64 million pixels, more than are opened at once, in a process of its own."""
    code = f"""
import resource, sys
import numpy as np, torch, rasterio, unseen
from pathlib import Path
from types import SimpleNamespace
from unseen.labelling import tiles
from unseen.labelling.sources import Item
from unseen.labelling.tiles import TiledJob
side = int(sys.argv[1])
path = Path({str(tmp_path)!r}) / f"{{side}}.tif"
def quick(segmenter, images, text, settings, **_):
    size = images.shape[-2:]
    labels = torch.zeros(1, *size, dtype=torch.int64)
    return SimpleNamespace(labels=labels, confidence=torch.ones(1, *size), scores=None)
tiles.label_maps = quick
tiles.uncertainty = lambda *_: (torch.ones(1), torch.ones(1))
model = unseen.load("naclip", inference={{"short_side": None, "window": 64, "stride": 64}})
job = TiledJob(model, model.encode(["a", "b"]), path.parent / "out", side=1024)
job.label(Item(path, str(side)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    how = {"tiled": True, "compress": "deflate", "dtype": "uint8", "driver": "GTiff", "count": 3}
    for side in (1000, 8000):
        with rasterio.open(tmp_path / f"{side}.tif", "w", height=side, width=side, **how):
            pass
    peaks = [
        float(
            subprocess.run(
                [sys.executable, "-c", code, str(side)], capture_output=True, text=True, check=True
            ).stdout
        )
        for side in (1000, 8000)
    ]
    assert peaks[1] < peaks[0] + 250


def test_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Path) -> None:
    scene(150, 200).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    words = f"segment {tmp_path} --classes sun,tree --out {tmp_path / 'out'} --tile 128"
    error = error_of(capsys, words)
    assert "b.png cannot be read" in error
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["a.json", "a.overlay.png", "a.tif", "index.csv", "job.json"]
    _, row = (tmp_path / "out" / "index.csv").read_text().splitlines()
    assert row.startswith(f"{tmp_path / 'a.png'},a.tif,150,200,0.")
    capsys.readouterr()
    (tmp_path / "b.png").unlink()
    run_command(words)
    out = capsys.readouterr().out
    assert "1 had been labelled" in out
    run_command(words, "--again")
    assert "labelled 1 image" in capsys.readouterr().out
    assert "--batch" in error_of(capsys, words, "--batch 2")
    assert "--tile is 0" in error_of(capsys, words.replace("--tile 128", "--tile 0"))
    assert "--bands" in error_of(capsys, words.replace("--tile 128", "--bands [1,2,3]"))
    assert "--bands is [1, 2, 9]" in error_of(capsys, words, "--bands [1,2,9]")
    torch.manual_seed(0)


def test_a_map_of_somebody_else_stays(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where numbers of the program lie beside it."""
    scene(100, 100).save(tmp_path / "a.png")
    job = TiledJob(model, model.encode(NAMES), tmp_path / "out", side=80)
    job.label(Item(tmp_path / "a.png", "a"))
    assert job.pending([Item(tmp_path / "a.png", "a")]) == []
    job.label(Item(tmp_path / "a.png", "a"))  # its own is replaced
    geotiff(tmp_path / "out" / "a.tif", np.zeros((1, 4, 4), dtype=np.uint8))
    before = (tmp_path / "out" / "a.tif").read_bytes()
    with pytest.raises(DataError, match="was not written by unseen"):
        job.label(Item(tmp_path / "a.png", "a"))
    assert (tmp_path / "out" / "a.tif").read_bytes() == before
    error = error_of(capsys, f"export-labels {tmp_path / 'out'} --to coco")
    assert "a.tif is not the one that a.json tells of" in error


def test_both_kinds_of_jobs_in_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither takes the other's results for its own, and the images are found again beside them."""
    scene(150, 200).save(tmp_path / "a.png")
    out = tmp_path / "out"
    whole = f"segment {tmp_path} --recursive --classes sun,tree --out {out}"
    for words in (whole, f"{whole} --tile 128", whole, f"{whole} --tile 128"):
        run_command(words)
        assert "labelled 1 image in" in capsys.readouterr().out
    (out / "a.overlay.png").unlink()
    run_command(words)
    assert "labelled 1 image in" in capsys.readouterr().out
    assert json.loads((out / "a.json").read_text())["made_with"]["inference"]["short_side"] is None


def test_pixels_that_are_no_numbers_have_no_class(model: Any, tmp_path: Path) -> None:
    """As those without data, and they do not change what becomes of the others."""
    pixels = np.asarray(scene(150, 200)).transpose(2, 0, 1).astype(np.float32) / 255
    geotiff(tmp_path / "whole.tif", pixels)
    pixels[:, :20, :20] = np.nan
    geotiff(tmp_path / "holes.tif", pixels)
    job = TiledJob(model, model.encode(NAMES), tmp_path / "out", side=80)
    maps = []
    for name in ("whole", "holes"):
        job.label(Item(tmp_path / f"{name}.tif", name))
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as made:
            maps.append(made.read(1))
    assert (maps[1][:20, :20] == 255).all()
    assert (maps[1][100:] == maps[0][100:]).mean() > 0.97
    assert (maps[1][100:] != 255).all()


def test_photographs_on_their_side_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    scene(100, 150).save(tmp_path / "a.jpg", exif=turned)
    words = f"segment {tmp_path / 'a.jpg'} --classes sun,tree --out {tmp_path / 'out'}"
    assert "a.jpg lies on its side by its EXIF data" in error_of(capsys, words, "--tile 128")


def test_a_damaged_map_is_told_as_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 600, 600), dtype=np.uint8)
    geotiff(tmp_path / "a.tif", noise, tiled=True, blockxsize=256, blockysize=256)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    words = f"segment {tmp_path / 'a.tif'} --classes sun,tree --out {tmp_path / 'out'} --tile 256"
    assert "a.tif cannot be read" in error_of(capsys, words)
    assert not (tmp_path / "out" / "a.tif").exists()


def test_a_place_that_single_points_say(model: Any, tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=3, height=90, width=90, dtype="uint8"
    ) as file:
        file.write(np.asarray(scene(90, 90)).transpose(2, 0, 1))
        points = [GroundControlPoint(0, 0, 7.4, 47.0), GroundControlPoint(90, 90, 7.5, 46.9)]
        file.gcps = ([*points, GroundControlPoint(0, 90, 7.5, 47.0)], "EPSG:4326")
    job = TiledJob(model, model.encode(NAMES), tmp_path / "out", side=80)
    job.label(Item(tmp_path / "a.tif", "a"))
    with rasterio.open(tmp_path / "out" / "a.tif") as made:
        known, system = made.gcps
    assert len(known) == 3
    assert system.to_epsg() == 4326


def test_bands_that_one_image_lacks_do_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.asarray(scene(100, 100)).transpose(2, 0, 1)
    (tmp_path / "photos").mkdir()
    geotiff(tmp_path / "photos" / "a.tif", pixels)
    geotiff(tmp_path / "photos" / "b.tif", np.concatenate([pixels, pixels[:1]]))
    words = f"segment {tmp_path / 'photos'} --classes sun,tree --out {tmp_path / 'out'} --tile 128"
    assert "of the 3 bands" in error_of(capsys, words, "--bands [4,2,1]")
    assert not (tmp_path / "out" / "a.tif").exists()
    assert (tmp_path / "out" / "b.tif").exists()


def test_methods_that_look_at_whole_images_are_told_first(tmp_path: Path) -> None:
    whole = unseen.load("naclip", inference={"short_side": None, "window": None, "stride": None})
    with pytest.raises(SettingError, match="give --inference.window"):
        TiledJob(whole, whole.encode(NAMES), tmp_path / "out")
