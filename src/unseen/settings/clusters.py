"""How a job is spread over a cluster."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from unseen.errors import SettingError
from unseen.settings.ranges import check_ranges, number, one_of, shown, whole

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class ClusterSettings:
    """How a job is spread over a cluster.

    Attributes:
        engine: "local" works in this process, "ray" on the Ray cluster that RAY_ADDRESS names or
            that this machine belongs to, and else on one that is started and goes with the work.
        workers: Processes that work, each with a model; as many as the cluster has room for by
            default. For ray.
        worker_cpus: Cores of each. For ray.
        worker_gpus: GPUs of each, also parts of one, such as 0.5. For ray.
    """

    engine: Engine = "local"
    workers: int | None = None
    worker_cpus: int = 1
    worker_gpus: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range, and workers without an engine.

        Raises:
            SettingError: Names the first.
        """
        check_ranges(self, "", CLUSTER_RANGES)
        if self.engine == "ray":
            return
        for each in fields(self):
            if getattr(self, each.name) != each.default:
                raise SettingError(
                    f"--{each.name.replace('_', '-')} is for --engine ray; give it, or remove it"
                )

    def check_device(self, device: str) -> None:
        """Refuse a device that workers do not have.

        Raises:
            SettingError: Names it.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise SettingError(
                f"--device is {shown(device)}; with --engine ray give auto, cpu or cuda"
            )
        if device == "cuda" and not self.worker_gpus:
            raise SettingError("--device is cuda, and workers have no GPU; give --worker-gpus")


CLUSTER_RANGES = {
    "engine": one_of(Engine),
    "workers": whole(1).or_none(),
    "worker_cpus": whole(1),
    "worker_gpus": number(0),
}
