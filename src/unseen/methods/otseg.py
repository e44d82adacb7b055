"""OTSeg and OTSeg+: ZegCLIP with several prompts a class, each of which finds patches of its own.

Kim, Oh and Ye, "OTSeg: Multi-prompt Sinkhorn Attention for Zero-Shot Semantic Segmentation", ECCV
2024, arXiv 2403.14183. The prompts of a class are not averaged: each is a query, and optimal
transport divides the patches among them, every prompt an equal share. The map of a class is made of
the plans. Two paths are trained side by side: one compares the queries with the patches as they
are, the other goes through a decoder whose attention is such a plan. Their mean is OTSeg+; the
decoder alone is OTSeg, according to secondary sources.

The released code differs from sound practice in a few places, collected in `OTSegQuirks`;
`docs/methods/otseg.md` lists them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP
from unseen.errors import SettingError
from unseen.modules.decoders import AttentionLayer, start_as_identity
from unseen.modules.queries import RelationshipDescriptor
from unseen.modules.sinkhorn import Sinkhorn
from unseen.prompted_segmenter import (
    RELEASED_PROMPTED,
    PromptedOptions,
    PromptedQuirks,
    PromptedSegmenter,
)
from unseen.released import LIKE_ZEGCLIP
from unseen.segmenter import AuxiliaryMap, Prediction, TextFeatures
from unseen.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

SIX = (
    "a photo of a {}.", "a portrait of a {}.", "a part of a {}.", "a segment of a {}.",
    "a photo of small {}.", "a photo of medium {}.",
)  # fmt: skip
"""The prompts of the released VOC runs; the others have two more (`recipes/otseg.yaml`)."""
RELEASED_SINKHORN = Sinkhorn(rounds=100, tolerance=1e-6)
OFFSET = 0.3
"""Length of the learned offsets at first: as far apart as the prompts of a class in CLIP's space,
whose cosines are about 0.9."""


class SinkhornLayer(AttentionLayer):
    """A decoder layer whose attention is a plan: multi-prompt Sinkhorn attention (§3.3).

    One head; queries and keys are compared by cosine.

    Args:
        embed_dim: D.
        hidden_dim: Width of the feed-forward part.
        dropout: On the plan and the residual branches.
        shares: Factor of the plan as attention weights; without it the weights of a query sum to 1.
        sinkhorn: How plans are computed.
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        dropout: float,
        *,
        shares: Literal["plan", "mean"],
        sinkhorn: Sinkhorn,
    ) -> None:
        super().__init__(embed_dim, 1, hidden_dim, dropout)
        self.shares, self.sinkhorn = shares, sinkhorn

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, K, N, D) after the layer, and the map (B, K, M) of their plans.

        Args:
            queries: (B, K, N, D).
            memory: The patches (B, M, D).
        """
        attn = self.multihead_attn
        plan, maps = self.sinkhorn(attn.q(queries), attn.k(memory))
        if self.shares == "mean":
            plan = plan * plan.shape[2]
        plan = F.dropout(plan, attn.dropout, self.training).flatten(1, 2)
        values = attn.v(memory)
        attended = attn.proj(plan.to(values.dtype) @ values).reshape(queries.shape)
        return self.update(queries, attended), maps


class SinkhornDecoder(nn.Module):
    """Layers of Sinkhorn attention, and the product of their maps (§3.3).

    The last layer is only its two projections: nothing else of it reaches the maps.

    Args:
        layers: All but the last; there may be none.
        embed_dim: D.
        sinkhorn: How plans are computed.
    """

    def __init__(self, layers: list[SinkhornLayer], embed_dim: int, sinkhorn: Sinkhorn) -> None:
        super().__init__()
        self.sinkhorn = sinkhorn
        self.q, self.k = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim)
        self.layers = nn.ModuleList(layers)

    def start_alike(self) -> None:
        """Start all layers from the values of the first."""
        if len(self.layers) == 0:
            return
        first = cast(SinkhornLayer, self.layers[0])
        for layer in self.layers[1:]:
            layer.load_state_dict(first.state_dict())
        self.q.load_state_dict(first.multihead_attn.q.state_dict())
        self.k.load_state_dict(first.multihead_attn.k.state_dict())

    def start_as_cosines(self) -> None:
        """Start where every layer compares the queries with the patches and passes them on."""
        for layer in cast(list[SinkhornLayer], self.layers):
            layer.start_as_identity()
            start_as_identity(layer.multihead_attn.q)
            start_as_identity(layer.multihead_attn.k)
        start_as_identity(self.q)
        start_as_identity(self.k)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """The last layer's map (B, K, M), times the earlier ones' sigmoids.

        Of L - 1 earlier layers each enters by the root of that degree.

        Args:
            queries: (B, K, N, D).
            memory: The patches (B, M, D).
        """
        earlier = []
        for layer in cast(list[SinkhornLayer], self.layers):
            queries, maps = layer(queries, memory)
            earlier.append(maps)
        _, chained = self.sinkhorn(self.q(queries), self.k(memory))
        if earlier:
            # The root of a product of sigmoids, by their logarithms.
            logs = torch.stack([F.logsigmoid(maps) for maps in earlier])
            chained = chained * logs.mean(dim=0).exp()
        return chained


@dataclass(frozen=True)
class OTSegQuirks(PromptedQuirks):
    """What the released code does otherwise.

    Attributes:
        sinkhorn_stop: When Sinkhorn's rounds end. "rounds": after a fixed number. "batch"
            (released): when the potentials of all that is computed together change by less than
            1e-6 on average, at the latest after 100; an answer then depends on what else is asked.
        shares: What a prompt reads of the patches. "mean": the mean of their values by the plan.
            "plan" (released): the sum by the plan, which is smaller by the number of prompts.
    """

    sinkhorn_stop: Literal["rounds", "batch"] = "rounds"
    shares: Literal["plan", "mean"] = "mean"

    @classmethod
    def released(cls) -> OTSegQuirks:
        """The released values."""
        return cls(
            **RELEASED_PROMPTED,
            sinkhorn_stop="batch",
            shares="plan",
        )


@dataclass(frozen=True)
class OTSegOptions(PromptedOptions):
    """Shared options with another default (`templates`) or description (`start`).

    Attributes:
        start: Where training starts: "aligned", at the comparison of patches with prompts that
            needs no training; or "released", at random.
        templates: The prompts of a class, each of which is a query.
    """

    templates: Templated = SIX


class OTSeg(PromptedSegmenter):
    """OTSeg.

    Args:
        clip: The frozen tower.
        options: Those that the methods with visual prompts share.
        epsilon: Strength of the entropy of the plans; the larger, the more alike the prompts of a
            class.
        rounds: Of Sinkhorn's algorithm, a fixed number; 25 by default. Not with
            `sinkhorn_stop=batch`, which ends them by itself.
        ensemble: Share of the path without a decoder in the logits: 0.5 is OTSeg+, 0 OTSeg.
        text_offsets: Number F of learned vectors; each is added to every text feature, so that N
            prompts become N·F. 0 for none. For text features from a file that holds one a class.
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"start": "released", "calibration": 0.1}
    Options = OTSegOptions
    Quirks = OTSegQuirks
    RELEASED = LIKE_ZEGCLIP
    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3}
    needs_prompts: ClassVar[bool] = True

    def __init__(
        self,
        clip: CLIP,
        options: OTSegOptions | None = None,
        *,
        epsilon: float = 0.05,
        rounds: int | None = None,
        ensemble: float = 0.5,
        text_offsets: int = 0,
        quirks: OTSegQuirks | None = None,
    ) -> None:
        options, quirks = options or OTSegOptions(), quirks or OTSegQuirks()
        if quirks.sinkhorn_stop == "batch" and rounds is not None:
            raise SettingError(
                f"rounds is {rounds}, and sinkhorn_stop=batch ends them by itself; give one of both"
            )
        if ensemble > 1:
            raise SettingError(f"ensemble is {ensemble}, a share; give a number from 0 to 1")
        super().__init__(clip, options, quirks)
        self.ensemble = ensemble
        self.sinkhorn = Sinkhorn(epsilon, Sinkhorn.rounds if rounds is None else rounds)
        if quirks.sinkhorn_stop == "batch":
            self.sinkhorn = replace(RELEASED_SINKHORN, epsilon=epsilon)
        width = clip.embed_dim
        self.text_offsets: nn.Parameter | None = None
        if text_offsets:
            self.text_offsets = nn.Parameter(
                OFFSET * width**-0.5 * torch.randn(text_offsets, width)
            )
        self.descriptor = RelationshipDescriptor(width)
        sizes = (width, options.hidden_dim or 4 * width, options.dropout)
        layers = [
            SinkhornLayer(*sizes, shares=quirks.shares, sinkhorn=self.sinkhorn)
            for _ in range(options.decoder_layers - 1)
        ]
        self.decoder = SinkhornDecoder(layers, width, self.sinkhorn)
        if quirks.identical_layers:
            self.decoder.start_alike()
        self.logit_scale: nn.Parameter | None = None
        self.set_start(options.start)

    def start_as_cosines(self) -> None:
        """Queries are the text features, and the tower is undisturbed by visual prompts."""
        start_as_identity(self.descriptor.q_proj)  # of [g ⊙ t ; t] the text feature
        self.decoder.start_as_cosines()
        self.prompts.start_at_zero()
        self.logit_scale = nn.Parameter(torch.ones(()))

    @torch.no_grad()
    def scale_logits(self, factor: float) -> None:
        """By a learned factor, as cosines have none of their own."""
        assert self.logit_scale is not None
        self.logit_scale.mul_(factor)

    def encode_text(self, vocabulary: Vocabulary) -> TextFeatures:
        """Unit vectors (K, N, D) of the N prompts of each class, beside their mean.

        Of several names of a class the means count, prompt by prompt.
        """
        text = self.encode_prompts(vocabulary)
        assert text.per_template is not None
        offsets = 1 if self.text_offsets is None else len(self.text_offsets)
        if text.per_template.shape[1] * offsets == 1:
            _log.warning(
                "unseen: OTSeg has a single prompt a class here, so that its plans choose nothing;"
                " give it several --options.templates, text embeddings of several prompts, or"
                " --options.text_offsets 4"
            )
        return text

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1.

        The auxiliary maps are those of the losses: of the decoder, and of the path without one.
        """
        assert text.per_template is not None
        images, covered = self.covered(images)
        grid = self.clip.grid(images)
        class_token, patches = self.encode_images(images)
        prompts = text.per_template.to(patches.dtype)  # (K, N, D)
        if self.text_offsets is not None:
            prompts = F.normalize(prompts.unsqueeze(2) + self.text_offsets, dim=-1).flatten(1, 2)
        queries = self.descriptor(class_token, prompts.flatten(0, 1))  # (B, K·N, D)
        queries = queries.reshape(images.shape[0], *prompts.shape)
        _, direct = self.sinkhorn(queries, patches)
        # Patches run row by row, so scores (B, K, M) are maps (B, K, h, w).
        decoded, direct = (
            self._scaled(maps).reshape(images.shape[0], -1, *grid)
            for maps in (self.decoder(queries, patches), direct)
        )
        return Prediction(
            torch.lerp(decoded, direct, self.ensemble),
            covered,
            auxiliary=(AuxiliaryMap(decoded), AuxiliaryMap(direct)),
        )

    def _scaled(self, maps: Tensor) -> Tensor:
        """Maps as logits; as they are where training started at random."""
        if self.logit_scale is not None:
            maps = maps * self.logit_scale
        return self.biased(maps)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `mask` and `dice`, summed over both paths, and their sum `total`."""
        decoded, direct = prediction.auxiliary
        return super().loss(replace(prediction, logits=decoded.logits, auxiliary=(direct,)), labels)
