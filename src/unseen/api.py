"""Images by words, in three lines of Python.

>>> import unseen
>>> model = unseen.load("naclip", clip="ViT-B-16-quickgelu/openai")
>>> result = model.segment("street.jpg", ["road", "car", "person"])
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from unseen.backbones.archives import read_state_dict
from unseen.backbones.clip import load_clip
from unseen.backbones.vit import load_keys
from unseen.checkpoints import (
    CONFIG,
    TEXT,
    TOWER,
    WEIGHTS,
    Run,
    fingerprint,
    load_run,
    load_words,
    read_config,
    save_config,
    save_run,
    save_tower,
    versions,
)
from unseen.convert import RELEASED, Report, read_sizes, translate
from unseen.data.benchmarks import Benchmark, get_benchmark
from unseen.errors import CheckpointError, DataError, SettingError, VocabularyError
from unseen.files import find_images, read_image, replacing, write_labels, write_text
from unseen.inference import Claims, agreement, label_maps, segments_of
from unseen.labels import IGNORE, MAX_8BIT_CLASSES
from unseen.methods import METHODS, create, known
from unseen.recipes import recipe
from unseen.segmenter import TextFeatures, TextSegmenter, stored_text, stored_width
from unseen.segments.source import extract
from unseen.segments.spectral import SpectralSettings
from unseen.settings import (
    InferenceChanges,
    InferenceSettings,
    ModelSettings,
    Regime,
    TrainSettings,
    is_own,
)
from unseen.training import STATE, fit
from unseen.visualize import overlay, palette, segments_sheet, spread

PUBLISHED_TOWER = "ViT-B-32-quickgelu/openai"
"""Whose words SAZS was trained with."""
Picture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Segmentation:
    """A labelled image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        names: The words, in the order of the ids.
        labels: (H, W) uint8, ids; 255 where no word was confident enough.
        confidence: (H, W) float32 in 0..1, of the chosen word.
        unseen: The words without masks in training; empty for methods without training.
    """

    image: NDArray[np.uint8] = field(repr=False)
    names: tuple[str, ...]
    labels: NDArray[np.uint8] = field(repr=False)
    confidence: NDArray[np.float32] = field(repr=False)
    unseen: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels of each word, in 0..1."""
        counts = np.bincount(self.labels.ravel(), minlength=IGNORE + 1) / self.labels.size
        return {name: float(counts[i]) for i, name in enumerate(self.names)}

    def largest(self, count: int) -> list[tuple[str, float]]:
        """The words with the most pixels, and their shares."""
        found = sorted(self.shares.items(), key=lambda item: -item[1])
        return [(name, share) for name, share in found[:count] if share > 0]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The pixels (H, W) of one word."""
        return np.asarray(self.labels == self.names.index(name))

    def overlay(self) -> Image.Image:
        """The image with its label map and a legend."""
        return overlay(self.image, self.labels, self.names, self.unseen)

    def as_dict(self) -> dict[str, Any]:
        """Names, pixel shares and mean scores, as JSON types; a word without pixels has no mean
        score.
        """
        words = []
        for i, name in enumerate(self.names):
            here = self.confidence[self.labels == i]
            words.append(
                {
                    "id": i,
                    "name": name,
                    "share": round(self.shares[name], 6),
                    "mean_score": round(float(here.mean()), 4) if here.size else None,
                }
            )
        return {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "no_word": round(float((self.labels == IGNORE).mean()), 6),
            "words": words,
        }


class Predictor:
    """A segmenter ready to label images.

    Attributes:
        segmenter: The method.
        inference: Size and windows.
        run: What it was trained on; None for methods without training.
        folder: Where the run lies.
    """

    def __init__(
        self,
        segmenter: TextSegmenter,
        inference: InferenceSettings,
        run: Run | None = None,
        folder: Path | None = None,
    ) -> None:
        self.segmenter, self.inference, self.run, self.folder = (
            segmenter.eval(),
            inference,
            run,
            folder,
        )
        self._segments = (
            segments_of(segmenter, inference) if inference.refinement != "none" else None
        )

    def encode(self, names: Sequence[str]) -> TextFeatures:
        """Encode words once, for many images.

        Raises:
            VocabularyError: No words, too many (more than 253), a repeated one, one that is too
                long.
        """
        if isinstance(names, str):
            raise VocabularyError(f"the words are one string, {names!r}; give a list of words")
        if len(names) > MAX_8BIT_CLASSES:
            raise VocabularyError(
                f"{len(names)} words are more than a label map with 8 bits holds; give at most"
                f" {MAX_8BIT_CLASSES}"
            )
        return _words(self.segmenter, names, self.run, self.folder).to(self.segmenter.device)

    def segment(
        self, image: Picture, names: Sequence[str], *, threshold: float | None = None
    ) -> Segmentation:
        """Label every pixel of an image with one of the words.

        Args:
            image: Path, PIL image, or (H, W, 3) uint8 array, RGB.
            names: At least one word.
            threshold: Pixels whose best word is less confident (0..1) get no word (255).
        """
        return self.segment_encoded(image, self.encode(names), threshold=threshold)

    def _claims(self, images: Tensor, source: Picture) -> Claims | None:
        """The eigen-segments that take the place of masks, where the settings ask for it."""
        if self._segments is None:
            return None
        if self._segments.folder is not None and not isinstance(source, (str, Path)):
            raise SettingError(
                "segments are read from a folder by the image's file name; give a path, or leave"
                " --inference.segments_dir away"
            )
        return agreement(
            self._segments(images, [Path(source).stem if isinstance(source, (str, Path)) else ""]),
            self.inference.refinement_threshold,
        )

    def segment_encoded(
        self, image: Picture, text: TextFeatures, *, threshold: float | None = None
    ) -> Segmentation:
        """As `segment`, for words that `encode` has encoded."""
        if threshold is not None and not 0 <= threshold <= 1:
            raise SettingError(f"the threshold is {threshold}; give a confidence between 0 and 1")
        pixels = _pixels(image)
        batch = (
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
            .unsqueeze(0)
            .to(self.segmenter.device)
        )
        lowered = self.run.lowered(text.names) if self.run else None
        maps = label_maps(
            self.segmenter,
            batch,
            text,
            self.inference,
            seen=lowered,
            threshold=threshold,
            claims=self._claims(batch, image),
        )
        fresh = tuple(name for name in text.names if name not in self.run.seen) if self.run else ()
        return Segmentation(
            pixels,
            text.names,
            maps.labels[0].to(torch.uint8).cpu().numpy(),
            maps.confidence[0].cpu().numpy(),
            fresh,
        )


def load(
    model: str = "naclip",
    *,
    clip: str = "doodles",
    options: dict[str, Any] | None = None,
    inference: InferenceChanges | None = None,
    device: str = "auto",
) -> Predictor:
    """A predictor from a method without training, or from a run folder.

    Args:
        model: Name of a method, or the folder `unseen train` wrote.
        clip: Tower of a method without training: "doodles", ARCHITECTURE/TAG of open_clip, or a
            weight file.
        options: Options of the method; for a run they replace single ones of its own.
        inference: Values to change; by default the run's, or one and a half times the tower's own
            size, in windows of that size.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ...

    Raises:
        SettingError: Neither a method nor a folder; a method that has to be trained first.
        CheckpointError: A folder that cannot be loaded.
    """
    device = device_named(device)
    settings, run = resolve(model, clip, False, options)
    changes = inference or InferenceChanges()
    if run is not None:
        segmenter, _ = load_run(Path(model), settings.options)
        return Predictor(segmenter.to(device), changes.on(run.inference), run, Path(model))
    tower = load_clip(clip)
    side = tower.visual.image_size[0]
    default = InferenceSettings(short_side=side * 3 // 2, window=side, stride=side // 2)
    return Predictor(create(model, tower, **settings.options).to(device), changes.on(default))


def segment(
    image: Picture,
    names: Sequence[str],
    *,
    model: str = "naclip",
    clip: str = "doodles",
    threshold: float | None = None,
    device: str = "auto",
) -> Segmentation:
    """Label one image; for many, keep what `load` returns."""
    return load(model, clip=clip, device=device).segment(image, names, threshold=threshold)


def save_segmentation(result: Segmentation, folder: Path, stem: str) -> None:
    """Write STEM.png (indexed label map), STEM.overlay.png and STEM.json; each whole or not at
    all.
    """
    write_labels(folder / f"{stem}.png", result.labels, palette(len(result.names)))
    with replacing(folder / f"{stem}.overlay.png") as beside:
        result.overlay().save(beside)
    write_text(
        folder / f"{stem}.json", json.dumps(result.as_dict(), indent=1, ensure_ascii=False) + "\n"
    )


def train(
    model: ModelSettings,
    settings: TrainSettings,
    benchmark: str = "doodles",
    out: str | Path | None = None,
    *,
    root: str | Path | None = None,
    lists: Path | None = None,
    text_embeddings: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[TextSegmenter, TextFeatures] | None:
    """Train a method on the seen words of a benchmark; writes a run folder.
    `unseen.recipes.settings` resolves the first two arguments.

    Args:
        model: Method, tower and options.
        settings: How to train.
        benchmark: Name of a benchmark, or a folder of your own data.
        out: Run folder; runs/METHOD-BENCHMARK by default.
        root: Where the benchmark's data lie.
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        text_embeddings: A .npy file (words, D) to use instead of the text tower, one row a word of
            the vocabulary; copied into the folder.
        init: Run folder whose trained weights to start from.
        resume: Go on from the state in the folder.
        progress: Show a progress bar.

    Returns:
        The trained segmenter, in eval mode, and the benchmark's vocabulary, encoded; None in the
        further processes of a distributed run.

    Raises:
        UnseenError: Settings, data or folders that do not fit together.
    """
    bench = get_benchmark(benchmark, lists)
    folder, root = (
        Path(out) if out else run_folder(model.method, bench.name),
        (Path(root) if root else None),
    )
    model = replace(model, options={**sentences(model, bench), **model.options})
    if (
        os.environ.get("LOCAL_RANK", "0") == "0"
    ):  # further processes of one run find what the first has begun
        _check_folder(folder, resume)
    if settings.regime == "transductive" and init is None and not resume:
        raise SettingError(
            "transductive training starts from an inductive run: give it with --init RUN, or"
            " RUN/step-N of a run with --train.snapshots [N]"
        )
    bench.check_root(root)
    if settings.regime != "supervised" and not bench.seen:
        raise SettingError(
            f"every class of {bench.title} is marked unseen, so there is none to train on; mark"
            " some as seen"
        )
    torch.manual_seed(settings.seed)
    segmenter, text = build(model, bench.class_names, text_embeddings)
    run = Run(
        model=model,
        benchmark=bench.name,
        class_names=bench.class_names,
        seen=bench.class_names if settings.regime == "supervised" else bench.seen,
        inference=bench.inference,
        train=asdict(settings),
        versions=versions(),
        tower=fingerprint(segmenter.clip),
        text_embeddings=text_embeddings.name if text_embeddings else None,
        init=str(init) if init else None,
    )
    if resume and (folder / CONFIG).exists():
        run = replace(run, init=run.init or read_config(folder).init)
        different = read_config(folder).differs(run)
        if different:
            raise SettingError(
                f"the run in {folder} was begun with other settings: {different}; resume it with"
                " the same, or start a new one"
            )
    if run.init is not None and not (
        resume and (folder / STATE).exists()
    ):  # a state holds the weights itself
        _start_from(Path(run.init), segmenter, run)

    def begin() -> None:
        save_config(folder, run)
        if text_embeddings is not None:
            with replacing(folder / TEXT) as beside:
                shutil.copyfile(text_embeddings, beside)

    def snapshot(step: int) -> None:
        save_run(folder / f"step-{step}", segmenter, run)
        if run.text_embeddings:
            shutil.copyfile(folder / TEXT, folder / f"step-{step}" / TEXT)

    if not fit(
        segmenter,
        text,
        bench,
        root,
        folder,
        settings,
        resume=resume,
        progress=progress,
        begin=begin,
        snapshot=snapshot,
    ):
        return None
    save_run(folder, segmenter, run)
    return segmenter, text


def convert(
    method: str,
    file: Path,
    out: Path,
    *,
    benchmark: str,
    regime: Regime = "inductive",
    clip: str | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    **options: Any,
) -> Report:
    """A published checkpoint of ZegCLIP, CLIP-RC, ESDA, SAZS or EdgeCLIP as a run folder that
    evaluates as the released code does.

    The file is read as data: nothing in it runs. Sizes follow from the shapes; words, seen words,
    sentences and windows from the benchmark, the other options from the method's recipe for it.

    Args:
        method: "zegclip", "clip_rc", "esda", "sazs" or "edgeclip".
        file: The checkpoint.
        out: Run folder; written only if every tensor has its place.
        benchmark: What it was trained on; folds as "pascal-5i/0".
        regime: How it was trained.
        clip: The tower, where the checkpoint holds none (SAZS): its method's published one by
            default.
        vision_heads: Heads of the image tower; one for every 64 channels by default.
        text_heads: Heads of the text tower; likewise.
        options: Options of the method, in place of the recipe's.

    Returns:
        What became of every tensor; nothing was written if it has a `problem`.

    Raises:
        CheckpointError: Not a readable file of weights, or not a checkpoint of this method.
        SettingError: A folder that is not empty, or options that do not fit.
    """
    bench = get_benchmark(benchmark)
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(
            f"{out} is there already and not empty; choose another --out, or remove it"
        )
    state = read_state_dict(file)
    separate = method in RELEASED and RELEASED[method].towers is None
    if clip is not None and not separate:
        raise SettingError(f"a checkpoint of {method} brings its own towers; leave --clip away")
    found = recipe(method, benchmark, regime).get("model", {}).get("options", {})
    told: dict[str, Any] = {
        name: count
        for name, count in (("vision_heads", vision_heads), ("text_heads", text_heads))
        if count is not None
    }
    if separate:
        read_sizes(method, state)  # before a tower is fetched
        told["clip"] = known(method).cls.load_tower(clip or PUBLISHED_TOWER)
    try:
        chosen = {**found, **read_sizes(method, state), **options}
        segmenter, report = translate(method, state, **told, **chosen)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if segmenter.kind == "binary" and bench.episodes is None:
        raise SettingError(
            f"{method} was trained on folds, one word at a time; give --benchmark pascal-5i/0, or"
            " the fold it was trained on"
        )
    if report.problem is None:
        run = Run(
            model=ModelSettings(method, segmenter.clip.source if separate else TOWER, True, chosen),
            benchmark=bench.name,
            class_names=bench.class_names,
            seen=bench.class_names if regime == "supervised" else bench.seen,
            inference=bench.inference,
            train={"regime": regime, "converted_from": file.name},
            versions=versions(),
            tower=fingerprint(segmenter.clip),
        )
        whole = out.with_name(f".{out.name}-unfinished")
        shutil.rmtree(whole, ignore_errors=True)
        try:
            if not separate:
                save_tower(whole, segmenter.clip)
            save_run(whole, segmenter, run)
            whole.replace(out)  # which may be there if it is empty
        finally:
            shutil.rmtree(whole, ignore_errors=True)
    return report


def eigenvectors(
    source: str,
    out: Path,
    *,
    root: Path | None = None,
    split: str = "val",
    lists: Path | None = None,
    features: str = "doodles",
    settings: SpectralSettings | None = None,
    png: bool = False,
    limit: int | None = None,
    shown: int = 6,
    device: str = "auto",
    progress: bool = True,
) -> tuple[int, int]:
    """Keep the eigenvectors of a benchmark's or a folder's images; writes NAME.safetensors and a
    sheet of some of them.

    Images whose eigenvectors lie in the folder already are left as they are, so a stopped run
    goes on where it was.

    Args:
        source: A benchmark, by name or folder, or a folder of images.
        out: Folder to write to.
        root: Where the benchmark's data lie.
        split: Of the benchmark: "train" or "val".
        lists: Folder of HSNet's lists, for PASCAL-5i and COCO-20i; downloaded by default.
        features: Network: "timm:NAME", "timm:NAME@FILE", or a CLIP as `load_clip` takes it.
        settings: How.
        png: Write the segments as PNGs too, as SAZS reads them.
        limit: Only the first so many images.
        shown: Images on the sheet, spread over all.
        device: "auto", "cpu", "cuda", ...
        progress: Show a progress bar.

    Returns:
        How many images were computed, and how many were there already.

    Raises:
        UnseenError: No such source, a network that cannot be had, an image without eigenvectors,
            or a folder that holds others.
    """
    if split not in ("train", "val"):
        raise SettingError(f"there is no split called {split!r}; choose train or val")
    how = settings or SpectralSettings()
    if Path(source).is_file():
        raise DataError(f"{source} is a file; give the folder of images it lies in, or a benchmark")
    if Path(source).is_dir() and not is_own(source):
        files = find_images([Path(source)])
        if out.resolve() == Path(source).resolve():
            raise DataError(
                f"the eigenvectors would be written among the images of {source}; choose another"
                " folder with --out"
            )

        def read(index: int) -> tuple[str, Tensor]:
            return files[index].stem, torch.from_numpy(
                read_image(files[index], upright=True)
            ).permute(2, 0, 1)

        count, title = len(files), Path(source).name
    else:
        bench = get_benchmark(source, lists)
        data, title = bench.data(split, root), bench.title

        def read(index: int) -> tuple[str, Tensor]:
            sample = data[index]
            return sample.name, sample.image

        count = len(data)
    keys = load_keys(features).to(device_named(device))
    count = count if limit is None else min(limit, count)
    wanted = set(spread(count, shown))
    fresh, rows = 0, []
    pictures = (read(i) for i in range(count))
    for i, found in enumerate(
        track(
            extract(pictures, keys, how, out, png=png),
            description="eigenvectors",
            total=count,
            transient=True,
            disable=not progress,
        )
    ):
        fresh += found.fresh
        if i in wanted:
            values = found.spectrum.eigenvalues.tolist()
            rows.append(
                (
                    found.name,
                    found.image.permute(1, 2, 0).numpy(),
                    found.spectrum.segments.numpy(),
                    values,
                )
            )
    if rows:
        line = (
            f"{how.count} eigenvectors of the keys of {features}; segment 0 is the constant one; a"
            " segment and its complement are one cut"
        )
        with replacing(out / "sheet.png") as beside:
            segments_sheet(rows, title=f"Spectral segments of {title}", subtitle=line).save(beside)
    return fresh, count - fresh


def sentences(model: ModelSettings, benchmark: Benchmark) -> dict[str, Any]:
    """The option that puts words into the benchmark's sentences; none for methods with a sentence
    of their own: they read its tokens, or it is published.
    """
    known = METHODS.get(model.method)
    own = (
        known is None
        or known.cls.reads_tokens
        or (model.published and "templates" in known.cls.PUBLISHED)
    )
    return {} if own else {"templates": benchmark.templates}


def run_folder(model: str, benchmark: str) -> Path:
    """Where results go when nothing else is said: runs/MODEL-BENCHMARK, folds as
    runs/MODEL-BENCHMARK-FOLD, folders by their own name.
    """
    own = Path(benchmark).resolve().name if is_own(benchmark) else None
    return Path("runs") / f"{model}-{own or benchmark.replace('/', '-')}"


def _check_folder(folder: Path, resume: bool) -> None:
    """Refuse to begin where a run lies, and to go on where one has ended or none was begun."""
    if resume and (folder / WEIGHTS).exists():
        raise SettingError(
            f"the run in {folder} is finished, so there is nothing to resume; leave --resume away"
            " and choose another --out to train again"
        )
    if resume and not (folder / CONFIG).exists():
        raise SettingError(
            f"{folder} holds no run to go on with; check --out, or leave --resume away to start one"
        )
    if (folder / WEIGHTS).exists():
        raise SettingError(f"{folder} holds a finished run; choose another --out, or remove it")
    if (folder / STATE).exists() and not resume:
        raise SettingError(
            f"{folder} holds a run that was stopped; go on with --resume; choose another --out, or"
            " remove it"
        )


def _start_from(init: Path, segmenter: TextSegmenter, run: Run) -> None:
    """Give the segmenter the trained weights of another run."""
    start, _ = load_run(init)
    mine, theirs = (
        {name: t.shape for name, t in s.trainable_state().items()} for s in (segmenter, start)
    )
    differs = sorted(
        name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
    )
    if differs or fingerprint(start.clip) != run.tower:
        where = differs[0] if differs else "the tower"
        raise SettingError(
            f"{init} holds another model than the one to train (differs in {where}); start from a"
            " run of the same method and options"
        )
    segmenter.load_state_dict(start.trainable_state(), strict=False)


def build(
    model: ModelSettings,
    vocabulary: tuple[str, ...],
    text_embeddings: Path | None = None,
    run: Path | None = None,
) -> tuple[TextSegmenter, TextFeatures]:
    """A segmenter in eval mode and its encoded vocabulary.

    Args:
        model: Which; for a run, only its options are used, in place of the run's own.
        vocabulary: The words.
        text_embeddings: A .npy file to take the words' vectors from.
        run: Folder to load.
    """
    about = None
    if run is not None:
        segmenter, about = load_run(run, model.options)
    else:
        width = stored_width(text_embeddings) if text_embeddings else None
        tower = known(model.method).cls.load_tower(model.clip, width)
        segmenter = create(model.method, tower, published=model.published, **model.options)
        segmenter.initialise()
    if text_embeddings and segmenter.reads_tokens:
        raise SettingError(
            f"{model.method} reads the single tokens of a sentence, which text embeddings do not"
            " hold; leave --text-embeddings away"
        )
    text = (
        stored_text(
            text_embeddings, vocabulary, segmenter.clip.embed_dim, segmenter.background_word
        )
        if text_embeddings
        else _words(segmenter, vocabulary, about, run)
    )
    segmenter.eval()
    return segmenter, text


def _words(
    segmenter: TextSegmenter, names: Sequence[str], run: Run | None, folder: Path | None
) -> TextFeatures:
    """Words by the text tower, or from the embeddings the run was trained with."""
    if run is not None and folder is not None and run.text_embeddings:
        return load_words(folder, run, names, segmenter)
    return segmenter.encode_text(names)


def resolve(
    model: str, clip: str, published: bool, options: dict[str, Any] | None
) -> tuple[ModelSettings, Run | None]:
    """The settings of a method without training, by name, or of a run folder with some options
    replaced.

    Raises:
        SettingError: Neither, or a method that has to be trained first.
        CheckpointError: A folder that is not a run.
    """
    folder = Path(model)
    if model in METHODS and not (folder / "config.yaml").exists():
        if METHODS[model].trainable:
            raise SettingError(
                f"{model} has to be trained first: unseen train {model}; then give its run folder"
            )
        return ModelSettings(model, clip, published, options or {}), None
    if not folder.is_dir():
        free = ", ".join(name for name, method in METHODS.items() if not method.trainable)
        raise SettingError(
            f"{model!r} is neither a method nor a run folder; methods without training are {free}"
        )
    run = read_config(folder)
    return replace(run.model, options={**run.model.options, **(options or {})}), run


def device_named(name: str) -> str:
    """A device of torch; "auto" is a GPU if there is one.

    Raises:
        SettingError: It is not to be had.
    """
    if name == "auto":
        return (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(
            f"the device {name!r} is not to be had here; give cpu, or auto"
        ) from error
    return name


def _pixels(image: Picture) -> NDArray[np.uint8]:
    if isinstance(image, (str, Path)):
        return read_image(Path(image), upright=True)
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"a {type(image).__name__} is not an image; give a path, a PIL image, or an (H, W,"
            " 3) uint8 array"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"the array is {image.dtype} of shape {image.shape}; give (H, W, 3) uint8, RGB"
        )
    return image
