"""What a Ray cluster on this machine costs: start-up, memory, and time beside a run without one.

Labels the same photographs by `unseen segment`, in one process of one thread and with `--engine
ray` and two workers, and prints for each the time until the first label map, the time of all, and
by how much the machine's free memory fell.

Run: python benchmarks/cluster.py --folder PHOTOGRAPHS [--count 50 200]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from unseen.image_files import images_in

CLASSES = "person,dog,cat,car,sky,grass"
RAY = ("--engine", "ray", "--workers", "2")


def free_memory() -> float:
    """Memory that programs could still take, in GB."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":") for line in lines)
    return float(fields["MemAvailable"].split()[0]) / 1e6


def measure(files: list[Path], flags: tuple[str, ...]) -> tuple[float, float, float]:
    """Seconds until the first label map and until the end, and GB taken at most."""
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "files.txt", Path(folder) / "out"
        listed.write_text("\n".join(str(file.resolve()) for file in files), encoding="utf-8")
        words = [sys.executable, "-m", "unseen", "segment", str(listed), "--classes", CLASSES]
        before, least, first, begun = free_memory(), free_memory(), 0.0, time.perf_counter()
        with subprocess.Popen(
            [*words, "--out", str(out), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process:
            while process.poll() is None:
                least = min(least, free_memory())
                if not first and out.exists() and next(out.glob("*.json"), None):
                    first = time.perf_counter() - begun
                time.sleep(0.05)
        if process.returncode:
            raise RuntimeError(f"{words} ended with {process.returncode}")
        return first, time.perf_counter() - begun, before - least


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, nargs="+", default=[50, 200])
    flags = parser.parse_args()
    files = images_in(flags.folder)
    print("| photographs | engine | first label map | all | memory |\n|---|---|---|---|---|")
    for count in flags.count:
        for name, given in (("local", ()), ("ray", RAY)):
            first, whole, taken = measure(files[:count], given)
            print(
                f"| {count} | {name} | {first:.0f} s | {whole:.0f} s | {taken:.1f} GB |", flush=True
            )


if __name__ == "__main__":
    main()
