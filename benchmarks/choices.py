"""What each choice of a method does on Doodles: one training run per choice and seed, all else equal; prints a Markdown table.

Run: python benchmarks/choices.py zegclip --seeds 0 1 2
     python benchmarks/choices.py zegclip --seeds 0 --only ours void=negative

Doodles numbers. A choice is NAME=VALUE of the method's options, or train.NAME=VALUE of the training settings; "ours" is the recipe as it is,
"published" all of the released code's choices at once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from unseen.__main__ import recipe
from unseen.api import build
from unseen.data.benchmarks import get_benchmark
from unseen.evaluation import evaluate
from unseen.methods import METHODS
from unseen.settings import ModelSettings, TrainSettings, TransformSettings
from unseen.training import fit

CHOICES = {
    "zegclip": [
        "ours", "published", "class_embedding_twice=true", "normalization=imagenet", "void=negative", "resize=bilinear", "identical_layers=true",
        "prompt_norm=false", "prompt_depth=1", "deep_supervision=true", "mask_weight=20", "train.decay_norms=true", "train.regime=transductive",
        "train.regime=supervised",
    ],
}  # fmt: skip
NUMBERS = ("pAcc", "mIoU_S", "mIoU_U", "hIoU")


def measure(method: str, choice: str, seed: int, steps: int | None) -> dict[str, float]:
    """The scores of one run."""
    found = recipe(method, "doodles")
    stages: dict[str, Any] = dict(found["train"], seed=seed)
    train = TrainSettings(**{**stages, "transforms": TransformSettings(**stages["transforms"])})
    train = replace(train, steps=steps) if steps else train
    model = ModelSettings(method, **found["model"])
    if choice == "published":
        model = replace(model, published=True, options={**model.options, "train_grid": None})  # the grid of 512-pixel crops has no meaning here
    elif choice != "ours":
        name, value = choice.split("=")
        if name.startswith("train."):
            train = replace(train, **{name.removeprefix("train."): yaml.safe_load(value)})
        else:
            model = replace(model, options={**model.options, name: yaml.safe_load(value)})
    bench = get_benchmark("doodles")
    torch.manual_seed(seed)
    segmenter, text = build(model, bench.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        if METHODS[method].cls.trainable:
            fit(segmenter, text, bench, None, Path(folder), train, progress=False)
    seen = bench.seen_ids if train.regime == "inductive" and METHODS[method].cls.trainable else None
    return evaluate(segmenter, text, bench, None, title=choice, inference=bench.inference, seen=seen, shown=0, progress=False).scores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(CHOICES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="training steps; the recipe's by default")
    parser.add_argument("--only", nargs="+", help="these choices instead of all")
    asked = parser.parse_args()
    print(f"| choice | {' | '.join(NUMBERS)} |\n|---|{'---|' * len(NUMBERS)}")
    for choice in asked.only or CHOICES[asked.method]:
        runs = [measure(asked.method, choice, seed, asked.steps) for seed in asked.seeds]
        cells = []
        for name in NUMBERS:
            values = [run[name] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| `{choice}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
