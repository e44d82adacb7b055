"""Optimal transport between an image's patches and the prompts of a class (Sinkhorn's rounds).

Cuturi 2013, arXiv 1306.0895, with an entropy of strength ε; OTSeg (Kim et al. 2024, arXiv
2403.14183) makes attention and score maps of the plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

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
    """

    epsilon: float = 0.05
    rounds: int = 25
    tolerance: float | None = None

    def plan(self, cosines: Tensor) -> Tensor:
        """Plans (…, N, M) float32, all entries of which sum to 1.

        A prompt's entries sum to 1/N; a patch's to 1/M, but for what is left after the rounds.

        Args:
            cosines: Of prompts and patches, (…, N, M) float32.
        """
        count, size = cosines.shape[-2:]
        # A patch's factor makes up for what all its entries are divided by, so its largest is 1:
        # from ε = 0.05 on the smallest, exp(-2 / ε), is far from what float32 rounds to 0.
        largest = cosines.detach().amax(dim=-2, keepdim=True)  # (…, 1, M)
        kernel = torch.exp((cosines - largest) / self.epsilon)
        of_prompts = torch.ones_like(cosines[..., :1]).transpose(-1, -2)  # (…, 1, N)
        before = torch.zeros_like(cosines[..., :1, :])
        for _ in range(self.rounds):
            of_patches = (1 / size + SMALL) / (of_prompts @ kernel)  # (…, 1, M)
            of_prompts = (1 / count + SMALL) / (of_patches @ kernel.transpose(-1, -2))
            if self.tolerance is not None:
                # u of the paper; its v is ε log of the prompts' factors.
                potentials = self.epsilon * of_patches.detach().log() + 1 - largest
                change, before = (potentials - before).abs().mean(), potentials
                if change < self.tolerance:
                    break
        return of_prompts.transpose(-1, -2) * kernel * of_patches

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
