"""How label maps are written for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args

from unseen.errors import SettingError
from unseen.settings.ranges import SWITCH, check_ranges, number, one_of, shown, text, whole

FormatName = Literal[
    "png", "coco", "coco-panoptic", "cvat", "label-studio", "yolo", "datumaro", "voc", "geo"
]
Vectors = Literal["gpkg", "geojson"]


EXPORTS = "exports"
"""The folder of exports in a folder of results."""


def known_formats(names: Sequence[str]) -> list[FormatName]:
    """Names of formats, which are refused if they are none, or stand twice.

    Raises:
        SettingError: Names the first.
    """
    known = get_args(FormatName)
    for place, name in enumerate(names):
        if name not in known:
            raise SettingError(f"there is no format {shown(name)}; choose among {', '.join(known)}")
        if name in names[:place]:
            raise SettingError(f"the format {name} is given twice; give it once")
    if not names:
        raise SettingError(f"no format is given; choose among {', '.join(known)}")
    return cast("list[FormatName]", list(names))


@dataclass(frozen=True)
class ExportSettings:
    """How label maps are written for other tools.

    Attributes:
        prefix: Goes before the name of an image where a format holds its address: of a folder or a
            server, with the last slash; for Label Studio.
        tolerance: How far an outline may lie from the edge of a class, in pixels; 0 keeps every
            corner; for yolo.
        smallest: Regions of fewer pixels have no outline; for yolo.
        vectors: Files of polygons: GeoPackages, in the image's own reference system, or GeoJSON,
            in degrees; for geo.
        with_images: Put the images beside their labels, where a format has a place for them: as
            links to the same bytes, or copies where that cannot be.
    """

    prefix: str = ""
    tolerance: float = 1.0
    smallest: int = 16
    vectors: Vectors = "gpkg"
    with_images: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            SettingError: Names the first.
        """
        check_ranges(self, "", EXPORT_RANGES)

    def check_used(self, formats: Sequence[FormatName]) -> None:
        """Refuse values that none of the formats reads.

        Raises:
            SettingError: Names the first.
        """
        for each in fields(self):
            readers = READERS[each.name]
            if getattr(self, each.name) != each.default and not set(readers) & set(formats):
                raise SettingError(
                    f"--{each.name.replace('_', '-')} is for {', '.join(readers)}, and"
                    f" {', '.join(formats)} does not read it; remove it"
                )


READERS: dict[str, tuple[FormatName, ...]] = {
    "prefix": ("label-studio",),
    "tolerance": ("yolo",),
    "smallest": ("yolo",),
    "vectors": ("geo",),
    "with_images": ("png", "coco", "coco-panoptic", "yolo", "datumaro", "voc"),
}
"""The formats that read each setting."""
EXPORT_RANGES = {
    "prefix": text(empty=True),
    "tolerance": number(0),
    "smallest": whole(0),
    "vectors": one_of(Vectors),
    "with_images": SWITCH,
}
