"""A segmenter ready for use: images and class names in, label maps out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unseen.arguments import checked
from unseen.building import encode
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import DataError, SettingError, VocabularyError
from unseen.files import RESULTS, file_state, write_json, write_labels, write_png
from unseen.images import ImageLike, read_pixels
from unseen.inference import LabelMaps, label_maps, uncertainty
from unseen.labels import IGNORE, MAX_8BIT_CLASSES
from unseen.provenance import label_map_provenance, model_provenance
from unseen.runs import Run
from unseen.segmenter import TextFeatures
from unseen.segments.refinement import SegmentRefiner
from unseen.settings import InferenceSettings, check_threshold
from unseen.settings.ranges import shown
from unseen.sources import ModelSource
from unseen.visualize import overlay, palette
from unseen.vocabulary import Vocabulary, check_names


@dataclass(frozen=True)
class Segmentation:
    """A labelled image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        names: The class names, in the order of the ids.
        labels: (H, W) uint8, class ids; 255 where no class was confident enough.
        confidence: (H, W) float32 in 0..1, of the chosen class.
        unseen: The classes without masks in training; empty for methods without training.
        margin: Mean margin between the best class and the next, in 0..1 (`uncertainty`).
        entropy: Mean entropy over the classes, as a share of the highest, in 0..1.
        origin: Name, size and time of the image's file, where it came from one (`file_state`).
        made_with: What the label map was made with (`unseen.provenance`).
    """

    image: NDArray[np.uint8] = field(repr=False)
    names: tuple[str, ...]
    labels: NDArray[np.uint8] = field(repr=False)
    confidence: NDArray[np.float32] = field(repr=False)
    unseen: tuple[str, ...] = ()
    margin: float = 1.0
    entropy: float = 0.0
    origin: Mapping[str, Any] | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Pixels of each label (256)."""
        return np.bincount(self.labels.ravel(), minlength=IGNORE + 1)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class, in 0..1."""
        return {
            name: float(self._counts[i] / self.labels.size) for i, name in enumerate(self.names)
        }

    @checked
    def largest(self, count: int) -> list[tuple[str, float]]:
        """The `count` classes with the most pixels, and their shares; none without pixels."""
        if count < 0:
            raise SettingError(f"count is {count}; give at least 0")
        ranked = sorted(self.shares.items(), key=lambda item: -item[1])
        return [(name, share) for name, share in ranked[:count] if share > 0]

    @checked
    def mask(self, name: str) -> NDArray[np.bool_]:
        """The pixels (H, W) of one class.

        Raises:
            VocabularyError: It is not among the names.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            raise VocabularyError(f"there is no class {shown(name)}; choose among {known}")
        return np.asarray(self.labels == self.names.index(name))

    def overlay(self) -> Image.Image:
        """The image with its label map and a legend."""
        return overlay(self.image, self.labels, self.names, self.unseen)

    def as_dict(self) -> dict[str, Any]:
        """Class names, pixel shares and mean scores, and what made them, as JSON types.

        A class without pixels has no mean score.
        """
        # Row by row, as the weights are copied in double precision.
        sums = np.zeros(IGNORE + 1)
        for ids, scores in zip(self.labels, self.confidence, strict=True):
            sums += np.bincount(ids, scores, minlength=IGNORE + 1)
        classes = []
        for i, (name, share) in enumerate(self.shares.items()):
            mean = None
            if share > 0:
                mean = round(float(sums[i] / self._counts[i]), 4)
            classes.append({"id": i, "name": name, "share": round(share, 6), "mean_score": mean})
        return {
            "format": 3,
            "image": self.origin,
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "no_class": round(float(self._counts[IGNORE] / self.labels.size), 6),
            "margin": round(self.margin, 4),
            "entropy": round(self.entropy, 4),
            "classes": classes,
            "made_with": dict(self.made_with),
        }

    @checked
    def save(self, folder: str | Path, stem: str) -> None:
        """Write STEM.png (indexed label map), STEM.overlay.png and STEM.json.

        Each is written whole or not at all, the numbers last. The label map says in itself what it
        was made with, as the numbers do.

        Raises:
            DataError: A stem that is no file name, or files that cannot be written.
        """
        folder = Path(folder)
        if Path(stem).name != stem:
            raise DataError(f"stem is {shown(stem)}; give a file name without folders")
        labels, drawn, numbers = (folder / (stem + ending) for ending in RESULTS)
        told = self.as_dict()
        write_labels(
            labels,
            self.labels,
            palette(len(self.names)),
            {"image": told["image"], **told["made_with"]},
        )
        write_png(drawn, self.overlay())
        write_json(numbers, told)


class Predictor:
    """A segmenter ready to label images.

    Args:
        segmenter: The method, on the device to compute on.
        inference: Size, windows and refinement.
        source: Where the segmenter comes from; None for one that was made by hand.
    """

    def __init__(
        self,
        segmenter: TextSegmenter,
        inference: InferenceSettings,
        source: ModelSource | None = None,
    ) -> None:
        self.segmenter, self.inference, self.source = segmenter.eval(), inference, source
        self._refiner = SegmentRefiner.from_settings(segmenter, inference)

    @property
    def run(self) -> Run | None:
        """What the run folder says; None for methods without training."""
        if self.source is None:
            return None
        return self.source.run

    @checked
    def encode(self, names: Sequence[str] | Vocabulary) -> TextFeatures:
        """Encode classes once, for many images.

        Args:
            names: Class names, or a vocabulary with synonyms or words for the background.

        Raises:
            VocabularyError: No names, more than 253, a repeated one, one that is too long.
        """
        vocabulary = names
        if not isinstance(vocabulary, Vocabulary):
            names = check_names(vocabulary)
            # A run asks its own classes as it was trained to.
            own = self.run.vocabulary.synonyms if self.run is not None else {}
            synonyms = {name: words for name, words in own.items() if name in names}
            vocabulary = Vocabulary(names, synonyms)
        if len(vocabulary) > MAX_8BIT_CLASSES:
            raise VocabularyError(
                f"{len(vocabulary)} classes are more than a label map with 8 bits holds; give at"
                f" most {MAX_8BIT_CLASSES}"
            )
        return encode(self.segmenter, vocabulary)

    @checked
    def segment(
        self,
        image: ImageLike,
        names: Sequence[str] | Vocabulary,
        *,
        threshold: float | None = None,
    ) -> Segmentation:
        """Label every pixel of an image with one of the classes.

        Args:
            image: Path, PIL image or array (`unseen.images.read_pixels`).
            names: At least one class name, or a vocabulary.
            threshold: Pixels whose best class is less confident (0..1) get no class (255).
        """
        return self.segment_encoded(image, self.encode(names), threshold=threshold)

    @checked
    def segment_encoded(
        self, image: ImageLike, text: TextFeatures, *, threshold: float | None = None
    ) -> Segmentation:
        """As `segment`, for class names that `encode` has encoded."""
        check_threshold(threshold)
        return self.segment_several([image], [read_pixels(image)], text, threshold)[0]

    def segment_several(
        self,
        images: Sequence[ImageLike],
        pixels: Sequence[NDArray[np.uint8]],
        text: TextFeatures,
        threshold: float | None = None,
    ) -> list[Segmentation]:
        """The label maps of images of one size that have been read, computed together.

        Args:
            images: What they were read from.
            pixels: Of each, (H, W, 3).
            text: Classes that `encode` has encoded.
            threshold: As for `segment`.
        """
        channels_first = np.stack([each.transpose(2, 0, 1) for each in pixels])
        batch = torch.from_numpy(channels_first).to(self.segmenter.device)
        # Which logits are reduced depends on which of these names were trained on.
        calibrated: list[int] | None = None
        unseen: tuple[str, ...] = ()
        if self.run is not None:
            calibrated = self.run.calibrated_ids(text.vocabulary)
            unseen = tuple(name for name in text.vocabulary if name not in self.run.seen)
        maps = label_maps(
            self.segmenter,
            batch,
            text,
            self.inference,
            seen=calibrated,
            threshold=threshold,
        )
        margins, entropies = uncertainty(self.segmenter, maps.scores, text)
        maps = self._refined(maps, batch, images)
        labels = maps.labels.to(torch.uint8).cpu().numpy()
        confidence = maps.confidence.cpu().numpy()
        made_with = self.made_with(text, threshold)
        return [
            Segmentation(
                pixels[i],
                text.vocabulary,
                labels[i],
                confidence[i],
                unseen,
                margin=float(margins[i]),
                entropy=float(entropies[i]),
                origin=file_state(Path(image)) if isinstance(image, (str, Path)) else None,
                made_with=made_with,
            )
            for i, image in enumerate(images)
        ]

    def made_with(self, text: TextFeatures, threshold: float | None) -> dict[str, Any]:
        """What label maps of these classes are made with, as JSON types."""
        return label_map_provenance(self._model_provenance, text, self.inference, threshold)

    @cached_property
    def _model_provenance(self) -> dict[str, Any]:
        return model_provenance(self.segmenter, self.source)

    def _refined(self, maps: LabelMaps, batch: Tensor, images: Sequence[ImageLike]) -> LabelMaps:
        """The label maps refined by eigen-segments, if the settings ask for it."""
        if self._refiner is None:
            return maps
        source, names = self._refiner.source, []
        for image in images:
            if isinstance(image, (str, Path)):
                names.append(Path(image).stem)
            elif source.folder is not None:
                raise SettingError(
                    "segments are read from a folder by the image's file name; give a path, or"
                    " remove --inference.segments_dir"
                )
            else:
                names.append("")
        return self._refiner.refine(maps, source(batch, names))
