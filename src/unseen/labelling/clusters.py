"""A job on a Ray cluster: paths and the model travel, images and label maps don't."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from unseen.errors import SettingError
from unseen.labelling.jobs import Job, Outcome
from unseen.labelling.sources import Item
from unseen.predictor import Predictor
from unseen.settings import ClusterSettings

CHUNK = 16
"""Images that go to a worker at once, at most; one that dies takes so many with it."""


QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Ray then reports no usage to its makers, and leaves the terminal to the job."""


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
        """Label the images of a row; what came of each."""
        items = pickle.loads(row["items"])  # noqa: S301 - written below
        return {"outcomes": pickle.dumps(list(self.job.run(items)))}


def on_device(job: Job, device: str) -> Job:
    """The same job, computed on a device."""
    own = job.predictor
    moved = Predictor(own.segmenter.to(device), own.inference, own.source, own.drawing)
    return replace(job, predictor=moved, text=job.text.to(device))


def run_on_ray(
    job: Job, items: Sequence[Item], settings: ClusterSettings, device: str
) -> Iterator[Outcome]:
    """Label images on a cluster, as `job.run` does here.

    A worker that dies is started again, and the images that it had are labelled again.

    Args:
        job: What is done; its model is on the CPU.
        items: The images.
        settings: How many workers, and what each has.
        device: "auto" for CUDA where workers have GPUs, and the CPU else; or its name.

    Raises:
        SettingError: More workers than the cluster has room for.
    """
    if not items:
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)  # read when it is imported
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        workers = _workers(resources, settings)
        size = min(CHUNK, max(1, len(items) // (4 * workers)))
        parts = [items[first : first + size] for first in range(0, len(items), size)]
        rows = [{"items": pickle.dumps(part)} for part in parts]
        if device == "auto":
            device = "cuda" if settings.worker_gpus else "cpu"
        labelled = _dataset(rows, ray.put(job), workers, settings, device)
        for row in labelled.iter_rows():
            yield from pickle.loads(row["outcomes"])  # noqa: S301 - written above
    finally:
        ray.shutdown()


def _workers(resources: dict[str, float], settings: ClusterSettings) -> int:
    """How many workers there are.

    Raises:
        SettingError: The cluster has no room for them.
    """
    room = int(resources.get("CPU", 0) // settings.worker_cpus)
    if settings.worker_gpus:
        room = min(room, int(resources.get("GPU", 0) / settings.worker_gpus))
    if room < (settings.workers or 1):
        raise SettingError(
            f"the cluster has {resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g}"
            f" GPUs, room for {room} workers; give fewer with --workers, or less to each with"
            " --worker-cpus and --worker-gpus"
        )
    return settings.workers or room


def _dataset(
    rows: list[dict[str, bytes]], job: Any, workers: int, settings: ClusterSettings, device: str
) -> Any:
    """The images of rows, labelled when it is read."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
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
    )
