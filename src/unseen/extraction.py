"""Eigenvectors of a benchmark's or a folder's images, and a sheet of some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from unseen.backbones.vit import load_keys
from unseen.building import device_named
from unseen.data.benchmarks import Benchmark
from unseen.files import SHEET, write_png
from unseen.images import read_image
from unseen.segments.source import extract
from unseen.settings import ExtractionSettings, SpectralSettings
from unseen.visualize import segments_sheet, spread


def extract_images(
    source: str,
    images: Benchmark | Sequence[Path],
    out: Path,
    root: Path | None,
    spectral: SpectralSettings,
    how: ExtractionSettings,
) -> tuple[int, int]:
    """Compute and keep the eigenvectors of images; writes a sheet of some of them.

    Args:
        source: What was given, for the title.
        images: A benchmark, or the images of a folder.
        out: Folder to write to.
        root: Where the benchmark's data lie.
        spectral: How they are computed.
        how: Images, network, and what is written.

    Returns:
        How many images were computed, and how many were there already.

    Raises:
        UnseenError: A network that cannot be loaded, an image without eigenvectors, or a folder
            that holds others.
    """
    title, total, pairs = _read(source, images, root, how.split)
    keys = load_keys(how.features).to(device_named(how.device))
    count = total
    if how.limit is not None:
        count = min(how.limit, total)
    wanted, rows, fresh = set(spread(count, how.shown)), [], 0
    first = (pair for pair, _ in zip(pairs, range(count), strict=False))
    made = extract(first, keys, spectral, out, png=how.png)
    progress = track(
        made, description="eigenvectors", total=count, transient=True, disable=not how.progress
    )
    for i, item in enumerate(progress):
        fresh += item.fresh
        if i in wanted:
            values = item.spectrum.eigenvalues.tolist()
            pixels = item.image.permute(1, 2, 0).numpy()
            rows.append((item.name, pixels, item.spectrum.segments.numpy(), values))
    if rows:
        line = (
            f"{spectral.count} eigenvectors of the keys of {how.features}; segment 0 is the"
            " constant one; a segment and its complement are one cut"
        )
        image = segments_sheet(rows, title=f"Spectral segments of {title}", subtitle=line)
        write_png(out / SHEET, image)
    return fresh, count - fresh


def _read(
    source: str, images: Benchmark | Sequence[Path], root: Path | None, split: str | None
) -> tuple[str, int, Iterator[tuple[str, Tensor]]]:
    """Title, number, and the images (3, H, W) uint8 with their names."""
    if isinstance(images, Benchmark):
        data = images.data(split or "val", root)
        samples = (data[i] for i in range(len(data)))
        return images.title, len(data), ((sample.name, sample.image) for sample in samples)
    pixels = ((file.stem, read_image(file, upright=True)) for file in images)
    pairs = ((name, torch.from_numpy(image).permute(2, 0, 1)) for name, image in pixels)
    return Path(source).name, len(images), pairs
