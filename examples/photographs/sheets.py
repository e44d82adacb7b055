"""Sheets of validation photographs with the label maps of several methods, from the kept runs.

The photographs are VOC's, so the sheets lie in OUT/sheets and not beside this file.

Run: python examples/photographs/sheets.py --voc VOC2012 --lists LISTS --mobilenet FILE
"""

from __future__ import annotations

import argparse

import numpy as np
from common import FREE, flags_of, loaded
from probe import LinearProbe
from run import ROWS

from unseen.data.benchmarks import get_benchmark
from unseen.data.classes import VOC, VOC_UNSEEN
from unseen.files import write_png
from unseen.visualize import Row, sheet, spread

SHOWN = 12
"""Images on the sheet."""


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
        ROWS[name].title if name in ROWS else name: loaded(
            name if name in FREE else flags.out / "runs" / f"{name}-voc-0", flags
        )
        for name in flags.methods
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
