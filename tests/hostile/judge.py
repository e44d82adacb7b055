"""A case, what the program made of it, and whether that is right."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from unseen.cli.parser import main
from unseen.errors import UnseenError

SECONDS, GIGABYTES, CHARACTERS = 10, 1.0, 400
"""Most that an answer may take, and the longest sentence."""


@dataclass(frozen=True)
class Case:
    """Something to try.

    Attributes:
        name: Tells cases apart.
        act: Does it; raises what the program raises.
        may_work: Whether the right result is an answer too.
        about: The sentence must hold one of these: the name of the thing.
        kept: Folders whose files must be the same afterwards, apart from `written`.
        written: Where results may appear if it works.
        reports: Whether they may appear in any case, as they say what is wrong.
        check: Is given what `act` returned if it worked; returns what is wrong with it.
    """

    name: str
    act: Callable[[], Any]
    may_work: bool = False
    about: tuple[str, ...] = ()
    kept: tuple[Path, ...] = ()
    written: tuple[Path, ...] = ()
    reports: bool = False
    check: Callable[[Any], str | None] = field(default=lambda _: None)


class HangError(BaseException):
    """The answer took too long; not an `Exception`, so that nothing in between catches it."""


def command(*words: str) -> Callable[[], Any]:
    """A command line to run in this process."""
    return lambda: main(list(words))


def judge(case: Case) -> str | None:
    """What is wrong with the answer to a case; None if it is right."""
    before = {folder: _files(folder) for folder in case.kept}
    memory, started = reset_peak(), time.monotonic()
    out, err = io.StringIO(), io.StringIO()
    result, error = None, None
    try:
        with _time_limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            result = case.act()
    except (Exception, HangError, SystemExit, KeyboardInterrupt) as raised:
        error = raised
    growth, seconds = (peak() - memory) / 1e9, time.monotonic() - started
    told = [*err.getvalue().splitlines(), *_findings(out.getvalue())]
    problem = _problem(case, error, result, told)
    if problem is None and growth > GIGABYTES:
        problem = f"memory grew by {growth:.1f} GB"
    if problem is None and seconds > SECONDS:
        problem = f"took {seconds:.0f} s"
    if problem is None:
        worked = error is None or case.reports
        problem = next(
            (_changed(case, worked, folder, was) for folder, was in before.items()), None
        )
    return problem


def _findings(printed: str) -> list[str]:
    """The errors that `unseen check` lists, as sentences."""
    lines = printed.splitlines()
    return [
        f"unseen: {line.removeprefix('error').strip()}"
        for line in lines
        if line.startswith("error ")
    ]


def _problem(
    case: Case, error: BaseException | None, result: Any, told: Sequence[str]
) -> str | None:
    if isinstance(error, HangError):
        return "no answer in time"
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return case.check(result) if case.may_work else "accepted"
    if isinstance(error, UnseenError):
        return _wrong_sentence(str(error), case)
    if isinstance(error, SystemExit) and error.code == 2:
        lines = [line for line in told if line.startswith("unseen: ")]
        if not lines:
            return f"exit code 2 without a sentence: {told[-3:]}"
        # Of several findings one is about the thing.
        problems = [_wrong_sentence(line, case) for line in lines]
        return None if None in problems else problems[-1]
    return "traceback: " + "".join(traceback.format_exception(error)[-3:])[-600:]


def _wrong_sentence(sentence: str, case: Case) -> str | None:
    """What is wrong with a message: it names the thing, then what to do, in one line."""
    if "\n" in sentence or len(sentence) > CHARACTERS + len("unseen: "):
        return f"not one short sentence: {sentence!r}"
    if not re.search(r"[;:] ?\S|--help", sentence.removeprefix("unseen: ")):
        return f"no remedy: {sentence!r}"
    if case.about and not any(word in sentence for word in case.about):
        return f"does not name {' or '.join(case.about)}: {sentence!r}"
    return None


# ---------------------------------------------------------------------- surroundings


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def hang(_: int, __: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def reset_peak() -> int:
    """Set the peak of the memory back to what is used now, in bytes, and return it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of the files of a folder, hidden ones too."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = f"{parent}/{name}"
            status = os.lstat(path)
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


def _changed(case: Case, worked: bool, folder: Path, before: dict[str, Any]) -> str | None:
    """What a case left behind or changed in a folder."""
    after = _files(folder)
    changed = sorted(
        path
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
        and not (worked and any(Path(path).is_relative_to(place) for place in case.written))
    )
    return f"changed, left or removed {changed[0]}" if changed else None
