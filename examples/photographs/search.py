"""What beats the published methods on unseen classes? Parts of all of them, tried one by one.

Choices are made on held-back photographs (training images alone, a third of the seen classes
unseen) and on Doodles with the classes of folds 0 and 1 unseen, scenes of seed 2; never on what the
tables score. One run a choice, part and seed, all else equal. Results are kept.

Run: python examples/photographs/search.py --voc VOC2012 --lists LISTS --mobilenet FILE
     python examples/photographs/search.py ... --data doodles --only ours direct=true

"ours" is `combination.py` without parts: ZegCLIP with one head. Any other choice is made of changes
joined by "+": NAME=VALUE of an option of `combination.py`,
train.NAME=VALUE of the training, inference.NAME=VALUE of the test, mixed=SHARE (weights between the
start and the end of training), or the name of another method.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from choice import Choice, run_name
from combination import Combination
from common import QUIET, SIZE, Row, flags_of, held_back, kept, score, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import unseen
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.classes import DOODLES_FOLDS
from unseen.data.datasets import DoodleScenes
from unseen.recipes import settings
from unseen.settings import EvaluationSettings

METHODS: Mapping[str, Mapping[str, Any]] = {
    "zegclip": {},
    "clip_rc": {},
    "cascade_clip": {},
    "otseg": {"text_offsets": 4},
}
"""Published methods to compare with, with their options on photographs."""
CHOICES = (
    "ours",
    *METHODS,
    "mixed=0.7",
    "mixed=0.5",
    "direct=true",
    "text_noise=0.3",
    "text_noise=1.0",
    "proxy=VIT+proxy_share=0.5",
    "proxy=VIT+proxy_share=0.5+proxy_in_training=true",
    "train.steps=200",
    "decoder_layers=1",
    "centred=true",
    "pairs_weight=0.5",
    "presence=1.0",
    "others=OTHERS",
    "inference.refinement=pamr",
    "inference.area_threshold=0.05",
    "inference.short_side=320",
)
"""What is tried by default."""
NUMBERS = ("mIoU_S", "mIoU_U", "hIoU")


def mixed_weights(run: Path, share: float, out: Path) -> Path:
    """A run whose weights lie between those of its first step and its last."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("step-*"))
    first, last = (load_file(x / "weights.safetensors") for x in (run / "step-1", run))
    state = {name: first[name].lerp(last[name].float(), share) for name in last}
    with safe_open(run / "weights.safetensors", "pt") as file:
        about = file.metadata()
    save_file(state, out / "weights.safetensors", about)
    return out


# ------------------------------------------------------------------- photographs


def on_photographs(text: str, part: int, seed: int, flags: argparse.Namespace) -> dict[str, float]:
    """The scores of a choice on a held-back part."""
    choice = Choice.read(text)
    options = {**METHODS.get(choice.method, {}), **choice.options}
    row = Row(text, choice.method or "combination", options, {"lr": 1e-4, **choice.train})
    folder = held_back(flags, part)
    out = flags.out / "search" / f"{run_name(text)}-{part}-{seed}"
    run = train(row, flags, str(folder), out, seed, snapshots=(1,))
    if choice.mixed is not None:
        run = mixed_weights(run, choice.mixed, out.with_name(f"{out.name}-mixed"))
    test = replace(SIZE, **choice.inference)
    bench = get_benchmark(str(folder))
    return score(run, bench, flags, test, options=choice.scored or None).scores


# ----------------------------------------------------------------------- doodles


def doodles_fold(fold: int) -> Benchmark:
    """Doodles with the classes of a fold unseen, on other scenes than those of the tables."""

    def scenes(root: Path | None, split: str) -> DoodleScenes:
        opened = DoodleScenes.of_split(split)
        opened.seed = {"train": 1, "val": 2}[split]
        return opened

    return replace(get_benchmark("doodles"), unseen=DOODLES_FOLDS[fold], open=scenes)


def on_doodles(text: str, fold: int, seed: int, flags: argparse.Namespace) -> dict[str, float]:
    """The scores of a choice with the classes of a fold unseen."""
    choice = Choice.read(text)
    model, how = settings("zegclip", "doodles", seed=seed, snapshots=(1,), **choice.train)
    # What a combination has of ZegCLIP's options, as the recipe sets them.
    known = ("num_prompts", "dropout", "focal_over", "start")
    options = {name: model.options[name] for name in known if name in model.options}
    if choice.method:
        model, _ = settings(choice.method, "doodles")
        options = model.options  # the small tower has prompts of its own, and needs no offsets
    out = flags.out / "search-doodles" / f"{run_name(text)}-{fold}-{seed}"
    told = {name: "doodles" if value == "VIT" else value for name, value in choice.options.items()}
    method = choice.method or "combination"
    model = replace(model, method=method, options={**options, **told})
    if not (out / "weights.safetensors").exists():
        resume = (out / "config.yaml").exists()
        unseen.train(model, how, f"doodles-5i/{fold}", out, resume=resume, progress=False)
    run = out
    if choice.mixed is not None:
        run = mixed_weights(out, choice.mixed, out.with_name(f"{out.name}-mixed"))
    quiet = EvaluationSettings(**QUIET)
    test = replace(unseen.load(run).inference, **choice.inference)
    report = unseen.evaluate(
        run,
        doodles_fold(fold),
        inference=test,
        options=choice.scored or None,
        settings=quiet,
        save=False,
    )[0]
    return report.scores


def scores_of(data: str, text: str, flags: argparse.Namespace) -> Iterator[dict[str, float]]:
    """The scores of a choice on every part and seed."""
    measure = on_photographs if data == "photographs" else on_doodles
    for part in flags.parts:
        for seed in flags.seeds:
            file = flags.results / "search" / data / f"{text}-{part}-{seed}.json".replace("/", "_")
            yield kept(file, partial(measure, text, part, seed, flags))


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("photographs", "doodles"), default="photographs")
    parser.add_argument("--only", nargs="+", help="these choices instead of all")
    parser.add_argument("--parts", type=int, nargs="+", default=[0, 1], help="or folds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags = flags_of(parser)
    Combination.register()
    print(f"| {flags.data} | {' | '.join(NUMBERS)} |\n|---|{'---|' * len(NUMBERS)}", flush=True)
    # The small tower knows no other names than those of the drawings.
    known = [x for x in CHOICES if flags.data == "photographs" or "OTHERS" not in x]
    for text in flags.only or known:
        found = list(scores_of(flags.data, text, flags))
        means = [sum(each[name] for each in found) / len(found) for name in NUMBERS]
        print(f"| `{text}` | {' | '.join(f'{mean:.1f}' for mean in means)} |", flush=True)


if __name__ == "__main__":
    main()
