"""Which images are in the batch of a step, and how they are augmented and labelled.

Order and augmentation follow from (seed, step) alone, so any number of processes, and a resumed
run, see the same batches.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unseen.data.benchmarks import Benchmark
from unseen.data.datasets import Sample, SegmentationSet
from unseen.data.transforms import Padding, TrainTransform
from unseen.errors import DataError, SettingError
from unseen.labels import BACKGROUND, IGNORE, PADDING, index_to_label
from unseen.segmenter import QuerySegmenter, Segmenter
from unseen.settings import TrainSettings

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Image (3, H, W) and labels (H, W) to an augmented pair."""
Key = tuple[int, int]
"""Index of an image, and the seed of its augmentation and query class."""


# ------------------------------------------------------------------------ items


class LabelMapItems(Dataset[tuple[Tensor, ...]]):
    """Augmented pairs of image and label map, for methods that score all classes at once.

    Args:
        data: Images with labels.
        augment: Augments a pair.
    """

    def __init__(self, data: SegmentationSet, augment: Augment) -> None:
        self.data, self.augment = data, augment
        self.indices: Sequence[int] = range(len(data))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> tuple[Tensor, ...]:
        """Image and labels."""
        # A seed for each item: augmentation depends neither on the worker nor on what ran before.
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            sample = self.data[index]
            return self.augment(sample.image, sample.labels)


class QueryItems(Dataset[tuple[Tensor, ...]]):
    """Augmented images with one query class each, drawn among the classes they show.

    Labels are 1 on the query class, 255 on ignored pixels, and 0 elsewhere.

    Args:
        data: Images with labels.
        augment: Augments a pair.
        query_ids: Classes that may be drawn.
        ignored_ids: Classes whose pixels get the label 255.
        excluded_ids: Classes whose images are left out.
        class_labels: Whether classes other than the query have labels of their own, from 2 on,
            instead of 0.
        progress: Show a progress bar while the images that show none of `excluded_ids` are listed.

    Raises:
        DataError: No image is left.
    """

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        data: SegmentationSet,
        augment: Augment,
        query_ids: Sequence[int],
        *,
        ignored_ids: Sequence[int] = (),
        excluded_ids: Sequence[int] = (),
        class_labels: bool = False,
        progress: bool = False,
    ) -> None:
        self.data, self.augment, self.query_ids = data, augment, list(query_ids)
        self.ignored = torch.tensor([*ignored_ids, IGNORE])
        self.class_labels = class_labels
        # Listing them once, and not passing over some while training, keeps every image as likely
        # as any other. It reads every label map, so it is left out where nothing is excluded.
        self.indices: Sequence[int] = range(len(data))
        if excluded_ids:
            self.indices = images_to_query(data, query_ids, excluded_ids, progress=progress)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Key) -> tuple[Tensor, ...]:
        """Image, labels, and the index of the query class among `query_ids`."""
        # `number` counts the listed images; an excluded image has none.
        number, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            sample, query = self._draw(number)
            labels = self._labels_for(sample.labels, self.query_ids[query])
            return *self.augment(sample.image, labels), torch.tensor(query)

    def _draw(self, number: int) -> tuple[Sample, int]:
        """The image, and one of the query classes it shows.

        An image without any is replaced by one drawn from the whole set, so that all images with
        query classes stay equally likely.
        """
        # So many draws only all fail if hardly any image shows a query class.
        for _ in range(max(100, 10 * len(self))):
            sample = self.data[self.indices[number]]
            present = set(np.unique(sample.labels.numpy()).tolist())
            queries = [i for i, class_id in enumerate(self.query_ids) if class_id in present]
            if queries:
                return sample, queries[int(torch.randint(len(queries), ()))]
            number = int(torch.randint(len(self), ()))
        raise DataError(
            "no training image shows any of the classes to train on; check the masks and the list"
            " of classes"
        )

    def _labels_for(self, labels: Tensor, query_id: int) -> Tensor:
        """The label map (H, W) of a query: 1 on its class, 0 or more elsewhere, 255 if ignored."""
        others = torch.zeros_like(labels)
        if self.class_labels:
            # 0 and 1 are background and query class, so other classes begin at 2.
            others = torch.where(labels >= BACKGROUND, 0, labels + 2)
        others = torch.where(torch.isin(labels, self.ignored), IGNORE, others)
        return torch.where(labels == query_id, 1, others)


Items = LabelMapItems | QueryItems


def images_to_query(
    data: SegmentationSet,
    query_ids: Sequence[int],
    excluded_ids: Sequence[int],
    *,
    progress: bool = False,
) -> list[int]:
    """Indices of the images that show a query class and no excluded one; reads every label map.

    Raises:
        DataError: There are none.
    """
    shown = shown_labels(data, range(len(data)), progress=progress)
    indices = [
        index
        for index, labels in enumerate(shown)
        if np.isin(labels, query_ids).any() and not np.isin(labels, excluded_ids).any()
    ]
    if not indices:
        raise DataError(
            f"each of the {len(data)} training images shows an unseen class, or none to train on;"
            " check the masks and the list of classes, or keep the images with"
            " --train.unseen_pixels ignore"
        )
    return indices


def check_labelled(data: SegmentationSet, class_ids: Sequence[int]) -> None:
    """Refuse images without a pixel to learn from; reads label maps until one has some.

    Raises:
        DataError: No label map shows a class that is trained on.
    """
    if not any(np.isin(data.labels(i).numpy(), class_ids).any() for i in range(len(data))):
        raise DataError(
            f"none of the {len(data)} training images shows a class to train on; check the label"
            " maps and the list of classes: unseen check FOLDER"
        )


def shown_labels(
    data: SegmentationSet, indices: Sequence[int], *, progress: bool = False
) -> list[NDArray[np.int64]]:
    """The different labels of each image; reads every label map."""

    def of_image(index: int) -> NDArray[np.int64]:
        different: NDArray[np.int64] = np.unique(data.labels(index).numpy())
        return different

    # Reading and decoding files releases the interpreter's lock: threads are enough, and `map`
    # keeps the order.
    with ThreadPoolExecutor() as pool:
        return list(
            track(
                pool.map(of_image, indices),
                description="reading label maps",
                total=len(indices),
                transient=True,
                disable=not progress,
            )
        )


def images_by_class(
    items: Items, class_ids: Sequence[int], *, progress: bool = False
) -> list[NDArray[np.int64]]:
    """For each class that some image shows the numbers of those items; reads every label map.

    Raises:
        DataError: No image shows any of the classes.
    """
    shown = shown_labels(items.data, items.indices, progress=progress)
    labels = index_to_label(torch.as_tensor(class_ids)).tolist()
    groups = [
        np.array([number for number, present in enumerate(shown) if label in present])
        for label in labels
    ]
    groups = [group for group in groups if len(group)]
    if not groups:
        raise DataError(
            "no training image shows any of the classes to train on; check the masks and the list"
            " of classes"
        )
    return groups


def trained_ids(benchmark: Benchmark, settings: TrainSettings) -> list[int]:
    """The classes whose masks are trained on: the seen ones, or all in supervised training."""
    if settings.regime == "supervised":
        return list(range(len(benchmark.class_names)))
    return benchmark.seen_ids


def training_items(
    segmenter: Segmenter,
    benchmark: Benchmark,
    data: SegmentationSet,
    settings: TrainSettings,
    *,
    progress: bool = False,
) -> Items:
    """The items that suit a method.

    Args:
        segmenter: The method.
        benchmark: Says which classes are seen.
        data: Its training split.
        settings: How to train.
        progress: Show a progress bar where all label maps are read.
    """
    pad_label = IGNORE
    if settings.regime == "transductive" and settings.pseudo_label_ignored:
        pad_label = PADDING  # ignored pixels get pseudo labels, padding none
    padding = Padding(segmenter.pad_color, pad_label)
    augment = TrainTransform(settings.transforms, padding)
    if not isinstance(segmenter, QuerySegmenter):
        return LabelMapItems(data, augment)
    # Supervised training treats every class as seen, so nothing is ignored or left out.
    query_ids = trained_ids(benchmark, settings)
    unseen = [i for i in benchmark.unseen_ids if i not in query_ids]
    # With "background", the third choice, unseen classes are neither ignored nor left out.
    ignored_ids: Sequence[int] = ()
    excluded_ids: Sequence[int] = ()
    if settings.unseen_pixels == "ignore":
        ignored_ids = unseen
    elif settings.unseen_pixels == "drop_image":
        excluded_ids = unseen
    return QueryItems(
        data,
        augment,
        query_ids,
        ignored_ids=ignored_ids,
        excluded_ids=excluded_ids,
        class_labels=segmenter.needs_class_labels,
        progress=progress,
    )


# ------------------------------------------------------------------------ steps


class StepSampler(Sampler[list[Key]]):
    """The keys of every part of every step, from a given step on.

    Each epoch is a permutation of its own; the last incomplete batch of an epoch is dropped. A
    batch is dealt to ranks and accumulated parts in order, so runs on any number of devices see the
    same batches.

    Args:
        length: Number of images.
        settings: Size of a whole batch, accumulated parts, steps, seed.
        groups: Images by class, where a class is drawn first; then there are no epochs.
        start: The first step.
        rank: Of this process.
        ranks: Number of processes.

    Raises:
        SettingError: A batch that ranks and parts do not divide.
    """

    def __init__(
        self,
        length: int,
        settings: TrainSettings,
        groups: Sequence[NDArray[np.int64]] = (),
        *,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        shares = settings.accumulate * ranks
        if settings.batch_size % shares:
            raise SettingError(
                f"batch_size {settings.batch_size} cannot be divided among {ranks} devices in"
                f" {settings.accumulate} parts; make it a multiple of {shares}"
            )
        self.length, self.settings, self.groups = length, settings, groups
        self.start, self.rank, self.ranks = start, rank, ranks

    def __len__(self) -> int:
        return (self.settings.steps - self.start) * self.settings.accumulate

    def batch(self, step: int) -> list[Key]:
        """The whole batch of a step."""
        seed, size = self.settings.seed, self.settings.batch_size
        seeds = np.random.SeedSequence([seed, step]).generate_state(size).tolist()
        return list(zip(self._images(step), seeds, strict=True))

    def _images(self, step: int) -> list[int]:
        """The images of a step."""
        seed, size = self.settings.seed, self.settings.batch_size
        if self.groups:
            rng = np.random.default_rng([seed, step])
            classes = rng.integers(len(self.groups), size=size)
            return [int(rng.choice(self.groups[number])) for number in classes]
        # A set smaller than a batch is repeated as often as it takes to fill one.
        repeats = -(-size // self.length)
        per_epoch = self.length * repeats // size
        # Any step is computed from its number alone: a resumed run need not replay earlier ones.
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(self.length * repeats)
        images: list[int] = (order % self.length)[place * size : (place + 1) * size].tolist()
        return images

    def __iter__(self) -> Iterator[list[Key]]:
        parts = self.settings.accumulate
        share = self.settings.batch_size // (parts * self.ranks)
        for step in range(self.start, self.settings.steps):
            batch = self.batch(step)
            for part in range(parts):
                # The first part of all ranks, then the second: together they see a batch in order.
                first = (part * self.ranks + self.rank) * share
                yield batch[first : first + share]


def make_loader(items: Items, sampler: StepSampler, settings: TrainSettings) -> DataLoader[Any]:
    """The parts of batches that a sampler chooses."""
    return DataLoader(
        items,
        batch_sampler=sampler,
        num_workers=settings.workers,
        pin_memory=torch.cuda.is_available(),
        collate_fn=stack_items,
        worker_init_fn=_leave_interrupts_to_main,
    )


def _leave_interrupts_to_main(_: int) -> None:
    """Ctrl-C and schedulers' SIGTERM reach all processes; the main one ends after its step."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)


def stack_items(items: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Items as one batch.

    Raises:
        SettingError: Images of different sizes.
    """
    sizes = {tuple(item[1].shape) for item in items}
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise SettingError(
            f"images of a batch have different sizes ({listed}); give --train.transforms.crop"
        )
    return tuple(torch.stack(parts) for parts in zip(*items, strict=True))
