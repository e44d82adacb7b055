"""Large images and maps for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from unseen.data.doodles import draw


def scene(height: int, width: int) -> Image.Image:
    """Doodles beside each other."""
    tiles = [np.array(draw(5, i, size=96).image) for i in range(20)]
    rows = [np.concatenate(tiles[i : i + 5], axis=1) for i in (0, 5, 10, 15)]
    return Image.fromarray(np.concatenate(rows)[:height, :width])


def geotiff(path: Path, values: Any, **profile: Any) -> None:
    """A GeoTIFF of bands (N, H, W) near Bern, half a metre a pixel."""
    profile = {"crs": "EPSG:2056", **profile}
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        transform=from_origin(2_600_000, 1_200_000, 0.5, 0.5),
        **profile,
    ) as file:
        file.write(values)
