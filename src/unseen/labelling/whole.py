"""Images that are opened whole: read and written while the network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.arguments import check_kind
from unseen.errors import SettingError, UnseenError
from unseen.files import RESULTS, is_whole
from unseen.images import ImageLike, read_pixels
from unseen.labelling.jobs import Job, Outcome
from unseen.labelling.results import Result
from unseen.labelling.sources import Item
from unseen.labelling.videos import VideoReader
from unseen.segmentation import Segmentation


@dataclass(frozen=True)
class WholeJob(Job):
    """A job of images that are opened whole.

    Attributes:
        batch: Images of one size that are computed together, at most.
    """

    batch: int = 1

    def __post_init__(self) -> None:
        """Refuse what is of another kind or out of range."""
        super().__post_init__()
        check_kind("batch", self.batch, int)
        if self.batch < 1:
            raise SettingError(f"batch is {self.batch}; give at least 1")

    def target(self, item: Item) -> Path:
        """Where the label map of an image belongs."""
        return self.out / (item.name + RESULTS[0])

    def is_complete(self, item: Item, result: Result) -> bool:
        """Whether label map, overlay and numbers of an image are there."""
        return not result.is_tiled and all(is_whole(file) for file in item.results(self.out))

    def outcomes(self, items: Sequence[Item]) -> Iterator[Outcome]:
        """What comes of each image, in their order.

        The next images are read and the last results written while the network computes.
        """
        with (
            closing(VideoReader()) as videos,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
        ):

            def read(item: Item) -> Future[NDArray[np.uint8]]:
                return reader.submit(_read, item, videos)

            behind: list[tuple[Item, Future[dict[str, Any]]]] = []
            for group in _groups(items, read, self.batch):
                ahead: list[tuple[Item, Future[dict[str, Any]]]] = []
                try:
                    ahead = [
                        (item, writer.submit(_saved, result, self.out, item.name))
                        for item, result in self._labelled(group)
                    ]
                finally:  # also when the network fails, the results before it are told
                    for item, saved in behind:
                        yield item, _outcome(saved)
                behind = ahead
            for item, saved in behind:
                yield item, _outcome(saved)

    def _labelled(self, group: _Group) -> list[tuple[Item, Segmentation | UnseenError]]:
        """A group's images with their label maps, or with what is wrong with them."""
        if isinstance(group.pixels, UnseenError):
            return [(group.items[0], group.pixels)]
        # A frame has no file of its own.
        images: list[ImageLike] = [
            pixels if item.frame else item.path
            for item, pixels in zip(group.items, group.pixels, strict=True)
        ]
        try:
            results = self.predictor.segment_several(
                images, group.pixels, self.text, self.threshold
            )
        except UnseenError as error:
            if len(group.items) == 1:
                return [(group.items[0], error)]
            # One of them is at fault: each by itself.
            alone = zip(group.items, group.pixels, strict=True)
            parts = [self._labelled(_Group([item], [pixels])) for item, pixels in alone]
            return [part for (part,) in parts]
        told = zip(group.items, results, strict=True)
        return [(item, replace(result, origin=item.state)) for item, result in told]


# ------------------------------------------------------------- reading, computing, writing


@dataclass(frozen=True)
class _Group:
    """Images of one size with their pixels; or one image, and why it cannot be read."""

    items: list[Item]
    pixels: list[NDArray[np.uint8]] | UnseenError


def _groups(
    items: Sequence[Item],
    read_ahead: Callable[[Item], Future[NDArray[np.uint8]]],
    most: int,
) -> Iterator[_Group]:
    """Images as far as they follow each other in one size; the next ones are being read."""
    reads = [read_ahead(item) for item in items[: most + 1]]
    group, pixels = list[Item](), list[NDArray[np.uint8]]()
    for place, item in enumerate(items):
        read = reads.pop(0)
        if place + most + 1 < len(items):
            reads.append(read_ahead(items[place + most + 1]))
        image: NDArray[np.uint8] | UnseenError
        try:
            image = read.result()
        except UnseenError as error:
            image = error
        if group and (isinstance(image, UnseenError) or image.shape != pixels[0].shape):
            yield _Group(group, pixels)
            group, pixels = [], []
        if isinstance(image, UnseenError):
            yield _Group([item], image)
            continue
        group.append(item)
        pixels.append(image)
        if len(group) == most:
            yield _Group(group, pixels)
            group, pixels = [], []
    if group:
        yield _Group(group, pixels)


def _read(item: Item, videos: VideoReader) -> NDArray[np.uint8]:
    """The pixels of an image or a frame."""
    return read_pixels(item.path) if item.frame is None else videos.read(item.path, item.frame)


def _saved(result: Segmentation | UnseenError, out: Path, name: str) -> dict[str, Any]:
    """Save a result; what its numbers say."""
    if isinstance(result, UnseenError):
        raise result
    place = PurePosixPath(name)
    return result.save(out / place.parent, place.name)


def _outcome(saved: Future[dict[str, Any]]) -> dict[str, Any] | UnseenError:
    """The numbers of a result that has been saved, or what went wrong."""
    try:
        return saved.result()
    except UnseenError as error:
        return error
