"""From the source of a model to a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from unseen.backbones.clip.text import StoredText
from unseen.checkpoints import load_run
from unseen.clip_segmenter import ClipSegmenter, TextSegmenter
from unseen.errors import SettingError
from unseen.methods import create, known
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings
from unseen.sources import ModelSource
from unseen.vocabulary import Vocabulary


def build(source: ModelSource, class_names: Sequence[str] = ()) -> TextSegmenter:
    """The segmenter of a source, in eval mode, on the CPU.

    A run brings its own weights; every other segmenter loads what training starts from.

    Args:
        source: Where it comes from.
        class_names: The classes that the rows of the source's text embeddings belong to.

    Raises:
        SettingError: Options that the method does not have, or text embeddings for a method that
            reads tokens.
        DataError: Text embeddings that do not fit the method or the classes.
        CheckpointError: Weights that cannot be loaded.
    """
    stored = None
    if source.text_embeddings is not None:
        stored = StoredText.read(source.text_embeddings, class_names)
    if source.folder is not None:
        segmenter, _ = load_run(source.folder, source.settings.options)
    else:
        method, options = source.settings.method, source.settings.options
        tower = known(method).cls.load_tower(source.settings.clip, stored)
        segmenter = create(method, tower, published=source.settings.published, **options)
        # A run holds these weights; everything else needs them even where nothing is trained.
        segmenter.initialise()
    if stored is not None:
        segmenter.use_stored_text(stored)
    segmenter.eval()
    return segmenter


def encode(segmenter: TextSegmenter, vocabulary: Vocabulary | Sequence[str]) -> TextFeatures:
    """Text features of classes, on the segmenter's device, without a gradient.

    Args:
        segmenter: Any method.
        vocabulary: Classes with their synonyms and the words for the background, or class names.

    Raises:
        VocabularyError: Names that cannot be encoded.
    """
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary(tuple(vocabulary))
    if segmenter.stored_text is not None:  # holds a vector of each class, whatever its synonyms
        vocabulary = replace(vocabulary, synonyms={})
    with torch.no_grad():
        asked = vocabulary.asked()
        features = segmenter.encode_text(asked).to(segmenter.device)
    features = replace(features, source=vocabulary)
    if vocabulary.is_plain:
        return features
    # Rows that share a word share its vector: "bed" may be a class and a word of the background.
    place = {word: row for row, word in enumerate(asked.names)}
    return replace(
        features.select([place[word] for word, _ in vocabulary.rows]),
        classes=tuple(index for _, index in vocabulary.rows),
        class_names=vocabulary.names,
        source=vocabulary,
    )


def own_inference(segmenter: TextSegmenter) -> InferenceSettings:
    """Size and windows for images of no benchmark.

    One and a half times the size the tower was trained at, in windows of that size, so that the
    position table is used as it is.
    """
    if not isinstance(segmenter, ClipSegmenter):
        return InferenceSettings()
    side = segmenter.clip.visual.image_size[0]
    return InferenceSettings(short_side=side * 3 // 2, window=side, stride=side // 2)


def device_named(name: str) -> str:
    """A device of torch; "auto" is a GPU if there is one.

    Raises:
        SettingError: This machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        if torch.backends.mps.is_available():
            return "mps"
        return "cpu"
    try:
        torch.zeros(1, device=name).cpu()  # some devices compute nothing, or are not installed
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise SettingError(
            f"the device {name!r} is not available here; give cpu, or auto"
        ) from error
    return name
