"""What a segmenter makes of an image: a label map, and what it looks like to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from unseen.arguments import checked
from unseen.errors import DataError, SettingError, VocabularyError
from unseen.files import RESULTS, RESULTS_FORMAT, write_json, write_labels, write_png
from unseen.labels import IGNORE
from unseen.palettes import class_colours
from unseen.settings import DrawSettings
from unseen.settings.ranges import shown
from unseen.visualize import label_palette, overlay


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
        drawing: How it is drawn.
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
    drawing: DrawSettings = field(default_factory=DrawSettings, repr=False)

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
        return largest(self.shares, count)

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
        return overlay(self.image, self.labels, self.names, self.unseen, self.drawing)

    def as_dict(self) -> dict[str, Any]:
        """Class names, pixel shares and mean scores, and what made them, as JSON types.

        A class without pixels has no mean score.
        """
        # Row by row, as the weights are copied in double precision.
        sums = np.zeros(IGNORE + 1)
        for ids, scores in zip(self.labels, self.confidence, strict=True):
            sums += np.bincount(ids, scores, minlength=IGNORE + 1)
        told = numbers(self.names, self._counts, sums, self.labels.shape)
        return {
            **told,
            "image": self.origin,
            "margin": round(self.margin, 4),
            "entropy": round(self.entropy, 4),
            "made_with": dict(self.made_with),
        }

    def to_transformers(self) -> list[dict[str, Any]]:
        """What a pipeline of transformers for image segmentation returns: an entry a class.

        Each has the `label`, the `mask` as a PIL image of 0 and 255, and as `score` the mean
        confidence in 0..1; classes without pixels have none.
        """
        return [
            {
                "label": name,
                "score": float(self.confidence[mask].mean()),
                "mask": Image.fromarray(mask.astype(np.uint8) * 255),
            }
            for name in self.names
            if (mask := self.mask(name)).any()
        ]

    def to_supervision(self) -> Any:
        """Detections of supervision: a row for each connected region of a class.

        Raises:
            SettingError: supervision is not installed.
        """
        try:
            from supervision import Detections, mask_to_xyxy
        except ModuleNotFoundError as error:
            raise SettingError(
                "supervision is not installed; install it with pip install supervision"
            ) from error
        masks, classes, scores = [], list[int](), list[float]()
        for label in np.unique(self.labels[self.labels != IGNORE]).tolist():
            numbered, count = ndimage.label(self.labels == label)
            for number in range(1, count + 1):
                masks.append(numbered == number)
                classes.append(label)
                scores.append(float(self.confidence[masks[-1]].mean()))
        stacked = np.array(masks, dtype=bool).reshape(-1, *self.labels.shape)
        return Detections(
            xyxy=mask_to_xyxy(stacked).astype(np.float32),
            mask=stacked,
            confidence=np.array(scores, dtype=np.float32),
            class_id=np.array(classes, dtype=np.int64),
            data={"class_name": np.array([self.names[label] for label in classes], dtype=object)},
        )

    @checked
    def save(self, folder: str | Path, stem: str) -> dict[str, Any]:
        """Write STEM.png (indexed label map), STEM.overlay.png and STEM.json.

        Each is written whole or not at all, the numbers last. The label map says in itself what it
        was made with, as the numbers do.

        Returns:
            The numbers.

        Raises:
            DataError: A stem that is no file name, or files that cannot be written.
        """
        folder = Path(folder)
        if Path(stem).name != stem:
            raise DataError(f"stem is {shown(stem)}; give a file name without folders")
        labels, drawn, beside = (folder / (stem + ending) for ending in RESULTS)
        self.save_labels(labels)
        write_png(drawn, self.overlay())
        told = self.as_dict()
        write_json(beside, told)
        return told

    def save_labels(self, path: Path) -> None:
        """Write the label map alone, which says in itself what it was made with."""
        table = label_palette(class_colours(self.drawing.palette, self.names))
        write_labels(path, self.labels, table, {"image": self.origin, **self.made_with})


def largest(shares: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    """The `count` classes with the largest shares, none without pixels."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return [(name, share) for name, share in ranked[:count] if share > 0]


def numbers(
    names: Sequence[str], counts: NDArray[Any], sums: NDArray[Any], size: tuple[int, ...]
) -> dict[str, Any]:
    """Size, pixel shares and mean scores of a label map, as JSON types.

    Args:
        names: Of the classes.
        counts: Pixels of each label (256).
        sums: Of their confidences (256).
        size: H and W.
    """
    pixels = size[0] * size[1]
    classes = [
        {
            "id": i,
            "name": name,
            "share": round(float(counts[i] / pixels), 6),
            "mean_score": round(float(sums[i] / counts[i]), 4) if counts[i] else None,
        }
        for i, name in enumerate(names)
    ]
    no_class = round(float(counts[IGNORE] / pixels), 6)
    return {
        "format": RESULTS_FORMAT,
        "height": size[0],
        "width": size[1],
        "no_class": no_class,
        "classes": classes,
    }
