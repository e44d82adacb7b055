"""Residual attention blocks as in CLIP's towers: run one, or make a new one."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from unseen.modules.attention import self_attention


def make_block(width: int, num_heads: int) -> nn.Module:
    """A new block like those of OpenAI's towers: pre-norm, four times as wide inside, QuickGELU."""
    block: nn.Module = ResidualAttentionBlock(width, num_heads, act_layer=QuickGELU)
    return block


def run_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual block on tokens (B, T, C); `mask` as in `self_attention`."""
    # Walked by parts, so that masks may broadcast over images and heads; `ls_1` and `ls_2` (layer
    # scale) are identities in OpenAI's towers.
    x = x + block.ls_1(self_attention(block.attn, block.ln_1(x), mask))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out
