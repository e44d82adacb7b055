"""Optimal transport between an image's patches and the prompts of a class (Sinkhorn's rounds).

Cuturi 2013, arXiv 1306.0895, with an entropy of strength ε; OTSeg (Kim et al. 2024, arXiv
2403.14183) makes attention and score maps of the plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unseen.errors import SettingError

SMALL = 1e-8
"""Added to the marginals, as in the released code."""


@dataclass(frozen=True)
class Sinkhorn:
    """Plans between N prompts and M patches whose every prompt and every patch has its equal share.

    Attributes:
        epsilon: ε, strength of the entropy; costs are 1 - cosine, 0 to 2.
        rounds: Of scaling both sides in turn; at most, with a tolerance.
        tolerance: Stop once the patches' potentials change by less than this on average over
            everything that is computed together; None for a fixed number of rounds.

    Raises:
        SettingError: An entropy for which float32 is not enough, or that tells nothing apart; no
            rounds.
    """

    epsilon: float = 0.05
    rounds: int = 25
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be computed with."""
        if self.rounds < 1:
            raise SettingError(f"rounds is {self.rounds}; give at least 1")
        if not 0.05 <= self.epsilon <= 2:
            raise SettingError(f"epsilon is {self.epsilon}; give a number from 0.05 to 2")

    def plan(self, cosines: Tensor) -> Tensor:
        """Plans (…, N, M) float32, all entries of which sum to 1.

        A prompt's entries sum to 1/N; a patch's to 1/M, but for what is left after the rounds.

        Args:
            cosines: Of prompts and patches, (…, N, M) float32.
        """
        # Dividing a patch's entries by their largest changes that patch's factor alone. From
        # ε = 0.05 on the smallest entry, exp(-2 / ε), is far from what float32 rounds to 0.
        largest = cosines.detach().amax(dim=-2, keepdim=True)  # (…, 1, M)
        kernel = torch.exp((cosines - largest) / self.epsilon)
        of_prompts, of_patches = _Factors.apply(kernel, self, largest)
        plan: Tensor = of_prompts.mT * kernel * of_patches
        return plan

    def scaled(self, kernel: Tensor, largest: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Factors of prompts (…, 1, N) and patches (…, 1, M) after every round.

        Args:
            kernel: (…, N, M).
            largest: (…, 1, M), the cosines that the kernel was divided by, as logarithms times ε.
        """
        share, of_prompts = _shares(largest), torch.ones_like(kernel[..., :1]).mT
        share_of_prompts, before = _shares(of_prompts), torch.zeros_like(largest)
        for _ in range(self.rounds):
            of_patches = share / (of_prompts @ kernel)
            of_prompts = share_of_prompts / (of_patches @ kernel.mT)
            yield of_prompts, of_patches
            # What is exported cannot look at values, so it takes all rounds.
            if self.tolerance is None or torch.compiler.is_exporting():
                continue
            # u of the paper; its v is ε log of the prompts' factors.
            potentials = self.epsilon * of_patches.log() + 1 - largest
            change, before = (potentials - before).abs().mean(), potentials
            if change < self.tolerance:
                break

    def __call__(self, prompts: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Plans (B, K, N, M) and the score maps they give, (B, K, M), both float32.

        A map is M·N·Σ_n T_nm cos_nm: N times a mean of the cosines of a patch, in -N..N.

        Args:
            prompts: (B, K, N, D).
            patches: (B, M, D).
        """
        # The exponential of a cosine over ε makes the rounding of bf16 a matter of percents.
        with torch.autocast(patches.device.type, enabled=False):
            a, b = (F.normalize(x.float(), dim=-1) for x in (prompts, patches))
            cosines = (a.flatten(1, 2) @ b.transpose(1, 2)).reshape(*prompts.shape[:3], -1)
            plan = self.plan(cosines)
            count, size = cosines.shape[-2:]
            return plan, size * count * (plan * cosines).sum(dim=-2)


def _shares(each: Tensor) -> Tensor:
    """The equal share of every entry of the last dimension, as a tensor of one entry a row.

    As tensor operations, so that an exported model takes images of any size.
    """
    return 1 / torch.ones_like(each).sum(dim=-1, keepdim=True) + SMALL


class _Factors(torch.autograd.Function):
    """The factors after the last round; their gradient goes back through all rounds.

    Plain operations would add an array of the kernel's size to its gradient twice a round. Each is
    the product of a column and a row, so all of them are added up by one product of matrices.
    """

    @staticmethod
    def forward(
        ctx: Any, kernel: Tensor, sinkhorn: Sinkhorn, largest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Factors of prompts (…, 1, N) and patches (…, 1, M)."""
        if not ctx.needs_input_grad[0]:
            for last in sinkhorn.scaled(kernel, largest):
                factors = last
            return factors
        prompts, patches = zip(*sinkhorn.scaled(kernel, largest), strict=True)
        ctx.save_for_backward(kernel, torch.cat(prompts, dim=-2), torch.cat(patches, dim=-2))
        return prompts[-1], patches[-1]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_prompts: Tensor, of_patches: Tensor
    ) -> tuple[Tensor | None, None, None]:
        """The gradient of the kernel from those of the factors."""
        kernel, prompts, patches = ctx.saved_tensors  # (…, N, M), (…, rounds, N), (…, rounds, M)
        share_of_prompts, share = _shares(of_prompts), _shares(of_patches)
        columns, rows = [], []
        for number in reversed(range(prompts.shape[-2])):
            own, other = (x[..., number : number + 1, :] for x in (prompts, patches))
            # A factor is a share over a sum: its slope by the sum is -factor² / share.
            slope = of_prompts * own.square() / -share_of_prompts
            columns.append(slope)
            rows.append(other)
            of_patches = of_patches + slope @ kernel
            slope = of_patches * other.square() / -share
            before = prompts[..., number - 1 : number, :] if number else torch.ones_like(own)
            columns.append(before)
            rows.append(slope)
            of_prompts = slope @ kernel.mT
            of_patches = torch.zeros_like(of_patches)
        return torch.cat(columns, dim=-2).mT @ torch.cat(rows, dim=-2), None, None
