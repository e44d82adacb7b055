"""How images that are too large for memory are labelled."""

from __future__ import annotations

from dataclasses import dataclass

from unseen.errors import SettingError
from unseen.settings.ranges import check_ranges, several, whole


@dataclass(frozen=True)
class TileSettings:
    """How images that are too large for memory are labelled.

    Attributes:
        tile: Label images at their own size, in parts of about so many pixels a side, such as 4096;
            the label map is a GeoTIFF, in the image's place on the earth.
        bands: Numbers of the bands for red, green and blue, from 1 on; the first three by default.
    """

    tile: int | None = None
    bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, and bands without parts.

        Raises:
            SettingError: Names the first.
        """
        check_ranges(self, "", TILE_RANGES)
        if self.bands is not None and self.tile is None:
            raise SettingError("--bands is for images in parts; give --tile, or remove it")


TILE_RANGES = {
    "tile": whole(1).or_none(),
    "bands": several(whole(1), least=3).or_none(),
}
