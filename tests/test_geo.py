"""Label maps as polygons: every pixel, in its place on the earth."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tiny.commands import error_of, run_command

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.features import rasterize  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402

from tiny.rasters import geotiff, scene  # noqa: E402

BERN = from_origin(2_600_000, 1_200_000, 0.5, 0.5)


def burnt(file: Path, size: tuple[int, int], transform: Affine = BERN) -> NDArray[np.uint8]:
    """The label map (H, W) that the polygons of a file were made of; 255 where there is none."""
    _, _, polygons, fields = pyogrio.raw.read(file, columns=["class", "id"])
    shapes = zip(shapely.from_wkb(polygons), map(int, fields[1]), strict=True)
    made: NDArray[np.uint8] = rasterize(shapes, size, fill=255, transform=transform, dtype="uint8")
    return made


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder of results: a map and a photograph, with pixels without a class."""
    geotiff(tmp_path / "in" / "map.tif", np.asarray(scene(60, 80)).transpose(2, 0, 1))
    scene(40, 50).save(tmp_path / "in" / "photo.png")
    run_command(
        f"segment {tmp_path / 'in'} --classes 'sun, tree' --threshold 0.6 --out {tmp_path / 'out'}"
    )
    return tmp_path / "out"


def test_polygons_hold_every_pixel(labelled: Path) -> None:
    run_command(f"export-labels {labelled} --to geo")
    folder = labelled / "exports" / "geo" / "labels"
    for name, transform in (("map", BERN), ("photo", Affine.scale(1, -1))):
        labels = np.asarray(Image.open(labelled / f"{name}.png"))
        assert 0 < (labels == 255).mean() < 1
        assert np.array_equal(burnt(folder / f"{name}.gpkg", labels.shape, transform), labels)
    meta, _, _, fields = pyogrio.raw.read(folder / "map.gpkg")
    assert meta["crs"] == "EPSG:2056"
    assert set(fields[0]) <= {"sun", "tree"}


def test_geojson_is_in_degrees(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And an image without a place is left out and told."""
    error = error_of(capsys, f"export-labels {labelled} --to geo --vectors geojson")
    assert "photo.png has no place on the earth, which GeoJSON needs" in error
    folder = labelled / "exports" / "geo" / "labels"
    assert [path.name for path in folder.iterdir()] == ["map.geojson"]
    told = json.loads((folder / "map.geojson").read_text(encoding="utf-8"))
    east, north = np.array(told["features"][0]["geometry"]["coordinates"][0]).T
    assert ((east > 7.43) & (east < 7.45)).all()
    assert ((north > 46.94) & (north < 46.96)).all()
    assert told["features"][0]["properties"]["class"] in ("sun", "tree")


def test_places_without_a_name_and_by_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A transform without a reference system, points, and a system that is not on the earth."""
    pixels = np.asarray(scene(40, 60)).transpose(2, 0, 1)
    folder = tmp_path / "in"
    geotiff(folder / "grid.tif", pixels, crs=None)
    geotiff(folder / "local.tif", pixels, crs='LOCAL_CS["plan", UNIT["metre", 1]]')
    geotiff(folder / "map.tif", pixels)
    with rasterio.open(
        folder / "points.tif", "w", driver="GTiff", count=3, height=40, width=60, dtype="uint8"
    ) as file:
        file.write(pixels)
        corners = ((0, 0), (0, 60), (40, 0), (40, 60))
        points = [GroundControlPoint(y, x, 7 + x / 600, 47 - y / 600) for y, x in corners]
        file.gcps = (points, "EPSG:4326")
    out = tmp_path / "out"
    run_command(f"segment {folder} --classes sun,tree --out {out} --to geo")
    place = out / "exports" / "geo" / "labels"
    labels = np.asarray(Image.open(out / "grid.png"))
    assert np.array_equal(burnt(place / "grid.gpkg", labels.shape), labels)
    by_points = from_origin(7, 47, 1 / 600, 1 / 600)
    labels = np.asarray(Image.open(out / "points.png"))
    assert np.array_equal(burnt(place / "points.gpkg", labels.shape, by_points), labels)
    with pytest.raises(SystemExit):
        run_command(f"export-labels {out} --to geo --vectors geojson")
    error = capsys.readouterr().err
    assert "grid.tif has no place on the earth" in error
    assert "local.tif has no place on the earth" in error
    assert sorted(path.name for path in place.iterdir()) == ["map.geojson", "points.geojson"]


def test_another_map_of_the_same_name_is_told(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its place is not that of the label map."""
    geotiff(labelled.parent / "in" / "map.tif", np.zeros((3, 9, 9), dtype=np.uint8))
    error = error_of(capsys, f"export-labels {labelled} --to geo")
    assert "map.tif is not where or what it was when it was labelled" in error


def test_a_full_disk_is_told(
    labelled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise pyogrio.errors.FeatureError("Could not add feature to layer")

    monkeypatch.setattr(pyogrio.raw, "write", full)
    error = error_of(capsys, f"export-labels {labelled} --to geo")
    assert "polygons of map.tif cannot be written (Could not add feature to layer)" in error
    assert not (labelled / "exports" / "geo").exists()


def test_photographs_bring_no_warnings(labelled: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_command(f"export-labels {labelled} --to geo")


def test_frames_of_a_video_lie_in_pixels(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 40, 60, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.asarray(scene(40, 60)), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode()]:
            video.mux(packet)
    out = tmp_path / "out"
    run_command(f"segment {tmp_path / 'a.mp4'} --classes sun,tree --out {out} --to geo")
    labels = np.asarray(Image.open(out / "a" / "frame_000000.png"))
    file = out / "exports" / "geo" / "labels" / "a" / "frame_000000.gpkg"
    assert np.array_equal(burnt(file, labels.shape, Affine.scale(1, -1)), labels)


def test_a_map_that_has_gone_is_told(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (labelled.parent / "in" / "map.tif").unlink()
    error = error_of(capsys, f"export-labels {labelled} --to geo")
    assert "the place of its label map is not known" in error
    assert [path.name for path in (labelled / "exports" / "geo" / "labels").iterdir()] == [
        "photo.gpkg"
    ]


def test_parts_are_exported_like_other_images(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    geotiff(tmp_path / "a.tif", np.asarray(scene(150, 200)).transpose(2, 0, 1), nodata=0)
    out = tmp_path / "out"
    words = f"segment {tmp_path / 'a.tif'} --classes sun,tree --out {out} --tile 128"
    run_command(words, "--to coco,geo --parquet")
    data = json.loads((out / "exports" / "coco" / "annotations.json").read_text())
    assert data["images"] == [{"id": 1, "file_name": "a.tif", "height": 150, "width": 200}]
    table = parquet.read_table(out / "index.parquet").to_pylist()
    assert [row["result"] for row in table] == ["a.tif"]
    with rasterio.open(out / "a.tif") as made:
        labels = made.read(1)
    assert np.array_equal(burnt(out / "exports" / "geo" / "labels" / "a.gpkg", (150, 200)), labels)
