"""The contract between methods and everything that uses them.

A segmenter takes images and classes and returns one score map per class. Benchmarks choose the
classes and judge the maps; training adjusts the segmenter; every verb is a use of that sentence.

Letters: B batch, K classes, H W image, h w feature grid, N = h·w patches, C tower width, D joint
width, T text length, P prompts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unseen.backbones.fingerprint import network_fingerprint
from unseen.errors import SettingError
from unseen.modules.resize import bilinear
from unseen.released import Released
from unseen.settings import TrainSettings
from unseen.vocabulary import NO_CLASS, Vocabulary


@dataclass(frozen=True)
class TextFeatures:
    """The classes of a vocabulary, encoded. Each row has a score map; usually it is a class.

    Attributes:
        names: What the K rows stand for.
        pooled: (K, D), unit vectors unless the method says otherwise.
        tokens: (K, T, text width), where a method reads single tokens.
        background: (D,), the vector of what is none of the classes, where a method compares with
            one.
        per_template: (K, P, D), the vectors of every prompt of a class, where a method needs them.
        classes: By row the index of its class, or `NO_CLASS`; None where row i is class i.
        class_names: The classes; None where they are `names`.
        source: What was encoded, as a user gave it; None for features made by hand.
    """

    names: tuple[str, ...]
    pooled: Tensor
    tokens: Tensor | None = None
    background: Tensor | None = None
    per_template: Tensor | None = None
    classes: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    source: Vocabulary | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The class names."""
        return self.names if self.class_names is None else self.class_names

    @property
    def has_background_words(self) -> bool:
        """Whether some rows are no class."""
        return self.classes is not None and NO_CLASS in self.classes

    def to(self, device: torch.device | str) -> TextFeatures:
        """The same features on a device."""
        tokens, background, per_template = (
            None if part is None else part.to(device)
            for part in (self.tokens, self.background, self.per_template)
        )
        return replace(
            self,
            pooled=self.pooled.to(device),
            tokens=tokens,
            background=background,
            per_template=per_template,
        )

    def select(self, rows: Sequence[int]) -> TextFeatures:
        """The features of some of the rows, in the order of `rows`, as classes of their own."""
        # A list indexes rows of a tensor; a tuple would index its dimensions.
        index = list(rows)
        names = tuple(self.names[i] for i in index)
        tokens, per_template = (
            None if part is None else part[index] for part in (self.tokens, self.per_template)
        )
        return TextFeatures(names, self.pooled[index], tokens, self.background, per_template)

    def rows_of(self, classes: Sequence[int]) -> list[int]:
        """The rows of some of the classes, class by class."""
        if self.classes is None:
            return list(classes)
        return [row for index in classes for row, own in enumerate(self.classes) if own == index]

    def of_classes(self, classes: Sequence[int]) -> TextFeatures:
        """The features of some of the classes, in the order of `classes`.

        Words of the background stay.
        """
        if self.classes is None:
            return self.select(classes)
        words = [row for row, own in enumerate(self.classes) if own == NO_CLASS]
        rows = [*self.rows_of(classes), *words]
        places = {index: place for place, index in enumerate(classes)}
        return replace(
            self.select(rows),
            classes=tuple(places.get(self.classes[row], NO_CLASS) for row in rows),
            class_names=tuple(self.vocabulary[index] for index in classes),
        )


@dataclass(frozen=True)
class AuxiliaryMap:
    """Further score maps that the loss looks at, from an earlier layer for instance.

    Attributes:
        logits: (B, K, h, w).
        weight: Of their loss beside that of the final maps, whose weight is 1.
    """

    logits: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """What `forward` returns.

    Attributes:
        logits: (B, K, h, w), finite, one map a class; (B, 2, h, w), background and query class,
            from `QuerySegmenter.forward_query`.
        padded_size: Height and width in pixels that the maps cover: usually the image, padded to
            whole patches.
        extras: What else the loss needs, by name.
        align_corners: How the method's maps are resized: whether the first and last of them lie on
            the image's first and last pixel.
        auxiliary: Further maps with their loss weights.
    """

    logits: Tensor
    padded_size: tuple[int, int]
    extras: dict[str, Tensor] = field(default_factory=dict)
    align_corners: bool = False
    auxiliary: tuple[AuxiliaryMap, ...] = ()

    @property
    def maps(self) -> list[tuple[Tensor, float]]:
        """All score maps (B, K, h, w) with the weights of their losses, the final ones first."""
        return [(self.logits, 1.0), *((part.logits, part.weight) for part in self.auxiliary)]

    def resized(self, size: tuple[int, int], logits: Tensor | None = None) -> Tensor:
        """Logits (B, K, H, W) float32 on the pixels of an image: bilinear, the padding cut off.

        Args:
            size: H and W of the image.
            logits: Other maps that cover the same pixels; the prediction's own by default.
        """
        maps = self.logits if logits is None else logits
        maps = bilinear(maps, self.padded_size, align_corners=self.align_corners)
        return maps[..., : size[0], : size[1]]


def as_color(mean: Tensor) -> tuple[float, float, float]:
    """A mean (3, 1, 1) of images in 0..1, as a colour in 0..255."""
    red, green, blue = (255 * mean).flatten().tolist()
    return red, green, blue


class Tower:
    """A network that a method stands on.

    Args:
        module: The network.
        source: Where its weights came from: a name, a tag, a file.
    """

    def __init__(self, module: nn.Module, source: str) -> None:
        self.module, self.source = module, source

    @property
    def trained(self) -> bool:
        """Whether any of its parameters is trained; then a run folder stores it whole."""
        return any(parameter.requires_grad for parameter in self.module.parameters())

    @property
    def fingerprint(self) -> str:
        """A hash of every tensor, by name, in float32, and of the activations between them."""
        return network_fingerprint(self.module)


class Segmenter(nn.Module, ABC):
    """Base of every method.

    Attributes:
        PUBLISHED: Options a user tunes whose released value differs from our default.
        Options: Dataclass of the options that methods of a kind share; None if there is none.
        Quirks: Dataclass of what the released code does otherwise; its `released()` gives the
            released values.
        RELEASED: How its released checkpoints are converted; None if there are none.
        TINY: Options with which the method is small, for tests on a tiny CLIP.
        trainable: Whether the method has anything to train.
        trains_text: Whether training changes what `encode_text` returns; then it is called anew in
            every step, and gradients flow through it.
        needs_tokens: Whether it reads `TextFeatures.tokens`.
        needs_prompts: Whether it reads `TextFeatures.per_template`.
        starts_from_images: Whether `start_from` looks at training images.
        classwise: Whether the score of a class depends on its own logit alone and grows with it;
            then only classes that can win somewhere are looked at there.
        confidence_compares: Whether `confidence` needs the scores of all classes.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {}
    Options: ClassVar[Any] = None
    Quirks: ClassVar[Any] = None
    RELEASED: ClassVar[Released | None] = None
    TINY: ClassVar[dict[str, Any]] = {}
    trainable: ClassVar[bool] = True
    trains_text: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False
    needs_prompts: ClassVar[bool] = False
    starts_from_images: bool = False
    classwise: ClassVar[bool] = False
    confidence_compares: ClassVar[bool] = False

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.parameters()).device

    @property
    def towers(self) -> dict[str, Tower]:
        """The pretrained networks the method stands on, by the name of the submodule."""
        return {}

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the submodules that training leaves alone: towers of which nothing is trained.

        They stay in eval mode, and a run folder names them instead of storing them.
        """
        return tuple(name for name, tower in self.towers.items() if not tower.trained)

    @property
    def pad_color(self) -> tuple[float, float, float]:
        """The RGB colour, in 0..255, that becomes 0 when the method normalises images.

        Training crops are padded with it, as images are at inference.
        """
        return (0.0, 0.0, 0.0)

    def recompute_blocks(self, on: bool) -> None:
        """Whether training computes the blocks of CLIP's image tower again for their gradients.

        Raises:
            SettingError: On, and the method does not use that tower.
        """
        if on:
            raise SettingError(
                f"{type(self).__name__} does not use CLIP's image tower, which --train.recompute is"
                " for; leave it away"
            )

    def train(self, mode: bool = True) -> Segmenter:
        """Training mode for all but the frozen submodules."""
        super().train(mode)
        # A frozen tower must give the same features in training as at inference.
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    @abstractmethod
    def encode_text(self, vocabulary: Vocabulary) -> TextFeatures:
        """Encode the K classes of a plain vocabulary, for any number of calls of `forward`.

        `unseen.building.encode` takes any vocabulary and has its rows encoded here.

        Raises:
            VocabularyError: A class name that is too long for the text tower.
        """

    @abstractmethod
    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Score maps (B, K, h, w) of images (B, 3, H, W), RGB in 0..1, any size. Sees no labels."""

    def initialise(self) -> None:
        """Load what a new segmenter starts from, such as the weights of an image backbone.

        Called once after it is built, not when a trained run is loaded.
        """

    def start_from(self, images: Tensor, text: TextFeatures) -> None:
        """Set what a new training takes from some of its images before the first step.

        Not called where trained weights are loaded.

        Args:
            images: (B, 3, H, W), RGB in 0..1, of the first batch. No labels.
            text: The classes to train on.
        """

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Scalars by name, among them "total".

        Args:
            prediction: Of `forward`, or of `forward_query` for a `QuerySegmenter`.
            labels: (B, H, W) int64; indices of the classes of the forward pass, or 255.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to train")

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """What is averaged over windows and compared between classes, from logits (B, K, …).

        Args:
            logits: Maps, at any resolution.
            seen: Indices of the classes whose masks were trained on, for methods that calibrate
                their scores; None where no class is at an advantage, which callers see to. Of
                `classwise` methods some of the classes may be asked alone: it may then be empty, or
                all of those asked.
        """
        return logits

    def confidence(self, scores: Tensor, total: Tensor | None = None) -> Tensor:
        """The scores of the best classes as numbers in 0..1, for thresholds and reports.

        Args:
            scores: (B, H, W), of the best class of each pixel.
            total: (B, H, W), the logarithm of the sum of the exponentials of all classes' scores;
                None unless `confidence_compares`.
        """
        return scores.clamp(0, 1)

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors a run folder stores: all outside the frozen submodules."""
        # The tower comes from its own source; a copy of it would make every run folder huge.
        prefixes = tuple(f"{name}." for name in self.frozen)
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith(prefixes)
        }

    def parameter_groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """Parameters for the optimiser, with the learning rate ("lr") or decay of each group.

        By default weights decay, and norms and biases (one dimension) do not, unless
        `settings.decay_norms`; a group without "lr" has that of the settings.
        """
        # Frozen parameters have no gradient and need no optimiser state.
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return decay_groups(trained, settings)


def decay_groups(
    parameters: Sequence[nn.Parameter], settings: TrainSettings, **group: Any
) -> list[dict[str, Any]]:
    """Parameters as up to two groups: those that decay and those that do not.

    Args:
        parameters: What to train.
        settings: `weight_decay` and `decay_norms`.
        group: What both groups say besides, such as lr=1e-5.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        # Weights of layers are matrices or kernels; norms, biases and scales have one dimension.
        decays = parameter.ndim > 1 or settings.decay_norms
        (decayed if decays else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay, **group},
        {"params": others, "weight_decay": 0.0, **group},
    ]
    return [group for group in groups if group["params"]]


class QuerySegmenter(Segmenter):
    """Base of the methods that are asked for one query class an image.

    A method gives what does not depend on the class (`encode_images`) and the answer for query
    classes (`answer`). Training and folds call `forward_query`; `forward` asks every class.

    Attributes:
        needs_class_labels: Whether the labels of the loss tell the other classes of an image apart:
            above 1, every value is another class.
        classes_at_once: Query classes answered at a time, which bounds what is held.
    """

    classwise: ClassVar[bool] = True
    needs_class_labels: ClassVar[bool] = False
    classes_at_once: ClassVar[int] = 16

    @abstractmethod
    def encode_images(self, images: Tensor) -> Any:
        """What the answers for all classes share, from images (B, 3, H, W), RGB in 0..1."""

    @abstractmethod
    def answer(self, encoded: Any, query: TextFeatures) -> Prediction:
        """Background and query class, logits (B, 2, h, w).

        Args:
            encoded: What `encode_images` made of B images; of a single one for any number of
                classes.
            query: B classes.
        """

    def forward_query(self, images: Tensor, query: TextFeatures) -> Prediction:
        """Logits (B, 2, h, w), background and query class, of B images with a class each."""
        return self.answer(self.encode_images(images), query)

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w): how far the class's logit is above the background's."""
        # One image at a time: K answers an image are held, not B·K.
        maps = []
        for image in images:
            encoded = self.encode_images(image.unsqueeze(0))
            answers = [
                self.answer(encoded, text.select(range(start, end)))
                for start, end in _ranges(len(text), self.classes_at_once)
            ]
            # One map a class: (2, h, w) of background and class become their difference.
            maps.append(torch.cat([part.logits[:, 1] - part.logits[:, 0] for part in answers]))
        return Prediction(
            torch.stack(maps), answers[0].padded_size, align_corners=answers[0].align_corners
        )

    def confidence(self, scores: Tensor, total: Tensor | None = None) -> Tensor:
        """The probability of the class against the background."""
        return scores.sigmoid()


def _ranges(count: int, step: int) -> list[tuple[int, int]]:
    """(start, end) of consecutive parts of at most `step` out of `count`."""
    return [(start, min(start + step, count)) for start in range(0, count, step)]
