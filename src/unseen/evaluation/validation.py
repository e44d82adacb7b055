"""Scores of a network that is being trained, on a part of the validation set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from unseen.building import encode
from unseen.clip_segmenter import TextSegmenter
from unseen.data.benchmarks import Benchmark
from unseen.evaluation.loop import evaluate
from unseen.evaluation.protocols import Candidate
from unseen.runs import Run
from unseen.segmenter import TextFeatures
from unseen.settings import EvaluationSettings
from unseen.vocabulary import Vocabulary


@dataclass(frozen=True)
class Validation:
    """Scores a method as it stands, and leaves it as it was.

    Attributes:
        segmenter: The method.
        text: The classes, encoded.
        vocabulary: The same classes, for methods that train their text.
        benchmark: What it is trained on.
        root: Where its data lie.
        run: What the run folder says: size and windows, and which scores are reduced.
        images: How many images or episodes, taken evenly from all.
    """

    segmenter: TextSegmenter
    text: TextFeatures
    vocabulary: Vocabulary
    benchmark: Benchmark
    root: Path | None
    run: Run
    images: int

    def __call__(self) -> dict[str, float]:
        """The protocol's scores, in percent."""
        with _as_if_trained(self.segmenter):
            text = self.text.to(self.segmenter.device)
            if self.segmenter.trains_text:  # its features change with every step
                text = encode(self.segmenter, self.vocabulary)
            candidate = Candidate(
                "validation",
                self.segmenter,
                text,
                self.run.inference,
                calibrated=self.run.calibrated_ids(self.benchmark.class_names),
            )
            settings = EvaluationSettings(limit=self.images, shown=0, progress=False)
            return evaluate(candidate, self.benchmark, self.root, settings, evenly=True).scores


@contextmanager
def _as_if_trained(segmenter: TextSegmenter) -> Iterator[None]:
    """In eval mode inside; afterwards every part is in the mode it was in, and so is torch."""
    modes = [(module, module.training) for module in segmenter.modules()]
    state = torch.get_rng_state()
    try:
        segmenter.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        torch.set_rng_state(state)


def best_by(benchmark: Benchmark) -> str:
    """The score by which the best step of a run is chosen."""
    return "mIoU" if benchmark.episodes is not None or not benchmark.unseen else "hIoU"
