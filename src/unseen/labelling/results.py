"""Label maps that were made before, as they lie in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.errors import DataError, SettingError
from unseen.files import MANIFEST, RESULTS, RESULTS_FORMAT, TILED, file_state
from unseen.labelling.sources import Item
from unseen.labels import IGNORE


@dataclass(frozen=True)
class Result:
    """A labelled image in a folder of results.

    Attributes:
        folder: Of the results.
        name: Of the results below it, with "/" between folders and without ending.
        told: The numbers beside the label map.
        apart: Whether another result has an image of the same name, so that exports go by `name`.
    """

    folder: Path
    name: str
    told: dict[str, Any]
    apart: bool = False

    @property
    def image(self) -> Path | None:
        """The image's file; None if it came from none."""
        origin = self.told["image"]
        return None if origin is None else Path(origin["file"])

    @property
    def frame(self) -> int | None:
        """Which frame of the file the image is; None if that is no video."""
        return None if self.told["image"] is None else self.told["image"].get("frame")

    @property
    def file_name(self) -> str:
        """The image's file below the folder that was labelled, with "/" between folders.

        One that came from no file, and a frame of a video, is named as a PNG.
        """
        if self.image is None or self.frame is not None:
            return f"{self.name}.png"
        if self.apart:
            return self.name + self.image.suffix
        return PurePosixPath(self.name).with_name(self.image.name).as_posix()

    @property
    def stem(self) -> str:
        """`file_name` without its ending."""
        return PurePosixPath(self.file_name).with_suffix("").as_posix()

    @property
    def fingerprint(self) -> str | None:
        """Of what the label map was made with; None for one that was made by hand."""
        fingerprint: str | None = self.told["made_with"].get("fingerprint")
        return fingerprint

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.told["height"], self.told["width"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the ids."""
        return tuple(entry["name"] for entry in self.told["classes"])

    @property
    def is_tiled(self) -> bool:
        """Whether the image was labelled in parts."""
        return "tiles" in self.told["made_with"]

    @property
    def label_map(self) -> Path:
        """Its label map: a PNG, or the GeoTIFF of an image in parts."""
        return self.folder / f"{self.name}{TILED if self.is_tiled else RESULTS[0]}"

    def is_of(self, image: Path) -> bool:
        """Whether an image's file is there and as it was, wherever it lies."""
        state, origin = file_state(image), self.told["image"] or {}
        # Not by its path, which depends on the folder that one is in.
        return state is not None and all(
            origin.get(key) == state[key] for key in ("bytes", "changed")
        )

    def read_labels(self) -> NDArray[np.uint8]:
        """The label map (H, W); 255 where there is no class.

        Raises:
            DataError: It cannot be read, or is not what the numbers say.
        """
        path = self.label_map
        try:
            labels = _read_geotiff(path) if self.is_tiled else _read_png(path)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"the label map {path} cannot be read; label the image again") from (
                error
            )
        count = len(self.class_names)
        known = labels.dtype == np.uint8 and labels.shape == self.size
        if not known or (labels[labels != IGNORE] >= count).any():
            raise DataError(
                f"the label map {path} is not the one that {self.name}.json tells of; label the"
                " image again"
            )
        return labels


def _read_png(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def _read_geotiff(path: Path) -> NDArray[Any]:
    """A label map of any size.

    Raises:
        SettingError: rasterio is not installed.
    """
    try:
        import rasterio
    except ModuleNotFoundError as error:
        raise SettingError(
            f"{path} was written in parts, and to read it needs rasterio; install it with pip"
            " install 'unseen[geo]'"
        ) from error
    from unseen.labelling.rasters import without_warnings

    with without_warnings(), rasterio.open(path) as file:
        labels: NDArray[Any] = file.read(1)
    return labels


def find_results(folder: Path) -> tuple[list[Result], int]:
    """The results in a folder and all folders in it, and how many others were left out.

    Where the folder was a job's, results of other settings than the last are left out.

    Raises:
        DataError: No results, or results with other classes than the rest.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give the folder that label maps are in")
    found = list(_told_in(folder))
    wanted = read_manifest(folder).get("fingerprint")
    results = [result for result in found if wanted is None or result.fingerprint == wanted]
    if not results:
        raise DataError(f"{folder} holds no label maps of unseen segment; check the path")
    _check_classes(results)
    return _told_apart(results), len(found) - len(results)


def _told_apart(results: Sequence[Result]) -> list[Result]:
    """The results with names for exports that are all different.

    Raises:
        DataError: Two that even their own names do not tell apart.
    """
    stems = Counter(result.stem for result in results)
    apart = [replace(result, apart=stems[result.stem] > 1) for result in results]
    known: dict[str, Result] = {}
    for result in apart:
        other = known.setdefault(result.stem, result)
        if other is not result:
            raise DataError(
                f"{other.name}.json and {result.name}.json would be exported under the same name;"
                " label their images into folders of their own"
            )
    return apart


def _told_in(folder: Path) -> Iterator[Result]:
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        result = read_result(folder, name)
        if result is not None:
            yield result


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the last job of a folder was made with; nothing where there is none."""
    return _read_json(folder / MANIFEST) or {}


def read_result(folder: Path, name: str) -> Result | None:
    """The results of a name, or None where there are none of this version's format."""
    told = _read_json(folder / f"{name}.json")
    if told is None or told.get("format") != RESULTS_FORMAT or "made_with" not in told:
        return None
    return Result(folder, name, told)


def _read_json(path: Path) -> dict[str, Any] | None:
    """An object in a file, or None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _check_classes(results: Sequence[Result]) -> None:
    """One list of classes is all that a format holds."""
    first = results[0]
    for result in results:
        if result.class_names != first.class_names:
            raise DataError(
                f"{result.name}.json has other classes than {first.name}.json; label all images"
                " with the same classes, or keep them in folders of their own"
            )


def check_not_of_others(items: Sequence[Item], out: Path) -> None:
    """Refuse to replace the results of another image that is still there.

    Raises:
        DataError: Names both images.
    """
    for item in items:
        result = read_result(out, item.name)
        other = None if result is None else result.image
        if other is None or not other.exists() or not item.path.exists():
            continue
        if not other.samefile(item.path):
            raise DataError(
                f"{out / item.name}.json is of another image, {other}; choose another folder for"
                f" {item.path} with --out, or give both images in one command"
            )
