"""A segmenter on a benchmark: one confusion matrix, a report that repeats the protocol, a sheet of
images.
"""

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

from unseen.checkpoints import Run, fingerprint, versions
from unseen.data.benchmarks import Benchmark
from unseen.data.classes import shared_classes
from unseen.data.datasets import Sample
from unseen.data.episodes import Draw
from unseen.errors import DataError, SettingError
from unseen.files import replacing, write_text
from unseen.inference import LabelMaps, label_maps, query_mask
from unseen.labels import BACKGROUND, IGNORE, index_to_label, subset_lookup
from unseen.metrics import ConfusionMatrix, EpisodeCounts, episode_counts
from unseen.segmenter import Segmenter, TextFeatures, TextSegmenter
from unseen.segments.refinement import (
    SegmentMatch,
    SegmentRefiner,
    refine_maps,
    segment_iou,
)
from unseen.segments.source import SegmentSource, segment_source
from unseen.settings import InferenceSettings, check_threshold
from unseen.visualize import Row, sheet, spread

MAPS_AT_ONCE = 16 * 171
"""Score maps held at a time: of a batch of COCO-Stuff's images."""


@dataclass(frozen=True)
class Report:
    """What an evaluation measured, and everything that moves the number.

    Attributes:
        title: Of the segmenter, for tables and images.
        benchmark: What it was judged on.
        matrix: All labelled pixels.
        pixels: Labelled pixels, counted on the labels alone.
        images: How many.
        protocol: Words, background, windows, templates, options, seed, versions.
        rows: Some images with truth and prediction.
        met: The words that a run trained on another benchmark has met there with masks; None where
            that is not the question.
    """

    title: str
    benchmark: Benchmark
    matrix: ConfusionMatrix
    pixels: int
    images: int
    protocol: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    met: tuple[str, ...] | None = None

    @property
    def scores(self) -> dict[str, float]:
        """The protocol's numbers, in percent; across data sets also mIoU_met and mIoU_new, over the
        words met in training and the others.
        """
        found = self.matrix.summary(self.benchmark.seen_ids, self.benchmark.unseen_ids)
        if self.met is not None:
            iou, met = (
                self.matrix.iou[: len(self.benchmark.class_names)],
                torch.tensor([name in self.met for name in self.benchmark.class_names]),
            )
            found |= {
                "mIoU_met": 100 * iou[met].nanmean().item(),
                "mIoU_new": 100 * iou[~met].nanmean().item(),
            }
        return found

    @property
    def shown(self) -> dict[str, str]:
        """The numbers that tables and sheets show, and their heads."""
        heads = {
            "pAcc": "pAcc",
            **(
                {}
                if self.benchmark.unseen and self.benchmark.background != "threshold"
                else {"mIoU": "mIoU"}
            ),
        }
        heads |= (
            {"mIoU_S": "mIoU seen", "mIoU_U": "mIoU unseen", "hIoU": "hIoU"}
            if self.benchmark.unseen
            else {"mAcc": "mAcc"}
        )
        return heads | (
            {} if self.met is None else {"mIoU_met": "mIoU met in training", "mIoU_new": "mIoU new"}
        )

    def as_dict(self) -> dict[str, Any]:
        """The whole report as JSON types; numbers that do not exist are null."""
        names = self.benchmark.scored_names
        return {
            "model": self.title,
            "benchmark": self.benchmark.name,
            "scores": {name: _number(value) for name, value in self.scores.items()},
            "iou": {
                name: _number(100 * value)
                for name, value in zip(names, self.matrix.iou.tolist(), strict=True)
            },
            "images": self.images,
            "pixels": self.pixels,
            "protocol": self.protocol,
            "confusion": {
                "rows": list(names),
                "columns": [*names, "no word"],
                "pixels": self.matrix.counts.tolist(),
            },
        }

    def save(self, folder: Path) -> None:
        """Write `report.json` and `sheet.png`."""
        write_text(
            folder / "report.json", json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        )
        if self.rows:
            scores = self.scores
            line = "   ".join(
                f"{word} {scores[name]:.1f}"
                for name, word in self.shown.items()
                if not math.isnan(scores[name])
            )
            line += "   (grey: not labelled, not scored)"
            picture = sheet(
                self.rows,
                self.benchmark.scored_names,
                self.benchmark.unseen,
                title=f"{self.title} on {self.benchmark.title}",
                subtitle=line,
                across=min(2, len(self.rows)),
            )
            with replacing(folder / "sheet.png") as beside:
                picture.save(beside)


def evaluate(
    segmenter: Segmenter,
    text: TextFeatures,
    benchmark: Benchmark,
    root: Path | None,
    *,
    title: str,
    inference: InferenceSettings,
    seen: Sequence[int] | None = None,
    limit: int | None = None,
    threshold: float | None = None,
    batch_size: int = 16,
    workers: int = 0,
    shown: int = 8,
    progress: bool = True,
    oracle: bool = False,
    trained: Run | None = None,
    about: dict[str, Any] | None = None,
) -> Report:
    """Score a segmenter on a benchmark's validation images.

    Args:
        segmenter: Any method, in eval mode; runs where its parameters lie.
        text: The benchmark's vocabulary, encoded.
        benchmark: Vocabulary, split and data.
        root: Where the data lie.
        title: Name in the report.
        inference: Size and windows.
        seen: Ids trained on, for methods that lower their scores; None if none or all were.
        limit: Only the first so many images; the report says so.
        threshold: Pixels whose best word is less confident get no word
            (`unseen.inference.label_maps`): an error, or the background where that is scored so.
        batch_size: Most images of one size computed together, with large vocabularies fewer.
        workers: Processes that read images.
        shown: Images kept for the sheet, spread over the set.
        progress: Show a progress bar.
        oracle: Let the labels choose between a word's mask and the eigen-segments
            (`OracleRefiner`); the report says so.
        trained: The run, where it was trained on another benchmark: the report says which words it
            has met there.
        about: What else the report should say of the model.

    Raises:
        SettingError: A background that is scored by a threshold, and none is given.
    """
    scored = benchmark.background == "threshold"
    if scored and threshold is None:
        raise SettingError(
            f"{benchmark.title} scores the background, which is where no word is confident; say how"
            " confident with --threshold (0 to 1)"
        )
    check_threshold(threshold)
    background = index_to_label(torch.tensor(len(benchmark.class_names)))
    batch_size = max(1, min(batch_size, MAPS_AT_ONCE // len(benchmark.class_names)))
    segments = _segments(segmenter, inference, oracle)
    data = benchmark.data("val", root)
    count = len(data) if limit is None else min(limit, len(data))
    wanted = set(spread(count, shown))
    matrix, pixels, rows, done = ConfusionMatrix(len(benchmark.scored_names)), 0, [], 0
    loader = DataLoader(
        Subset(data, range(count)),
        batch_size=None,
        num_workers=workers,
        collate_fn=cast(Any, _as_it_is),
    )
    samples = track(loader, description=title, total=count, transient=True, disable=not progress)
    for images, labels, names in _same_size(samples, batch_size):
        images = images.to(segmenter.device)
        predicted = label_maps(segmenter, images, text, inference, seen=seen, threshold=threshold)
        if segments is not None and oracle:
            truth = torch.where(labels == BACKGROUND, IGNORE, labels).to(images.device)
            predicted = OracleRefiner(segments).refine(predicted, segments(images, names), truth)
        elif segments is not None:
            refiner = SegmentRefiner(segments, inference.refinement_threshold)
            predicted = refiner.refine(predicted, segments(images, names))
        maps = predicted.labels.cpu()
        if scored:
            labels, maps = (
                torch.where(labels == BACKGROUND, background, labels),
                torch.where(maps == IGNORE, background, maps),
            )
        matrix.update(maps, labels)
        pixels += int((labels != IGNORE).sum())
        for image, truth, guess in zip(images, labels, maps, strict=True):
            if done in wanted:
                rows.append(
                    Row(
                        image.permute(1, 2, 0).cpu().numpy(),
                        truth.numpy(),
                        {"prediction": guess.numpy()},
                    )
                )
            done += 1
    met = None if trained is None else tuple(shared_classes(trained.seen, benchmark.class_names))
    protocol = {
        **benchmark.protocol,
        "vocabulary": list(text.names),
        "unseen": list(benchmark.unseen),
        "trained_on": (
            None
            if trained is None or met is None
            else {"benchmark": trained.benchmark, "words": len(trained.seen), "met": list(met)}
        ),
        "background": benchmark.background,
        "inference": asdict(inference),
        "threshold": threshold,
        "calibrated": seen is not None,
        "limit": limit,
        "oracle": oracle,
        "segments": _about_segments(segments),
        "tower": _tower(segmenter),
        **(about or {}),
        "versions": versions(),
    }
    return Report(
        _marked(title, oracle, threshold, inference),
        benchmark,
        matrix,
        pixels,
        count,
        protocol,
        rows,
        met,
    )


@dataclass(frozen=True)
class EpisodeReport:
    """What the evaluation of a fold measured.

    Attributes:
        title: Of the segmenter, for tables and images.
        benchmark: The fold.
        counts: Of all episodes.
        protocol: How episodes were drawn, words, windows, options, versions.
        rows: Some images with truth and prediction.
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
        names, ids = self.benchmark.class_names, self.benchmark.unseen_ids
        return {
            "model": self.title,
            "benchmark": self.benchmark.name,
            "scores": {name: _number(value) for name, value in self.scores.items()},
            "iou": {names[i]: _number(100 * self.counts.iou[i].item()) for i in ids},
            "episodes": {names[i]: int(self.counts.asked[i]) for i in ids},
            "protocol": self.protocol,
            "counts": {
                names[i]: dict(
                    zip(("background", "foreground"), self.counts.counts[i].tolist(), strict=True)
                )
                for i in ids
            },
        }

    def save(self, folder: Path) -> None:
        """Write `report.json` and `sheet.png`."""
        write_text(
            folder / "report.json", json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        )
        if self.rows:
            line = (
                f"mIoU {self.scores['mIoU']:.1f}   FB-IoU {self.scores['FB_IoU']:.1f}   (one word a"
                " image; grey: not the word)"
            )
            picture = sheet(
                self.rows,
                self.benchmark.class_names,
                self.benchmark.unseen,
                title=f"{self.title} on {self.benchmark.name}",
                subtitle=line,
                across=min(2, len(self.rows)),
                everywhere=True,
            )
            with replacing(folder / "sheet.png") as beside:
                picture.save(beside)


def evaluate_episodes(
    segmenter: Segmenter,
    text: TextFeatures,
    benchmark: Benchmark,
    root: Path | None,
    *,
    title: str,
    inference: InferenceSettings,
    how: Draw = "all",
    seed: int = 0,
    seen: Sequence[int] | None = None,
    limit: int | None = None,
    threshold: float | None = None,
    shown: int = 8,
    progress: bool = True,
    oracle: bool = False,
    released_counts: bool = False,
    about: dict[str, Any] | None = None,
) -> EpisodeReport:
    """Ask a segmenter about the episodes of a fold: one image, one word that is in it, foreground
    against background.

    A binary method is asked that word alone; any other is asked the whole vocabulary, and its
    foreground is where the word wins.

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
        threshold: The word is where its confidence is above this; a binary method's own decision,
            0.5, by default, and where the word wins for any other.
        shown: Episodes kept for the sheet, spread over all.
        progress: Show a progress bar.
        oracle: Let the labels choose between the mask and the eigen-segments (`oracle_choice`), as
            SAZS was scored; the report says so.
        released_counts: Count void pixels into unions, as the released SAZS does
            (`unseen.metrics.episode_counts`).
        about: What else the report should say of the model.

    Raises:
        DataError: A list that names what is not there, or an episode whose class is not in its
            image.
    """
    assert benchmark.episodes is not None
    check_threshold(threshold)
    segments = _segments(segmenter, inference, oracle)
    refiner = None
    if segments is not None and not oracle:
        refiner = SegmentRefiner(segments, inference.refinement_threshold)
    data, episodes = benchmark.episodes(root, how, seed)
    episodes = episodes[:limit]
    count = len(episodes)
    wanted = set(spread(count, shown))
    counts, rows = EpisodeCounts(len(benchmark.class_names), released=released_counts), []
    last: tuple[int, Tensor | None, Tensor | None] | None = (
        None  # neighbouring episodes often share their image
    )
    for done, episode in enumerate(
        track(episodes, description=title, total=count, transient=True, disable=not progress)
    ):
        sample = data[episode.index]
        truth = _asked(sample.labels, episode.class_id)
        if not (truth == 1).any():
            word = benchmark.class_names[episode.class_id]
            raise DataError(
                f"the fold asks for {word!r} in {sample.name}, whose mask does not hold it; restore"
                " the list or the masks"
            )
        image = sample.image.unsqueeze(0).to(segmenter.device)
        if last is None or last[0] != episode.index:
            parts = segments(image, [sample.name]) if segments is not None else None
            maps = None
            if segmenter.kind != "binary":
                predicted = label_maps(
                    segmenter, image, text, inference, seen=seen, threshold=threshold
                )
                if parts is not None and refiner is not None:
                    predicted = refiner.refine(predicted, parts)
                maps = predicted.labels[0].cpu()
            last = episode.index, maps, parts
        _, maps, parts = last
        if maps is None:
            mask = query_mask(segmenter, image, text, episode.class_id, inference, threshold)[0]
            if parts is not None and refiner is not None:
                mask = refiner.refine_mask(mask, parts[0])
            found = mask.cpu()
        else:
            found = maps == episode.class_id
        if oracle:
            assert parts is not None
            found = oracle_choice(found, parts[0].cpu(), truth, released=released_counts)
        counts.update(found, truth, episode.class_id)
        if done in wanted:
            true, guess = (
                torch.where(here, episode.class_id, IGNORE).numpy().astype(np.uint8)
                for here in (truth == 1, found)
            )
            rows.append(
                Row(
                    sample.image.permute(1, 2, 0).numpy(),
                    true,
                    {"prediction": guess},
                    benchmark.class_names[episode.class_id],
                )
            )
    protocol = {
        **benchmark.protocol,
        "vocabulary": list(text.names),
        "unseen": list(benchmark.unseen),
        "background": benchmark.background,
        "inference": asdict(inference),
        "draw": how,
        "seed": None if how == "all" else seed,
        "calibrated": seen is not None,
        "limit": limit,
        "threshold": threshold,
        "oracle": oracle,
        "released_counts": released_counts,
        "segments": _about_segments(segments),
        "tower": _tower(segmenter),
        **(about or {}),
        "versions": versions(),
    }
    return EpisodeReport(
        _marked(title, oracle, threshold, inference), benchmark, counts, protocol, rows
    )


def oracle_choice(
    mask: Tensor, segments: Tensor, truth: Tensor, *, released: bool = False
) -> Tensor:
    """The released SAZS's choice, which needs the truth: the first segment of highest foreground
    IoU with it, if that is above the mask's own.

    Args:
        mask: (H, W) bool, of the network.
        segments: (K, H, W) bool.
        truth: (H, W) of 1, 0 and 255.
        released: What void does (`unseen.metrics.episode_counts`).
    """
    iou = [_foreground_iou(each, truth, released) for each in (mask, *segments)]
    best = int(np.argmax(iou[1:]))
    return mask if iou[0] >= iou[1 + best] else segments[best]


def _foreground_iou(mask: Tensor, truth: Tensor, released: bool) -> float:
    hit, union = episode_counts(mask, truth, released=released)[1].tolist()
    return float(hit / max(union, 1))


@dataclass(frozen=True)
class OracleRefiner:
    """`oracle_choice` for label maps: the labels choose which masks segments replace.

    Attributes:
        source: Where the segments of images come from.
    """

    source: SegmentSource

    def refine(self, maps: LabelMaps, segments: Tensor, truth: Tensor) -> LabelMaps:
        """Label maps with segments where they are nearer to the truth.

        Args:
            maps: As `unseen.inference.label_maps` returns them.
            segments: (B, S, H, W) bool, of the same images.
            truth: (B, H, W) labels; pixels of 255 are ignored.
        """
        matches = [
            oracle_matches(*image) for image in zip(maps.labels, segments, truth, strict=True)
        ]
        return refine_maps(maps, matches)


def oracle_matches(labels: Tensor, segments: Tensor, truth: Tensor) -> list[SegmentMatch]:
    """Of every class in the image, the segment with the highest IoU with its true mask.

    Segments that are no nearer to the true mask than the predicted one are left out.

    Args:
        labels: (H, W), predicted.
        segments: (S, H, W) bool.
        truth: (H, W) labels; pixels of 255 are ignored.
    """
    known = truth != IGNORE
    class_ids = torch.unique(truth[known])
    predicted = labels == class_ids.view(-1, 1, 1)
    present, iou = segment_iou(truth, torch.cat([segments, predicted]) & known)
    matches = []
    for row, class_id in enumerate(present):
        best = int(iou[row, : len(segments)].argmax())
        if iou[row, best] > iou[row, len(segments) + row]:
            matches.append(SegmentMatch(class_id, float(iou[row, best]), segments[best]))
    return matches


THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def choose_threshold(
    segmenter: Segmenter,
    text: TextFeatures,
    benchmark: Benchmark,
    root: Path | None,
    *,
    inference: InferenceSettings,
    images: int = 200,
    thresholds: Sequence[float] = THRESHOLDS,
    progress: bool = True,
) -> dict[float, float]:
    """What each threshold of `SegmentRefiner` gives on training images and seen words
    alone: mIoU in percent.

    Unseen words are not asked for, and their pixels not counted. The best threshold is the one to
    use; 1 changes nothing.

    Args:
        segmenter: Any method, in eval mode.
        text: The benchmark's vocabulary, encoded.
        benchmark: Vocabulary, split and data.
        root: Where the data lie.
        inference: Size, windows and source of the segments.
        images: How many, spread over the training set.
        thresholds: To try.
        progress: Show a progress bar.
    """
    source, data, seen = (
        segment_source(segmenter, inference),
        benchmark.data("train", root),
        benchmark.seen_ids,
    )
    words, place, hidden = (
        text.select(seen),
        subset_lookup(seen, size=max(256, len(benchmark.class_names) + 4)),
        index_to_label(torch.tensor(benchmark.unseen_ids)),
    )
    folds = benchmark.episodes is not None
    matrices, counts = (
        [ConfusionMatrix(len(seen)) for _ in thresholds],
        [EpisodeCounts(len(seen)) for _ in thresholds],
    )
    chosen = np.unique(
        np.linspace(0, len(data) - 1, min(images, len(data))).round().astype(int)
    ).tolist()
    for index in track(
        chosen, description="refinement threshold", transient=True, disable=not progress
    ):
        sample = data[index]
        image, truth = sample.image.unsqueeze(0).to(segmenter.device), place[sample.labels]
        known = torch.where(torch.isin(sample.labels, hidden), IGNORE, sample.labels)
        parts = source(image, [sample.name])
        refiners = [SegmentRefiner(source, threshold) for threshold in thresholds]
        present = [int(word) for word in torch.unique(truth) if word != IGNORE]
        if folds and segmenter.kind == "binary":
            for word in present:
                mask = query_mask(segmenter, image, words, word, inference)[0]
                for refiner, count in zip(refiners, counts, strict=True):
                    refined = refiner.refine_mask(mask, parts[0]).cpu()
                    count.update(refined, _asked(known, seen[word]), word)
            continue
        predicted = label_maps(segmenter, image, words, inference)
        for refiner, matrix, count in zip(refiners, matrices, counts, strict=True):
            maps = refiner.refine(predicted, parts).labels[0].cpu()
            matrix.update(maps, truth)
            for word in present if folds else ():
                count.update(maps == word, _asked(known, seen[word]), word)
    everything = list(range(len(seen)))
    found = (
        [count.summary(everything)["mIoU"] for count in counts]
        if folds
        else [matrix.summary(everything, [])["mIoU"] for matrix in matrices]
    )
    return dict(zip(thresholds, found, strict=True))


def _asked(labels: Tensor, word: int) -> Tensor:
    """Labels (H, W) as an episode's truth: 1 the word, 0 another or background, 255 void."""
    return torch.where(labels == IGNORE, IGNORE, (labels == word).long())


def _segments(
    segmenter: Segmenter, inference: InferenceSettings, oracle: bool
) -> SegmentSource | None:
    """The source of eigen-segments, where they are needed."""
    if oracle and inference.refinement != "none":
        raise SettingError(
            "the oracle and --inference.refinement segment_iou exclude each other: either labels choose"
            " the segments or they do not"
        )
    return (
        segment_source(segmenter, inference) if oracle or inference.refinement != "none" else None
    )


def _about_segments(segments: SegmentSource | None) -> dict[str, Any] | None:
    if segments is None:
        return None
    keys = segments.keys
    return (
        {"folder": str(segments.folder)}
        if keys is None
        else {"features": keys.source, "fingerprint": keys.fingerprint, **asdict(segments.settings)}
    )


def _marked(title: str, oracle: bool, threshold: float | None, inference: InferenceSettings) -> str:
    """The title with what was done to the method's own masks."""
    agreed = (
        " + segment IoU" if inference.refinement == "segment_iou" else ""
    )  # whose threshold may be chosen fold by fold
    return f"{title}{' + oracle' if oracle else agreed}" + (
        f", threshold {threshold:g}" if threshold is not None else ""
    )


def _tower(segmenter: Segmenter) -> dict[str, str] | None:
    return (
        {"source": segmenter.clip.source, "fingerprint": fingerprint(segmenter.clip)}
        if isinstance(segmenter, TextSegmenter)
        else None
    )


def print_episodes(reports: Sequence[EpisodeReport]) -> None:
    """A table of episode reports on the screen: one line a model and fold, the mean over its seeds;
    below, the mean over the folds of a model.
    """
    console = Console()
    table = Table(
        "model",
        "fold",
        "draw",
        "mIoU",
        "FB-IoU",
        "episodes",
        title="foreground against background, one word at a time (%)",
        title_justify="left",
    )
    folds: dict[tuple[str, str], list[EpisodeReport]] = {}
    for report in reports:
        folds.setdefault((report.title, report.benchmark.name), []).append(report)
    for (title, fold), runs in folds.items():
        cells = [_spread([run.scores[name] for run in runs]) for name in ("mIoU", "FB_IoU")]
        limit = runs[0].protocol["limit"]
        draw = (
            runs[0].protocol["draw"]
            + (f", {len(runs)} seeds" if len(runs) > 1 else "")
            + (f", first {limit} only" if limit else "")
        )
        table.add_row(title, fold, draw, *cells, str(int(runs[0].counts.asked.sum())))
    for title, base in dict.fromkeys((report.title, report.benchmark.base) for report in reports):
        mine = {
            fold: runs
            for (name, fold), runs in folds.items()
            if name == title and runs[0].benchmark.base == base
        }
        if len(mine) > 1:
            means = [
                np.mean([np.mean([run.scores[name] for run in runs]) for runs in mine.values()])
                for name in ("mIoU", "FB_IoU")
            ]
            table.add_row(
                title,
                f"mean of {len(mine)} folds",
                "",
                *(f"{mean:.1f}" for mean in means),
                "",
                style="bold",
            )
    console.print(table)
    if len(reports) == 1:
        names, iou = reports[0].benchmark.class_names, reports[0].counts.iou.tolist()
        console.print(
            "IoU: "
            + "  ".join(f"{names[i]} {100 * iou[i]:.1f}" for i in reports[0].benchmark.unseen_ids)
        )


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}" + (
        f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    )


def print_reports(reports: Sequence[Report]) -> None:
    """A table of reports on one benchmark on the screen; with a single one, a second table of IoU
    by class.
    """
    bench, names = (
        reports[0].benchmark,
        {name: head for report in reports for name, head in report.shown.items()},
    )
    words = (
        f"{len(bench.seen_ids)} seen, {len(bench.unseen_ids)} unseen words"
        if bench.unseen
        else f"{len(bench.class_names)} words"
    )
    if bench.background == "threshold":
        words += " and the background"
    table = Table(
        "model",
        *names.values(),
        title=f"{bench.title}: {words}, {reports[0].images} images (%)",
        title_justify="left",
    )
    for report in reports:
        table.add_row(report.title, *(_shown(report.scores.get(name, math.nan)) for name in names))
    console = Console()
    console.print(table)
    if len(reports) == 1:
        iou = reports[0].matrix.iou.tolist()
        console.print(
            "IoU: "
            + "  ".join(
                f"{name}{' (unseen)' if name in bench.unseen else ''} {_shown(100 * value)}"
                for name, value in zip(bench.scored_names, iou, strict=True)
            )
        )
        if reports[0].met is not None:
            trained = reports[0].protocol["trained_on"]
            line = (
                f"{len(reports[0].met)} of the {len(bench.class_names)} words were met with masks in"
                f" training on {Path(trained['benchmark']).name}"
            )
            console.print(f"{line}; report.json names them")


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _as_it_is(sample: Sample) -> Sample:
    return sample


def _same_size(samples: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Images, labels and names of neighbouring samples of equal size in batches, in order."""
    waiting: list[Sample] = []
    for sample in samples:
        if waiting and (
            len(waiting) == batch_size or waiting[0].labels.shape != sample.labels.shape
        ):
            yield _batch(waiting)
            waiting = []
        waiting.append(sample)
    if waiting:
        yield _batch(waiting)


def _batch(samples: list[Sample]) -> tuple[Tensor, Tensor, list[str]]:
    return (
        torch.stack([s.image for s in samples]),
        torch.stack([s.labels for s in samples]),
        [s.name for s in samples],
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
