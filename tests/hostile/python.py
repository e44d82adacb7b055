"""Nonsense in every argument of every public function and method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import unseen
from hostile.files import photograph
from hostile.judge import Case
from unseen.labelling.whole import WholeJob
from unseen.predictor import Predictor
from unseen.settings import InferenceSettings, ModelSettings, TrainSettings, TransformSettings
from unseen.vocabulary import Vocabulary


class Odd:
    """An object of a kind nobody knows, whose every question fails."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = object.__repr__


def _generator() -> Iterator[Any]:
    yield None


def _closed() -> Any:
    image = photograph()
    image.close()
    return image


NONSENSE: Mapping[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a number": lambda: 5,
    "minus one": lambda: -1,
    "not a number": lambda: math.nan,
    "no text": lambda: "",
    "blanks": lambda: "  ",
    "a null byte": lambda: "a\0b",
    "half a character": lambda: "a\ud800b",
    "a long text": lambda: "x" * 100_000,
    "a path to nothing": lambda: Path("nowhere/at/all"),
    "an empty list": list,
    "a list of nothing": lambda: [None],
    "a list of lists": lambda: [[]],
    "a generator": _generator,
    "a dictionary": lambda: {"a": 1},
    "a set": lambda: {"a"},
    "bytes": lambda: b"a",
    "an object": Odd,
    "a class": lambda: int,
    "a function": lambda: print,
    "an empty array": lambda: np.zeros(0),
    "no pixels": lambda: np.zeros((0, 5, 3), np.uint8),
    "an array of objects": lambda: np.array([None]),
    "an array of numbers": lambda: np.full((4, 4), np.nan),
    "a closed image": _closed,
    "a module": lambda: math,
}


def cases(run: Path, own: Path, model: Predictor) -> Iterator[Case]:
    """Each argument in turn; the others are right."""
    image, vocabulary = photograph(), Vocabulary(("boat", "key"))
    encoded = model.encode(vocabulary)
    small = TransformSettings(crop=64)
    settings = TrainSettings(steps=1, batch_size=2, warmup=0, workers=0, transforms=small)
    plain = {"model": ModelSettings("zegclip"), "settings": settings}
    scored = {"models": "naclip", "save": False, "benchmark": str(own), "settings": {"limit": 1}}
    scored["inference"] = {"short_side": 32, "window": 0}
    functions: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]]] = {
        "load": (
            unseen.load,
            {},
            ("model", "inference", "class_names", "device", "clip", "published", "options",
             "text_embeddings"),
        ),
        "segment": (
            unseen.segment,
            {"image": image, "names": ["boat"]},
            ("image", "names", "model", "threshold", "device", "clip", "options"),
        ),
        "Predictor.encode": (model.encode, {"names": ["boat"]}, ("names",)),
        "Predictor.segment": (
            model.segment, {"image": image, "names": ["boat"]}, ("image", "names", "threshold"),
        ),
        "Predictor.segment_encoded": (
            model.segment_encoded, {"image": image, "text": encoded}, ("image", "threshold"),
        ),
        "WholeJob": (
            WholeJob, {"predictor": model, "text": encoded, "out": Path("labelled")},
            ("out", "threshold", "batch"),
        ),
        "Segmentation.mask": (model.segment(image, ["boat"]).mask, {"name": "boat"}, ("name",)),
        "Segmentation.largest": (model.segment(image, ["boat"]).largest, {"count": 1}, ("count",)),
        "Vocabulary": (
            Vocabulary, {"names": ("boat",)},
            ("names", "synonyms", "combine", "templates", "background"),
        ),
        "InferenceSettings": (InferenceSettings, {}, ("window", "stride", "pamr_dilations")),
        "train": (
            unseen.train, plain,
            ("model", "settings", "benchmark", "out", "root", "lists", "text_embeddings", "init",
             "class_file"),
        ),
        "evaluate": (
            unseen.evaluate, scored,
            ("models", "benchmark", "settings", "inference", "vocabulary", "root", "lists", "out",
             "clip", "options"),
        ),
        "convert": (
            unseen.convert,
            {"method": "zegclip", "file": run / "weights.safetensors", "out": Path("converted"),
             "benchmark": "voc"},
            ("method", "file", "out", "benchmark", "regime", "clip", "vision_heads"),
        ),
        "eigenvectors": (
            unseen.eigenvectors, {"source": str(run), "out": Path("vectors")},
            ("source", "out", "root", "settings", "extraction"),
        ),
    }  # fmt: skip
    for name, (function, right, arguments) in functions.items():
        for argument in arguments:
            for kind, make in NONSENSE.items():

                def act(
                    function: Callable[..., Any] = function,
                    given: Mapping[str, Any] = {**right},
                    argument: str = argument,
                    make: Callable[[], Any] = make,
                ) -> Any:
                    return function(**{**given, argument: make()})

                yield Case(f"{name}({argument} = {kind})", act, may_work=True)
