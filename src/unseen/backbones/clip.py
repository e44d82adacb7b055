"""CLIP by way of open_clip: the image tower walked block by block, the text tower, the tokenizer,
and the files weights come in.

Radford et al. 2021, arXiv 2103.00020. Methods never call the towers of open_clip: they call
`embed`, `blocks` and `finish`, between which they may add tokens, masks and adapters or read any
layer. Walked without changes, the tower returns what open_clip returns, bit for bit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import open_clip
import torch
from open_clip.transformer import (
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
)
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import read_state_dict
from unseen.errors import CheckpointError, SettingError, VocabularyError

Resize = Literal["bicubic", "bilinear"]
DOODLES = "doodles"
"""The source name of the small CLIP that comes with the package; knows the twenty words of
`unseen.data.doodles`."""
NO_TOWER = "none"
"""The source name of a text tower that is not there: the words' vectors come from a file."""

IMAGENET_MEAN, IMAGENET_STD = (
    (123.675 / 255, 116.28 / 255, 103.53 / 255),
    (
        58.395 / 255,
        57.12 / 255,
        57.375 / 255,
    ),
)
"""Statistics the released ZegCLIP, CLIP-RC and ESDA normalise with, although CLIP was trained with
its own."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "single": ("a photo of a {}",),
    "no_article": ("a photo of {}",),
    "multi": (
        "a photo of a {}.", "a photo of a small {}.", "a photo of a medium {}.", "a photo of a large {}.", "This is a photo of a {}.",
        "This is a photo of a small {}.", "This is a photo of a medium {}.", "This is a photo of a large {}.", "a {} in the scene.",
        "a photo of a {} in the scene.", "There is a {} in the scene.", "There is the {} in the scene.", "This is a {} in the scene.",
        "This is the {} in the scene.", "This is one {} in the scene.",
    ),
    "imagenet": tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES),
}  # fmt: skip
"""Sentence patterns: the bare name; one sentence (VOC); the same without article (EdgeCLIP's
figure); the 15 of ZegCLIP's "multi" (COCO-Stuff, Context); the 80 of the CLIP paper."""


KEPT = 16
"""The most tables kept for image sizes met before; images of many sizes would otherwise fill
the memory."""


def attention(attn: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Self-attention with the weights of `attn`.

    Args:
        attn: The weights; q, k and v stacked in `in_proj_weight`.
        x: Tokens (B, T, C).
        mask: Broadcastable to (B, heads, T, T): bool, True where attention is allowed, or float,
            added to the scores.
    """
    q, k, v = split_heads(attn, x)
    return merge_heads(attn, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def split_heads(attn: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, T, C / heads) of tokens (B, T, C)."""
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)  # (B, T, 3C)
    q, k, v = qkv.view(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return q, k, v


def merge_heads(attn: nn.MultiheadAttention, y: Tensor) -> Tensor:
    """The output projection of per-head results (B, heads, T, C / heads), as tokens (B, T, C)."""
    out: Tensor = attn.out_proj(y.transpose(1, 2).flatten(2))
    return out


class CLIPText(nn.Module):
    """The text half of a CLIP: frozen, always in eval mode.

    Args:
        text: The tower; None for a model whose words come from a file of text embeddings.
        embed_dim: D.
        source: Where the weights came from, as given to `load_text`.
        config: open_clip's configuration, where it is known.

    Attributes:
        source: As given.
        config: As given.
        embed_dim: D, channels of the space shared by images and words.
        text_width: Channels of the text tower.
        context_length: The most tokens a sentence may have, start and end included.
    """

    def __init__(
        self,
        text: open_clip.CLIP | TextTransformer | None,
        embed_dim: int,
        *,
        source: str = "",
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.text = None if text is None else _TextTower(text)
        self.embed_dim, self.source, self.config = embed_dim, source, config
        self.text_width = 0 if self.text is None else len(self.text.ln_final.weight)
        self.context_length = 0 if self.text is None else len(self.text.positional_embedding)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever is asked."""
        return super().train(False)

    def state_to_save(self, *, lossless: bool = False) -> dict[str, Tensor]:
        """All weights in OpenAI's names, in half precision; `lossless` keeps those whole that half
        precision cannot hold.
        """
        state = {name.removeprefix("text."): tensor for name, tensor in self.state_dict().items()}
        halves = {name: tensor.detach().half().cpu().contiguous() for name, tensor in state.items()}
        if not lossless:
            return halves
        return {
            name: (
                half
                if torch.equal(half.float(), state[name].cpu())
                else state[name].cpu().contiguous()
            )
            for name, half in halves.items()
        }

    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """Token ids (S, context_length) int64, filled with 0.

        Raises:
            VocabularyError: A sentence has more tokens than the context holds.
        """
        rows = torch.zeros(len(sentences), self.context_length, dtype=torch.int64)
        for row, sentence in zip(rows, sentences, strict=True):
            ids = _tokenizer().encode(sentence)
            if len(ids) + 2 > self.context_length:
                shown = sentence if len(sentence) <= 60 else sentence[:57] + "..."
                raise VocabularyError(
                    f"{shown!r} is {len(ids) + 2} tokens long and CLIP reads at most"
                    f" {self.context_length}; shorten it"
                )
            row[: len(ids) + 2] = torch.tensor(
                [_tokenizer().sot_token_id, *ids, _tokenizer().eot_token_id]
            )
        return rows

    def encode_tokens(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The sentence's vector (S, D), not normalised, and the tokens after the final norm (S, T,
        text width), for ids (S, T).
        """
        assert self.text is not None
        pooled, tokens = self.text(ids)
        return pooled, tokens

    @torch.no_grad()
    def encode_names(
        self,
        names: Sequence[str],
        templates: Sequence[str],
        *,
        unit: bool = True,
        batch_size: int = 256,
    ) -> Tensor:
        """Vectors (K, D), one a name: each sentence's vector made unit, averaged over the
        templates, made unit again.

        Args:
            names: K words or phrases.
            templates: Patterns with one `{}` each, or full sentences patterns from `TEMPLATES`.
            unit: False leaves the sentences' vectors and their mean as long as they are.
            batch_size: Sentences encoded at a time.

        Raises:
            VocabularyError: There is no text tower, or a sentence is too long for it.
        """
        if self.text is None:
            raise VocabularyError(
                "this model has no text tower, its words come from a file; give words of that file,"
                " or train with a tower (--clip)"
            )
        sentences = [template.format(name) for name in names for template in templates]
        ids = self.tokenize(sentences).to(self.text.positional_embedding.device)
        vectors = torch.cat([self.encode_tokens(part)[0] for part in torch.split(ids, batch_size)])
        if not unit:
            return vectors.view(len(names), len(templates), -1).mean(dim=1)
        return F.normalize(
            F.normalize(vectors, dim=-1).view(len(names), len(templates), -1).mean(dim=1), dim=-1
        )


class CLIP(CLIPText):
    """A CLIP of open_clip, opened up.

    The weights are frozen and the module stays in eval mode. Images are RGB in 0..1; `normalize`
    takes them to what the tower was trained on.

    Attributes:
        width: C, channels of the image tower.
        num_layers: Blocks of the image tower.
        patch_size: Side of a patch in pixels.
    """

    text: _TextTower
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: open_clip.CLIP | open_clip.CustomTextCLIP,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        source: str = "",
        config: dict[str, Any] | None = None,
    ) -> None:
        visual = model.visual
        if (
            not isinstance(visual, VisionTransformer)
            or visual.pool_type != "tok"
            or visual.attn_pool is not None
            or visual.final_ln_after_pool
        ):
            raise SettingError(
                f"the image tower of {source!r} is not a plain ViT with a class token; choose a"
                " CLIP tag such as ViT-B-16-quickgelu/openai"
            )
        super().__init__(_text_of(model, source), visual.output_dim, source=source, config=config)
        self.visual = visual
        self.width, self.num_layers, self.patch_size = (
            visual.conv1.out_channels,
            len(visual.transformer.resblocks),
            visual.patch_size[0],
        )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._tables: dict[tuple[Any, ...], Tensor] = {}
        self.requires_grad_(False)
        self.eval()

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> CLIP:
        """The same weights, normalising images with other statistics; this tower stays as it
        is.
        """
        other = copy(self)
        other._buffers = {
            **self._buffers,
            "mean": self.mean.new_tensor(mean).view(3, 1, 1),
            "std": self.std.new_tensor(std).view(3, 1, 1),
        }
        return other

    # ------------------------------------------------------------------ images

    def positions(
        self,
        grid: tuple[int, int],
        resize: Resize = "bicubic",
        *,
        via: tuple[int, int] | None = None,
    ) -> Tensor:
        """The position table (1 + h·w, C) for a grid; row 0 is the class token's. Made once for
        each grid and kept.

        Args:
            grid: Patches down and across.
            resize: "bicubic" with anti-aliasing, as open_clip does it; "bilinear" without, as
                ZegCLIP, CLIP-RC and ESDA do it.
            via: A grid the table goes through on the way (released code resizes once at loading and
                again at run time).
        """
        table: Tensor = self.visual.positional_embedding
        here = self.visual.grid_size
        steps = [step for step in (via, grid) if step is not None]
        if all(step == here for step in steps):
            return table
        key = (grid, resize, via, table.device, table.dtype, table.data_ptr(), table._version)
        if key not in self._tables:
            patches = table[1:].T.reshape(1, -1, *here)  # (1, C, h, w)
            for step in steps:
                if patches.shape[-2:] != step:
                    patches = F.interpolate(
                        patches,
                        step,
                        mode=resize,
                        antialias=resize == "bicubic",
                        align_corners=False,
                    )
            self._keep(key, torch.cat([table[:1], patches.flatten(2)[0].T]))
        return self._tables[key]

    def normalize(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in 0..1, to the statistics of the tower, with the bottom and
        right filled up to whole patches by 0.
        """
        p = self.patch_size
        images = (images - self.mean) / self.std
        return F.pad(images, (0, -images.shape[-1] % p, 0, -images.shape[-2] % p))

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Patches down and across that cover images (…, H, W)."""
        return -(-images.shape[-2] // self.patch_size), -(-images.shape[-1] // self.patch_size)

    def embed(
        self,
        images: Tensor,
        *,
        resize: Resize = "bicubic",
        via: tuple[int, int] | None = None,
        twice: bool = False,
    ) -> Tensor:
        """The tokens (B, 1 + N, C) that enter the first block, class token first.

        Args:
            images: (B, 3, H, W), RGB in 0..1, any size; filled up to whole patches.
            resize: How the position table is resized (`positions`).
            via: A grid the table goes through (`positions`).
            twice: Add the class embedding a second time, as the released ZegCLIP, CLIP-RC and ESDA
                do.
        """
        visual = self.visual
        x = visual.conv1(self.normalize(images))  # (B, C, h, w)
        positions = self.positions((x.shape[-2], x.shape[-1]), resize, via=via)
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        first = visual.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + positions
        if twice:
            x = torch.cat([x[:, :1] + visual.class_embedding, x[:, 1:]], dim=1)
        out: Tensor = visual.ln_pre(x)
        return out

    def block(self, index: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """One residual block on tokens (B, T, C); `mask` as in `attention`."""
        return run_block(self.visual.transformer.resblocks[index], x, mask)

    def local_block(self, x: Tensor, grid: tuple[int, int], std: float = 5.0) -> Tensor:
        """The last block with attention that stays near, on tokens (B, 1 + N, C): what of its
        values reaches a patch from patches with similar keys nearby.

        Keys are compared with keys, a Gaussian of the distance is added, residual and feed-forward
        are left out (NACLIP, Hajimiri et al. 2024, arXiv 2404.08181, eq. 5).

        Args:
            x: What enters the last block.
            grid: h and w; N = h·w.
            std: Of the Gaussian, in patches.
        """
        block = self.visual.transformer.resblocks[-1]
        _, k, v = split_heads(block.attn, block.ln_1(x))
        return merge_heads(
            block.attn, F.scaled_dot_product_attention(k, k, v, attn_mask=self._near(grid, std, x))
        )

    def _near(self, grid: tuple[int, int], std: float, like: Tensor) -> Tensor:
        """exp(-‖pᵢ - pⱼ‖² / 2 std²) of patch positions (1 + N, 1 + N); 0 for the class token. Made
        once for each grid and kept.
        """
        key = (grid, std, like.device, like.dtype)
        if key not in self._tables:
            down, across = (
                torch.exp(-((torch.arange(n)[:, None] - torch.arange(n)) ** 2) / (2 * std**2))
                for n in grid
            )
            self._keep(key, F.pad(torch.kron(down, across), (1, 0, 1, 0)).to(like))
        return self._tables[key]

    def _keep(self, key: tuple[Any, ...], table: Tensor) -> None:
        if len(self._tables) >= KEPT:
            self._tables.pop(next(iter(self._tables)))
        self._tables[key] = table

    def blocks(
        self, x: Tensor, start: int = 0, stop: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Blocks `start` to `stop` (exclusive; all by default; negative counts from the end) on
        tokens (B, T, C).
        """
        for index in range(self.num_layers)[start:stop]:
            x = self.block(index, x, mask)
        return x

    def finish(self, x: Tensor) -> Tensor:
        """Final norm and projection of tokens (…, C) into the joint space (…, D)."""
        out: Tensor = self.visual.ln_post(x) @ self.visual.proj
        return out

    def encode_image(self, images: Tensor) -> Tensor:
        """The image's vector (B, D), not normalised: what open_clip's `encode_image` returns for
        normalised images.
        """
        return self.finish(self.blocks(self.embed(images))[:, 0])


def make_block(width: int, num_heads: int) -> nn.Module:
    """A new block like those of OpenAI's towers: pre-norm, four times as wide inside, QuickGELU."""
    block: nn.Module = ResidualAttentionBlock(width, num_heads, act_layer=QuickGELU)
    return block


def run_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual block on tokens (B, T, C); `mask` as in `attention`."""
    x = x + block.ls_1(attention(block.attn, block.ln_1(x), mask))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out


def _text_of(
    model: open_clip.CLIP | open_clip.CustomTextCLIP, source: str
) -> open_clip.CLIP | TextTransformer:
    """The text tower of a model of open_clip."""
    text = getattr(model, "text", model)
    if not isinstance(text, (open_clip.CLIP, TextTransformer)):
        raise SettingError(
            f"the text tower of {source!r} is not CLIP's causal transformer; choose a CLIP tag such"
            " as ViT-B-16-quickgelu/openai"
        )
    return text


class _TextTower(nn.Module):
    """The causal text transformer, from either of open_clip's two homes for it."""

    def __init__(self, text: open_clip.CLIP | TextTransformer) -> None:
        super().__init__()
        self.token_embedding, self.positional_embedding = (
            text.token_embedding,
            text.positional_embedding,
        )
        self.transformer, self.ln_final, self.text_projection = (
            text.transformer,
            text.ln_final,
            text.text_projection,
        )

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]  # (S, T, width)
        causal = torch.full((length, length), float("-inf"), device=x.device, dtype=x.dtype).triu(1)
        for block in self.transformer.resblocks:
            x = run_block(block, x, causal)
        x = self.ln_final(x)
        end = x[
            torch.arange(len(x), device=x.device), ids.argmax(dim=-1)
        ]  # the end-of-text token has the highest id
        pooled = (
            self.text_projection(end)
            if isinstance(self.text_projection, nn.Linear)
            else end @ self.text_projection
        )
        return pooled, x


@lru_cache(maxsize=1)
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


# ----------------------------------------------------------------------- loading


def load_clip(source: str = DOODLES) -> CLIP:
    """A CLIP from a name or a file.

    Args:
        source: "doodles" (comes with the package); `ARCHITECTURE/TAG` of open_clip, such as
            "ViT-B-16-quickgelu/openai" (downloaded once and cached by huggingface_hub); or a path:
            an OpenAI `.pt` archive (read as data, nothing in it runs), a `.safetensors` file or a
            plain state dict in OpenAI's names. `ARCHITECTURE@FILE` takes heads and activation from
            an architecture of open_clip, for files that do not say them: "ViT-B-16@weights.pt" was
            trained with GELU. `ARCHITECTURE/random` builds the tower with random weights, to try a
            set-up out.

    Raises:
        SettingError: No such file and no such tag, or a tower that is not a plain ViT.
        CheckpointError: A file that cannot be read or does not hold a CLIP.
    """
    if source == NO_TOWER:
        raise SettingError(
            "this method looks at images with CLIP's image tower, so --clip none is not enough;"
            " give a tower"
        )
    found = _file_of(source)
    if found is not None:
        with found[0] as path:
            return _from_file(path, source, found[1])
    architecture, _, tag = source.rpartition("/")
    if tag == "random" and architecture in open_clip.list_models():
        return build_clip(open_clip.get_model_config(architecture), source=source)
    model = _fetched(source)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    return CLIP(model, mean=preprocess["mean"], std=preprocess["std"], source=source)


def load_text(source: str = DOODLES, embed_dim: int | None = None) -> CLIPText:
    """The text half of a CLIP, whatever its image tower is.

    Args:
        source: As for `load_clip`, any CLIP with OpenAI's text tower ("RN50/openai"); or "none":
            words come from a file of text embeddings.
        embed_dim: D, for "none".

    Raises:
        SettingError: No such file and no such tag; "none" without a file of text embeddings.
        CheckpointError: A file that cannot be read or does not hold a CLIP.
    """
    if source == NO_TOWER:
        if embed_dim is None:
            raise SettingError(
                "without a text tower (--clip none) the words' vectors must come from a file; give"
                " it with --text-embeddings"
            )
        return CLIPText(None, embed_dim, source=source)
    found = _file_of(source)
    if found is not None:
        with found[0] as path:
            return _text_from_file(path, source, found[1])
    architecture, _, tag = source.rpartition("/")
    if tag == "random" and architecture in open_clip.list_models():
        return build_text(open_clip.get_model_config(architecture), source=source)
    model = _fetched(source)
    text = _text_of(model, source)
    return CLIPText(text, text.text_projection.shape[1], source=source)


def _file_of(source: str) -> tuple[AbstractContextManager[Path], dict[str, Any] | None] | None:
    """The file a source names, and the configuration given with it; None if it names none."""
    if source == DOODLES:
        return (
            resources.as_file(resources.files("unseen") / "weights" / "doodles.safetensors"),
            None,
        )
    if Path(source).is_file():
        return nullcontext(Path(source)), None
    named, at, file = source.partition("@")
    if not at or not Path(file).is_file():
        return None
    config = open_clip.get_model_config(named)
    if config is None:
        raise SettingError(
            f"open_clip has no architecture called {named!r}; give one of its names before the @,"
            " such as ViT-B-16"
        )
    return nullcontext(Path(file)), config


def _fetched(source: str) -> Any:
    """A model of open_clip with its weights, by ARCHITECTURE/TAG."""
    architecture, slash, tag = source.rpartition("/")
    if not slash or tag not in open_clip.list_pretrained_tags_by_model(architecture):
        near = [known for known in known_sources() if known.startswith(architecture or source)] or [
            "ViT-B-16-quickgelu/openai"
        ]
        raise SettingError(
            f"no file and no open_clip tag is called {source!r}; give a path, {DOODLES!r}, or a tag"
            f" such as {', '.join(near[:4])}"
        )
    quick_gelu = bool(
        open_clip.pretrained.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
    )
    try:
        # The activation belongs to the weights, not to the architecture's name: OpenAI's ViT-B-16
        # needs QuickGELU under either name.
        with one_complaint():
            return open_clip.create_model(architecture, pretrained=tag, force_quick_gelu=quick_gelu)
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"the weights of {source} could not be fetched; check the network, or give a local file"
            " of weights instead"
        ) from error


@contextmanager
def one_complaint() -> Iterator[None]:
    """While weights are fetched, of the libraries' many warnings about a bad network only the first
    is shown, once.
    """
    shown: list[str] = []

    def first(record: logging.LogRecord) -> bool:
        shown.append(record.getMessage())
        return len(shown) == 1

    hub, root = logging.getLogger("huggingface_hub.utils._http"), logging.getLogger()
    propagate, disabled = hub.propagate, root.disabled
    hub.addFilter(first)
    hub.propagate, root.disabled = False, True
    try:
        yield
    finally:
        hub.removeFilter(first)
        hub.propagate, root.disabled = propagate, disabled


def known_sources() -> list[str]:
    """The names `load_clip` takes for plain ViTs: the doodle CLIP and open_clip's tags."""
    return [
        DOODLES,
        *(
            f"{name}/{tag}"
            for name, tag in open_clip.list_pretrained()
            if name.startswith("ViT-") and "SigLIP" not in name
        ),
    ]


def build_clip(config: dict[str, Any], *, source: str = "", seed: int = 0) -> CLIP:
    """A CLIP with random weights from an open_clip configuration (`embed_dim`, `vision_cfg`,
    `text_cfg`, `quick_gelu`): for tests and for converters.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    return CLIP(
        model,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        source=source,
        config=config,
    )


def build_text(config: dict[str, Any], *, source: str = "", seed: int = 0) -> CLIPText:
    """The text half of a CLIP with random weights from an open_clip configuration; as
    `build_clip`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _new_text(
            config["embed_dim"], config["text_cfg"], bool(config.get("quick_gelu")), source, config
        )


def _new_text(
    embed_dim: int,
    config: dict[str, Any],
    quick_gelu: bool,
    source: str,
    whole: dict[str, Any] | None = None,
) -> CLIPText:
    """A text half with random weights, from open_clip's `text_cfg`."""
    sizes = {
        name: config[name] for name in ("context_length", "vocab_size", "width", "heads", "layers")
    }
    text = TextTransformer(
        **sizes, output_dim=embed_dim, act_layer=QuickGELU if quick_gelu else nn.GELU
    )
    return CLIPText(text, embed_dim, source=source, config=whole)


def _read(path: Path) -> dict[str, Tensor]:
    """A CLIP's weights in float32, without the sizes that OpenAI's archives carry along."""
    return {
        name: tensor.float()
        for name, tensor in read_state_dict(path).items()
        if name not in ("input_resolution", "context_length", "vocab_size")
    }


def _from_file(path: Path, source: str, config: dict[str, Any] | None = None) -> CLIP:
    state = _read(path)
    clip = build_clip(
        config or _stored_config(path) or config_from_shapes(state, path=path), source=source
    )
    _fill(clip, state, path)
    return clip


def _text_from_file(path: Path, source: str, config: dict[str, Any] | None = None) -> CLIPText:
    state = {name: tensor for name, tensor in _read(path).items() if not name.startswith("visual.")}
    config = config or _stored_config(path) or text_config_from_shapes(state, path=path)
    clip = _new_text(
        config["embed_dim"], config["text_cfg"], bool(config.get("quick_gelu")), source, config
    )
    _fill(clip, state, path)
    return clip


def _fill(clip: CLIPText, state: dict[str, Tensor], path: Path) -> None:
    """Give a CLIP the weights of a file, all of them."""
    own = {name.removeprefix("text."): tensor for name, tensor in clip.state_dict().items()}
    wrong = sorted(
        name for name in own.keys() ^ (state.keys() - {"logit_scale", "logit_bias"})
    ) or sorted(n for n in own if own[n].shape != state[n].shape)
    if wrong:
        raise CheckpointError(
            f"{path} does not hold a CLIP in OpenAI's names (first tensor out of place:"
            f" {wrong[0]}); give an OpenAI or open_clip ViT file"
        )
    bad = next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        raise CheckpointError(
            f"{path} holds values that are not finite (in {bad}); download it again"
        )
    clip.load_state_dict({name: state[name.removeprefix("text.")] for name in clip.state_dict()})


def config_from_shapes(
    state: dict[str, Tensor],
    *,
    path: Path | str,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> dict[str, Any]:
    """open_clip's configuration of a ViT CLIP with QuickGELU, read off a state dict in OpenAI's
    names; heads of 64 channels unless given.

    Raises:
        CheckpointError: The names are not those of a ViT CLIP.
        SettingError: Heads that do not divide a width.
    """
    try:
        width, _, _, patch = state["visual.conv1.weight"].shape
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        layers = _layers(state, "visual.transformer.resblocks.")
        vision = {"image_size": side * patch, "patch_size": patch, "width": width, "layers": layers}
        state["visual.proj"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not hold a ViT CLIP in OpenAI's names ({_first_line(error)} is missing or"
            " odd); give a ViT file"
        ) from error
    vision["head_width"] = (
        width // _checked_heads("vision_heads", vision_heads, width)
        if vision_heads is not None
        else min(64, width)
    )
    return {
        **text_config_from_shapes(state, path=path, text_heads=text_heads),
        "vision_cfg": vision,
    }


def text_config_from_shapes(
    state: dict[str, Tensor], *, path: Path | str, text_heads: int | None = None
) -> dict[str, Any]:
    """The part of open_clip's configuration that says what the text tower is; as
    `config_from_shapes`.
    """
    try:
        context, width = state["positional_embedding"].shape
        layers = _layers(state, "transformer.resblocks.")
        text = {
            "context_length": context,
            "vocab_size": len(state["token_embedding.weight"]),
            "width": width,
            "layers": layers,
        }
        embed_dim = state["text_projection"].shape[1]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not hold CLIP's text tower in OpenAI's names ({_first_line(error)} is"
            " missing or odd); give another file"
        ) from error
    heads = (
        max(1, width // 64)
        if text_heads is None
        else _checked_heads("text_heads", text_heads, width)
    )
    return {"embed_dim": embed_dim, "text_cfg": {**text, "heads": heads}, "quick_gelu": True}


def _layers(state: dict[str, Tensor], start: str) -> int:
    return 1 + max(
        int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start)
    )


def _checked_heads(name: str, given: int, channels: int) -> int:
    if given < 1 or channels % given:
        raise SettingError(
            f"{name} is {given}, which does not divide the {channels} channels of that tower; give"
            " a divisor"
        )
    return given


def _stored_config(path: Path) -> dict[str, Any] | None:
    """The configuration in the header of a safetensors file written by `unseen pretrain`."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        stored = (file.metadata() or {}).get("config")
    config: dict[str, Any] | None = json.loads(stored) if stored else None
    return config


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
