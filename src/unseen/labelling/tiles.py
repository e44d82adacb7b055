"""Images that are too large for memory: read, labelled and written part by part.

A part is labelled with all windows that reach into it, so the result is that of the whole image.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from unseen.errors import DataError, SettingError
from unseen.files import MARK, about, file_state, replacing, write_json, write_png
from unseen.inference import label_maps, window_starts
from unseen.labelling.results import read_result
from unseen.labelling.sources import Item
from unseen.labels import IGNORE
from unseen.palettes import class_colours
from unseen.predictor import Predictor
from unseen.segmentation import numbers
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings
from unseen.visualize import overlay

BLOCK = 512
"""Rows and columns of a block of the GeoTIFFs that are written."""
CACHE_MB = 128
"""Of blocks that are read and written."""
SHOWN = 2000
"""Longer side of overlays, in pixels."""
ENDING = ".tif"
"""Of label maps."""


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


def spans(length: int, window: int, stride: int, side: int) -> list[Span]:
    """The parts of a side, each of about `side` pixels, with the windows that reach into them."""
    starts = window_starts(length, window, stride)
    size = min(window, length)
    count = max(1, side // stride)
    found = []
    for place in range(0, len(starts), count):
        own = starts[place : place + count]
        stop = starts[place + count] if place + count < len(starts) else length
        first = next(start for start in starts if start + size > own[0])
        found.append(Span(own[0], stop, first, own[-1] + size))
    return found


# ------------------------------------------------------------------------ reading


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
        if source.dtypes[self.bands[0] - 1] != "uint8":
            self.low, self.high = self._stretch()

    @classmethod
    def of(cls, source: Any, bands: Sequence[int] | None, path: Path) -> Raster:
        """With the bands that are given, or the first three, or the only one.

        Raises:
            DataError: A band that there is not.
        """
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
        values = self.source.read(self.bands, out_shape=shape, masked=True).compressed()
        if not len(values):
            return 0.0, 1.0
        low, high = np.percentile(values, [2, 98])
        return float(low), float(max(high, low + 1e-6))

    def read(self, rows: Span, columns: Span) -> NDArray[np.uint8]:
        """The pixels (3, H, W) that the windows of a part need."""
        place = Window.from_slices((rows.first, rows.last), (columns.first, columns.last))
        return self._eight_bits(self.source.read(self.bands, window=place))

    def known(self, rows: Span, columns: Span) -> NDArray[np.bool_]:
        """The pixels (H, W) of a part that hold data."""
        place = Window.from_slices((rows.start, rows.stop), (columns.start, columns.stop))
        masks = self.source.read_masks(self.bands, window=place) > 0
        known: NDArray[np.bool_] = masks.any(axis=0)
        return known

    def small(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The whole image at a small size (H, W, 3)."""
        read = self.source.read(self.bands, out_shape=(3, *size), resampling=Resampling.average)
        return self._eight_bits(read).transpose(1, 2, 0)

    def _eight_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        if values.dtype == np.uint8:
            return values
        scaled = (values.astype(np.float32) - self.low) / (self.high - self.low)
        return (255 * scaled.clip(0, 1)).astype(np.uint8)


# ------------------------------------------------------------------------ labelling


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a warning about images that have no place on the earth, as photographs have none.

    GDAL keeps blocks in memory, by default a twentieth of all there is.
    """
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _is_ours(path: Path) -> bool:
    """Whether a GeoTIFF says that the program has written it."""
    try:
        with rasterio.open(path) as file:
            return str(file.tags().get("TIFFTAG_SOFTWARE", "")).startswith(MARK)
    except RasterioError:
        return False


@dataclass(frozen=True)
class TiledJob:
    """Large images to label, part by part.

    Attributes:
        predictor: The model.
        text: The classes, encoded by it.
        out: Folder for the results.
        side: About so many pixels of each side of a part.
        threshold: Pixels whose best class is less confident (0..1) get no class.
        bands: Numbers of the bands for red, green and blue.
    """

    predictor: Predictor
    text: TextFeatures
    out: Path
    side: int = 4096
    threshold: float | None = None
    bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done in parts, before any image."""
        assert self.settings.window is not None

    @property
    def settings(self) -> InferenceSettings:
        """Those of the predictor, for pixels as they are.

        Raises:
            SettingError: Whole images, or a refinement, which looks at the whole image.
        """
        own = self.predictor.inference
        if own.window is None or own.square is not None or own.canvas is not None:
            raise SettingError(
                f"--tile labels by windows, and {type(self.predictor.segmenter).__name__} looks at"
                " the whole image here; give --inference.window, or leave --tile away"
            )
        if own.refinement != "none":
            raise SettingError(
                "--inference.refinement looks at the whole image; remove it, or leave --tile away"
            )
        return replace(own, short_side=None)

    def target(self, item: Item) -> Path:
        """Where the label map of an image belongs."""
        return self.out / (item.name + ENDING)

    def is_done(self, item: Item) -> bool:
        """Whether the image, as it is, has been labelled with the same settings."""
        result = read_result(self.out, item.name)
        if result is None or not self.target(item).is_file():
            return False
        bands = result.told["made_with"].get("tiles", {}).get("bands", [])
        return result.is_of(item.path) and result.told["made_with"] == self.made_with(bands)

    def made_with(self, bands: Sequence[int]) -> dict[str, Any]:
        """What label maps of bands are made with."""
        tiles = {"side": self.side, "bands": list(bands), "asked": self.bands and [*self.bands]}
        return {**self.predictor.made_with(self.text, self.threshold), "tiles": tiles}

    def label(self, item: Item) -> dict[str, Any]:
        """Write the label map of an image as NAME.tif, with NAME.overlay.png and NAME.json.

        A GeoTIFF keeps its georeference; pixels without data have no class.

        Returns:
            What NAME.json says.

        Raises:
            DataError: An image that cannot be read, or results that cannot be written.
        """
        try:
            with _quietly(), rasterio.open(item.path) as source:
                return self._label(Raster.of(source, self.bands, item.path), item)
        except RasterioError as error:
            raise DataError(
                f"the image {item.path} cannot be read ({error}); replace it"
            ) from error

    def _label(self, raster: Raster, item: Item) -> dict[str, Any]:
        totals = np.zeros((2, IGNORE + 1))  # pixels of each label, and the sum of their confidences
        made_with = self.made_with(raster.bands)
        names = self.text.vocabulary
        _, overlaid, told_in = item.results(self.out)
        with replacing(self.target(item), ours=_is_ours(self.target(item))) as beside:
            with rasterio.open(beside, "w", **self._profile(raster)) as written:
                table = class_colours(self.predictor.drawing.palette, names)
                written.write_colormap(1, dict(enumerate(table)))
                written.update_tags(TIFFTAG_SOFTWARE=about())
                written.update_tags(classes=", ".join(names), fingerprint=made_with["fingerprint"])
                self._write_parts(raster, written, totals)
            with rasterio.open(beside) as done:
                drawn = self._drawn(raster, done)
        write_png(overlaid, drawn)
        told = self._told(raster, item.path, totals, made_with)
        write_json(told_in, told)
        return told

    def _profile(self, raster: Raster) -> dict[str, Any]:
        """Of the label map: the image's place on the earth, small blocks, compressed."""
        return {
            "driver": "GTiff",
            "dtype": "uint8",
            "count": 1,
            "height": raster.size[0],
            "width": raster.size[1],
            "crs": raster.source.crs,
            "transform": raster.source.transform,
            "nodata": IGNORE,
            "compress": "deflate",
            "predictor": 2,
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "bigtiff": "if_safer",
        }

    def _write_parts(self, raster: Raster, written: Any, totals: NDArray[np.float64]) -> None:
        """Label band by band; whole rows of blocks are written at once, as each is compressed."""
        done = 0
        waiting: NDArray[np.uint8] = np.zeros((0, raster.size[1]), dtype=np.uint8)
        for band in self._bands(raster, totals):
            waiting = np.concatenate([waiting, band])
            last = done + len(waiting) == raster.size[0]
            ready = len(waiting) if last else len(waiting) // BLOCK * BLOCK
            written.write(waiting[:ready], 1, window=Window(0, done, raster.size[1], ready))
            done, waiting = done + ready, waiting[ready:]

    def _bands(self, raster: Raster, totals: NDArray[np.float64]) -> Iterator[NDArray[np.uint8]]:
        """The label map, some rows after the other."""
        settings = self.settings
        assert settings.window is not None
        window, stride = settings.window, settings.stride or settings.window
        rows, columns = (spans(side, window, stride, self.side) for side in raster.size)
        for row in rows:
            parts = [self._part(raster, row, column, totals) for column in columns]
            yield np.concatenate(parts, axis=1)

    def _part(
        self, raster: Raster, rows: Span, columns: Span, totals: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """The label map of one part."""
        run = self.predictor.run
        batch = torch.from_numpy(raster.read(rows, columns)).unsqueeze(0)
        maps = label_maps(
            self.predictor.segmenter,
            batch.to(self.predictor.segmenter.device),
            self.text,
            self.settings,
            seen=None if run is None else run.calibrated_ids(self.text.vocabulary),
            threshold=self.threshold,
        )
        inside = (
            slice(rows.start - rows.first, rows.stop - rows.first),
            slice(columns.start - columns.first, columns.stop - columns.first),
        )
        labels = maps.labels[0][inside].to(torch.uint8).cpu().numpy()
        labels = np.where(raster.known(rows, columns), labels, IGNORE).astype(np.uint8)
        confidence = maps.confidence[0][inside].cpu().numpy()
        totals[0] += np.bincount(labels.ravel(), minlength=IGNORE + 1)
        totals[1] += np.bincount(labels.ravel(), confidence.ravel(), minlength=IGNORE + 1)
        return labels

    def _drawn(self, raster: Raster, done: Any) -> Image.Image:
        """A small overlay."""
        factor = min(1.0, SHOWN / max(raster.size))
        size = (max(1, round(raster.size[0] * factor)), max(1, round(raster.size[1] * factor)))
        labels = done.read(1, out_shape=size, resampling=Resampling.nearest)
        drawing = self.predictor.drawing
        return overlay(raster.small(size), labels, self.text.vocabulary, (), drawing)

    def _told(
        self, raster: Raster, path: Path, totals: NDArray[np.float64], made_with: dict[str, Any]
    ) -> dict[str, Any]:
        """What the numbers say, as those of `Segmentation.as_dict`."""
        told = numbers(self.text.vocabulary, totals[0], totals[1], raster.size)
        return {**told, "image": file_state(path), "made_with": made_with}
