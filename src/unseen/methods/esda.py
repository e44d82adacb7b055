"""ESDA: a frozen CLIP whose image tower reads the query class early, and a decoder behind it.

Li et al., "ESDA: Zero-shot semantic segmentation based on an embedding semantic space distribution
adjustment strategy", Image and Vision Computing 2025, doi 10.1016/j.imavis.2025.105456. Given an
image and a query class, it tells for each pixel whether it shows that class. The text feature takes
the class token's place in some blocks; every block has a rank-2 linear adapter beside it; the
cosines of the patches with a prototype (from the mask, while training) or with the text token are
*prior maps*, which the loss pulls towards the mask.

What is known of the method is its abstract, its figure and its released code, which contradict each
other in places. What the code does otherwise than we is collected in `ESDAQuirks`;
`docs/methods/esda.md` lists it with numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.blocks import make_block, run_block
from unseen.backbones.clip.templates import Templated
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import RELEASED_TOWER, ClipSegmenter, TowerQuirks
from unseen.errors import SettingError, VocabularyError
from unseen.labels import IGNORE
from unseen.modules.attention import NeighbourAttention
from unseen.modules.decoders import check_heads
from unseen.modules.losses import cross_entropy
from unseen.modules.priors import prior_map
from unseen.released import Released
from unseen.segmenter import Prediction, QuerySegmenter, TextFeatures
from unseen.vocabulary import Vocabulary

MASS = 5e-4
"""Added to the number of pixels a prototype is averaged over, so that an image without any has the
prototype 0."""


@dataclass(frozen=True)
class ESDAQuirks(TowerQuirks):
    """What the released code does otherwise.

    Attributes:
        text_start: How the map from text features to class tokens starts: "projection", the
            transpose of CLIP's own projection, so that the last prior map is CLIP's similarity at
            first; or "random" (released).
        last_block: What the patches are after the last block: "local", with attention to near
            patches (`NeighbourAttention`), because CLIP's own last block mixes the whole image into
            every patch; or "released", as any block leaves them.
        head_input: What enters the head: "balanced", normalised patches and the prior map, shifted
            to -½..½, as large as all their channels together; or "released", both as they are, the
            prior map one of C + 1 channels.
        token_order: `Interactor`.
        prior_logit_order: Which of a prior map's two logits belongs to the class: "foreground" its
            own, or "released" the background's.
        ignored_as: What a pixel with the ignore label is to the losses: left out ("ignore"), or
            "background" (released, which overwrites the labels).
    """

    text_start: Literal["projection", "random"] = "projection"
    last_block: Literal["local", "released"] = "local"
    head_input: Literal["balanced", "released"] = "balanced"
    token_order: Literal["released", "aligned"] = "aligned"
    prior_logit_order: Literal["released", "foreground"] = "foreground"
    ignored_as: Literal["ignore", "background"] = "ignore"

    @classmethod
    def released(cls) -> ESDAQuirks:
        """The released values."""
        return cls(
            **RELEASED_TOWER,
            train_grid=(30, 30),
            text_start="random",
            last_block="released",
            head_input="released",
            token_order="released",
            prior_logit_order="released",
            ignored_as="background",
        )


@dataclass(frozen=True)
class Encoded:
    """Images on their way through the tower, as far as the query class is not needed.

    Attributes:
        tokens: (B, 1 + N, C), what enters the first block that reads the text.
        patches: (B, N, C) after each block before; empty outside of training.
        grid: h and w; N = h·w.
        padded_size: Height and width in pixels that the patches cover.
    """

    tokens: Tensor
    patches: list[Tensor]
    grid: tuple[int, int]
    padded_size: tuple[int, int]


class Interactor(nn.Module):
    """Text tokens and patches, together and apart, in two rounds.

    The text tokens are the class's text feature, the tokens of its prompt, and the text feature
    joined with the image's vector.

    Args:
        clip: Gives the widths.
        num_heads: Of every block.
        token_order: "released": a round passes on [patches; text], while the next reads the patches
            from the end, so that they are mixed up from the second round on; "aligned":
            [text; patches] throughout.
    """

    def __init__(
        self, clip: CLIP, num_heads: int, token_order: Literal["released", "aligned"]
    ) -> None:
        super().__init__()
        width, embed_dim = clip.width, clip.embed_dim
        self.token_order = token_order
        self.text_embedding_proj = nn.Linear(clip.text_width, width)
        # The released towers have the same text width and joint width, and one projection for both.
        self.word_proj: nn.Linear | None = None
        if clip.text_width != embed_dim:
            self.word_proj = nn.Linear(embed_dim, width)
        self.text_img_concat_proj = nn.Linear(2 * embed_dim, width)
        self.together = nn.ModuleList(make_block(width, num_heads) for _ in range(2))
        self.patches = nn.ModuleList(make_block(width, num_heads) for _ in range(2))
        self.support = make_block(width, num_heads)

    def forward(self, text: TextFeatures, image: Tensor, patches: Tensor) -> Tensor:
        """The patches (B, N, C) after the interaction.

        Args:
            text: B query classes with their tokens.
            image: The images' vectors (B, D).
            patches: (B, N, C).
        """
        assert text.tokens is not None
        word_proj = self.word_proj or self.text_embedding_proj
        joined = self.text_img_concat_proj(torch.cat([text.pooled, image], dim=-1)).unsqueeze(1)
        feature = word_proj(text.pooled).unsqueeze(1)
        tokens = self.text_embedding_proj(text.tokens)
        support = torch.cat([feature, tokens, joined], dim=1)  # (B, 1 + T + 1, C)
        count = patches.shape[1]
        x = torch.cat([support, patches], dim=1)
        for turn in range(2):
            x = run_block(self.together[turn], x)
            support, patches = x[:, :-count], run_block(self.patches[turn], x[:, -count:])
            if turn == 0:
                support = run_block(self.support, support)
            # The next round reads the last `count` tokens as patches.
            aligned = self.token_order == "aligned"
            x = torch.cat([support, patches] if aligned else [patches, support], dim=1)
        return x[:, -count:]


def _released_options(state: dict[str, Tensor]) -> dict[str, Any]:
    # The position table has been resized to the training grid already.
    options: dict[str, Any] = {"train_grid": None, "adapters": "image_encoder.prompt.0" in state}
    if options["adapters"]:
        options["rank"] = state["image_encoder.prompt.0"].shape[1]
    return options


RELEASED = Released(
    mark="image_encoder.",
    towers=("image_encoder.", "text_encoder."),
    names=(
        (r"image_encoder\.(text_cls_proj\..*)", r"\1"),
        (r"image_encoder\.prompt\.(.*)", r"adapters.\1"),
        (r"image_encoder\.(.*)", r"clip.visual.\1"),
        (r"text_encoder\.(.*)", r"clip.text.\1"),
        (r"decoder\.VL_interaction\.(\d)\.resblocks\.0\.(.*)", r"interactor.together.\1.\2"),
        (r"decoder\.IEE\.(\d)\.resblocks\.0\.(.*)", r"interactor.patches.\1.\2"),
        (r"decoder\.SSE\.0\.resblocks\.0\.(.*)", r"interactor.support.\1"),
        (r"decoder\.(text_\w+_proj\..*)", r"interactor.\1"),
        (r"decoder\.res2\.([02]\..*)", r"head.\1"),
        (r"decoder\.cls\.0\.(.*)", r"head.4.\1"),
        (r"decoder\.cls\.3\.(.*)", r"head.7.\1"),
    ),
    options=_released_options,
    folds=True,
)


class ESDA(QuerySegmenter, ClipSegmenter):
    """ESDA.

    Args:
        clip: The frozen tower.
        rank: Of the adapters.
        adapters: Whether blocks have adapters.
        text_blocks: Blocks, from 0, whose class token is the query class's text feature.
        prior_blocks: Blocks before the last whose prior maps are in the loss; all by default.
        decoder_heads: Heads of the interactor's blocks; the image tower's by default.
        dropout: On whole channels of the head.
        prior_weights: Weights of the last prior map's loss and of the mean of the others'.
        templates: The one prompt a class name is put in; released: the bare "name".
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"templates": "name"}
    Quirks = ESDAQuirks
    RELEASED = RELEASED
    TINY: ClassVar[dict[str, Any]] = {"text_blocks": (1,)}
    needs_tokens: ClassVar[bool] = True

    def __init__(
        self,
        clip: CLIP,
        *,
        rank: int = 2,
        adapters: bool = True,
        text_blocks: tuple[int, ...] = (2, 3, 4),
        prior_blocks: tuple[int, ...] | None = None,
        decoder_heads: int | None = None,
        dropout: float = 0.1,
        prior_weights: tuple[float, float] = (0.2, 0.1),
        templates: Templated = "single",
        quirks: ESDAQuirks | None = None,
    ) -> None:
        self.quirks = quirks or ESDAQuirks()
        super().__init__(clip, templates=templates, quirks=self.quirks)
        if len(self.templates) != 1:
            raise SettingError(
                f"ESDA reads the tokens of one prompt, and the templates {templates!r} hold"
                f" {len(self.templates)}; choose 'single' or 'name'"
            )
        last = clip.num_layers - 1
        self.prior_blocks = tuple(range(last)) if prior_blocks is None else tuple(prior_blocks)
        self.text_blocks = tuple(text_blocks)
        _check_blocks("text_blocks", self.text_blocks, clip.num_layers)
        _check_blocks("prior_blocks", self.prior_blocks, last)
        self.prior_weights = prior_weights
        # The released decoder copies the image tower's blocks.
        heads = decoder_heads or clip.visual.transformer.resblocks[0].attn.num_heads
        check_heads(heads, clip.width)
        self.text_cls_proj = nn.Linear(clip.embed_dim, clip.width)
        if self.quirks.text_start == "projection":
            self._start_as_projection()
        # Used after the last block only, where `last_block` is "local".
        self.neighbour_attention = NeighbourAttention()
        # Down and up projection in turn, block by block; up starts at 0, so that nothing changes.
        projections: list[Tensor] = []
        for _ in range(clip.num_layers):
            projections += [torch.randn(clip.width, rank), torch.zeros(rank, clip.width)]
        self.adapters = nn.ParameterList(projections if adapters else [])
        self.interactor = Interactor(clip, heads, self.quirks.token_order)
        self.head = _head(clip.width + 1, dropout)

    @torch.no_grad()
    def _start_as_projection(self) -> None:
        """Start the last prior map as CLIP's similarity.

        It compares patches f with W t, and finish(f)·t = norm(f)·(P t) with the projection P, the
        final norm's scale taken into it.
        """
        visual = self.clip.visual
        self.text_cls_proj.weight.copy_(visual.ln_post.weight[:, None] * visual.proj)
        self.text_cls_proj.bias.zero_()

    @torch.no_grad()
    def encode_text(self, vocabulary: Vocabulary) -> TextFeatures:
        """Text features (K, D) and tokens (K, T, text width) of one prompt a class.

        Neither is normalised. Of text features from a file each is the only token of its class.
        """
        if self.stored_text is not None:
            stored = self.stored_text.encode_names(vocabulary.names, self.templates)
            return TextFeatures(vocabulary.names, stored, tokens=stored.unsqueeze(1))
        template = self.templates[0]
        names = [_only_name(vocabulary, name) for name in vocabulary.names]
        ids = self.clip.tokenize([template.format(name) for name in names])
        pooled, tokens = self.clip.encode_tokens(ids.to(self.device))
        return TextFeatures(vocabulary.names, pooled, tokens=tokens)

    def encode_images(self, images: Tensor) -> Encoded:
        """The blocks before the first that reads the query class."""
        images, covered = self.covered(images)
        grid = self.clip.grid(images)
        x = self.embed(images)
        patches = []
        for layer in range(min(self.text_blocks, default=self.clip.num_layers)):
            x = self._block(layer, x, grid)
            if self.training:
                patches.append(x[:, 1:])
        return Encoded(x, patches, grid, covered)

    def answer(self, encoded: Encoded, query: TextFeatures) -> Prediction:
        """Logits (B, 2, h, w), background and query class.

        Extras: `prior`, the last block's prior map (B, 1, h, w); while training `block_i`, the
        patches (B, N, C) the other priors are made of.
        """
        # The text feature in the image tower's width.
        class_token = self.text_cls_proj(query.pooled)  # (B, C)
        x, after = self._text_blocks(encoded, class_token)
        count, grid = len(query), encoded.grid
        image = F.normalize(self.clip.finish(x[:, 0]), dim=-1).expand(count, -1)
        last = x[:, 1:].expand(count, -1, -1)
        prior = prior_map(last, class_token).view(-1, 1, *grid)
        patches, channel = self.interactor(query, image, last), prior
        # One channel beside C larger ones is hardly read: the prior gets the weight of all of them.
        if self.quirks.head_input == "balanced":
            patches = F.layer_norm(patches, patches.shape[-1:])
            channel = (prior - 0.5) * patches.shape[-1] ** 0.5
        patches = patches.transpose(1, 2).reshape(count, -1, *grid)
        logits = self.head(torch.cat([patches, channel.to(patches.dtype)], dim=1))
        extras = {"prior": prior}
        if self.training:
            extras |= {f"block_{i}": after[i] for i in self.prior_blocks}
        return Prediction(logits, encoded.padded_size, extras, align_corners=True)

    def _text_blocks(self, encoded: Encoded, class_token: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The tokens after the last block, and while training the patches after every block."""
        x, patches = encoded.tokens, list(encoded.patches)
        for layer in range(
            min(self.text_blocks, default=self.clip.num_layers), self.clip.num_layers
        ):
            if layer in self.text_blocks:
                others = x[:, 1:].expand(len(class_token), -1, -1)
                x = torch.cat([class_token.unsqueeze(1), others], dim=1)
            x = self._block(layer, x, encoded.grid)
            if self.training:
                patches.append(x[:, 1:])
        return x, patches

    def _block(self, layer: int, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """A block of the tower with its adapter, on tokens (B, 1 + N, C)."""
        y = self.clip.block(layer, x)
        if layer == self.clip.num_layers - 1 and self.quirks.last_block == "local":
            block = self.clip.visual.transformer.resblocks[layer]
            y = torch.cat([y[:, :1], self.neighbour_attention(block, x, grid)[:, 1:]], dim=1)
        if self.adapters:
            y = y + x @ self.adapters[2 * layer] @ self.adapters[2 * layer + 1]
        return y

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `mask`, `prior_last`, `prior_others`, and their sum `total`.

        Args:
            prediction: Of `forward_query`.
            labels: (B, H, W) of 1 (the query class), 0 and 255.
        """
        size = (labels.shape[-2], labels.shape[-1])
        if self.quirks.ignored_as == "background":
            # A new tensor: labels are never edited in place.
            labels = torch.where(labels == IGNORE, 0, labels)
        *earlier, last = self.priors(prediction, labels)
        others = [self._prior_loss(prior, prediction, labels) for prior in earlier]
        mean_of_others = torch.zeros((), device=labels.device)
        if others:
            mean_of_others = torch.stack(others).mean()
        losses = {
            "mask": cross_entropy(prediction.resized(size), labels),
            "prior_last": self.prior_weights[0] * self._prior_loss(last, prediction, labels),
            "prior_others": self.prior_weights[1] * mean_of_others,
        }
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def priors(self, prediction: Prediction, labels: Tensor) -> list[Tensor]:
        """Prior maps (B, 1, h, w): of `prior_blocks`, then of the last block.

        The prototype of an earlier block is the mean of its patches under the mask.
        """
        h, w = prediction.extras["prior"].shape[-2:]
        padded_h, padded_w = prediction.padded_size
        padding = (0, padded_w - labels.shape[-1], 0, padded_h - labels.shape[-2])
        mask = F.pad((labels == 1).float(), padding).unsqueeze(1)
        mask = F.interpolate(mask, (h, w), mode="bilinear", align_corners=True)
        weights = mask.flatten(1)  # (B, N)
        mass = weights.sum(dim=1, keepdim=True) + MASS
        priors = []
        for block in self.prior_blocks:
            patches = prediction.extras[f"block_{block}"].float().expand(len(weights), -1, -1)
            prototype = (weights.unsqueeze(2) * patches).sum(dim=1) / mass
            priors.append(prior_map(patches, prototype).view(-1, 1, h, w))
        return [*priors, prediction.extras["prior"]]

    def _prior_loss(self, prior: Tensor, prediction: Prediction, labels: Tensor) -> Tensor:
        """Cross-entropy of a prior map, read as the two logits of background and class."""
        two = torch.cat([1 - prior, prior], dim=1)
        if self.quirks.prior_logit_order == "released":
            two = two.flip(1)
        size = (labels.shape[-2], labels.shape[-1])
        return cross_entropy(prediction.resized(size, two), labels)


def _check_blocks(name: str, blocks: tuple[int, ...], allowed: int) -> None:
    if any(not 0 <= block < allowed for block in blocks):
        raise SettingError(
            f"{name} is {list(blocks)}, but blocks are counted from 0 to {allowed - 1} in this"
            " tower; give such numbers"
        )


def _only_name(vocabulary: Vocabulary, name: str) -> str:
    """What a class is asked by.

    Raises:
        VocabularyError: Several names, whose tokens have no mean.
    """
    names = vocabulary.names_of(name)
    if len(names) > 1:
        raise VocabularyError(
            f"ESDA reads the tokens of one name a class, and {name!r} has {len(names)}; give one"
            " each, or --combine max in an evaluation"
        )
    return names[0]


def _head(channels: int, dropout: float) -> nn.Sequential:
    """Three convolutions from patches and prior map to the two logits."""
    layers: list[nn.Module] = []
    for width in (256, 128, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Dropout2d(dropout), nn.Conv2d(64, 2, 1))
