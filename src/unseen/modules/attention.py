"""Decoders in which words ask and patches answer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from unseen.errors import SettingError


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


class CrossAttention(nn.Module):
    """Multi-head attention from queries to a memory; separate projections, as the released
    checkpoints store them.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.k = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim)
        self.v, self.proj = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, D) from queries (B, K, D) and memory (B, N, D)."""
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(queries), self.k(memory), self.v(memory))
        )
        y = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return out


def mean_scores(q: Tensor, k: Tensor, num_heads: int) -> Tensor:
    """The mean over heads of scaled scores before the softmax, (B, K, N), of projected q (B, K, D)
    and k (B, N, D).

    The mean of the heads' dot products is one dot product over all channels: (1/heads) Σ_h q_h·k_h
    / √(D/heads) = q·k / (heads·√(D/heads)). One head gives q·k / √D.
    """
    scale = 1 / (num_heads * (q.shape[-1] / num_heads) ** 0.5)
    scores: Tensor = scale * (q @ k.transpose(1, 2))
    return scores


class DecoderLayer(nn.Module):
    """Cross-attention and feed-forward, post-norm; no self-attention."""

    def __init__(
        self, embed_dim: int, num_heads: int, hidden_dim: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.multihead_attn = CrossAttention(embed_dim, num_heads, dropout)
        self.linear1, self.linear2 = (
            nn.Linear(embed_dim, hidden_dim),
            nn.Linear(hidden_dim, embed_dim),
        )
        self.norm2, self.norm3 = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.drop = nn.Dropout(dropout)

    def scores(self, queries: Tensor, memory: Tensor, heads: int) -> Tensor:
        """What the layer thinks before the softmax, (B, K, N), scaled as the mean over so many
        heads (`mean_scores`).
        """
        attn = self.multihead_attn
        return mean_scores(attn.q(queries), attn.k(memory), heads)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, D) from queries (B, K, D) and memory (B, N, D)."""
        queries = self.norm2(queries + self.drop(self.multihead_attn(queries, memory)))
        out: Tensor = self.norm3(
            queries + self.drop(self.linear2(self.drop(F.relu(self.linear1(queries)))))
        )
        return out
