"""How time and memory grow with classes, image size and batch: a table and growth.svg.

ZegCLIP on a ViT-B/16 with random weights, in windows as on VOC; from images to label maps, without
files. Logits are those of `photograph.py`, of which ten classes stand out.

Run: OMP_NUM_THREADS=1 python benchmarks/growth.py [--rounds 3]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ctypes
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from losses import high_water
from photograph import clocks
from speed import Case, make_segmenter, make_text

from unseen.data.benchmarks.base import WINDOWS
from unseen.inference import label_maps
from unseen.segmenter import Segmenter

HERE = Path(__file__).parent
AXES = {
    "classes": (1, 3, 10, 30, 100, 300, 1000),
    "side of the image, pixels": (256, 512, 1024, 2048, 4096),
    "images in a batch": (1, 2, 4, 8, 16, 32),
}
CLASSES, SIDE = 20, 512
"""What does not vary."""
SECONDS, MEGABYTES = "#0b6e99", "#c8553d"


def measure(
    segmenter: Segmenter, classes: int, side: int, batch: int, rounds: int
) -> tuple[float, float, float]:
    """Seconds in all and in the network, and MB at the peak above the loaded model."""
    text = make_text(Case("zegclip", classes, {}))
    images = torch.rand(1, 3, side, side).mul(255).to(torch.uint8).expand(batch, -1, -1, -1)
    wholes, networks, peaks = [], [], []
    for _ in range(rounds):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before, seconds, start = high_water(), dict[str, float](), time.process_time()
        with clocks(segmenter, 10, seconds):
            label_maps(segmenter, images, text, WINDOWS)
        wholes.append(time.process_time() - start)
        networks.append(seconds["network"])
        peaks.append(high_water() - before)
    return statistics.median(wholes), statistics.median(networks), statistics.median(peaks)


def chart(axis: str, points: Sequence[tuple[int, float, float]], left: int) -> list[str]:
    """One panel: seconds and megabytes over one axis, all of them logarithmic."""
    top, size = 60, 200
    least, most = points[0][0], points[-1][0]

    def x(value: float) -> float:
        return left + 40 + size * math.log(value / least) / math.log(most / least)

    def y(value: float) -> float:
        # From 0.1 to 10 000.
        return top + size * (1 - (math.log10(max(value, 0.1)) + 1) / 5)

    parts = [f'<text x="{left + 40}" y="{top + size + 40}">{axis}</text>']
    for power in range(-1, 5):
        height = y(10.0**power)
        parts.append(
            f'<line x1="{left + 40}" x2="{left + 40 + size}" y1="{height:.1f}" y2="{height:.1f}"'
            ' stroke="#e3e6e8"/>'
            f'<text x="{left + 34}" y="{height + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for value, *_ in points:
        parts.append(
            f'<text x="{x(value):.1f}" y="{top + size + 20}" text-anchor="middle">{value}</text>'
        )
    for index, colour in ((1, SECONDS), (2, MEGABYTES)):
        line = " ".join(f"{x(point[0]):.1f},{y(point[index]):.1f}" for point in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(point[0]):.1f}" cy="{y(point[index]):.1f}" r="3" fill="{colour}"/>'
            for point in points
        ]
    return parts


def main() -> None:
    """Print a Markdown table and draw growth.svg."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    segmenter = make_segmenter(Case("zegclip", CLASSES, {"num_prompts": 10})).eval()
    measure(segmenter, CLASSES, SIDE, 1, 1)
    panels = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="320"'
        ' font-family="sans-serif" font-size="11" fill="#22292e">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="40" y="24" fill="{SECONDS}" font-weight="bold">seconds of the processor</text>',
        f'<text x="220" y="24" fill="{MEGABYTES}" font-weight="bold">MB above the model</text>',
    ]
    print("| what varies | value | seconds | of these the network | MB |")
    print("|---|---|---|---|---|", flush=True)
    for number, (axis, values) in enumerate(AXES.items()):
        points = []
        for value in values:
            sizes = [CLASSES, SIDE, 1]
            sizes[number] = value
            whole, network, peak = measure(segmenter, *sizes, flags.rounds)
            points.append((value, whole, peak))
            print(f"| {axis} | {value} | {whole:.2f} | {network:.2f} | {peak:.0f} |", flush=True)
        panels += chart(axis, points, 260 * number)
    (HERE / "growth.svg").write_text("\n".join([*panels, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
