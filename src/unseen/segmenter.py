"""The contract between methods and everything that uses them.

A segmenter takes images and a list of words and returns one score map per word. Benchmarks choose
the words and judge the maps; training adjusts the segmenter; every verb of the command line is a
use of that sentence.

Letters: B batch, K words, H W image, h w feature grid, N = h·w patches, C tower width, D joint
width, T text length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip import (
    CLIP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TEMPLATES,
    CLIPText,
    load_clip,
    load_text,
)
from unseen.errors import DataError, SettingError, VocabularyError
from unseen.labels import IGNORE as IGNORE

Kind = Literal["multiclass", "binary"]


@dataclass(frozen=True)
class TextFeatures:
    """The words of one vocabulary, encoded once.

    Attributes:
        names: K words.
        pooled: (K, D), unit vectors unless the method says otherwise.
        tokens: (K, T, text width), where a method reads single tokens; else None.
        background: (D,), the vector of what is none of the words, where a method compares with one;
            else None.
    """

    names: tuple[str, ...]
    pooled: Tensor
    tokens: Tensor | None = None
    background: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> TextFeatures:
        """The same features on a device."""
        tokens, background = (
            None if part is None else part.to(device) for part in (self.tokens, self.background)
        )
        return TextFeatures(self.names, self.pooled.to(device), tokens, background)

    def select(self, rows: Sequence[int]) -> TextFeatures:
        """The features of some of the words, in the order of `rows`."""
        index = list(rows)
        tokens = None if self.tokens is None else self.tokens[index]
        return TextFeatures(
            tuple(self.names[i] for i in index), self.pooled[index], tokens, self.background
        )


@dataclass(frozen=True)
class Prediction:
    """What `forward` returns.

    Attributes:
        logits: (B, K, h, w), one map a word; (B, 2, h, w), background and foreground, for binary
            methods.
        covers: Height and width in pixels that the maps stretch over: the image, filled up to
            whole patches.
        extras: What the loss needs besides, by name.
        align_corners: How the method's maps are resized: whether the first and last of them lie on
            the image's first and last pixel.
    """

    logits: Tensor
    covers: tuple[int, int]
    extras: dict[str, Tensor] = field(default_factory=dict)
    align_corners: bool = False

    def resized(self, size: tuple[int, int]) -> Tensor:
        """The logits on the pixels of an image of `size` (H, W): bilinear, then the filled-up rim
        is cut off. (B, K, H, W), float32.
        """
        return F.interpolate(
            self.logits.float(), self.covers, mode="bilinear", align_corners=self.align_corners
        )[..., : size[0], : size[1]]


class Segmenter(nn.Module, ABC):
    """Base of every method.

    Attributes:
        PUBLISHED: Options with which the released code behaves otherwise than ours.
        kind: "multiclass" (one vocabulary a batch) or "binary" (one word an image).
        trainable: Whether the method has anything to train.
        frozen: Names of the submodules that stay in eval mode when the segmenter is trained.
        reads_tokens: Whether it needs `TextFeatures.tokens`.
        reads_things: Binary methods: whether the labels of their loss tell the things of an image
            apart: above 1, every value is another thing that is not the word.
        words_at_once: Binary methods: how many words a single image is asked at a time, which
            bounds what is held.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {}
    kind: ClassVar[Kind] = "multiclass"
    trainable: ClassVar[bool] = True
    frozen: ClassVar[tuple[str, ...]] = ("clip",)
    reads_tokens: ClassVar[bool] = False
    reads_things: ClassVar[bool] = False
    words_at_once: ClassVar[int] = 16

    @property
    def pad_color(self) -> tuple[float, float, float]:
        """RGB in 0..255 that training crops are padded with: black, unless a method has a mean."""
        return (0.0, 0.0, 0.0)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Segmenter:
        """Training mode for all but the frozen submodules."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    @abstractmethod
    def encode_text(self, names: Sequence[str]) -> TextFeatures:
        """Encode a vocabulary of K words; done once, then handed to every `forward`.

        Raises:
            VocabularyError: An empty list, a repeated word, an empty or overlong word.
        """

    @abstractmethod
    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Score maps of images (B, 3, H, W), RGB in 0..1, any size, for the words of `text`.
        Never sees labels.

        Binary methods take one word an image; a single image is asked every word.
        """

    def initialise(self) -> None:
        """Load what training starts from (weights of an image backbone); called once before it, not
        when a run is loaded.
        """

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Scalars by name, among them "total", for labels (B, H, W) int64 whose values index the
        words of the forward, or are 255.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to train")

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """What is averaged over windows and compared between words, from logits (B, K, …).

        Args:
            logits: Maps, at any resolution.
            seen: Columns of the words whose masks were trained on, for methods that lower their
                scores; None where all words count alike.
        """
        return logits

    def confidence(self, scores: Tensor) -> Tensor:
        """Scores (B, K, …) as numbers in 0..1, for thresholds and reports."""
        return scores.clamp(0, 1)

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors a run folder stores: parameters that train, and buffers, outside the frozen
        submodules.
        """
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith(tuple(f"{part}." for part in self.frozen))
        }


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The words, stripped of blanks at the ends.

    Raises:
        VocabularyError: No words, an empty one, or one given twice.
    """
    odd = next((name for name in names if not isinstance(name, str)), None)
    if odd is not None:
        raise VocabularyError(f"{odd!r} among the words is not a text; give a list of strings")
    stripped = tuple(name.strip() for name in names)
    if not stripped:
        raise VocabularyError("the list of words is empty; give at least one word")
    if "" in stripped:
        raise VocabularyError(
            f"word {stripped.index('') + 1} of the list is empty; remove it or fill it in"
        )
    twice = next((name for i, name in enumerate(stripped) if name in stripped[:i]), None)
    if twice is not None:
        raise VocabularyError(
            f"the word {twice!r} is in the list twice; every word gets one map, so remove one of"
            " them"
        )
    return stripped


def stored_width(path: Path) -> int:
    """D of a .npy file of text embeddings.

    Raises:
        DataError: Not such a file.
    """
    return int(_stored_rows(path).shape[1])


def stored_text(
    path: Path, names: Sequence[str], embed_dim: int, background: str | None = None
) -> TextFeatures:
    """Text features from a .npy file (K, D), one row a word, used as stored, in float32.

    Args:
        path: The file.
        names: K words.
        embed_dim: D.
        background: The word for what is none of the others, for methods that compare with one; its
            row comes last, after those of the K words.

    Raises:
        DataError: Not such a file, or rows that do not fit the words.
    """
    rows, needed = _stored_rows(path), len(names) + (background is not None)
    if rows.shape != (needed, embed_dim):
        also = f" and {background!r}, the last," if background is not None else ""
        learned = (
            "; or, with SAZS, compare with a learned vector (--options.background learned)"
            if background is not None
            else ""
        )
        raise DataError(
            f"{path} holds an array of shape {rows.shape}, but {len(names)} words{also} of width"
            f" {embed_dim} are needed; give a file of these rows{learned}"
        )
    vectors = torch.from_numpy(rows.astype(np.float32))
    return TextFeatures(
        tuple(names), vectors[: len(names)], None, None if background is None else vectors[-1]
    )


def _stored_rows(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(f"the file of text embeddings {path} does not exist; check the path")
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a readable .npy file of text embeddings; save a plain (words, width)"
            " float array"
        ) from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu" or rows.ndim != 2:
        raise DataError(
            f"{path} does not hold one plain array of numbers; save a (words, width) float array"
            " with numpy.save"
        )
    return rows


class TextSegmenter(Segmenter):
    """Base of the methods that know words by CLIP's text tower: holds it as `clip` and encodes
    words with it.

    Args:
        clip: The tower.
        templates: Key of `TEMPLATES`: the sentences a word is put in.
        background_word: Encoded with every vocabulary, for methods that compare with what is none
            of the words; None for the others.
        unit_text: Whether words' vectors are made unit.
    """

    def __init__(
        self,
        clip: CLIPText,
        *,
        templates: str = "single",
        background_word: str | None = None,
        unit_text: bool = True,
    ) -> None:
        super().__init__()
        if templates not in TEMPLATES:
            raise SettingError(
                f"there is no set of templates called {templates!r}; choose one of"
                f" {', '.join(TEMPLATES)}"
            )
        self.clip, self.templates = clip, TEMPLATES[templates]
        self.background_word, self.unit_text = background_word, unit_text

    @classmethod
    def load_tower(cls, source: str, embed_dim: int | None = None) -> CLIPText:
        """The part of a CLIP that the method stands on; `embed_dim` where words come from a file
        and there is none.
        """
        return load_text(source, embed_dim)

    def encode_text(self, names: Sequence[str]) -> TextFeatures:
        """Unit vectors (K, D): the mean over templates of each sentence's unit vector, made unit;
        the background word's, if any, bare.
        """
        names = check_names(names)
        background = None
        if self.background_word is not None:
            background = self.clip.encode_names(
                [self.background_word], TEMPLATES["name"], unit=self.unit_text
            )[0]
        return TextFeatures(
            names,
            self.clip.encode_names(names, self.templates, unit=self.unit_text),
            None,
            background,
        )


def as_color(mean: Tensor) -> tuple[float, float, float]:
    """A mean (3, 1, 1) of images in 0..1, as a colour in 0..255."""
    red, green, blue = (255 * mean).flatten().tolist()
    return red, green, blue


class ClipSegmenter(TextSegmenter):
    """Base of the methods on a whole frozen CLIP, a plain ViT.

    Args:
        clip: The tower.
        templates: As for `TextSegmenter`.
        normalization: "clip": the statistics the tower was trained with; "imagenet": those of the
            released training codes.
    """

    clip: CLIP

    def __init__(
        self,
        clip: CLIP,
        *,
        templates: str = "single",
        normalization: Literal["clip", "imagenet"] = "clip",
    ) -> None:
        super().__init__(clip, templates=templates)
        if normalization == "imagenet":
            self.clip = clip.with_statistics(IMAGENET_MEAN, IMAGENET_STD)

    @property
    def pad_color(self) -> tuple[float, float, float]:
        """The mean that the tower subtracts, so that padding is 0 to it."""
        return as_color(self.clip.mean)

    @classmethod
    def load_tower(cls, source: str, embed_dim: int | None = None) -> CLIP:
        """A whole CLIP."""
        return load_clip(source)
