"""Eigen-segments: how they are computed, and which of them are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unseen.settings.ranges import SWITCH, check_ranges, number, one_of, text, whole

Split = Literal["train", "val"]


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
        check_ranges(self, "", SPECTRAL_RANGES)


SPECTRAL_RANGES = {
    "count": whole(1, 1000),
    "colour": number(0),
    "lapnorm": SWITCH,
    "cell": whole(1, 8192).or_none(),
}
"""What the fields of `SpectralSettings` may be."""


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
    split: Split | None = None
    limit: int | None = None
    png: bool = False
    shown: int = 6
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse splits that do not exist, and no images."""
        check_ranges(self, "", EXTRACTION_RANGES)


EXTRACTION_RANGES = {
    "features": text(),
    "split": one_of(Split).or_none(),
    "limit": whole(1).or_none(),
    "png": SWITCH,
    "shown": whole(0, 1000),
    "device": text(),
    "progress": SWITCH,
}
"""What the fields of `ExtractionSettings` may be."""
