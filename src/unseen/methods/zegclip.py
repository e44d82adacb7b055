"""ZegCLIP: one-stage zero-shot segmentation on a frozen CLIP.

Zhou et al., CVPR 2023, arXiv 2212.03588. Visual prompts adapt the frozen image tower. The query of
class c in image b is the *relationship descriptor* [g ⊙ t_c ; t_c]: the image's class token g meets
the text feature t_c, so that a class that was never trained on has a query of a known kind. A small
decoder lets queries attend to patches; its last attention scores, before the softmax, are the
logits.

The released code differs from the paper and from sound practice in a few places, collected in
`ZegCLIPQuirks`; the defaults are what we found right. `docs/methods/zegclip.md` lists them with
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import RELEASED_TOWER
from unseen.modules.decoders import DecoderSizes, MaskDecoder, check_heads, start_as_identity
from unseen.modules.losses import FocalOver, MaskLoss
from unseen.modules.prompts import PromptSizes
from unseen.modules.queries import RelationshipDescriptor
from unseen.modules.starts import Start
from unseen.prompted_segmenter import PromptedQuirks, PromptedSegmenter
from unseen.released import LIKE_ZEGCLIP
from unseen.segmenter import AuxiliaryMap, Prediction, TextFeatures


@dataclass(frozen=True)
class ZegCLIPQuirks(PromptedQuirks):
    """What the released code does otherwise.

    Attributes:
        scale: Of the dot products that are the logits: "width", 1/√D; or "heads", the mean over the
            heads' scaled products, 1/(heads·√(D/heads)) (paper eq. 8, released).
    """

    scale: Literal["heads", "width"] = "width"

    @classmethod
    def released(cls) -> ZegCLIPQuirks:
        """The released values."""
        return cls(
            **RELEASED_TOWER,
            train_grid=(32, 32),
            ignored_as="negative",
            identical_layers=True,
            scale="heads",
        )


class ZegCLIP(PromptedSegmenter):
    """ZegCLIP.

    Args:
        clip: The frozen tower.
        num_prompts: P, visual prompts a block (10 on VOC, 100 on COCO-Stuff).
        prompt_depth: Blocks with prompts of their own; all by default, 1 for shallow prompts.
        prompt_norm: A trainable norm before the tower's final one; for deep prompts only by
            default, as released.
        decoder_layers: Layers of the decoder, the scoring one included.
        decoder_heads: Its heads.
        hidden_dim: Width of its feed-forward part; 4 D by default.
        dropout: In decoder and prompts.
        mask_weight: Weight of the focal loss (100 in the released configuration, 20 in its class
            default).
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of positives in the focal loss.
        focal_over: What the focal loss is averaged over where pixels are ignored: "labelled"
            pixels, or "all".
        deep_supervision: Losses on every decoder layer's scores, as the released loss class
            prepares but never does.
        calibration: γ, subtracted from the probabilities of seen classes when not all classes were
            trained on (released: 0.1).
        start: Where training starts: "aligned", at the comparison of patches with classes that
            needs no training; or "released", at random.
        templates: Prompts a class name is put in ("single" on VOC, "multi" on COCO-Stuff and
            Context).
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"start": "released", "calibration": 0.1}
    Quirks = ZegCLIPQuirks
    RELEASED = LIKE_ZEGCLIP
    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3, "decoder_heads": 2}

    def __init__(
        self,
        clip: CLIP,
        *,
        num_prompts: int = 10,
        prompt_depth: int | None = None,
        prompt_norm: bool | None = None,
        decoder_layers: int = 3,
        decoder_heads: int = 8,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        mask_weight: float = 100.0,
        dice_weight: float = 1.0,
        focal_alpha: float = 0.25,
        focal_over: FocalOver = "all",
        deep_supervision: bool = False,
        calibration: float = 0.0,
        start: Start = "aligned",
        templates: Templated = "single",
        quirks: ZegCLIPQuirks | None = None,
    ) -> None:
        quirks = quirks or ZegCLIPQuirks()
        check_heads(decoder_heads, clip.embed_dim)
        super().__init__(
            clip,
            PromptSizes(num_prompts, prompt_depth, prompt_norm, dropout),
            MaskLoss(mask_weight, dice_weight, focal_alpha, quirks.ignored_as, focal_over),
            calibration=calibration,
            templates=templates,
            quirks=quirks,
        )
        self.descriptor = RelationshipDescriptor(clip.embed_dim)
        # The usual ratio of a transformer's feed-forward part.
        hidden_dim = hidden_dim or 4 * clip.embed_dim
        self.decoder = MaskDecoder(
            clip.embed_dim,
            DecoderSizes(decoder_layers, decoder_heads, hidden_dim, dropout),
            identical=quirks.identical_layers,
            deep_supervision=deep_supervision,
            scale=quirks.scale,
        )
        self.set_start(start)

    def start_as_cosines(self) -> None:
        """Queries are the text features, and the tower is undisturbed by prompts."""
        start_as_identity(self.descriptor.q_proj)  # of [g ⊙ t ; t] the text feature
        self.decoder.start_as_product()
        self.prompts.start_at_zero()

    def scale_logits(self, factor: float) -> None:
        """By the projection of the patches."""
        with torch.no_grad():
            self.decoder.k.weight.mul_(factor)

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1.

        Under deep supervision the scores of earlier decoder layers are auxiliary maps.
        """
        grid = self.clip.grid(images)
        class_token, patches = self.encode_images(images)
        queries = self.descriptor(class_token, text.pooled)  # (B, K, D)
        # Patches run row by row, so scores (B, K, N) are maps (B, K, h, w).
        scores = self.decoder(queries, patches)
        maps = [self.biased(each.unflatten(2, grid)) for each in scores]
        auxiliary = tuple(AuxiliaryMap(logits) for logits in maps[:-1])
        return Prediction(maps[-1], self.clip.padded_size(images), auxiliary=auxiliary)
