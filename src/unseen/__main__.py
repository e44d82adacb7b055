"""`python -m unseen`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from unseen.cli.notices import about_tower
from unseen.cli.parser import main
from unseen.errors import SettingError
from unseen.settings import InferenceChanges

Draw = Literal["all", "hsnet", "sazs", "bam"]  # of unseen.data.episodes, which is heavy to import
NO_CHANGES = InferenceChanges()


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
            about_tower(segmenter.clip.source, bench.class_names, "give --clip")
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


if __name__ == "__main__":
    main()
