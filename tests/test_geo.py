"""Label maps as polygons: every pixel, in its place on the earth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tiny.commands import error_of, run_command

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
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
