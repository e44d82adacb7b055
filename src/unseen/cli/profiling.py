"""The verb about costs: profile."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.comparing import show
from unseen.cli.flags import FLAT, NOTHING, Given, ModelFlags, settings_flags
from unseen.errors import SettingError
from unseen.settings import InferenceSettings, TableFormat

if TYPE_CHECKING:
    from unseen.compared.tables import Cell
    from unseen.profiling import Cost
    from unseen.sources import ModelSource

GROUPS: dict[str, dict[str, Any]] = {
    "profile": {"inference": settings_flags(InferenceSettings(), "Inference", defaults=False)},
}
"""By verb, its parameters that are mappings, and the flags that fill them."""


@dataclass(frozen=True)
class ProfileFlags:
    """What is measured, and how often.

    Attributes:
        benchmark: Its classes, and its recipe for methods that are to be trained; Doodles by
            default. A run has its own classes.
        size: Side of the image in pixels.
        repeats: Times that the label map is made; the median is told.
        device: "auto", "cpu", "cuda", ...
        format: Of the table: for the screen, Markdown, CSV or LaTeX.
    """

    benchmark: str | None = None
    size: int = 512
    repeats: int = 5
    device: str = "auto"
    format: TableFormat = "table"


MODEL, PROFILE = ModelFlags(), ProfileFlags()


def profile(
    models: list[str],
    /,
    *,
    flags: Annotated[ProfileFlags, FLAT] = PROFILE,
    model: Annotated[ModelFlags, FLAT] = MODEL,
    inference: Given = NOTHING,
) -> None:
    """Print what methods cost: parameters, multiply-adds, time and memory of a label map.

    Of a square image of noise, and the classes of a benchmark. A multiply-add is counted once;
    torch's counter and many papers count two FLOPs. Classes are encoded beforehand, and the text
    tower is counted apart. Below a method stands what was published of its cost on the benchmark.

    Args:
        models: Methods, trained or not, and run folders.
        flags: What is measured.
        model: What methods are built with.
        inference: Single values to change: windows, precision, ...
    """
    for name, value, most in (("size", flags.size, 4096), ("repeats", flags.repeats, 1000)):
        if not 1 <= value <= most:
            raise SettingError(f"--{name} is {value}; give a number from 1 to {most}")
    benchmark = flags.benchmark or "doodles"
    sources = [_source(name, benchmark, model) for name in models]
    if flags.benchmark is not None and all(source.run is not None for source in sources):
        raise SettingError("--benchmark is for methods, and runs have their own; remove it")
    from unseen.compared.costs import HEADS, cost_cells, measured_at
    from unseen.compared.tables import Comparison

    rows: list[tuple[Cell, ...]] = []
    for name, source in zip(models, sources, strict=True):
        cost = asdict(_cost(source, benchmark, flags, inference))
        rows.append((name, *cost_cells(cost), measured_at(cost)))
        rows += _published(source, benchmark)
    show(Comparison((*HEADS, "measured at"), tuple(rows)), flags.format)


def _source(name: str, benchmark: str, model: ModelFlags) -> ModelSource:
    """A method, also one that is to be trained, or a run."""
    from unseen.methods import METHODS
    from unseen.recipes import resolve
    from unseen.sources import ModelSource, find_model

    if name in METHODS and METHODS[name].trainable:
        return ModelSource(resolve(name, benchmark, model=model.given())[0])
    return find_model(name, model.given())


def _cost(source: ModelSource, benchmark: str, flags: ProfileFlags, inference: Given) -> Cost:
    from unseen.building import build, device_named, encode, own_inference
    from unseen.data.benchmarks import get_benchmark
    from unseen.profiling import profile as measure
    from unseen.settings import change_inference

    run = source.run
    names = get_benchmark(benchmark).class_names if run is None else run.class_names
    segmenter = build(source, names).to(device_named(flags.device))
    base = own_inference(segmenter) if run is None else run.inference
    text = encode(segmenter, names)
    settings = change_inference(base, inference)
    return measure(segmenter, text, settings, size=flags.size, repeats=flags.repeats)


def _published(source: ModelSource, benchmark: str) -> list[tuple[Cell, ...]]:
    """A row of what was published of a method's cost on a benchmark, if anything was."""
    from unseen.compared.costs import cost_cells
    from unseen.recipes import published

    benchmark = benchmark if source.run is None else source.run.benchmark
    protocol = published(source.settings.method, benchmark)
    if protocol is None or not protocol.cost:
        return []
    told = protocol.cost
    return [(f"published ({told['source']})", *cost_cells(told), told["measured_at"])]
