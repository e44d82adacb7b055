"""What each choice does on held-back photographs: the training images alone, other classes unseen.

For each part a third of VOC's 15 seen classes is unseen and every fifth training image is for
validation (`common.held_back`); no image and no class of the tables is looked at. One run a choice,
part and seed, all else equal to the row's settings. Results are kept, so a stopped run goes on.

Run: python examples/photographs/choices.py --voc VOC2012 --lists LISTS --mobilenet FILE
     python examples/photographs/choices.py ... --methods zegclip --only ours start=released

A choice is NAME=VALUE of the method's options, train.NAME=VALUE of the training settings,
scored.NAME=VALUE of an option changed after training, or several of them joined by "+". Of
ZegCLIP's aligned start random=PART leaves one of its parts at random (descriptor, decoder,
prompts), and spread and prior move its first logits (`starts.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from choice import Choice, run_name
from common import FREE, SIZE, Row, cell, flags_of, held_back, in_folds, kept, score, train
from starts import PartlyAligned

from unseen.data.benchmarks import get_benchmark

MOBILENET = {"backbone": "mobilenet_v2", "weights": "MOBILENET", "background": "learned"}
BEFORE = {"calibration": 0.0, "focal_over": "labelled"}
"""Options as they were before these choices."""
ROWS = {
    "zegclip": Row("ZegCLIP", "zegclip", BEFORE, {"lr": 1e-4}),
    "clip_rc": Row("CLIP-RC", "clip_rc", BEFORE, {"lr": 1e-4}),
    "otseg": Row("OTSeg+", "otseg", {"text_offsets": 4}, {"lr": 1e-4}),
    "cascade_clip": Row("Cascade-CLIP", "cascade_clip", {}, {"lr": 1e-4}),
    "esda": Row("ESDA", "esda", train={"lr": 1e-3}, query=True),
    "sazs": Row("SAZS", "sazs", {**MOBILENET, "scale": 10.0}, {"lr": 2e-4}, query=True),
    "edgeclip": Row("EdgeCLIP", "edgeclip", MOBILENET, {"lr": 2e-4}, query=True),
}
"""Each method as it is chosen here, before a choice."""
CHOICES = {
    "zegclip": [
        "ours",
        "start=released",
        "start=released+train.lr=1e-3",
        "random=descriptor",
        "random=decoder",
        "random=prompts",
        "spread=1.0",
        "spread=4.0",
        "prior=-1.0",
        "prior=-5.0",
        "train.lr=3e-5",
        "train.lr=3e-4",
        "train.steps=200",
        "train.steps=800",
        "train.sampling=classes",
        "scored.calibration=0.1",
        "scored.calibration=0.2",
        "scale=heads",
        "ignored_as=negative",
        "focal_over=all",
        "dropout=0.0",
        "num_prompts=4",
        "num_prompts=50",
        "mask_weight=20.0",
        "class_embedding_twice=true",
        "normalization=imagenet",
        "prompt_depth=1",
        "deep_supervision=true",
        "train.decay_norms=true",
    ],
    "clip_rc": [
        "ours",
        "scored.calibration=0.1",
        "scored.calibration=0.2",
        "focal_over=all",
        "start=released",
        "train.lr=3e-4",
        "scale=none",
        "dropout=0.0",
        "train_regions=true",
        "norm_regions=true",
        "lattice=[2,2]",
        "recovery_weight=0.0",
        "recovery_weight=50.0",
    ],
    "otseg": [
        "ours",
        "scored.ensemble=0.0",
        "scored.ensemble=1.0",
        "scored.calibration=0.1",
        "start=released",
        "train.lr=3e-4",
        "text_offsets=0",
        "text_offsets=8",
        "shares=plan",
        "epsilon=0.1",
    ],
    "cascade_clip": [
        "ours",
        "scored.calibration=0.1",
        "start=released",
        "train.lr=3e-4",
        "layer_projection=clip",
        "layer_projection=random",
        "deep_supervision=true",
    ],
    "esda": [
        "ours",
        "train.lr=3e-4",
        "train.lr=3e-3",
        "token_order=released",
        "head_input=released",
        "text_start=random",
        "prior_logit_order=released",
        "adapters=false",
        "last_block=released",
    ],
    "sazs": [
        "ours",
        "train.lr=5e-5",
        "train.lr=5e-4",
        "balanced=false",
        "ignored_as=others",
        "scale=4.0",
    ],
    "edgeclip": [
        "ours",
        "train.lr=5e-5",
        "train.lr=5e-4",
        "dropout=0.0",
        "triplet_weight=0.0",
        "background_text=frozen",
    ],
}
MANY, QUERY = ("mIoU_S", "mIoU_U", "hIoU"), ("mIoU", "FB_IoU")


START = {"random", "spread", "prior"}
"""Options of `starts.PartlyAligned` alone."""


def row_of(name: str, choice: Choice) -> Row:
    """The row of a method with the choice's options.

    Raises:
        SystemExit: Parts of ZegCLIP's start for another method, or for a random one.
    """
    row = replace(ROWS[name], options={**ROWS[name].options, **choice.options})
    parts = START & choice.options.keys()
    if not parts:
        return row
    if name != "zegclip" or "start" in choice.options:
        raise SystemExit(f"{', '.join(parts)}: of ZegCLIP's aligned start alone")
    return replace(row, method="partly_aligned")


def run_choice(
    name: str, text: str, flags: argparse.Namespace, part: int, seed: int
) -> dict[str, float]:
    """The scores of one choice on one part."""
    choice = Choice.read(text)
    if choice.method or choice.mixed is not None:
        raise SystemExit(f"{text}: other methods and mixed weights are for search.py")
    row = row_of(name, choice)
    folder = held_back(flags, part, "threshold" if row.query else "ignore")
    out = flags.out / "choices" / name / f"{run_name(text)}-{part}-{seed}"
    run = train(row, flags, str(folder), out, seed, **choice.train)
    bench = get_benchmark(str(folder))
    if row.query:
        bench = in_folds(bench)
    test = replace(SIZE, **choice.inference)
    return score(run, bench, flags, test, options=choice.scored or None).scores


def free_scores(name: str, flags: argparse.Namespace, part: int) -> dict[str, float]:
    """The scores of a method without training on one part."""
    folder = held_back(flags, part)
    return score(name, get_benchmark(str(folder)), flags, text=folder / "text.npy").scores


def main() -> None:
    """Measure and print a Markdown table of each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--methods", nargs="+", choices=[*CHOICES, "free"], default=["free", *CHOICES]
    )
    parser.add_argument("--only", nargs="+", help="these choices instead of all")
    parser.add_argument("--parts", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags = flags_of(parser)
    PartlyAligned.register()
    for name in flags.methods:
        names = FREE if name == "free" else flags.only or CHOICES[name]
        heads = QUERY if name in ROWS and ROWS[name].query else MANY
        print(f"\n| {name} | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}", flush=True)
        for choice in names:
            scores = list(scores_of(name, choice, flags))
            cells = (cell([each[head] for each in scores]) for head in heads)
            print(f"| `{choice}` | {' | '.join(cells)} |", flush=True)


def scores_of(name: str, choice: str, flags: argparse.Namespace) -> Iterator[dict[str, float]]:
    """The scores of a choice, or of a method without training, on every part and seed."""
    for part in flags.parts:
        for seed in [0] if name == "free" else flags.seeds:
            make = partial(run_choice, name, choice, flags, part, seed)
            if name == "free":
                make = partial(free_scores, choice, flags, part)
            file = f"{choice}-{part}-{seed}.json".replace("/", "_")
            yield kept(flags.results / "choices" / name / file, make)


if __name__ == "__main__":
    main()
