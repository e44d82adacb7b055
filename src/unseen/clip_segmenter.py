"""Bases of the methods that stand on a CLIP: on its text half, or on the whole of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.backbones.clip.loading import load_clip, load_text
from unseen.backbones.clip.templates import TEMPLATES, Templated, templates_of
from unseen.backbones.clip.text import NO_TOWER, CLIPText, StoredText, TextEncoder
from unseen.backbones.clip.tower import CLIP, IMAGENET_MEAN, IMAGENET_STD, Resize
from unseen.errors import SettingError
from unseen.modules.resize import whole_patches
from unseen.segmenter import Segmenter, TextFeatures, Tower, as_color
from unseen.vocabulary import Vocabulary


class TextSegmenter(Segmenter):
    """Base of the methods that know classes by CLIP's text tower, or by stored text features.

    Args:
        clip: A CLIP, its text half, or stored text features.
        templates: The prompts a class name is put in: a key of `TEMPLATES`, a text file with one a
            line, or the prompts themselves.
        background_name: Encoded with every vocabulary, for methods that compare with what is none
            of the classes.
        unit_text: Whether text features have unit length.
    """

    def __init__(
        self,
        clip: CLIPText | StoredText,
        *,
        templates: Templated = "single",
        background_name: str | None = None,
        unit_text: bool = True,
    ) -> None:
        super().__init__()
        self.clip, self.templates = clip, templates_of(templates)
        self.background_name, self.unit_text = background_name, unit_text
        # Set by `use_stored_text`; a CLIP-based method may have a text tower and not use it.
        self.stored_text: StoredText | None = None

    @classmethod
    def load_tower(cls, source: str, stored: StoredText | None = None) -> CLIPText | StoredText:
        """The part of a CLIP that the method stands on.

        Args:
            source: As for `load_text`; "none" where the text features come from a file.
            stored: That file.
        """
        # The stored features stand in for the tower: they know D, and nothing else of it is needed.
        if source == NO_TOWER and stored is not None:
            return stored
        return load_text(source)

    @property
    def text_encoder(self) -> TextEncoder:
        """What encodes class names: stored text features, where there are any, or the CLIP."""
        if self.stored_text is not None:
            return self.stored_text
        return self.clip

    def use_stored_text(self, stored: StoredText) -> None:
        """Take text features from a file from now on.

        Raises:
            SettingError: The method reads single tokens or trains the text, which a file does not
                hold.
            DataError: Features that do not fit the method.
        """
        # Without a text tower a method reads the vector of a class as its only token.
        has_text = isinstance(self.clip, CLIPText) and self.clip.text is not None
        reads_tokens = self.needs_tokens and has_text
        if reads_tokens or self.trains_text:
            reason = "trains the text tower's input"
            if reads_tokens:
                reason = "reads the single tokens of a prompt"
            raise SettingError(
                f"{type(self).__name__} {reason}, which text embeddings do not hold; leave"
                " --text-embeddings away"
            )
        stored.check(self.clip.embed_dim, self.background_name)
        self.stored_text = stored

    @property
    def towers(self) -> dict[str, Tower]:
        """The CLIP, unless all text features come from a file."""
        if isinstance(self.clip, StoredText):
            return {}
        return {"clip": Tower(self.clip, self.clip.source)}

    def encode_text(self, vocabulary: Vocabulary) -> TextFeatures:
        """One vector a class, (K, D): the mean over its prompts and synonyms, of unit length.

        The background's name is encoded as it is, without a template.
        """
        templates = self._templates_for(vocabulary)
        # Without this, every forward pass in training would keep the text tower's activations.
        with torch.set_grad_enabled(self.trains_text and torch.is_grad_enabled()):
            return TextFeatures(
                vocabulary.names,
                self._pooled(vocabulary, templates),
                background=self._background(),
            )

    @torch.no_grad()
    def encode_prompts(self, vocabulary: Vocabulary) -> TextFeatures:
        """One vector a class, as `encode_text`, and one for each of its prompts (`per_template`).

        All have unit length, but for those of a file, which are used as stored. Of several names of
        a class the mean counts, prompt by prompt.
        """
        words = [word for name in vocabulary.names for word in vocabulary.names_of(name)]
        prompts = self.text_encoder.unit_prompts(words, self._templates_for(vocabulary))
        if isinstance(self.text_encoder, StoredText):
            pooled = self.text_encoder.encode_names(words, ())
            return TextFeatures(vocabulary.names, pooled, per_template=prompts)
        pooled = F.normalize(prompts.mean(dim=1), dim=-1)
        pooled, prompts = (
            F.normalize(_class_means(vectors, vocabulary), dim=-1) for vectors in (pooled, prompts)
        )
        return TextFeatures(vocabulary.names, pooled, per_template=prompts)

    def _templates_for(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """The vocabulary's templates, or the method's own."""
        if vocabulary.templates is None:
            return self.templates
        return templates_of(vocabulary.templates)

    def _pooled(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Tensor:
        encoder, unit = self.text_encoder, self.unit_text
        # The usual case in one call, whose result stays bit for bit what it was without synonyms.
        if not vocabulary.synonyms:
            return encoder.encode_names(vocabulary.names, templates, unit=unit)
        words = [word for name in vocabulary.names for word in vocabulary.names_of(name)]
        vectors = encoder.encode_names(words, templates, unit=unit)
        pooled = _class_means(vectors, vocabulary)
        if unit:
            pooled = F.normalize(pooled, dim=-1)
        return pooled

    def _background(self) -> Tensor | None:
        if self.background_name is None:
            return None
        if self.stored_text is not None:
            return self.stored_text.background
        # The name alone: a prompt such as "a photo of a background" would name a kind of
        # photograph.
        name = [self.background_name]
        return self.text_encoder.encode_names(name, TEMPLATES["name"], unit=self.unit_text)[0]


def _class_means(vectors: Tensor, vocabulary: Vocabulary) -> Tensor:
    """The mean over the names of each class, (K, …), of vectors (S, …) of all names in turn."""
    counts = [len(vocabulary.names_of(name)) for name in vocabulary.names]
    return torch.stack([part.mean(dim=0) for part in torch.split(vectors, counts)])


Rim = Literal["pad", "stretch"]


@dataclass(frozen=True)
class TowerQuirks:
    """What the released ZegCLIP, its successors and ESDA do to CLIP's image tower.

    Attributes:
        normalization: Statistics of the images: CLIP's own ("clip"), or ImageNet's, as the released
            training codes.
        class_embedding_twice: Add CLIP's class embedding a second time (released: yes, by mistake).
        resize: How the position table is resized (released: "bilinear").
        train_grid: A grid the position table goes through first (released: that of the training
            crops).
        rim: What happens where a side is no multiple of the patch: "pad" fills the last patches up;
            "stretch" crops the image to whole patches and stretches the maps over all of it
            (released, but for ESDA, whose images are whole patches).
    """

    normalization: Literal["clip", "imagenet"] = "clip"
    class_embedding_twice: bool = False
    resize: Resize = "bicubic"
    train_grid: tuple[int, int] | None = None
    rim: Rim = "pad"


RELEASED_TOWER: dict[str, Any] = {
    "normalization": "imagenet",
    "class_embedding_twice": True,
    "resize": "bilinear",
}
"""The values of `TowerQuirks` that the released codes share."""


class ClipSegmenter(TextSegmenter):
    """Base of the methods on a whole CLIP, whose image tower is a plain ViT.

    Args:
        clip: The tower.
        templates: As for `TextSegmenter`.
        quirks: What a released code does to the tower.
    """

    clip: CLIP

    def __init__(
        self, clip: CLIP, *, templates: Templated = "single", quirks: TowerQuirks | None = None
    ) -> None:
        super().__init__(clip, templates=templates)
        self.tower_quirks = quirks or TowerQuirks()
        # The tower given stays as it is, because another segmenter may share it.
        if self.tower_quirks.normalization == "imagenet":
            self.clip = clip.with_statistics(IMAGENET_MEAN, IMAGENET_STD)

    @classmethod
    def load_tower(cls, source: str, stored: StoredText | None = None) -> CLIP:
        """A whole CLIP."""
        return load_clip(source)

    def recompute_blocks(self, on: bool) -> None:
        """Whether training computes the tower's blocks again instead of keeping their results."""
        self.clip.recompute = on

    @property
    def pad_color(self) -> tuple[float, float, float]:
        """The mean that the tower's normalisation takes away."""
        return as_color(self.clip.mean)

    def embed(self, images: Tensor) -> Tensor:
        """The tokens (B, 1 + N, C) that enter the tower's first block, class token first."""
        quirks = self.tower_quirks
        return self.clip.embed(
            images,
            resize=quirks.resize,
            via=quirks.train_grid,
            twice=quirks.class_embedding_twice,
        )

    def covered(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, 3, H, W) to look at, and height and width in pixels that their maps cover."""
        if self.tower_quirks.rim == "stretch":
            size = (images.shape[-2], images.shape[-1])
            return whole_patches(images, self.clip.patch_size), size
        return images, self.clip.padded_size(images)


class CosineSegmenter(ClipSegmenter):
    """Base of the methods without training: cosines of patches with classes, compared by a softmax.

    Args:
        clip: The tower.
        templates: As for `TextSegmenter`.
        temperature: Factor on the cosines before the softmax over classes.
        quirks: What a released code does to the tower.

    Raises:
        SettingError: A temperature of 0.
    """

    trainable: ClassVar[bool] = False
    classwise: ClassVar[bool] = True
    confidence_compares: ClassVar[bool] = True

    def __init__(
        self, clip: CLIP, *, templates: Templated, temperature: float, quirks: TowerQuirks
    ) -> None:
        super().__init__(clip, templates=templates, quirks=quirks)
        if not temperature > 0:
            raise SettingError(f"temperature is {temperature}; give a number above 0")
        self.temperature = temperature

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """Cosines times the temperature.

        Windows are averaged before the softmax, as the released codes do.
        """
        return self.temperature * logits

    def confidence(self, scores: Tensor, total: Tensor | None = None) -> Tensor:
        """The best class's share of the softmax over the classes."""
        assert total is not None
        return (scores - total).exp()
