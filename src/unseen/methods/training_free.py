"""Segmentation by CLIP without training: one override of the attention in the tower's last block.

With Q, K, V the heads' projections in the last block, s = 1/√(head width) and σ the row softmax,
the block's output is built from

=========  ==============================  ================  =====================================
mode       attention                       residual and FFN  source
=========  ==============================  ================  =====================================
clip       σ(s Q Kᵀ)                       yes               Radford et al. 2021, arXiv 2103.00020
maskclip   identity: every token its own V  no               Zhou et al. 2022, arXiv 2112.01071
sclip      σ(s Q Qᵀ) + σ(s K Kᵀ)           yes               Wang et al. 2023, arXiv 2312.01597
clearclip  σ(s Q Qᵀ)                       no                Lan et al. 2024, arXiv 2407.12442
naclip     σ(s K Kᵀ + G), G a Gaussian     no                Hajimiri et al. 2024, arXiv 2404.08181
=========  ==============================  ================  =====================================

`maskclip_no_residual` is maskclip without residual and FFN, as ClearCLIP's ablation has it.

A patch's logit for a class is the cosine of its projected output with the class's text feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP, Resize
from unseen.clip_segmenter import CosineSegmenter, Rim, TowerQuirks
from unseen.errors import SettingError
from unseen.modules.attention import NeighbourAttention, attend, merge_heads, split_heads
from unseen.segmenter import Prediction, TextFeatures

Mode = Literal["clip", "maskclip", "maskclip_no_residual", "sclip", "clearclip", "naclip"]


NEIGHBOURHOOD = 5.0
"""τ of NACLIP's paper, in patches."""


@dataclass(frozen=True)
class TrainingFreeQuirks:
    """What the released SCLIP, NACLIP and ClearCLIP do otherwise.

    Attributes:
        resize: How the position table is resized (`CLIP.positions`): "bicubic" with anti-aliasing,
            or "bicubic_plain" (released).
        rim: What happens where a side is no multiple of the patch: "pad" fills the last patches up;
            "stretch" crops the image to whole patches and stretches the maps over all of it (SCLIP
            and NACLIP).
    """

    resize: Resize = "bicubic"
    rim: Rim = "pad"

    @classmethod
    def released(cls) -> TrainingFreeQuirks:
        """The released values."""
        return cls(resize="bicubic_plain", rim="stretch")


class TrainingFree(CosineSegmenter):
    """CLIP's patches compared with classes, the last block overridden.

    Args:
        clip: The tower.
        mode: Which override.
        templates: Prompts a class name is put in (80 "imagenet" ones in the released codes).
        temperature: Factor on the cosines before the softmax over classes (40 in the released codes
            of SCLIP and NACLIP).
        gaussian_std: τ of naclip's neighbourhood prior, in patches (5 in the paper).
        quirks: What the released codes do otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"templates": "imagenet"}
    Quirks = TrainingFreeQuirks

    def __init__(
        self,
        clip: CLIP,
        *,
        mode: Mode = "naclip",
        templates: Templated = "single",
        temperature: float = 40.0,
        gaussian_std: float = NEIGHBOURHOOD,
        quirks: TrainingFreeQuirks | None = None,
    ) -> None:
        self.quirks = quirks or TrainingFreeQuirks()
        tower = TowerQuirks(resize=self.quirks.resize, rim=self.quirks.rim)
        super().__init__(clip, templates=templates, temperature=temperature, quirks=tower)
        if mode not in get_args(Mode):
            raise SettingError(
                f"there is no training-free mode {mode!r}; choose one of"
                f" {', '.join(get_args(Mode))}"
            )
        if mode != "naclip" and gaussian_std != NEIGHBOURHOOD:
            raise SettingError(
                f"gaussian_std is for naclip's neighbourhood, which {mode} has not; remove it"
            )
        self.mode = mode
        self.neighbour_attention = NeighbourAttention(gaussian_std)

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Cosines (B, K, h, w) of images (B, 3, H, W), RGB in 0..1."""
        images, covered = self.covered(images)
        h, w = self.clip.grid(images)
        # All methods here share every block but the last.
        x = self.clip.blocks(self.embed(images), stop=-1)
        patches = self._last_block(x, (h, w))[:, 1:]
        features = F.normalize(self.clip.finish(patches), dim=-1)  # (B, N, D)
        logits = (features @ text.pooled.T).transpose(1, 2).reshape(images.shape[0], -1, h, w)
        return Prediction(logits, covered)

    def _last_block(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The overridden last block on tokens (B, 1 + N, C)."""
        if self.mode == "clip":
            return self.clip.block(self.clip.num_layers - 1, x)
        block = self.clip.visual.transformer.resblocks[-1]
        if self.mode == "naclip":
            return self.neighbour_attention(block, x, grid)
        q, k, v = split_heads(block.attn, block.ln_1(x))
        y = v
        # SCLIP and ClearCLIP both let queries attend to queries.
        if self.mode in ("sclip", "clearclip"):
            y = attend(q, q, v)
        if self.mode == "sclip":
            y = y + attend(k, k, v)
        y = merge_heads(block.attn, y)
        if self.mode in ("clearclip", "maskclip_no_residual"):
            return y
        # MaskCLIP and SCLIP keep the residual path and the feed-forward part.
        x = x + block.ls_1(y)
        out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
        return out
