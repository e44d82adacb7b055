"""Verbs about images without labels: segment, eigenvectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.exports import report_exports, split_formats
from unseen.cli.flags import (
    FLAT,
    NOTHING,
    DataFlags,
    Given,
    ModelFlags,
    WordFlags,
    settings_flags,
)
from unseen.cli.notices import about_one_class, about_tower, notify
from unseen.errors import DataError, SettingError, UnseenError, VocabularyError
from unseen.settings import (
    EXPORTS,
    ClusterSettings,
    DrawSettings,
    ExportSettings,
    ExtractionSettings,
    InferenceSettings,
    SpectralSettings,
    TileSettings,
    check_threshold,
)
from unseen.texts import is_file, is_folder, is_path, is_special
from unseen.vocabulary import (
    Vocabulary,
    change_vocabulary,
    check_combine_used,
    class_rows,
    known_class_files,
    split_words,
)

if TYPE_CHECKING:
    from unseen.labelling.jobs import Job, Outcome
    from unseen.labelling.sources import Item, Shard
    from unseen.predictor import Predictor
    from unseen.segmenter import TextFeatures
    from unseen.sources import ModelChoices

GROUPS: dict[str, dict[str, Any]] = {
    "segment": {
        "inference": settings_flags(InferenceSettings(), "Inference", defaults=False),
        "drawing": settings_flags(DrawSettings(), "Overlays", flat=True),
        "tiling": settings_flags(TileSettings(), "Large images", flat=True),
        "cluster": settings_flags(ClusterSettings(), "Cluster", flat=True),
    },
    "eigenvectors": {
        "extraction": settings_flags(ExtractionSettings(), "Images and network", flat=True),
        "spectral": settings_flags(SpectralSettings(), "Graph", flat=True),
    },
}
"""By verb, its parameters that are mappings, and the flags that fill them."""


WORDS = WordFlags()


@dataclass(frozen=True)
class SegmentFlags:
    """What images are segmented with, and where the results go.

    Attributes:
        model: A method without training of `unseen list`, or a run folder.
        out: Folder for the results; what is in folders of a folder lies in such folders in it.
        recursive: Also take the images in folders of a folder.
        every: Of videos, label every n-th frame.
        shard: Label only one of several parts of the images, index/count such as 0/4; each process
            of a cluster takes its own.
        again: Label images again that have been labelled with the same settings.
        batch: Images of one size that are computed together, at most.
        parquet: Write index.parquet beside index.csv.
        to: Also write the label maps for other tools, in OUT/exports: formats of `unseen
            export-labels`, separated by commas.
        threshold: Pixels whose best class is less confident (0..1) get no class.
        device: "auto", "cpu", "cuda", ...
        text_embeddings: A .npy file, (K, D) or (K, prompts, D), to use instead of the text tower,
            one row a class.
        words: How the classes are put into words, besides their names.
    """

    model: str = "naclip"
    out: Path = Path("segmented")
    recursive: bool = False
    every: int = 1
    shard: str = "0/1"
    again: bool = False
    batch: int = 1
    parquet: bool = False
    to: str | None = None
    threshold: float | None = None
    device: str = "auto"
    text_embeddings: Path | None = None
    words: Annotated[WordFlags, FLAT] = WORDS


DATA, MODEL, SEGMENT = DataFlags(), ModelFlags(), SegmentFlags()


def segment(  # noqa: PLR0913 - keyword-only
    images: list[str],
    /,
    *,
    classes: str,
    flags: Annotated[SegmentFlags, FLAT] = SEGMENT,
    model: Annotated[ModelFlags, FLAT] = MODEL,
    inference: Given = NOTHING,
    drawing: Given = NOTHING,
    tiling: Given = NOTHING,
    cluster: Given = NOTHING,
) -> int:
    """Label every pixel of images with one of your classes.

    For each image writes NAME.png (label map, ids in the order of the classes, 255 for no class),
    NAME.overlay.png and NAME.json (share and mean score of each class); for all of them index.csv,
    the least sure first, and job.json, what they were made with. Images that have been labelled
    with the same settings are left as they are, so a stopped job goes on. One that cannot be read
    is reported at the end; the exit code is then 2.

    Args:
        images: Images, videos, folders of images, patterns ('scans/**/left.png'), text files with
            the path of an image on each line, or - for such lines from standard input.
        classes: Class names separated by commas: 'cat, sofa'; a name with a comma in double quotes:
            'cat, "table, laid"'. Or a text file: a class a line, its synonyms behind commas.
        flags: With what, and where to.
        model: What a method is built with.
        inference: Single values to change; by default the run's own, or one and a half times the
            tower's size in windows of that size.
        drawing: Values of `DrawSettings`.
        tiling: Values of `TileSettings`.
        cluster: Values of `ClusterSettings`.
    """
    from unseen.labelling.sources import Shard
    from unseen.palettes import class_colours
    from unseen.sources import find_model

    vocabulary = read_vocabulary(classes, flags.words.given())
    tiles, spread = TileSettings(**tiling), ClusterSettings(**cluster)
    _check_flags(flags, vocabulary, tiles, spread)
    drawn = DrawSettings(**drawing)
    class_colours(drawn.palette, vocabulary.names)
    formats = [] if flags.to is None else split_formats(flags.to)
    shard = Shard.of(flags.shard)
    items = _found(images, flags, tiles)
    choices: ModelChoices = {**model.given(), "text_embeddings": flags.text_embeddings}
    find_model(flags.model, choices)
    from unseen import api

    # Workers of a cluster have devices of their own.
    device = flags.device if spread.engine == "local" else "cpu"
    about: dict[str, Any] = {"inference": inference, "device": device, "drawing": drawn}
    loaded = api.load(flags.model, class_names=vocabulary.names, **about, **choices)
    _check_refinement(items, loaded.inference)
    job = _job(loaded, loaded.encode(vocabulary), flags, tiles)
    run = _runner(job, spread, flags.device)
    code = report_on(job, items, shard, again=flags.again, run=run)
    if formats:
        code |= report_exports(flags.out, formats, flags.out / EXPORTS, ExportSettings())
    return code


def _runner(
    job: Job, spread: ClusterSettings, device: str
) -> Callable[[Sequence[Item]], Iterator[Outcome]]:
    """What does a job: itself, or a cluster."""
    if spread.engine == "local":
        return job.run
    from unseen.labelling.clusters import run_on_ray

    return partial(run_on_ray, job, settings=spread, device=device)


def _job(predictor: Predictor, text: TextFeatures, flags: SegmentFlags, tiles: TileSettings) -> Job:
    """Of images that are opened whole, or in parts; says what somebody has to know of the model."""
    remedy = "train a run on" if predictor.run else "give --clip"
    notify(about_tower(predictor.segmenter.clip.source, text.vocabulary, remedy))
    about = (predictor, text, flags.out, flags.threshold, flags.parquet)
    if tiles.tile is not None:
        from unseen.labelling.tiles import TiledJob

        return TiledJob(*about, tiles.tile, tiles.bands)
    from unseen.labelling.whole import WholeJob

    return WholeJob(*about, flags.batch)


def _check_flags(
    flags: SegmentFlags, vocabulary: Vocabulary, tiles: TileSettings, cluster: ClusterSettings
) -> None:
    """Refuse values out of range, words that would not be read, and flags that do not go together.

    Raises:
        SettingError: Names the flag.
    """
    _check_cluster(flags, cluster)
    _check_tiling(flags, tiles)
    if flags.text_embeddings is not None and not vocabulary.is_plain:
        raise SettingError(
            "--text-embeddings holds a vector a class, so synonyms and words for the background"
            " would not be read; remove them, or the embeddings"
        )
    check_threshold(flags.threshold)
    if flags.batch < 1:
        raise SettingError(f"--batch is {flags.batch}; give at least 1")
    if flags.every < 1:
        raise SettingError(f"--every is {flags.every}; give at least 1")
    if flags.to is not None and flags.shard != SegmentFlags.shard:
        raise SettingError(
            "--to writes all images of a job, and --shard labels a part; remove --to, and call"
            " unseen export-labels when all parts are done"
        )
    if flags.parquet and find_spec("pyarrow") is None:
        raise SettingError("--parquet needs pyarrow; install it with pip install 'unseen[parquet]'")


def _check_cluster(flags: SegmentFlags, cluster: ClusterSettings) -> None:
    """Refuse what a cluster does itself or does not have, and one without its engine.

    Raises:
        SettingError: Names the flag, or what is not installed.
    """
    if cluster.engine == "local":
        return
    if flags.shard != SegmentFlags.shard:
        raise SettingError("--engine ray shares the images out itself; remove --shard, or --engine")
    cluster.check_device(flags.device)
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise SettingError("--engine ray needs ray; install it with pip install 'unseen[ray]'")


def _check_tiling(flags: SegmentFlags, tiles: TileSettings) -> None:
    """Refuse flags that images in parts do not have.

    Raises:
        SettingError: Names them, or what is not installed.
    """
    if tiles.tile is None:
        return
    if flags.batch > 1:
        raise SettingError("--batch is for images that are opened whole; remove it, or --tile")
    if find_spec("rasterio") is None:
        raise SettingError("--tile needs rasterio; install it with pip install 'unseen[geo]'")


def _found(images: Sequence[str], flags: SegmentFlags, tiles: TileSettings) -> list[Item]:
    """The images, whose results are not in the way of anything."""
    from unseen.files import PARQUET, check_not_among, check_replaceable
    from unseen.labelling.results import check_not_of_others
    from unseen.labelling.sources import find_items, tables

    items = find_items(images, recursive=flags.recursive, every=flags.every)
    _check_videos(any(item.frame is not None for item in items), flags, tiles)
    check_not_among([item.path for item in items], flags.out)
    # Label maps of images in parts are no PNGs, and looked at when they are written.
    first = 0 if tiles.tile is None else 1
    results = [result for item in items for result in item.results(flags.out)[first:]]
    check_replaceable([*results, *tables(flags.out)])
    check_not_of_others(items, flags.out)
    if flags.parquet:
        from unseen.labelling.parquet import check_parquet

        check_parquet(flags.out / PARQUET)
    return items


def _check_videos(found: bool, flags: SegmentFlags, tiles: TileSettings) -> None:
    """Refuse flags that do not go with the images.

    Raises:
        SettingError: Names them.
    """
    if not found and flags.every != SegmentFlags.every:
        raise SettingError("--every is for videos, and there is none among the images; remove it")
    if found and tiles.tile is not None:
        raise SettingError("--tile is for images, and there are videos among them; remove it")


def _check_refinement(items: Sequence[Item], inference: InferenceSettings) -> None:
    """Refuse videos where segments are read by the names of images.

    Raises:
        SettingError: Names the flag.
    """
    if inference.segments_dir is not None and any(item.frame is not None for item in items):
        raise SettingError(
            "--inference.segments_dir holds segments by the names of images, and frames of videos"
            " have none; remove it"
        )


FEW = 20
"""Images of which each has a line; of more there is a bar, and lines would run away."""


def report_on(
    job: Job,
    items: Sequence[Item],
    shard: Shard,
    *,
    again: bool,
    run: Callable[[Sequence[Item]], Iterator[Outcome]],
) -> int:
    """Do a part of a job, with a line for each image, a bar for many, and what came of it.

    Args:
        job: What is done.
        items: All its images.
        shard: The part.
        again: Also do what is done.
        run: `job.run`, or what does the same elsewhere.
    """
    from rich.console import Console

    from unseen.progress import ProgressBar

    part = shard.part(items)
    pending = part if again else job.pending(part)
    failed: list[UnseenError] = []
    many, begun, seconds = len(pending) > FEW, time.monotonic(), 0.0
    with ProgressBar(many, Console(stderr=True)) as bar:
        task = bar.add_task("labelling", total=len(pending), note="")
        for number, (item, result) in enumerate(run(pending), start=1):
            if isinstance(result, UnseenError):
                failed.append(result)
            elif not many:
                print(f"{item.shown}: {_shares(result)}  ->  {job.target(item)}")
            seconds = time.monotonic() - begun
            bar.update(task, completed=number, note=f"{number / seconds:.2g} a second")
            bar.draw_when_due()
    job.write_index(items, alone=shard.count == 1)
    print(_summary(len(part), len(pending), len(failed), seconds))
    if len(pending) > len(failed):
        notify(about_one_class(job.text, job.threshold))
    for error in failed:
        notify(f"unseen: {error}")
    return 2 if failed else 0


def _summary(found: int, pending: int, failed: int, seconds: float) -> str:
    """What a job came to."""
    made = pending - failed
    words = f"labelled {made} image{'s' * (made != 1)} in {seconds:.1f} s"
    if made > 1:
        words += f", {made / seconds:.2g} a second"
    if pending < found:
        before = found - pending
        words += f"; {before} had been labelled with the same settings (--again redoes them)"
    if failed:
        words += f"; {failed} could not be labelled"
    return words


def _shares(told: Mapping[str, Any]) -> str:
    """The three largest classes of a label map's numbers, with their shares of the pixels."""
    from unseen.segmentation import largest

    ranked = largest({entry["name"]: entry["share"] for entry in told["classes"]}, 3)
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in ranked) or "no class"


def read_vocabulary(classes: str, words: Mapping[str, Any]) -> Vocabulary:
    """The classes of a list separated by commas, or of a file as `classes.txt` of your own data.

    Raises:
        UnseenError: Double quotes that are not closed, or a file that cannot be read.
    """
    if is_file(classes):
        from unseen.data.own.layout import read_classes

        listed = read_classes(Path(classes))
        try:
            vocabulary = Vocabulary(listed.class_names, listed.synonyms)
        except VocabularyError as error:
            raise VocabularyError(f"{classes}: {error}") from error
    elif classes in known_class_files():
        rows = class_rows(classes)
        synonyms = {row[0]: row for row in rows if len(row) > 1}
        vocabulary = Vocabulary(tuple(row[0] for row in rows), synonyms)
    elif is_path(classes) or is_folder(classes) or is_special(classes):
        raise DataError(
            f"{classes} is no class file; give a text file with a class a line, or class names"
            " separated by commas"
        )
    else:
        line = classes.strip().removesuffix(",")
        vocabulary = Vocabulary(split_words(line, "--classes"))
    vocabulary = change_vocabulary(vocabulary, words)
    check_combine_used(vocabulary, words)
    return vocabulary


def eigenvectors(
    source: str,
    /,
    *,
    out: Path = Path("segments"),
    data: Annotated[DataFlags, FLAT] = DATA,
    extraction: Given = NOTHING,
    spectral: Given = NOTHING,
) -> None:
    """Cut images into spectral segments, without classes or labels.

    Writes NAME.safetensors for each image (eigenvalues and eigenvectors) and sheet.png, which shows
    some. Eigenvectors that are in the folder already are kept, so a stopped run goes on. Use them
    with --inference.refinement segment_iou --inference.segments_dir DIR in evaluate and segment.

    Args:
        source: A benchmark of `unseen list`, a folder of your own data (with classes.txt), or a
            folder of images.
        out: Folder to write to.
        data: Where the benchmark's data are.
        extraction: Values of `ExtractionSettings`.
        spectral: Values of `SpectralSettings`.
    """
    from unseen.plans import plan_extraction

    settings, chosen = SpectralSettings(**spectral), ExtractionSettings(**extraction)
    plan_extraction(source, out, data.root, data.lists, chosen.split)
    from unseen import api

    made, kept = api.eigenvectors(
        source, out, root=data.root, lists=data.lists, settings=settings, extraction=chosen
    )
    before = f", {kept} were there" if kept else ""
    print(f"wrote the eigenvectors of {made} images{before}  ->  {out}; see {out / 'sheet.png'}")
