"""Dilated residual networks, architecture D, with the pooling head of SAZS.

Yu, Koltun and Funkhouser 2017, arXiv 1705.09914.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.tower import IMAGENET_MEAN, IMAGENET_STD
from unseen.backbones.dense import DenseBackbone
from unseen.errors import SettingError

POOLS = (1, 2, 3, 6)
"""The head pools to square grids with these sides (PSPNet; Zhao et al. 2017, arXiv 1612.01105)."""
STRIDES = (1, 2, 2, 2, 1, 1, 1, 1)
DILATIONS = (1, 1, 1, 1, 2, 4, 2, 1)
"""Strides and dilations of the eight levels after the first convolution."""


def _conv(
    channels: int, width: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """A convolution without bias that keeps the size (at stride 1)."""
    return nn.Conv2d(
        channels,
        width,
        kernel,
        stride=stride,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        bias=False,
    )


class _Bottleneck(nn.Module):
    """1x1, 3x3, and 1x1 convolution to four times the width, beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, width, 1), nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        # The shortcut needs a convolution of its own where the shape changes.
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                _conv(channels, 4 * width, 1, stride=stride), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class DRN(DenseBackbone):
    """Non-negative features at an eighth of the image's size: DRN-D-105 by default.

    Args:
        embed_dim: D.
        layers: Convolutions or bottlenecks of each of the eight levels.
        channels: Of each level; the bottlenecks (levels 3 to 6) have four times as many outputs.

    Raises:
        SettingError: Not eight levels.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        layers: Sequence[int] = (1, 1, 3, 4, 23, 3, 1, 1),
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512, 512, 512),
    ) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        if not len(layers) == len(channels) == len(STRIDES):
            raise SettingError(
                f"a DRN has eight levels, but {len(layers)} numbers of layers and {len(channels)}"
                " of channels are given; give eight of each"
            )
        # The names of modules are those of the released files.
        self.base, width = _levels(layers, channels)
        for side in POOLS:
            self.add_module(f"pool{side}_conv", _conv(width, embed_dim, 1))
            self.add_module(f"pool{side}_bn", nn.BatchNorm2d(embed_dim))
        # The head sees the features themselves and their four pooled versions.
        self.fc1 = _conv(width + len(POOLS) * embed_dim, embed_dim, 3)
        self.fc1_bn = nn.BatchNorm2d(embed_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D, H/8, W/8), rounded up."""
        # The 1 × 1 grid leaves one value for each image and channel to batch norm.
        if self.training and len(images) < 2:
            raise SettingError(
                "DRN normalises pooled features over the batch, which needs two or more images;"
                " give --train.batch_size of at least two for each device"
            )
        x = self.base(images)
        size, maps = x.shape[-2:], [x]
        # Pyramid pooling: means over coarse grids, brought back to the size of the features.
        for side in POOLS:
            conv = self.get_submodule(f"pool{side}_conv")
            norm = self.get_submodule(f"pool{side}_bn")
            pooled = F.relu(norm(conv(F.adaptive_avg_pool2d(x, side))))
            maps.append(F.interpolate(pooled, size, mode="bilinear", align_corners=False))
        return F.relu(self.fc1_bn(self.fc1(torch.cat(maps, dim=1))))

    def rename(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """DRN's own files call level N `layerN`, and hold a classifier besides."""
        return {
            re.sub(r"^layer(\d)\.", r"base.\1.", name): tensor
            for name, tensor in state.items()
            if not name.startswith(("fc.", "fc2.", "up."))
        }

    def is_pretrained(self, name: str) -> bool:
        """Everything but the head."""
        return name.startswith("base.")


def _levels(layers: Sequence[int], channels: Sequence[int]) -> tuple[nn.Sequential, int]:
    """The first convolution and the eight levels, and the channels of the last one's output."""
    current = channels[0]
    levels = [nn.Sequential(_conv(3, current, 7), nn.BatchNorm2d(current), nn.ReLU())]
    plan = zip(layers, channels, STRIDES, DILATIONS, strict=True)
    # Only the first block of a level has its stride.
    for level, (count, width, stride, dilation) in enumerate(plan, 1):
        blocks: list[nn.Module] = []
        for i in range(count):
            step = stride if i == 0 else 1
            # Architecture D: plain convolutions at both ends, without shortcuts, against gridding.
            if 3 <= level <= 6:
                blocks.append(_Bottleneck(current, width, step, dilation))
                current = 4 * width
            else:
                blocks += [
                    _conv(current, width, 3, stride=step, dilation=dilation),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                current = width
        levels.append(nn.Sequential(*blocks))
    return nn.Sequential(*levels), current
