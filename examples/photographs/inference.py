"""What settings of the test add: VOC 15 + 5 with refined maps, and without classes of small area.

PAMR (`--inference.refinement pamr`) lets score maps follow the edges of the image; an area
threshold (`--inference.area_threshold`) takes away the classes that get no more than this share of
an image. Both need no training, and were chosen on held-back photographs
(`search.py --only ours inference.refinement=pamr inference.area_threshold=0.05 ...`).

Run: python examples/photographs/inference.py --voc VOCdevkit/VOC2012 --lists LISTS --mobilenet FILE
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common import FREE, SIZE, flags_of, kept, score, train, voc_without_background
from run import ROWS, summary

MODELS = ("clip", "sclip", "zegclip", "zegclip-transductive", "clip_rc", "otseg", "cascade_clip")
PAMR = replace(SIZE, refinement="pamr")
TESTS = {
    "as trained": SIZE,
    "area": replace(SIZE, area_threshold=0.05),
    "PAMR": PAMR,
    "both": replace(PAMR, area_threshold=0.05),
}
"""Settings of the test, by name."""


def seeds_of(name: str, seeds: list[int]) -> list[int]:
    """Nothing is random without training."""
    return [0] if name in FREE else seeds


def measure(name: str, seed: int, flags: argparse.Namespace) -> dict[str, Any]:
    """Scores of one run by all tests; a run that is not there is trained first."""
    model: str | Path = name
    if name not in FREE:
        model = train(ROWS[name], flags, "voc", flags.out / "runs" / f"{name}-voc-{seed}", seed)
    bench = voc_without_background()
    return {how: summary(score(model, bench, flags, test)) for how, test in TESTS.items()}


def main() -> None:
    """Measure everything that is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = flags_of(parser)
    for name in flags.models:
        for seed in seeds_of(name, flags.seeds):
            file = flags.results / "inference" / f"{name}-{seed}.json"
            for how, part in kept(file, partial(measure, name, seed, flags)).items():
                scores = {x: round(part["scores"][x], 1) for x in ("mIoU_S", "mIoU_U", "hIoU")}
                print(f"{name}, seed {seed}, {how}: {scores}", flush=True)


if __name__ == "__main__":
    main()
