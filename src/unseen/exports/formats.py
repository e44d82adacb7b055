"""The table of formats, and the export of a folder of label maps to one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from unseen.arguments import checked
from unseen.errors import DataError, SettingError, UnseenError
from unseen.exports.coco import write_coco, write_panoptic
from unseen.exports.datumaro import write_datumaro
from unseen.exports.folders import RECORD, check_export_folder, replacing_folder
from unseen.exports.geo import write_geo
from unseen.exports.images import ImagePlacer
from unseen.exports.label_studio import write_label_studio
from unseen.exports.maps import write_cvat, write_png, write_voc
from unseen.exports.writers import Format, LeftOutError
from unseen.exports.yolo import write_yolo
from unseen.files import write_json
from unseen.labelling.results import Result, find_results
from unseen.settings import EXPORTS, ExportSettings, FormatName, known_formats

FORMATS: dict[FormatName, Format] = {
    "png": Format(write_png, "label maps counted from 1: FiftyOne, napari", "data"),
    "coco": Format(write_coco, "a mask a class, as runs: CVAT, Roboflow, pycocotools", "images"),
    "coco-panoptic": Format(write_panoptic, "one map an image, as COCO's panoptic ones", "images"),
    "cvat": Format(write_cvat, "a zip to import as Segmentation mask 1.1"),
    "label-studio": Format(write_label_studio, "tasks with brush labels, and the interface"),
    "yolo": Format(write_yolo, "outlines of regions", "images", ("rasterio", "shapely")),
    "datumaro": Format(write_datumaro, "a mask a class, for Datumaro", "images/default"),
    "voc": Format(write_voc, "label maps in VOC's colours", "JPEGImages"),
    "geo": Format(
        write_geo,
        "polygons in their place on the earth: QGIS",
        needs=("rasterio", "shapely", "pyogrio"),
        reads_images=True,
    ),
}


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        format: Its name.
        folder: Where it lies.
        images: How many label maps it holds.
        changed: Share of their pixels, in 0..1, of which the format does not hold the class, or
            that there is none, as it is.
        failed: What kept others out.
    """

    format: FormatName
    folder: Path
    images: int
    changed: float
    failed: tuple[UnseenError, ...] = ()


def is_installed(name: FormatName) -> bool:
    """Whether the modules of a format are there."""
    return all(find_spec(module) for module in FORMATS[name].needs)


def check_installed(names: Sequence[FormatName]) -> None:
    """Refuse formats whose modules are not there.

    Raises:
        SettingError: Names the format and what to install.
    """
    for name in names:
        if not is_installed(name):
            needs = " and ".join(FORMATS[name].needs)
            raise SettingError(f"{name} needs {needs}; install them with pip install 'unseen[geo]'")


def export(
    results: Iterable[Result],
    names: Sequence[str],
    name: FormatName,
    folder: Path,
    settings: ExportSettings,
) -> Exported:
    """Write label maps in a format into a folder, which appears when it is whole.

    A label map that cannot be read, and an image that has gone, are told and left out.

    Args:
        results: The label maps.
        names: Their classes, in the order of the ids.
        name: Of the format.
        folder: For it alone; an earlier export in it is replaced.
        settings: What can be chosen.

    Raises:
        DataError: The folder is no export, was changed since, or cannot be written.
        VocabularyError: A class name that the format cannot hold.
    """
    form = FORMATS[name]
    pixels, changed, written, failed = 0, 0, 0, list[UnseenError]()
    with replacing_folder(folder) as beside, closing(ImagePlacer()) as images:
        with form.write(beside, names, settings) as add:
            for result in results:
                try:
                    labels = result.read_labels()
                except DataError as error:
                    failed.append(error)
                    continue
                try:
                    changed += add(result, labels)
                except LeftOutError as error:
                    failed.append(error)
                    continue
                pixels += labels.size
                written += 1
                if settings.with_images and form.images is not None:
                    failed += images.place(result, beside / form.images)
        share = changed / max(pixels, 1)
        told = {"format": name, "images": written, "classes": list(names), "changed": share}
        write_json(beside / RECORD, told)
    return Exported(name, folder, written, share, tuple(failed))


@checked
def export_labels(
    folder: str | Path,
    to: Sequence[str],
    out: str | Path | None = None,
    settings: ExportSettings | None = None,
) -> list[Exported]:
    """Write the label maps of a folder for other tools.

    Args:
        folder: What `unseen segment` or `Segmentation.save` wrote.
        to: Formats, names of `FORMATS`.
        out: Folder to write to, with a folder for each format; FOLDER/exports by default.
        settings: What can be chosen about formats.

    Raises:
        SettingError: An unknown format, or one whose modules are not installed.
        DataError: No label maps, or what cannot be written.
        VocabularyError: A class name that a format cannot hold.
    """
    formats, chosen = known_formats(to), settings or ExportSettings()
    chosen.check_used(formats)
    check_installed(formats)
    results, _ = find_results(Path(folder))
    place = Path(folder) / EXPORTS if out is None else Path(out)
    for name in formats:
        check_export_folder(place / name)
    names = results[0].class_names
    return [export(results, names, name, place / name, chosen) for name in formats]
