"""What --published resolves to, beside the released configurations, as a page in Markdown.

`released.yaml` beside this file holds the released values, read off the released codes; everything
else is resolved as the verbs resolve it. `tests/test_published.py` checks that both agree and that
the page is what this prints.

Run: python benchmarks/published.py > docs/published.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from unseen.data.benchmarks import get_benchmark
from unseen.evaluation.entries import Changes
from unseen.methods import known
from unseen.methods.options import released_options
from unseen.recipes import FROM, require_published, resolve
from unseen.settings import change_inference, flat
from unseen.sources import benchmark_templates
from unseen.vocabulary import change_vocabulary

RELEASED = Path(__file__).with_name("released.yaml")
GENERALISED = ("voc", "coco-stuff", "context", "context-cascade")
"""Benchmarks on which methods were trained in several regimes."""
NOT_RELEASED = "not released"
"""In place of a value: the released code does not say, and ours is a choice."""
RUNNING = frozenset(
    {
        *(f"train.{x}" for x in ("regime", "seed", "workers", "recompute", "log_every", "logger")),
        *(f"train.{x}" for x in ("save_every", "save_minutes", "snapshots", "accumulate")),
        *(f"train.{x}" for x in ("validate_every", "validate_images")),
        *(f"train.{x}" for x in ("devices", "nodes", "strategy")),
        *(f"evaluation.{x}" for x in ("limit", "batch_size", "workers", "shown", "device")),
        "evaluation.progress",
        "inference.window_batch",
    }
)
"""Fields that say how a run goes, and not what it comes to."""
OFF: dict[str, Any] = {
    "train.sampling": "images",
    "train.unseen_pixels": "ignore",
    "train.pseudo_label_ignored": False,
    "train.transforms.zoom": None,
    "train.transforms.rotate": 0.0,
    "train.transforms.blur": False,
    "train.transforms.pillow": False,
    "train.transforms.centre": False,
    "train.transforms.min_positives": 0.0,
    "train.transforms.pad_first": False,
    "train.transforms.hsv": False,
    "options.focal_over": "all",
    "options.shape": "off",
    "options.prompt_norm": None,  # as the depth of the prompts says
    "options.rounds": None,  # ended by `sinkhorn_stop`
    "options.prior_blocks": None,  # all but the last
    "options.decoder_heads": None,  # as many as the tower's
    "options.gaussian_std": 5.0,  # of NACLIP alone
    "options.rim": "pad",
    "inference.short_side": None,
    "inference.square": None,
    "inference.canvas": None,
    "inference.stride": None,
    "inference.confidence_at": "maps",
    "inference.precision": "32-true",
    "inference.area_threshold": None,
    "inference.refinement": "none",
    "evaluation.threshold": None,
    "evaluation.episodes": "all",
    "evaluation.seeds": (0,),
    "evaluation.oracle": False,
    "evaluation.released_counts": False,
    "evaluation.at_square": False,
    "evaluation.choose_threshold": 0,
}
"""What a released code does where no row says otherwise: most of it, that it does not do so."""
UNUSED = {
    "train.transforms.scale": ("train.transforms.resize", (None,)),
    "train.transforms.max_class_share": ("train.transforms.resize", (None,)),
    "train.warmup_ratio": ("train.warmup", (0,)),
    "train.power": ("train.schedule", ("step",)),
    "train.min_lr": ("train.schedule", ("step",)),
    "options.vit_sizes": ("options.backbone", ("vit_large",)),
    "options.drn_layers": ("options.backbone", ("vit_large",)),
    "options.drn_channels": ("options.backbone", ("vit_large",)),
    "options.small_width": ("options.backbone", ("vit_large",)),
    "options.shape_weights": ("options.shape", ("off",)),
    "options.dropout": ("options.backbone", ("vit_large",)),
    "inference.antialias": ("inference.canvas", (352, 480)),  # a canvas never smooths
    "inference.pamr_steps": ("inference.refinement", ("none",)),
    "inference.pamr_dilations": ("inference.refinement", ("none",)),
    "inference.refinement_threshold": ("inference.refinement", ("none", "pamr")),
    "inference.segments_features": ("inference.refinement", ("none", "pamr")),
    "inference.segments_dir": ("inference.refinement", ("none", "pamr")),
    "inference.segments_count": ("inference.refinement", ("none", "pamr")),
}
"""Fields that mean nothing, or follow from the name, where another has such a value."""
HEAD = """# Published settings, field by field

What `--published` resolves to beside the released configuration of each method and benchmark.
Made by `python benchmarks/published.py > docs/published.md` from `benchmarks/released.yaml`, which
holds the released values, and from the recipes; `tests/test_published.py` checks every row, and
that no setting is left out but those that say how a run goes.
"Not released" is what a released code does not say; the value beside it is our choice.
What a released code does and no setting can follow stands in the tables of deviations of the
[methods' pages](methods/README.md), with "none" as its option.
"""


def resolved(method: str, benchmark: str, regime: str) -> dict[str, Any]:
    """All settings of a method on a benchmark under --published, with dotted names.

    Those of a test alone where the regime is "from NAME", of a run on another benchmark.
    """
    row, protocol, bench = (
        known(method),
        require_published(method, benchmark, regime),
        get_benchmark(benchmark),
    )
    defaults = {name: option.default for name, option in row.choices.items()}
    values: dict[str, Any] = {"clip": protocol.model.get("clip")}
    options = {**defaults, **released_options(row.cls), **protocol.model.get("options", {})}
    if regime.startswith(FROM):
        options = protocol.test_options
    elif row.trainable:
        model, train = resolve(
            method, benchmark, model={"published": True}, train={"regime": regime}
        )
        options |= {**benchmark_templates(model, bench), **model.options}
        values = {"clip": model.clip, **flat({"train": asdict(train)})}
    vocabulary = change_vocabulary(bench.vocabulary, protocol.vocabulary)
    return {
        **values,
        **flat({"options": options}),
        **flat({"inference": asdict(change_inference(bench.inference, protocol.inference))}),
        **flat({"evaluation": asdict(Changes().scoring(protocol))}),
        "vocabulary.class_file": protocol.vocabulary.get("class_file"),
        "vocabulary.combine": vocabulary.combine,
        "vocabulary.prompted_names": sum(index >= 0 for _, index in vocabulary.rows),
        "vocabulary.background_words": len(vocabulary.background),
        "benchmark.classes": len(bench.class_names),
        "benchmark.unseen": len(bench.unseen),
        "benchmark.background": bench.background,
    }


def released(part: str = "methods") -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Method, benchmark, regime and released values of every configuration.

    Args:
        part: "methods", or "across": tests of runs on another benchmark.
    """
    stored = yaml.safe_load(RELEASED.read_text(encoding="utf-8"))
    for method, configurations in stored[part].items():
        for name, values in configurations.items():
            benchmark, _, regime = name.partition(" ")
            yield method, benchmark, regime or "inductive", values


def rows() -> Iterator[tuple[str, str, Any, Any]]:
    """Title of the configuration, field, released value, resolved value."""
    for method, benchmark, regime, values in chain(released(), released("across")):
        title = f"{method} on {benchmark}"
        if regime.startswith(FROM) or (known(method).trainable and benchmark in GENERALISED):
            title += f", {regime}"
        ours = resolved(method, benchmark, regime)
        for field, value in values.items():
            yield title, field, _plain(value), _plain(ours.get(field, "no such setting"))


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    return list(value) if isinstance(value, tuple) else value


def left_out() -> Iterator[tuple[str, str, str, Any]]:
    """Method, benchmark, field and value of settings that no row compares and nothing explains."""
    for method, benchmark, regime, values in chain(released(), released("across")):
        ours = resolved(method, benchmark, regime)
        for field, value in ours.items():
            if field in values or field in RUNNING:
                continue
            if field.partition(".")[0] not in ("train", "options", "inference", "evaluation"):
                continue
            other, where = UNUSED.get(field, ("", ()))
            unused = other in ours and ours[other] in where
            if not unused and _plain(value) != _plain(OFF.get(field, "no row")):
                yield method, benchmark, field, value


def page() -> str:
    """The page."""
    parts, last = [HEAD], ""
    for title, field, theirs, ours in rows():
        if title != last:
            parts.append(f"\n## {title}\n\n| setting | released | `--published` |\n|---|---|---|\n")
            last = title
        parts.append(f"| `{field}` | {_cell(theirs)} | {_cell(ours)} |\n")
    return "".join(parts)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(page(), end="")
