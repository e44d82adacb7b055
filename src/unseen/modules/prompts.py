"""Visual prompts: learned tokens between class token and patches of a frozen tower.

Jia et al. 2022, "Visual prompt tuning", arXiv 2203.12119, eqs. 4-8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from unseen.errors import SettingError


class TowerSizes(Protocol):
    """What prompts need of a tower: C, the side of a patch in pixels, the number of blocks."""

    width: int
    patch_size: int
    num_layers: int


@dataclass(frozen=True)
class PromptSizes:
    """How many prompts there are, and where.

    Attributes:
        count: P, prompts a block.
        depth: Blocks with prompts of their own; all if None.
        norm: Whether there is a trainable norm; for deep prompts only if None (released).
        dropout: On the projected prompts.
    """

    count: int
    depth: int | None
    norm: bool | None
    dropout: float


def make_prompts(tower: TowerSizes, sizes: PromptSizes) -> tuple[VisualPrompts, nn.Module]:
    """Prompts for a tower, and the trainable norm before its final one.

    Raises:
        SettingError: More blocks than the tower has, or none.
    """
    depth = tower.num_layers if sizes.depth is None else sizes.depth
    if not 1 <= depth <= tower.num_layers:
        raise SettingError(
            f"prompt_depth is {depth}, but the tower has {tower.num_layers} blocks; give 1 to"
            f" {tower.num_layers}"
        )
    prompts = VisualPrompts(sizes.count, tower.width, tower.patch_size, depth, sizes.dropout)
    norm = depth > 1 if sizes.norm is None else sizes.norm
    return prompts, nn.LayerNorm(tower.width, eps=1e-6) if norm else nn.Identity()


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
        # Xavier's bound for a layer from the 3·p² values of a patch to C channels.
        bound = math.sqrt(6 / (3 * patch_size**2 + width))
        first = torch.empty(1, num_prompts, width).uniform_(-bound, bound)
        self.prompt_embeddings = nn.Parameter(first)
        self.deep_prompt_embeddings: nn.Parameter | None = None
        if depth > 1:
            deep = torch.empty(depth - 1, num_prompts, width).uniform_(-bound, bound)
            self.deep_prompt_embeddings = nn.Parameter(deep)
        self.prompt_proj = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.prompt_proj.weight, a=0, mode="fan_out")
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Start with prompts that are 0 in every block."""
        nn.init.zeros_(self.prompt_proj.weight)
        nn.init.zeros_(self.prompt_proj.bias)

    def _prompts(self, layer: int, batch: int) -> Tensor:
        """The projected prompts (B, P, C) of a block."""
        if layer == 0:
            table = self.prompt_embeddings[0]
        else:
            assert self.deep_prompt_embeddings is not None
            table = self.deep_prompt_embeddings[layer - 1]
        out: Tensor = self.dropout(self.prompt_proj(table).expand(batch, -1, -1))
        return out

    def forward_blocks(
        self, block: Callable[[int, Tensor], Tensor], num_layers: int, x: Tensor
    ) -> Tensor:
        """Tokens after all blocks of a tower, prompts beside them, without the prompts.

        Args:
            block: Computes one block: (number, tokens) to tokens.
            num_layers: Blocks.
            x: Tokens (B, T, C) that enter the first block, class token first.
        """
        return self.forward_layers(block, x, [num_layers - 1])[0]

    def forward_layers(
        self, block: Callable[[int, Tensor], Tensor], x: Tensor, indices: Sequence[int]
    ) -> list[Tensor]:
        """Tokens (B, T, C) after any set of blocks, without the prompts, in the order of `indices`.

        Args:
            block: Computes one block: (number, tokens) to tokens.
            x: Tokens (B, T, C) that enter the first block, class token first.
            indices: Blocks, from 0.
        """
        # Prompts stand between the class token and the rest, so they are cut out by counting from
        # the end.
        others = x.shape[1] - 1
        x = self.insert_prompts(x)  # (B, 1 + P + T - 1, C)
        after = {}
        for layer in range(max(indices) + 1):
            # The first block's prompts have just been inserted.
            if layer:
                x = self.replace_prompts(layer, x)
            x = block(layer, x)
            if layer in indices:
                after[layer] = torch.cat([x[:, :1], x[:, -others:]], dim=1)
        return [after[index] for index in indices]

    def insert_prompts(self, x: Tensor) -> Tensor:
        """Tokens (B, 1 + N, C) for the first block, with its prompts: (B, 1 + P + N, C)."""
        return torch.cat([x[:, :1], self._prompts(0, x.shape[0]), x[:, 1:]], dim=1)

    def replace_prompts(self, layer: int, x: Tensor) -> Tensor:
        """Tokens that enter block `layer` > 0: its own prompts replace those of the block before.

        After the last block with prompts of its own they leave.
        """
        # Shallow prompts stay to the end; deep ones have left after the last block that has its
        # own.
        if self.depth == 1 or layer > self.depth:
            return x
        patches = x[:, 1 + self.num_prompts :]
        if layer == self.depth:
            return torch.cat([x[:, :1], patches], dim=1)
        return torch.cat([x[:, :1], self._prompts(layer, x.shape[0]), patches], dim=1)
