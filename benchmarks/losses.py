"""Focal and dice loss: ours beside plain operations on all maps at image size, side by side.

Run: OMP_NUM_THREADS=1 python benchmarks/losses.py [--classes 20] [--side 512] [--images 1]
Prints the processor's seconds of forward and backward (median of alternating rounds) with their
ratio, and the peak memory above what was held before, each in a process of its own.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from unseen.labels import IGNORE
from unseen.modules.losses import MaskLoss
from unseen.modules.resize import bilinear


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    """What `MaskLoss` computes, as the formulas say it."""
    maps = F.interpolate(logits, labels.shape[1:], mode="bilinear")
    known = (labels != IGNORE).unsqueeze(1)
    targets = (labels.unsqueeze(1) == torch.arange(logits.shape[1]).view(1, -1, 1, 1)).float()
    focal = torchvision.ops.sigmoid_focal_loss(maps, targets) * known
    p = maps.sigmoid() * known
    overlap, areas, positives = (part.sum(dim=(2, 3)) for part in (p * targets, p, targets))
    dice = (1 - (2 * overlap + 1) / (areas + positives + 1)) * (positives > 0)
    return (focal.mean(dim=(2, 3)).sum() + dice.sum()) / (positives > 0).sum()


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    """The same by `MaskLoss`."""
    side = (labels.shape[1], labels.shape[2])
    focal, dice = MaskLoss().terms(logits, labels, lambda part: bilinear(part, side))
    return focal + dice


SIDES = {"plain": plain, "ours": ours}


def data(flags: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Logits, a sixteenth of the image's size, and labels."""
    torch.manual_seed(0)
    grid = flags.side // 16
    logits = torch.randn(flags.images, flags.classes, grid, grid, requires_grad=True)
    labels = torch.randint(0, flags.classes, (flags.images, grid, grid))
    labels[:, :2] = IGNORE
    return logits, labels.repeat_interleave(16, 1).repeat_interleave(16, 2)


def peak(side: str, flags: argparse.Namespace) -> float:
    """MB of one step in this process above what it held before (Linux)."""
    logits, labels = data(flags)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = high_water()
    SIDES[side](logits, labels).backward()
    return high_water() - before


def high_water() -> float:
    """The most memory that this process has held, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Time both sides in turn, then measure the memory of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("classes", 20), ("side", 512), ("images", 1), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peak", choices=SIDES, help="print the memory of one side alone")
    flags = parser.parse_args()
    if flags.peak:
        print(peak(flags.peak, flags))
        return
    logits, labels = data(flags)
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(flags.rounds + 1):
        for side, seconds in times.items():
            start = time.process_time()
            SIDES[side](logits, labels).backward()
            if turn > 0:  # the first round warms up
                seconds.append(time.process_time() - start)
    memory = {
        side: float(
            subprocess.run(
                [sys.executable, *sys.argv, "--peak", side], capture_output=True, check=True
            ).stdout
        )
        for side in SIDES
    }
    for side, seconds in times.items():
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"{side}: {statistics.median(seconds):.3f} s ({spread}), {memory[side]:.0f} MB")
    ratio = statistics.median(times["ours"]) / statistics.median(times["plain"])
    print(
        f"ours ÷ plain: {ratio:.2f} of the time, {memory['ours'] / memory['plain']:.2f} of the"
        " memory"
    )


if __name__ == "__main__":
    main()
