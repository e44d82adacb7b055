"""A ceiling: a linear layer on the frozen tower's patches, trained on the masks of all classes.

It knows no text: each class has a row of weights. A method of one's own is a class like this one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import ClipSegmenter
from unseen.data.classes import VOC
from unseen.methods import OWN, Method
from unseen.modules.losses import cross_entropy
from unseen.segmenter import Prediction, TextFeatures


class LinearProbe(ClipSegmenter):
    """A linear layer on patches.

    Args:
        clip: The frozen tower.
        classes: Names of the classes it has rows for.
        templates: Of no use here; every method has them.
    """

    TINY: ClassVar[dict[str, Any]] = {"classes": ("cat", "dog")}

    def __init__(
        self, clip: CLIP, *, classes: tuple[str, ...] = VOC, templates: Templated = "single"
    ) -> None:
        super().__init__(clip, templates=templates)
        self.classes = tuple(classes)
        self.head = nn.Linear(clip.width, len(self.classes))

    @classmethod
    def register(cls) -> None:
        """Put it into the table of methods, as an installed package does by an entry point."""
        summary = "a linear layer on the tower's patches, supervised"
        OWN["probe"] = Method(f"{cls.__module__}:{cls.__name__}", summary)

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1."""
        h, w = self.clip.grid(images)
        x = self.clip.visual.ln_post(self.clip.blocks(self.embed(images))[:, 1:])  # (B, N, C)
        rows = [self.classes.index(name) for name in text.names]
        logits = F.linear(x, self.head.weight[rows], self.head.bias[rows])
        return Prediction(
            logits.transpose(1, 2).unflatten(2, (h, w)), self.clip.padded_size(images)
        )

    def confidence(self, scores: Tensor) -> Tensor:
        """Softmax over the classes."""
        return scores.softmax(dim=1)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over the labelled pixels."""
        size = (labels.shape[-2], labels.shape[-1])
        return {"total": cross_entropy(prediction.resized(size), labels)}
