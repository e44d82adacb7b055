"""Attention: with CLIP's weights, near by only, and from queries of classes to patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.modules.cache import TableCache

FEW = 256
"""On CPUs a training step of attention among fewer tokens takes up to three times as long in bf16
as in float32 (`benchmarks/attention.py`)."""


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


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of heads (B, heads, T, C / heads), in the dtype of `q`."""
    few = q.shape[-2] < FEW and k.shape[-2] < FEW
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and few:
        with torch.autocast("cpu", enabled=False):
            mask = mask.float() if mask is not None and mask.is_floating_point() else mask
            y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
        return y.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


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
        return merge_heads(block.attn, F.scaled_dot_product_attention(k, k, v, attn_mask=bias))

    def bias(self, grid: tuple[int, int]) -> Tensor:
        """exp(-‖pᵢ - pⱼ‖² / 2 std²) of patch positions, (1 + N, 1 + N); 0 for the class token."""
        rows, columns = (
            torch.exp(-((torch.arange(n)[:, None] - torch.arange(n)) ** 2) / (2 * self.std**2))
            for n in grid
        )
        # The Gaussian of a distance is the product of those of its two components.
        return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))
