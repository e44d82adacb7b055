"""ESDA: a frozen CLIP whose image tower reads the word early, and a decoder in which words and
patches interact.

Li et al., "ESDA: Zero-shot semantic segmentation based on an embedding semantic space distribution
adjustment strategy", Image and Vision Computing 2025, doi 10.1016/j.imavis.2025.105456. Given one
word and an image, it says for each pixel whether it shows that word (binary). The word's vector
takes the class token's place in some blocks; every block has a rank-2 linear adapter beside it; the
cosines of the patches with a prototype (from the mask, while training) or with the word's token are
*prior maps*, which the loss pulls towards the mask.

What is known of the method is its abstract, its figure and its released code, which contradict each
other in places. Each is a named option; the defaults are what we found right, `PUBLISHED` holds the
released values. `docs/methods/esda.md` lists them with numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip import CLIP, Resize, make_block, run_block
from unseen.errors import SettingError
from unseen.labels import IGNORE
from unseen.modules.attention import check_heads
from unseen.modules.losses import cross_entropy
from unseen.segmenter import ClipSegmenter, Kind, Prediction, TextFeatures, check_names

EPS = 1e-7
MASS = 5e-4
"""Added to a prototype's mass of pixels, so that an image without any has the prototype 0."""


class Interactor(nn.Module):
    """Support tokens (the word, its tokens, the word with the image) and patches, together and
    apart, in two rounds.

    Args:
        width: C of the image tower.
        embed_dim: D, joint width.
        text_width: Width of the text tower's tokens.
        num_heads: Of every block.
        token_order: "released": a round hands on [patches; support], while the next reads the
            patches from the end, so that they are mixed up from the second round on; "aligned":
            [support; patches] throughout.
    """

    def __init__(
        self,
        width: int,
        embed_dim: int,
        text_width: int,
        num_heads: int,
        token_order: Literal["released", "aligned"],
    ) -> None:
        super().__init__()
        self.token_order = token_order
        self.text_embedding_proj = nn.Linear(text_width, width)
        self.word_proj = (
            nn.Linear(embed_dim, width) if text_width != embed_dim else None
        )  # released towers have one width, and one projection
        self.text_img_concat_proj = nn.Linear(2 * embed_dim, width)
        self.together = nn.ModuleList(make_block(width, num_heads) for _ in range(2))
        self.patches = nn.ModuleList(make_block(width, num_heads) for _ in range(2))
        self.support = make_block(width, num_heads)

    def forward(self, text: TextFeatures, picture: Tensor, patches: Tensor) -> Tensor:
        """Patches (B, N, C) after the interaction, of words, the image's vector (B, D) and its
        patches (B, N, C).
        """
        assert text.tokens is not None
        of_word, of_tokens = self.word_proj or self.text_embedding_proj, self.text_embedding_proj
        both = self.text_img_concat_proj(torch.cat([text.pooled, picture], dim=-1)).unsqueeze(1)
        support = torch.cat(
            [of_word(text.pooled).unsqueeze(1), of_tokens(text.tokens), both], dim=1
        )  # (B, 1 + T + 1, C)
        count = patches.shape[1]
        x = torch.cat([support, patches], dim=1)
        for turn in range(2):
            x = run_block(self.together[turn], x)
            rest, last = x[:, :-count], run_block(self.patches[turn], x[:, -count:])
            rest = run_block(self.support, rest) if turn == 0 else rest
            x = torch.cat([last, rest] if self.token_order == "released" else [rest, last], dim=1)
        return x[:, -count:]


class ESDA(ClipSegmenter):
    """ESDA.

    Args:
        clip: The frozen tower.
        rank: Of the adapters.
        adapters: Whether blocks have adapters.
        text_blocks: Blocks, from 0, whose class token is the word.
        word_start: How the map from words to class tokens starts: "projection", the transpose of
            CLIP's own projection, so that the last prior map is CLIP's similarity at first; or
            "random" (released).
        last_block: What the patches are after the last block: "released", as any block leaves them;
            "local", NACLIP's (`CLIP.local_block`): plain CLIP's last block spreads the image over
            its patches, so that the prior map has to be found anew from the seen words.
        prior_blocks: Blocks before the last whose prior maps are in the loss; all by default.
        head_input: What meets in the head: "balanced", patches normed and the prior map, made
            -½..½, as large as all their channels together; or "released", both as they are, the
            prior map one of C + 1 channels.
        decoder_heads: Heads of the interactor's blocks; the image tower's by default.
        dropout: On whole channels of the head.
        token_order: `Interactor`.
        prior_logit_order: Which of a prior map's two logits speaks for the word: "released" the
            background's, "foreground" its own.
        prior_weights: Weights of the last prior map's loss and of the mean of the others'.
        templates: The one sentence the word is put in; released: the bare "name".
        normalization: Statistics of the images: CLIP's own, or ImageNet's as released.
        class_embedding_twice: Add CLIP's class embedding a second time (released: yes, by mistake).
        void: What a 255 pixel is to the losses: "ignore", or "background" (released, which
            overwrites the labels).
        resize: How the position table is resized ("bilinear" as released).
        train_grid: A grid the position table goes through first; released: the one of the training
            images.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "word_start": "random",
        "last_block": "released",
        "head_input": "released",
        "token_order": "released",
        "prior_logit_order": "released",
        "templates": "name",
        "normalization": "imagenet",
        "class_embedding_twice": True,
        "void": "background",
        "resize": "bilinear",
        "train_grid": (30, 30),
    }
    kind: ClassVar[Kind] = "binary"
    reads_tokens: ClassVar[bool] = True

    def __init__(
        self,
        clip: CLIP,
        *,
        rank: int = 2,
        adapters: bool = True,
        text_blocks: tuple[int, ...] = (2, 3, 4),
        word_start: Literal["projection", "random"] = "projection",
        last_block: Literal["local", "released"] = "local",
        prior_blocks: tuple[int, ...] | None = None,
        head_input: Literal["balanced", "released"] = "balanced",
        decoder_heads: int | None = None,
        dropout: float = 0.1,
        token_order: Literal["released", "aligned"] = "aligned",
        prior_logit_order: Literal["released", "foreground"] = "foreground",
        prior_weights: tuple[float, float] = (0.2, 0.1),
        templates: str = "single",
        normalization: Literal["clip", "imagenet"] = "clip",
        class_embedding_twice: bool = False,
        void: Literal["ignore", "background"] = "ignore",
        resize: Resize = "bicubic",
        train_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(clip, templates=templates, normalization=normalization)
        if len(self.templates) != 1:
            raise SettingError(
                f"ESDA reads the tokens of one sentence, and the templates {templates!r} hold"
                f" {len(self.templates)}; choose 'single' or 'name'"
            )
        earlier = range(clip.num_layers - 1)
        self.prior_blocks = tuple(earlier) if prior_blocks is None else tuple(prior_blocks)
        self.text_blocks = tuple(text_blocks)
        for name, given, allowed in (
            ("text_blocks", self.text_blocks, clip.num_layers),
            ("prior_blocks", self.prior_blocks, clip.num_layers - 1),
        ):
            if any(not 0 <= block < allowed for block in given):
                raise SettingError(
                    f"{name} is {list(given)}, but they are counted from 0 to {allowed - 1} in this"
                    " tower; give such numbers"
                )
        heads = decoder_heads or clip.visual.transformer.resblocks[0].attn.num_heads
        check_heads(heads, clip.width)
        self.class_embedding_twice, self.void, self.prior_logit_order, self.prior_weights = (
            class_embedding_twice,
            void,
            prior_logit_order,
            prior_weights,
        )
        self.head_input, self.last_block = head_input, last_block
        self.resize, self.train_grid = resize, tuple(train_grid) if train_grid is not None else None
        self.text_cls_proj = nn.Linear(clip.embed_dim, clip.width)
        if word_start == "projection":
            # The last prior map compares patches f with W t; finish(f)·t = norm(f)·(P t), P the
            # projection with the final norm's scale.
            with torch.no_grad():
                self.text_cls_proj.weight.copy_(
                    clip.visual.ln_post.weight[:, None] * clip.visual.proj
                )
                self.text_cls_proj.bias.zero_()
        down_up = [
            make
            for _ in range(clip.num_layers)
            for make in (torch.randn(clip.width, rank), torch.zeros(rank, clip.width))
        ]
        self.adapters = nn.ParameterList(
            down_up if adapters else []
        )  # down and up in turn, block by block
        self.interactor = Interactor(
            clip.width, clip.embed_dim, clip.text_width, heads, token_order
        )
        self.head = nn.Sequential(
            nn.Conv2d(clip.width + 1, 256, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(256, 128, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(128, 64, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(64, 2, 1),
        )

    @torch.no_grad()
    def encode_text(self, names: Sequence[str]) -> TextFeatures:
        """`pooled` (K, D) as the tower gives it, not made unit, and `tokens` (K, T, text width),
        all of the context, of one sentence a word.
        """
        names = check_names(names)
        ids = self.clip.tokenize([self.templates[0].format(name) for name in names]).to(self.device)
        pooled, tokens = self.clip.encode_tokens(ids)
        return TextFeatures(names, pooled, tokens)

    def encode_image(
        self, images: Tensor, text: TextFeatures
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """The class token's unit vector (B, D), the patches (B, N, C) after the last block (while
        training after every one), the word's token (B, C).

        Blocks that have not met the word yet are computed once for a single image asked several
        words.
        """
        x = self.clip.embed(
            images,
            resize=self.resize,
            via=self.train_grid,  # type: ignore[arg-type]
            twice=self.class_embedding_twice,
        )
        last = self.clip.num_layers - 1
        word = self.text_cls_proj(text.pooled)  # (B, C)
        after = []
        for layer in range(self.clip.num_layers):
            if layer in self.text_blocks:
                x = torch.cat([word.unsqueeze(1), x[:, 1:].expand(len(word), -1, -1)], dim=1)
            y = self.clip.block(layer, x)
            if layer == last and self.last_block == "local":
                y = torch.cat(
                    [y[:, :1], self.clip.local_block(x, self.clip.grid(images))[:, 1:]], dim=1
                )
            if self.adapters:
                y = y + x @ self.adapters[2 * layer] @ self.adapters[2 * layer + 1]
            x = y
            if self.training or layer == last:
                after.append(x[:, 1:])
        picture = F.normalize(self.clip.finish(x[:, 0]), dim=-1)
        after[-1] = after[-1].expand(len(word), -1, -1)
        return picture.expand(len(word), -1), after, word

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, 2, h, w), background and word, of images (B, 3, H, W), RGB in 0..1, and B
        words; a single image is asked every word.

        Extras: `prior`, the last block's prior map (B, 1, h, w); while training `block_i`, the
            patches (B, N, C) the other priors are made of.
        """
        h, w = self.clip.grid(images)
        picture, after, word = self.encode_image(images, text)
        prior = prior_map(after[-1], word).view(-1, 1, h, w)
        patches, channel = self.interactor(text, picture, after[-1]), prior
        if self.head_input == "balanced":
            patches, channel = (
                F.layer_norm(patches, patches.shape[-1:]),
                (prior - 0.5) * patches.shape[-1] ** 0.5,
            )
        patches = patches.transpose(1, 2).reshape(len(word), -1, h, w)
        logits = self.head(torch.cat([patches, channel.to(patches.dtype)], dim=1))
        extras = {"prior": prior} | (
            {f"block_{i}": after[i] for i in self.prior_blocks} if self.training else {}
        )
        return Prediction(
            logits, (h * self.clip.patch_size, w * self.clip.patch_size), extras, align_corners=True
        )

    def scores(self, logits: Tensor, seen: Sequence[int] | None) -> Tensor:
        """The differences of a word's two logits, as they are: above 0 the released code calls a
        pixel the word's.
        """
        return logits

    def confidence(self, scores: Tensor) -> Tensor:
        """Probabilities of the words."""
        return scores.sigmoid()

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Terms `mask`, `prior_last`, `prior_others`, weighted, and their sum `total`, for labels
        (B, H, W) of 1 (the word), 0 and 255.
        """
        size = (labels.shape[-2], labels.shape[-1])
        if self.void == "background":
            labels = torch.where(labels == IGNORE, 0, labels)
        priors = self.priors(prediction, labels)
        others = [self._prior_loss(prior, prediction, labels) for prior in priors[:-1]]
        losses = {
            "mask": cross_entropy(prediction.resized(size), labels),
            "prior_last": self.prior_weights[0] * self._prior_loss(priors[-1], prediction, labels),
            "prior_others": (
                self.prior_weights[1]
                * (torch.stack(others).mean() if others else torch.zeros((), device=labels.device))
            ),
        }
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def priors(self, prediction: Prediction, labels: Tensor) -> list[Tensor]:
        """Prior maps (B, 1, h, w): of `prior_blocks`, each with the mean patch under the mask as
        prototype, then the last block's.
        """
        h, w = prediction.extras["prior"].shape[-2:]
        covers = prediction.covers
        mask = F.pad(
            (labels == 1).float(),
            (0, covers[1] - labels.shape[-1], 0, covers[0] - labels.shape[-2]),
        ).unsqueeze(1)
        small = F.interpolate(mask, (h, w), mode="bilinear", align_corners=True).flatten(
            1
        )  # (B, N)
        found = []
        for i in self.prior_blocks:
            patches = prediction.extras[f"block_{i}"].float().expand(len(small), -1, -1)
            prototype = (small.unsqueeze(2) * patches).sum(dim=1) / (
                small.sum(dim=1, keepdim=True) + MASS
            )
            found.append(prior_map(patches, prototype).view(-1, 1, h, w))
        return [*found, prediction.extras["prior"]]

    def _prior_loss(self, prior: Tensor, prediction: Prediction, labels: Tensor) -> Tensor:
        order = [1 - prior, prior] if self.prior_logit_order == "foreground" else [prior, 1 - prior]
        two = Prediction(torch.cat(order, dim=1), prediction.covers, align_corners=True)
        return cross_entropy(two.resized((labels.shape[-2], labels.shape[-1])), labels)


def prior_map(patches: Tensor, prototype: Tensor) -> Tensor:
    """Cosines (B, N) of patches (B, N, C) with a prototype (B, C), stretched to 0..1 in every
    image; 0 everywhere for a prototype of 0.
    """
    patches, prototype = patches.float(), prototype.float()
    # Products and sums, not a matrix product: autocast would round that to bf16, and stretching
    # makes the rounding large.
    cosine = (patches * prototype.unsqueeze(1)).sum(dim=-1) / (
        patches.norm(dim=-1) * prototype.norm(dim=-1, keepdim=True) + EPS
    )
    low, high = cosine.amin(dim=1, keepdim=True), cosine.amax(dim=1, keepdim=True)
    stretched: Tensor = (cosine - low) / (high - low + EPS)
    return stretched
