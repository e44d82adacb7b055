"""Trainable image backbones with dense features, and a small one for Doodles.

A backbone normalises images, pads them, and gives one feature vector for each cell of a grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import load_matching, read_state_dict
from unseen.errors import SettingError

Statistics = Literal["own", "released"]
CITYSCAPES_MEAN = (0.29010095, 0.32808144, 0.28696394)
CITYSCAPES_STD = (0.18295405, 0.18656561, 0.18447509)
"""The released SAZS normalises with these, whatever the backbone was trained on."""


class DenseBackbone(nn.Module, ABC):
    """Images (B, 3, H, W), RGB in 0..1, any size, to features (B, D, h, w).

    Args:
        mean: Subtracted from an image's channels.
        std: The channels are divided by it afterwards.
        pad_multiple: Images are padded with the mean, at the bottom and right, to sides that are
            multiples of this many pixels.

    Attributes:
        stride: Pixels between cells.
        has_weights: Whether there are pretrained weights.
    """

    stride: ClassVar[int] = 8
    has_weights: ClassVar[bool] = True
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], pad_multiple: int = 1) -> None:
        super().__init__()
        self.pad_multiple = pad_multiple
        # Not persistent: they belong to the method's options, not to its weights.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def padded_size(self, images: Tensor) -> tuple[int, int]:
        """Height and width in pixels of padded images, over which the features stretch."""
        h, w = images.shape[-2:]
        return h + -h % self.pad_multiple, w + -w % self.pad_multiple

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise by mean and std, and pad."""
        (h, w), (height, width) = images.shape[-2:], self.padded_size(images)
        # 0 is the mean of a normalised image: the padding looks like none of its contents.
        return F.pad((images - self.mean) / self.std, (0, width - w, 0, height - h))

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features (B, D, h, w) of normalised images."""

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, h, w)."""
        return self.features(self.normalize(images))

    def load(self, source: str) -> None:
        """Load pretrained weights; the head keeps its random ones.

        Args:
            source: A weight file, read as data.

        Raises:
            CheckpointError: A file that cannot be read, or of another network.
        """
        # Whatever is not pretrained may be missing; everything else must be there and fit.
        load_matching(
            self,
            self.rename(self.fetch(source), source),
            source,
            name=f"this {type(self).__name__}",
            optional=lambda name: not self.is_pretrained(name),
        )

    def fetch(self, source: str) -> dict[str, Tensor]:
        """The tensors of a source."""
        # Backbones that timm has weights for override this.
        if source.startswith("timm:"):
            raise SettingError(
                f"timm has no weights for this {type(self).__name__}; give a file of them as"
                " weights, or weights=null to start at random"
            )
        return read_state_dict(Path(source))

    @abstractmethod
    def rename(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """The pretrained part of a file's tensors, under this network's names."""

    @abstractmethod
    def is_pretrained(self, name: str) -> bool:
        """Whether a file must hold the tensor `name`."""


class _Residual(nn.Module):
    """Two 3x3 convolutions, the first of them dilated, beside a shortcut."""

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
    """A small convolutional network without pretrained weights, for drawings and for trials.

    Features have a quarter of the image's size.

    Args:
        embed_dim: D.
        width: Inner channels.
        dilations: Dilation of each residual block.
    """

    stride: ClassVar[int] = 4
    has_weights: ClassVar[bool] = False

    def __init__(
        self, embed_dim: int, *, width: int = 64, dilations: Sequence[int] = (1, 2, 4, 1)
    ) -> None:
        # No pretrained weights fix the statistics: these bring 0..1 to -2..2.
        super().__init__((0.5,) * 3, (0.25,) * 3, pad_multiple=4)
        self.body = nn.Sequential(
            # To a quarter of the size; the dilated blocks then see a wide neighbourhood.
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            # Growing dilations widen the view; the last block, without, smooths their gaps.
            *(_Residual(width, dilation) for dilation in dilations),
        )
        self.head = nn.Conv2d(width, embed_dim, 1)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D, H/4, W/4)."""
        out: Tensor = self.head(self.body(images))
        return out

    def rename(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """As stored."""
        return state

    def is_pretrained(self, name: str) -> bool:
        """All of it."""
        return True
