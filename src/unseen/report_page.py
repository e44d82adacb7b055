"""A report as one HTML file: scores, classes, confusion, and images worth a look."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unseen.files import about, write_text
from unseen.labels import IGNORE, label_to_index
from unseen.legends import Colour
from unseen.palettes import colours
from unseen.settings import flat
from unseen.visualize import Row, paint

NAME = "report.html"
"""Beside report.json."""
SIDE, QUALITY = 320, 82
"""Of the images: the longer side in pixels at most, and JPEG's quality."""
TEMPLATE = "report_page.html"


@dataclass(frozen=True)
class Shown:
    """An image of the page.

    Attributes:
        name: Its name, with the query class of an episode.
        score: The mean over its labelled classes of their IoU in it, 0..1.
        scores: IoU of the classes labelled in it, by name.
        extra: Classes that are predicted where others are labelled, the largest first.
        pictures: By what they show, JPEG files.
    """

    name: str
    score: float
    scores: Mapping[str, float]
    extra: tuple[str, ...]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Reduced:
    """An image as small as it is shown, before it is drawn.

    Attributes:
        name: As of `Shown`.
        score: As of `Shown`.
        scores: As of `Shown`.
        extra: As of `Shown`.
        image: (h, w, 3).
        truth: Labels (h, w).
        prediction: Labels (h, w), 255 where nothing is labelled.
        confidence: (h, w) uint8; None where there is none.
    """

    name: str
    score: float
    scores: Mapping[str, float]
    extra: tuple[str, ...]
    image: NDArray[np.uint8]
    truth: NDArray[Any]
    prediction: NDArray[Any]
    confidence: NDArray[np.uint8] | None

    @classmethod
    def of(
        cls,
        row: Row,
        confidence: NDArray[Any] | None,
        score: float,
        scores: Mapping[str, float],
        names: Sequence[str],
        *,
        everywhere: bool,
    ) -> Reduced:
        """What is shown of a row of a sheet.

        Args:
            row: Image, truth and prediction.
            confidence: (H, W) in 0..1; None where there is none.
            score: As of `Shown`.
            scores: As of `Shown`.
            names: Of all classes.
            everywhere: Show predictions where nothing is labelled too (folds).
        """
        scored = (row.truth != IGNORE) | everywhere
        (labels,) = row.predictions.values()
        guess = np.where(scored, labels, IGNORE)
        counts = np.bincount(label_to_index(guess[guess != IGNORE].astype(np.int64)))
        ranked = [names[i] for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
        image = _sized(row.image)
        truth, guess = (_reduced(each, image.shape).astype(np.int16) for each in (row.truth, guess))
        if confidence is not None:
            confidence = (255 * _reduced(confidence, image.shape).clip(0, 1)).astype(np.uint8)
        extra = tuple(name for name in ranked if name not in scores)
        return cls(row.note, score, scores, extra, image, truth, guess, confidence)

    def drawn(self, count: int) -> Shown:
        """With its pictures, in the colours of so many classes."""
        table = colours(count)
        pictures = {"image": _jpeg(self.image)}
        for name, labels in (("truth", self.truth), ("prediction", self.prediction)):
            pictures[name] = _jpeg(paint(self.image, labels, table))
        if self.confidence is not None:
            pictures["confidence"] = _jpeg(_heated(self.confidence))
        return Shown(self.name, self.score, self.scores, self.extra, pictures)


def _sized(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image as large as it is shown; small ones grow by a whole factor, without smoothing."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    factor = SIDE // max(image.size)
    size = (image.width * factor, image.height * factor)
    return np.asarray(image.resize(size, Image.Resampling.NEAREST))


def _reduced(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The nearest values on a grid of another size."""
    places = (
        ((np.arange(size) + 0.5) * old / size).astype(int)
        for size, old in zip(shape[:2], values.shape, strict=True)
    )
    reduced: NDArray[Any] = values[np.ix_(*places)]
    return reduced


def _heated(confidence: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Confidence in 0..255 as colours, from dark (none) to bright."""
    from matplotlib import colormaps

    table = (255 * colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
    heated: NDArray[np.uint8] = table[confidence]
    return heated


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


# ---------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Told:
    """What the page says beside report.json.

    Attributes:
        title: The benchmark's.
        heads: The scores that are shown, and what they are headed with.
        names: Of the scored classes.
        unseen: Those without masks in training.
        images: Some of them (`unseen.evaluation.gallery`).
        how: How these were chosen, in words.
        place: The folder of the report.
    """

    title: str
    heads: Mapping[str, str]
    names: Sequence[str]
    unseen: Sequence[str]
    images: Sequence[Shown]
    how: str
    place: str = ""


def write_page(path: Path, report: Mapping[str, Any], told: Told) -> None:
    """Write a report as one file that needs no other.

    Args:
        path: Its place.
        report: As report.json holds it.
        told: What else is on the page.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the order says something
    source = resources.files("unseen").joinpath(TEMPLATE).read_text(encoding="utf-8")
    chips = list(zip(told.names, map(_css, colours(len(told.names))), strict=True))
    text = environment.from_string(source).render(
        about=about(),
        report=report,
        told=told,
        scores=_scores(report, told.heads),
        bars=_bars(report, told.unseen),
        chips=chips,
        images=[_image(shown) for shown in told.images],
        confusion=report.get("confusion"),
        facts=_facts(report),
        has_confidence=any("confidence" in shown.pictures for shown in told.images),
    )
    write_text(path, text)


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _scores(report: Mapping[str, Any], heads: Mapping[str, str]) -> list[tuple[str, str]]:
    """The scores as text, with their heads; a dash for what has no value."""
    values = report["scores"]
    return [
        (head, "–" if values.get(name) is None else f"{values[name]:.1f}")
        for name, head in heads.items()
    ]


def _bars(report: Mapping[str, Any], unseen: Sequence[str]) -> list[dict[str, Any]]:
    """IoU by class, the highest first; classes that occur nowhere last."""
    bars = [
        {"name": name, "iou": value, "unseen": name in unseen}
        for name, value in report["iou"].items()
    ]
    return sorted(bars, key=lambda bar: -math.inf if bar["iou"] is None else bar["iou"])[::-1]


def _image(shown: Shown) -> dict[str, Any]:
    """An image for the template and its script."""
    return {
        "name": shown.name,
        "score": round(100 * shown.score, 1),
        "classes": [(name, round(100 * value, 1)) for name, value in shown.scores.items()],
        "extra": list(shown.extra[:6]),
        "pictures": {
            name: "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
            for name, data in shown.pictures.items()
        },
    }


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The protocol and the cost, flat; long lists are counted."""
    told = flat({"protocol": report["protocol"], "cost": report.get("cost") or {}})
    return [(name.partition(".")[2] if name.startswith("protocol") else name, _short(value))
            for name, value in told.items()]  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) > 12:
        return f"{', '.join(map(str, value[:12]))}, ... ({len(value)} in all)"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
