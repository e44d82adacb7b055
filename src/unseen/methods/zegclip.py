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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import RELEASED_TOWER, ClipSegmenter, TowerQuirks
from unseen.modules.decoders import DecoderSizes, MaskDecoder, check_heads, start_as_identity
from unseen.modules.losses import FocalOver, MaskLoss, calibrated
from unseen.modules.prompts import make_prompts
from unseen.modules.queries import RelationshipDescriptor
from unseen.modules.starts import AlignedStart, Start
from unseen.released import MMSEG_NAMES, UNUSED_IN_LAYER, Released, count_layers, prompt_options
from unseen.segmenter import AuxiliaryMap, Prediction, TextFeatures


@dataclass(frozen=True)
class ZegCLIPQuirks(TowerQuirks):
    """What the released code does otherwise.

    Attributes:
        ignored_as: What a pixel with the ignore label is to the losses: left out ("ignore"), or a
            negative for every class ("negative", released).
        identical_layers: Start all decoder layers from equal values (released).
        scale: Of the dot products that are the logits: "width", 1/√D; or "heads", the mean over the
            heads' scaled products, 1/(heads·√(D/heads)) (paper eq. 8, released).
    """

    ignored_as: Literal["ignore", "negative"] = "ignore"
    identical_layers: bool = False
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


def _released_options(state: dict[str, Tensor]) -> dict[str, Any]:
    hidden = state["decode_head.decoder_1.layers.0.linear1.weight"].shape[0]
    layers = count_layers(state, "decode_head.decoder_1.layers.")
    return {**prompt_options(state), "decoder_layers": layers, "hidden_dim": hidden}


RELEASED = Released(
    mark="decode_head.decoder_1.",
    towers=("backbone.", "text_encoder."),
    names=(
        *MMSEG_NAMES,
        (r"decode_head\.(q_proj\..*)", r"descriptor.\1"),
        (r"decode_head\.decoder_1\.layers\.LAST\.multihead_attn\.([qk]\..*)", r"decoder.\1"),
        (r"decode_head\.decoder_1\.(layers\..*)", r"decoder.\1"),
    ),
    # Of the last layer only the query and key projections reach the output.
    unused=rf"decode_head\.(decoder_1\.layers\.(\d+\.{UNUSED_IN_LAYER}"
    r"|LAST\.(?!multihead_attn\.[qk]\.).*)|loss_decode\..*)",
    options=_released_options,
)


class ZegCLIP(AlignedStart, ClipSegmenter):
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
    RELEASED = RELEASED
    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3, "decoder_heads": 2}
    classwise: ClassVar[bool] = True

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
        super().__init__(clip, templates=templates, quirks=quirks)
        check_heads(decoder_heads, clip.embed_dim)
        self.calibration = calibration
        self.mask_loss = MaskLoss(
            mask_weight, dice_weight, focal_alpha, quirks.ignored_as, focal_over
        )
        self.prompts, self.prompt_norm = make_prompts(
            clip, num_prompts, depth=prompt_depth, dropout=dropout, norm=prompt_norm
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

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of class tokens (B, D) and patches (B, N, D).

        Args:
            images: (B, 3, H, W), RGB in 0..1.
        """
        x = self.embed(images)
        x = self.prompts.forward_blocks(self.clip.block, self.clip.num_layers, x)  # (B, 1 + N, C)
        # Unit vectors, as CLIP compares them: the descriptor multiplies them with unit text
        # features.
        x = F.normalize(self.clip.finish(self.prompt_norm(x)), dim=-1)
        return x[:, 0], x[:, 1:]

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

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """Probabilities, those of seen classes reduced by γ (calibrated stacking, as released)."""
        return calibrated(logits.sigmoid(), seen, self.calibration)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `mask` (focal) and `dice`, and their sum `total`.

        Each is divided by the number of (image, class) pairs that are present, at least 1.
        """
        size = (labels.shape[-2], labels.shape[-1])
        losses = self.mask_loss(
            prediction.maps, labels, lambda logits: prediction.resized(size, logits)
        )
        return {**losses, "total": torch.stack(list(losses.values())).sum()}
