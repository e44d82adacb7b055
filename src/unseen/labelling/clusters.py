"""A job on a Ray cluster: paths and the model travel, images and label maps don't."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from unseen.clusters import joined
from unseen.errors import DataError
from unseen.labelling.jobs import Job, Outcome
from unseen.labelling.sources import Item
from unseen.predictor import Predictor
from unseen.settings import ClusterSettings

CHUNK = 16
"""Images that go to a worker at once, at most; one that dies takes so many with it."""
TRIES = 3
"""Times that a chunk is given to workers, as long as they die of it."""


class Worker:
    """A process of the cluster with the model; labels images of its own accord.

    Args:
        job: The job, in the cluster's store.
        folder: The folder from which paths are seen.
        device: To compute on.
        threads: Of torch.
    """

    def __init__(self, job: Any, folder: str, device: str, threads: int) -> None:
        import ray

        # Relative paths, which results tell as they were given, mean the same here.
        os.chdir(folder)
        torch.set_num_threads(threads)
        self.job: Job = on_device(ray.get(job), device)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """Label the images of a row; what came of each, or what went wrong with the program."""
        items = pickle.loads(row["items"])  # noqa: S301 - written below
        try:
            return {"outcomes": pickle.dumps(list(self.job.run(items)))}
        except Exception:
            return {"outcomes": pickle.dumps(traceback.format_exc())}


def on_device(job: Job, device: str) -> Job:
    """The same job, computed on a device."""
    own = job.predictor
    moved = Predictor(own.segmenter.to(device), own.inference, own.source, own.drawing)
    return replace(job, predictor=moved, text=job.text.to(device))


def run_on_ray(
    job: Job, items: Sequence[Item], settings: ClusterSettings, device: str
) -> Iterator[Outcome]:
    """Label images on a cluster, as `job.run` does here.

    A worker that dies is started again, and the images that it had are labelled again; one of which
    workers die again and again is told as one that cannot be labelled.

    Args:
        job: What is done; its model is on the CPU.
        items: The images.
        settings: How many workers, and what each has.
        device: "auto" for CUDA where workers have GPUs, and the CPU else; or its name.

    Raises:
        SettingError: A device that workers do not have, a cluster that does not answer, or more
            workers than it has room for.
        RuntimeError: A defect of the program, with what a worker told of it.
    """
    settings.check_device(device)
    if not items:
        return
    with joined(settings) as workers:
        import ray

        if device == "auto":
            device = "cuda" if settings.worker_gpus else "cpu"
        where = partial(_labelled, ray.put(job), settings, device)
        done = set[Item]()
        for outcome in where(items, workers, min(CHUNK, max(1, len(items) // (4 * workers)))):
            done.add(outcome[0])
            yield outcome
        # What is missing was given to workers that died: one of each chunk may be at fault.
        lost = [item for item in items if item not in done]
        for outcome in where(lost, workers, 1):
            done.add(outcome[0])
            yield outcome
        for item in lost:
            if item not in done:
                yield item, DataError(f"the image {item.shown} ends the processes that label it")


def _labelled(
    job: Any,
    settings: ClusterSettings,
    device: str,
    items: Sequence[Item],
    workers: int,
    size: int,
) -> Iterator[Outcome]:
    """What comes of images that go to workers in chunks; nothing of those that workers die of."""
    parts = [items[first : first + size] for first in range(0, len(items), size)]
    if not parts:
        return
    rows = [{"items": pickle.dumps(part)} for part in parts]
    made = _dataset(rows, job, min(workers, len(rows)), settings, device)
    for row in made.iter_rows():
        outcomes = pickle.loads(row["outcomes"])  # noqa: S301 - written above
        if isinstance(outcomes, str):
            raise RuntimeError(f"a worker failed:\n{outcomes}")
        yield from outcomes


def _dataset(
    rows: list[dict[str, bytes]], job: Any, workers: int, settings: ClusterSettings, device: str
) -> Any:
    """The images of rows, labelled when it is read."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.max_errored_blocks = -1  # chunks that workers die of are looked for afterwards
    arguments = {
        "job": job,
        "folder": str(Path.cwd()),
        "device": device,
        "threads": settings.worker_cpus,
    }
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        cast("Any", Worker),  # its annotation is of functions
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=settings.worker_cpus,
        num_gpus=settings.worker_gpus,
        max_task_retries=TRIES - 1,
    )
