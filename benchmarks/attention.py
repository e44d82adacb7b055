"""Training step of a small ViT on the CPU: attention in plain matrix products against the fused
kernel, side by side.

Run: python benchmarks/attention.py [--rounds 9]
Prints the median time of both and their ratio. `unseen.training.loop` uses the faster one on CPUs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from unseen.backbones.clip.loading import load_clip


def step(kernel: SDPBackend, images: torch.Tensor, precision: torch.dtype) -> float:
    """Seconds of one forward and backward."""
    start = time.perf_counter()
    with sdpa_kernel(kernel), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        CLIP.encode_image(images).float().pow(2).sum().backward()
    CLIP.zero_grad(set_to_none=True)
    return time.perf_counter() - start


CLIP = load_clip().requires_grad_(True)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    pictures = torch.rand(64, 3, 64, 64)
    for dtype in (torch.bfloat16, torch.float32):
        times: dict[SDPBackend, list[float]] = {SDPBackend.MATH: [], SDPBackend.FLASH_ATTENTION: []}
        for turn in range(rounds + 1):
            for kernel, seconds in times.items():
                taken = step(kernel, pictures, dtype)
                if turn > 0:  # the first round warms up
                    seconds.append(taken)
        plain, fused = (statistics.median(seconds) for seconds in times.values())
        print(
            f"{dtype}: plain {1000 * plain:.0f} ms, fused {1000 * fused:.0f} ms, ratio"
            f" {fused / plain:.2f}"
        )
