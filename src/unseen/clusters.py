"""A Ray cluster: the one that is there, or one that is started and goes with the work."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from unseen.errors import SettingError
from unseen.settings import ClusterSettings

REACH = 10.0
"""Seconds in which a cluster has to answer."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Ray then reports no usage to its makers, warns of no change of its own, logs less, and prints no
tables."""


@contextmanager
def joined(settings: ClusterSettings) -> Iterator[int]:
    """How many workers there are, on a cluster that is there inside.

    Raises:
        SettingError: A cluster that does not answer, or more workers than it has room for.
    """
    _check_reached(os.environ.get("RAY_ADDRESS", ""))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)  # read when it is imported
    import ray

    # Who has a cluster in this process keeps it.
    begun = not ray.is_initialized()
    if begun:
        _join()
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield _workers(resources, settings)
    finally:
        if begun:
            ray.shutdown()


def _join() -> None:
    """Join the cluster that is there, or start one.

    Raises:
        SettingError: The one that RAY_ADDRESS names is not there.
    """
    import ray

    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "")
        raise SettingError(
            f"there is no Ray cluster at {address} (RAY_ADDRESS); start it, or unset RAY_ADDRESS"
            " for a cluster of this machine"
        ) from error


def _check_reached(address: str) -> None:
    """Refuse a cluster that does not answer; Ray would ask for minutes.

    Raises:
        SettingError: Names its address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", "local", or none
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except OSError as error:
        raise SettingError(
            f"the Ray cluster at {address} (RAY_ADDRESS) cannot be reached ({error}); start it, or"
            " unset RAY_ADDRESS for a cluster of this machine"
        ) from error


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
