"""EdgeCLIP: text features as prototypes that an image refines, and a loss on contours.

Fang et al., "EdgeCLIP", code prepared for IEEE TCSVT, released without training code, weights or
paper; derived from SSP (Fan et al., ECCV 2022, arXiv 2207.11549). Given an image and a query class,
it tells for each pixel whether it shows that class. CLIP encodes the class names alone: images go
through a ResNet.

What training needs and was not released (composition of the loss, bands along contours, schedule)
is our choice; what the released code does otherwise is collected in `EdgeCLIPQuirks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.text import CLIPText, StoredText
from unseen.backbones.mobilenet import MobileNetFeatures
from unseen.backbones.resnet import DilatedResNet, Norm, Trained
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import SettingError, VocabularyError
from unseen.modules.attention import attend
from unseen.modules.contours import bands, sampled, triplet_loss
from unseen.modules.losses import cross_entropy
from unseen.released import Released, count_layers, rename
from unseen.segmenter import Prediction, QuerySegmenter, TextFeatures, as_color

EPS = 1e-8
"""The least length a vector is divided by: a pixel whose features are all 0 has the cosine 0 with
everything."""
SCALE = 10.0
"""Of cosines, where they are logits."""


@dataclass(frozen=True)
class EdgeCLIPQuirks:
    """What the released code does otherwise.

    Attributes:
        background_text: The projection of the background's text feature: "supervised", trained by a
            cross-entropy on the first logits; or "frozen" (released), where it only picks pixels
            and so stays random for ever.
        normalization: Statistics of the images: ImageNet's, which the weights were made with, or
            "none" (released).
    """

    background_text: Literal["supervised", "frozen"] = "supervised"
    normalization: Literal["imagenet", "none"] = "imagenet"

    @classmethod
    def released(cls) -> EdgeCLIPQuirks:
        """The released values."""
        return cls(background_text="frozen", normalization="none")


@dataclass(frozen=True)
class Encoded:
    """What all query classes of images share.

    Attributes:
        feature: (B, D, h, w), not negative.
        size: Height and width in pixels of what the features cover: the images, padded where the
            backbone needs it.
    """

    feature: Tensor
    size: tuple[int, int]


class Round(NamedTuple):
    """One comparison of the features with two prototypes.

    Attributes:
        foreground: (B, D, 1, 1).
        background: (B, D, 1, 1), or (B, D, h, w) where every pixel has its own.
        scores: (B, 2, h, w), background and foreground, in 0..10.
    """

    foreground: Tensor
    background: Tensor
    scores: Tensor


RELEASED_NAMES = (
    (r"layer0\.0\.(.*)", r"backbone.conv1.\1"),
    (r"layer0\.1\.(.*)", r"backbone.bn1.\1"),
    (r"(layer[123]\..*)", r"backbone.\1"),
    (r"gam\.(gate\..*)", r"\1"),
    (r"down_query\.(.*)", r"project.\1"),
    (r"down_text_cp\.(.*)", r"project_word.\1"),
    (r"down_text_up\.(.*)", r"project_background.\1"),
    (r"model\.(.*)", r"clip.text.\1"),
)


def _released_options(state: dict[str, Tensor]) -> dict[str, Any]:
    # A tensor may be stored under either of two names, so sizes are read under ours.
    own = {rename(name, RELEASED_NAMES): tensor for name, tensor in state.items()}
    stages = [f"backbone.layer{i}." for i in (1, 2, 3)]
    return {
        "stem": tuple(len(own[f"backbone.conv1.{i}.weight"]) for i in (0, 3, 6)),
        "planes": tuple(len(own[f"{stage}0.conv1.weight"]) for stage in stages),
        "blocks": tuple(count_layers(own, stage) for stage in stages),
        "match_dim": len(own["project.0.weight"]),
    }


RELEASED = Released(
    mark="gam.gate.",
    towers=(None, "model."),  # its image tower is stored and never used
    names=RELEASED_NAMES,
    unused=r"model\.(visual\..*|logit_scale)|down_supp\..*",
    options=_released_options,
    folds=True,
)


def _check_selection(thresholds: tuple[float, float], margin: float) -> None:
    """Refuse thresholds that a softmax never reaches, and a margin that is none.

    Raises:
        SettingError: They would select all pixels or none.
    """
    if not all(0 < threshold < 1 for threshold in thresholds) or not margin >= 0:
        raise SettingError(
            f"thresholds {tuple(thresholds)} and margin {margin} do not fit; give probabilities,"
            " and 0 or more"
        )


class EdgeCLIP(QuerySegmenter, TextSegmenter):
    """EdgeCLIP.

    Args:
        clip: The text half of a CLIP, or stored text features.
        backbone: "resnet" (released), or the light "mobilenet_v2" (`MobileNetFeatures`), which the
            sizes of the ResNet are not for.
        weights: What the backbone starts from: a file, or "timm:resnet50s.gluon_in1k"
            (`DilatedResNet.load_weights`).
        stem: `DilatedResNet`.
        planes: `DilatedResNet`.
        blocks: `DilatedResNet`; (3, 4, 6) is ResNet-50.
        strides: `DilatedResNet`.
        train_backbone: What of the backbone is trained: the ResNet's third stage (released; of
            MobileNetV2 what follows a stride of 8), or all, for which it needs no weights.
        norm: What the batch norms of the trained part do: `DilatedResNet`.
        match_dim: D, channels in which text features and pixels are compared.
        dropout: On whole channels of features and text features.
        gate_dropout: On the gate's logits.
        thresholds: Least probabilities of foreground and background pixels that make prototypes.
        top: So many of the most probable pixels make a prototype where none reaches its threshold;
            all, where an image has fewer.
        triplet_weight: Of the loss on contours.
        margin: Of that loss.
        edge_radius: Width in pixels of the bands on both sides of a contour; by default one step of
            the feature grid (8 pixels for strides of 2), so that sampling the bands at that grid
            keeps them; masks with an ignored contour need more by its width.
        background: What pixels of no class are compared with: the text feature of "background"
            ("word"), or a vector that is learned, for text features from a file.
        templates: The prompt a class name is put in; the figure's is "no_article".
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"templates": "no_article"}
    Quirks = EdgeCLIPQuirks
    RELEASED = RELEASED
    TINY: ClassVar[dict[str, Any]] = {
        "stem": (8, 8, 16),
        "planes": (8, 8, 16),
        "blocks": (1, 1, 2),
        "strides": (2, 1, 2),
        "match_dim": 32,
        "train_backbone": "all",
        "norm": "batch",
    }
    # Each takes the pixels' features several times over; answering more at once is no faster.
    classes_at_once: ClassVar[int] = 4
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: CLIPText | StoredText,
        *,
        backbone: Literal["resnet", "mobilenet_v2"] = "resnet",
        weights: str | None = None,
        stem: tuple[int, int, int] = (64, 64, 128),
        planes: tuple[int, int, int] = (64, 128, 256),
        blocks: tuple[int, int, int] = (3, 4, 6),
        strides: tuple[int, int, int] = (2, 2, 2),
        train_backbone: Trained = "layer3",
        norm: Norm = "affine",
        match_dim: int = 512,
        dropout: float = 0.3,
        gate_dropout: float = 0.1,
        thresholds: tuple[float, float] = (0.7, 0.6),
        top: int = 12,
        triplet_weight: float = 1.0,
        margin: float = 0.5,
        edge_radius: int | None = None,
        background: Literal["word", "learned"] = "word",
        templates: Templated = "single",
        quirks: EdgeCLIPQuirks | None = None,
    ) -> None:
        super().__init__(
            clip,
            templates=templates,
            background_name="background" if background == "word" else None,
            unit_text=False,
        )
        self.quirks = quirks or EdgeCLIPQuirks()
        _check_selection(thresholds, margin)
        self.weights, self.train_backbone = weights, train_backbone
        self.thresholds, self.top = tuple(thresholds), top
        self.triplet_weight, self.margin = triplet_weight, margin
        self.backbone: DilatedResNet | MobileNetFeatures
        if backbone == "mobilenet_v2":
            self.backbone = MobileNetFeatures(trained=train_backbone)
        else:
            sizes = (stem, planes, blocks, strides)
            self.backbone = DilatedResNet(*sizes, trained=train_backbone, norm=norm)
        self.edge_radius = self.backbone.stride if edge_radius is None else edge_radius
        self.project = _projection(self.backbone.channels, match_dim, dropout)
        self.project_word = _projection(clip.embed_dim, match_dim, dropout)
        self.project_background = _projection(clip.embed_dim, match_dim, dropout)
        # Frozen, it is stored all the same: its random values are part of the result.
        self.project_background.requires_grad_(self.quirks.background_text == "supervised")
        self.gate = _gate(match_dim, gate_dropout)
        self.unknown: nn.Parameter | None = None
        if background == "learned":
            self.unknown = nn.Parameter(torch.randn(clip.embed_dim) / clip.embed_dim**0.5)
        mean, std = self.backbone.mean, self.backbone.std
        if self.quirks.normalization == "none":
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def pad_color(self) -> tuple[float, float, float]:
        """The mean that normalisation takes away."""
        return as_color(self.mean)

    def initialise(self) -> None:
        """Load the backbone's weights.

        Raises:
            SettingError: There are none, although not all of the backbone is trained.
            CheckpointError: A file that does not hold this backbone.
        """
        if self.weights is not None:
            self.backbone.load_weights(self.weights)
        elif self.train_backbone == "layer3" or self.backbone.norm != "batch":
            raise SettingError(
                "edgeclip starts from a backbone that was trained before; give its weights"
                " (--options.weights timm:resnet50s.gluon_in1k, or a file), or train all of it,"
                " batch norms too (--options.train_backbone all --options.norm batch)"
            )

    def encode_images(self, images: Tensor) -> Encoded:
        """Projected features of images (B, 3, H, W), RGB in 0..1."""
        x = (images - self.mean) / self.std
        # 0 is the mean; the maps of the padding are cut off with it.
        multiple = self.backbone.multiple
        x = F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple))
        return Encoded(self.project(self.backbone(x)), (x.shape[-2], x.shape[-1]))

    def answer(self, encoded: Encoded, query: TextFeatures) -> Prediction:
        """Logits (B, 2, h, w), background and query class.

        Extras: `initial` and `seeds`, the logits (B, 2, h, w) of the rounds before; `feature`
            (B, D, h, w); `word` (B, D, 1, 1).
        """
        unknown = query.background if self.unknown is None else self.unknown
        if unknown is None:
            raise VocabularyError(
                "EdgeCLIP compares classes with 'background', whose vector is not among the text"
                " features; train with background=learned"
            )
        count, feature = len(query), encoded.feature
        word = self.project_word(query.pooled.view(count, -1, 1, 1))
        background = self.project_background(unknown.expand(count, -1)[..., None, None])
        # Thresholds decide from here on, and bf16 has three digits.
        of_class = feature.float().expand(count, -1, -1, -1)
        rounds = self.match(of_class, word.float(), background.float())
        extras = {
            "initial": rounds[1].scores,
            "seeds": rounds[0].scores,
            "feature": feature,
            "word": word,
        }
        return Prediction(rounds[2].scores, encoded.size, extras, align_corners=True)

    def match(self, feature: Tensor, text: Tensor, background: Tensor) -> list[Round]:
        """Text-guided dense feature matching in three rounds.

        The first compares pixels with the text features; in the two that follow, prototypes of the
        image join them.

        Args:
            feature: F (B, D, h, w), not negative.
            text: CP (B, D, 1, 1).
            background: UP (B, D, 1, 1).
        """
        unit = F.normalize(feature, dim=1, eps=EPS)
        # Weights of the mixtures below are those of the released code.
        first = Round(text, background, cosine_scores(unit, text, background))

        near, far, local = self.prototypes(self.gated(feature, first.scores), first.scores)
        foreground, background = 0.5 * text + 0.5 * near, 0.3 * far + 0.7 * local
        second = Round(foreground, background, cosine_scores(unit, foreground, background))

        again, far, local = self.prototypes(self.gated(feature, second.scores), second.scores)
        foreground = 0.2 * text + 0.3 * near + 0.5 * again
        background = 0.4 * background + 0.6 * (0.3 * far + 0.7 * local)
        third = Round(foreground, background, cosine_scores(unit, foreground, background))
        return [first, second, third]

    def gated(self, feature: Tensor, scores: Tensor) -> Tensor:
        """Features (B, D, h, w), each channel weighted by its mean over the foreground."""
        foreground = scores.argmax(dim=1, keepdim=True)
        # As released, the mean is over all pixels, not over those of the foreground alone.
        shown = (feature * foreground).mean(dim=(2, 3), keepdim=True)
        gate: Tensor = self.gate(shown)
        return gate.sigmoid() * feature

    def prototypes(self, feature: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of an image's surest pixels, and a background of its own for every pixel.

        Args:
            feature: X (B, D, h, w).
            scores: (B, 2, h, w).

        Returns:
            SF and SB (B, D, 1, 1), foreground and background; LB (B, D, h, w): for every pixel the
            mean of the background's pixels, weighted with the softmax of twice their cosines with
            it.
        """
        flat = feature.flatten(2)  # (B, D, N)
        probability = scores.softmax(dim=1).flatten(2)  # (B, 2, N), background first
        foreground = surest(probability[:, 1], self.thresholds[0], self.top)
        background = surest(probability[:, 0], self.thresholds[1], self.top)
        with torch.autocast(feature.device.type, enabled=False):
            means = [
                (flat @ mask.float().unsqueeze(2) / mask.sum(dim=1).view(-1, 1, 1)).unsqueeze(3)
                for mask in (foreground, background)
            ]
        pixels = flat.transpose(1, 2).contiguous()  # (B, N, D)
        local = local_background(pixels, background)
        return means[0], means[1], local.float().transpose(1, 2).reshape(feature.shape)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `mask`, `initial`, `seeds`, `edge`, and their sum `total`.

        `seeds` is there only where the background's text feature is supervised.

        Args:
            prediction: Of `forward_query`.
            labels: (B, H, W) of 1 (the query class), 0 and 255.
        """
        size, extras = (labels.shape[-2], labels.shape[-1]), prediction.extras
        scored = {"mask": prediction.logits, "initial": extras["initial"]}
        if self.quirks.background_text == "supervised":
            scored["seeds"] = extras["seeds"]
        losses = {
            name: cross_entropy(prediction.resized(size, logits), labels)
            for name, logits in scored.items()
        }
        feature = extras["feature"].float()
        grid = (feature.shape[-2], feature.shape[-1])
        inside, outside = (sampled(band, grid) for band in bands(labels, self.edge_radius))
        text = extras["word"].float().flatten(1)
        with torch.autocast(feature.device.type, enabled=False):
            edge = triplet_loss(text, feature, inside, outside, self.margin)
        losses["edge"] = self.triplet_weight * edge
        return {**losses, "total": torch.stack(list(losses.values())).sum()}


def _gate(channels: int, dropout: float) -> nn.Sequential:
    """Logits of how much of each channel passes."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
        nn.Dropout(dropout),
    )


def _projection(channels: int, match_dim: int, dropout: float) -> nn.Sequential:
    """Into the space where text features and pixels meet; its vectors are not negative."""
    return nn.Sequential(
        nn.Conv2d(channels, match_dim, 1, bias=False), nn.ReLU(), nn.Dropout2d(dropout)
    )


def cosine_scores(unit: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Ten times the cosines (B, 2, h, w) of unit features with two prototypes, background first."""
    cosines = [
        (unit * F.normalize(prototype, dim=1, eps=EPS)).sum(dim=1)
        for prototype in (background, foreground)
    ]
    return SCALE * torch.stack(cosines, dim=1)


def local_background(pixels: Tensor, background: Tensor) -> Tensor:
    """For every pixel a mean (B, N, D) of the background's pixels.

    They are weighted with the softmax of twice their cosines with it: attention of one head, whose
    keys are those pixels alone, in the numbers that the network computes with.

    Args:
        pixels: (B, N, D).
        background: (B, N) bool, at least one True in each image.
    """
    means = []
    unit = F.normalize(pixels, dim=-1, eps=EPS)
    for queries, values, chosen in zip(unit, pixels, background, strict=True):
        places = chosen.nonzero().squeeze(1)
        keys = queries[places]
        mean = attend(queries[None, None], keys[None, None], values[places][None, None], scale=2.0)
        means.append(mean[0, 0])
    return torch.stack(means)


def surest(probability: Tensor, threshold: float, top: int) -> Tensor:
    """The pixels (B, N) bool that make a prototype.

    Those above the threshold or, in an image that has none, the `top` most probable ones.

    Args:
        probability: (B, N).
        threshold: In 0..1.
        top: How many at most.
    """
    above = probability > threshold
    best = probability.topk(min(top, probability.shape[1]), dim=1).indices
    most_probable = torch.zeros_like(above).scatter(1, best, True)
    return torch.where(above.any(dim=1, keepdim=True), above, most_probable)
