"""How far label maps in bf16 agree with those in float32, for a trained run.

Run: python benchmarks/agreement.py RUN --benchmark voc --root VOCdevkit/VOC2012 [--images 50]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import unseen
from unseen.data.benchmarks import get_benchmark
from unseen.inference import label_maps
from unseen.labels import IGNORE


def main() -> None:
    """Print the shares of equal labels, among labelled pixels and among all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--benchmark", default="doodles")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=50)
    flags = parser.parse_args()
    model, bench = unseen.load(flags.run), get_benchmark(flags.benchmark)
    assert model.run is not None
    data, text = bench.data("val", flags.root), model.encode(bench.class_names)
    calibrated = model.run.calibrated_ids(text.vocabulary)
    equal = {"labelled": 0, "all": 0}
    pixels = {"labelled": 0, "all": 0}
    step = max(1, len(data) // flags.images)
    for index in range(0, len(data), step):
        sample = data[index]
        exact, rounded = (
            label_maps(
                model.segmenter,
                sample.image.unsqueeze(0),
                text,
                replace(model.run.inference, precision=precision),
                seen=calibrated,
            ).labels[0]
            for precision in ("32-true", "bf16-mixed")
        )
        for name, counted in (("labelled", sample.labels != IGNORE), ("all", sample.labels >= 0)):
            equal[name] += int(((exact == rounded) & counted).sum())
            pixels[name] += int(counted.sum())
    shares = ", ".join(
        f"{100 * equal[name] / pixels[name]:.2f} % of {name} pixels" for name in equal
    )
    print(f"{len(range(0, len(data), step))} images: equal labels on {shares}")


if __name__ == "__main__":
    main()
