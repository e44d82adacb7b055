"""Flags of segment, and what does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from unseen.cli.flags import FLAT, WordFlags
from unseen.errors import SettingError
from unseen.settings import ClusterSettings, InferenceSettings, TileSettings, check_threshold
from unseen.vocabulary import Vocabulary

if TYPE_CHECKING:
    from unseen.labelling.sources import Item

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


def check_flags(
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


def check_segments_of_videos(items: Sequence[Item], inference: InferenceSettings) -> None:
    """Refuse videos where segments are read by the names of images.

    Raises:
        SettingError: Names the flag.
    """
    if inference.segments_dir is not None and any(item.frame is not None for item in items):
        raise SettingError(
            "--inference.segments_dir holds segments by the names of images, and frames of videos"
            " have none; remove it"
        )
