"""Names of classes, and their vectors in CLIP's text space."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import ImageNetInfo

from unseen.backbones.clip.loading import load_text

Array = NDArray[np.float64]


def plain(name: str) -> str:
    """A name without capitals, underscores and what stands in brackets."""
    return " ".join(name.partition("(")[0].lower().replace("_", " ").split())


def stored_vectors(files: list[Path], names: Path) -> dict[str, Array]:
    """Unit vectors by plain name.

    Args:
        files: `.npy` files (K, D).
        names: JSON: for each file a list of K names, in the order of the files.
    """
    lists = list(json.loads(names.read_text(encoding="utf-8")).values())
    found: dict[str, Array] = {}
    for file, listed in zip(files, lists, strict=True):
        rows = np.load(file, allow_pickle=False).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for name, row in zip(listed, rows, strict=True):
            found.setdefault(plain(name), row)
    return found


def encoded_vectors(tower: str, names: list[str]) -> dict[str, Array]:
    """Unit vectors of "a NAME" by name, from the text tower of a CLIP."""
    with torch.no_grad():
        rows = load_text(tower).encode_names(names, ["a {}"]).double().numpy()
    return dict(zip(names, rows, strict=True))


def imagenet_names() -> list[list[str]]:
    """The plain names of ImageNet's 1000 classes, in the order of the classifier's outputs."""
    info = ImageNetInfo()
    return [[plain(name) for name in text.split(",")] for text in info.label_descriptions()]


def voc_names(path: Path) -> dict[str, list[str]]:
    """A class a line, then other names of it: the first with a vector stands for the class."""
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [[plain(name) for name in line.split(",")] for line in lines if line.strip()]
    return {row[0]: row for row in rows}


def known_name(names: list[str], vectors: dict[str, Array]) -> str | None:
    """The first name that has a vector, else the first whose last word has: "green lizard"."""
    last_words = [name.split()[-1] for name in names]
    return next((name for name in (*names, *last_words) if name in vectors), None)
