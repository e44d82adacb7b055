"""ZegCLIP: one-stage zero-shot segmentation on a frozen CLIP (Zhou et al., CVPR 2023, arXiv
2212.03588).

Visual prompts adapt the frozen image tower; each word asks the patches through a small decoder,
whose last scores, before the softmax, are the word's map. The query of word c in image b is the
*relationship descriptor* [g ⊙ t_c ; t_c]: the image's class token g meets the word's vector t_c,
so that a word never trained on still asks in terms the decoder knows.

The released code differs from the paper and from sound practice in a few places. Each is a named
option; the defaults are what we found right, `PUBLISHED` holds the released values.
`docs/methods/zegclip.md` lists them with numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip import CLIP, Resize
from unseen.modules.attention import DecoderLayer, check_heads, mean_scores
from unseen.modules.losses import FocalOver, MaskLoss, Void, calibrated
from unseen.modules.prompts import make_prompts
from unseen.modules.queries import relationship
from unseen.segmenter import ClipSegmenter, Prediction, TextFeatures


class RelationshipDescriptor(nn.Module):
    """Queries from words and the image they are asked of: q = W_q [g ⊙ t ; t] + b_q (paper eq.
    5).
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(2 * embed_dim, embed_dim)

    def forward(self, picture: Tensor, words: Tensor) -> Tensor:
        """(B, K, D) from class tokens (B, D) and word vectors (K, D), both unit."""
        out: Tensor = self.q_proj(relationship(picture.unsqueeze(1), words))
        return out


class MaskDecoder(nn.Module):
    """Decoder layers, then scores of the words on the patches (paper eqs. 6-8).

    The released decoder's last layer is a whole layer of which only the query and key projections
    reach the output; here it is only those.

    Args:
        embed_dim: D.
        num_layers: Layers, the scoring one included.
        num_heads: Heads of the attention.
        hidden_dim: Width of the feed-forward part.
        dropout: On attention weights and residual branches.
        identical: Start all layers from the same values, as the released code does by copying one.
        deep_supervision: Give the earlier layers' scores as well while training.
        scale: "heads" or "width" (`ZegCLIP`).
    """

    def __init__(
        self,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        *,
        identical: bool,
        deep_supervision: bool,
        scale: Literal["heads", "width"],
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.score_heads = num_heads if scale == "heads" else 1
        layers = [
            DecoderLayer(embed_dim, num_heads, hidden_dim, dropout) for _ in range(num_layers - 1)
        ]
        self.q, self.k = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim)
        if identical and layers:
            for layer in layers[1:]:
                layer.load_state_dict(layers[0].state_dict())
            self.q.load_state_dict(layers[0].multihead_attn.q.state_dict())
            self.k.load_state_dict(layers[0].multihead_attn.k.state_dict())
        self.layers = nn.ModuleList(layers)

    def forward(self, queries: Tensor, memory: Tensor) -> list[Tensor]:
        """Scores (B, K, N) after each layer, last one last, of queries (B, K, D) on memory (B, N,
        D); earlier ones only while training.
        """
        scores = []
        for layer in cast(list[DecoderLayer], self.layers):
            if self.training and self.deep_supervision:
                scores.append(layer.scores(queries, memory, self.score_heads))
            queries = layer(queries, memory)
        return [*scores, mean_scores(self.q(queries), self.k(memory), self.score_heads)]


class ZegCLIP(ClipSegmenter):
    """ZegCLIP.

    Args:
        clip: The frozen tower.
        num_prompts: P, visual prompts a block (10 on VOC, 100 on COCO-Stuff).
        prompt_depth: Blocks with prompts of their own; all by default, 1 for shallow prompts.
        decoder_layers: Layers of the decoder, the scoring one included.
        decoder_heads: Its heads.
        hidden_dim: Width of its feed-forward part; 4 D by default.
        dropout: In decoder and prompts.
        mask_weight: Weight of the focal loss (100 in the released configuration, 20 in its class
            default).
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of positives in the focal loss.
        calibration: γ, taken from the probability of words trained on when not all words were
            (released: 0.1, wired in).
        templates: Sentences the words are put in ("single" on VOC, "multi" on COCO-Stuff and
            Context).
        normalization: Statistics of the images: CLIP's own, or ImageNet's as released.
        class_embedding_twice: Add CLIP's class embedding a second time (released: yes, by mistake).
        void: What a 255 pixel is to the losses: "ignore", or "negative" for every word (released).
        focal_over: What the focal loss is averaged over when void is ignored: "labelled" pixels, or
            "all".
        prompt_norm: A trainable norm before the tower's final one; released for deep prompts only
            (None).
        deep_supervision: Losses on every decoder layer's scores, as the released loss class
            prepares but never does.
        identical_layers: Start all decoder layers from equal values (released).
        scale: Of the dot products that are the maps: "heads", the mean over the heads' scaled
            products, 1/(heads·√(D/heads)) (paper eq. 8, released); or "width", 1/√D.
        resize: How the position table is resized ("bilinear" as released).
        train_grid: A grid the position table goes through first; released: the one of the 512-pixel
            crops.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "normalization": "imagenet",
        "class_embedding_twice": True,
        "void": "negative",
        "prompt_norm": None,
        "identical_layers": True,
        "scale": "heads",
        "resize": "bilinear",
        "train_grid": (32, 32),
    }

    def __init__(
        self,
        clip: CLIP,
        *,
        num_prompts: int = 10,
        prompt_depth: int | None = None,
        decoder_layers: int = 3,
        decoder_heads: int = 8,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        mask_weight: float = 100.0,
        dice_weight: float = 1.0,
        focal_alpha: float = 0.25,
        calibration: float = 0.1,
        templates: str = "single",
        normalization: Literal["clip", "imagenet"] = "clip",
        class_embedding_twice: bool = False,
        void: Void = "ignore",
        focal_over: FocalOver = "labelled",
        prompt_norm: bool | None = None,
        deep_supervision: bool = False,
        identical_layers: bool = False,
        scale: Literal["heads", "width"] = "width",
        resize: Resize = "bicubic",
        train_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(clip, templates=templates, normalization=normalization)
        check_heads(decoder_heads, clip.embed_dim)
        self.calibration, self.class_embedding_twice = calibration, class_embedding_twice
        self.mask_loss = MaskLoss(mask_weight, dice_weight, focal_alpha, void, focal_over)
        self.resize, self.train_grid = resize, tuple(train_grid) if train_grid is not None else None
        self.prompts, self.prompt_norm = make_prompts(
            num_prompts,
            clip.width,
            clip.patch_size,
            clip.num_layers,
            depth=prompt_depth,
            dropout=dropout,
            norm=prompt_norm,
        )
        self.descriptor = RelationshipDescriptor(clip.embed_dim)
        hidden = hidden_dim or 4 * clip.embed_dim
        self.decoder = MaskDecoder(
            clip.embed_dim,
            decoder_layers,
            decoder_heads,
            hidden,
            dropout,
            identical=identical_layers,
            deep_supervision=deep_supervision,
            scale=scale,
        )

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of the class token (B, D) and of the patches (B, N, D), of images (B, 3,
        H, W) in 0..1.
        """
        x = self.clip.embed(
            images,
            resize=self.resize,
            via=self.train_grid,  # type: ignore[arg-type]
            twice=self.class_embedding_twice,
        )
        x = self.prompts.through(self.clip.block, self.clip.num_layers, x)  # (B, 1 + N, C)
        x = F.normalize(self.clip.finish(self.prompt_norm(x)), dim=-1)
        return x[:, 0], x[:, 1:]

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1; those of earlier decoder
        layers as extras under deep supervision.
        """
        h, w = self.clip.grid(images)
        picture, patches = self.encode_image(images)
        maps = [
            m.unflatten(2, (h, w))
            for m in self.decoder(self.descriptor(picture, text.pooled), patches)
        ]
        extras = {f"logits_{i}": m for i, m in enumerate(maps[:-1])}
        return Prediction(maps[-1], (h * self.clip.patch_size, w * self.clip.patch_size), extras)

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """Probabilities, those of words trained on lowered by γ (released inference, spec of
        calibrated stacking).
        """
        return calibrated(logits.sigmoid(), seen, self.calibration)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Terms `mask` (focal) and `dice`, weighted, and their sum `total`; each divided by the
        (image, class) pairs present, at least 1.
        """
        size = (labels.shape[-2], labels.shape[-1])
        every = [
            self.mask_loss(maps, labels, lambda m: Prediction(m, prediction.covers).resized(size))
            for maps in (prediction.logits, *prediction.extras.values())
        ]
        losses = {name: torch.stack([terms[name] for terms in every]).sum() for name in every[0]}
        return {**losses, "total": losses["mask"] + losses["dice"]}
