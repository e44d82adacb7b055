"""Text encoders: the text tower of a CLIP, or text features stored in a file.

Both take class names and prompt templates and give vectors in the space that images share, so that
a method never asks where its text features come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.blocks import run_block
from unseen.backbones.clip.kept import kept_vectors
from unseen.errors import DataError, SettingError, VocabularyError

NO_TOWER = "none"
"""The source name of a text tower that is not there: the text features come from a file."""


class TextEncoder(Protocol):
    """What turns class names into vectors.

    Attributes:
        embed_dim: D, channels of the space shared by images and text.
        source: Where its weights or vectors came from.
    """

    embed_dim: int
    source: str

    def encode_prompts(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The vectors (K, P, D) of K names in P templates, not normalised."""

    def unit_prompts(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The same as unit vectors; those of a file as stored."""

    def encode_names(
        self, names: Sequence[str], templates: Sequence[str], *, unit: bool = True
    ) -> Tensor:
        """One vector for each name, (K, D)."""


class CLIPText(nn.Module):
    """The text half of a CLIP, frozen.

    Args:
        text: The text tower; None where the weights are of an image tower alone, whose class names
            come from a file of text features.
        embed_dim: D.
        source: Where the weights came from, as given to `load_text`.
        config: open_clip's configuration, where it is known.

    Attributes:
        source: As given.
        config: As given.
        embed_dim: D, channels of the space shared by images and text.
        text_width: Channels of the text tower; D where there is none.
        context_length: Tokens a prompt may have at most, start and end included.
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
        # OpenAI's files have no prefix before the text tower's names: whoever reads or writes them
        # removes this one.
        self.text: TextTower | None = None
        self.embed_dim, self.source, self.config = embed_dim, source, config
        self.text_width, self.context_length = embed_dim, 0
        if text is not None:
            self.text = TextTower(text)
            self.text_width = len(self.text.ln_final.weight)
            self.context_length = len(self.text.positional_embedding)
        self.requires_grad_(False)
        self.eval()

    @property
    def text_tower(self) -> TextTower:
        """The text tower.

        Raises:
            SettingError: There is none.
        """
        if self.text is None:
            raise SettingError(
                f"{self.source} holds an image tower alone, which cannot read class names; give"
                " their vectors with --text-embeddings FILE.npy"
            )
        return self.text

    def state_to_save(self, *, lossless: bool = False) -> dict[str, Tensor]:
        """All weights in OpenAI's names, in half precision.

        Args:
            lossless: Keep a tensor in its own precision where half precision cannot hold it.
        """
        stored = {}
        for name, tensor in self.state_dict().items():
            kept = tensor.detach().half()
            # OpenAI's own weights are half precision numbers; fine-tuned ones are not.
            if lossless and not torch.equal(kept.float(), tensor):
                kept = tensor
            stored[name.removeprefix("text.")] = kept.cpu().contiguous()
        return stored

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (S, context_length) int64, padded with 0.

        Raises:
            VocabularyError: A prompt has more tokens than the context holds.
        """
        tokenizer = _tokenizer()
        rows = torch.zeros(len(prompts), self.context_length, dtype=torch.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            ids = [tokenizer.sot_token_id, *tokenizer.encode(prompt), tokenizer.eot_token_id]
            # open_clip's tokenizer would cut it and lose the end, which is often the class name.
            if len(ids) > self.context_length:
                shown = prompt
                if len(prompt) > 60:
                    shown = prompt[:57] + "..."
                raise VocabularyError(
                    f"{shown!r} is {len(ids)} tokens long and CLIP reads at most"
                    f" {self.context_length}; shorten it"
                )
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """The embeddings (S, T, text width) that enter the tower, without positions.

        A method with learnable prompts replaces some of them and calls `encode_tokens`.
        """
        embeddings: Tensor = self.text_tower.token_embedding(ids)
        return embeddings

    def encode_tokens(self, ids: Tensor, embeddings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of prompts and of their tokens.

        Args:
            ids: (S, T) int64.
            embeddings: (S, T, text width), read in place of those of `ids`, which then only say
                where a prompt ends.

        Returns:
            The prompts' vectors (S, D), not normalised, and the tokens after the final norm
            (S, T, text width).
        """
        pooled, tokens = self.text_tower(ids, embeddings)
        return pooled, tokens

    def encode_prompts(
        self, names: Sequence[str], templates: Sequence[str], *, batch_size: int = 256
    ) -> Tensor:
        """The vectors (K, P, D) of K names in P templates, not normalised.

        Args:
            names: K class names.
            templates: P patterns with one `{}` each.
            batch_size: Prompts encoded at a time.

        Raises:
            VocabularyError: A prompt is too long for the tower.
        """
        # Prompts of one class are consecutive, so that the view below has the classes first.
        device = self.text_tower.positional_embedding.device
        prompts = [template.format(name) for name in names for template in templates]
        ids = self.tokenize(prompts).to(device)
        parts = []
        for part in torch.split(ids, batch_size):
            # No token sees those behind it: what is behind the longest prompt can be left out.
            longest = int(part.argmax(dim=1).max()) + 1
            parts.append(self.encode_tokens(part[:, :longest])[0])
        vectors = torch.cat(parts)
        return vectors.view(len(names), len(templates), -1)

    def unit_prompts(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The unit vectors (K, P, D) of K names in P templates.

        Raises:
            VocabularyError: A prompt is too long for the tower.
        """

        def encode() -> Tensor:
            return F.normalize(self.encode_prompts(names, templates), dim=-1)

        return kept_vectors(self.text_tower, names, templates, "prompts", encode)

    def encode_names(
        self, names: Sequence[str], templates: Sequence[str], *, unit: bool = True
    ) -> Tensor:
        """One vector for each name, (K, D): the mean over its prompts.

        Args:
            names: K class names.
            templates: P patterns with one `{}` each.
            unit: Normalise the prompts' vectors and their mean to unit length.

        Raises:
            VocabularyError: A prompt is too long for the tower.
        """

        def encode() -> Tensor:
            vectors = self.encode_prompts(names, templates)
            if not unit:
                return vectors.mean(dim=1)
            # Prompts are normalised before the mean, so that all count the same (CLIP §3.1.4).
            return F.normalize(F.normalize(vectors, dim=-1).mean(dim=1), dim=-1)

        kind = "unit" if unit else "mean"
        return kept_vectors(self.text_tower, names, templates, kind, encode)


class TextTower(nn.Module):
    """The causal text transformer, from either of open_clip's two classes that hold one."""

    def __init__(self, text: open_clip.CLIP | TextTransformer) -> None:
        super().__init__()
        # `open_clip.CLIP` has these parts itself, `CustomTextCLIP` in its `text`.
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer, self.ln_final = text.transformer, text.ln_final
        self.text_projection = text.text_projection

    def forward(self, ids: Tensor, embeddings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `CLIPText.encode_tokens`."""
        if embeddings is None:
            embeddings = self.token_embedding(ids)
        # Shorter rows than the context are allowed; their positions are the first of the table.
        length = ids.shape[1]
        x = embeddings + self.positional_embedding[:length]  # (S, T, width)
        # A token sees itself and what comes before it: -inf above the diagonal is added to scores.
        causal = torch.full((length, length), float("-inf"), device=x.device, dtype=x.dtype).triu(1)
        for block in self.transformer.resblocks:
            x = run_block(block, x, causal)
        x = self.ln_final(x)
        # The end-of-text token, whose output is the prompt's vector, has the highest id.
        end = x[torch.arange(len(x), device=x.device), ids.argmax(dim=-1)]
        # Some of open_clip's towers project with a layer, OpenAI's with a matrix.
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(end), x
        return end @ self.text_projection, x


_NUMPY_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    OverflowError,
    TypeError,
    SyntaxError,
    TokenError,
)
"""What numpy raises on damaged files, whose headers it parses as Python's literals."""


class StoredText:
    """Text features from a .npy file, used as stored: one row a class, in float32.

    Args:
        names: K class names.
        rows: (K, D), or (K, P, D) with a vector of each of P prompts; K + 1 where the last row is
            the background's.
        source: For messages.

    Attributes:
        embed_dim: D.
        source: `NO_TOWER`: there is no text tower.
    """

    def __init__(self, names: Sequence[str], rows: NDArray[Any], source: Path) -> None:
        self.names, self.rows, self.file = tuple(names), rows, source
        self.embed_dim, self.source = int(rows.shape[-1]), NO_TOWER

    @classmethod
    def read(cls, path: Path, names: Sequence[str]) -> StoredText:
        """The features in a file.

        Raises:
            DataError: Not a .npy file of a plain (classes, D) or (classes, prompts, D) array of
                numbers.
        """
        if not path.is_file():
            problem = "is not a plain file" if path.exists() else "does not exist"
            raise DataError(f"the file of text embeddings {path} {problem}; check the path")
        # Without pickles, which could run code: a plain array needs none.
        try:
            # Mapped first: a header that claims more than the file holds is refused.
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except _NUMPY_DAMAGE as error:
            raise DataError(
                f"{path} is not a readable .npy file of text embeddings; save a plain (classes,"
                " width) float array"
            ) from error
        if (
            not isinstance(rows, np.ndarray)
            or not rows.size
            or rows.dtype.kind not in "fiu"
            or not 2 <= rows.ndim <= 3
        ):
            raise DataError(
                f"{path} does not hold one plain array of numbers; save a (classes, width) float"
                " array with numpy.save, or (classes, prompts, width)"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(rows.astype(np.float64), axis=-1)
        # Lengths that can be brought to 1 in 32 bits; compared so that NaN fails.
        bad = np.argwhere(~((lengths > 1e-6) & (lengths < 1e6)))
        if len(bad):
            raise DataError(
                f"row {bad[0][0] + 1} of {path} is no vector (its length is"
                f" {lengths[tuple(bad[0])]:g}); make the file again"
            )
        return cls(names, rows.astype(np.float32), path)

    def check(self, embed_dim: int, background_name: str | None) -> None:
        """Refuse features that do not fit a method.

        Args:
            embed_dim: D of the method.
            background_name: Name of the background, for methods that compare patches with its
                vector too; this must then be the last row.

        Raises:
            DataError: Another number of rows, or another width.
        """
        # Stored vectors cannot be projected to another width, and their order is the classes'.
        needed = len(self.names) + (background_name is not None)
        if (len(self.rows), self.rows.shape[-1]) == (needed, embed_dim):
            return
        also, learned = "", ""
        if background_name is not None:
            also = f" and {background_name!r}, the last,"
            learned = (
                "; or, with SAZS, compare with a learned vector (--options.background learned)"
            )
        raise DataError(
            f"{self.file} holds an array of shape {self.rows.shape}, but {len(self.names)}"
            f" classes{also} of width {embed_dim} are needed; give a file of these rows{learned}"
        )

    def encode_prompts(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The stored vectors (K, P, D), whatever the templates; P = 1 where there is one a class.

        Raises:
            VocabularyError: A class the file has no vector for.
        """
        vectors = torch.from_numpy(self.rows[self._places(names)])
        return vectors.unsqueeze(1) if vectors.ndim == 2 else vectors

    def unit_prompts(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """As `encode_prompts`: whoever made the file decided their lengths."""
        return self.encode_prompts(names, templates)

    def encode_names(
        self, names: Sequence[str], templates: Sequence[str], *, unit: bool = True
    ) -> Tensor:
        """The stored vectors (K, D) of some of the classes, whatever the templates.

        Of several prompts a class it is the mean, brought to unit length with `unit`.

        Raises:
            VocabularyError: A class the file has no vector for.
        """
        prompts = self.encode_prompts(names, templates)
        if prompts.shape[1] == 1:
            # Used as stored, also with `unit`: whoever made the file decided their lengths.
            return prompts[:, 0]
        mean = prompts.mean(dim=1)
        return F.normalize(mean, dim=-1) if unit else mean

    def _places(self, names: Sequence[str]) -> list[int]:
        """The rows of some of the classes."""
        unknown = next((name for name in names if name not in self.names), None)
        if unknown is not None:
            raise VocabularyError(
                f"the text embeddings come from a file, {self.file}, which has none for"
                f" {unknown!r}; its classes are {', '.join(self.names)}"
            )
        return [self.names.index(name) for name in names]

    @property
    def background(self) -> Tensor:
        """The last row (D,): the background's vector, where the file has one.

        Of several prompts it is their mean, of unit length.
        """
        last = torch.from_numpy(self.rows[-1])
        return F.normalize(last.mean(dim=0), dim=0) if last.ndim == 2 else last


def text_tower_of(
    model: open_clip.CLIP | open_clip.CustomTextCLIP, source: str
) -> open_clip.CLIP | TextTransformer:
    """The text tower of a model of open_clip.

    Raises:
        SettingError: It is not CLIP's causal transformer.
    """
    # Models without a `text` are themselves the text tower (`open_clip.CLIP`).
    text = getattr(model, "text", model)
    if not isinstance(text, (open_clip.CLIP, TextTransformer)):
        raise SettingError(
            f"the text tower of {source!r} is not CLIP's causal transformer; choose a CLIP tag such"
            " as ViT-B-16-quickgelu/openai"
        )
    return text


@lru_cache(maxsize=1)
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()
