"""The verb about costs: profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.comparing import show
from unseen.cli.flags import FLAT, NOTHING, Given, ModelFlags, settings_flags
from unseen.errors import SettingError
from unseen.settings import InferenceSettings, TableFormat

if TYPE_CHECKING:
    from unseen.profiling import Cost
    from unseen.sources import ModelSource

GROUPS: dict[str, dict[str, Any]] = {
    "profile": {"inference": settings_flags(InferenceSettings(), "Inference", defaults=False)},
}
"""By verb, its parameters that are mappings, and the flags that fill them."""
HEADS = (
    "model", "parameters", "text tower", "trained", "multiply-adds", "label map", "memory",
)  # fmt: skip


@dataclass(frozen=True)
class ProfileFlags:
    """What is measured, and how often.

    Attributes:
        benchmark: Its classes, and its recipe for methods that are to be trained; a run has its own
            classes.
        size: Side of the image in pixels.
        repeats: Times that the label map is made; the median is told.
        device: "auto", "cpu", "cuda", ...
        format: Of the table: for the screen, Markdown, CSV or LaTeX.
    """

    benchmark: str = "doodles"
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
    tower is counted apart.

    Args:
        models: Methods, trained or not, and run folders.
        flags: What is measured.
        model: What methods are built with.
        inference: Single values to change: windows, precision, ...
    """
    for name, value, most in (("size", flags.size, 4096), ("repeats", flags.repeats, 1000)):
        if not 1 <= value <= most:
            raise SettingError(f"--{name} is {value}; give a number from 1 to {most}")
    sources = [_source(name, flags.benchmark, model) for name in models]
    from unseen.compared.tables import Comparison

    costs = [_cost(source, flags, inference) for source in sources]
    rows = tuple((name, *_cells(cost)) for name, cost in zip(models, costs, strict=True))
    show(Comparison(HEADS, rows), flags.format)
    if flags.format == "table":
        first = costs[0]
        print(
            f"{first.size} x {first.size} pixels, {first.classes} classes, {first.device},"
            f" {first.threads} threads, precision {first.precision}"
        )


def _source(name: str, benchmark: str, model: ModelFlags) -> ModelSource:
    """A method, also one that is to be trained, or a run."""
    from unseen.methods import METHODS
    from unseen.recipes import resolve
    from unseen.sources import ModelSource, find_model

    if name in METHODS and METHODS[name].trainable:
        return ModelSource(resolve(name, benchmark, model=model.given())[0])
    return find_model(name, model.given())


def _cost(source: ModelSource, flags: ProfileFlags, inference: Given) -> Cost:
    from unseen.building import build, device_named, encode, own_inference
    from unseen.data.benchmarks import get_benchmark
    from unseen.profiling import profile as measure
    from unseen.settings import change_inference

    run = source.run
    names = get_benchmark(flags.benchmark).class_names if run is None else run.class_names
    segmenter = build(source, names).to(device_named(flags.device))
    base = own_inference(segmenter) if run is None else run.inference
    text = encode(segmenter, names)
    settings = change_inference(base, inference)
    return measure(segmenter, text, settings, size=flags.size, repeats=flags.repeats)


def _cells(cost: Cost) -> list[str]:
    memory = "-" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e6:.0f} MB"
    return [
        *(f"{n / 1e6:.1f} M" for n in (cost.parameters, cost.text_parameters, cost.trained)),
        f"{cost.multiply_adds / 1e9:.1f} G",
        f"{1000 * cost.seconds:.0f} ms",
        memory,
    ]
