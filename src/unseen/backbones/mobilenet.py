"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), dilated, with a light head."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import load_matching, read_state_dict
from unseen.backbones.dense import DenseBackbone
from unseen.errors import CheckpointError

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of each stage (table 2 of the paper)."""
LAST = 1280
"""Channels of the last convolution."""


def _conv(
    channels: int, width: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution with a bias.

    With a stride of 2, even sides are padded only at the bottom and right: TensorFlow does so, and
    the weights expect it.
    """
    padding: nn.Module = nn.Identity()
    inner = kernel // 2
    if stride == 2:
        padding, inner = nn.ZeroPad2d((0, 1, 0, 1)), 0
    return nn.Sequential(
        padding, nn.Conv2d(channels, width, kernel, stride=stride, padding=inner, groups=groups)
    )


def _split_phases(x: Tensor) -> Tensor:
    """Split maps (B, C, 2h, 2w) into even and odd rows and columns, (4·B, C, h, w).

    A 3x3 convolution of the result skips every other cell, as one with a dilation of 2 does on the
    unsplit maps. On CPUs the gradients of convolutions without dilation are several times as fast.
    """
    b, c, h, w = x.shape
    # Channels stay last in memory, as convolutions on CPUs like them.
    x = x.permute(0, 2, 3, 1).reshape(b, h // 2, 2, w // 2, 2, c)
    # (2, 2, B, h, w, C): the phases come first, so that they can be folded into the batch.
    x = x.permute(2, 4, 0, 1, 3, 5).reshape(4 * b, h // 2, w // 2, c)
    return x.permute(0, 3, 1, 2)


def _merge_phases(x: Tensor) -> Tensor:
    """The inverse of `_split_phases`."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(2, 2, b // 4, h, w, c)
    # To (B, h, 2, w, 2, C), whose neighbouring sizes are then joined.
    x = x.permute(2, 3, 0, 4, 1, 5).reshape(b // 4, 2 * h, 2 * w, c)
    return x.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Inverted residual: a 1x1 convolution to more channels, a depthwise one, and a linear 1x1."""

    def __init__(
        self, channels: int, width: int, expansion: int, *, stride: int, shortcut: bool
    ) -> None:
        super().__init__()
        wide = expansion * channels
        self.expand = _conv(channels, wide) if expansion > 1 else None
        self.depthwise = _conv(wide, wide, 3, stride=stride, groups=wide)
        self.narrow, self.shortcut = _conv(wide, width), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand is not None:
            y = F.relu6(self.expand(y))
        # No activation after the narrow convolution, where it would lose information (§3.2).
        out: Tensor = self.narrow(F.relu6(self.depthwise(y)))
        if self.shortcut:
            out = x + out
        return out


class MobileNetV2(nn.Module):
    """The convolutions of MobileNetV2 1.0 with batch norms folded in: images to (B, 1280, h, w).

    Args:
        stride: Of the output, 8, 16 or 32. Below 32, later stages keep their size and are dilated
            instead; their 3x3 convolutions are padded equally on all sides. The cells 3, 7, 11, …
            of the output at stride 8 are then exactly the output of the original network, at
            stride 32.
    """

    def __init__(self, stride: int = 32) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv(3, 32, 3, stride=2)]
        channels, current = 32, 2
        self.dilated: list[int] = []
        """Indices of the blocks whose stride is replaced by a dilation of all that follows."""
        for expansion, width, count, stage_stride in STAGES:
            for i in range(count):
                # Only the first block of a stage has its stride.
                step = stage_stride if i == 0 else 1
                shortcut = step == 1 and channels == width
                # Instead of a stride, `forward` splits the maps after the block into phases.
                if step == 2 and current >= stride:
                    self.dilated.append(len(blocks))
                    step = 1
                blocks.append(_Block(channels, width, expansion, stride=step, shortcut=shortcut))
                channels, current = width, current * step
        blocks.append(_conv(channels, LAST))
        self.features = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1280, h, w), for images (B, 3, H, W) in -1..1 whose sides are multiples of 32."""
        x = F.relu6(self.features[0](images.contiguous(memory_format=torch.channels_last)))
        for index, block in enumerate(self.features[1:-1], 1):
            x = block(x)
            if index in self.dilated:
                x = _split_phases(x)
        x = F.relu6(self.features[-1](x))
        # Back to full maps, the last split first.
        for _ in self.dilated:
            x = _merge_phases(x)
        return x


def fold_batch_norms(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights in torchvision's names, as those of `MobileNetV2`'s convolutions with biases.

    The classifier is left out.

    Raises:
        CheckpointError: Not a MobileNetV2, or torchvision's own weights, which were trained with
            other statistics and other padding.
    """
    classifier = state.get("classifier.1.weight")
    if classifier is not None and len(classifier) == 1000:
        raise CheckpointError(
            f"{source} holds torchvision's own MobileNetV2, which was trained with other statistics"
            " and padding than TensorFlow's; give weights converted from TensorFlow (1001 classes)"
        )
    folded: dict[str, Tensor] = {}
    for name, weight in state.items():
        if weight.ndim != 4 or not name.startswith("features."):
            continue
        # In torchvision's sequences a batch norm follows its convolution.
        prefix, _, index = name.removesuffix(".weight").rpartition(".")
        norm = f"{prefix}.{int(index) + 1}"
        try:
            gamma, beta, mean, var = (
                state[f"{norm}.{part}"]
                for part in ("weight", "bias", "running_mean", "running_var")
            )
        except KeyError as error:
            raise CheckpointError(
                f"{source} lacks {error}, the batch norm of {name}; give a MobileNetV2 in"
                " torchvision's names"
            ) from error
        # gamma · (conv(x) - mean) / std + beta is a convolution with other weights and a bias.
        scale = gamma / (var + 1e-5).sqrt()  # the epsilon of torch's batch norm
        conv = f"features.{name.split('.')[1]}.{_role(name, weight)}1"
        folded[f"{conv}.weight"] = weight * scale.view(-1, 1, 1, 1)
        folded[f"{conv}.bias"] = beta - mean * scale
    return folded


def _role(name: str, weight: Tensor) -> str:
    """Our name of a convolution inside of its block, from torchvision's name and its shape."""
    if ".conv" not in name:
        return ""  # the first and the last one are not in a block
    if weight.shape[1] == 1:
        return "depthwise."
    # The last one is features.N.conv.I; those before it are in sequences, features.N.conv.I.J.
    return "narrow." if name.count(".") == 4 else "expand."


class DilatedMobileNet(DenseBackbone):
    """Features at an eighth of the image's size: a dilated MobileNetV2 with a light head.

    The head has two branches, a 1x1 convolution and the mean over the image, similar to R-ASPP
    (Howard et al. 2019, arXiv 1905.02244).

    Args:
        embed_dim: D.
        width: Channels of the head.
    """

    def __init__(self, embed_dim: int, *, width: int = 256) -> None:
        # TensorFlow's weights expect images in -1..1, and phases need sides of whole strides.
        super().__init__((0.5,) * 3, (0.5,) * 3, pad_multiple=32)
        self.body = MobileNetV2(stride=8)
        self.local = nn.Conv2d(LAST, width, 1)
        self.overall = nn.Conv2d(LAST, width, 1)
        self.head = nn.Conv2d(2 * width, embed_dim, 1)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D, H/8, W/8)."""
        x = self.body(images)
        local = F.relu(self.local(x))
        overall = F.relu(self.overall(x.mean(dim=(2, 3), keepdim=True)))
        out: Tensor = self.head(torch.cat([local, overall.expand_as(local)], dim=1))
        return out

    def rename(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Torchvision's names, with batch norms folded in."""
        return {f"body.{name}": tensor for name, tensor in fold_batch_norms(state, source).items()}

    def is_pretrained(self, name: str) -> bool:
        """Everything but the head."""
        return name.startswith("body.")


class MobileNetFeatures(nn.Module):
    """The features of MobileNetV2 at an eighth of the image's size, (B, 1280, H/8, W/8).

    A light backbone in place of `DilatedResNet`.

    Args:
        trained: Which part is trained: what follows a stride of 8 ("layer3"), or all.

    Attributes:
        norm: "batch", as of a network that can start without weights: its batch norms are folded
            into its convolutions.
        stride: Pixels between cells.
        channels: Channels of the features.
    """

    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    multiple: ClassVar[int] = 32

    def __init__(self, trained: Literal["layer3", "all"] = "layer3") -> None:
        super().__init__()
        self.norm, self.stride, self.channels = "batch", 8, LAST
        self.body = MobileNetV2(stride=8)
        if trained == "layer3":
            for block in self.body.features[: self.body.dilated[0] + 1]:
                block.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """The features of images in -1..1 whose sides are multiples of 32."""
        out: Tensor = self.body(images)
        return out

    def load_weights(self, source: str) -> None:
        """Load the weights of a classifier, in torchvision's names.

        Raises:
            CheckpointError: A file that cannot be read, or does not hold this network.
        """
        state = fold_batch_norms(read_state_dict(Path(source)), source)
        load_matching(self.body, state, source, name="this MobileNetV2")
