"""ZegCLIP: one-stage zero-shot segmentation on a frozen CLIP.

Zhou et al., CVPR 2023, arXiv 2212.03588. Visual prompts adapt the frozen image tower. The query of
class c in image b is the *relationship descriptor* [g ⊙ t_c ; t_c]: the image's class token g meets
the text feature t_c, so that a class that was never trained on has a query of a known kind. A small
decoder lets queries attend to patches; its last attention scores, before the softmax, are the
logits.

The released code differs from the paper and from sound practice in a few places, collected in
`MaskDecoderQuirks`; the defaults are what we found right. `docs/methods/zegclip.md` lists them with
numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from unseen.backbones.clip.tower import CLIP
from unseen.modules.decoders import MaskDecoder, start_as_identity
from unseen.modules.queries import RelationshipDescriptor
from unseen.prompted_segmenter import MaskDecoderQuirks, PromptedOptions, PromptedSegmenter
from unseen.released import LIKE_ZEGCLIP
from unseen.segmenter import AuxiliaryMap, Prediction, TextFeatures


class ZegCLIP(PromptedSegmenter):
    """ZegCLIP.

    Args:
        clip: The frozen tower.
        options: Those that the methods with visual prompts share.
        decoder_heads: Heads of the decoder's attention.
        deep_supervision: Losses on every decoder layer's scores, as the released loss class
            prepares but never does.
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"start": "released", "calibration": 0.1}
    Quirks = MaskDecoderQuirks
    RELEASED = LIKE_ZEGCLIP
    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3, "decoder_heads": 2}

    def __init__(
        self,
        clip: CLIP,
        options: PromptedOptions | None = None,
        *,
        decoder_heads: int = 8,
        deep_supervision: bool = False,
        quirks: MaskDecoderQuirks | None = None,
    ) -> None:
        options, quirks = options or PromptedOptions(), quirks or MaskDecoderQuirks()
        super().__init__(clip, options, quirks)
        self.descriptor = RelationshipDescriptor(clip.embed_dim)
        self.decoder = MaskDecoder(
            clip.embed_dim,
            options.decoder_sizes(clip.embed_dim, decoder_heads),
            identical=quirks.identical_layers,
            deep_supervision=deep_supervision,
            scale=quirks.scale,
        )
        self.set_start(options.start)

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
        images, covered = self.covered(images)
        grid = self.clip.grid(images)
        class_token, patches = self.encode_images(images)
        queries = self.descriptor(class_token, text.pooled)  # (B, K, D)
        # Patches run row by row, so scores (B, K, N) are maps (B, K, h, w).
        scores = self.decoder(queries, patches)
        maps = [self.biased(each.unflatten(2, grid)) for each in scores]
        auxiliary = tuple(AuxiliaryMap(logits) for logits in maps[:-1])
        return Prediction(maps[-1], covered, auxiliary=auxiliary)
