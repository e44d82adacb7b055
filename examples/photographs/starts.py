"""ZegCLIP with an aligned start of which one part is random, or whose first logits lie elsewhere.

Not a method of the package: `choices.py` measures what matters of the start.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from unseen.backbones.clip.tower import CLIP
from unseen.methods import OWN, Method
from unseen.methods.zegclip import ZegCLIP
from unseen.modules.starts import PRIOR, SPREAD
from unseen.prompted_segmenter import PromptedOptions
from unseen.segmenter import TextFeatures


class PartlyAligned(ZegCLIP):
    """ZegCLIP, its start in parts.

    Args:
        clip: The frozen tower.
        options: Those that the methods with visual prompts share.
        random: The part that starts at random: "descriptor", "decoder" or "prompts"; empty for
            none.
        spread: Standard deviation of the first logits.
        prior: Their mean.
    """

    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3}

    def __init__(
        self,
        clip: CLIP,
        options: PromptedOptions | None = None,
        *,
        random: str = "",
        spread: float = SPREAD,
        prior: float = PRIOR,
    ) -> None:
        options = options or PromptedOptions()
        super().__init__(clip, replace(options, start="released"))
        part = self.get_submodule(random) if random else None
        first = {name: tensor.clone() for name, tensor in part.state_dict().items()} if part else {}
        self.set_start("aligned")
        if part:
            part.load_state_dict(first)
        self.spread, self.prior = spread, prior

    @classmethod
    def register(cls) -> None:
        """Put it into the table of methods."""
        OWN["partly_aligned"] = Method(f"{cls.__module__}:{cls.__name__}", "ZegCLIP's start")

    @torch.no_grad()
    def start_from(self, images: Tensor, text: TextFeatures) -> None:
        """Move spread and mean of the first logits from the usual ones."""
        super().start_from(images, text)
        assert self.logit_bias is not None
        factor = self.spread / SPREAD
        self.scale_logits(factor)
        self.logit_bias.fill_(self.prior + factor * (float(self.logit_bias) - PRIOR))
