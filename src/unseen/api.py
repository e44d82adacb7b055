"""The verbs as functions: load, segment, train, evaluate, convert, eigenvectors.

>>> import unseen
>>> model = unseen.load("naclip", clip="ViT-B-16-quickgelu/openai")
>>> result = model.segment("street.jpg", ["road", "car", "person"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from unseen.arguments import checked
from unseen.backbones.archives import read_state_dict
from unseen.building import build, device_named, encode, own_inference
from unseen.checkpoints import load_initial_weights, save_converted, save_run, tower_identities
from unseen.clip_segmenter import TextSegmenter
from unseen.conversion import Report as ConversionReport
from unseen.conversion import load_given_tower, read_sizes, released, translate
from unseen.data.benchmarks import Benchmark
from unseen.errors import CheckpointError, SettingError
from unseen.evaluation.comparison import compare
from unseen.evaluation.entries import Changes, Places, plan_entries
from unseen.files import copy_file, write_json
from unseen.images import ImageLike
from unseen.palettes import class_colours
from unseen.plans import (
    TrainingPlan,
    TrainingStart,
    plan_conversion,
    plan_extraction,
    plan_training,
)
from unseen.predictor import Predictor
from unseen.profiling import own_cost
from unseen.recipes import RELEASED, Protocol, published, recipe
from unseen.reports import Report
from unseen.runs import BEST, COST, TEXT, TOWER, Run, save_config, versions
from unseen.segmentation import Segmentation
from unseen.segmenter import TextFeatures
from unseen.settings import (
    DrawSettings,
    EvaluationSettings,
    ExtractionSettings,
    InferenceSettings,
    ModelSettings,
    Regime,
    SpectralSettings,
    TrainSettings,
    change_inference,
    check_segments_used,
    flat,
)
from unseen.sources import ModelChoices, find_model
from unseen.vocabulary import Vocabulary, change_vocabulary

if TYPE_CHECKING:
    from unseen.training.records import RunControl

# ------------------------------------------------------------------- segmenting


@checked
def load(
    model: str | Path = "naclip",
    *,
    inference: InferenceSettings | Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    device: str = "auto",
    drawing: DrawSettings | Mapping[str, Any] | None = None,
    **choices: Unpack[ModelChoices],
) -> Predictor:
    """A predictor from a method without training, or from a run folder.

    Args:
        model: Name of a method, or the folder `unseen train` wrote.
        inference: Single fields to change, or whole settings; by default the run's own, or one and
            a half times the tower's size, in windows of that size.
        class_names: The classes that the rows of `text_embeddings` belong to, in their order.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ...
        drawing: How label maps are drawn: single fields to change, or whole settings.
        **choices: `clip`, `published`, `options`, `text_embeddings` (`ModelChoices`).

    Raises:
        SettingError: Neither a method nor a folder; a method that has to be trained first; a tower
            for a run, which has its own.
        CheckpointError: A folder that cannot be loaded.
    """
    device = device_named(device)
    if not isinstance(drawing, DrawSettings):
        drawing = DrawSettings(**(drawing or {}))
    class_colours(drawing.palette, class_names)  # a file that cannot be read is told first
    source = find_model(model, choices)
    if source.run is not None and choices.get("published"):
        raise SettingError(
            f"the run {model} follows the released code as it was trained; remove --published,"
            " which is for unseen evaluate"
        )
    segmenter = build(source, class_names)
    base = own_inference(segmenter)
    if source.run is not None:
        base = source.run.inference
    settings = change_inference(base, inference)
    check_segments_used(settings, inference)
    return Predictor(segmenter.to(device), settings, source, drawing)


@checked
def segment(
    image: ImageLike,
    names: Sequence[str] | Vocabulary,
    *,
    model: str | Path = "naclip",
    threshold: float | None = None,
    device: str = "auto",
    **choices: Unpack[ModelChoices],
) -> Segmentation:
    """Label one image; for many, keep what `load` returns.

    Args:
        image: Path, PIL image or array (`unseen.images.read_pixels`).
        names: At least one class name, or a vocabulary with synonyms or words for the background.
        model: As for `load`.
        threshold: Pixels whose best class is less confident (0..1) get no class (255).
        device: As for `load`.
        **choices: As for `load`.
    """
    rows = names.names if isinstance(names, Vocabulary) else names
    loaded = load(model, class_names=rows, device=device, **choices)
    return loaded.segment(image, names, threshold=threshold)


# --------------------------------------------------------------------- training


@checked
def train(
    model: ModelSettings,
    settings: TrainSettings,
    benchmark: str = "doodles",
    out: str | Path | None = None,
    *,
    root: str | Path | None = None,
    lists: str | Path | None = None,
    progress: bool = True,
    **start: Unpack[TrainingStart],
) -> tuple[TextSegmenter, TextFeatures] | None:
    """Train a method on the seen classes of a benchmark; writes a run folder.

    `unseen.recipes.resolve` gives the first two arguments.

    Args:
        model: Method, tower and options.
        settings: How to train.
        benchmark: Name of a benchmark, or a folder of your own data.
        out: Run folder; runs/METHOD-BENCHMARK by default.
        root: Where the benchmark's data lie.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        progress: Show a progress bar.
        **start: `text_embeddings`, `init`, `resume`, `class_file` (`TrainingStart`).

    Returns:
        The trained segmenter, in eval mode, and the benchmark's vocabulary, encoded; None in the
        further processes of a distributed run.

    Raises:
        UnseenError: Settings, data or folders that do not fit together.
    """
    from unseen.training.loop import fit  # Lightning, which no other verb needs

    plan = plan_training(model, settings, benchmark, out, root=root, lists=_path(lists), **start)
    # Before anything is built, as new weights are drawn from this seed.
    torch.manual_seed(settings.seed)
    segmenter = build(plan.source, plan.benchmark.class_names)
    if segmenter.trains_text and plan.vocabulary.synonyms:
        raise SettingError(
            f"{model.method} trains its prompts with one name a class; remove --class-file, and the"
            " synonyms on the list of classes"
        )
    text = encode(segmenter, plan.vocabulary)
    run = plan.run(tower_identities(segmenter))
    if run.init is not None and not plan.has_state:  # a state holds the weights itself
        load_initial_weights(Path(run.init), segmenter, run)
    control = _control(plan, segmenter, run, progress)
    if settings.validate_every is not None:
        control = _with_validation(control, plan, segmenter, text, run)
    if not fit(segmenter, text, plan.benchmark, plan.root, settings, control):
        return None
    if segmenter.trains_text:  # its features have changed with training
        text = encode(segmenter, plan.vocabulary)
    cost = own_cost(segmenter, text, run.inference, plan.benchmark)
    write_json(plan.folder / COST, cost, ours=True)
    return segmenter, text


def _control(plan: TrainingPlan, segmenter: TextSegmenter, run: Run, progress: bool) -> RunControl:
    """Where a run writes, before the first step and after the steps of `snapshots`."""
    from unseen.training.records import RunControl

    def begin() -> None:
        save_config(plan.folder, run)
        if plan.text_embeddings is not None:
            copy_file(plan.text_embeddings, plan.folder / TEXT)

    def snapshot(step: int) -> None:
        folder = plan.folder / f"step-{step}"
        save_run(folder, segmenter, run)
        if run.text_embeddings:
            copy_file(plan.folder / TEXT, folder / TEXT)

    return RunControl(
        out=plan.folder,
        resume=plan.resume,
        init=run.init is not None,
        progress=progress,
        told=flat(asdict(run)),
        begin=begin,
        snapshot=snapshot,
        end=lambda: save_run(plan.folder, segmenter, run),
    )


def _with_validation(
    control: RunControl, plan: TrainingPlan, segmenter: TextSegmenter, text: TextFeatures, run: Run
) -> RunControl:
    """With scores on a part of the validation set, of which the best step is kept."""
    from unseen.evaluation.validation import Validation, best_by

    images = plan.settings.validate_images
    validation = Validation(
        segmenter, text, plan.vocabulary, plan.benchmark, plan.root, run, images
    )
    score = best_by(plan.benchmark)

    def keep_best(step: int, named: str, value: float) -> None:
        told = {"step": step, "score": named, "value": round(value, 4), "images": images}
        folder = plan.folder / BEST
        save_run(folder, segmenter, replace(run, chosen=told))
        if run.text_embeddings:
            copy_file(plan.folder / TEXT, folder / TEXT)

    return replace(control, validate=validation, best_by=score, keep_best=keep_best)


# ---------------------------------------------------------------------- scoring


@checked
def evaluate(
    models: str | Path | Sequence[str | Path],
    benchmark: str | Benchmark | None = None,
    *,
    settings: EvaluationSettings | Mapping[str, Any] | None = None,
    inference: InferenceSettings | Mapping[str, Any] | None = None,
    vocabulary: Vocabulary | Mapping[str, Any] | None = None,
    root: str | Path | None = None,
    lists: str | Path | None = None,
    out: str | Path | None = None,
    save: bool = True,
    **choices: Unpack[ModelChoices],
) -> list[Report]:
    """Score methods or runs on a benchmark; writes report.json and report.html for each.

    Args:
        models: One or several: methods without training, by name, and run folders.
        benchmark: Name of a benchmark, or a folder of your own data; a run's own by default.
            Without training, a name without fold means all folds.
        settings: How to score: whole settings, or single fields.
        inference: Single fields to change, or whole settings. By default a run on its own benchmark
            keeps its own, and all else takes the benchmark's.
        vocabulary: How the classes are put into words: a `Vocabulary` of the same classes, or
            `class_file`, `combine` and `background_words` (`unseen.vocabulary`).
        root: Where the benchmark's data lie.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        out: Folder of the report; RUN/eval-BENCHMARK or runs/METHOD-BENCHMARK by default.
        save: Whether to write the reports.
        **choices: `clip`, `published`, `options`, `text_embeddings` (`ModelChoices`).

    Returns:
        The reports, in the order of models, folds and seeds.

    Raises:
        UnseenError: Models, data or settings that do not fit together.
    """
    several = models
    if isinstance(several, (str, Path)):
        several = [several]
    if not several:
        raise SettingError("models is empty; name at least one method or run folder")
    places = Places(_path(root), _path(lists), _path(out), save)
    changes = Changes(inference, vocabulary, settings, choices)
    entries = plan_entries(several, benchmark, places, changes)
    return compare(entries, places, changed=changes.any)


# ------------------------------------------------------------------- converting


@checked
def convert(
    method: str,
    file: str | Path,
    out: str | Path,
    *,
    benchmark: str,
    regime: Regime = "inductive",
    clip: str | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    **options: Any,
) -> ConversionReport:
    """A published checkpoint as a run folder that evaluates as the released code does.

    The file is read as data: nothing in it runs. Sizes follow from the shapes; classes, seen
    classes, templates and windows from the benchmark, other options from the method's recipe.

    Args:
        method: A method with released checkpoints.
        file: The checkpoint.
        out: Run folder; written only if every tensor has its place.
        benchmark: What it was trained on; folds as "pascal-5i/0".
        regime: How it was trained.
        clip: The tower, where the checkpoint holds none (SAZS): its method's published one by
            default.
        vision_heads: Heads of the image tower; one for every 64 channels by default.
        text_heads: Heads of the text tower; likewise.
        **options: Options of the method, in place of the recipe's.

    Returns:
        What became of every tensor; nothing was written if it has a `problem`.

    Raises:
        CheckpointError: Not a readable file of weights, or not a checkpoint of this method.
        SettingError: A folder that is not empty, or options that do not fit.
    """
    file, out = Path(file), Path(out)
    bench = plan_conversion(method, file, out, benchmark)
    out = out.resolve()  # a link to a folder, and "."
    state = read_state_dict(file)
    tower = load_given_tower(method, state, clip)
    try:
        recommended = recipe(method, bench.name, regime).get("model", {}).get("options", {})
        options = {**recommended, **read_sizes(method, state), **options}
        segmenter, report = translate(
            method,
            state,
            clip=tower,
            vision_heads=vision_heads,
            text_heads=text_heads,
            **options,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    _check_folds(method, bench)
    if report.problem is None:
        source = segmenter.clip.source if tower is not None else TOWER
        model = ModelSettings(method, source, published=True, options=options)
        save_converted(out, segmenter, _converted_run(model, segmenter, bench, regime, file))
    return report


def _check_folds(method: str, bench: Benchmark) -> None:
    """Refuse a benchmark without folds for a method that is trained on them."""
    if released(method).folds and bench.episodes is None:
        raise SettingError(
            f"{method} was trained on folds, one query class an image; give --benchmark"
            " pascal-5i/0, or the fold it was trained on"
        )


def _converted_run(
    model: ModelSettings, segmenter: TextSegmenter, bench: Benchmark, regime: Regime, file: Path
) -> Run:
    """What config.yaml says of a converted checkpoint."""
    protocol = published(model.method, bench.name, regime) or Protocol(**RELEASED)
    return Run(
        model=model,
        benchmark=bench.name,
        class_names=bench.class_names,
        seen=bench.class_names if regime == "supervised" else bench.seen,
        inference=change_inference(bench.inference, protocol.inference),
        train={"regime": regime, "converted_from": file.name},
        versions=versions(),
        towers=tower_identities(segmenter),
        synonyms=change_vocabulary(bench.vocabulary, protocol.vocabulary).facts()["synonyms"],
    )


# --------------------------------------------------------------- eigen-segments


@checked
def eigenvectors(
    source: str | Path,
    out: str | Path,
    *,
    root: str | Path | None = None,
    lists: str | Path | None = None,
    settings: SpectralSettings | None = None,
    extraction: ExtractionSettings | None = None,
) -> tuple[int, int]:
    """Keep the eigenvectors of a benchmark's or a folder's images.

    Writes NAME.safetensors for every image, and a sheet of some of them. Images whose eigenvectors
    lie in the folder already are left as they are, so a stopped run goes on where it was.

    Args:
        source: A benchmark, by name or folder, or a folder of images.
        out: Folder to write to.
        root: Where the benchmark's data lie.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        settings: How they are computed.
        extraction: Images, network, and what is written.

    Returns:
        How many images were computed, and how many were there already.

    Raises:
        UnseenError: No such source, a network that cannot be loaded, an image without eigenvectors,
            or a folder that holds others.
    """
    from unseen.extraction import extract_images

    spectral, how = settings or SpectralSettings(), extraction or ExtractionSettings()
    out, root, lists = Path(out), _path(root), _path(lists)
    images = plan_extraction(str(source), out, root, lists, how.split)
    return extract_images(str(source), images, out, root, spectral, how)


def _path(given: str | Path | None) -> Path | None:
    return Path(given) if given else None
