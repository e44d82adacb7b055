"""What --published resolves to, beside the released configurations, as a page in Markdown.

`released.yaml` beside this file holds the released values, read off the released codes; everything
else is resolved as the verbs resolve it. `tests/test_published.py` checks that both agree and that
the page is what this prints.

Run: python benchmarks/published.py > docs/published.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from unseen.data.benchmarks import get_benchmark
from unseen.evaluation.entries import Changes
from unseen.methods import known
from unseen.methods.options import released_options
from unseen.recipes import require_published, resolve
from unseen.settings import change_inference, flat
from unseen.sources import benchmark_templates
from unseen.vocabulary import change_vocabulary

RELEASED = Path(__file__).with_name("released.yaml")
GENERALISED = ("voc", "coco-stuff", "context", "context-cascade")
"""Benchmarks on which methods were trained in several regimes."""
HEAD = """# Published settings, field by field

What `--published` resolves to beside the released configuration of each method and benchmark.
Made by `python benchmarks/published.py > docs/published.md` from `benchmarks/released.yaml`, which
holds the released values, and from the recipes; `tests/test_published.py` checks every row.
What a released code does and no setting can follow stands in the tables of deviations of the
[methods' pages](methods/README.md), with "none" as its option.
"""


def resolved(method: str, benchmark: str, regime: str) -> dict[str, Any]:
    """All settings of a method on a benchmark under --published, with dotted names."""
    row, protocol, bench = (
        known(method),
        require_published(method, benchmark, regime),
        get_benchmark(benchmark),
    )
    defaults = {name: option.default for name, option in row.choices.items()}
    values: dict[str, Any] = {}
    options = {**defaults, **released_options(row.cls), **protocol.model.get("options", {})}
    if row.trainable:
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


def released() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Method, benchmark, regime and released values of every configuration."""
    stored = yaml.safe_load(RELEASED.read_text(encoding="utf-8"))
    for method, configurations in stored["methods"].items():
        for name, values in configurations.items():
            benchmark, _, regime = name.partition(" ")
            yield method, benchmark, regime or "inductive", values


def rows() -> Iterator[tuple[str, str, Any, Any]]:
    """Title of the configuration, field, released value, resolved value."""
    for method, benchmark, regime, values in released():
        title = f"{method} on {benchmark}"
        if known(method).trainable and benchmark in GENERALISED:
            title += f", {regime}"
        ours = resolved(method, benchmark, regime)
        for field, value in values.items():
            yield title, field, _plain(value), _plain(ours.get(field, "no such setting"))


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    return list(value) if isinstance(value, tuple) else value


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
