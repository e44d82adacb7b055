"""Images of any size, read part by part."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from unseen.errors import DataError

CACHE_MB = 128
"""Of blocks that are read and written."""


@dataclass(frozen=True)
class Span:
    """A part of one side of an image.

    Attributes:
        start: Where its pixels begin.
        stop: Where they end.
        first: Where the first window begins that reaches into it.
        last: Where the last one ends.
    """

    start: int
    stop: int
    first: int
    last: int


class Raster:
    """An image of any size, read part by part; RGB of 8 bits.

    Args:
        source: The opened file.
        bands: Numbers of its bands for red, green and blue, from 1 on.
    """

    def __init__(self, source: Any, bands: Sequence[int]) -> None:
        self.source, self.bands = source, list(bands)
        self.size: tuple[int, int] = (source.height, source.width)
        self.low, self.high = 0.0, 255.0
        self._has_floats = source.dtypes[self.bands[0] - 1].startswith("float")
        if source.dtypes[self.bands[0] - 1] != "uint8":
            self.low, self.high = self._stretch()

    @classmethod
    def of(cls, source: Any, bands: Sequence[int] | None, path: Path) -> Raster:
        """With the bands that are given, or the first three, or the only one.

        Raises:
            DataError: A band that there is not, or a photograph that is to be turned.
        """
        if source.tags().get("EXIF_Orientation", "1") not in ("0", "1"):
            raise DataError(
                f"the image {path} lies on its side by its EXIF data, which --tile does not follow;"
                " save it upright, or leave --tile away"
            )
        colours = [i for i in source.indexes if source.colorinterp[i - 1] != ColorInterp.alpha]
        chosen = list(bands or (colours[:3] if len(colours) >= 3 else colours[:1] * 3))
        if len(chosen) != 3 or not set(chosen) <= set(source.indexes):
            raise DataError(
                f"--bands is {chosen}; give three of the {source.count} bands of {path}, such as"
                " [1,2,3]"
            )
        return cls(source, chosen)

    def _stretch(self) -> tuple[float, float]:
        """What becomes 0 and 255: two of a hundred values lie below, and two above."""
        shape = (3, *(min(side, 1000) for side in self.size))
        values = self._read(out_shape=shape, masked=True).compressed()
        values = values[np.isfinite(values)]
        if not len(values):
            return 0.0, 1.0
        low, high = np.percentile(values, [2, 98])
        return float(low), float(max(high, low + 1e-6))

    def read(self, rows: Span, columns: Span) -> NDArray[np.uint8]:
        """The pixels (3, H, W) that the windows of a part need."""
        place = Window.from_slices((rows.first, rows.last), (columns.first, columns.last))
        return self._eight_bits(self._read(window=place))

    def known(self, rows: Span, columns: Span) -> NDArray[np.bool_]:
        """The pixels (H, W) of a part that hold data."""
        place = Window.from_slices((rows.start, rows.stop), (columns.start, columns.stop))
        with self._reading():
            masks = self.source.read_masks(self.bands, window=place) > 0
        if self._has_floats:
            masks &= np.isfinite(self._read(window=place))  # not a number is no data
        known: NDArray[np.bool_] = masks.any(axis=0)
        return known

    def small(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The whole image at a small size (H, W, 3)."""
        read = self._read(out_shape=(3, *size), resampling=Resampling.average)
        return self._eight_bits(read).transpose(1, 2, 0)

    def _read(self, **how: Any) -> Any:
        with self._reading():
            return self.source.read(self.bands, **how)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What is wrong with the file is told as that, not as an output that cannot be written.

        Raises:
            DataError: It is damaged.
        """
        try:
            yield
        except RasterioError as error:
            raise DataError(
                f"the image {self.source.name} cannot be read ({error}); replace it"
            ) from error

    def _eight_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if values.dtype == np.uint8:
            return values
        scaled = (values.astype(np.float32) - self.low) / (self.high - self.low)
        return (255 * np.nan_to_num(scaled).clip(0, 1)).astype(np.uint8)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without a warning about images that have no place on the earth, as photographs have none.

    GDAL keeps blocks in memory, by default a twentieth of all there is.
    """
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
