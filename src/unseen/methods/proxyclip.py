"""ProxyCLIP: CLIP's values, averaged over the patches that look alike to another network.

Lan et al., "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation", ECCV 2024,
arXiv 2408.04883. Nothing is trained. In the last block of CLIP's image tower the attention is
replaced by the cosines of a second frozen network's patches (DINO by default), of which those below
a threshold do not count; residual and feed-forward are left out. The maps have the second network's
grid.

The released code differs from sound practice in a few places, collected in `ProxyCLIPQuirks`; the
defaults are what we found right. `docs/methods/proxyclip.md` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP, Resize
from unseen.backbones.patches import patch_features
from unseen.clip_segmenter import CosineSegmenter, TowerQuirks
from unseen.errors import SettingError
from unseen.modules.proxy import proxy_attention
from unseen.modules.resize import bilinear, whole_patches
from unseen.segmenter import Prediction, TextFeatures, Tower

RELEASED_MULTIPLE = 56
"""Pixels to whose multiples the released code pads: the least common one of patches of 8 and 14."""


@dataclass(frozen=True)
class ProxyCLIPQuirks:
    """What the released code does otherwise.

    Attributes:
        resize: How the position table is resized (`CLIP.positions`): "bicubic" with anti-aliasing,
            or "bicubic_plain" (released).
        mean_over: Whether the threshold follows the mean cosine of each "image", or of the whole
            "batch" (released).
        padding: Where images are padded to whole patches: at the bottom and right ("corner"), each
            network with its own mean colour; or on all sides to multiples of 56 ("all_sides",
            released), with CLIP's mean, and what is left of the patches of 16 is stretched over.
    """

    resize: Resize = "bicubic"
    mean_over: Literal["image", "batch"] = "image"
    padding: Literal["corner", "all_sides"] = "corner"

    @classmethod
    def released(cls) -> ProxyCLIPQuirks:
        """The released values."""
        return cls(resize="bicubic_plain", mean_over="batch", padding="all_sides")


class ProxyCLIP(CosineSegmenter):
    """ProxyCLIP.

    Args:
        clip: The tower.
        proxy: The second network: `timm:NAME` of a vision transformer (DINO, DINOv2, DINOv3, SAM,
            MAE), `timm:NAME@FILE` with weights from a file, or another CLIP. The weights of timm's
            come with `initialise`.
        beta: β; patches count whose cosine is at least β times the mean one.
        gamma: γ, inverse temperature of the attention.
        templates: Prompts a class name is put in (80 "imagenet" ones in the released code).
        temperature: Factor on the cosines before the softmax over classes.
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"templates": "imagenet"}
    Quirks = ProxyCLIPQuirks
    TINY: ClassVar[dict[str, Any]] = {"proxy": "timm:test_vit@random"}

    def __init__(
        self,
        clip: CLIP,
        *,
        proxy: str = "timm:vit_base_patch8_224.dino",
        beta: float = 1.2,
        gamma: float = 3.0,
        templates: Templated = "single",
        temperature: float = 40.0,
        quirks: ProxyCLIPQuirks | None = None,
    ) -> None:
        self.quirks = quirks or ProxyCLIPQuirks()
        tower = TowerQuirks(resize=self.quirks.resize)
        super().__init__(clip, templates=templates, temperature=temperature, quirks=tower)
        try:
            self.proxy = patch_features(proxy)
        except SettingError as error:
            raise SettingError(f"proxy is {proxy!r}: {error}") from error
        self.beta, self.gamma = beta, gamma

    @property
    def towers(self) -> dict[str, Tower]:
        """The CLIP and the second network."""
        return {**super().towers, "proxy": Tower(self.proxy, self.proxy.source)}

    def initialise(self) -> None:
        """Load the second network's weights."""
        self.proxy.load()

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Cosines (B, K, h, w) of images (B, 3, H, W), RGB in 0..1, on the second network's grid.

        Where images are padded on all sides, on their pixels.
        """
        size = (images.shape[-2], images.shape[-1])
        if self.quirks.padding == "corner":
            covered = self.clip.padded_size(images)
            return Prediction(self._cosines(images, images, covered, text), covered)
        images, (top, left) = self._padded(images)
        covered = (images.shape[-2], images.shape[-1])
        maps = self._cosines(whole_patches(images, self.clip.patch_size), images, covered, text)
        if covered == size:
            return Prediction(maps, covered)
        maps = bilinear(maps, covered)
        return Prediction(maps[..., top : top + size[0], left : left + size[1]], size)

    def _padded(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images padded as released, and the rows and columns of padding before them."""
        height, width = (-side % RELEASED_MULTIPLE for side in images.shape[-2:])
        top, left = height // 2, width // 2
        mean = self.clip.mean
        padded = F.pad(images - mean, (left, width - left, top, height - top)) + mean
        return padded, (top, left)

    def _cosines(
        self, images: Tensor, for_proxy: Tensor, covered: tuple[int, int], text: TextFeatures
    ) -> Tensor:
        """Cosines (B, K, h, w) of patches of the second network with classes.

        Args:
            images: (B, 3, H, W) for CLIP.
            for_proxy: The same, or with a rim, for the second network.
            covered: Height and width in pixels that the second network's features stretch over.
            text: K classes.
        """
        h, w = self.clip.grid(images)
        x = self.clip.blocks(self.embed(images), stop=-1)[:, 1:]  # (B, h·w, C)
        block = self.clip.visual.transformer.resblocks[-1]
        # The rows of the joint projection are those of queries, keys and values, in this order.
        weight, bias = (
            tensor.chunk(3)[2] for tensor in (block.attn.in_proj_weight, block.attn.in_proj_bias)
        )
        values = F.linear(block.ln_1(x), weight, bias)
        features = self.proxy(for_proxy, covered)  # (B, F, h', w')
        grid = (features.shape[-2], features.shape[-1])
        # Heads need not be told apart: they share the attention, and channels are resized alone.
        values = values.transpose(1, 2).reshape(images.shape[0], -1, h, w)
        if grid != (h, w):
            values = bilinear(values, grid)
        y = proxy_attention(
            features.flatten(2).transpose(1, 2),
            values.flatten(2).transpose(1, 2),
            beta=self.beta,
            gamma=self.gamma,
            mean_over=self.quirks.mean_over,
        )
        patches = F.normalize(self.clip.finish(block.attn.out_proj(y)), dim=-1)  # (B, h'·w', D)
        return (patches @ text.pooled.T).transpose(1, 2).reshape(images.shape[0], -1, *grid)
