"""SAZS: an image backbone is trained to put pixels where a frozen CLIP puts words, with the help of
the edges of the masks.

Liu et al., "Delving into Shape-aware Zero-shot Semantic Segmentation", CVPR 2023, pp. 2999-3009,
arXiv 2304.08491. Given one word and an image, it says for each cell whether it shows that word or
"others" (binary): the larger of two dot products. While training, an edge head on the same features
learns where things meet, and the cells it is sure of count once more.

The paper's second half, the choice among spectral segments, is not part of the network:
`unseen.segments`. The released code scores it with the labels' help. The defaults here are what we
found right, `PUBLISHED` holds the released values; `docs/methods/sazs.md` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import read_state_dict
from unseen.backbones.clip import CLIPText
from unseen.backbones.dense import (
    CITYSCAPES_MEAN,
    CITYSCAPES_STD,
    DenseBackbone,
    SmallBackbone,
    Statistics,
)
from unseen.backbones.drn import DRN
from unseen.backbones.mobilenet import DilatedMobileNet
from unseen.backbones.vit import ReassembledViT
from unseen.errors import CheckpointError, SettingError, VocabularyError
from unseen.labels import IGNORE
from unseen.modules.edges import edge_map
from unseen.segmenter import Kind, Prediction, TextFeatures, TextSegmenter, as_color

Shape = Literal["released", "sigmoid", "off"]
TILES = (3, 6)
"""Rows and columns of tiles the shape network looks at, whatever the image's form (a leftover of
Cityscapes)."""


class SAZS(TextSegmenter):
    """SAZS.

    Args:
        clip: The text half of a CLIP.
        backbone: "vit_large" and "drn_d_105" (released), "mobilenet_v2", or "small", a
            convolutional network from scratch.
        weights: What the backbone starts from: a weight file, or "timm:NAME" for the ViT; random by
            default. Asked for when a training begins only.
        background: What a cell that is not the word is compared with: the vector of the word
            "others", or one that is learned, for words that come from a file.
        templates: The sentence a word is put in; released: the bare "name".
        unit_text: Whether words' vectors are made unit; released: as the tower gives them.
        scale: Factor of the dot products.
        statistics: What images are normalised with: the backbone's own, or Cityscapes' as
            released.
        padding: What training crops are padded with: the "mean" that is subtracted, so that padding
            is 0 to the backbone, or "black" as released.
        dropout: On whole channels of the features; released DRN: 0.95 on PASCAL, 0.9 on COCO.
        balanced: Whether the word's cells and those of "others" weigh the same in a batch (or a
            part of it computed at a time), however many there are.
        loss_weights: Of pixels and words, edges, edge attention, shape.
        edge_logit: Cells whose edge logit is above this have a part in the edge attention.
        attention_over: Whether that loss is the "mean" over images, or their "sum" as released,
            so that it grows with the batch.
        shape: What the shape network sees of the edges: probabilities ("sigmoid"), or the
            log-softmax over their one channel, which is 0 everywhere ("released"): a constant
            without gradient. "off" leaves the term out.
        shape_weights: File of the shape network (InverseForm's `distance_measures_regressor.pth`).
        void: What a 255 pixel is to the losses: nothing ("ignore"), or "others" to words and one
            more thing to edges (released).
        edge_radius: Pixels within this distance of another thing are edges.
        vit_sizes: Of "vit_large": channels, blocks, heads, width of the MLPs, positions a side.
        drn_layers: Of "drn_d_105": convolutions or bottlenecks of the eight levels.
        drn_channels: Of the eight levels.
        small_width: Channels of "small".
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "templates": "name",
        "unit_text": False,
        "scale": 1.0,
        "balanced": False,
        "statistics": "released",
        "padding": "black",
        "attention_over": "sum",
        "void": "others",
    }
    kind: ClassVar[Kind] = "binary"
    frozen: ClassVar[tuple[str, ...]] = ("clip", "shape_network")
    reads_things: ClassVar[bool] = True
    words_at_once: ClassVar[int] = (
        1024  # a word is one more pair of products with features that are there
    )

    def __init__(
        self,
        clip: CLIPText,
        *,
        backbone: Literal["vit_large", "drn_d_105", "mobilenet_v2", "small"] = "vit_large",
        weights: str | None = None,
        background: Literal["word", "learned"] = "word",
        templates: str = "single",
        unit_text: bool = False,
        scale: float = 1.0,
        statistics: Statistics = "own",
        padding: Literal["mean", "black"] = "mean",
        dropout: float = 0.0,
        balanced: bool = True,
        loss_weights: tuple[float, float, float, float] = (1.0, 0.3, 0.1, 0.3),
        edge_logit: float = 0.8,
        attention_over: Literal["mean", "sum"] = "mean",
        shape: Shape = "off",
        shape_weights: str | None = None,
        void: Literal["ignore", "others"] = "ignore",
        edge_radius: int = 2,
        vit_sizes: tuple[int, int, int, int, int] = (1024, 12, 16, 4096, 24),
        drn_layers: tuple[int, int, int, int, int, int, int, int] = (1, 1, 3, 4, 23, 3, 1, 1),
        drn_channels: tuple[int, int, int, int, int, int, int, int] = (
            16,
            32,
            64,
            128,
            256,
            512,
            512,
            512,
        ),
        small_width: int = 64,
    ) -> None:
        super().__init__(
            clip,
            templates=templates,
            background_word="others" if background == "word" else None,
            unit_text=unit_text,
        )
        self.backbone = _backbone(
            backbone, clip.embed_dim, vit_sizes, drn_layers, drn_channels, small_width
        )
        if statistics == "released":
            for buffer, values in (
                (self.backbone.mean, CITYSCAPES_MEAN),
                (self.backbone.std, CITYSCAPES_STD),
            ):
                buffer.copy_(torch.tensor(values).view(3, 1, 1))
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
        self.weights, self.shape, self.shape_weights, self.void, self.edge_radius = (
            weights,
            shape,
            shape_weights,
            void,
            edge_radius,
        )
        self.scale, self.balanced, self.loss_weights, self.edge_logit, self.attention_over = (
            scale,
            balanced,
            loss_weights,
            edge_logit,
            attention_over,
        )
        self.padding = padding
        self.others = nn.Parameter(torch.zeros(clip.embed_dim)) if background == "learned" else None
        self.dropout = nn.Dropout2d(dropout)
        self.edge_head = nn.Conv2d(clip.embed_dim, 1, 1)
        self.shape_network: nn.Module = (
            nn.Identity()
        )  # until a training begins: nothing else needs its 400 MB

    @property
    def pad_color(self) -> tuple[float, float, float]:
        """The mean that the backbone subtracts, or black as released."""
        return super().pad_color if self.padding == "black" else as_color(self.backbone.mean)

    def initialise(self) -> None:
        """Load the backbone's weights and the shape network."""
        if self.weights is not None:
            self.backbone.load(self.weights)
        if self.shape_weights is not None and self.shape != "off":
            self.shape_network = load_shape_network(self.shape_weights).to(self.device)

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, 2, h, w), others and word, of images (B, 3, H, W), RGB in 0..1, and B words;
        a single image is asked every word.

        Extras: `edges`, logits (B, 1, h, w).
        """
        others = text.background if self.others is None else self.others
        if others is None:
            raise VocabularyError(
                "SAZS compares words with 'others', whose vector is not among the text features;"
                " train with background=learned"
            )
        features = self.dropout(self.backbone(images))  # (B, D, h, w)
        words = torch.stack([others.expand_as(text.pooled), text.pooled], dim=1).to(
            features.dtype
        )  # (B, 2, D)
        logits = torch.einsum("bdhw,btd->bthw", features.expand(len(words), -1, -1, -1), words)
        return Prediction(
            self.scale * logits,
            self.backbone.padded_size(images),
            {"edges": self.edge_head(features)},
        )

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """The differences of a word's two logits, as they are: the larger, the closer a cell is to
        the word, for all words alike.
        """
        return logits

    def confidence(self, scores: Tensor) -> Tensor:
        """Probability of a word against "others"."""
        return scores.sigmoid()

    # -------------------------------------------------------------------- losses

    def targets(self, prediction: Prediction, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For every cell, at its upper left pixel: 1 the word, 0 others; 1 an edge, 0 none; each
        (B, h, w) int64, 255 where not known.
        """
        h, w = prediction.covers
        labels = F.pad(labels, (0, w - labels.shape[-1], 0, h - labels.shape[-2]), value=IGNORE)
        step = self.backbone.stride
        edges = edge_map(
            labels, radius=self.edge_radius, step=step, void_is_other=self.void == "others"
        )
        small = labels[:, ::step, ::step]
        known = torch.where(small == 1, 1, 0)
        return (
            known if self.void == "others" else torch.where(small == IGNORE, IGNORE, known)
        ), edges

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `seg`, `edge`, `attention`, perhaps `shape`, and their sum `total`.

        Args:
            prediction: Of images with a word each.
            labels: (B, H, W) of 1 (the word), 0 (none of the words), 255, and numbers above 1 for
                other things.
        """
        return self.losses(prediction, *self.targets(prediction, labels))

    def losses(self, prediction: Prediction, target: Tensor, edges: Tensor) -> dict[str, Tensor]:
        """The terms, from the `targets`."""
        logits, edge_logits = prediction.logits.float(), prediction.extras["edges"].float()[:, 0]
        of_pictures = edge_attention(logits, target, edge_logits > self.edge_logit)
        pixel, edge, attention, shape = self.loss_weights
        losses = {
            "seg": pixel * pixel_loss(logits, target, balanced=self.balanced),
            "edge": edge * balanced_edge_loss(edge_logits, edges),
            "attention": (
                attention
                * (of_pictures.sum() if self.attention_over == "sum" else of_pictures.mean())
            ),
        }
        if self.shape != "off":
            losses["shape"] = shape * self.shape_loss(edge_logits, edges)
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def shape_loss(self, edge_logits: Tensor, edges: Tensor) -> Tensor:
        """Mean over tiles of the length of the shape network's answer to edges found and true, (B,
        h, w) each.
        """
        if not isinstance(self.shape_network, ShapeNetwork):
            raise SettingError(
                "the shape network is not loaded, as it is in training alone; call initialise()"
                " first"
            )
        known = (edges != IGNORE).float()
        found = (
            edge_logits.unsqueeze(1).log_softmax(dim=1)[:, 0]
            if self.shape == "released"
            else edge_logits.sigmoid()
        )
        lengths: Tensor = self.shape_network(found * known, edges * known).norm(dim=1)
        return lengths.mean()


def pixel_loss(logits: Tensor, target: Tensor, *, balanced: bool) -> Tensor:
    """Cross-entropy of the word against "others": the mean over known cells, or, balanced, the mean
    of the word's mean and the others' mean.

    Args:
        logits: (B, 2, h, w).
        target: (B, h, w) of 1, 0 and 255, which weighs nothing.
        balanced: Weigh both alike, however many cells they have; where there are none of one, the
            other's mean is all.
    """
    costs = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    if not balanced:
        return costs.sum() / (target != IGNORE).sum().clamp(min=1)
    cells = [target == value for value in (0, 1)]
    means = torch.stack([costs[mine].sum() / mine.sum().clamp(min=1) for mine in cells])
    return means.sum() / torch.stack([mine.any() for mine in cells]).sum().clamp(min=1)


def balanced_edge_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Binary cross-entropy of edge logits (B, h, w), edges and others with equal weight over the
    batch, divided by the number of cells.

    Args:
        logits: Of the edge head.
        edges: (B, h, w), 1 an edge, 0 none; any other value weighs nothing.
    """
    edge, none = edges == 1, edges == 0
    share = none.sum() / (edge.sum() + none.sum()).clamp(min=1)
    weights = torch.where(edge, share, torch.where(none, 1 - share, 0))
    return (
        weights * F.binary_cross_entropy_with_logits(logits, edge.float(), reduction="none")
    ).mean()


def edge_attention(logits: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Cross-entropy of each image over the cells that are kept, (B,); 0 for an image without
    any, where the released code divides 0 by 0.

    A class weighs 2 minus its share of the kept cells of the batch; an image's loss is the
    weighted mean.

    Args:
        logits: (B, 2, h, w).
        target: (B, h, w) of 1, 0 and 255.
        kept: (B, h, w) bool.
    """
    kept = kept & (target != IGNORE)
    count = kept.sum()
    weights = torch.stack(
        [attention_weight((kept & (target == value)).sum(), count) for value in (0, 1)]
    )
    costs = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    weight = torch.where(kept, weights[torch.where(target == 1, 1, 0)], 0)
    # An image without kept cells costs 0 / 1; one with any has a weight of at least 1.
    return (weight * costs).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)


def attention_weight(cells: Tensor, of: Tensor) -> Tensor:
    """The weight of a class that holds so many cells of the kept ones; 1 if it has none."""
    return torch.where(cells > 0, 2 - cells / of.clamp(min=1), 1.0)


# -------------------------------------------------------------------- parts


def _backbone(
    name: str,
    embed_dim: int,
    vit_sizes: tuple[int, ...],
    drn_layers: tuple[int, ...],
    drn_channels: tuple[int, ...],
    small_width: int,
) -> DenseBackbone:
    if name == "vit_large":
        width, layers, heads, hidden, grid = vit_sizes
        return ReassembledViT(
            embed_dim, width=width, num_layers=layers, num_heads=heads, hidden_dim=hidden, grid=grid
        )
    if name == "drn_d_105":
        return DRN(embed_dim, layers=drn_layers, channels=drn_channels)
    return (
        DilatedMobileNet(embed_dim)
        if name == "mobilenet_v2"
        else SmallBackbone(embed_dim, width=small_width)
    )


class ShapeNetwork(nn.Module):
    """InverseForm's network (Borse et al. 2021): how far a tile of edges is from another, as four
    numbers.

    Args:
        tile: Side of a tile; released: 224.
        hidden: Widths of the two hidden layers; released: 1000 and 32.
    """

    def __init__(self, tile: int = 224, hidden: tuple[int, int] = (1000, 32)) -> None:
        super().__init__()
        self.tile = tile
        self.fc = nn.Sequential(
            nn.Linear(2 * tile * tile, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], 4),
        )
        self.requires_grad_(False)

    def tiles(self, maps: Tensor) -> Tensor:
        """Maps (B, h, w) at 3 x 6 tiles' size, cut row by row: (18·B, tile²), the images of a
        tile side by side.
        """
        size = TILES[0] * self.tile, TILES[1] * self.tile
        large = F.interpolate(
            maps.float().unsqueeze(1), size, mode="bilinear", align_corners=False
        )[:, 0]
        cut = large.view(-1, TILES[0], self.tile, TILES[1], self.tile)
        return cut.permute(1, 3, 0, 2, 4).flatten(3).flatten(0, 2)  # (3, 6, B, tile²) first

    def forward(self, found: Tensor, true: Tensor) -> Tensor:
        """Four numbers for every tile, (18·B, 4)."""
        out: Tensor = self.fc(torch.cat([self.tiles(found), self.tiles(true)], dim=1))
        return out


def load_shape_network(file: str) -> ShapeNetwork:
    """The shape network of a file, its sizes read off the shapes.

    Raises:
        CheckpointError: Not such a file.
    """
    state = {
        name[name.index("fc.") :]: tensor
        for name, tensor in read_state_dict(Path(file)).items()
        if "fc." in name
    }
    try:
        hidden, pairs = state["fc.0.weight"].shape
        network = ShapeNetwork(round((pairs // 2) ** 0.5), (hidden, len(state["fc.2.weight"])))
        network.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} does not hold InverseForm's shape network (fc.0, fc.2, fc.4); give"
            " distance_measures_regressor.pth"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise CheckpointError(f"{file} holds values that are not finite; download it again")
    return network
