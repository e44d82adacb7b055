"""A segmenter on a benchmark: one confusion matrix, a report that repeats the protocol, a sheet of pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from unseen.checkpoints import fingerprint, versions
from unseen.data.benchmarks import Benchmark
from unseen.data.datasets import Sample
from unseen.files import replacing, write_text
from unseen.inference import label_maps
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix
from unseen.segmenter import ClipSegmenter, Segmenter, TextFeatures
from unseen.settings import InferenceSettings
from unseen.visualize import Row, sheet


@dataclass(frozen=True)
class Report:
    """What an evaluation measured, and everything that moves the number.

    Attributes:
        title: Of the segmenter, for tables and pictures.
        benchmark: What it was judged on.
        matrix: All labelled pixels.
        pixels: Labelled pixels, counted on the labels alone.
        pictures: How many.
        protocol: Words, windows, templates, options, seed, versions.
        rows: Some pictures with truth and prediction.
    """

    title: str
    benchmark: Benchmark
    matrix: ConfusionMatrix
    pixels: int
    pictures: int
    protocol: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def scores(self) -> dict[str, float]:
        """The protocol's numbers, in percent."""
        return self.matrix.summary(self.benchmark.seen_ids, self.benchmark.unseen_ids)

    def as_dict(self) -> dict[str, Any]:
        """The whole report as JSON types; numbers that do not exist are null."""
        names = self.benchmark.vocabulary
        return {
            "model": self.title,
            "benchmark": self.benchmark.name,
            "scores": {name: _number(value) for name, value in self.scores.items()},
            "iou": {name: _number(100 * value) for name, value in zip(names, self.matrix.iou.tolist(), strict=True)},
            "pictures": self.pictures,
            "pixels": self.pixels,
            "protocol": self.protocol,
            "confusion": {"rows": list(names), "columns": [*names, "no word"], "pixels": self.matrix.counts.tolist()},
        }

    def save(self, folder: Path) -> None:
        """Write `report.json` and `sheet.png`."""
        write_text(folder / "report.json", json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        if self.rows:
            scores = self.scores
            words = {"pAcc": "pAcc", "mIoU_S": "mIoU seen", "mIoU_U": "mIoU unseen", "hIoU": "hIoU"}
            line = "   ".join(f"{word} {scores[name]:.1f}" for name, word in words.items() if not math.isnan(scores[name]))
            line += "   (grey: not labelled, not scored)"
            picture = sheet(
                self.rows, self.benchmark.vocabulary, self.benchmark.unseen, title=f"{self.title} on {self.benchmark.name}", subtitle=line, across=2
            )
            with replacing(folder / "sheet.png") as beside:
                picture.save(beside)


def evaluate(
    segmenter: Segmenter, text: TextFeatures, benchmark: Benchmark, root: Path | None, *, title: str, inference: InferenceSettings,
    seen: Sequence[int] | None = None, limit: int | None = None, threshold: float | None = None, batch_size: int = 16,
    workers: int = 0, shown: int = 8, progress: bool = True,
    about: dict[str, Any] | None = None,
) -> Report:  # fmt: skip
    """Score a segmenter on a benchmark's validation pictures.

    Args:
        segmenter: Any method, in eval mode; runs where its parameters lie.
        text: The benchmark's vocabulary, encoded.
        benchmark: Vocabulary, split and data.
        root: Where the data lie.
        title: Name in the report.
        inference: Size and windows.
        seen: Ids trained on, for methods that lower their scores; None if none or all were.
        limit: Only the first so many pictures; the report says so.
        threshold: Background policy (`unseen.inference.label_maps`).
        batch_size: Most pictures of one size computed together.
        workers: Processes that read pictures.
        shown: Pictures kept for the sheet, spread over the set.
        progress: Show a progress bar.
        about: What else the report should say of the model.
    """
    data = benchmark.data("val", root)
    count = len(data) if limit is None else min(limit, len(data))
    wanted = {round(i * (count - 1) / max(1, shown - 1)) for i in range(min(shown, count))} if shown else set()
    matrix, pixels, rows, done = ConfusionMatrix(len(benchmark.vocabulary)), 0, [], 0
    loader = DataLoader(Subset(data, range(count)), batch_size=None, num_workers=workers, collate_fn=cast(Any, _as_it_is))
    samples = track(loader, description=title, total=count, transient=True, disable=not progress)
    for images, labels in _same_size(samples, batch_size):
        maps = label_maps(segmenter, images.to(segmenter.device), text, inference, seen=seen, threshold=threshold).labels.cpu()
        matrix.update(maps, labels)
        pixels += int((labels != IGNORE).sum())
        for image, truth, guess in zip(images, labels, maps, strict=True):
            if done in wanted:
                rows.append(Row(image.permute(1, 2, 0).numpy(), truth.numpy().astype(np.uint8), {"prediction": guess.numpy().astype(np.uint8)}))
            done += 1
    protocol = {
        **benchmark.protocol,
        "vocabulary": list(text.names),
        "unseen": list(benchmark.unseen),
        "inference": asdict(inference),
        "threshold": threshold,
        "calibrated": seen is not None,
        "limit": limit,
        "oracle": False,
        "tower": {"source": segmenter.clip.source, "fingerprint": fingerprint(segmenter.clip)} if isinstance(segmenter, ClipSegmenter) else None,
        **(about or {}),
        "versions": versions(),
    }
    return Report(title, benchmark, matrix, pixels, count, protocol, rows)


def print_reports(reports: Sequence[Report]) -> None:
    """A table of reports on one benchmark on the screen; with a single one, a second table of IoU by class."""
    names = ("pAcc", "mIoU_S", "mIoU_U", "hIoU", "zero_IoU")
    bench = reports[0].benchmark
    table = Table(
        "model",
        *names,
        title=f"{bench.name}: {len(bench.seen_ids)} seen, {len(bench.unseen_ids)} unseen words, {reports[0].pictures} pictures (%)",
        title_justify="left",
    )
    for report in reports:
        table.add_row(report.title, *(_shown(report.scores[name]) for name in names))
    console = Console()
    console.print(table)
    if len(reports) == 1:
        iou = reports[0].matrix.iou.tolist()
        console.print(
            "IoU: "
            + "  ".join(f"{name}{' (unseen)' if name in bench.unseen else ''} {_shown(100 * value)}" for name, value in zip(bench.vocabulary, iou, strict=True))
        )


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _as_it_is(sample: Sample) -> Sample:
    return sample


def _same_size(samples: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Neighbouring samples of equal size in batches, in order."""
    waiting: list[Sample] = []
    for sample in samples:
        if waiting and (len(waiting) == batch_size or waiting[0].labels.shape != sample.labels.shape):
            yield torch.stack([s.image for s in waiting]), torch.stack([s.labels for s in waiting])
            waiting = []
        waiting.append(sample)
    if waiting:
        yield torch.stack([s.image for s in waiting]), torch.stack([s.labels for s in waiting])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
