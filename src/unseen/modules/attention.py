"""Attention: with CLIP's weights, near by only, and from queries of classes to patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unseen.modules.cache import TableCache

AT_ONCE = 2**20
"""Attention scores that are held at once on CPUs: about what fits into the cache of a core."""


def split_heads(attn: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, T, C / heads) of tokens (B, T, C)."""
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)  # (B, T, 3C)
    q, k, v = qkv.view(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return q, k, v


def merge_heads(attn: nn.MultiheadAttention, y: Tensor) -> Tensor:
    """The output projection of per-head results (B, heads, T, C / heads), as tokens (B, T, C)."""
    out: Tensor = attn.out_proj(y.transpose(1, 2).flatten(2))
    return out


def self_attention(attn: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Self-attention with the weights of `attn`.

    Args:
        attn: The weights; q, k and v stacked in `in_proj_weight`.
        x: Tokens (B, T, C).
        mask: Broadcastable to (B, heads, T, T): bool, True where attention is allowed, or float,
            added to the scores.
    """
    q, k, v = split_heads(attn, x)
    return merge_heads(attn, attend(q, k, v, mask))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention of heads (B, heads, T, C / heads), in autocast's dtype.

    Args:
        q: Queries; they may be fewer or more than keys.
        k: Keys.
        v: Values.
        mask: As in `self_attention`.
        scale: Factor of the scores, one over the root of their channels by default.
        dropout: Probability with which a weight of the attention becomes 0.
    """
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (q, k, v))
    # On CPUs torch's fused kernel computes in bf16 as slowly as in float32, and it has no dropout
    # (`benchmarks/attention.py`). What masks of several dimensions need is left to it.
    shared = mask is None or (mask.ndim == 2 and not mask.requires_grad)
    if not (q.device.type == "cpu" and q.dtype == torch.bfloat16 and shared):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    elif mask is not None:
        mask = mask.to(q)
    heads = [x.flatten(0, 1) for x in (q, k, v)]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _AttentionByProducts.apply(*heads, _Weights(mask, scale, dropout))
    return out.view(*q.shape[:3], v.shape[-1])


class _Weights(NamedTuple):
    """How weights are made of products: `mask` (T, T) is added to them, scaled."""

    mask: Tensor | None
    scale: float
    dropout: float

    def before_dropout(self, q: Tensor, k: Tensor) -> Tensor:
        """The softmax (n, T, T) of n heads' queries and keys."""
        added = q.new_zeros(()) if self.mask is None else self.mask
        return torch.baddbmm(added, q, k.transpose(1, 2), alpha=self.scale).softmax(dim=-1)


class _AttentionByProducts(torch.autograd.Function):
    """Attention as two matrix products, some heads at a time; its gradients compute them again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, weights: _Weights) -> Tensor:
        """Results (n, T, C) of n heads' queries, keys and values."""
        out, kept = torch.empty_like(q), None
        if weights.dropout > 0:
            kept = q.new_empty(len(q), q.shape[1], k.shape[1], dtype=torch.bool)
        for part in _parts(q, k):
            p = weights.before_dropout(q[part], k[part])
            if kept is not None:
                torch.ge(torch.rand(p.shape), weights.dropout, out=kept[part])
                p.mul_(kept[part])
            torch.bmm(p, v[part], out=out[part])
        out.div_(1 - weights.dropout)
        ctx.save_for_backward(q, k, v, kept, out)
        ctx.weights = weights
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v."""
        q, k, v, kept, out = ctx.saved_tensors
        weights: _Weights = ctx.weights
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # A softmax p of scores s has ds = p ⊙ (dp - Σ p dp), and Σ p dp = Σ out ⊙ grad.
        common, grad = (grad * out).sum(dim=-1, keepdim=True), grad / (1 - weights.dropout)
        for part in _parts(q, k):
            p = weights.before_dropout(q[part], k[part])
            ds = grad[part] @ v[part].transpose(1, 2)
            dropped = p
            if kept is not None:
                ds.mul_(kept[part])
                dropped = p * kept[part]
            ds.sub_(common[part]).mul_(p)
            dq, dk, dv = (x[part] for x in grads)
            torch.baddbmm(dq, ds, k[part], beta=0, alpha=weights.scale, out=dq)
            torch.baddbmm(dk, ds.transpose(1, 2), q[part], beta=0, alpha=weights.scale, out=dk)
            torch.bmm(dropped.transpose(1, 2), grad[part], out=dv)
        return *grads, None


def _parts(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Heads whose scores are held at once."""
    count = max(1, AT_ONCE // (q.shape[1] * k.shape[1]))
    return (slice(start, start + count) for start in range(0, len(q), count))


class NeighbourAttention:
    """A ViT's last block with key-key attention that prefers near patches.

    A Gaussian of the distance is added to the scores; residual and feed-forward are left out, so
    that a patch's output is made of the values of near patches with similar keys (NACLIP, Hajimiri
    et al. 2024, arXiv 2404.08181, eq. 5).

    Args:
        std: Of the Gaussian, in patches.
    """

    def __init__(self, std: float = 5.0) -> None:
        self.std = std
        self._bias = TableCache()

    def __call__(self, block: Any, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The block's output (B, 1 + N, C).

        Args:
            block: The last residual block.
            x: The tokens (B, 1 + N, C) that enter it, class token first.
            grid: h and w; N = h·w.
        """
        _, k, v = split_heads(block.attn, block.ln_1(x))
        bias = self._bias.get((grid, x.device, x.dtype), lambda: self.bias(grid).to(x))
        return merge_heads(block.attn, attend(k, k, v, bias))

    def bias(self, grid: tuple[int, int]) -> Tensor:
        """exp(-‖pᵢ - pⱼ‖² / 2 std²) of patch positions, (1 + N, 1 + N); 0 for the class token."""
        rows, columns = (
            torch.exp(-((torch.arange(n)[:, None] - torch.arange(n)) ** 2) / (2 * self.std**2))
            for n in grid
        )
        # The Gaussian of a distance is the product of those of its two components.
        both = rows[:, None, :, None] * columns[:, None, :]  # (h, w, h, w)
        return F.pad(both.flatten(2).flatten(0, 1), (1, 0, 1, 0))
