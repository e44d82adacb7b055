"""Pictures by words, in three lines of Python.

>>> import unseen
>>> model = unseen.load("naclip", clip="ViT-B-16-quickgelu/openai")
>>> result = model.segment("street.jpg", ["road", "car", "person"])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unseen.backbones.clip import load_clip
from unseen.checkpoints import Run, load_run, read_config
from unseen.errors import DataError, SettingError, VocabularyError
from unseen.files import read_image, replacing, write_labels, write_text
from unseen.inference import label_maps
from unseen.labels import IGNORE
from unseen.methods import METHODS, create
from unseen.segmenter import ClipSegmenter, TextFeatures, stored_text
from unseen.settings import InferenceChanges, InferenceSettings, ModelSettings
from unseen.visualize import overlay, palette

Picture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Segmentation:
    """A labelled picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        names: The words, in the order of the ids.
        labels: (H, W) uint8, ids; 255 where no word was confident enough.
        confidence: (H, W) float32 in 0..1, of the chosen word.
        unseen: The words without masks in training; empty for methods without training.
    """

    image: NDArray[np.uint8]
    names: tuple[str, ...]
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    unseen: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each word, in 0..1."""
        counts = np.bincount(self.labels.ravel(), minlength=IGNORE + 1) / self.labels.size
        return {name: float(counts[i]) for i, name in enumerate(self.names)}

    def largest(self, count: int) -> list[tuple[str, float]]:
        """The words with the most pixels, and their shares."""
        found = sorted(self.shares.items(), key=lambda item: -item[1])
        return [(name, share) for name, share in found[:count] if share > 0]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The pixels (H, W) of one word."""
        return np.asarray(self.labels == self.names.index(name))

    def overlay(self) -> Image.Image:
        """The picture with its label map and a legend."""
        return overlay(self.image, self.labels, self.names, self.unseen)

    def as_dict(self) -> dict[str, Any]:
        """Names, pixel shares and mean scores, as JSON types; a word without pixels has no mean score."""
        words = []
        for i, name in enumerate(self.names):
            here = self.confidence[self.labels == i]
            words.append({"id": i, "name": name, "share": round(self.shares[name], 6), "mean_score": round(float(here.mean()), 4) if here.size else None})
        return {"height": self.labels.shape[0], "width": self.labels.shape[1], "no_word": round(float((self.labels == IGNORE).mean()), 6), "words": words}


class Predictor:
    """A segmenter ready to label pictures.

    Attributes:
        segmenter: The method.
        inference: Size and windows.
        trained_on: The words whose masks it was trained on; empty for methods without training.
        calibrate: Whether words trained on are lowered against new ones (inductive runs).
    """

    def __init__(self, segmenter: ClipSegmenter, inference: InferenceSettings, trained_on: Sequence[str] = (), *, calibrate: bool = False) -> None:
        self.segmenter, self.inference, self.trained_on, self.calibrate = segmenter.eval(), inference, tuple(trained_on), calibrate

    def encode(self, names: Sequence[str]) -> TextFeatures:
        """Encode words once, for many pictures.

        Raises:
            VocabularyError: No words, too many (more than 254), a repeated one, one that is too long.
        """
        if isinstance(names, str):
            raise VocabularyError(f"the words are one string, {names!r}; give a list of words")
        if len(names) > IGNORE - 1:
            raise VocabularyError(f"{len(names)} words are more than a label map with 8 bits holds; give at most {IGNORE - 1}")
        return self.segmenter.encode_text(names)

    def segment(self, image: Picture, names: Sequence[str], *, threshold: float | None = None) -> Segmentation:
        """Label every pixel of a picture with one of the words.

        Args:
            image: Path, PIL picture, or (H, W, 3) uint8 array, RGB.
            names: At least one word.
            threshold: Pixels whose best word is less confident (0..1) get no word (255).
        """
        return self.segment_encoded(image, self.encode(names), threshold=threshold)

    def segment_encoded(self, image: Picture, text: TextFeatures, *, threshold: float | None = None) -> Segmentation:
        """As `segment`, for words that `encode` has encoded."""
        pixels = _pixels(image)
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).unsqueeze(0).to(self.segmenter.device)
        known = [i for i, name in enumerate(text.names) if name in self.trained_on]
        seen = known if self.calibrate and 0 < len(known) < len(text) else None
        maps = label_maps(self.segmenter, batch, text, self.inference, seen=seen, threshold=threshold)
        fresh = tuple(name for name in text.names if name not in self.trained_on) if self.trained_on else ()
        return Segmentation(pixels, text.names, maps.labels[0].to(torch.uint8).cpu().numpy(), maps.confidence[0].cpu().numpy(), fresh)


def load(
    model: str = "naclip", *, clip: str = "doodles", options: dict[str, Any] | None = None, inference: InferenceChanges | None = None, device: str = "cpu"
) -> Predictor:
    """A predictor from a method without training, or from a run folder.

    Args:
        model: Name of a method, or the folder `unseen train` wrote.
        clip: Tower of a method without training: "doodles", ARCHITECTURE/TAG of open_clip, or a weight file.
        options: Options of the method; for a run they replace single ones of its own.
        inference: Values to change; by default the run's, or one and a half times the tower's own size, in windows of that size.
        device: Of torch.

    Raises:
        SettingError: Neither a method nor a folder; a method that has to be trained first.
        CheckpointError: A folder that cannot be loaded.
    """
    settings, run = resolve(model, clip, False, options)
    changes = inference or InferenceChanges()
    if run is not None:
        segmenter, _ = load_run(Path(model), settings.options)
        return Predictor(segmenter.to(device), changes.on(run.inference), run.seen, calibrate=run.train.get("regime") == "inductive")
    tower = load_clip(clip)
    side = tower.visual.image_size[0]
    default = InferenceSettings(short_side=side * 3 // 2, window=side, stride=side // 2)
    return Predictor(create(model, tower, **settings.options).to(device), changes.on(default))


def segment(
    image: Picture, names: Sequence[str], *, model: str = "naclip", clip: str = "doodles", threshold: float | None = None, device: str = "cpu"
) -> Segmentation:
    """Label one picture; for many, keep what `load` returns."""
    return load(model, clip=clip, device=device).segment(image, names, threshold=threshold)


def save_segmentation(result: Segmentation, folder: Path, stem: str) -> None:
    """Write STEM.png (indexed label map), STEM.overlay.png and STEM.json; each whole or not at all."""
    write_labels(folder / f"{stem}.png", result.labels, palette(len(result.names)))
    with replacing(folder / f"{stem}.overlay.png") as beside:
        result.overlay().save(beside)
    write_text(folder / f"{stem}.json", json.dumps(result.as_dict(), indent=1, ensure_ascii=False) + "\n")


def build(
    model: ModelSettings, vocabulary: tuple[str, ...], text_embeddings: Path | None = None, run: Path | None = None
) -> tuple[ClipSegmenter, TextFeatures]:
    """A segmenter in eval mode and its encoded vocabulary.

    Args:
        model: Which; for a run, only its options are used, in place of the run's own.
        vocabulary: The words.
        text_embeddings: A .npy file to take the words' vectors from.
        run: Folder to load.
    """
    if run is not None:
        segmenter, _ = load_run(run, model.options)
    else:
        segmenter = create(model.method, load_clip(model.clip), published=model.published, **model.options)
    text = stored_text(text_embeddings, vocabulary, segmenter.clip.embed_dim) if text_embeddings else segmenter.encode_text(vocabulary)
    segmenter.eval()
    return segmenter, text


def resolve(model: str, clip: str, published: bool, options: dict[str, Any] | None) -> tuple[ModelSettings, Run | None]:
    """The settings of a method without training, by name, or of a run folder with some options replaced.

    Raises:
        SettingError: Neither, or a method that has to be trained first.
        CheckpointError: A folder that is not a run.
    """
    folder = Path(model)
    if model in METHODS and not (folder / "config.yaml").exists():
        if METHODS[model].cls.trainable:
            raise SettingError(f"{model} has to be trained first: unseen train {model}; then give its run folder")
        return ModelSettings(model, clip, published, options or {}), None
    if not folder.is_dir():
        free = ", ".join(name for name, method in METHODS.items() if not method.cls.trainable)
        raise SettingError(f"{model!r} is neither a method nor a run folder; methods without training are {free}")
    run = read_config(folder)
    return replace(run.model, options={**run.model.options, **(options or {})}), run


def _pixels(image: Picture) -> NDArray[np.uint8]:
    if isinstance(image, (str, Path)):
        return read_image(Path(image), upright=True)
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise DataError(f"a {type(image).__name__} is not a picture; give a path, a PIL picture, or an (H, W, 3) uint8 array")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"the array is {image.dtype} of shape {image.shape}; give (H, W, 3) uint8, RGB")
    return image
