"""What a method costs: parameters, multiply-adds, time and memory of a label map."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from unseen.building import own_inference
from unseen.clip_segmenter import TextSegmenter
from unseen.data.benchmarks import Benchmark
from unseen.inference import LabelMaps, label_maps
from unseen.precision import chosen_precision
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings

TIMES, BUDGET = 3, 2.0
"""Times that a label map is made to measure its time, and the seconds after which no more are."""


@dataclass(frozen=True)
class Cost:
    """What a method costs on one image.

    Attributes:
        parameters: Of all parts but the text tower, which encodes the classes once.
        text_parameters: Of the text tower.
        trained: Parameters that training changes.
        multiply_adds: Of the network on one image, each counted once (torch's counter and papers
            that say FLOPs count two); classes are encoded beforehand.
        seconds: Median over the repetitions, from the image's pixels to its label map.
        peak_bytes: Of tensors that live at once, at most, beyond the model's own; what libraries
            take for themselves is not counted.
        size: Side of the square image in pixels.
        classes: How many.
        device: Where it was computed.
        precision: Of the network.
        threads: Of torch.
    """

    parameters: int
    text_parameters: int
    trained: int
    multiply_adds: int
    seconds: float
    peak_bytes: int
    size: int
    classes: int
    device: str
    precision: str
    threads: int


def profile(
    segmenter: TextSegmenter,
    text: TextFeatures,
    inference: InferenceSettings,
    *,
    size: int | None = None,
    repeats: int | None = None,
) -> Cost:
    """Measure a method on an image of noise.

    Args:
        segmenter: The method, on the device to compute on.
        text: The classes, encoded.
        inference: Precision and windows; the image keeps its size, and refinements by
            eigen-segments are left out.
        size: Side of the image in pixels; by default what the settings resize to, else one and a
            half times what the tower was trained with.
        repeats: Times that the label map is made to measure the time; by default three times, or
            as often as `BUDGET` allows.
    """
    size = size or _side(inference) or _side(own_inference(segmenter)) or 512
    settings = replace(inference, short_side=None, square=None, canvas=None, antialias=True)
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, size, size), generator=rng, dtype=torch.uint8)
    image = image.to(segmenter.device)
    work = partial(label_maps, segmenter, image, text, settings)
    # First, as it makes what is made once.
    multiply_adds, memory = count_work(segmenter, image, text, settings)
    return Cost(
        **parameter_counts(segmenter),
        multiply_adds=multiply_adds,
        seconds=statistics.median(_times(work, repeats)),
        peak_bytes=memory,
        size=size,
        classes=len(text.vocabulary),
        device=str(segmenter.device),
        precision=chosen_precision(settings.precision, segmenter.device),
        threads=torch.get_num_threads(),
    )


def own_cost(
    segmenter: TextSegmenter, text: TextFeatures, inference: InferenceSettings, benchmark: Benchmark
) -> dict[str, Any]:
    """What runs and reports say of a cost: at the size that is scored, in folds of one class."""
    asked = text if benchmark.episodes is None else text.select([0])
    return asdict(profile(segmenter, asked, inference))


def _side(inference: InferenceSettings) -> int | None:
    """What images are resized to."""
    return inference.short_side or inference.square or inference.canvas


def parameter_counts(segmenter: TextSegmenter) -> Mapping[str, int]:
    """Parameters of the text tower, of all else, and those that training changes."""
    every = _count(segmenter)
    visual = getattr(segmenter.clip, "visual", None)
    tower = segmenter.clip if isinstance(segmenter.clip, torch.nn.Module) else None
    text = 0 if tower is None else _count(tower) - (0 if visual is None else _count(visual))
    trained = sum(each.numel() for each in segmenter.parameters() if each.requires_grad)
    return {"parameters": every - text, "text_parameters": text, "trained": trained}


def _count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def count_work(
    segmenter: TextSegmenter, image: Tensor, text: TextFeatures, settings: InferenceSettings
) -> tuple[int, int]:
    """Multiply-adds of a label map (products of matrices, convolutions, attention), and memory.

    The memory is that of tensors, in bytes, beyond the model's own.
    """
    # torch knows the attention of GPUs, and not that of processors.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    # The counter follows gradients, which there are none of.
    with _without_gradients(segmenter), TensorMemory(segmenter) as memory, counter:
        label_maps(segmenter, image, text, settings)
    return int(counter.get_total_flops()) // 2, memory.peak


def _attention_flops(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Of queries (B, H, Q, D), keys (B, H, K, D) and values (B, H, K, V), by their shapes."""
    *batch, queries, width = query
    return 2 * math.prod(batch) * queries * key[-2] * (width + value[-1])


@contextmanager
def _without_gradients(segmenter: TextSegmenter) -> Iterator[None]:
    """No parameter asks for a gradient inside."""
    asking = [each for each in segmenter.parameters() if each.requires_grad]
    for each in asking:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in asking:
            each.requires_grad_(True)


def _times(work: Callable[[], LabelMaps], repeats: int | None) -> list[float]:
    """Seconds that a label map takes, of each time that it is made."""
    times: list[float] = []
    while len(times) < (repeats or TIMES) and (repeats or not times or sum(times) < BUDGET):
        begun = time.perf_counter()
        work().labels.cpu()  # waits for the device
        times.append(time.perf_counter() - begun)
    return times


class TensorMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors that are made inside.

    Args:
        model: Its own parameters and buffers, and views of them, are not counted.

    Attributes:
        now: Bytes of those that live.
        peak: The most there were at once.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        own = [*model.parameters(), *model.buffers()]
        self.own = {id(each.untyped_storage()): each.untyped_storage() for each in own}
        self.now = self.peak = 0
        self.living: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation in place of it."""
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._follow(each.untyped_storage())
        return made

    def _follow(self, storage: Any) -> None:
        """Count a piece of memory, which views share, until it goes."""
        place, size = id(storage), storage.nbytes()
        if place in self.living or place in self.own:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self.living[place]

        self.living[place] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
