"""A segmenter ready for use: images and class names in, label maps out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unseen.arguments import checked
from unseen.building import encode
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import SettingError, VocabularyError
from unseen.files import file_state
from unseen.images import ImageLike, read_pixels
from unseen.inference import LabelMaps, label_maps, uncertainty
from unseen.labels import MAX_8BIT_CLASSES
from unseen.provenance import label_map_provenance, model_provenance
from unseen.runs import Run
from unseen.segmentation import Segmentation
from unseen.segmenter import TextFeatures
from unseen.segments.refinement import SegmentRefiner
from unseen.settings import DrawSettings, InferenceSettings, check_threshold
from unseen.sources import ModelSource
from unseen.vocabulary import Vocabulary, check_names


class Predictor:
    """A segmenter ready to label images.

    Args:
        segmenter: The method, on the device to compute on.
        inference: Size, windows and refinement.
        source: Where the segmenter comes from; None for one that was made by hand.
        drawing: How label maps are drawn.
    """

    def __init__(
        self,
        segmenter: TextSegmenter,
        inference: InferenceSettings,
        source: ModelSource | None = None,
        drawing: DrawSettings | None = None,
    ) -> None:
        self.drawing = drawing or DrawSettings()
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

    @overload
    def segment(
        self,
        image: list[ImageLike],
        names: Sequence[str] | Vocabulary,
        *,
        threshold: float | None = None,
    ) -> list[Segmentation]: ...

    @overload
    def segment(
        self,
        image: ImageLike,
        names: Sequence[str] | Vocabulary,
        *,
        threshold: float | None = None,
    ) -> Segmentation: ...

    @checked
    def segment(
        self,
        image: ImageLike | list[ImageLike],
        names: Sequence[str] | Vocabulary,
        *,
        threshold: float | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Label every pixel of an image, or of each of a list, with one of the classes.

        Args:
            image: Path, address, PIL image, array or tensor (`unseen.images.read_pixels`), or a
                list of them, for a list of label maps.
            names: At least one class name, or a vocabulary.
            threshold: Pixels whose best class is less confident (0..1) get no class (255).
        """
        text = self.encode(names)
        if isinstance(image, list):
            return [self.segment_encoded(each, text, threshold=threshold) for each in image]
        return self.segment_encoded(image, text, threshold=threshold)

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
                drawing=self.drawing,
            )
            for i, image in enumerate(images)
        ]

    def made_with(
        self,
        text: TextFeatures,
        threshold: float | None,
        inference: InferenceSettings | None = None,
    ) -> dict[str, Any]:
        """What label maps of these classes are made with, as JSON types.

        Args:
            text: The classes, encoded.
            threshold: Of the background.
            inference: Where it is not that of the predictor.
        """
        chosen = inference or self.inference
        return label_map_provenance(self.model_told, text, chosen, threshold, self.drawing)

    @cached_property
    def model_told(self) -> dict[str, Any]:
        """Method or run, options, weights and towers, as JSON types."""
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
