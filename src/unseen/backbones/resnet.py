"""ResNets for dense features: deep stem, three stages, the third dilated instead of strided (as in
PSPNet's and SSP's files).

He et al. 2016, arXiv 1512.03385; Yu & Koltun 2016, arXiv 1511.07122. ResNet-50, 101 and 152 differ
in `blocks` alone; there is no fourth stage.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import timm
from torch import Tensor, isfinite, nn
from torchvision.models.resnet import Bottleneck, conv1x1, conv3x3

from unseen.backbones.archives import read_state_dict
from unseen.errors import CheckpointError, SettingError

Norm = Literal["frozen", "affine", "batch"]
Trained = Literal["layer3", "all"]
Triple = tuple[int, int, int]

EXPANSION = 4
TIMM = "timm:"
SAME_IN_TIMM = ("resnet50s", "resnet101s", "resnet152s", "resnet50c", "resnet101c")
"""Architectures of timm that are this network with another head: its "d" and "t" kinds pool in
their shortcuts, all others have another stem."""
UNUSED = ("layer4.", "fc.")

_log = logging.getLogger(__name__)


class _OpenBottleneck(Bottleneck):  # type: ignore[misc]
    """A bottleneck whose sum does not go through the last ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        total: Tensor = shortcut + out
        return total


class DilatedResNet(nn.Module):
    """Features (B, 4·planes[2], h, w) of normalised images (B, 3, H, W); the last block has no
    final ReLU.

    Args:
        stem: Channels of the three 3 × 3 convolutions.
        planes: Inner channels of the stages; four times as many come out.
        blocks: Of the stages: (3, 4, 6) is ResNet-50, (3, 4, 23) ResNet-101, (3, 8, 36) ResNet-152.
        strides: Of the stem, the pooling and the second stage, 1 or 2 each; the third stage has
            none.
        trained: Which part learns: the last stage, or all.
        norm: What batch norm does in the part that learns. "frozen": nothing learns; "affine":
            scale and shift do, the statistics stay those of the weights, as they do in the other
            part; "batch": all of it, as it must where no weights are loaded.

    Attributes:
        stride: Pixels a step of the grid.
        channels: Of the features.

    Raises:
        SettingError: A stride that is neither 1 nor 2, or a size below 1.
    """

    def __init__(
        self,
        stem: Triple = (64, 64, 128),
        planes: Triple = (64, 128, 256),
        blocks: Triple = (3, 4, 6),
        strides: Triple = (2, 2, 2),
        *,
        trained: Trained = "layer3",
        norm: Norm = "affine",
    ) -> None:
        super().__init__()
        for name, sizes in (
            ("stem", stem),
            ("planes", planes),
            ("blocks", blocks),
            ("strides", strides),
        ):
            if min(sizes) < 1 or (name == "strides" and max(sizes) > 2):
                raise SettingError(
                    f"{name} of the ResNet is {list(sizes)}; give three numbers,"
                    f" {'1 or 2' if name == 'strides' else '1 or more'} each"
                )
        first, second, third = stem
        self.norm = norm
        self.conv1 = nn.Sequential(
            conv3x3(3, first, strides[0]),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            conv3x3(first, second),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
            conv3x3(second, third),
        )
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, strides[1], padding=1)
        widths = (third, *(EXPANSION * count for count in planes))
        self.layer1 = _stage(widths[0], planes[0], blocks[0])
        self.layer2 = _stage(widths[1], planes[1], blocks[1], stride=strides[2])
        self.layer3 = _stage(widths[2], planes[2], blocks[2], dilation=2, last=_OpenBottleneck)
        self.stride, self.channels = strides[0] * strides[1] * strides[2], widths[3]
        self.frozen = (
            [self.conv1, self.bn1, self.layer1, self.layer2] if trained == "layer3" else []
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d) and norm == "frozen":
                module.requires_grad_(False)
        for part in self.frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> DilatedResNet:
        """Statistics move in the part that learns, and only with norm "batch"."""
        super().train(mode and self.norm == "batch")
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The features."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return out

    def load_weights(self, source: str) -> None:
        """Weights of a classifier, whose fourth stage and head are left out.

        Args:
            source: A file (safetensors or .pth, read as data) in SSP's and timm's names, or
                "timm:NAME" (downloaded once and cached), such as "timm:resnet50s.gluon_in1k".

        Raises:
            CheckpointError: A file that cannot be read, or does not hold this network.
            SettingError: A model of timm that is another network.
        """
        state = (
            _fetched(source.removeprefix(TIMM))
            if source.startswith(TIMM)
            else read_state_dict(Path(source))
        )
        if "conv1.weight" in state:
            raise CheckpointError(
                f"{source} holds a ResNet with the plain stem of 7 × 7; give one with the deep"
                " stem, such as timm:resnet50s.gluon_in1k"
            )
        own = self.state_dict()
        unused = sorted(name for name in state if name.startswith(UNUSED))
        missing = next(
            (
                name
                for name in own
                if name not in state and not name.endswith("num_batches_tracked")
            ),
            None,
        )
        if missing is not None:
            raise CheckpointError(
                f"{source} has no {missing}, so it does not hold this ResNet; give weights of the"
                " same depth with the deep stem"
            )
        unknown = next(
            (name for name in state if name not in own and not name.startswith(UNUSED)), None
        )
        if unknown is not None:
            raise CheckpointError(
                f"{source} holds {unknown}, which this ResNet has not; give weights of the same"
                " depth with the deep stem"
            )
        odd = next(
            (name for name in own if name in state and own[name].shape != state[name].shape), None
        )
        if odd is not None:
            shapes = f"{list(state[odd].shape)} in {source} and {list(own[odd].shape)} here"
            raise CheckpointError(
                f"{odd} is {shapes}; give weights of the same size, or set stem, planes and blocks"
                " to theirs"
            )
        bad = next(
            (name for name in own if name in state and not bool(isfinite(state[name]).all())), None
        )
        if bad is not None:
            raise CheckpointError(
                f"{source} holds values that are not finite (in {bad}); download it again"
            )
        self.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})
        if unused:
            _log.warning(
                "unseen: of %s, %d tensors of the fourth stage and the classifier are left out",
                source,
                len(unused),
            )


def _stage(
    width: int,
    planes: int,
    blocks: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    last: type[Bottleneck] = Bottleneck,
) -> nn.Sequential:
    """Bottlenecks; the first strides and is not dilated."""
    out, made = EXPANSION * planes, []
    for i in range(blocks):
        kind = last if i == blocks - 1 else Bottleneck
        step = stride if i == 0 else 1
        shortcut = (
            nn.Sequential(conv1x1(width, out, step), nn.BatchNorm2d(out))
            if step != 1 or width != out
            else None
        )
        made.append(kind(width, planes, step, shortcut, dilation=1 if i == 0 else dilation))
        width = out
    return nn.Sequential(*made)


def _fetched(name: str) -> dict[str, Tensor]:
    """The weights of a model of timm."""
    architecture = name.partition(".")[0]
    if architecture not in SAME_IN_TIMM or name not in (
        architecture,
        *timm.list_pretrained(f"{architecture}.*"),
    ):
        known = [found for kind in SAME_IN_TIMM for found in timm.list_pretrained(f"{kind}.*")]
        raise SettingError(
            f"timm's {name!r} is not a ResNet with the deep stem and plain shortcuts; choose one of"
            f" {', '.join(known)}, or give a file"
        )
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"the weights of {TIMM}{name} could not be fetched; check the network, or give a local"
            " file of weights instead"
        ) from error
    return model.state_dict()
