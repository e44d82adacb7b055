"""What a refinement at test adds: VOC 15 + 5 with score maps that follow the edges of the image.

PAMR (`--inference.refinement pamr`) needs no training and knows no classes. That it helps was seen
on held-back photographs (`search.py --only inference.refinement=pamr`).

Run: python examples/photographs/refined.py --voc VOCdevkit/VOC2012 --lists LISTS --mobilenet FILE
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


def seeds_of(name: str, seeds: list[int]) -> list[int]:
    """Nothing is random without training."""
    return [0] if name in FREE else seeds


def measure(name: str, seed: int, flags: argparse.Namespace) -> dict[str, Any]:
    """Scores with PAMR; a run that is not there is trained first."""
    model: str | Path = name
    if name not in FREE:
        model = train(ROWS[name], flags, "voc", flags.out / "runs" / f"{name}-voc-{seed}", seed)
    return summary(score(model, voc_without_background(), flags, PAMR))


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
            file = flags.results / "refined" / f"{name}-{seed}.json"
            scores = kept(file, partial(measure, name, seed, flags))["scores"]
            shown = {key: round(scores[key], 1) for key in ("mIoU_S", "mIoU_U", "hIoU")}
            print(f"{name}, seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main()
