"""Labelling a folder of photographs as `unseen segment` does, beside the network alone.

ZegCLIP on a ViT-B/16 with random weights, in windows as on VOC, with 20 classes. Some photographs
at a time, ours and the network alone take turns: ours reads files and writes label map, overlay and
numbers; the network alone is given the decoded images, and its logits are thrown away. As in
`photograph.py` the logits of the random network are replaced by smooth ones, of which five classes
stand out. By the clock, on as many threads as torch takes by itself; give it a machine that does
nothing else.

Run: python benchmarks/folder.py FOLDER [--count 200] [--turns 10]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from photograph import smoothed
from speed import Case, make_segmenter, make_text

from unseen.data.benchmarks.base import WINDOWS
from unseen.errors import UnseenError
from unseen.images import read_pixels
from unseen.inference import score_maps
from unseen.labelling.sources import find_items
from unseen.labelling.whole import WholeJob
from unseen.predictor import Predictor


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--turns", type=int, default=10)
    flags = parser.parse_args()
    case = Case("zegclip", 20, {"num_prompts": 10})
    predictor, text = Predictor(make_segmenter(case), WINDOWS), make_text(case)
    method = type(predictor.segmenter)
    method.forward = smoothed(method.forward, 5)  # type: ignore[method-assign, assignment]
    files = sorted(flags.folder.glob("*.jpg"))[: flags.count]
    size = -(-len(files) // flags.turns)
    ours, alone = [], []
    with tempfile.TemporaryDirectory() as out:
        for first in [0, *range(0, len(files), size)]:  # the first turn warms up
            part = files[first : first + size]
            images = [torch.from_numpy(read_pixels(file)).permute(2, 0, 1) for file in part]
            start = time.perf_counter()
            with torch.no_grad():
                for image in images:
                    score_maps(predictor.segmenter, image.unsqueeze(0), text, WINDOWS)
            middle = time.perf_counter()
            for _, result in WholeJob(predictor, text, Path(out)).run(find_items(part)):
                if isinstance(result, UnseenError):
                    raise result
            alone.append(middle - start)
            ours.append(time.perf_counter() - middle)
    ratios = sorted(a / b for a, b in zip(ours[1:], alone[1:], strict=True))
    seconds = f"{sum(ours[1:]):.0f} s, the network alone {sum(alone[1:]):.0f} s"
    middle = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    print(f"{len(files)} photographs: {seconds}, ratio {middle}")


if __name__ == "__main__":
    main()
