"""The verb about label maps that were made before: export-labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseen.cli.flags import NOTHING, Given, settings_flags
from unseen.cli.notices import notify
from unseen.errors import UnseenError
from unseen.settings import EXPORTS, ExportSettings, FormatName, known_formats

if TYPE_CHECKING:
    from unseen.exports.formats import Exported

GROUPS: dict[str, dict[str, Any]] = {
    "export-labels": {"settings": settings_flags(ExportSettings(), "Formats", flat=True)},
}
"""By verb, its parameters that are mappings, and the flags that fill them."""


def export_labels(
    folder: Path, /, *, to: str, out: Path | None = None, settings: Given = NOTHING
) -> int:
    """Write the label maps of a folder for other tools.

    Each format gets a folder of its own. What it cannot hold is told, with its share of the pixels.

    Args:
        folder: What `unseen segment` wrote with --out.
        to: Formats, separated by commas: png, coco, coco-panoptic, cvat, label-studio, yolo,
            datumaro, voc, geo (`unseen list formats`).
        out: Folder to write to; FOLDER/exports by default.
        settings: Values of `ExportSettings`.
    """
    formats = split_formats(to)
    return report_exports(folder, formats, out or folder / EXPORTS, ExportSettings(**settings))


def split_formats(text: str) -> list[FormatName]:
    """Names of formats, separated by commas.

    Raises:
        SettingError: One that is unknown, or given twice.
    """
    return known_formats([name.strip() for name in text.strip().removesuffix(",").split(",")])


def report_exports(
    folder: Path, formats: Sequence[FormatName], out: Path, settings: ExportSettings
) -> int:
    """Write formats with a line for each, and what was left out at the end.

    Returns:
        The exit code: 2 where something was left out.
    """
    from unseen.exports.folders import check_export_folder
    from unseen.exports.formats import check_installed, export
    from unseen.labelling.results import find_results

    settings.check_used(formats)
    check_installed(formats)
    results, others = find_results(folder)
    for name in formats:
        check_export_folder(out / name)
    if others:
        notify(f"{others} results of other settings than the last job's are left out")
    failed: dict[str, None] = {}
    for name in formats:
        try:
            made = export(results, results[0].class_names, name, out / name, settings)
        except UnseenError as error:
            failed[str(error)] = None
            continue
        # The same label map fails for every format.
        failed |= dict.fromkeys(map(str, made.failed))
        print(_line(made))
    for message in failed:
        notify(f"unseen: {message}")
    return 2 if failed else 0


def _line(made: Exported) -> str:
    """What an export came to."""
    words = f"{made.format}: {made.images} image{'s' * (made.images != 1)}  ->  {made.folder}"
    if made.changed:
        words += f"; {100 * made.changed:.2g} % of the pixels are not as in the label maps"
    return words
