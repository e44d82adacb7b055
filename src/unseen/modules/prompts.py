"""Visual prompts: learned tokens between class token and patches of a frozen tower (Jia et al.
2022, arXiv 2203.12119, eqs. 4-8).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unseen.errors import SettingError


def make_prompts(
    num_prompts: int,
    width: int,
    patch_size: int,
    num_layers: int,
    *,
    depth: int | None,
    dropout: float,
    norm: bool | None,
) -> tuple[VisualPrompts, nn.Module]:
    """Prompts for a tower, and the trainable norm before its final one.

    Args:
        num_prompts: P.
        width: C of the tower.
        patch_size: Of the tower.
        num_layers: Its blocks.
        depth: Blocks with prompts of their own; all if None.
        dropout: On the projected prompts.
        norm: Whether there is a norm; for deep prompts only if None (released).

    Raises:
        SettingError: More blocks than the tower has, or none.
    """
    chosen = num_layers if depth is None else depth
    if not 1 <= chosen <= num_layers:
        raise SettingError(
            f"prompt_depth is {chosen}, but the tower has {num_layers} blocks; give 1 to"
            f" {num_layers}"
        )
    with_norm = chosen > 1 if norm is None else norm
    return VisualPrompts(num_prompts, width, patch_size, chosen, dropout), (
        nn.LayerNorm(width, eps=1e-6) if with_norm else nn.Identity()
    )


class VisualPrompts(nn.Module):
    """P prompts for each of the first `depth` blocks.

    Args:
        num_prompts: P, tokens a block.
        width: C of the tower.
        patch_size: Side of a patch; sets the range of the first values (VPT's rule).
        depth: Blocks that receive prompts of their own. 1 is the shallow variant: the first block's
            prompts stay to the end.
        dropout: On the projected prompts, drawn for each image.
    """

    def __init__(
        self, num_prompts: int, width: int, patch_size: int, depth: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.num_prompts, self.depth = num_prompts, depth
        bound = math.sqrt(6 / (3 * patch_size**2 + width))
        self.prompt_embeddings = nn.Parameter(
            torch.empty(1, num_prompts, width).uniform_(-bound, bound)
        )
        self.deep_prompt_embeddings = (
            nn.Parameter(torch.empty(depth - 1, num_prompts, width).uniform_(-bound, bound))
            if depth > 1
            else None
        )
        self.prompt_proj = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.prompt_proj.weight, a=0, mode="fan_out")
        self.dropout = nn.Dropout(dropout)

    def _prompts(self, layer: int, batch: int) -> Tensor:
        if layer == 0:
            table = self.prompt_embeddings[0]
        else:
            assert self.deep_prompt_embeddings is not None
            table = self.deep_prompt_embeddings[layer - 1]
        out: Tensor = self.dropout(self.prompt_proj(table).expand(batch, -1, -1))
        return out

    def through(self, block: Callable[[int, Tensor], Tensor], num_layers: int, x: Tensor) -> Tensor:
        """Tokens (B, T, C), class token first, through all blocks of a tower, prompts beside them;
        the prompts are gone from the result.

        Args:
            block: Computes one block: (number, tokens) to tokens.
            num_layers: Blocks.
            x: What enters the first block without prompts.
        """
        others = x.shape[1] - 1
        x = self.enter(x)  # (B, 1 + P + T - 1, C)
        for layer in range(num_layers):
            x = block(layer, self.renew(layer, x) if layer else x)
        return torch.cat([x[:, :1], x[:, -others:]], dim=1)

    def enter(self, x: Tensor) -> Tensor:
        """Tokens (B, 1 + N, C) that enter the first block, with its prompts: (B, 1 + P + N, C)."""
        return torch.cat([x[:, :1], self._prompts(0, len(x)), x[:, 1:]], dim=1)

    def renew(self, layer: int, x: Tensor) -> Tensor:
        """Tokens on their way into block `layer` > 0: its own prompts replace the last ones; after
        the last prompted block they leave.
        """
        if self.depth == 1 or layer > self.depth:
            return x
        patches = x[:, 1 + self.num_prompts :]
        if layer == self.depth:
            return torch.cat([x[:, :1], patches], dim=1)
        return torch.cat([x[:, :1], self._prompts(layer, len(x)), patches], dim=1)
