"""SAZS: an image backbone trained to put pixels where a frozen CLIP puts class names.

Liu et al., "Delving into Shape-aware Zero-shot Semantic Segmentation", CVPR 2023, pp. 2999-3009,
arXiv 2304.08491. Given an image and a query class, it tells for each cell whether it shows that
class or "others": the larger of two dot products. While training, an edge head on the same features
learns where masks meet, and the cells it is sure of count once more.

The paper's second half, the choice among spectral segments, is not part of the network:
`unseen.segments`. The released code scores it with the labels' help. What the code does otherwise
than we is collected in `SAZSQuirks`; `docs/methods/sazs.md` lists it with numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.text import CLIPText, StoredText
from unseen.backbones.dense import (
    CITYSCAPES_MEAN,
    CITYSCAPES_STD,
    DenseBackbone,
    SmallBackbone,
    Statistics,
)
from unseen.backbones.drn import DRN
from unseen.backbones.mobilenet import DilatedMobileNet
from unseen.backbones.shape_network import ShapeNetwork, load_shape_network
from unseen.backbones.vit import ReassembledViT, ViTSizes
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import SettingError, VocabularyError
from unseen.labels import IGNORE
from unseen.modules.edges import balanced_edge_loss, edge_attention, edge_map, pixel_loss
from unseen.released import Released, count_layers
from unseen.segmenter import Prediction, QuerySegmenter, TextFeatures, as_color

Shape = Literal["released", "sigmoid", "off"]


@dataclass(frozen=True)
class SAZSQuirks:
    """What the released code does otherwise.

    Attributes:
        statistics: What images are normalised with: the backbone's own, or Cityscapes' (released).
        padding: What training crops are padded with: the "mean" that is subtracted, so that padding
            is 0 to the backbone, or "black" (released).
        attention_over: Whether the edge attention is the "mean" over images, or their "sum"
            (released), which grows with the batch.
        ignored_as: What a pixel with the ignore label is to the losses: left out ("ignore"), or
            "others" to classes and one more region to edges (released).
    """

    statistics: Statistics = "own"
    padding: Literal["mean", "black"] = "mean"
    attention_over: Literal["mean", "sum"] = "mean"
    ignored_as: Literal["ignore", "others"] = "ignore"

    @classmethod
    def released(cls) -> SAZSQuirks:
        """The released values."""
        return cls(
            statistics="released", padding="black", attention_over="sum", ignored_as="others"
        )


@dataclass(frozen=True)
class Encoded:
    """What all query classes of images share.

    Attributes:
        features: (B, D, h, w).
        edges: Logits of edges (B, 1, h, w).
        padded_size: Height and width in pixels that the features cover.
    """

    features: Tensor
    edges: Tensor
    padded_size: tuple[int, int]


def _released_options(state: dict[str, Tensor]) -> dict[str, Any]:
    return _released_drn(state) if "fc1.weight" in state else _released_vit(state)


def _released_drn(state: dict[str, Tensor]) -> dict[str, Any]:
    layers, channels = [], []
    for level in range(1, 9):
        stored = count_layers(state, f"base.{level}.")
        if 3 <= level <= 6:  # bottlenecks
            layers.append(stored)
            channels.append(len(state[f"base.{level}.0.conv2.weight"]))
        else:  # convolution, norm, and a ReLU without tensors
            layers.append(-(-stored // 3))
            channels.append(len(state[f"base.{level}.0.weight"]))
    return {
        "backbone": "drn_d_105",
        "drn_layers": tuple(layers),
        "drn_channels": tuple(channels),
    }


def _released_vit(state: dict[str, Tensor]) -> dict[str, Any]:
    hidden, width = state["pretrained.model.blocks.0.mlp.fc1.weight"].shape
    # The features come from the middle block; those behind it are stored and never used.
    blocks = count_layers(state, "pretrained.model.blocks.") // 2
    positions = state["pretrained.model.pos_embed"].shape[1] - 1
    sizes = (width, blocks, max(1, width // 64), hidden, round(positions**0.5))
    return {"backbone": "vit_large", "vit_sizes": sizes}


RELEASED = Released(
    mark="edgeocr_cls_head.",
    tower="ViT-B-32-quickgelu/openai",
    names=(
        (r"edgeocr_cls_head\.(.*)", r"edge_head.\1"),
        (r"pretrained\.model\.patch_embed\.proj\.(.*)", r"backbone.patch_embed.\1"),
        (r"pretrained\.model\.(.*)", r"backbone.\1"),
        (r"pretrained\.act_postprocess2\.0\.project\.0\.(.*)", r"backbone.readout.\1"),
        (r"pretrained\.act_postprocess2\.3\.(.*)", r"backbone.project.\1"),
        (r"pretrained\.act_postprocess2\.4\.(.*)", r"backbone.upsample.\1"),
        (r"((base|pool\d_conv|pool\d_bn|fc1|fc1_bn)\..*)", r"backbone.\1"),
    ),
    unused=r"pretrained\.model\.(blocks\.(?!(?:USED)\.)\d+|norm|head)\..*"
    r"|pretrained\.act_postprocess[134]\..*|scratch\..*|fc2\..*|up\..*",
    options=_released_options,
    folds=True,
)


class SAZS(QuerySegmenter, TextSegmenter):
    """SAZS.

    Args:
        clip: The text half of a CLIP, or stored text features.
        backbone: "vit_large" and "drn_d_105" (released), "mobilenet_v2", or "small", a
            convolutional network from scratch.
        weights: What the backbone starts from: a weight file, or "timm:NAME" for the ViT; random by
            default. Needed only when training begins.
        background: What a cell that is not the query class is compared with: the text feature of
            "others" ("word"), or a vector that is learned, for text features from a file.
        templates: The prompt a class name is put in; released: the bare "name".
        unit_text: Whether text features have unit length; released: as the tower gives them.
        scale: Factor of the dot products.
        dropout: On whole channels of the features; released DRN: 0.95 on PASCAL, 0.9 on COCO.
        balanced: Whether the class's cells and those of "others" weigh the same in a batch (or a
            part of it computed at a time), however many there are.
        loss_weights: Of pixels and text, edges, edge attention, shape.
        edge_logit: Cells whose edge logit is above this take part in the edge attention.
        shape: What the shape network sees of the edges: probabilities ("sigmoid"), or the
            log-softmax over their one channel, which is 0 everywhere ("released"): a constant
            without gradient. "off" leaves the term out.
        shape_weights: File of the shape network (InverseForm's `distance_measures_regressor.pth`).
        edge_radius: Pixels within this distance of another region are edges.
        vit_sizes: Of "vit_large": channels, blocks, heads, width of the MLPs, positions a side.
        drn_layers: Of "drn_d_105": convolutions or bottlenecks of the eight levels.
        drn_channels: Of the eight levels.
        small_width: Channels of "small".
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "templates": "name",
        "unit_text": False,
        "scale": 1.0,
        "balanced": False,
    }
    Quirks = SAZSQuirks
    RELEASED = RELEASED
    TINY: ClassVar[dict[str, Any]] = {"backbone": "small"}
    needs_class_labels: ClassVar[bool] = True
    # A class is one more pair of products with features that are computed already.
    classes_at_once: ClassVar[int] = 1024

    def __init__(
        self,
        clip: CLIPText | StoredText,
        *,
        backbone: Literal["vit_large", "drn_d_105", "mobilenet_v2", "small"] = "vit_large",
        weights: str | None = None,
        background: Literal["word", "learned"] = "word",
        templates: Templated = "single",
        unit_text: bool = False,
        scale: float = 1.0,
        dropout: float = 0.0,
        balanced: bool = True,
        loss_weights: tuple[float, float, float, float] = (1.0, 0.3, 0.1, 0.3),
        edge_logit: float = 0.8,
        shape: Shape = "off",
        shape_weights: str | None = None,
        edge_radius: int = 2,
        vit_sizes: tuple[int, int, int, int, int] = (1024, 12, 16, 4096, 24),
        drn_layers: tuple[int, int, int, int, int, int, int, int] = (1, 1, 3, 4, 23, 3, 1, 1),
        drn_channels: tuple[int, int, int, int, int, int, int, int] = (
            16, 32, 64, 128, 256, 512, 512, 512,
        ),
        small_width: int = 64,
        quirks: SAZSQuirks | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            clip,
            templates=templates,
            background_name="others" if background == "word" else None,
            unit_text=unit_text,
        )
        self.quirks = quirks or SAZSQuirks()
        self.backbone = _backbone(
            backbone, clip.embed_dim, vit_sizes, (drn_layers, drn_channels), small_width
        )
        if self.quirks.statistics == "released":
            self.backbone.mean.copy_(torch.tensor(CITYSCAPES_MEAN).view(3, 1, 1))
            self.backbone.std.copy_(torch.tensor(CITYSCAPES_STD).view(3, 1, 1))
        if weights is not None and not self.backbone.has_weights:
            raise SettingError(
                f"the backbone {backbone!r} starts from scratch; leave weights away (null, where"
                " the recipe names some), or choose another backbone"
            )
        if shape != "off" and shape_weights is None:
            raise SettingError(
                "the shape loss needs the weights of its network (InverseForm's"
                " distance_measures_regressor.pth); give shape_weights, or shape=off"
            )
        self.weights, self.shape, self.shape_weights = weights, shape, shape_weights
        self.scale, self.balanced, self.loss_weights = scale, balanced, loss_weights
        self.edge_logit, self.edge_radius = edge_logit, edge_radius
        self.others: nn.Parameter | None = None
        if background == "learned":
            self.others = nn.Parameter(torch.zeros(clip.embed_dim))
        self.dropout = nn.Dropout2d(dropout)
        self.edge_head = nn.Conv2d(clip.embed_dim, 1, 1)
        # Loaded when training begins: nothing else needs its 400 MB.
        self.shape_network: nn.Module = nn.Identity()

    @property
    def frozen(self) -> tuple[str, ...]:
        """The CLIP and the shape network."""
        return (*super().frozen, "shape_network")

    @property
    def pad_color(self) -> tuple[float, float, float]:
        """The mean that the backbone's normalisation takes away, or black as released."""
        if self.quirks.padding == "black":
            return (0.0, 0.0, 0.0)
        return as_color(self.backbone.mean)

    def initialise(self) -> None:
        """Load the backbone's weights and the shape network."""
        if self.weights is not None:
            self.backbone.load(self.weights)
        if self.shape_weights is not None and self.shape != "off":
            self.shape_network = load_shape_network(self.shape_weights).to(self.device)

    def encode_images(self, images: Tensor) -> Encoded:
        """Features in the space of the text features, and edge logits."""
        features = self.dropout(self.backbone(images))
        return Encoded(features, self.edge_head(features), self.backbone.padded_size(images))

    def answer(self, encoded: Encoded, query: TextFeatures) -> Prediction:
        """Logits (B, 2, h, w), others and query class.

        Extras: `edges`, logits (B, 1, h, w).
        """
        # A learned vector takes the place of a text feature that a file may not hold.
        others = query.background if self.others is None else self.others
        if others is None:
            raise VocabularyError(
                "SAZS compares classes with 'others', whose vector is not among the text features;"
                " train with background=learned"
            )
        features = encoded.features
        pairs = torch.stack([others.expand_as(query.pooled), query.pooled], dim=1)  # (B, 2, D)
        features = features.expand(len(pairs), -1, -1, -1)
        logits = torch.einsum("bdhw,btd->bthw", features, pairs.to(features.dtype))
        return Prediction(self.scale * logits, encoded.padded_size, {"edges": encoded.edges})

    def targets(self, prediction: Prediction, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What every cell, at its upper left pixel, should be; two maps (B, h, w) int64.

        The first is 1 for the query class and 0 for others, the second 1 for an edge and 0 for
        none; both are 255 where that is not known.
        """
        h, w = prediction.padded_size
        labels = F.pad(labels, (0, w - labels.shape[-1], 0, h - labels.shape[-2]), value=IGNORE)
        # As released, a cell is judged by its upper left pixel; nothing is averaged.
        step = self.backbone.stride
        ignored_is_other = self.quirks.ignored_as == "others"
        edges = edge_map(
            labels, radius=self.edge_radius, step=step, ignored_is_other=ignored_is_other
        )
        cells = labels[:, ::step, ::step]
        target = torch.where(cells == 1, 1, 0)
        if not ignored_is_other:
            target = torch.where(cells == IGNORE, IGNORE, target)
        return target, edges

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `seg`, `edge`, `attention`, perhaps `shape`, and their sum `total`.

        Args:
            prediction: Of `forward_query`.
            labels: (B, H, W) of 1 (the query class), 0 (no class), 255, and numbers above 1 for
                other classes.
        """
        return self.losses(prediction, *self.targets(prediction, labels))

    def losses(self, prediction: Prediction, target: Tensor, edges: Tensor) -> dict[str, Tensor]:
        """The terms, from the `targets`."""
        logits, edge_logits = prediction.logits.float(), prediction.extras["edges"].float()[:, 0]
        of_images = edge_attention(logits, target, edge_logits > self.edge_logit)
        over_images = of_images.mean()
        if self.quirks.attention_over == "sum":
            over_images = of_images.sum()
        pixel, edge, attention, shape = self.loss_weights
        losses = {
            "seg": pixel * pixel_loss(logits, target, balanced=self.balanced),
            "edge": edge * balanced_edge_loss(edge_logits, edges),
            "attention": attention * over_images,
        }
        if self.shape != "off":
            losses["shape"] = shape * self.shape_loss(edge_logits, edges)
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def shape_loss(self, edge_logits: Tensor, edges: Tensor) -> Tensor:
        """Mean over tiles of the length of the shape network's output.

        Args:
            edge_logits: Predicted edges (B, h, w).
            edges: True ones (B, h, w), 1, 0 and 255.
        """
        if not isinstance(self.shape_network, ShapeNetwork):
            raise SettingError(
                "the shape network is not loaded, as it is in training alone; call initialise()"
                " first"
            )
        # Cells without a known edge are 0 in both maps, so that the network sees no difference.
        known = (edges != IGNORE).float()
        predicted = edge_logits.sigmoid()
        if self.shape == "released":
            predicted = edge_logits.unsqueeze(1).log_softmax(dim=1)[:, 0]
        lengths: Tensor = self.shape_network(predicted * known, edges * known).norm(dim=1)
        return lengths.mean()


def _backbone(
    name: str,
    embed_dim: int,
    vit_sizes: tuple[int, ...],
    drn_sizes: tuple[tuple[int, ...], tuple[int, ...]],
    small_width: int,
) -> DenseBackbone:
    if name == "vit_large":
        return ReassembledViT(embed_dim, ViTSizes(*vit_sizes))
    if name == "drn_d_105":
        return DRN(embed_dim, layers=drn_sizes[0], channels=drn_sizes[1])
    if name == "mobilenet_v2":
        return DilatedMobileNet(embed_dim)
    return SmallBackbone(embed_dim, width=small_width)
