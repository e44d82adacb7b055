"""What a label map was made with: so much that another can make the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unseen.checkpoints import tower_identities
from unseen.clip_segmenter import TextSegmenter
from unseen.palettes import class_colours
from unseen.precision import chosen_precision
from unseen.runs import WEIGHTS
from unseen.segmenter import TextFeatures
from unseen.settings import DrawSettings, InferenceSettings
from unseen.sources import ModelSource
from unseen.vocabulary import Vocabulary


def model_provenance(segmenter: TextSegmenter, source: ModelSource | None) -> dict[str, Any]:
    """The method or run with its options, weights and towers.

    Args:
        segmenter: The method.
        source: Where it comes from; None for one that was made by hand.
    """
    told: dict[str, Any] = {"method": type(segmenter).__name__}
    if source is not None:
        told["method"], told["options"] = source.settings.method, source.settings.options
        told["published"] = source.settings.published
        if source.folder is not None:
            told["run"] = source.folder.resolve().name
            told["weights"] = file_fingerprint(source.folder / WEIGHTS)
        if source.text_embeddings is not None:
            told["text_embeddings"] = file_fingerprint(source.text_embeddings)
    return {**told, "towers": tower_identities(segmenter)}


def label_map_provenance(
    model: Mapping[str, Any],
    text: TextFeatures,
    inference: InferenceSettings,
    threshold: float | None,
    drawing: DrawSettings,
) -> dict[str, Any]:
    """All that decides a label map besides the image, as JSON types.

    `fingerprint` is a hash of what was chosen; `precision`, what "auto" came to on this machine, is
    told beside it.

    Args:
        model: Of `model_provenance`.
        text: The classes.
        inference: Size, windows and refinement.
        threshold: Of the background.
        drawing: How label maps are drawn; the colours of the classes are told one by one.
    """
    vocabulary = text.source or Vocabulary(text.vocabulary)
    told = {
        "unseen": version("unseen"),
        "model": model,
        "vocabulary": asdict(vocabulary),
        "inference": asdict(inference),
        "threshold": threshold,
        "drawing": {**asdict(drawing), "palette": _colours_told(drawing, vocabulary)},
    }
    # Through JSON, so that tuples and paths are what they will be when it is read again.
    plain: dict[str, Any] = json.loads(json.dumps(told, default=str, ensure_ascii=False))
    precision = chosen_precision(inference.precision, text.pooled.device)
    fingerprint = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    return {**plain, "precision": precision, "fingerprint": fingerprint}


def _colours_told(drawing: DrawSettings, vocabulary: Vocabulary) -> dict[str, str]:
    """The colour of each class, as #rrggbb."""
    table = class_colours(drawing.palette, vocabulary.names)
    return {
        name: f"#{r:02x}{g:02x}{b:02x}"
        for name, (r, g, b) in zip(vocabulary.names, table, strict=True)
    }


def file_fingerprint(path: Path) -> str:
    """16 hexadecimal digits that tell the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
