"""Polygons for geographic information systems, in the image's place on the earth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError
from unseen.exports.writers import Add, LeftOutError
from unseen.labelling.results import Result
from unseen.labels import IGNORE
from unseen.settings import ExportSettings

DRIVERS = {"gpkg": "GPKG", "geojson": "GeoJSON"}
"""GDAL's names of the kinds of files, by their endings."""


@contextmanager
def write_geo(out: Path, names: Sequence[str], settings: ExportSettings) -> Iterator[Add]:
    """labels/NAME.gpkg or .geojson: a polygon, holes and all, for each connected region."""
    from pyogrio.errors import DataLayerError, DataSourceError
    from pyogrio.raw import write

    ending = settings.vectors

    def add(result: Result, labels: NDArray[np.uint8]) -> int:
        crs, transform = _place(result)
        if ending == "geojson":
            _check_on_earth(result, crs)
        polygons, ids = _polygons(labels, transform)
        file = out / "labels" / f"{result.stem}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "class": np.array([names[i] for i in ids], dtype=object),
            "id": np.array(ids, dtype=np.int32),
        }
        try:
            with warnings.catch_warnings():
                # Photographs have no place, and are not to be warned of one by one.
                warnings.filterwarnings("ignore", message="'crs' was not provided")
                write(
                    file,
                    polygons,
                    list(columns.values()),
                    list(columns),
                    geometry_type="Polygon",
                    crs=crs,
                    driver=DRIVERS[ending],
                    # The standard wants degrees, whatever the image has.
                    layer_options={"RFC7946": "YES"} if ending == "geojson" else {},
                    encoding="UTF-8",
                )
        except (DataLayerError, DataSourceError) as error:
            raise DataError(
                f"the polygons of {result.file_name} cannot be written ({error}); check the space"
                " on the disk"
            ) from error
        return 0

    yield add


def _place(result: Result) -> tuple[str | None, Any]:
    """The reference system of an image, if it has one, and where its pixels lie in it.

    Raises:
        LeftOutError: The file that says so has gone, or cannot be read.
    """
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.transform import Affine, from_gcps

    from unseen.labelling.rasters import without_warnings

    # The label map of an image in parts is in its place itself.
    file = result.label_map if result.is_tiled else result.image
    if file is None or result.frame is not None:
        return None, Affine.scale(1, -1)
    if not result.is_tiled and not result.is_of(file):
        raise LeftOutError(
            f"{file} is not where or what it was when it was labelled, so the place of its label"
            " map is not known; put it back, or label it again"
        )
    try:
        with without_warnings(), rasterio.open(file) as image:
            (points, system), crs, transform = image.gcps, image.crs, image.transform
    except RasterioError as error:
        raise LeftOutError(
            f"{file} cannot be read ({error}), so the place of its label map is not known; put it"
            " where it was"
        ) from error
    if points:
        crs, transform = system, from_gcps(points)
    # Rows go down, and the second coordinate up.
    if transform == Affine.identity():
        return None, Affine.scale(1, -1)
    return None if crs is None else crs.to_wkt(), transform


def _check_on_earth(result: Result, crs: str | None) -> None:
    """Refuse for GeoJSON what has no longitude and latitude.

    Raises:
        LeftOutError: Names the image.
    """
    from rasterio.crs import CRS

    known = None if crs is None else CRS.from_wkt(crs)
    if known is None or not (known.is_geographic or known.is_projected):
        raise LeftOutError(
            f"{result.file_name} has no place on the earth, which GeoJSON needs; export it with"
            " --vectors gpkg"
        )


def _polygons(labels: NDArray[np.uint8], transform: Any) -> tuple[NDArray[np.object_], list[int]]:
    """The regions of all classes as well-known bytes, with the ids of their classes."""
    from rasterio.features import shapes
    from shapely import to_wkb
    from shapely.geometry import shape

    found = [
        (to_wkb(shape(geometry)), int(label))
        for geometry, label in shapes(labels, mask=labels != IGNORE, transform=transform)
    ]
    polygons = np.empty(len(found), dtype=object)
    polygons[:] = [polygon for polygon, _ in found]
    return polygons, [label for _, label in found]
