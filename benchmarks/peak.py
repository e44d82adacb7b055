"""How much of what a device can multiply the steps of `speed.py` use, and what they wait for.

The device's peak is measured: the product of two square matrices of bf16, 8192 on a side on a GPU
and 2048 on a CPU. Operations are counted by torch (a multiplication and an addition are two).

Run: python benchmarks/peak.py [CASE ...] --device cuda --batch 32 [--trace FILE]

`--trace` writes torch's profile of one step of each case as text, and before it how often the
program waited for the GPU: in the loops it should not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import CASES, Place, steps_of
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::_local_scalar_dense")
"""Where the program waits for the GPU, by the profiler's names."""


class Operations(TorchDispatchMode):
    """Counts multiplications and additions of matrix products, convolutions and attention.

    torch's own counter also follows modules, which fails where there are no gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count it."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def seconds_of(step: Callable[[], Any], place: Place, rounds: int) -> float:
    """By the clock, the median after one that warms up."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        step()
        place.wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def measured_peak(place: Place, rounds: int) -> float:
    """Operations a second of a large product in bf16."""
    side = 8192 if place.on_gpu else 2048
    matrix = torch.randn(side, side, device=place.device).bfloat16()
    return 2 * side**3 / seconds_of(lambda: matrix @ matrix, place, rounds)


def trace(step: Callable[[], Any], place: Place) -> str:
    """How often one step waited for the GPU, and torch's profile of it."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if place.on_gpu else [])]
    with profile(activities=activities) as profiled:
        step()
        place.wait()
    averages = profiled.key_averages()
    waits = {entry.key: entry.count for entry in averages if entry.key in WAITS}
    by = "self_cuda_time_total" if place.on_gpu else "self_cpu_time_total"
    return f"waits: {waits or 'none'}\n{averages.table(sort_by=by, row_limit=25)}\n"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--trace", type=Path)
    flags = parser.parse_args()
    place = Place(flags.precision, flags.device, flags.batch)
    peak = measured_peak(place, flags.rounds)
    name = torch.cuda.get_device_name() if place.on_gpu else "this processor"
    print(f"{name}: {peak / 1e12:.2f} million million operations a second, measured\n")
    print("| case | seconds | 10⁹ operations | share of the peak |\n|---|---|---|---|", flush=True)
    profiles = []
    for case in flags.cases:
        step = steps_of(CASES[case], place)["ours"]
        with Operations() as counted:
            step()
        seconds = seconds_of(step, place, flags.rounds)
        share = counted.total / seconds / peak
        print(f"| {case} | {seconds:.3f} | {counted.total / 1e9:.0f} | {share:.2f} |", flush=True)
        if flags.trace:
            profiles.append(f"{case}\n{trace(step, place)}")
    if flags.trace:
        flags.trace.write_text("\n".join(profiles), encoding="utf-8")


if __name__ == "__main__":
    main()
