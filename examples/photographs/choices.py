"""What each choice does on held-back photographs: the training images alone, other classes unseen.

For each part a third of VOC's 15 seen classes is unseen and every fifth training image is for
validation (`common.held_back`); no image and no class of the tables is looked at. One run a choice,
part and seed, all else equal to the row's settings. Results are kept, so a stopped run goes on.

Run: python examples/photographs/choices.py --voc VOC2012 --lists LISTS --mobilenet FILE
     python examples/photographs/choices.py ... --methods zegclip --only ours start=released

A choice is NAME=VALUE of the method's options, train.NAME=VALUE of the training settings,
scored.NAME=VALUE of an option changed after training; of an aligned start, start.NAME=VALUE of its
constants (SPREAD and PRIOR of the first logits), or without.PART, one of its parts at random
(descriptor, decoder, prompts).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from common import FREE, Row, cell, held_back, in_folds, kept, places_of, score, train

from unseen.cli.flags import read_value
from unseen.data.benchmarks import get_benchmark

MOBILENET = {"backbone": "mobilenet_v2", "weights": "MOBILENET", "background": "learned"}
BEFORE = {"calibration": 0.0, "focal_over": "labelled"}
"""Options as they were before these choices."""
ROWS = {
    "zegclip": Row("ZegCLIP", "zegclip", BEFORE, {"lr": 1e-4}),
    "clip_rc": Row("CLIP-RC", "clip_rc", BEFORE, {"lr": 1e-4}),
    "otseg": Row("OTSeg+", "otseg", {"text_offsets": 4}, {"lr": 1e-4}),
    "cascade_clip": Row("Cascade-CLIP", "cascade_clip", {}, {"lr": 1e-4}),
    "esda": Row("ESDA", "esda", train={"lr": 1e-3, "unseen_pixels": "ignore"}, query=True),
    "sazs": Row(
        "SAZS",
        "sazs",
        {
            "backbone": "mobilenet_v2",
            "weights": "MOBILENET",
            "background": "learned",
            "scale": 10.0,
        },
        {"lr": 2e-4},
        query=True,
    ),
    "edgeclip": Row(
        "EdgeCLIP",
        "edgeclip",
        MOBILENET,
        {"lr": 2e-4},
        query=True,
    ),
}
"""Each method as it is chosen here, before a choice."""
CHOICES = {
    "zegclip": [
        "ours",
        "start=released",
        "without.descriptor",
        "without.decoder",
        "without.prompts",
        "start.SPREAD=1.0",
        "start.SPREAD=4.0",
        "start.PRIOR=-1.0",
        "start.PRIOR=-5.0",
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


@contextmanager
def start_by(key: str, value: Any) -> Iterator[None]:
    """An aligned start with another constant, or one that leaves one of its parts at random."""

    def nothing(*_: Any) -> None:
        """In place of a function and of methods."""

    targets = {
        "descriptor": "unseen.methods.zegclip.start_as_identity",
        "decoder": "unseen.modules.decoders.MaskDecoder.start_as_product",
        "prompts": "unseen.modules.prompts.VisualPrompts.start_at_zero",
    }
    group, _, name = key.partition(".")
    with ExitStack() as stack:
        if group == "without":
            stack.enter_context(patch(targets[name], nothing))
        elif group == "start" and name:
            stack.enter_context(patch(f"unseen.modules.starts.{name}", value))
        yield


def run_choice(
    name: str, choice: str, places: argparse.Namespace, part: int, seed: int
) -> dict[str, float]:
    """The scores of one choice on one part."""
    row, changes = ROWS[name], {}
    key, _, text = choice.partition("=")
    value = read_value(text) if text else None
    if key.startswith("train."):
        changes[key.removeprefix("train.")] = value
    elif text and not key.startswith(("scored.", "start.")):
        row = Row(row.title, row.method, {**row.options, key: value}, row.train, query=row.query)
    folder = held_back(places, part, "threshold" if row.query else "ignore")
    of_run = "ours" if key.startswith("scored.") else choice
    out = places.out / "choices" / name / f"{of_run}-{part}-{seed}".replace("/", "_")
    with start_by(key, value):
        run = train(row, places, str(folder), out, seed, **changes)
    bench = get_benchmark(str(folder))
    if row.query:
        bench = in_folds(bench)
    options = {key.removeprefix("scored."): value} if key.startswith("scored.") else None
    return score(run, bench, places, options=options).scores


def free_scores(name: str, places: argparse.Namespace, part: int) -> dict[str, float]:
    """The scores of a method without training on one part."""
    folder = held_back(places, part)
    return score(name, get_benchmark(str(folder)), places, text=folder / "text.npy").scores


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
    places = places_of(parser)
    for name in places.methods:
        names = FREE if name == "free" else places.only or CHOICES[name]
        heads = QUERY if name in ROWS and ROWS[name].query else MANY
        print(f"\n| {name} | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}", flush=True)
        for choice in names:
            scores = list(scores_of(name, choice, places))
            cells = (cell([each[head] for each in scores]) for head in heads)
            print(f"| `{choice}` | {' | '.join(cells)} |", flush=True)


def scores_of(name: str, choice: str, places: argparse.Namespace) -> Iterator[dict[str, float]]:
    """The scores of a choice, or of a method without training, on every part and seed."""
    for part in places.parts:
        for seed in [0] if name == "free" else places.seeds:
            make = partial(run_choice, name, choice, places, part, seed)
            if name == "free":
                make = partial(free_scores, choice, places, part)
            file = f"{choice}-{part}-{seed}.json".replace("/", "_")
            yield kept(places.results / "choices" / name / file, make)


if __name__ == "__main__":
    main()
