"""Eigen-segments of images: computed when asked for, or kept in a folder.

FOLDER/NAME.safetensors   eigenvalues (K), eigenvectors (K, N); in its header grid, sizes, settings
and the network's fingerprint
FOLDER/NAME_k0.png ...    the K segments as SAZS reads them: 0 and 255, one channel, at the
image's size
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unseen.backbones.vit import KeyFeatures
from unseen.errors import DataError, SettingError
from unseen.files import read_labels, replacing
from unseen.segments.spectral import SpectralSettings, Spectrum, spectra


@dataclass(frozen=True)
class SegmentSource:
    """Where the eigen-segments of images come from: a network, or a folder.

    Attributes:
        settings: How they are computed; of a folder, only how many are read.
        keys: The network.
        folder: Where they lie instead.
    """

    settings: SpectralSettings
    keys: KeyFeatures | None = None
    folder: Path | None = None

    def __call__(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """(B, K, H, W) bool, of images (B, 3, H, W) uint8 called so; on the images' device.

        Raises:
            DataError: A folder that does not hold them, or images smaller than a patch.
            SettingError: Images with fewer patches than eigenvectors.
        """
        size = (images.shape[-2], images.shape[-1])
        if self.folder is not None:
            found = [
                stored_segments(self.folder, name, size, self.settings.count) for name in names
            ]
        else:
            assert self.keys is not None
            found = [
                each.segments
                for each in spectra(self.keys(images), images, self.keys.patch_size, self.settings)
            ]
        return torch.stack(found).to(images.device)


@dataclass(frozen=True)
class Extracted:
    """One image of `extract`."""

    name: str
    image: Tensor
    spectrum: Spectrum
    fresh: bool


def extract(
    pictures: Iterable[tuple[str, Tensor]],
    keys: KeyFeatures,
    settings: SpectralSettings,
    folder: Path,
    *,
    png: bool = False,
) -> Iterable[Extracted]:
    """Compute and keep the spectra of images (3, H, W) uint8, one by one; what lies in the folder
    already is read instead.

    Args:
        pictures: Names, under which files are written, and images.
        keys: The network, on its device.
        settings: How.
        folder: Where to.
        png: Write the segments as PNGs too.

    Raises:
        SettingError: The folder holds spectra of another network, other settings or other sizes.
        DataError: An image that has none (`unseen.segments.spectral`), or a folder that cannot be written
            to.
    """
    about = {"features": keys.source, "fingerprint": keys.fingerprint, **asdict(settings)}
    for name, image in pictures:
        path, size = folder / f"{name}.safetensors", (image.shape[-2], image.shape[-1])
        fresh = not path.exists()
        if fresh:
            try:
                found = spectra(
                    keys(image[None].to(keys.mean.device)), image[None], keys.patch_size, settings
                )[0]
            except (DataError, SettingError) as error:
                raise type(error)(f"{name}: {error}") from error
            _save(path, found, about)
        else:
            found, stored = load_spectrum(path)
            before = {**stored, "size": found.size}
            other = next(
                (key for key, value in {**about, "size": size}.items() if before.get(key) != value),
                None,
            )
            if other is not None:
                mine = {**about, "size": size}[other]
                raise SettingError(
                    f"{path} was made with {other} {before.get(other)!r}, not {mine!r}; choose"
                    " another --out, or remove what lies there"
                )
        masks = [folder / f"{name}_k{k}.png" for k in range(settings.count)]
        if png and not all(mask.exists() for mask in masks):
            write_masks(folder, name, found.segments)
        yield Extracted(name, image, found, fresh)


def _save(path: Path, found: Spectrum, about: dict[str, Any]) -> None:
    tensors = {
        "eigenvalues": torch.from_numpy(found.eigenvalues),
        "eigenvectors": torch.from_numpy(found.eigenvectors),
    }
    shapes = {"grid": found.grid, "covers": found.covers, "size": found.size}
    with replacing(path) as beside:
        try:
            save_file(tensors, beside, metadata={"unseen": json.dumps({**shapes, **about})})
        except SafetensorError as error:  # its words for a full disk
            raise OSError(str(error)) from error


def load_spectrum(path: Path) -> tuple[Spectrum, dict[str, Any]]:
    """A kept spectrum, and how it was made.

    Raises:
        DataError: Not a file that `extract` wrote, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["unseen"])
            values, vectors = (
                file.get_tensor("eigenvalues").numpy(),
                file.get_tensor("eigenvectors").numpy(),
            )
        grid, covers, size = (
            (int(about[key][0]), int(about[key][1])) for key in ("grid", "covers", "size")
        )
        if vectors.shape != (len(values), grid[0] * grid[1]) or not (
            np.isfinite(vectors).all() and np.isfinite(values).all()
        ):
            raise ValueError("its vectors do not fit its grid")
        if not all(0 < inside <= whole for inside, whole in zip(covers, size, strict=True)):
            raise ValueError("its grid does not fit its image")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not hold the eigenvectors of an image ({error}); remove it and run"
            " `unseen eigenvectors` again"
        ) from error
    return Spectrum(values, vectors, grid, covers, size), about


def write_masks(folder: Path, name: str, segments: Tensor) -> None:
    """Write segments (K, H, W) bool as `NAME_k0.png`, `NAME_k1.png`, ...: 0 and 255."""
    for k, segment in enumerate(segments.cpu().numpy()):
        with replacing(folder / f"{name}_k{k}.png") as beside:
            Image.fromarray(segment.astype(np.uint8) * 255).save(
                beside, format="PNG", optimize=True
            )


def stored_segments(folder: Path, name: str, size: tuple[int, int], count: int) -> Tensor:
    """The first `count` segments (K, H, W) bool of an image of `size` (H, W), from its spectrum if
    that lies in the folder, else from its PNGs.

    Raises:
        DataError: There are none or too few, they belong to an image of another size, or a PNG
            holds other values than 0 and 255.
    """
    path = folder / f"{name}.safetensors"
    if path.exists():
        found = load_spectrum(path)[0]
        if len(found.eigenvalues) < count:
            raise DataError(_too_few(path, len(found.eigenvalues), count))
        _check_size(path, found.size, size)
        return found.segments[:count]
    masks = [folder / f"{name}_k{k}.png" for k in range(count)]
    there = next((k for k, mask in enumerate(masks) if not mask.exists()), count)
    if there == 0:
        raise DataError(
            f"{folder} holds no segments of {name} ({name}.safetensors or {name}_k0.png); make them"
            " with `unseen eigenvectors`"
        )
    if there < count:
        raise DataError(_too_few(folder / f"{name}_k*.png", there, count))
    rows = []
    for mask in masks:
        pixels = read_labels(mask)
        _check_size(mask, (pixels.shape[0], pixels.shape[1]), size)
        odd = pixels[(pixels != 0) & (pixels != 255)]
        if odd.size:
            raise DataError(
                f"{mask} holds the value {odd[0]}; a segment is 0 outside and 255 inside: save it"
                " so, without smoothing"
            )
        rows.append(torch.from_numpy(pixels == 255))
    return torch.stack(rows)


def _too_few(where: Path, there: int, count: int) -> str:
    return (
        f"{where} holds {there} of {count} eigenvectors; make them again with --count {count}, or"
        f" ask for fewer with --inference.segments_count {there}"
    )


def _check_size(path: Path, stored: tuple[int, int], size: tuple[int, int]) -> None:
    if stored != size:
        raise DataError(
            f"{path} was made for an image of {stored[1]}x{stored[0]} pixels, and this one has"
            f" {size[1]}x{size[0]}; make it again"
        )
