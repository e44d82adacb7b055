"""Verbs about images without labels: segment, eigenvectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.classes import read_vocabulary
from unseen.cli.exports import report_exports, split_formats
from unseen.cli.flags import (
    FLAT,
    NOTHING,
    DataFlags,
    Given,
    ModelFlags,
    settings_flags,
)
from unseen.cli.notices import about_one_class, about_tower, notify
from unseen.cli.segment_flags import SegmentFlags, check_flags, check_segments_of_videos
from unseen.errors import SettingError, UnseenError
from unseen.settings import (
    EXPORTS,
    ClusterSettings,
    DrawSettings,
    ExportSettings,
    ExtractionSettings,
    InferenceSettings,
    SpectralSettings,
    TileSettings,
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
    check_flags(flags, vocabulary, tiles, spread)
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
    check_segments_of_videos(items, loaded.inference)
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


def _found(images: Sequence[str], flags: SegmentFlags, tiles: TileSettings) -> list[Item]:
    """The images to label.

    Raises:
        UnseenError: None are found, one cannot be read, or results would replace other files.
    """
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
