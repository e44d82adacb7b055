"""Image backbones that are trained: images in, one feature vector a cell out; their statistics
and their weights; a small one for Doodles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import read_state_dict
from unseen.errors import CheckpointError, SettingError

Statistics = Literal["own", "released"]
CITYSCAPES_MEAN, CITYSCAPES_STD = (
    (0.29010095, 0.32808144, 0.28696394),
    (
        0.18295405,
        0.18656561,
        0.18447509,
    ),
)
"""Statistics the released SAZS normalises with, whatever the backbone was trained on."""


class DenseBackbone(nn.Module, ABC):
    """Images (B, 3, H, W), RGB in 0..1, any size, to features (B, D, h, w).

    Args:
        mean: What is subtracted from an image's channels.
        std: What they are then divided by.
        whole: Sides are filled up to multiples of this many pixels, at the bottom and right, with
            the mean.

    Attributes:
        stride: Pixels between cells.
        has_weights: Whether there are weights to start from.
    """

    stride: ClassVar[int] = 8
    has_weights: ClassVar[bool] = True
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], whole: int = 1) -> None:
        super().__init__()
        self.whole = whole
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def covers(self, images: Tensor) -> tuple[int, int]:
        """Height and width in pixels that the features stretch over."""
        h, w = images.shape[-2:]
        return h + -h % self.whole, w + -w % self.whole

    def normalize(self, images: Tensor) -> Tensor:
        """Images by the statistics, filled up."""
        h, w = images.shape[-2:]
        return F.pad((images - self.mean) / self.std, (0, -w % self.whole, 0, -h % self.whole))

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features (B, D, h, w) of normalised images."""

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, h, w)."""
        return self.features(self.normalize(images))

    def load(self, source: str) -> None:
        """Start from weights of the part that was trained before.

        Args:
            source: A weight file, read as data.

        Raises:
            CheckpointError: A file that cannot be read, or of another network.
        """
        self.fill(self.own_names(self.fetch(source), source), source)

    def fetch(self, source: str) -> dict[str, Tensor]:
        """The tensors a source holds."""
        if source.startswith("timm:"):
            raise SettingError(
                f"timm has no weights for this {type(self).__name__}; give a file of them as"
                " weights, or weights=null to start at random"
            )
        return read_state_dict(Path(source))

    @abstractmethod
    def own_names(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """The trained part of a file under this network's names."""

    @abstractmethod
    def trained_before(self, name: str) -> bool:
        """Whether weights must hold the tensor `name`."""

    def fill(self, state: dict[str, Tensor], source: str) -> None:
        """Take over all of `state`, which must hold what was trained before, and nothing
        unknown.
        """
        own = self.state_dict()
        needed = [
            name
            for name in own
            if self.trained_before(name) and not name.endswith("num_batches_tracked")
        ]
        what = f"{source} does not hold the weights of this {type(self).__name__}"
        lacks = next((name for name in needed if name not in state), None) or next(
            (name for name in state if name not in own), None
        )
        if lacks is not None:
            raise CheckpointError(
                f"{what} (first tensor out of place: {lacks}); give the file of the same network"
                " and size"
            )
        odd = next((name for name in state if state[name].shape != own[name].shape), None)
        if odd is not None:
            raise CheckpointError(
                f"{what} ({odd} is {list(state[odd].shape)} instead of {list(own[odd].shape)});"
                " give the file of the same network and size"
            )
        bad = next(
            (name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None
        )
        if bad is not None:
            raise CheckpointError(
                f"{source} holds values that are not finite (in {bad}); download it again"
            )
        self.load_state_dict(state, strict=False)


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(x + self.body(x))
        return out


class SmallBackbone(DenseBackbone):
    """A convolutional network from scratch at a quarter of the image's size: for drawings, and to
    try a set-up out.

    Args:
        embed_dim: D.
        width: Channels inside.
        dilations: Of its residual blocks.
    """

    stride: ClassVar[int] = 4
    has_weights: ClassVar[bool] = False

    def __init__(
        self, embed_dim: int, *, width: int = 64, dilations: Sequence[int] = (1, 2, 4, 1)
    ) -> None:
        super().__init__((0.5,) * 3, (0.25,) * 3, whole=4)
        self.body = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(_Residual(width, dilation) for dilation in dilations),
        )
        self.head = nn.Conv2d(width, embed_dim, 1)

    def features(self, images: Tensor) -> Tensor:
        """At a quarter of the size."""
        out: Tensor = self.head(self.body(images))
        return out

    def own_names(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """As stored."""
        return state

    def trained_before(self, name: str) -> bool:
        """All of it."""
        return True
