"""How many masks it takes: ZegCLIP on 25 to 400 training images, from both starts.

Each run trains on the first so many images of a random order (one order a seed) and is scored on
all validation images; all else is as in `run.py`, which measures all training images. Results are
kept, so a stopped run goes on.

Run: python examples/photographs/curve.py --voc VOCdevkit/VOC2012 --lists LISTS --mobilenet FILE
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import SEEN, flags_of, kept, score, train, voc_without_background
from run import ROWS, summary

from unseen.data.classes import VOC
from unseen.data.layouts import voc_pairs
from unseen.files import write_text
from unseen.images import read_labels

COUNTS = (25, 50, 100, 200, 400)
"""Training images."""
STARTS = ("zegclip", "zegclip-released")


def part_of_voc(flags: argparse.Namespace, count: int, seed: int) -> Path:
    """A VOC whose training list has so many images that show a seen class."""
    root: Path = flags.out / "curve" / f"voc-{count}-{seed}" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    if (lists / "trainaug.txt").exists():
        return root
    lists.mkdir(parents=True, exist_ok=True)
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        if (flags.voc / name).exists() and not (root / name).exists():
            (root / name).symlink_to((flags.voc / name).resolve())
    seen = {VOC.index(name) + 1 for name in SEEN}
    stems = [
        pair.image.stem
        for pair in voc_pairs(flags.voc, "train")
        if seen & set(np.unique(read_labels(pair.labels)).tolist())
    ]
    order = np.random.default_rng(seed).permutation(len(stems))[:count]
    val = (flags.voc / "ImageSets" / "Segmentation" / "val.txt").read_text()
    write_text(lists / "val.txt", val, ours=True)
    write_text(lists / "trainaug.txt", "".join(f"{stems[i]}\n" for i in order), ours=True)
    return root


def measure(name: str, count: int, seed: int, flags: argparse.Namespace) -> dict[str, Any]:
    """Train on a part of the images, and score."""
    part = argparse.Namespace(**{**vars(flags), "voc": part_of_voc(flags, count, seed)})
    run = train(ROWS[name], part, "voc", flags.out / "curve" / f"{name}-{count}-{seed}", seed)
    return summary(score(run, voc_without_background(), part))


def main() -> None:
    """Measure everything that is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    flags = flags_of(parser)
    for seed, count, name in product(flags.seeds, flags.counts, STARTS):
        file = flags.results / "curve" / f"{name}-{count}-{seed}.json"
        scores = kept(file, partial(measure, name, count, seed, flags))["scores"]
        shown = {key: round(scores[key], 1) for key in ("mIoU_S", "mIoU_U", "hIoU")}
        print(f"{name}, {count} images, seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main()
