"""Four small methods that need what the methods of the table do not.

Two towers; a trained tower with a learning rate of its own; learnable prompts; maps of three
layers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.loading import load_clip
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import ClipSegmenter
from unseen.modules.losses import cross_entropy
from unseen.modules.prompts import PromptSizes, make_prompts
from unseen.segmenter import AuxiliaryMap, Prediction, TextFeatures, Tower, decay_groups
from unseen.settings import TrainSettings
from unseen.vocabulary import Vocabulary

NEW_TOKENS = 4
"""Learnable tokens of a prompt."""
PROMPTS = 3
"""Prompts a class."""


class Comparing(ClipSegmenter):
    """Patches compared with classes; what the toys share."""

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of all maps."""
        size = (labels.shape[-2], labels.shape[-1])
        losses = [
            weight * cross_entropy(10 * prediction.resized(size, logits), labels)
            for logits, weight in prediction.maps
        ]
        return {"mask": torch.stack(losses).sum(), "total": torch.stack(losses).sum()}

    def maps(self, images: Tensor, patches: Tensor, classes: Tensor) -> Tensor:
        """Cosines (B, K, h, w) of patches (B, N, D) with classes (K, D)."""
        logits = F.normalize(patches, dim=-1) @ F.normalize(classes, dim=-1).T
        return logits.transpose(1, 2).unflatten(2, self.clip.grid(images))


class TwoTowers(Comparing):
    """CLIP's patches averaged over those that a second tower finds similar; no training.

    Args:
        clip: The tower that knows classes.
        second: Source of the tower whose patches are compared.
    """

    trainable: ClassVar[bool] = False

    def __init__(self, clip: CLIP, *, second: str = "doodles") -> None:
        super().__init__(clip)
        self.second_source = second
        self.second: nn.Module = nn.Identity()

    def initialise(self) -> None:
        """Load the second tower."""
        self.second = load_clip(self.second_source).visual

    @property
    def towers(self) -> dict[str, Tower]:
        """Both."""
        return {**super().towers, "second": Tower(self.second, self.second_source)}

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Cosines (B, K, h, w)."""
        patches = self.clip.finish(self.clip.blocks(self.embed(images))[:, 1:])
        keys = self.second.conv1(self.clip.normalize(images)).flatten(2).transpose(1, 2)
        similar = (keys @ keys.transpose(1, 2)).softmax(dim=-1)  # (B, N, N)
        maps = self.maps(images, similar @ patches, text.pooled)
        return Prediction(maps, self.clip.padded_size(images))


class TrainedTower(Comparing):
    """CLIP with its last image block fine-tuned, ten times as slowly as a new scale."""

    def __init__(self, clip: CLIP, *, templates: str = "single") -> None:
        super().__init__(clip, templates=templates)
        self.clip.visual.transformer.resblocks[-1].requires_grad_(True)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Scaled cosines (B, K, h, w)."""
        patches = self.clip.finish(self.clip.blocks(self.embed(images))[:, 1:])
        maps = self.scale * self.maps(images, patches, text.pooled)
        return Prediction(maps, self.clip.padded_size(images))

    def parameter_groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """The tower's block with a tenth of the learning rate, then the scale."""
        tower = [parameter for parameter in self.clip.parameters() if parameter.requires_grad]
        return decay_groups(tower, settings, lr=settings.lr / 10) + decay_groups(
            [self.scale], settings
        )


class LearnedPrompts(Comparing):
    """Classes in prompts of learnable tokens, several a class; the best of them counts."""

    trains_text: ClassVar[bool] = True

    def __init__(self, clip: CLIP) -> None:
        super().__init__(clip)
        self.context = nn.Parameter(0.02 * torch.randn(PROMPTS, NEW_TOKENS, clip.text_width))

    def encode_text(self, vocabulary: Vocabulary) -> TextFeatures:
        """`per_template` (K, P, D), one vector a prompt, and their mean."""
        blanks = " ".join("x" * NEW_TOKENS)
        ids = self.clip.tokenize([f"{blanks} {name}" for name in vocabulary.names]).to(self.device)
        embeddings = self.clip.embed_tokens(ids)  # (K, T, text width)
        prompts = []
        for context in self.context:
            # The learnable tokens stand behind the start token, in place of the blanks.
            learned = context.expand(len(ids), -1, -1)
            parts = [embeddings[:, :1], learned, embeddings[:, 1 + NEW_TOKENS :]]
            pooled, _ = self.clip.encode_tokens(ids, torch.cat(parts, dim=1))
            prompts.append(F.normalize(pooled, dim=-1))
        per_template = torch.stack(prompts, dim=1)
        return TextFeatures(vocabulary.names, per_template.mean(dim=1), per_template=per_template)

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Largest cosine over the prompts of a class, (B, K, h, w)."""
        assert text.per_template is not None
        patches = self.clip.finish(self.clip.blocks(self.embed(images))[:, 1:])
        count, prompts, _ = text.per_template.shape
        logits = self.maps(images, patches, text.per_template.flatten(0, 1))
        logits = logits.unflatten(1, (count, prompts)).amax(dim=2)
        return Prediction(logits, self.clip.padded_size(images))


class ThreeMaps(Comparing):
    """Maps of three layers of a prompted tower, each with its own weight in the loss.

    Extra tokens behind the patches, one an image, see only the bright half of their image: a mask
    that differs between images.
    """

    def __init__(self, clip: CLIP) -> None:
        super().__init__(clip)
        self.prompts, _ = make_prompts(clip, PromptSizes(2, depth=1, norm=False, dropout=0.0))
        self.layers = range(clip.num_layers)[-3:]

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Cosines (B, K, h, w) of the last layer; those of the two before as auxiliary maps."""
        x = self.embed(images)
        h, w = self.clip.grid(images)
        bright = F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), (h, w)).flatten(1)
        seen = bright >= bright.median(dim=1, keepdim=True).values  # (B, N)
        x = torch.cat([x, x[:, :1]], dim=1)  # (B, 1 + N + 1, C)

        def block(layer: int, tokens: Tensor) -> Tensor:
            count = tokens.shape[1]
            mask = torch.ones(len(tokens), 1, count, count, dtype=torch.bool, device=x.device)
            mask[:, 0, -1, -1 - h * w : -1] = seen
            return self.clip.block(layer, tokens, mask)

        after = self.prompts.forward_layers(block, x, self.layers)
        maps = [
            self.maps(images, self.clip.finish(y[:, 1:-1] + y[:, -1:]), text.pooled) for y in after
        ]
        auxiliary = (AuxiliaryMap(maps[0], 0.25), AuxiliaryMap(maps[1], 0.5))
        return Prediction(maps[2], self.clip.padded_size(images), auxiliary=auxiliary)
