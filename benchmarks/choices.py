"""What each choice of a method does on Doodles: one training run per choice and seed, all else
equal; prints a Markdown table.

Run: python benchmarks/choices.py zegclip --steps 300
     python benchmarks/choices.py zegclip --seeds 0 --only ours void=negative
     python benchmarks/choices.py naclip
     python benchmarks/choices.py esda --folds 0 1 2 3 --only ours token_order=released

Doodles numbers. "ours" is the recipe as it is, "published" all of the released code's choices at
once. Any other choice is NAME=VALUE: of the method's options; train.NAME=VALUE of the training
settings; scored.NAME=VALUE of an option or scored.inference.NAME=VALUE of the windows, changed
after training, so that it costs no run of its own. Transductive runs spend half of the steps on an
inductive one they start from. With --folds the folds of doodles-5i are asked, one word at a time:
the means over the folds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import yaml

import unseen
from unseen.building import ModelSource, build, encode
from unseen.data.benchmarks import get_benchmark
from unseen.evaluation import evaluate, evaluate_episodes
from unseen.methods import METHODS
from unseen.recipes import settings
from unseen.segmenter import Segmenter, TextFeatures
from unseen.settings import InferenceChanges

WHOLE = "scored.inference.window=0"
CHOICES = {
    "zegclip": [
        "ours",
        "scored.calibration=0.1",
        WHOLE,
        "scale=heads",
        "dropout=0.1",
        "published",
        "void=negative",
        "focal_over=all",
        "class_embedding_twice=true",
        "normalization=imagenet",
        "identical_layers=true",
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
        "train_regions=true",
        "norm_regions=true",
        "lattice=[4,4]",
        "recovery_weight=0.0",
        "recovery_weight=50.0",
        "class_embedding_twice=true",
        "void=negative",
        "identical_layers=true",
        "train.regime=transductive",
        "train.regime=supervised",
    ],
    "esda": [
        "ours",
        "published",
        "token_order=released",
        "head_input=released",
        "word_start=random",
        "prior_logit_order=released",
        "adapters=false",
        "last_block=released",
        "text_blocks=[]",
    ],
    "sazs": [
        "ours",
        "balanced=false",
        "background=learned",
        "void=others",
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


@lru_cache(maxsize=1)
def trained(
    method: str, choice: str, seed: int, steps: int | None, benchmark: str
) -> tuple[Segmenter, TextFeatures, str]:
    """The segmenter of one run, its words, and its regime."""
    name, _, value = choice.partition("=")
    changes = (
        {name.removeprefix("train."): yaml.safe_load(value)} if name.startswith("train.") else {}
    )
    model, train = settings(method, benchmark, seed=seed, **changes)
    train = replace(train, steps=steps) if steps else train
    if choice == "published":
        grid = (
            {"train_grid": None} if "train_grid" in METHODS[method].cls.PUBLISHED else {}
        )  # that of 512-pixel crops has no meaning here
        model = replace(model, published=True, options={**model.options, **grid})
    elif choice != "ours" and not changes:
        model = replace(model, options={**model.options, name: yaml.safe_load(value)})
    if not METHODS[method].trainable:
        source = ModelSource(model)
        segmenter = build(source)
        text = encode(segmenter, get_benchmark(benchmark).class_names, source)
        return segmenter, text, train.regime
    with tempfile.TemporaryDirectory() as folder:
        init = None
        if train.regime == "transductive":
            train, init = replace(train, steps=train.steps // 2), Path(folder) / "inductive"
            unseen.train(model, replace(train, regime="inductive"), benchmark, init, progress=False)
        segmenter, text = unseen.train(
            model, train, benchmark, Path(folder) / "run", init=init, progress=False
        )
    return segmenter, text, train.regime


def measure(
    method: str, choice: str, seed: int, steps: int | None, benchmark: str
) -> dict[str, float]:
    """The scores of one run."""
    name, _, value = choice.partition("=")
    scored = name.startswith("scored.")
    segmenter, text, regime = trained(method, "ours" if scored else choice, seed, steps, benchmark)
    bench = get_benchmark(benchmark)
    inference = bench.inference
    option = name.removeprefix("scored.")
    before = None
    if option.startswith("inference."):
        inference = InferenceChanges(
            **{option.removeprefix("inference."): yaml.safe_load(value)}
        ).on(inference)
    elif scored:
        before = getattr(segmenter, option)
        setattr(segmenter, option, yaml.safe_load(value))
    seen = bench.seen_ids if regime == "inductive" and segmenter.trainable else None
    score = evaluate if bench.episodes is None else evaluate_episodes
    scores = score(
        segmenter,
        text,
        bench,
        None,
        title=choice,
        inference=inference,
        seen=seen,
        shown=0,
        progress=False,
    ).scores
    if before is not None:
        setattr(segmenter, option, before)
    return scores


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
    asked = parser.parse_args()
    seeds = asked.seeds or ([0, 1, 2] if METHODS[asked.method].trainable else [0])
    choices = asked.only or CHOICES[asked.method]
    benchmarks = (
        ["doodles"] if asked.folds is None else [f"doodles-5i/{fold}" for fold in asked.folds]
    )
    numbers = NUMBERS if asked.folds is None else OF_FOLDS
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    shared = [choice for choice in choices if choice == "ours" or choice.startswith("scored.")]
    for seed, benchmark, choice in product(
        seeds, benchmarks, shared
    ):  # those that share a run, one after the other
        runs.setdefault((choice, seed), []).append(
            measure(asked.method, choice, seed, asked.steps, benchmark)
        )
    print(f"| choice | {' | '.join(numbers)} |\n|---|{'---|' * len(numbers)}")
    for choice in choices:
        cells = []
        for seed in seeds:
            runs[choice, seed] = runs.get((choice, seed)) or [
                measure(asked.method, choice, seed, asked.steps, benchmark)
                for benchmark in benchmarks
            ]
        for name in numbers:
            values = [statistics.mean(run[name] for run in runs[choice, seed]) for seed in seeds]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| `{choice}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
