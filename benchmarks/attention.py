"""Attention on the CPU in bf16, forward and with gradients: `attend` beside torch's own ways.

Run: OMP_NUM_THREADS=1 python benchmarks/attention.py [--rounds 9]
Prints median milliseconds of the processor's time: `unseen.modules.attention.attend`, torch's fused
kernel in bf16 and in float32, and its plain matrix products in bf16, which keep all weights.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from unseen.modules.attention import attend

SHAPES = ((32, 4, 65, 32), (8, 3, 155, 64), (8, 12, 205, 64), (4, 12, 260, 64), (2, 12, 1035, 64))
"""Images, heads, tokens and channels a head: Doodles; crops of 192 and 224 pixels; 512 pixels."""
WAYS: dict[str, tuple[SDPBackend | None, torch.dtype]] = {
    "ours": (None, torch.bfloat16),
    "fused bf16": (SDPBackend.FLASH_ATTENTION, torch.bfloat16),
    "fused float32": (SDPBackend.FLASH_ATTENTION, torch.float32),
    "plain bf16": (SDPBackend.MATH, torch.bfloat16),
}


def attention(
    kernel: SDPBackend | None, dtype: torch.dtype, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """One way; None is ours."""
    if kernel is None:
        return attend(q, k, v)
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype)).to(q.dtype)


def times_of(shape: tuple[int, ...], way: str) -> tuple[float, float]:
    """Milliseconds of one forward, and of one with gradients, from bf16 values."""
    leaves = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    start = time.process_time()
    with torch.no_grad():
        attention(*WAYS[way], *leaves)
    middle = time.process_time()
    attention(*WAYS[way], *leaves).sum().backward()
    return 1000 * (middle - start), 1000 * (time.process_time() - middle)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"| images × tokens | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for shape in SHAPES:
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for turn in range(rounds + 1):
            for way, taken in times.items():
                pair = times_of(shape, way)
                if turn > 0:  # the first round warms up
                    taken.append(pair)
        cells = (
            " and ".join(f"{statistics.median(half):.1f}" for half in zip(*times[way], strict=True))
            for way in WAYS
        )
        print(f"| {shape[0]} × {shape[2]} | {' | '.join(cells)} |", flush=True)
