"""Where eigen-segments of images come from: a network, or a folder that keeps them.

FOLDER/NAME.safetensors   eigenvalues (K), eigenvectors (K, N); in its header the grid, sizes,
                          settings and the network's fingerprint
FOLDER/NAME_k0.png ...    the K segments as SAZS reads them: 0 and 255, one channel, at the
                          image's size
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unseen.backbones.archives import write_tensors
from unseen.backbones.vit import KeyFeatures, clip_keys, load_keys
from unseen.clip_segmenter import ClipSegmenter
from unseen.errors import DataError, SettingError
from unseen.files import write_png
from unseen.images import read_labels
from unseen.segmenter import Segmenter
from unseen.segments.spectral import Spectrum, spectra
from unseen.settings import InferenceSettings, SpectralSettings


@dataclass(frozen=True)
class SegmentSource:
    """Gives the eigen-segments of images.

    Attributes:
        settings: How they are computed; of a folder, only how many are read.
        keys: The network that computes them, or
        folder: the folder that keeps them.
    """

    settings: SpectralSettings
    keys: KeyFeatures | None = None
    folder: Path | None = None

    def __call__(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """The segments (B, K, H, W) bool of images (B, 3, H, W) uint8, on the images' device.

        Args:
            images: All of one size.
            names: Their names, by which a folder keeps them.

        Raises:
            DataError: A folder that does not hold them, or images smaller than a patch.
            SettingError: Images with fewer patches than eigenvectors.
        """
        if self.folder is not None:
            size = (images.shape[-2], images.shape[-1])
            segments = [
                stored_segments(self.folder, name, size, self.settings.count) for name in names
            ]
        else:
            # `segment_source` gives a source either a folder or a network.
            assert self.keys is not None
            solved = spectra(self.keys(images), images, self.keys.patch_size, self.settings)
            segments = [spectrum.segments for spectrum in solved]
        return torch.stack(segments).to(images.device)


def segment_source(segmenter: Segmenter, settings: InferenceSettings) -> SegmentSource:
    """The source that inference settings name; by default the tower of the method itself.

    Raises:
        DataError: A folder that does not exist.
        SettingError: No network is named, and the method has no CLIP tower.
        CheckpointError: Weights that cannot be loaded.
    """
    # The order of precedence: a folder, a named network, the method's own tower.
    spectral = SpectralSettings(settings.segments_count)
    if settings.segments_dir is not None:
        folder = Path(settings.segments_dir)
        if not folder.is_dir():
            raise DataError(
                f"the folder of segments {folder} does not exist; make it with"
                " `unseen eigenvectors`"
            )
        return SegmentSource(spectral, folder=folder)
    if settings.segments_features is not None:
        keys = load_keys(settings.segments_features).to(segmenter.device)
        return SegmentSource(spectral, keys)
    if not isinstance(segmenter, ClipSegmenter):
        raise SettingError(
            f"{type(segmenter).__name__} has no CLIP tower to take keys from; name a network with"
            " --inference.segments_features"
        )
    return SegmentSource(spectral, clip_keys(segmenter.clip))


# --------------------------------------------------------------------- a folder


@dataclass(frozen=True)
class Extracted:
    """The eigenvectors of one image, as `extract` yields them.

    Attributes:
        name: Of the image.
        image: (3, H, W) uint8.
        spectrum: Eigenvalues and eigenvectors.
        fresh: They were computed now, not read from the folder.
    """

    name: str
    image: Tensor
    spectrum: Spectrum
    fresh: bool


def extract(
    images: Iterable[tuple[str, Tensor]],
    keys: KeyFeatures,
    settings: SpectralSettings,
    folder: Path,
    *,
    png: bool = False,
) -> Iterator[Extracted]:
    """Compute and keep the eigenvectors of images one by one, or read them if they are there.

    Args:
        images: Names, by which files are written, and images (3, H, W) uint8.
        keys: The network, on its device.
        settings: How they are computed.
        folder: To write to.
        png: Write the segments as PNGs too.

    Raises:
        SettingError: The folder holds eigenvectors of another network, other settings or other
            sizes.
        DataError: An image that has none (`unseen.segments.spectral`), or a folder that cannot be
            written to.
    """
    recipe = {"features": keys.source, "fingerprint": keys.fingerprint, **asdict(settings)}
    fingerprint_0_1 = _fingerprint_0_1(keys)
    for name, image in images:
        path = folder / f"{name}.safetensors"
        # A stopped run goes on where it was: finished files are read, and must be of this recipe.
        fresh = not path.exists()
        if fresh:
            spectrum = _compute(name, image, keys, settings)
            _save(path, spectrum, recipe)
        else:
            size = (image.shape[-2], image.shape[-1])
            spectrum = _load_same(path, {**recipe, "size": size}, fingerprint_0_1)
        # PNGs may be asked for in a later run: they are then written from the kept vectors.
        masks = [folder / f"{name}_k{k}.png" for k in range(settings.count)]
        if png and not all(mask.exists() for mask in masks):
            write_masks(folder, name, spectrum.segments)
        yield Extracted(name, image, spectrum, fresh)


def _compute(name: str, image: Tensor, keys: KeyFeatures, settings: SpectralSettings) -> Spectrum:
    """The eigenvectors of one image; errors name it."""
    try:
        features = keys(image[None].to(keys.mean.device))
        return spectra(features, image[None], keys.patch_size, settings)[0]
    # With thousands of images, a message without the image's name is of no use.
    except (DataError, SettingError) as error:
        raise type(error)(f"{name}: {error}") from error


def _fingerprint_0_1(keys: KeyFeatures) -> str:
    """What version 0.1 stored as the fingerprint: a hash of three matrices, and of mean and std."""
    tensors = [
        tensor
        for tensor in keys.network.state_dict().values()
        if tensor.is_floating_point() and tensor.ndim > 1
    ]
    digest = hashlib.sha256()
    for tensor in (tensors[0], tensors[len(tensors) // 2], tensors[-1], keys.mean, keys.std):
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _load_same(path: Path, recipe: dict[str, Any], fingerprint_0_1: str) -> Spectrum:
    """Kept eigenvectors that were computed as they would be now, from an image of the same size."""
    spectrum, stored = load_spectrum(path)
    stored = {**stored, "size": spectrum.size}
    # Folders of version 0.1 are read on: they name the same network by the hash of that version.
    if stored.get("fingerprint") == fingerprint_0_1:
        stored["fingerprint"] = recipe["fingerprint"]
    for key, value in recipe.items():
        if stored.get(key) != value:
            raise SettingError(
                f"{path} was made with {key} {stored.get(key)!r}, not {value!r}; choose another"
                " --out, or remove the file"
            )
    return spectrum


def _save(path: Path, spectrum: Spectrum, recipe: dict[str, Any]) -> None:
    tensors = {
        "eigenvalues": torch.from_numpy(spectrum.eigenvalues),
        "eigenvectors": torch.from_numpy(spectrum.eigenvectors),
    }
    shapes = {"grid": spectrum.grid, "covers": spectrum.covers, "size": spectrum.size}
    write_tensors(path, tensors, {"unseen": json.dumps({**shapes, **recipe})})


def load_spectrum(path: Path) -> tuple[Spectrum, dict[str, Any]]:
    """Kept eigenvectors of an image, and the settings and network they were made with.

    Raises:
        DataError: Not a file that `extract` wrote, or a damaged one.
    """
    if not path.is_file():  # a pipe would be read for ever
        raise DataError(
            f"{path} is not a plain file; remove it and run `unseen eigenvectors` again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["unseen"])
            values = file.get_tensor("eigenvalues").numpy()
            vectors = file.get_tensor("eigenvectors").numpy()
        # Everything is checked here: the file may come from anywhere.
        grid, covers, size = (
            (int(about[key][0]), int(about[key][1])) for key in ("grid", "covers", "size")
        )
        # NaNs would become empty segments without a message.
        finite = np.isfinite(vectors).all() and np.isfinite(values).all()
        if not finite or vectors.shape != (len(values), grid[0] * grid[1]):
            raise ValueError("its vectors do not fit its grid")
        # The grid covers whole patches, and at most a border narrower than one is left over.
        if not all(0 < covered <= side for covered, side in zip(covers, size, strict=True)):
            raise ValueError("its grid does not fit its image")
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} does not hold the eigenvectors of an image ({error}); remove it and run"
            " `unseen eigenvectors` again"
        ) from error
    return Spectrum(values, vectors, grid, covers, size), about


def write_masks(folder: Path, name: str, segments: Tensor) -> None:
    """Write segments (K, H, W) bool as `NAME_k0.png`, `NAME_k1.png`, ...: 0 and 255."""
    for k, segment in enumerate(segments.cpu().numpy()):
        mask = Image.fromarray(segment.astype(np.uint8) * 255)
        write_png(folder / f"{name}_k{k}.png", mask, small=True)


def stored_segments(folder: Path, name: str, size: tuple[int, int], count: int) -> Tensor:
    """The first segments of an image that a folder keeps, as eigenvectors or else as PNGs.

    Args:
        folder: Where they are.
        name: Of the image.
        size: Height and width of the image.
        count: How many segments, K.

    Returns:
        (K, H, W) bool.

    Raises:
        DataError: There are none or too few, they belong to an image of another size, or a PNG
            holds other values than 0 and 255.
    """
    path = folder / f"{name}.safetensors"
    # Folders of the released code hold PNGs alone.
    if not path.exists():
        return _read_masks(folder, name, size, count)
    spectrum = load_spectrum(path)[0]
    _check_count(path, len(spectrum.eigenvalues), count)
    _check_size(path, spectrum.size, size)
    return spectrum.segments[:count]


def _read_masks(folder: Path, name: str, size: tuple[int, int], count: int) -> Tensor:
    """As `stored_segments`, from PNGs."""
    # Segments are numbered without gaps: behind a missing one nothing is read.
    masks = []
    for k in range(count):
        path = folder / f"{name}_k{k}.png"
        if not path.exists():
            break
        masks.append(path)
    if not masks:
        raise DataError(
            f"{folder} holds no segments of {name} ({name}.safetensors or {name}_k0.png); make them"
            " with `unseen eigenvectors`"
        )
    _check_count(folder / f"{name}_k*.png", len(masks), count)
    segments = []
    for mask in masks:
        pixels = read_labels(mask)
        _check_size(mask, (pixels.shape[0], pixels.shape[1]), size)
        # Smoothed when it was resized, or a JPEG once: a threshold here would hide it.
        others = pixels[(pixels != 0) & (pixels != 255)]
        if others.size:
            raise DataError(
                f"{mask} holds the value {others[0]}; a segment is 0 outside and 255 inside: save"
                " the mask without smoothing"
            )
        segments.append(torch.from_numpy(pixels == 255))
    return torch.stack(segments)


def _check_count(path: Path, stored: int, count: int) -> None:
    if stored < count:
        raise DataError(
            f"{path} holds {stored} of {count} eigenvectors; make them again with --count {count},"
            f" or ask for fewer with --inference.segments_count {stored}"
        )


def _check_size(path: Path, stored: tuple[int, int], size: tuple[int, int]) -> None:
    if stored != size:
        raise DataError(
            f"{path} was made for an image of {stored[1]}x{stored[0]} pixels, and this one has"
            f" {size[1]}x{size[0]}; make it again"
        )
