"""What labelling a photograph of 12 megapixels takes besides the network: seconds, and its share.

ZegCLIP on a ViT-B/16 with random weights, in windows as on VOC, with 171 classes. A random network
finds all classes much alike, so its logits are replaced: by smooth random ones of which some
classes stand out, as those of a trained one do, or all.

Run: OMP_NUM_THREADS=1 python benchmarks/photograph.py [--rounds 5]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from speed import Case, make_segmenter, make_text
from torch import Tensor
from torch.nn import functional as F

from unseen.data.benchmarks.base import WINDOWS
from unseen.predictor import Predictor
from unseen.segmenter import Prediction, Segmenter, TextFeatures

SIZE, CLASSES = (4000, 3000), 171
PARTS = {
    "read": "unseen.predictor.read_pixels",
    "best classes": "unseen.inference.best_rows",
    "overlay": "unseen.segmentation.overlay",
    "numbers": "unseen.segmentation.Segmentation.as_dict",
    "label map, written": "unseen.segmentation.write_labels",
    "overlay, written": "unseen.segmentation.write_png",
}
"""What is timed besides the network, by name."""


def smooth_logits(count: int, classes: int, grid: tuple[int, int]) -> Tensor:
    """Logits (1, classes, h, w), of which the first `count` stand out somewhere."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, step: int) -> Tensor:
        small = (grid[0] // step + 1, grid[1] // step + 1)
        values = torch.randn(1, channels, *small, generator=generator)
        return F.interpolate(values, grid, mode="bicubic")

    logits = noise(classes, 4) - 6
    logits[:, :count] += 4 + 6 * noise(count, 6)
    return logits


def smoothed(network: Callable[..., Any], standing_out: int) -> Callable[..., Prediction]:
    """The forward of a segmenter, with smooth logits instead of those of a random network."""

    def forward(self: Segmenter, images: Tensor, text: TextFeatures) -> Prediction:
        prediction: Prediction = network(self, images, text)
        count, classes, *grid = prediction.logits.shape
        logits = smooth_logits(min(standing_out, classes), classes, (grid[0], grid[1]))
        return replace(prediction, logits=logits.expand(count, -1, -1, -1))

    return forward


@contextmanager
def clocks(segmenter: Segmenter, standing_out: int, seconds: dict[str, float]) -> Iterator[None]:
    """Add up the processor's seconds of every part; the network's logits are replaced."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*given, **named)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

        return call

    forward = smoothed(timed("network", type(segmenter).forward), standing_out)
    with ExitStack() as stack:
        stack.enter_context(patch.object(type(segmenter), "forward", forward))
        for name, target in PARTS.items():
            stack.enter_context(patch(target, timed(name, resolve_name(target))))
        yield


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    case = Case("zegclip", CLASSES, {"num_prompts": 100})
    predictor, text = Predictor(make_segmenter(case), WINDOWS), make_text(case)
    print("| classes that stand out | network |", " | ".join(PARTS), "| all but the network |")
    print("|---|---|" + "---|" * (len(PARTS) + 1), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "large.jpg"
        noise = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC).save(image, quality=90)
        for standing_out in (10, CLASSES):
            rounds: list[dict[str, float]] = []
            for _ in range(flags.rounds + 1):
                seconds: dict[str, float] = {}
                with clocks(predictor.segmenter, standing_out, seconds):
                    start = time.process_time()
                    predictor.segment_encoded(image, text).save(folder, "result")
                    seconds["all"] = time.process_time() - start
                rounds.append(seconds)
            middle = {
                name: statistics.median(part[name] for part in rounds[1:]) for name in rounds[0]
            }
            others = (middle["all"] - middle["network"]) / middle["network"]
            cells = " | ".join(f"{middle[name]:.2f}" for name in ("network", *PARTS))
            print(f"| {standing_out} | {cells} | {others:.2f} of it |", flush=True)


if __name__ == "__main__":
    main()
