"""Attention: with CLIP's weights, near by only, and from queries of classes to patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention of heads (B, heads, T, C / heads), in autocast's dtype.

    Args:
        q: Queries; they may be fewer or more than keys.
        k: Keys.
        v: Values.
        mask: As in `self_attention`.
        scale: Factor of the scores, one over the root of their channels by default.
    """
    # On CPUs torch's fused kernel computes in bf16 as slowly as in float32
    # (`benchmarks/attention.py`). What masks of several dimensions need is left to it.
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (q, k, v))
    shared = mask is None or (mask.ndim == 2 and not mask.requires_grad)
    if not (q.device.type == "cpu" and q.dtype == torch.bfloat16 and shared):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    elif mask is not None:
        mask = mask.to(q)
    heads = [x.flatten(0, 1) for x in (q, k, v)]
    with torch.autocast("cpu", enabled=False):
        out = _AttentionByProducts.apply(
            *heads, mask, q.shape[-1] ** -0.5 if scale is None else scale
        )
    return out.view(*q.shape[:3], v.shape[-1])  # type: ignore[no-any-return]


class _AttentionByProducts(torch.autograd.Function):
    """Attention as two matrix products, some heads at a time; its gradients compute them again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Results (n, T, C) of n heads' queries, keys and values; `mask` (T, T) is added."""
        out = torch.empty_like(q)
        for part in _parts(q, k):
            torch.bmm(_probabilities(q[part], k[part], mask, scale), v[part], out=out[part])
        ctx.save_for_backward(q, k, v, mask, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v."""
        q, k, v, mask, out = ctx.saved_tensors
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # A softmax p of scores s has ds = p ⊙ (dp - Σ p dp), and Σ p dp = Σ out ⊙ grad.
        common = (grad * out).sum(dim=-1, keepdim=True)
        for part in _parts(q, k):
            p = _probabilities(q[part], k[part], mask, ctx.scale)
            dq, dk, dv = (x[part] for x in grads)
            torch.bmm(p.transpose(1, 2), grad[part], out=dv)
            ds = torch.baddbmm(common[part], grad[part], v[part].transpose(1, 2), beta=-1).mul_(p)
            torch.baddbmm(dq, ds, k[part], beta=0, alpha=ctx.scale, out=dq)
            torch.baddbmm(dk, ds.transpose(1, 2), q[part], beta=0, alpha=ctx.scale, out=dk)
        return *grads, None, None


def _parts(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Heads whose scores are held at once."""
    count = max(1, AT_ONCE // (q.shape[1] * k.shape[1]))
    return (slice(start, start + count) for start in range(0, len(q), count))


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The softmax (n, T, T) of the scores of n heads."""
    added = q.new_zeros(()) if mask is None else mask
    return torch.baddbmm(added, q, k.transpose(1, 2), alpha=scale).softmax(dim=-1)


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
        return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))
