"""What all scripts of this example share: data, settings and rows of the tables."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unseen
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.data.classes import VOC, VOC_UNSEEN
from unseen.data.episodes import Episode
from unseen.data.layouts import voc_pairs
from unseen.files import write_text
from unseen.images import read_labels
from unseen.methods import METHODS
from unseen.predictor import Predictor
from unseen.settings import (
    EvaluationSettings,
    InferenceSettings,
    ModelSettings,
    Regime,
    TrainSettings,
    TransformSettings,
)

FREE: Mapping[str, Mapping[str, Any]] = {
    "clip": {},
    "maskclip": {},
    "maskclip_no_residual": {},
    "sclip": {},
    "clearclip": {},
    "naclip": {},
    # No other network was at hand: the classifier that the tower is made of looks once more.
    "proxyclip": {"proxy": "VIT"},
}
"""Methods without training, with their options."""
VIT = "vit_tiny_patch16_224.augreg_in21k_in1k"
"""timm's name of the classifier that the tower is made of."""
SIZE = InferenceSettings(short_side=224, window=224, stride=112, precision="32-true")
"""For all methods: windows of the size that the tower was trained at."""
TRANSFORMS = TransformSettings(resize=None, zoom=(0.5, 1.25), crop=192)
STEPS, BATCH = 400, 8
QUIET = {"shown": 0, "progress": False}


@dataclass(frozen=True)
class Row:
    """A trained method of the tables.

    Attributes:
        title: In tables and charts.
        method: In the table of methods.
        options: Of the method.
        train: Values of `TrainSettings` that differ from those all rows share.
        regime: How it is trained.
        query: Whether it is asked one class an image.
        trained_as: The row whose runs are scored with these options, instead of runs of its own.
    """

    title: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    regime: Regime = "inductive"
    query: bool = False
    trained_as: str = ""


def settings(
    row: Row, flags: argparse.Namespace, seed: int, **changes: Any
) -> tuple[ModelSettings, TrainSettings]:
    """Model and training of a run: the same data, tower, words, steps and crops for all rows."""
    values: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": BATCH,
        "warmup": 20,
        "schedule": "cosine",
        "clip_norm": 1.0,
        "workers": 0,
        "save_every": 100,
        "seed": seed,
        "regime": row.regime,
        "transforms": replace(TRANSFORMS, **({"min_positives": 0.5} if row.query else {})),
        **row.train,
        **changes,
    }
    options = with_files(row.options, flags)
    tower = "none" if row.method in ("sazs", "edgeclip") else str(flags.tower)
    return ModelSettings(row.method, tower, options=options), TrainSettings(**values)


def with_files(options: Mapping[str, Any], flags: argparse.Namespace) -> dict[str, Any]:
    """Options with the files of networks in place of their names."""
    files = {
        "MOBILENET": str(flags.mobilenet),
        "VIT": flags.vit,
        "OTHERS": str(flags.tower.with_name("others.npy")),
    }
    return {
        name: files.get(value, value) if isinstance(value, str) else value
        for name, value in options.items()
    }


def train(
    row: Row, flags: argparse.Namespace, benchmark: str, out: Path, seed: int, **changes: Any
) -> Path:
    """A finished run; a stopped one goes on, a finished one is left as it is.

    Transductive runs spend half of the steps on an inductive one they start from.
    """
    if (out / "weights.safetensors").exists():
        return out
    model, how = settings(row, flags, seed, **changes)
    init = None
    if how.regime == "transductive":
        how = replace(how, steps=how.steps // 2)
        first = replace(row, regime="inductive")
        init = train(first, flags, benchmark, out / "inductive", seed, steps=how.steps, **changes)
    own = (Path(benchmark) / "classes.txt").exists()
    unseen.train(
        model,
        how,
        benchmark,
        out,
        root=None if own else flags.voc,
        lists=flags.lists if benchmark.startswith("pascal-5i") else None,
        text_embeddings=Path(benchmark) / "text.npy" if own else flags.text,
        init=init,
        resume=(out / "config.yaml").exists(),
        progress=False,
    )
    return out


def score(
    model: str | Path,
    bench: Benchmark,
    flags: argparse.Namespace,
    inference: InferenceSettings = SIZE,
    **given: Any,
) -> unseen.Report:
    """A report of a run or of a method without training."""
    free = {"clip": str(flags.tower)} if str(model) in METHODS else {}
    if free:
        free["text_embeddings"] = given.pop("text", flags.text)
        given["options"] = with_files(FREE[str(model)], flags)
    root = None if bench.folder else flags.voc
    how = EvaluationSettings(**{**QUIET, **given.pop("how", {})})
    return unseen.evaluate(
        model, bench, inference=inference, settings=how, save=False, root=root, **free, **given
    )[0]


def loaded(model: str | Path, flags: argparse.Namespace) -> Predictor:
    """A run, or a method without training, for any list of classes."""
    if str(model) in FREE:
        source: dict[str, Any] = {"clip": str(flags.tower), "text_embeddings": flags.text}
        options = with_files(FREE[str(model)], flags)
        return unseen.load(str(model), inference=SIZE, class_names=VOC, options=options, **source)
    return unseen.load(model, inference=SIZE)


# ------------------------------------------------------------------ held-back data

SEEN = tuple(name for name in VOC if name not in VOC_UNSEEN)


def held_back(flags: argparse.Namespace, part: int, background: str = "ignore") -> Path:
    """A folder of the training images alone, to choose on: no image or class that scores.

    Every third of VOC's 15 seen classes is unseen here, the five unseen ones are ignored, and every
    fifth image is for validation.

    Args:
        flags: Of the command line.
        part: Which third, 0 to 2.
        background: "ignore", or "threshold" for methods with one query class an image.
    """
    folder = flags.out / "held-back" / f"{part}-{background}"
    if (folder / "text.npy").exists():
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    listed = {VOC.index(name) + 1 for name in SEEN}
    for pair in voc_pairs(flags.voc, "train"):
        if not listed & set(np.unique(read_labels(pair.labels)).tolist()):
            continue
        for link, target in (("images", pair.image), ("labels", pair.labels)):
            path = folder / link / target.name
            if not path.exists():
                path.symlink_to(target.resolve())
    marks = {name: " # unseen" for i, name in enumerate(SEEN) if i % 3 == part}
    marks |= dict.fromkeys(VOC_UNSEEN, " # ignore")
    lines = [f"background # {background}", *(name + marks.get(name, "") for name in VOC)]
    write_text(folder / "classes.txt", "\n".join(lines) + "\n", ours=True)
    rows = np.load(flags.text)
    np.save(folder / "text.npy", rows[[VOC.index(name) for name in SEEN]])
    return folder


def in_folds(bench: Benchmark) -> Benchmark:
    """A benchmark of your own scored as folds: every unseen class of every image, one by one."""

    def episodes(root: Path | None, *_: object) -> tuple[Any, list[Episode]]:
        data = bench.data("val", root)
        pairs = [
            Episode(index, class_id)
            for index in range(len(data))
            for class_id in torch.unique(data.labels(index)).tolist()
            if class_id in bench.unseen_ids
        ]
        return data, pairs

    return replace(bench, background="rest", episodes=episodes)


def voc_without_background(unseen_names: tuple[str, ...] = VOC_UNSEEN) -> Benchmark:
    """VOC with all twenty classes competing and the background ignored."""
    return replace(get_benchmark("voc"), unseen=unseen_names)


# ------------------------------------------------------------------------- results


def kept(path: Path, make: Any) -> dict[str, Any]:
    """A result that is measured once and stored."""
    if not path.exists():
        # Thousandths of a per cent are enough, and make short files.
        short = json.loads(json.dumps(make()), parse_float=lambda text: round(float(text), 3))
        write_text(path, json.dumps(short, indent=1) + "\n", ours=True)
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def cell(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds or parts, for a table."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def flags_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line with the flags that all scripts share."""
    for flag, text in (
        ("--voc", "VOCdevkit/VOC2012, or a part of it"),
        ("--lists", "HSNet's lists of PASCAL-5i (trn/ and val/)"),
        ("--mobilenet", "MobileNetV2 trained on ImageNet, converted from TensorFlow"),
    ):
        parser.add_argument(flag, type=Path, required=True, help=text)
    parser.add_argument(
        "--vit",
        default=f"timm:{VIT}",
        help="ViT-Tiny, the second network of ProxyCLIP: timm:NAME@FILE from a file",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"), help="for runs")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(__file__).parent / "results",
        help="measured scores; what is there is not measured again",
    )
    parser.add_argument(
        "--threads", type=int, help="of torch; as many as there are cores by default"
    )
    flags = parser.parse_args()
    flags.tower = flags.out / "tower" / "tower.safetensors"
    flags.text = flags.out / "tower" / "classes.npy"
    if not flags.tower.exists():
        parser.error(f"{flags.tower} is missing; make it with tower.py --out {flags.tower.parent}")
    if flags.threads:
        torch.set_num_threads(flags.threads)
    return flags
