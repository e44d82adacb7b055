"""ResNets for dense features: deep stem, three stages, the third dilated instead of strided.

PSPNet's and SSP's files hold these networks.

He et al. 2016, arXiv 1512.03385; Yu & Koltun 2016, arXiv 1511.07122. ResNet-50, 101 and 152 differ
in `blocks` alone; there is no fourth stage.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar, Literal

import timm
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, conv1x1, conv3x3

from unseen.backbones.archives import load_matching, read_state_dict
from unseen.backbones.timm_weights import create_from_timm
from unseen.errors import CheckpointError, SettingError

Norm = Literal["frozen", "affine", "batch"]
Trained = Literal["layer3", "all"]
Triple = tuple[int, int, int]

EXPANSION = 4
TIMM = "timm:"
SAME_IN_TIMM = ("resnet50s", "resnet101s", "resnet152s", "resnet50c", "resnet101c")
"""Architectures of timm that are this network with another head: the variants "d" and "t" pool in
their shortcuts, all others have another stem."""
UNUSED = ("layer4.", "fc.")
"""Prefixes of the fourth stage and the classifier, which are not in this network."""

_log = logging.getLogger(__name__)


class _OpenBottleneck(Bottleneck):  # type: ignore[misc]
    """A bottleneck without the final ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        # torchvision's block ends in a ReLU, after which cosines of features are never negative.
        out = self.bn3(self.conv3(out))
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        total: Tensor = shortcut + out
        return total


class DilatedResNet(nn.Module):
    """Features (B, 4·planes[2], h, w) of normalised images (B, 3, H, W).

    The last block has no final ReLU, so that features may be negative.

    Args:
        stem: Channels of the three 3 × 3 convolutions.
        planes: Inner channels of the stages; their outputs have four times as many.
        blocks: Of the stages: (3, 4, 6) is ResNet-50, (3, 4, 23) ResNet-101, (3, 8, 36) ResNet-152.
        strides: Of the stem, the pooling and the second stage, 1 or 2 each; the third stage has
            none.
        trained: Which part is trained: the last stage, or all.
        norm: How batch norms of the trained part behave. "frozen": they are not trained; "affine":
            scale and shift are trained, and the statistics stay those of the loaded weights (as
            they do in the part that is not trained); "batch": scale and shift are trained, and the
            statistics are the batch's, which is necessary where no weights are loaded.

    Attributes:
        mean: Of the images the usual weights were made with, RGB in 0..1.
        std: Their standard deviation.
        multiple: What the sides of images have to be multiples of.
        stride: Pixels between cells.
        channels: Channels of the features.

    Raises:
        SettingError: A stride that is neither 1 nor 2, or a size below 1.
    """

    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)
    multiple: ClassVar[int] = 1

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
        _check_sizes(stem=stem, planes=planes, blocks=blocks, strides=strides)
        self.norm = norm
        # The names of modules are those of the files (torchvision's and timm's).
        self.conv1 = _deep_stem(stem, strides[0])
        self.bn1 = nn.BatchNorm2d(stem[2])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, strides[1], padding=1)
        widths = (stem[2], *(EXPANSION * count for count in planes))
        self.layer1 = _stage(widths[0], planes[0], blocks[0])
        self.layer2 = _stage(widths[1], planes[1], blocks[1], stride=strides[2])
        self.layer3 = _stage(widths[2], planes[2], blocks[2], dilation=2, last=_OpenBottleneck)
        # Dilation instead of a stride: the third stage keeps the size of the second.
        self.stride, self.channels = strides[0] * strides[1] * strides[2], widths[3]
        # A plain list: in a ModuleList these would be in the state dict a second time.
        self.frozen: list[nn.Module] = []
        if trained == "layer3":
            self.frozen = [self.conv1, self.bn1, self.layer1, self.layer2]
        self._initialise()

    def _initialise(self) -> None:
        """Random convolutions; what is not trained needs no gradients."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d) and self.norm == "frozen":
                module.requires_grad_(False)
        for part in self.frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> DilatedResNet:
        """Batch norms use the batch's statistics only in the trained part, with norm "batch"."""
        super().train(mode and self.norm == "batch")
        # In a part that is not trained, a batch norm keeps the statistics of the weights.
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The features."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return out

    def load_weights(self, source: str) -> None:
        """Load the weights of a classifier, without its fourth stage and head.

        Args:
            source: A file (safetensors or .pth, read as data) in SSP's and timm's names, or
                "timm:NAME" (downloaded once and cached), such as "timm:resnet50s.gluon_in1k".

        Raises:
            CheckpointError: A file that cannot be read, or does not hold this network.
            SettingError: A model of timm that is another network.
        """
        if source.startswith(TIMM):
            state = _fetch_from_timm(source.removeprefix(TIMM))
        else:
            state = read_state_dict(Path(source))
        # The most frequent mistake gets a message of its own.
        if "conv1.weight" in state:
            raise CheckpointError(
                f"{source} holds a ResNet with the plain stem of 7 × 7; give one with the deep"
                " stem, such as timm:resnet50s.gluon_in1k"
            )
        # What is cut off is cut off by name: any other tensor too many is an error.
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(UNUSED)}
        load_matching(
            self,
            kept,
            source,
            name="this ResNet",
            remedy="give weights of the same depth with the deep stem, or set stem, planes and"
            " blocks to those of the file",
        )
        if len(kept) < len(state):
            _log.warning(
                "unseen: of %s, %d tensors of the fourth stage and the classifier are left out",
                source,
                len(state) - len(kept),
            )


def _check_sizes(**sizes: Triple) -> None:
    """Refuse sizes below 1, and strides above 2.

    Raises:
        SettingError: There is such a size.
    """
    for name, numbers in sizes.items():
        allowed = "1 or 2" if name == "strides" else "1 or more"
        if min(numbers) < 1 or (name == "strides" and max(numbers) > 2):
            raise SettingError(
                f"{name} of the ResNet is {list(numbers)}; give three numbers, {allowed} each"
            )


def _deep_stem(widths: Triple, stride: int) -> nn.Sequential:
    """Three 3 × 3 convolutions in place of one of 7 × 7."""
    first, second, third = widths
    return nn.Sequential(
        conv3x3(3, first, stride),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        conv3x3(first, second),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        conv3x3(second, third),
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
    """Bottlenecks, the first of which has the stride, and all others the dilation."""
    out, stage = EXPANSION * planes, []
    for i in range(blocks):
        block = Bottleneck
        if i == blocks - 1:
            block = last
        # As in torchvision, the first block keeps the dilation of the stage before.
        step, spread = 1, dilation
        if i == 0:
            step, spread = stride, 1
        # A 1 × 1 convolution in the shortcut where size or channels change.
        shortcut = None
        if step != 1 or width != out:
            shortcut = nn.Sequential(conv1x1(width, out, step), nn.BatchNorm2d(out))
        stage.append(block(width, planes, step, shortcut, dilation=spread))
        width = out
    return nn.Sequential(*stage)


def _fetch_from_timm(name: str) -> dict[str, Tensor]:
    """The weights of one of timm's models."""
    # A bare architecture gets timm's default weights; with a tag, the tag's.
    known = [tag for kind in SAME_IN_TIMM for tag in timm.list_pretrained(f"{kind}.*")]
    if name not in (*SAME_IN_TIMM, *known):
        raise SettingError(
            f"timm's {name!r} is not a ResNet with the deep stem and plain shortcuts; choose one of"
            f" {', '.join(known)}, or give a file"
        )
    network: nn.Module = create_from_timm(name)
    return network.state_dict()
