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
from unseen.data.episodes import Draw
from unseen.errors import DataError
from unseen.files import replacing, write_text
from unseen.inference import foreground, label_maps
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix, EpisodeCounts
from unseen.segmenter import Segmenter, TextFeatures, TextSegmenter
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
        "tower": _tower(segmenter),
        **(about or {}),
        "versions": versions(),
    }
    return Report(title, benchmark, matrix, pixels, count, protocol, rows)


@dataclass(frozen=True)
class EpisodeReport:
    """What the evaluation of a fold measured.

    Attributes:
        title: Of the segmenter, for tables and pictures.
        benchmark: The fold.
        counts: Of all episodes.
        protocol: How episodes were drawn, words, windows, options, versions.
        rows: Some pictures with truth and prediction.
    """

    title: str
    benchmark: Benchmark
    counts: EpisodeCounts
    protocol: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def scores(self) -> dict[str, float]:
        """The protocol's numbers, in percent."""
        return self.counts.summary(self.benchmark.unseen_ids)

    def as_dict(self) -> dict[str, Any]:
        """The whole report as JSON types."""
        names, ids = self.benchmark.vocabulary, self.benchmark.unseen_ids
        return {
            "model": self.title,
            "benchmark": self.benchmark.name,
            "scores": {name: _number(value) for name, value in self.scores.items()},
            "iou": {names[i]: _number(100 * self.counts.iou[i].item()) for i in ids},
            "episodes": {names[i]: int(self.counts.asked[i]) for i in ids},
            "protocol": self.protocol,
            "counts": {names[i]: dict(zip(("background", "foreground"), self.counts.counts[i].tolist(), strict=True)) for i in ids},
        }

    def save(self, folder: Path) -> None:
        """Write `report.json` and `sheet.png`."""
        write_text(folder / "report.json", json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        if self.rows:
            line = f"mIoU {self.scores['mIoU']:.1f}   FB-IoU {self.scores['FB_IoU']:.1f}   (one word a picture; grey: not the word)"
            picture = sheet(
                self.rows, self.benchmark.vocabulary, self.benchmark.unseen, title=f"{self.title} on {self.benchmark.name}", subtitle=line, across=2,
                everywhere=True,
            )  # fmt: skip
            with replacing(folder / "sheet.png") as beside:
                picture.save(beside)


def evaluate_episodes(
    segmenter: Segmenter, text: TextFeatures, benchmark: Benchmark, root: Path | None, *, title: str, inference: InferenceSettings,
    how: Draw = "all", seed: int = 0, seen: Sequence[int] | None = None, limit: int | None = None, shown: int = 8, progress: bool = True,
    about: dict[str, Any] | None = None,
) -> EpisodeReport:  # fmt: skip
    """Ask a segmenter about the episodes of a fold: one picture, one word that is in it, foreground against background.

    A binary method is asked that word alone; any other is asked the whole vocabulary, and its foreground is where the word wins.

    Args:
        segmenter: Any method, in eval mode.
        text: The benchmark's vocabulary, encoded.
        benchmark: The fold.
        root: Where the data lie.
        title: Name in the report.
        inference: Size and windows.
        how: How episodes are drawn (`unseen.data.episodes`).
        seed: Of what is drawn.
        seen: Ids trained on, for methods that lower their scores; None if none or all were.
        limit: Only the first so many episodes; the report says so.
        shown: Episodes kept for the sheet, spread over all.
        progress: Show a progress bar.
        about: What else the report should say of the model.

    Raises:
        DataError: A list that names what is not there, or an episode whose class is not in its picture.
    """
    assert benchmark.episodes is not None
    data, episodes = benchmark.episodes(root, how, seed)
    episodes = episodes[:limit]
    count = len(episodes)
    wanted = {round(i * (count - 1) / max(1, shown - 1)) for i in range(min(shown, count))} if shown else set()
    counts, rows = EpisodeCounts(len(benchmark.vocabulary)), []
    last: tuple[int, Tensor] | None = None  # neighbouring episodes often share their picture
    for done, episode in enumerate(track(episodes, description=title, total=count, transient=True, disable=not progress)):
        sample = data[episode.index]
        truth = torch.where(sample.labels == IGNORE, IGNORE, (sample.labels == episode.class_id).long())
        if not (truth == 1).any():
            word = benchmark.vocabulary[episode.class_id]
            raise DataError(f"the fold asks for {word!r} in {sample.name}, whose mask does not hold it; restore the list or the masks")
        image = sample.image.unsqueeze(0).to(segmenter.device)
        if segmenter.kind == "binary":
            found = foreground(segmenter, image, text, episode.class_id, inference)[0].cpu()
        else:
            if last is None or last[0] != episode.index:
                last = episode.index, label_maps(segmenter, image, text, inference, seen=seen).labels[0].cpu()
            found = last[1] == episode.class_id
        counts.update(found, truth, episode.class_id)
        if done in wanted:
            true, guess = (torch.where(here, episode.class_id, IGNORE).numpy().astype(np.uint8) for here in (truth == 1, found))
            rows.append(Row(sample.image.permute(1, 2, 0).numpy(), true, {"prediction": guess}))
    protocol = {
        **benchmark.protocol,
        "vocabulary": list(text.names),
        "unseen": list(benchmark.unseen),
        "inference": asdict(inference),
        "draw": how,
        "seed": None if how == "all" else seed,
        "calibrated": seen is not None,
        "limit": limit,
        "oracle": False,
        "tower": _tower(segmenter),
        **(about or {}),
        "versions": versions(),
    }
    return EpisodeReport(title, benchmark, counts, protocol, rows)


def _tower(segmenter: Segmenter) -> dict[str, str] | None:
    return {"source": segmenter.clip.source, "fingerprint": fingerprint(segmenter.clip)} if isinstance(segmenter, TextSegmenter) else None


def print_episodes(reports: Sequence[EpisodeReport]) -> None:
    """A table of episode reports on the screen: one line a model and fold, the mean over its seeds; below, the mean over the folds of a model."""
    console = Console()
    table = Table("model", "fold", "draw", "mIoU", "FB-IoU", "episodes", title="foreground against background, one word at a time (%)", title_justify="left")
    folds: dict[tuple[str, str], list[EpisodeReport]] = {}
    for report in reports:
        folds.setdefault((report.title, report.benchmark.name), []).append(report)
    for (title, fold), runs in folds.items():
        cells = [_spread([run.scores[name] for run in runs]) for name in ("mIoU", "FB_IoU")]
        draw = runs[0].protocol["draw"] + (f", {len(runs)} seeds" if len(runs) > 1 else "")
        table.add_row(title, fold, draw, *cells, str(int(runs[0].counts.asked.sum())))
    for title in dict.fromkeys(report.title for report in reports):
        mine = {fold: runs for (name, fold), runs in folds.items() if name == title}
        if len(mine) > 1:
            means = [np.mean([np.mean([run.scores[name] for run in runs]) for runs in mine.values()]) for name in ("mIoU", "FB_IoU")]
            table.add_row(title, f"mean of {len(mine)} folds", "", *(f"{mean:.1f}" for mean in means), "", style="bold")
    console.print(table)
    if len(reports) == 1:
        names, iou = reports[0].benchmark.vocabulary, reports[0].counts.iou.tolist()
        console.print("IoU: " + "  ".join(f"{names[i]} {100 * iou[i]:.1f}" for i in reports[0].benchmark.unseen_ids))


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def print_reports(reports: Sequence[Report]) -> None:
    """A table of reports on one benchmark on the screen; with a single one, a second table of IoU by class."""
    names = {"pAcc": "pAcc", "mIoU_S": "mIoU seen", "mIoU_U": "mIoU unseen", "hIoU": "hIoU"}
    bench = reports[0].benchmark
    table = Table(
        "model",
        *names.values(),
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
