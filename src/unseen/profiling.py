"""What a method costs: parameters, multiply-adds, time and memory of a label map."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unseen.building import own_inference
from unseen.clip_segmenter import TextSegmenter
from unseen.inference import label_maps
from unseen.precision import chosen_precision
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings


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
        peak_bytes: Memory at most, beyond what the model itself takes; None where the system does
            not tell.
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
    peak_bytes: int | None
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
    repeats: int = 5,
) -> Cost:
    """Measure a method on an image of noise.

    Args:
        segmenter: The method, on the device to compute on.
        text: The classes, encoded.
        inference: Precision and windows; the image keeps its size, and refinements by
            eigen-segments are left out.
        size: Side of the image in pixels; by default what the settings resize to, else one and a
            half times what the tower was trained with.
        repeats: Times that the label map is made; one more goes before.
    """
    size = size or _side(inference) or _side(own_inference(segmenter)) or 512
    settings = replace(inference, short_side=None, square=None, canvas=None, antialias=True)
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, size, size), generator=rng, dtype=torch.uint8)
    image = image.to(segmenter.device)
    # Before the first one, after which the system may keep memory for the next.
    begun = _reset_peak(segmenter.device)
    label_maps(segmenter, image, text, settings)
    seconds = [_timed(segmenter, image, text, settings) for _ in range(repeats)]
    peak = _peak(segmenter.device)
    counts = parameter_counts(segmenter)
    return Cost(
        **counts,
        multiply_adds=count_multiply_adds(segmenter, image, text, settings),
        seconds=statistics.median(seconds),
        peak_bytes=None if peak is None or begun is None else peak - begun,
        size=size,
        classes=len(text.vocabulary),
        device=str(segmenter.device),
        precision=chosen_precision(settings.precision, segmenter.device),
        threads=torch.get_num_threads(),
    )


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


def count_multiply_adds(
    segmenter: TextSegmenter, image: Tensor, text: TextFeatures, settings: InferenceSettings
) -> int:
    """Multiply-adds of products of matrices, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    # The counter follows gradients, which there are none of, and knows attention as products.
    with _without_gradients(segmenter), sdpa_kernel(SDPBackend.MATH), counter:
        label_maps(segmenter, image, text, replace(settings, precision="32-true"))
    return int(counter.get_total_flops()) // 2


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


def _timed(
    segmenter: TextSegmenter, image: Tensor, text: TextFeatures, settings: InferenceSettings
) -> float:
    begun = time.perf_counter()
    maps = label_maps(segmenter, image, text, settings)
    maps.labels.cpu()  # waits for the device
    return time.perf_counter() - begun


def _reset_peak(device: torch.device) -> int | None:
    """Set the peak of the memory back to what is used now, in bytes, and return it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed, for the next
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _peak(device)
    return None


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return None
