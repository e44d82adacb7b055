"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), dilated, with a light head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def _conv(
    inside: int, outside: int, side: int = 1, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution with a bias. With a stride of 2, even sides are filled up at the bottom and
    right alone, as TensorFlow does and the weights expect.
    """
    fill = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity()
    return nn.Sequential(
        fill,
        nn.Conv2d(
            inside,
            outside,
            side,
            stride=stride,
            padding=0 if stride == 2 else side // 2,
            groups=groups,
        ),
    )


def _dealt(x: Tensor) -> Tensor:
    """Maps (B, C, 2h, 2w) as (4·B, C, h, w): even and odd rows and columns apart, so that a 3x3
    convolution skips every other cell.

    Convolutions with a dilation of 2 on the whole, at the price of ones without, whose gradients
    are several times as fast on CPUs.
    """
    b, c, h, w = x.shape
    return (
        x.view(b, c, h // 2, 2, w // 2, 2)
        .permute(3, 5, 0, 1, 2, 4)
        .reshape(4 * b, c, h // 2, w // 2)
    )


def _gathered(x: Tensor) -> Tensor:
    """What `_dealt` took apart."""
    b, c, h, w = x.shape
    return x.view(2, 2, b // 4, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(b // 4, c, 2 * h, 2 * w)


class _Block(nn.Module):
    """Inverted residual: widen, one 3x3 convolution a channel, narrow without activation."""

    def __init__(
        self, inside: int, outside: int, expansion: int, *, stride: int, shortcut: bool
    ) -> None:
        super().__init__()
        wide = expansion * inside
        self.expand = _conv(inside, wide) if expansion > 1 else None
        self.depthwise = _conv(wide, wide, 3, stride=stride, groups=wide)
        self.narrow, self.shortcut = _conv(wide, outside), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.narrow(F.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.shortcut else y
        return out


class MobileNetV2(nn.Module):
    """The convolutions of MobileNetV2 1.0, batch norm folded in: images to (B, 1280, h, w).

    Args:
        stride: Of the output, 8, 16 or 32. Below 32, later stages keep their size and are dilated
            instead; their 3x3 convolutions are filled up on all sides alike. The cells 3, 7, 11, …
            of the output at stride 8 are then exactly the network's own output at stride 32.
    """

    def __init__(self, stride: int = 32) -> None:
        super().__init__()
        parts: list[nn.Module] = [_conv(3, 32, 3, stride=2)]
        inside, reached = 32, 2
        self.held: list[int] = []  # blocks whose stride is held back
        for expansion, width, count, first in STAGES:
            for i in range(count):
                step = first if i == 0 else 1
                if step == 2 and reached >= stride:
                    self.held.append(len(parts))
                here = 1 if len(parts) in self.held else step
                parts.append(
                    _Block(
                        inside,
                        width,
                        expansion,
                        stride=here,
                        shortcut=step == 1 and inside == width,
                    )
                )
                inside, reached = width, reached * here
        parts.append(_conv(inside, LAST))
        self.features = nn.ModuleList(parts)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1280, h, w), for images (B, 3, H, W) in -1..1 whose sides are multiples of 32."""
        x = F.relu6(self.features[0](images))
        for number, block in enumerate(self.features[1:-1], 1):
            x = block(x)
            if number in self.held:
                x = _dealt(x)
        x = F.relu6(self.features[-1](x))
        for _ in self.held:
            x = _gathered(x)
        return x


def folded(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Torchvision's names and batch norms to `MobileNetV2`'s convolutions with biases; the
    classifier is left out.

    Raises:
        CheckpointError: Not a MobileNetV2, or torchvision's own weights, which were trained with
            other statistics and other filling up.
    """
    classes = state.get("classifier.1.weight")
    if classes is not None and len(classes) == 1000:
        raise CheckpointError(
            f"{source} holds torchvision's own MobileNetV2, which was trained with other statistics"
            " and padding than TensorFlow's; give weights converted from TensorFlow (1001 classes)"
        )
    found: dict[str, Tensor] = {}
    for name, weight in state.items():
        if weight.ndim != 4 or not name.startswith("features."):
            continue
        head, _, number = name.removesuffix(".weight").rpartition(".")
        norm = f"{head}.{int(number) + 1}."
        try:
            scale, shift, mean, var = (
                state[norm + part] for part in ("weight", "bias", "running_mean", "running_var")
            )
        except KeyError as error:
            raise CheckpointError(
                f"{source} lacks {error}, the batch norm behind {name}; give a MobileNetV2 in"
                " torchvision's names"
            ) from error
        part = (
            ""
            if ".conv" not in name
            else (
                "depthwise."
                if weight.shape[1] == 1
                else "narrow."
                if head.endswith(".conv")
                else "expand."
            )
        )
        place, factor = f"features.{name.split('.')[1]}.{part}1.", scale / (var + 1e-5).sqrt()
        found |= {
            f"{place}weight": weight * factor.view(-1, 1, 1, 1),
            f"{place}bias": shift - mean * factor,
        }
    return found


class DilatedMobileNet(DenseBackbone):
    """Features at an eighth of the size: MobileNetV2 dilated, and a head of two branches (1x1, and
    the mean over the image), as the paper's R-ASPP.

    Args:
        embed_dim: D.
        width: Channels of the head.
    """

    def __init__(self, embed_dim: int, *, width: int = 256) -> None:
        super().__init__((0.5,) * 3, (0.5,) * 3, whole=32)
        self.body = MobileNetV2(stride=8)
        self.local, self.overall, self.head = (
            nn.Conv2d(LAST, width, 1),
            nn.Conv2d(LAST, width, 1),
            nn.Conv2d(2 * width, embed_dim, 1),
        )

    def features(self, images: Tensor) -> Tensor:
        """At an eighth of the size."""
        x = self.body(images)
        local, overall = (
            F.relu(self.local(x)),
            F.relu(self.overall(x.mean(dim=(2, 3), keepdim=True))),
        )
        out: Tensor = self.head(torch.cat([local, overall.expand_as(local)], dim=1))
        return out

    def own_names(self, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Torchvision's names, batch norm folded in."""
        return {f"body.{name}": tensor for name, tensor in folded(state, source).items()}

    def trained_before(self, name: str) -> bool:
        """All but the head."""
        return name.startswith("body.")
