"""Eigen-segments: how they are computed, and which of them are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from unseen.errors import SettingError


@dataclass(frozen=True)
class SpectralSettings:
    """How an image's graph is made and cut.

    Attributes:
        count: Eigenvectors of an image, the constant one included.
        colour: Weight of the edges between neighbours in colour and position; 0 for none.
        lapnorm: Solve (D - W) v = μ D v; false solves (D - W) v = μ v, which is dense and slow for
            large images.
        cell: Side in pixels of the cells the feature map is resized to (bilinear); patches by
            default.
    """

    count: int = 5
    colour: float = 0.0
    lapnorm: bool = True
    cell: int | None = None

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        if self.count < 1:
            raise SettingError(f"--count is {self.count} eigenvectors; give at least 1")
        if not 0 <= self.colour < math.inf:
            raise SettingError(f"the weight of colour (--colour) is {self.colour}; give 0 or more")
        if self.cell is not None and self.cell < 1:
            raise SettingError(f"--cell is {self.cell} pixels; give at least 1")


@dataclass(frozen=True)
class ExtractionSettings:
    """Which images `eigenvectors` takes, with which network, and what it writes.

    Attributes:
        features: Network whose keys are compared: timm:NAME (timm:vit_small_patch16_224.dino, as
            Deep Spectral Methods), timm:NAME@FILE, or a CLIP: "doodles", ARCHITECTURE/TAG of
            open_clip, a weight file.
        split: Of a benchmark: "train", or "val" (the default).
        limit: Only the first so many images.
        png: Write the segments as NAME_k0.png, ... too: 0 and 255, as SAZS reads them.
        shown: Images on the sheet, spread over all.
        device: "auto", "cpu", "cuda", ...
        progress: Show a progress bar.
    """

    features: str = "doodles"
    split: Literal["train", "val"] | None = None
    limit: int | None = None
    png: bool = False
    shown: int = 6
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse splits that do not exist, and no images."""
        if self.split not in (None, "train", "val"):
            raise SettingError(f"there is no split called {self.split!r}; choose train or val")
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"--limit is {self.limit}; give at least 1 image")
