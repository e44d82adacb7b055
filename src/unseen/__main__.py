"""The command line: one function a verb. Heavy imports stay inside the verbs, so that help answers
at once.

Verbs that share their name with a function of the package end in an underscore: jsonargparse would
otherwise look the function up there, and load torch for it. A mistake of the user's is answered in
one sentence, with exit code 2; a traceback means a bug.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser, Namespace

from unseen import __version__
from unseen.errors import CheckpointError, DataError, SettingError, UnseenError
from unseen.settings import (
    InferenceChanges,
    ModelSettings,
    Regime,
    TrainSettings,
    check_threshold,
    flat,
)

Draw = Literal["all", "hsnet", "sazs", "bam"]  # of unseen.data.episodes, which is heavy to import
DEFAULT_TRAINING, NO_CHANGES = TrainSettings(), InferenceChanges()


def list_(what: str = "all") -> None:
    """Show what there is.

    Args:
        what: "methods", "benchmarks", "templates", "clips" (towers open_clip knows) or "all" (the
            first three).
    """
    from rich.console import Console
    from rich.table import Table

    from unseen.backbones.clip import TEMPLATES, known_sources
    from unseen.data.benchmarks import families
    from unseen.methods import METHODS

    tables: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
        "methods": (
            ("method", "trained", "what it is"),
            [(n, "yes" if m.trainable else "no", m.summary) for n, m in METHODS.items()],
        ),
        "benchmarks": (
            ("benchmark", "words", "unseen", "what it is"),
            [
                (
                    name,
                    str(len(parts[0].class_names)),
                    _range(len(part.unseen) for part in parts)
                    + (" a fold" if parts[0].episodes else ""),
                    parts[0].summary,
                )
                for name, parts in families().items()
            ],
        ),
        "templates": (
            ("templates", "sentences", "first"),
            [(n, str(len(t)), t[0]) for n, t in TEMPLATES.items()],
        ),
        "clips": (("clip",), [(name,) for name in known_sources()] if what == "clips" else []),
    }
    if what != "all" and what not in tables:
        raise SettingError(f"there is no list of {what!r}; choose one of {', '.join(tables)}, all")
    for name, (heads, rows) in tables.items():
        if what == name or (what == "all" and name != "clips"):
            table = Table(*heads, box=None, header_style="bold", pad_edge=False)
            for row in rows:
                table.add_row(*row)
            Console().print(table, "")


def pretrain(
    world: str = "doodles",
    out: Path = Path("runs/doodle-clip"),
    steps: int = 16_000,
    batch_size: int = 64,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Pre-train the small CLIP of the embedded world from images and captions; writes
    doodles.safetensors into the folder.

    Args:
        world: "doodles".
        out: Folder for weights, log and resumable state.
        steps: Optimiser steps; the shipped weights took the default.
        batch_size: Scenes a step.
        seed: Of scenes and first values.
        resume: Go on from the state in the folder.
    """
    if world != "doodles":
        raise SettingError(f"there is no world called {world!r} to pre-train on; choose doodles")
    from unseen import pretrain as module

    accuracy = module.pretrain(out, seed=seed, steps=steps, batch_size=batch_size, resume=resume)
    print(
        f"zero-shot accuracy on single-thing scenes, 20 words: {accuracy:.1f} %\nwrote"
        f" {out / module.WEIGHTS}"
    )


def train_(
    method: str,
    benchmark: str = "doodles",
    root: Path | None = None,
    out: Path | None = None,
    clip: str = "doodles",
    published: bool = False,
    options: dict[str, Any] | None = None,
    train: TrainSettings = DEFAULT_TRAINING,
    lists: Path | None = None,
    text_embeddings: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
) -> None:
    """Train a method on the seen words of a benchmark; writes a run folder for evaluate and
    segment.

    Settings come from the defaults, then the recipe of the method for the benchmark, then the
    command line.

    Args:
        method: A trainable method of `unseen list`.
        benchmark: A benchmark of `unseen list`, folds as pascal-5i/0; or a folder of your own
            (images/, labels/, classes.txt; `unseen check`).
        root: Where its data lie.
        out: Run folder; runs/METHOD-BENCHMARK by default.
        clip: Tower: "doodles", ARCHITECTURE/TAG of open_clip, or a weight file; the recipe's, if it
            names one.
        published: Start from the released code's choices instead of ours.
        options: Options of the method: --options.NAME VALUE.
        train: How to train.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        text_embeddings: A .npy file (words, D) to use instead of the text tower, one row a word of
            the vocabulary.
        init: Run folder whose trained weights to start from (transductive second stage).
        resume: Go on from the state in the run folder.
    """
    from unseen import api
    from unseen.building import run_folder
    from unseen.data.benchmarks import get_benchmark

    folder = out or run_folder(method, benchmark)
    model = ModelSettings(method, clip, published, options or {})
    notice = _beyond_doodles(clip, get_benchmark(benchmark, lists).class_names, "give --clip")
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of the processes of a distributed run
    if first and notice:
        print(notice)
    if first and train.warmup >= train.steps:
        print(
            f"unseen: the warm-up of {train.warmup} steps is no shorter than the training of"
            f" {train.steps}; see --train.warmup"
        )
    if (
        api.train(
            model,
            train,
            benchmark,
            folder,
            root=root,
            lists=lists,
            text_embeddings=text_embeddings,
            init=init,
            resume=resume,
        )
        is not None
    ):
        print(
            f"wrote {folder}; next: unseen evaluate {folder}"
            + (f" --root {root}" if root else "")
            + (f" --lists {lists}" if lists else "")
        )


def evaluate(
    models: list[str],
    benchmark: str | None = None,
    root: Path | None = None,
    out: Path | None = None,
    clip: str | None = None,
    published: bool = False,
    options: dict[str, Any] | None = None,
    inference: InferenceChanges = NO_CHANGES,
    text_embeddings: Path | None = None,
    limit: int | None = None,
    threshold: float | None = None,
    lists: Path | None = None,
    episodes: Draw = "all",
    seeds: tuple[int, ...] = (0,),
    device: str = "auto",
    workers: int = 0,
    choose_threshold: int = 0,
    oracle: bool = False,
    released_counts: bool = False,
) -> None:
    """Score methods or runs on a benchmark; writes report.json and sheet.png for each.

    Args:
        models: Methods without training of `unseen list`, or run folders.
        benchmark: A benchmark of `unseen list`, or a folder of your own; a run's own by default.
            Without training, a name without fold means all folds.
        root: Where its data lie.
        out: Folder for the report; RUN/eval-BENCHMARK or runs/METHOD-BENCHMARK by default.
        clip: Tower of a method without training.
        published: Start from the released code's choices instead of ours.
        options: Options of the method: --options.NAME VALUE; a run's own are kept unless given.
        inference: Single values of size and windows to change; a run on its own benchmark keeps its
            own, all else the benchmark's.
        text_embeddings: A .npy file (words, D) to use instead of the text tower.
        limit: Only the first so many images, or episodes; the report then lies in a folder
            ...-first-N of its own.
        threshold: Pixels whose best word is less confident (0..1) get no word: the background,
            where that is scored so (voc-21), and in folds.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        episodes: How the pairs of a fold are drawn: "all" of HSNet's list once, or 1000 as "hsnet",
            "sazs" or "bam" (ESDA: seed 923) draw them.
        seeds: Of drawn episodes, one evaluation each.
        device: "auto", "cpu", "cuda", ...
        workers: Processes that read images.
        choose_threshold: Choose --inference.refinement_threshold on the seen words of so many
            training images first; 0 leaves it.
        oracle: Let the labels choose between a mask and the eigen-segments, as SAZS was scored: not
            a result, and marked in the report.
        released_counts: Count void pixels of folds into unions, as the released SAZS does.
    """
    from unseen.building import build, device_named, encode, find_model, run_folder
    from unseen.data.benchmarks import folds_of, get_benchmark
    from unseen.evaluation import EpisodeReport, Report, print_episodes, print_reports
    from unseen.evaluation import choose_threshold as scores_of_thresholds
    from unseen.evaluation import evaluate as run_evaluation
    from unseen.evaluation import evaluate_episodes as run_episodes

    if limit is not None and limit < 1:
        raise SettingError(f"--limit is {limit}; give at least 1 image")
    if choose_threshold < 0:
        raise SettingError(
            f"--choose-threshold is {choose_threshold}; give a number of training images, or 0"
        )
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise SettingError(
            f"--seeds is {list(seeds)}; give different numbers of 0 or more, such as [0,1,2]"
        )
    if seeds != (0,) and episodes == "all":
        raise SettingError(
            "--seeds is for drawn episodes, and nothing is drawn; add --episodes hsnet, sazs or"
            " bam, or leave it away"
        )
    twice = next((model for i, model in enumerate(models) if model in models[:i]), None)
    if twice is not None:
        raise SettingError(
            f"{twice} is given twice; one run or method is one row, so remove one of them"
        )
    asked, reports, episode_reports = [], list[Report](), list[EpisodeReport]()
    for model in models:
        source = find_model(
            model,
            {
                "clip": clip,
                "published": published,
                "options": options,
                "text_embeddings": text_embeddings,
            },
        )
        run = source.run
        name = benchmark or (run.benchmark if run else "doodles")
        asked += [
            (model, source, run, fold) for fold in (folds_of(name) if run is None else [name])
        ]
    if out is not None and len(asked) > 1:
        raise SettingError(
            "--out is one folder, but there are several reports to write; leave it away, or"
            " evaluate one at a time"
        )
    for model, source, run, name in asked:
        folder, bench = Path(model), get_benchmark(name, lists)
        own = run is not None and bench.same_classes_as(run.benchmark, run.class_names)
        if bench.episodes is None and episodes != "all":
            raise SettingError(
                f"--episodes {episodes} is for folds, and {bench.name} has none; leave it away"
            )
        if bench.episodes is None and released_counts:
            raise SettingError(
                f"--released-counts is for folds, and {bench.name} has none; leave it away"
            )
        bench.check_root(root)
        known = [
            word
            for word in bench.unseen
            if run is not None and run.train.get("regime") == "inductive" and word in run.seen
        ]
        if bench.episodes is not None and known:
            raise SettingError(
                f"{model} was trained on masks of {known[0]!r}"
                + (f" and {len(known) - 1} more" if len(known) > 1 else "")
                + f" of the words that {bench.name} asks for, so they would not be unseen; evaluate"
                f" it on {run.benchmark if run else ''}"
            )
        if not own:
            source = source.on(bench)
        size = inference.on(run.inference if run and own else bench.inference)
        if (
            size.refinement == "none"
            and not oracle
            and (inference.segments_dir or inference.segments_features)
        ):
            raise SettingError(
                "segments are named and not used; add --inference.refinement segment_iou, or leave"
                " --inference.segments_dir and _features away"
            )
        if choose_threshold and size.refinement == "none":
            raise SettingError(
                "--choose-threshold is for --inference.refinement segment_iou; give both, or none of"
                " them"
            )
        if choose_threshold and threshold is not None:
            raise SettingError(
                "--choose-threshold looks at masks as they are without --threshold; choose first,"
                " then give --inference.refinement_threshold"
            )
        segmenter = build(source).to(device_named(device))
        text = encode(segmenter, bench.class_names, source)
        vectors = str(text_embeddings) if text_embeddings else run.text_embeddings if run else None
        about = {
            "model": asdict(source.settings),
            "train": run.train if run else None,
            "text_embeddings": vectors,
        }
        if choose_threshold:
            tried = scores_of_thresholds(
                segmenter, text, bench, root, inference=size, images=choose_threshold
            )
            size = replace(
                size, refinement_threshold=max(tried, key=lambda each: (tried[each], each))
            )
            about["threshold_chosen"] = {
                "images": choose_threshold,
                "mIoU_seen": {str(each): round(score, 4) for each, score in tried.items()},
            }
            print(
                f"threshold {size.refinement_threshold}, from mIoU of seen words in training: "
                + "  ".join(f"{each} {tried[each]:.1f}" for each in tried)
            )
        place = out or (folder / f"eval-{bench.slug}" if run else run_folder(model, bench.name))
        if out is None and episodes != "all":
            place = place.with_name(f"{place.name}-{episodes}")
        if out is None and limit is not None:
            place = place.with_name(f"{place.name}-first-{limit}")  # beside the whole report
        title = run.model.method if run else model
        if (
            run
            and sum(
                other is not None and (other.model.method, fold) == (title, name)
                for _, _, other, fold in asked
            )
            > 1
        ):
            title = f"{title} ({folder})"
        # Across data sets every word counts as trained on, so none is lowered (released cross-
        # dataset configurations).
        lowered = run.lowered(bench.class_names) if run and own else None
        made: list[Report] | list[EpisodeReport]
        if bench.episodes is not None:
            made = [
                run_episodes(
                    segmenter,
                    text,
                    bench,
                    root,
                    title=title,
                    inference=size,
                    how=episodes,
                    seed=seed,
                    seen=lowered,
                    limit=limit,
                    threshold=threshold,
                    about=about,
                    oracle=oracle,
                    released_counts=released_counts,
                )
                for seed in (seeds if episodes != "all" else seeds[:1])
            ]
            episode_reports += made
            for seed, found in zip(seeds, made, strict=False):
                found.save(place if len(made) == 1 else place / f"seed-{seed}")
        else:
            made = [
                run_evaluation(
                    segmenter,
                    text,
                    bench,
                    root,
                    title=title,
                    inference=size,
                    seen=lowered,
                    limit=limit,
                    threshold=threshold,
                    workers=workers,
                    about=about,
                    oracle=oracle,
                    trained=None if own else run,
                )
            ]
            made[0].save(place)
            reports += made
        plain = not (oracle or released_counts or choose_threshold)
        whole = (
            plain
            and limit is None
            and options is None
            and inference == NO_CHANGES
            and threshold is None
            and text_embeddings is None
            and episodes == "all"
        )
        if run and whole:
            _keep_scores(folder, bench.name, made[0].as_dict()["scores"])
        notice = (
            _beyond_doodles(segmenter.clip.source, bench.class_names, "give --clip")
            if run is None
            else ""
        )
        if notice:
            print(notice, file=sys.stderr)
        parts = [place] if len(made) == 1 else [place / f"seed-{seed}" for seed in seeds]
        print(
            f"wrote {' and '.join(str(part / 'report.json') for part in parts)}, with sheet.png"
            " beside"
        )
    for name in dict.fromkeys(report.benchmark.name for report in reports):
        print_reports([report for report in reports if report.benchmark.name == name])
    if episode_reports:
        print_episodes(episode_reports)


def _keep_scores(folder: Path, benchmark: str, scores: dict[str, Any]) -> None:
    """Write the last full evaluation's scores into the run folder's metrics.json."""
    import json

    from unseen.files import write_text

    stored = folder / "metrics.json"
    known = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    write_text(stored, json.dumps({**known, benchmark: scores}, indent=1) + "\n")


def convert_(
    method: str,
    file: Path,
    out: Path | None = None,
    benchmark: str | None = None,
    regime: Regime = "inductive",
    options: dict[str, Any] | None = None,
    clip: str | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> None:
    """Turn a published checkpoint into a run folder for evaluate and segment; says what became of
    every tensor.

    The file is read as data: nothing in it is executed.

    Args:
        method: zegclip, clip_rc, esda, sazs or edgeclip.
        file: The checkpoint: mmcv's .pth of ZegCLIP and CLIP-RC, or that of the method's own code.
        out: Run folder, runs/METHOD-published-BENCHMARK by default; written only if every tensor
            has its place.
        benchmark: What it was trained on (needed): its words, seen words and windows; folds as
            pascal-5i/0.
        regime: How it was trained; words of inductive runs are lowered by γ at test time.
        options: Options of the method, in place of the recipe's: --options.NAME VALUE.
        clip: The text tower, where the checkpoint holds none: SAZS, ViT-B-32-quickgelu/openai by
            default.
        vision_heads: Heads of the image tower; one for every 64 channels by default.
        text_heads: Heads of the text tower; likewise.
    """
    from unseen import api
    from unseen.building import run_folder

    if benchmark is None:
        raise SettingError(
            "a checkpoint does not say what it was trained on; give --benchmark voc, coco-stuff,"
            " context, pascal-5i/0, ..."
        )
    folder = out or run_folder(f"{method}-published", benchmark)
    report = api.convert(
        method,
        file,
        folder,
        benchmark=benchmark,
        regime=regime,
        clip=clip,
        vision_heads=vision_heads,
        text_heads=text_heads,
        **(options or {}),
    )
    print("\n".join(report.lines()))
    if report.problem:
        raise CheckpointError(
            f"{file} does not fit {method} ({report.problem}); nothing was written: is it one of"
            " another size or version?"
        )
    print(f"wrote {folder}; next: unseen evaluate {folder} --root DATA")


def segment_(
    images: list[Path],
    words: str,
    model: str = "naclip",
    clip: str | None = None,
    out: Path = Path("segmented"),
    options: dict[str, Any] | None = None,
    inference: InferenceChanges = NO_CHANGES,
    threshold: float | None = None,
    device: str = "auto",
) -> None:
    """Label every pixel of images with one of your words.

    For each image writes NAME.png (label map, ids in the order of the words, 255 for no word),
    NAME.overlay.png and NAME.json (share and mean score of each word). An image that cannot be
    read is reported and skipped; the exit code is then 2.

    Args:
        images: Images, or folders of images.
        words: Separated by commas: 'cat, sofa'; a word with a comma in double quotes: 'cat, "table,
            laid"'.
        model: A method without training of `unseen list`, or a run folder.
        clip: Tower of a method without training: "doodles" (the default), ARCHITECTURE/TAG of
            open_clip (ViT-B-16-quickgelu/openai), or a weight file; a run has its own.
        out: Folder for the results.
        options: Options of the method: --options.NAME VALUE.
        inference: Single values of size and windows to change; by default the run's own, or one and
            a half times the tower's size in windows of that size.
        threshold: Pixels whose best word is less confident (0..1) get no word.
        device: "auto", "cpu", "cuda", ...
    """
    import csv

    from unseen.api import load
    from unseen.files import find_images

    try:
        names = next(
            csv.reader([words.strip().removesuffix(",")], skipinitialspace=True, strict=True), []
        )
    except csv.Error as error:
        raise SettingError(
            f"the double quotes in --words are not closed ({words}); close them, or leave them away"
        ) from error
    check_threshold(threshold)
    loaded = load(model, clip=clip, options=options, inference=inference, device=device)
    text = loaded.encode(names)
    notice = _beyond_doodles(
        loaded.segmenter.clip.source, text.names, "train a run on" if loaded.run else "give --clip"
    )
    if notice:
        print(notice, file=sys.stderr)
    failed = 0
    sources = find_images(images)
    inside = next((source for source in sources if source.resolve().parent == out.resolve()), None)
    if inside is not None:
        raise DataError(
            f"the results would be written beside {inside} and could replace images; choose"
            " another folder with --out"
        )
    for source in sources:
        try:
            result = loaded.segment_encoded(source, text, threshold=threshold)
            result.save(out, source.stem)
        except UnseenError as error:
            failed += 1
            print(f"unseen: {error}", file=sys.stderr)
            continue
        found = (
            ", ".join(f"{name} {100 * share:.1f} %" for name, share in result.largest(3))
            or "no word"
        )
        print(f"{source.name}: {found}  ->  {out / source.stem}.png")
    if failed:
        raise SystemExit(2)


def eigenvectors_(
    source: str,
    out: Path = Path("segments"),
    root: Path | None = None,
    split: Literal["train", "val"] = "val",
    features: str = "doodles",
    count: int = 5,
    colour: float = 0.0,
    cell: int | None = None,
    lapnorm: bool = True,
    png: bool = False,
    lists: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
) -> None:
    """Cut images into spectral segments, without words or labels; what is in the folder already
    is kept, so a stopped run goes on.

    Writes NAME.safetensors for each image (eigenvalues and eigenvectors) and sheet.png, which
    shows some. Use them with --inference.refinement segment_iou --inference.segments_dir DIR in
    evaluate and segment.

    Args:
        source: A benchmark of `unseen list`, a folder of your own data (with classes.txt), or a
            folder of images.
        out: Folder to write to.
        root: Where the benchmark's data lie.
        split: Of the benchmark: "train" or "val".
        features: Network whose keys join patches: timm:NAME (timm:vit_small_patch16_224.dino, as
            Deep Spectral Methods), timm:NAME@FILE, or a CLIP: "doodles", ARCHITECTURE/TAG of
            open_clip, a weight file.
        count: Eigenvectors an image, the constant one included.
        colour: Weight of the edges between neighbours in colour and position.
        cell: Side in pixels of the cells the feature map is resized to; patches by default.
        lapnorm: Normalise the graph's Laplacian; false is slow for large images.
        png: Write the segments as NAME_k0.png, ... too: 0 and 255, as SAZS reads them.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        limit: Only the first so many images.
        device: "auto", "cpu", "cuda", ...
    """
    from unseen import api
    from unseen.segments.spectral import SpectralSettings

    settings = SpectralSettings(count, colour, lapnorm, cell)
    extraction = api.ExtractionSettings(features, split, limit, png, device=device)
    made, kept = api.eigenvectors(
        source, out, root=root, lists=lists, settings=settings, extraction=extraction
    )
    print(
        f"wrote the eigenvectors of {made} images{f', {kept} were there' if kept else ''}  -> "
        f" {out}; some are shown in {out / 'sheet.png'}"
    )


def prepare_(
    name: str,
    root: Path = Path("data"),
    source: Path | None = None,
    check: bool = False,
    jobs: int | None = None,
) -> None:
    """Make a data set ready: download or take archives, verify, unpack, convert, count. Run again
    after a stop, it goes on where it was.

    Nothing that is there is overwritten. Downloaded archives stay in ROOT/downloads; delete them
    when all is done.

    Args:
        name: voc (with SBD), context, coco-stuff, pascal-5i, coco-20i, ade20k-150, ade20k-847 or
            cityscapes.
        root: Folder of all data sets, or the data set's own.
        source: Folder of archives or unpacked data sets to use instead of downloading.
        check: Only count what there is.
        jobs: Processes for conversions; as many as there are cores by default.
    """
    from rich.console import Console
    from rich.table import Table

    from unseen.data.prepare import DATASETS, prepare

    before = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that a file that is being written is taken away
    try:
        counts = prepare(name, root, source, check=check, jobs=jobs)
    finally:
        signal.signal(signal.SIGTERM, before)
    table = Table(name, "there", "published", "", box=None, header_style="bold", pad_edge=False)
    for count in counts:
        expected = "" if count.expected is None else str(count.expected)
        table.add_row(count.title, str(count.actual), expected, count.verdict)
    Console().print(table)
    wrong = [str(count) for count in counts if count.binding and not count.matches]
    if wrong:
        remedy = (
            f"unseen prepare {name} --root {root} makes what is missing"
            if check
            else "complete or correct the sources and run again"
        )
        raise DataError(
            f"{name} in {DATASETS[name].folder(root)} is not what was published ({'; '.join(wrong)});"
            f" {remedy}"
        )
    lists = f" --lists {root / 'lists'}" if DATASETS[name].lists else ""
    print(
        "ready; next: unseen evaluate naclip --clip ViT-B-16-quickgelu/openai --benchmark"
        f" {DATASETS[name].benchmark} --root {DATASETS[name].folder(root)}{lists}"
    )


def demo(
    out: Path = Path("demo"), seed: int = 0, steps: int | None = None, limit: int | None = None
) -> None:
    """Train ZegCLIP on 15 of the 20 doodle words, score it on all against methods without training,
    and draw what it sees.

    Args:
        out: Folder for the run, the reports and the images; an earlier demo there is replaced.
        seed: Of training.
        steps: Training steps; the recipe's by default.
        limit: Score only the first so many scenes.
    """
    from unseen.demo import run_demo
    from unseen.recipes import settings

    run_demo(
        out,
        *settings(
            "zegclip", "doodles", seed=seed, devices="1", **({"steps": steps} if steps else {})
        ),
        limit=limit,
    )


def check(
    source: str,
    root: Path | None = None,
    out: Path | None = None,
    samples: int = 8,
    lists: Path | None = None,
) -> None:
    """Look at every file of a data set before any training; exit code 2 if anything would stop or
    spoil it.

    Reports ids that are not on the list, classes never labelled, sizes that differ, label maps
    saved as JPEG or colours, a background that shifts every id, images of validation in training,
    missing partners and unreadable files. Writes check.json and sheet.png, some labelled images
    to look at.

    Args:
        source: A folder of your own (images/, labels/, classes.txt), or a benchmark of `unseen
            list`.
        root: Where the benchmark's data lie.
        out: Folder to write to; runs/check-NAME by default.
        samples: Images on the sheet.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
    """
    if samples < 1:
        raise SettingError(f"--samples is {samples}; give at least 1")
    from unseen.data.own.checking import check_data
    from unseen.data_report import print_check, save_check

    checked = check_data(source, root=root, lists=lists)
    folder = out or Path("runs") / f"check-{checked.benchmark.slug}"
    drawn = save_check(checked, folder, samples)
    print_check(checked)
    sheet = (
        f" and {folder / 'sheet.png'}: look whether colours and class names fit" if drawn else ""
    )
    print(f"wrote {folder / 'check.json'}{sheet}")
    if checked.errors:
        raise SystemExit(2)


def _beyond_doodles(source: str | None, words: Sequence[str], remedy: str) -> str:
    """What to say where the doodle tower is asked for what it has never seen; "" where there is
    nothing to say.
    """
    from unseen.data.classes import DOODLES

    strange = (
        [name for name in words if not any(known in name.lower() for known in DOODLES)]
        if source == "doodles"
        else []
    )
    what = (
        "unseen: the doodle tower knows drawings of twenty things and cannot tell what"
        f" {strange[0]!r} is;"
        if strange
        else ""
    )
    return what and f"{what} for photographs {remedy} ViT-B-16-quickgelu/openai"


VERBS: dict[str, Callable[..., None]] = {
    "list": list_,
    "check": check,
    "pretrain": pretrain,
    "train": train_,
    "evaluate": evaluate,
    "convert": convert_,
    "segment": segment_,
    "eigenvectors": eigenvectors_,
    "prepare": prepare_,
    "demo": demo,
}


# --------------------------------------------------------------------- helpers


def _range(counts: Iterable[int]) -> str:
    low, high = min(found := list(counts)), max(found)
    return str(low) if low == high else f"{low}..{high}"


POSITIONALS: dict[str, tuple[str, dict[str, Any]]] = {
    "list": (
        "what",
        {
            "nargs": "?",
            "default": "all",
            "help": (
                "methods, benchmarks, templates, clips (towers open_clip knows) or all (the first"
                " three)"
            ),
        },
    ),
    "pretrain": ("world", {"nargs": "?", "default": "doodles", "help": "doodles"}),
    "evaluate": (
        "models",
        {"nargs": "+", "help": "Methods without training of `unseen list`, or run folders."},
    ),
    "segment": (
        "images",
        {"nargs": "+", "type": Path, "help": "Images, or folders of images."},
    ),
}
"""Arguments without dashes that a signature cannot say."""
FLAGS = {
    "resume": "Go on from the state in the folder.",
    "published": "Start from the released code's choices instead of ours.",
    "oracle": (
        "Let the labels choose between masks and eigen-segments, as SAZS was scored: not a result,"
        " and marked in the report."
    ),
    "released_counts": "Count void pixels of folds into unions, as the released SAZS does.",
    "check": "Only count what there is.",
    "png": "Write the segments as NAME_k0.png, ... too: 0 and 255, as SAZS reads them.",
}
OPTIONS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "prepare": {
        "source": (
            "--from",
            {
                "type": Path,
                "help": "Folder of archives or unpacked data sets to use instead of downloading.",
            },
        )
    }
}
"""Options whose name is a word of Python's."""


class _Parser(ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Shorten jsonargparse's message and leave with code 2."""
        raise SettingError(_sentence(" ".join(message.split()), list(self._option_string_actions)))


def _sentence(message: str, flags: list[str]) -> str:
    """The sentence about a message of the parser."""
    key, value = (
        re.search(r'Parser key "([^"]+)"', message),
        re.search(r"(?:Got value|Given value): (.*?)( Given value type.*)?$", message),
    )
    if key and value:
        choices = re.search(r"typing\.Literal\[(.*?)\](?=[.,\] ])", message)
        kinds = [
            KINDS.get(kind, kind)
            for kind in re.findall(r"<class '([^']+)'>", message)
            if kind not in ("NoneType", "str")
        ]
        wanted = (
            f"choose one of {choices[1]}"
            if choices
            else f"give {' or '.join(dict.fromkeys(kinds))}"
            if kinds
            else "see --help"
        )
        return f"--{key[1]} is {value[1]!r}; {wanted}"
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown:
        near = difflib.get_close_matches(unknown[1].partition("=")[0], flags, n=1)
        return (
            f"there is no {unknown[1]}{f' (did you mean {near[0]}?)' if near else ''}; --help shows"
            " all flags"
        )
    if 'expected "verb"' in message:
        return f"say what to do: {', '.join(VERBS)}; --help says more"
    return (
        re.sub(rf"\b({'|'.join(VERBS)})\.(?=\w)", "", message.removeprefix("argument VERB: "))
        + "; --help says more"
    )


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "pathlib.Path": "a path",
    "tuple": "a list such as [1,2]",
}


def _parser(argv: list[str]) -> tuple[ArgumentParser, ArgumentParser | None]:
    """The parser, and the one of the verb that is called; other verbs' options are not built, to
    answer fast.
    """
    parser = _Parser(
        prog="unseen",
        allow_abbrev=False,
        description=(
            "Zero-shot semantic segmentation: an image and a list of words in, one label map out."
        ),
    )
    parser.add_argument("--version", action="version", version=f"unseen {__version__}")
    verbs = parser.add_subcommands(required=True, dest="verb", title="verbs", metavar="VERB")
    called = None
    for name, function in VERBS.items():
        made = _Parser(
            allow_abbrev=False,
            description=(function.__doc__ or "").split("\n\n    Args:")[0].strip(),
        )
        if argv[:1] == [name]:
            called = made
            skip: set[str | int] = {
                flag for flag in FLAGS if flag in inspect.signature(function).parameters
            }
            for flag in sorted(map(str, skip)):
                made.add_argument(f"--{flag}", action="store_true", help=FLAGS[flag])
            if name in POSITIONALS:
                word, settings = POSITIONALS[name]
                made.add_argument(word, **settings)
                skip.add(word)
            for word, (flag, settings) in OPTIONS.get(name, {}).items():
                made.add_argument(flag, dest=word, **settings)
                skip.add(word)
            made.add_function_arguments(
                function,
                as_group=False,
                as_positional=name not in ("segment", "evaluate"),
                skip=skip,
            )
        verbs.add_subcommand(name, made, help=(function.__doc__ or "").split("\n")[0])
    return parser, called


def _apply_recipe(
    parser: ArgumentParser, verb: ArgumentParser | None, argv: list[str]
) -> Namespace:
    """Parse once to learn method, benchmark and regime; make their recipe the defaults; parse
    again, so that the command line wins.
    """
    from unseen.recipes import recipe

    first = parser.parse_args(argv)
    if first.verb != "train" or verb is None:
        return first
    chosen = first.train
    found = recipe(chosen.method, chosen.benchmark, chosen.train.regime)
    defaults = {f"train.{key}": value for key, value in flat(found.get("train", {})).items()}
    defaults |= found.get("model", {})
    verb.set_defaults(defaults)
    parsed = parser.parse_args(argv)
    if chosen.options:  # a dictionary given on the command line adds to the recipe's
        parsed.train.options = {**found.get("model", {}).get("options", {}), **chosen.options}
    return parsed


def _underscored(word: str) -> str:
    """--text-embeddings is --text_embeddings."""
    name, equals, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if word.startswith("--") else word


def main(argv: list[str] | None = None) -> None:
    """Run a verb."""
    argv = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        parser, called = _parser(argv)
        parsed = _apply_recipe(parser, called, argv)
        values = parser.instantiate(parsed)[parsed.verb]
        VERBS[parsed.verb](**vars(values))
    except UnseenError as error:
        print(f"unseen: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        print(f"unseen: {str(stop) or 'stopped'}", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
