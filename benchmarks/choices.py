"""What each choice of a method does on Doodles: one training run per choice and seed, all else
equal; prints a Markdown table.

Run: python benchmarks/choices.py zegclip --steps 300
     python benchmarks/choices.py zegclip --seeds 0 --only ours ignored_as=negative
     python benchmarks/choices.py naclip
     python benchmarks/choices.py esda --folds 0 1 2 3 --only ours token_order=released

Doodles numbers. "ours" is the recipe as it is, "published" all of the released code's choices at
once. Any other choice is NAME=VALUE: of the method's options; train.NAME=VALUE of the training
settings; scored.NAME=VALUE of an option or scored.inference.NAME=VALUE of the windows, changed
after training, so that it costs no run of its own. Transductive runs spend half of the steps on an
inductive one they start from. With --folds the means over these folds of doodles-5i, one query
class an image.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

import unseen
from unseen.methods import METHODS
from unseen.methods.options import released_options
from unseen.recipes import settings
from unseen.settings import EvaluationSettings, ModelSettings, TrainSettings

WHOLE = "scored.inference.window=0"
CHOICES = {
    "zegclip": [
        "ours",
        "scored.calibration=0.1",
        WHOLE,
        "scale=heads",
        "dropout=0.1",
        "published",
        "ignored_as=negative",
        "focal_over=all",
        "class_embedding_twice=true",
        "normalization=imagenet",
        "identical_layers=true",
        "start=aligned",
        "prompt_norm=false",
        "prompt_depth=1",
        "deep_supervision=true",
        "mask_weight=20.0",
        "train.decay_norms=true",
        "train.regime=transductive",
        "train.regime=supervised",
    ],
    "clip_rc": [
        "ours",
        "scored.calibration=0.1",
        WHOLE,
        "scale=none",
        "dropout=0.1",
        "published",
        "start=aligned",
        "train_regions=true",
        "norm_regions=true",
        "lattice=[4,4]",
        "recovery_weight=0.0",
        "recovery_weight=50.0",
        "class_embedding_twice=true",
        "ignored_as=negative",
        "identical_layers=true",
        "train.regime=transductive",
        "train.regime=supervised",
    ],
    "otseg": [
        "ours",
        "scored.ensemble=0.0",
        "scored.ensemble=1.0",
        "scored.calibration=0.1",
        WHOLE,
        "published",
        "start=aligned",
        "shares=plan",
        "sinkhorn_stop=batch",
        "rounds=10",
        "epsilon=0.1",
        "templates=single",
        "text_offsets=4",
        "dropout=0.1",
        "train.regime=transductive",
        "train.regime=supervised",
    ],
    "cascade_clip": [
        "ours",
        "scored.calibration=0.1",
        WHOLE,
        "published",
        "start=aligned",
        "layer_projection=clip",
        "layer_projection=random",
        "group_start=[1.0,1.0]",
        "deep_supervision=true",
        "scale=heads",
        "dropout=0.1",
        "train.regime=transductive",
        "train.regime=supervised",
    ],
    "esda": [
        "ours",
        "published",
        "token_order=released",
        "head_input=released",
        "text_start=random",
        "prior_logit_order=released",
        "adapters=false",
        "last_block=released",
        "text_blocks=[]",
    ],
    "sazs": [
        "ours",
        "balanced=false",
        "background=learned",
        "ignored_as=others",
        "loss_weights=[1.0,0.0,0.0,0.0]",
        "scale=4.0",
        "dropout=0.5",
        "unit_text=false",
    ],
    "edgeclip": [
        "ours",
        "published",
        "background_text=frozen",
        "normalization=none",
        "templates=no_article",
        "dropout=0.3",
        "triplet_weight=0.0",
    ],
    **{name: ["ours", WHOLE] for name, method in METHODS.items() if not method.trainable},
}
NUMBERS, OF_FOLDS = ("pAcc", "mIoU_S", "mIoU_U", "hIoU"), ("mIoU", "FB_IoU")


def chosen(
    method: str, choice: str, seed: int, steps: int | None, benchmark: str
) -> tuple[ModelSettings, TrainSettings]:
    """The settings of one run: the recipe's, with the choice."""
    name, _, text = choice.partition("=")
    value = yaml.safe_load(text) if text else None
    changes = {}
    if name.startswith("train."):
        changes[name.removeprefix("train.")] = value
    model, train = settings(method, benchmark, seed=seed, **changes)
    if steps is not None:
        train = replace(train, steps=steps)
    if choice == "published":
        options = dict(model.options)
        if "train_grid" in released_options(METHODS[method].cls):
            options["train_grid"] = None  # that of 512-pixel crops has no meaning here
        model = replace(model, published=True, options=options)
    elif choice != "ours" and not changes:
        model = replace(model, options={**model.options, name: value})
    return model, train


@lru_cache(maxsize=1)
def trained(
    method: str, choice: str, seed: int, steps: int | None, benchmark: str
) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """The run of one choice, and the folder that lives as long as it is remembered."""
    model, train = chosen(method, choice, seed, steps, benchmark)
    holder = tempfile.TemporaryDirectory()
    run, init = Path(holder.name) / "run", None
    if train.regime == "transductive":
        train, init = replace(train, steps=train.steps // 2), Path(holder.name) / "inductive"
        unseen.train(model, replace(train, regime="inductive"), benchmark, init, progress=False)
    unseen.train(model, train, benchmark, run, init=init, progress=False)
    return holder, run


def measure(
    method: str, choice: str, seed: int, steps: int | None, benchmark: str
) -> dict[str, float]:
    """The scores of one choice."""
    options: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    name, _, value = choice.partition("=")
    if name.startswith("scored.inference."):
        inference[name.removeprefix("scored.inference.")] = yaml.safe_load(value)
    elif name.startswith("scored."):
        options[name.removeprefix("scored.")] = yaml.safe_load(value)
    if inference or options:
        choice = "ours"
    run: str | Path = method
    published = False
    if METHODS[method].trainable:
        _, run = trained(method, choice, seed, steps, benchmark)
    else:
        model, _ = chosen(method, choice, seed, steps, benchmark)
        options, published = {**model.options, **options}, model.published
    report = unseen.evaluate(
        run,
        benchmark,
        settings=EvaluationSettings(shown=0, progress=False),
        inference=inference,
        save=False,
        options=options,
        published=published,
    )[0]
    return report.scores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=list(CHOICES))
    parser.add_argument("--seeds", type=int, nargs="+", help="0 1 2 for methods that are trained")
    parser.add_argument("--steps", type=int, help="training steps; the recipe's by default")
    parser.add_argument(
        "--folds", type=int, nargs="+", help="these folds of doodles-5i instead of doodles"
    )
    parser.add_argument("--only", nargs="+", help="these choices instead of all")
    given = parser.parse_args()
    seeds = given.seeds or ([0, 1, 2] if METHODS[given.method].trainable else [0])
    choices = given.only or CHOICES[given.method]
    benchmarks = (
        ["doodles"] if given.folds is None else [f"doodles-5i/{fold}" for fold in given.folds]
    )
    numbers = NUMBERS if given.folds is None else OF_FOLDS
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    shared = [choice for choice in choices if choice == "ours" or choice.startswith("scored.")]
    for seed, benchmark, choice in product(
        seeds, benchmarks, shared
    ):  # those that share a run, one after the other
        runs.setdefault((choice, seed), []).append(
            measure(given.method, choice, seed, given.steps, benchmark)
        )
    print(f"| choice | {' | '.join(numbers)} |\n|---|{'---|' * len(numbers)}")
    for choice in choices:
        cells = []
        for seed in seeds:
            runs[choice, seed] = runs.get((choice, seed)) or [
                measure(given.method, choice, seed, given.steps, benchmark)
                for benchmark in benchmarks
            ]
        for name in numbers:
            values = [statistics.mean(run[name] for run in runs[choice, seed]) for seed in seeds]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| `{choice}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
