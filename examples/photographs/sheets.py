"""Sheets of validation photographs with the label maps of several methods, from the kept runs.

The photographs are VOC's, so the sheets lie in OUT/sheets and not beside this file.

Run: python examples/photographs/sheets.py --voc VOC2012 --lists LISTS --mobilenet FILE
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import FREE, SIZE, flags_of, with_files
from probe import LinearProbe
from run import ROWS

import unseen
from unseen.data.benchmarks import get_benchmark
from unseen.data.classes import VOC, VOC_UNSEEN
from unseen.files import write_png
from unseen.predictor import Predictor
from unseen.visualize import Row, sheet, spread

SHOWN = 12
"""Images on the sheet."""


def load(flags: argparse.Namespace, name: str) -> Predictor:
    """A method without training, or the first run of a row."""
    if name in FREE:
        source: dict[str, Any] = {"clip": str(flags.tower), "text_embeddings": flags.text}
        options = with_files(FREE[name], flags)
        return unseen.load(name, inference=SIZE, class_names=VOC, options=options, **source)
    return unseen.load(flags.out / "runs" / f"{name}-voc-0", inference=SIZE)


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["sclip", "zegclip", "clip_rc"])
    flags = flags_of(parser)
    LinearProbe.register()
    data = get_benchmark("voc").data("val", flags.voc)
    models = {
        ROWS[name].title if name in ROWS else name: load(flags, name) for name in flags.methods
    }
    encoded = {title: model.encode(VOC) for title, model in models.items()}
    rows = []
    for index in spread(len(data), SHOWN):
        sample = data[index]
        image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        truth = sample.labels.numpy()
        maps = {
            title: np.where(truth == 255, 255, model.segment_encoded(image, encoded[title]).labels)
            for title, model in models.items()
        }
        rows.append(Row(image, truth, maps, sample.name))
    picture = sheet(
        rows, VOC, VOC_UNSEEN, title="VOC, 15 classes with masks and 5 without",
        subtitle="unlabelled pixels in grey", across=1,
    )  # fmt: skip
    write_png(flags.out / "sheets" / "methods.png", picture)


if __name__ == "__main__":
    main()
