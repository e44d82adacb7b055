"""Training samples of VOC: milliseconds of the processor for one, and how many two workers give.

Run: python benchmarks/samples.py --voc VOCdevkit/VOC2012 [--samples 200]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from speed import Case, make_segmenter

from unseen.data.benchmarks import get_benchmark
from unseen.recipes import settings
from unseen.training.batches import StepSampler, make_loader, training_items


def main() -> None:
    """Print both numbers for ZegCLIP's recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=200)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    _, how = settings("zegclip", "voc", batch_size=8, steps=flags.samples // 8 + 8)
    bench = get_benchmark("voc")
    data = bench.data("train", flags.voc)
    segmenter = make_segmenter(Case("zegclip", 20, {}))
    items = training_items(segmenter, bench, data, how, progress=False)
    sampler, steps = StepSampler(len(items), how), flags.samples // 8
    keys = [key for step in range(steps) for key in sampler.batch(step)]
    start = time.process_time()
    for key in keys:
        items[key]
    alone = 1000 * (time.process_time() - start) / len(keys)
    two = replace(how, workers=2)
    batches = iter(make_loader(items, StepSampler(len(items), two), two))
    for _ in range(8):  # the workers start
        next(batches)
    start, count = time.perf_counter(), 0
    for _ in range(steps):
        count += len(next(batches)[0])
    rate = count / (time.perf_counter() - start)
    print(f"{alone:.1f} ms a sample; {rate:.0f} samples a second from two workers")


if __name__ == "__main__":
    main()
