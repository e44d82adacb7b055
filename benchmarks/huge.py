"""A GeoTIFF of any size, labelled part by part: seconds, and the memory of the process.

Run: python benchmarks/huge.py [--side 20000] [--keep FOLDER] [-- FLAGS OF unseen segment]

By default in windows of 512 pixels with the tower of Doodles; for a real one give --clip.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from unseen.data.doodles import draw

BLOCK = 512
FLAGS = ["--classes", "sun,tree,fish,house", "--tile", "4096"]
WINDOWS = ["--inference.window", "512", "--inference.stride", "512"]


def write(path: Path, side: int) -> None:
    """A GeoTIFF with a doodle in every block."""
    doodles = [draw(0, i, size=BLOCK).image.transpose(2, 0, 1) for i in range(8)]
    how = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "compress": "deflate"}
    how |= {"blockxsize": BLOCK, "blockysize": BLOCK, "crs": "EPSG:2056"}
    place = from_origin(2_600_000, 1_200_000, 0.1, 0.1)
    with rasterio.open(path, "w", height=side, width=side, transform=place, **how) as file:
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                height, width = min(BLOCK, side - top), min(BLOCK, side - left)
                doodle = doodles[(top + left) // BLOCK % len(doodles)]
                window = Window(left, top, width, height)
                file.write(doodle[:, :height, :width], window=window)


def main() -> None:
    """Write, label, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--keep", type=Path, help="folder for the files")
    parser.add_argument("flags", nargs="*", help="of unseen segment, behind --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        image = folder / "image.tif"
        write(image, given.side)
        words = [
            sys.executable,
            "-m",
            "unseen",
            "segment",
            str(image),
            "--out",
            str(folder / "out"),
        ]
        begun = time.perf_counter()
        subprocess.run([*words, *FLAGS, *WINDOWS, *given.flags], check=True)
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(f"{given.side} x {given.side} pixels: {seconds:.0f} s, at most {peak:.2f} GB")


if __name__ == "__main__":
    main()
