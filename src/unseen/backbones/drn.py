"""Dilated residual networks (Yu, Koltun and Funkhouser 2017, arXiv 1705.09914), architecture D,
with the pooling head of SAZS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip import IMAGENET_MEAN, IMAGENET_STD
from unseen.backbones.dense import DenseBackbone
from unseen.errors import SettingError

POOLS = (1, 2, 3, 6)
"""Sides of the grids the head pools to."""
STRIDES, DILATIONS = (1, 2, 2, 2, 1, 1, 1, 1), (1, 1, 1, 1, 2, 4, 2, 1)
"""Of the eight levels behind the first convolution."""


def _conv(inside: int, outside: int, side: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        inside,
        outside,
        side,
        stride=stride,
        padding=side // 2 * dilation,
        dilation=dilation,
        bias=False,
    )


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the width, beside a shortcut."""

    def __init__(self, inside: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inside, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = (
            _conv(width, width, 3, stride=stride, dilation=dilation),
            nn.BatchNorm2d(width),
        )
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        same = stride == 1 and inside == 4 * width
        self.downsample = (
            None
            if same
            else nn.Sequential(
                _conv(inside, 4 * width, 1, stride=stride), nn.BatchNorm2d(4 * width)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(
            self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        )


class DRN(DenseBackbone):
    """Features at an eighth of the size, not negative: DRN-D-105 by default.

    Args:
        embed_dim: D.
        layers: Convolutions or bottlenecks of each of the eight levels.
        channels: Of each level; bottlenecks (levels 3 to 6) put out four times as many.
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
        inside = channels[0]
        levels: list[nn.Module] = [
            nn.Sequential(_conv(3, inside, 7), nn.BatchNorm2d(inside), nn.ReLU())
        ]
        for level, (count, width, stride, dilation) in enumerate(
            zip(layers, channels, STRIDES, DILATIONS, strict=True), 1
        ):
            parts: list[nn.Module] = []
            for i in range(count):
                step = stride if i == 0 else 1
                if 3 <= level <= 6:
                    parts.append(_Bottleneck(inside, width, step, dilation))
                    inside = 4 * width
                else:
                    parts += [
                        _conv(inside, width, 3, stride=step, dilation=dilation),
                        nn.BatchNorm2d(width),
                        nn.ReLU(),
                    ]
                    inside = width
            levels.append(nn.Sequential(*parts))
        self.base = nn.Sequential(*levels)
        for side in POOLS:
            self.add_module(f"pool{side}_conv", _conv(inside, embed_dim, 1))
            self.add_module(f"pool{side}_bn", nn.BatchNorm2d(embed_dim))
        self.fc1, self.fc1_bn = (
            _conv(inside + len(POOLS) * embed_dim, embed_dim, 3),
            nn.BatchNorm2d(embed_dim),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """At an eighth of the size, rounded up."""
        if self.training and len(images) < 2:
            raise SettingError(
                "DRN norms pooled images over the batch, so one alone cannot be trained on; give"
                " --train.batch_size of two or more a part"
            )
        x = self.base(images)
        size, parts = x.shape[-2:], [x]
        for side in POOLS:
            conv, norm = (
                self.get_submodule(f"pool{side}_conv"),
                self.get_submodule(f"pool{side}_bn"),
            )
            pooled = F.relu(norm(conv(F.adaptive_avg_pool2d(x, side))))
            parts.append(F.interpolate(pooled, size, mode="bilinear", align_corners=False))
        return F.relu(self.fc1_bn(self.fc1(torch.cat(parts, dim=1))))

    def own_names(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """DRN's own files call level N `layerN`, and hold a classifier."""
        return {
            re.sub(r"^layer(\d)\.", r"base.\1.", name): tensor
            for name, tensor in state.items()
            if not name.startswith(("fc.", "fc2.", "up."))
        }

    def trained_before(self, name: str) -> bool:
        """All but the head."""
        return name.startswith("base.")
