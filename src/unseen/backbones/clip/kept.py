"""Text features kept on disk: a thousand prompts take a text tower seconds to minutes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unseen.backbones.fingerprint import network_fingerprint
from unseen.errors import DataError
from unseen.files import cache_folder, replacing

FEWEST = 500
"""Prompts; fewer are encoded in the time that it takes to look for them."""


def kept_vectors(
    tower: nn.Module,
    names: Sequence[str],
    templates: Sequence[str],
    kind: str,
    encode: Callable[[], Tensor],
) -> Tensor:
    """The vectors (K, …) of class names, from disk if they were encoded before.

    Args:
        tower: The text tower.
        names: K class names.
        templates: P patterns.
        kind: Tells vectors apart that are made of the same prompts.
        encode: Encodes them.
    """
    trained = any(parameter.requires_grad for parameter in tower.parameters())
    # What is trained gives other vectors in every step, and needs their gradients.
    if trained or len(names) * len(templates) < FEWEST:
        return encode()
    device = next(tower.parameters()).device
    path = cache_folder() / "text" / f"{_key(tower, names, templates, kind, device.type)}.npy"
    vectors = _read(path, len(names))
    if vectors is None:
        vectors = encode()
        # Without a place to keep them they are encoded again the next time.
        with suppress(DataError), replacing(path, ours=True) as beside:
            np.save(beside, vectors.cpu().numpy(), allow_pickle=False)
    return vectors.to(device)


def _key(
    tower: nn.Module, names: Sequence[str], templates: Sequence[str], kind: str, device: str
) -> str:
    """A name for the vectors: everything that decides them, up to rounding on another machine."""
    weights = network_fingerprint(tower)
    facts = [weights, list(names), list(templates), kind, device, version("torch")]
    # A hash, so that the file does not tell the names.
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _read(path: Path, count: int) -> Tensor | None:
    """The vectors of so many names; None where there are none, or damaged ones."""
    try:
        # Mapped first: a header that claims more than the file holds is refused.
        vectors = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, SyntaxError, TypeError):
        return None
    if vectors.dtype != np.float32 or vectors.ndim < 2 or len(vectors) != count:
        return None
    if not np.isfinite(vectors).all():
        return None
    return torch.from_numpy(vectors)
