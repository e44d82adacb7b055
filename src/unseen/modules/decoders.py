"""Decoders in which queries of classes attend to patches (ZegCLIP, CLIP-RC and their kin)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.errors import SettingError
from unseen.modules.attention import attend


def check_heads(num_heads: int, width: int) -> None:
    """Refuse a decoder whose heads do not divide its width.

    Raises:
        SettingError: They do not.
    """
    if width % num_heads:
        raise SettingError(
            f"decoder_heads is {num_heads}, which does not divide the width {width}; choose a"
            " divisor"
        )


@torch.no_grad()
def start_as_identity(layer: nn.Linear, factor: float = 1.0) -> None:
    """Start a layer so that it passes on the last of its inputs, times a factor."""
    outputs, inputs = layer.weight.shape
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.weight[:, inputs - outputs :] = factor * torch.eye(outputs)


class CrossAttention(nn.Module):
    """Multi-head attention from queries to a memory.

    The projections are separate modules, as the released checkpoints store them.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.k = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim)
        self.v, self.proj = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, D) from queries (B, K, D) and memory (B, N, D)."""
        # (B, K or N, D) to (B, heads, K or N, D / heads).
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(queries), self.k(memory), self.v(memory))
        )
        y = attend(q, k, v, dropout=self.dropout if self.training else 0.0)
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return out


def mean_scores(q: Tensor, k: Tensor, num_heads: int) -> Tensor:
    """Attention scores before the softmax, (B, K, N), averaged over heads.

    The mean of the heads' dot products is one dot product over all channels: (1/heads) Σ_h q_h·k_h
    / √(D/heads) = q·k / (heads·√(D/heads)). One head gives q·k / √D.

    Args:
        q: Projected queries (B, K, D).
        k: Projected patches (B, N, D).
        num_heads: Heads whose scaled products are averaged.
    """
    scale = 1 / (num_heads * (q.shape[-1] / num_heads) ** 0.5)
    scores: Tensor = scale * (q @ k.transpose(1, 2))
    return scores


class AttentionLayer(nn.Module):
    """The parts of a decoder layer: attention and feed-forward, post-norm; no self-attention.

    How queries attend to the memory is left to the kinds of layers.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, hidden_dim: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.multihead_attn = CrossAttention(embed_dim, num_heads, dropout)
        self.linear1 = nn.Linear(embed_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, embed_dim)
        self.norm2, self.norm3 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.drop = nn.Dropout(dropout)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Start with residual paths alone: the layer returns its normalised queries."""
        for branch in (self.multihead_attn.proj, self.linear2):
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)

    def update(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Queries (…, D) after what they attended to, (…, D), and the feed-forward part."""
        # Post-norm, as in the original transformer: the residual sum is normalised.
        queries = self.norm2(queries + self.drop(attended))
        hidden = self.drop(F.relu(self.linear1(queries)))
        out: Tensor = self.norm3(queries + self.drop(self.linear2(hidden)))
        return out


class DecoderLayer(AttentionLayer):
    """A layer whose queries attend to the memory by a softmax."""

    def scores(self, queries: Tensor, memory: Tensor, heads: int) -> Tensor:
        """The layer's attention scores before the softmax, (B, K, N) (`mean_scores`)."""
        # The scores are those of the attention itself, so they need no parameters of their own.
        attn = self.multihead_attn
        return mean_scores(attn.q(queries), attn.k(memory), heads)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, D) from queries (B, K, D) and memory (B, N, D)."""
        return self.update(queries, self.multihead_attn(queries, memory))


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes that the decoders share.

    Attributes:
        num_layers: Layers.
        num_heads: Heads of the attention; a divisor of the width.
        hidden_dim: Width of the feed-forward part.
        dropout: On attention weights and residual branches.
    """

    num_layers: int
    num_heads: int
    hidden_dim: int
    dropout: float

    def layer(self, embed_dim: int) -> DecoderLayer:
        """A new layer of these sizes."""
        return DecoderLayer(embed_dim, self.num_heads, self.hidden_dim, self.dropout)


class MaskDecoder(nn.Module):
    """Decoder layers, then scores of the classes on the patches (ZegCLIP eqs. 6-8).

    The released decoder's last layer is a whole layer of which only the query and key projections
    reach the output; here it is only those.

    Args:
        embed_dim: D.
        sizes: The scoring layer is one of `num_layers`.
        identical: Start all layers from the same values, as the released code does by copying one.
        deep_supervision: Give the earlier layers' scores as well while training.
        scale: "heads" or "width" (`MaskDecoderQuirks`).
    """

    def __init__(
        self,
        embed_dim: int,
        sizes: DecoderSizes,
        *,
        identical: bool = False,
        deep_supervision: bool = False,
        scale: Literal["heads", "width"] = "width",
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.score_heads = sizes.num_heads if scale == "heads" else 1
        # The last of the layers is only its two projections, `q` and `k` below.
        layers = [sizes.layer(embed_dim) for _ in range(sizes.num_layers - 1)]
        self.q, self.k = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim)
        if identical and layers:
            for layer in layers[1:]:
                layer.load_state_dict(layers[0].state_dict())
            self.q.load_state_dict(layers[0].multihead_attn.q.state_dict())
            self.k.load_state_dict(layers[0].multihead_attn.k.state_dict())
        self.layers = nn.ModuleList(layers)

    @torch.no_grad()
    def start_as_product(self) -> None:
        """Start where the scores are products of the queries with the patches.

        For unit vectors they are about their cosines: layers pass queries on, whose norms give them
        the length √D.
        """
        for layer in cast(list[DecoderLayer], self.layers):
            layer.start_as_identity()
        width = self.q.weight.shape[0]
        # `mean_scores` divides by heads·√(D/heads).
        factor = self.score_heads * (width / self.score_heads) ** 0.5 / width**0.5
        start_as_identity(self.q)
        start_as_identity(self.k, factor)

    def forward(self, queries: Tensor, memory: Tensor) -> list[Tensor]:
        """Scores (B, K, N) after each layer, the last one last; the earlier ones only in training.

        Args:
            queries: (B, K, D).
            memory: The patches (B, N, D).
        """
        scores = []
        for layer in cast(list[DecoderLayer], self.layers):
            # At inference only the last scores are read, so the others are not computed.
            if self.training and self.deep_supervision:
                scores.append(layer.scores(queries, memory, self.score_heads))
            queries = layer(queries, memory)
        return [*scores, mean_scores(self.q(queries), self.k(memory), self.score_heads)]
