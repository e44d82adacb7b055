"""Weights from the Hugging Face hub: from the cache, else downloaded, with the cause of a failure.

open_clip and timm ask the hub about every file before they look into the cache, and give up with
one error for every cause. Here a file that is in the cache needs no network; for any other the hub
is asked once, and what it answers becomes the message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import huggingface_hub
from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from safetensors import SafetensorError

from unseen.errors import CheckpointError, shortage

T = TypeVar("T")
TIMEOUT = 10.0
"""Seconds that the hub has to answer whether it has a file."""
LOCAL = "or give a local file of weights instead"
CAUSES: dict[int, tuple[str, str]] = {
    401: (
        "the hub wants to know who asks",
        "log in with `hf auth login` where the weights need it, check their name",
    ),
    403: (
        "the hub refuses access",
        "accept their terms on the hub's page and log in with `hf auth login`",
    ),
    404: ("the hub has no such file", "check their name"),
    429: ("the hub has had too many requests from here", "wait some minutes"),
}
"""By status of an answer: the cause, and what to do."""
FAULT = ("the hub has a fault", "try again later")
DAMAGED = (SafetensorError, UnpicklingError, EOFError, RuntimeError, ValueError, KeyError)
"""What libraries raise when the bytes of a file are not what its name promises."""


def load_from_hub(
    repo: str, names: Sequence[str], title: str, load: Callable[[], T], revision: str | None = None
) -> T:
    """What a library loads from a file of the hub, without its asking the hub again.

    Args:
        repo: Of the hub.
        names: The file's name, and others that would do as well, best first.
        title: Of the weights, for messages.
        load: Loads them; it finds the file in the cache.
        revision: Of the repository.

    Raises:
        CheckpointError: The file cannot be had, with the cause; or the cached file is damaged.
    """
    path = cached_file(repo, names, title, revision)
    try:
        with cache_only():
            return load()
    except DAMAGED as error:
        if shortage(error) is not None:  # not the file's fault
            raise
        # The file itself, not the link to it: the hub's library would link a damaged file again.
        raise CheckpointError(
            f"the file of {title} in the cache, {path.resolve()}, is damaged"
            f" ({_first_line(error)}); delete it and run again"
        ) from error


def cached_file(repo: str, names: Sequence[str], title: str, revision: str | None = None) -> Path:
    """A file of the hub in the cache; downloaded if it is not there.

    Arguments and errors are those of `load_from_hub`.
    """
    for name in names:
        found = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(found, str):
            return Path(found)
    missing: CheckpointError | None = None
    for name in names:
        problem = _problem(repo, name, title, revision)
        if problem is None:
            return _download(repo, name, title, revision)
        missing = missing or problem
        # Another name may be there where this one is not; no other fault is one of a single file.
        if not isinstance(problem.__cause__, HfHubHTTPError) or _status(problem.__cause__) != 404:
            raise problem
    assert missing is not None
    raise missing


def check_reachable(repo: str, name: str, title: str, revision: str | None = None) -> None:
    """Ask once whether a file can be downloaded.

    Arguments and errors are those of `load_from_hub`.
    """
    problem = _problem(repo, name, title, revision)
    if problem is not None:
        raise problem


def _problem(repo: str, name: str, title: str, revision: str | None) -> CheckpointError | None:
    """Why a file cannot be downloaded, by one question without repetition; None if it can."""
    url = hf_hub_url(repo, name, revision=revision)
    try:
        about = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    except Exception as error:
        return explained(error, title)
    # Networks with a login answer every question with a page of their own.
    if about.commit_hash is None:
        return CheckpointError(
            f"the weights of {title} could not be fetched: {constants.ENDPOINT} answers with a web"
            " page instead of the file, as networks with a login do; log in to the network, check"
            f" HF_ENDPOINT, {LOCAL}"
        )
    return None


def _download(repo: str, name: str, title: str, revision: str | None) -> Path:
    """Download a file into the cache; the hub's library resumes what was broken off."""
    try:
        with log_first_warning_only():
            return Path(hf_hub_download(repo, name, revision=revision))
    except Exception as error:
        raise explained(error, title) from error


def explained(
    error: Exception, title: str, *, failed: str = "", local: str = LOCAL
) -> CheckpointError:
    """The message for a failed request.

    Args:
        error: Of the hub's library.
        title: Of the weights.
        failed: What could not be done, where it is not that the weights could not be fetched.
        local: What to do instead, at the end of the message.
    """
    failed = failed or f"the weights of {title} could not be fetched"
    if isinstance(error, OfflineModeIsEnabled):
        problem = CheckpointError(
            f"{failed}: HF_HUB_OFFLINE is set, and they are not in the cache; unset it, {local}"
        )
    elif isinstance(error, HfHubHTTPError) and _status(error):
        status = _status(error)
        cause, remedy = CAUSES.get(status, FAULT)
        problem = CheckpointError(f"{failed}: {cause} (answer {status}); {remedy}, {local}")
    else:
        reason = _first_line(error)
        problem = CheckpointError(
            f"{failed}: {constants.ENDPOINT} cannot be reached ({reason}); check the network,"
            f" {local}"
        )
    problem.__cause__ = error
    return problem


def _status(error: BaseException | None) -> int:
    """The status of an answer of the hub; 0 without one."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def cache_only() -> Iterator[None]:
    """Without questions to the hub, as HF_HUB_OFFLINE=1 does it."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def log_first_warning_only() -> Iterator[None]:
    """Show only the first of the libraries' warnings while weights are downloaded.

    With a bad connection, huggingface_hub warns at every retry.
    """
    shown: list[str] = []

    def is_first(record: logging.LogRecord) -> bool:
        shown.append(record.getMessage())
        return len(shown) == 1

    # Cut off from its handlers, the hub's warning is shown bare by Python's handler of last
    # resort; open_clip, which logs to the root logger itself, is silent.
    names = ("huggingface_hub.utils._http", "huggingface_hub.file_download")
    loggers, root = [logging.getLogger(name) for name in names], logging.getLogger()
    before, disabled = [logger.propagate for logger in loggers], root.disabled
    for logger in loggers:
        logger.addFilter(is_first)
        logger.propagate = False
    root.disabled = True
    try:
        yield
    finally:
        # The application's logging is its own business: everything is put back.
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeFilter(is_first)
            logger.propagate = propagate
        root.disabled = disabled
