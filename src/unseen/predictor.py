"""A segmenter ready for use: images and class names in, label maps out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from unseen.errors import DataError, SettingError, UnseenError, VocabularyError
from unseen.files import RESULTS, write_json, write_labels, write_png
from unseen.images import ImageLike, read_pixels
from unseen.inference import LabelMaps, label_maps
from unseen.labels import IGNORE, MAX_8BIT_CLASSES
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
    """

    image: NDArray[np.uint8] = field(repr=False)
    names: tuple[str, ...]
    labels: NDArray[np.uint8] = field(repr=False)
    confidence: NDArray[np.float32] = field(repr=False)
    unseen: tuple[str, ...] = ()

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
        """Class names, pixel shares and mean scores, as JSON types.

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
            "format": 2,
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "no_class": round(float(self._counts[IGNORE] / self.labels.size), 6),
            "classes": classes,
        }

    @checked
    def save(self, folder: str | Path, stem: str) -> None:
        """Write STEM.png (indexed label map), STEM.overlay.png and STEM.json.

        Each is written whole or not at all.

        Raises:
            DataError: A stem that is no file name, or files that cannot be written.
        """
        folder = Path(folder)
        if Path(stem).name != stem:
            raise DataError(f"stem is {shown(stem)}; give a file name without folders")
        labels, drawn, numbers = (folder / (stem + ending) for ending in RESULTS)
        write_labels(labels, self.labels, palette(len(self.names)))
        write_png(drawn, self.overlay())
        write_json(numbers, self.as_dict())


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
        return self._segmented(read_pixels(image), image, text, threshold)

    @checked
    def segment_files(
        self,
        files: Sequence[Path],
        text: TextFeatures,
        out: Path,
        *,
        threshold: float | None = None,
    ) -> Iterator[tuple[Path, Segmentation | UnseenError]]:
        """Label images and save the results, by name, in a folder.

        The next image is read and the last result written while the network computes.

        Args:
            files: Images.
            text: Classes that `encode` has encoded.
            out: The folder.
            threshold: As for `segment`.

        Returns:
            Each file, in their order, with its result, or with what kept it from being read or
            written.
        """
        check_threshold(threshold)
        return self._segment_files(files, text, out, threshold)

    def _segment_files(
        self, files: Sequence[Path], text: TextFeatures, out: Path, threshold: float | None
    ) -> Iterator[tuple[Path, Segmentation | UnseenError]]:
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            reads = (reader.submit(read_pixels, file) for file in files)
            ahead, behind = next(reads, None), None
            for file in files:
                # Reading the next image begins before the network looks at this one.
                read, ahead = ahead, next(reads, None)
                assert read is not None
                saved: Future[Segmentation] = Future()
                try:
                    result = self._segmented(read.result(), file, text, threshold)
                    saved = writer.submit(_saved, result, out, file.stem)
                except UnseenError as error:
                    saved.set_exception(error)
                finally:  # also when the network fails, the result before it is told
                    if behind is not None:
                        yield _outcome(*behind)
                behind = (file, saved)
            if behind is not None:
                yield _outcome(*behind)

    def _segmented(
        self,
        pixels: NDArray[np.uint8],
        image: ImageLike,
        text: TextFeatures,
        threshold: float | None,
    ) -> Segmentation:
        """The label map of an image that has been read."""
        channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        batch = torch.from_numpy(channels_first).unsqueeze(0).to(self.segmenter.device)
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
        maps = self._refined(maps, batch, image)
        labels = maps.labels[0].to(torch.uint8).cpu().numpy()
        confidence = maps.confidence[0].cpu().numpy()
        return Segmentation(pixels, text.vocabulary, labels, confidence, unseen)

    def _refined(self, maps: LabelMaps, images: Tensor, image: ImageLike) -> LabelMaps:
        """The label maps refined by eigen-segments, if the settings ask for it."""
        if self._refiner is None:
            return maps
        source, name = self._refiner.source, ""
        if isinstance(image, (str, Path)):
            name = Path(image).stem
        elif source.folder is not None:
            raise SettingError(
                "segments are read from a folder by the image's file name; give a path, or remove"
                " --inference.segments_dir"
            )
        return self._refiner.refine(maps, source(images, [name]))


def _saved(result: Segmentation, folder: Path, stem: str) -> Segmentation:
    """The result, when it has been saved."""
    result.save(folder, stem)
    return result


def _outcome(file: Path, saved: Future[Segmentation]) -> tuple[Path, Segmentation | UnseenError]:
    """A file with its result, or with what went wrong."""
    try:
        return file, saved.result()
    except UnseenError as error:
        return file, error
