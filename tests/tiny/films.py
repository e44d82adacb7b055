"""Short videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def film(name: str) -> Path:
    """A video of six frames."""
    av = pytest.importorskip("av")
    with av.open(name, "w") as video:
        stream = video.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(6):
            pixels = np.full((48, 64, 3), 40 * number, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                video.mux(packet)
        for packet in stream.encode():
            video.mux(packet)
    return Path(name)
