"""The output of `unseen check`: check.json, a sheet of labelled images, a table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unseen.data.datasets import LabelledImages
from unseen.data.own.checking import DataCheck
from unseen.data.own.ids import may_be_shifted
from unseen.data.own.survey import PairRecord
from unseen.files import SHEET, write_json, write_png
from unseen.labels import BACKGROUND, IGNORE, label_to_index
from unseen.visualize import Row, sheet, spread

CHECK = "check.json"


def save_check(check: DataCheck, folder: Path, samples: int = 8) -> bool:
    """Write `check.json`, and `sheet.png` if any image has labels; returns whether one has.

    Args:
        check: The checked data set.
        folder: Where to write.
        samples: Images on the sheet.
    """
    facts: dict[str, Any] = {
        "data": check.benchmark.name,
        "splits": check.split_source,
        "findings": [asdict(finding) for finding in check.findings],
    }
    for split, records in check.survey.records.items():
        facts[split] = {"images": len(records), "pixels": check.survey.pixels(split)}
    write_json(folder / CHECK, facts)
    rows = _sheet_rows(check, samples)
    if not rows:
        return False
    benchmark = check.benchmark
    # A background that is scored with a threshold has no colour of its own on the sheet.
    grey = "background, or not" if benchmark.background == "threshold" else "not"
    image = sheet(
        rows,
        benchmark.scored_names,
        benchmark.unseen,
        title=f"Labels of {benchmark.title}",
        subtitle=f"check that colours and class names fit   (grey: {grey} labelled)",
        across=2,
        # Another reading may show pixels that the listed one does not.
        everywhere=any(row.predictions for row in rows),
    )
    write_png(folder / SHEET, image)
    return True


def _sheet_rows(check: DataCheck, samples: int) -> list[Row]:
    """Images with their labels, spread over the splits."""
    rows = []
    # Half of the samples for training and half for validation, evenly spread over the files.
    for split, records in check.survey.records.items():
        usable = [
            record
            for record in records
            if not record.faults and record.size == record.label_size and record.areas
        ]
        for index in spread(len(usable), (samples + 1) // 2):
            image, labels, others = _labelled_image(check, usable[index])
            rows.append(Row(image, labels, others, f"{split}: {usable[index].pair.image.stem}"))
    return rows


def _labelled_image(
    check: DataCheck, record: PairRecord
) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """An image (H, W, 3), its labels (H, W), and other readings of them.

    Unlisted ids are ignored here.
    """
    survey, count = check.survey, len(check.benchmark.class_names)
    # The data set refuses unlisted ids, so it is given a list that is long enough.
    listed = survey.first_id + len(survey.ignored_ids)
    data = LabelledImages(
        [record.pair],
        max(count, max(record.areas) + 1 - listed),
        background=0 if survey.first_id else None,
        keep_background=True,
        ignored_ids=survey.ignored_ids,
        others="background" if survey.others else "refuse",
    )
    sample = data[0]
    stored = sample.labels.numpy()
    image = sample.image.permute(1, 2, 0).numpy()
    labels = _known(stored, count)
    if not may_be_shifted(survey):
        return image, labels, {}
    # One class further, as if a background stood in front of the list.
    shifted = np.where((stored > 0) & (stored < BACKGROUND), stored - 1, IGNORE)
    return image, labels, {"with a background in front": _known(shifted, count)}


def _known(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Labels without those of a background and of ids behind the list."""
    hidden = (labels == BACKGROUND) | (label_to_index(labels) >= count)
    return np.where(hidden, IGNORE, labels)


def print_check(check: DataCheck) -> None:
    """Print a table of the splits, and a line for every finding."""
    console = Console()
    console.print(_split_table(check))
    for finding in check.findings:
        # Paths may hold brackets, which rich would take for markup.
        colour = "red" if finding.level == "error" else "yellow"
        line = f"[bold {colour}]{finding.level}[/]  {escape(finding.line())}"
        console.print(line, soft_wrap=True, highlight=False)
    if not check.findings:
        console.print("nothing to correct")


def _split_table(check: DataCheck) -> Table:
    benchmark = check.benchmark
    classes = f"{len(benchmark.class_names)}, none marked unseen"
    if benchmark.unseen:
        classes = f"{len(benchmark.seen)} seen, {len(benchmark.unseen)} unseen"
    title = f"{benchmark.title}: classes: {classes}"
    if check.split_source:
        title += f"; splits: {check.split_source}"
    heads = ("split", "images", "labelled pixels", "ignored", "classes shown")
    table = Table(*heads, title=escape(title), title_justify="left")
    for split, records in check.survey.records.items():
        pixels = check.survey.pixels(split)
        labelled = sum(pixels.values())
        # Unlisted ids count as ignored here; they have a finding of their own.
        area = sum(width * height for width, height in (record.label_size for record in records))
        ignored = f"{100 * (1 - labelled / area):.1f} %" if area else "–"
        shown = sum(count > 0 for count in pixels.values())
        table.add_row(
            split, str(len(records)), f"{labelled:,}", ignored, f"{shown} of {len(pixels)}"
        )
    return table
