"""Attention of a training step on the CPU, forward and backward: what `attend` does beside the
other ways, side by side.

Run: OMP_NUM_THREADS=1 python benchmarks/attention.py [--rounds 9]
Prints median milliseconds of the processor's time: the fused kernel in bf16 and in float32, and
plain matrix products in bf16. `unseen.modules.attention.attend` takes float32 for few tokens.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = ((32, 4, 65, 32), (8, 3, 155, 64), (8, 12, 205, 64), (4, 12, 260, 64), (2, 12, 1035, 64))
"""Images, heads, tokens and channels a head: Doodles; crops of 192 and 224 pixels; 512 pixels."""
WAYS = {
    "fused bf16": (SDPBackend.FLASH_ATTENTION, torch.bfloat16),
    "fused float32": (SDPBackend.FLASH_ATTENTION, torch.float32),
    "plain bf16": (SDPBackend.MATH, torch.bfloat16),
}


def step(shape: tuple[int, ...], kernel: SDPBackend, dtype: torch.dtype) -> float:
    """Milliseconds of one forward and backward from bf16 values."""
    leaves = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    start = time.process_time()
    with sdpa_kernel(kernel):
        y = F.scaled_dot_product_attention(*(leaf.to(dtype) for leaf in leaves))
        y.to(torch.bfloat16).sum().backward()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for shape in SHAPES:
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(rounds + 1):
            for way, milliseconds in times.items():
                taken = step(shape, *WAYS[way])
                if turn > 0:  # the first round warms up
                    milliseconds.append(taken)
        shown = (f"{way} {statistics.median(times[way]):.1f} ms" for way in WAYS)
        print(f"{shape[2]} tokens of {shape[0]} images: {', '.join(shown)}")
