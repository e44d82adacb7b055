"""Zero-shot semantic segmentation: an image and a list of classes in, one label map out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen.api import convert, eigenvectors, evaluate, load, segment, train
    from unseen.exports.formats import export_labels
    from unseen.segmenter import Segmenter
    from unseen.vocabulary import Vocabulary

    __version__: str

__all__ = [
    "Segmenter",
    "Vocabulary",
    "__version__",
    "convert",
    "eigenvectors",
    "evaluate",
    "export_labels",
    "list_benchmarks",
    "list_methods",
    "load",
    "segment",
    "train",
]
_MODULES = {
    "convert": "unseen.api",
    "eigenvectors": "unseen.api",
    "evaluate": "unseen.api",
    "export_labels": "unseen.exports.formats",
    "load": "unseen.api",
    "segment": "unseen.api",
    "train": "unseen.api",
    "Segmenter": "unseen.segmenter",
    "Vocabulary": "unseen.vocabulary",
}
"""Where the names are defined; most of these modules import torch."""


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first used."""
    if name == "__version__":
        return import_module("importlib.metadata").version("unseen")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'unseen' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__


def list_methods() -> list[str]:
    """Names of all methods."""
    return list(import_module("unseen.methods").METHODS)


def list_benchmarks() -> list[str]:
    """Names of all benchmarks."""
    return list(import_module("unseen.data.benchmarks").BENCHMARKS)
