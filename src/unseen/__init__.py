"""Zero-shot semantic segmentation: an image and a list of words in, one label map out."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen.api import load, segment, train
    from unseen.segmenter import Segmenter

__version__ = version("unseen")
__all__ = [
    "Segmenter",
    "__version__",
    "list_benchmarks",
    "list_methods",
    "load",
    "segment",
    "train",
]

_HOMES = {
    "load": "unseen.api",
    "segment": "unseen.api",
    "train": "unseen.api",
    "Segmenter": "unseen.segmenter",
}


def __getattr__(name: str) -> Any:
    """Import the heavy parts when they are first asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unseen' has no attribute {name!r}")


def list_methods() -> list[str]:
    """Names of all methods."""
    return list(import_module("unseen.methods").METHODS)


def list_benchmarks() -> list[str]:
    """Names of all benchmarks."""
    return list(import_module("unseen.data.benchmarks").BENCHMARKS)
