"""Images that are too large for memory: read, labelled and written part by part.

A part is labelled with all windows that reach into it, so the result is that of the whole image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from unseen.errors import DataError, SettingError
from unseen.files import MARK, TILED, about, is_whole, replacing, write_json, write_png
from unseen.inference import label_maps, uncertainty, window_starts
from unseen.labelling.jobs import Job, Outcome
from unseen.labelling.rasters import Raster, Span, without_warnings
from unseen.labelling.results import Result
from unseen.labelling.sources import Item
from unseen.labels import IGNORE
from unseen.palettes import class_colours
from unseen.segmentation import numbers
from unseen.settings import InferenceSettings
from unseen.visualize import overlay

BLOCK = 512
"""Rows and columns of a block of the GeoTIFFs that are written."""
SHOWN = 2000
"""Longer side of overlays, in pixels."""


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


# ------------------------------------------------------------------------ labelling


def _is_ours(path: Path) -> bool:
    """Whether a GeoTIFF says that the program has written it."""
    try:
        with rasterio.open(path) as file:
            return str(file.tags().get("TIFFTAG_SOFTWARE", "")).startswith(MARK)
    except RasterioError:
        return False


class Totals:
    """What is counted of an image, part after part."""

    def __init__(self) -> None:
        self.counts = np.zeros(IGNORE + 1)  # pixels of each label
        self.confidence = np.zeros(IGNORE + 1)  # the sum of their confidences
        self.margin = self.entropy = 0.0  # the sums over pixels

    def add(
        self, labels: NDArray[np.uint8], confidence: NDArray[np.float32], sure: tuple[float, float]
    ) -> None:
        """Count a part (H, W): its labels, their confidence, its mean margin and entropy."""
        self.counts += np.bincount(labels.ravel(), minlength=IGNORE + 1)
        self.confidence += np.bincount(labels.ravel(), confidence.ravel(), minlength=IGNORE + 1)
        self.margin += sure[0] * labels.size
        self.entropy += sure[1] * labels.size

    def told(self, names: Sequence[str], size: tuple[int, int]) -> dict[str, Any]:
        """What the numbers say, as those of `Segmentation.as_dict`."""
        pixels = size[0] * size[1]
        return {
            **numbers(names, self.counts, self.confidence, size),
            "margin": round(self.margin / pixels, 4),
            "entropy": round(self.entropy / pixels, 4),
        }


@dataclass(frozen=True)
class TiledJob(Job):
    """A job of large images, which are labelled part by part.

    Attributes:
        side: About so many pixels of each side of a part.
        bands: Numbers of the bands for red, green and blue.
    """

    side: int = 4096
    bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done in parts, before any image."""
        super().__post_init__()
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

    @property
    def made_with(self) -> dict[str, Any]:
        """What the label maps are made with: nothing is resized."""
        return self.predictor.made_with(self.text, self.threshold, self.settings)

    def target(self, item: Item) -> Path:
        """Where the label map of an image belongs."""
        return self.out / (item.name + TILED)

    def is_complete(self, item: Item, result: Result) -> bool:
        """Whether the label map is there, in these parts and of these bands."""
        tiles = result.told["made_with"].get("tiles", {})
        files = (self.target(item), item.results(self.out)[1])
        return all(map(is_whole, files)) and tiles == self._tiles(tiles.get("bands", []))

    def _tiles(self, bands: Sequence[int]) -> dict[str, Any]:
        """Besides `made_with`, what the label map of bands of an image is made with."""
        return {"side": self.side, "bands": [*bands], "asked": self.bands and [*self.bands]}

    def outcomes(self, items: Sequence[Item]) -> Iterator[Outcome]:
        """What comes of each image, in their order."""
        for item in items:
            try:
                yield item, self.label(item)
            except DataError as error:
                yield item, error

    def label(self, item: Item) -> dict[str, Any]:
        """Write the label map of an image as NAME.tif, with NAME.overlay.png and NAME.json.

        A GeoTIFF keeps its georeference; pixels without data have no class.

        Returns:
            What NAME.json says.

        Raises:
            DataError: An image that cannot be read, or results that cannot be written.
        """
        try:
            with without_warnings(), rasterio.open(item.path) as source:
                return self._label(Raster.of(source, self.bands, item.path), item)
        except RasterioError as error:
            raise DataError(
                f"the image {item.path} cannot be read ({error}); replace it"
            ) from error

    def _label(self, raster: Raster, item: Item) -> dict[str, Any]:
        totals, names = Totals(), self.text.vocabulary
        made_with = {**self.made_with, "tiles": self._tiles(raster.bands)}
        _, overlaid, told_in = item.results(self.out)
        with replacing(self.target(item), ours=_is_ours(self.target(item))) as beside:
            with rasterio.open(beside, "w", **self._profile(raster)) as written:
                table = class_colours(self.predictor.drawing.palette, names)
                written.write_colormap(1, dict(enumerate(table)))
                written.update_tags(TIFFTAG_SOFTWARE=about())
                # The same text as in the label maps of other images.
                told_inside = {"image": item.state, **made_with}
                written.update_tags(unseen=json.dumps(told_inside, ensure_ascii=False))
                points, system = raster.source.gcps
                if points:  # a place that is said by single points
                    written.gcps = (points, system)
                self._write_parts(raster, written, totals)
            with rasterio.open(beside) as done:
                drawn = self._drawn(raster, done)
        write_png(overlaid, drawn)
        told = totals.told(names, raster.size)
        told |= {"image": item.state, "made_with": made_with}
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

    def _write_parts(self, raster: Raster, written: Any, totals: Totals) -> None:
        """Label band by band; whole rows of blocks are written at once, as each is compressed."""
        done = 0
        waiting: NDArray[np.uint8] = np.zeros((0, raster.size[1]), dtype=np.uint8)
        for band in self._bands(raster, totals):
            waiting = np.concatenate([waiting, band])
            last = done + len(waiting) == raster.size[0]
            ready = len(waiting) if last else len(waiting) // BLOCK * BLOCK
            written.write(waiting[:ready], 1, window=Window(0, done, raster.size[1], ready))
            done, waiting = done + ready, waiting[ready:]

    def _bands(self, raster: Raster, totals: Totals) -> Iterator[NDArray[np.uint8]]:
        """The label map, some rows after the other."""
        settings = self.settings
        assert settings.window is not None
        window, stride = settings.window, settings.stride or settings.window
        rows, columns = (spans(side, window, stride, self.side) for side in raster.size)
        for row in rows:
            parts = [self._part(raster, row, column, totals) for column in columns]
            yield np.concatenate(parts, axis=1)

    def _part(self, raster: Raster, rows: Span, columns: Span, totals: Totals) -> NDArray[np.uint8]:
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
        margin, entropy = uncertainty(self.predictor.segmenter, maps.scores, self.text)
        totals.add(labels, confidence, (float(margin[0]), float(entropy[0])))
        return labels

    def _drawn(self, raster: Raster, done: Any) -> Image.Image:
        """A small overlay."""
        factor = min(1.0, SHOWN / max(raster.size))
        size = (max(1, round(raster.size[0] * factor)), max(1, round(raster.size[1] * factor)))
        labels = done.read(1, out_shape=size, resampling=Resampling.nearest)
        drawing = self.predictor.drawing
        return overlay(raster.small(size), labels, self.text.vocabulary, (), drawing)
