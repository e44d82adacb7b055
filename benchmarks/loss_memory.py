"""Peak memory and time of the mask losses on a COCO-Stuff vocabulary: words in parts (as trained)
against all at once; prints ratios.

Run: python benchmarks/loss_memory.py

Each side runs in a process of its own, forward and backward on one image of 512 pixels and 156
words.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

WORDS, SIDE, GRID = 156, 512, 32


def measure(words_at_once: int) -> None:
    """Print the process's peak memory over what it held before, in MB, and the seconds a step
    takes."""
    import torch
    from torch.nn import functional as F

    from unseen.modules.losses import focal_and_dice

    torch.manual_seed(0)
    logits = torch.randn(1, WORDS, GRID, GRID, requires_grad=True)
    labels = torch.randint(0, WORDS, (1, SIDE, SIDE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        start = time.perf_counter()
        focal, dice = focal_and_dice(
            logits,
            labels,
            lambda maps: F.interpolate(maps, (SIDE, SIDE), mode="bilinear"),
            words_at_once=words_at_once,
        )
        (focal + dice).backward()
        times.append(time.perf_counter() - start)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, min(times))


def main() -> None:
    """Run both sides and compare."""
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
        return
    found = {}
    for words_at_once in (32, WORDS):
        out = subprocess.run(
            [sys.executable, __file__, str(words_at_once)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        found[words_at_once] = tuple(map(float, out))
        print(
            f"{words_at_once} words at a time: {found[words_at_once][0]:.0f} MB,"
            f" {found[words_at_once][1]:.2f} s"
        )
    (memory, seconds), (all_memory, all_seconds) = found[32], found[WORDS]
    print(
        f"in parts: {memory / all_memory:.2f} times the memory, {seconds / all_seconds:.2f} times"
        " the time"
    )


if __name__ == "__main__":
    main()
