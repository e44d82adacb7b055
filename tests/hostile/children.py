"""Verbs in processes of their own, which can be killed or given less than they need."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unseen.__main__ import main

BUG = 99
"""Exit code of a process that ended with a traceback."""


@dataclass(frozen=True)
class Child:
    """A process that runs a command line.

    Attributes:
        process: Its number; it leads a group of its own.
        log: What it printed.
    """

    process: int
    log: Path

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal; None if it runs on after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            ended, status = os.waitpid(self.process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= end:
                return None
            time.sleep(0.002)

    def kill(self) -> None:
        """End it and its workers at once."""
        # It leads no group yet where it is killed at its very beginning.
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


def start(
    words: list[str],
    log: Path,
    limits: Mapping[int, int] | None = None,
    before: Callable[[], None] = lambda: None,
) -> Child:
    """Run a command line in a copy of this process, which has imported everything already.

    Args:
        words: The command line.
        log: Where its output goes.
        limits: By resource (`resource.RLIMIT_...`), the most it may use.
        before: Called in the process first.
    """
    process = os.fork()
    if process:
        return Child(process, log)
    code = BUG
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        before()
        for kind, most in (limits or {}).items():
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
        main(words)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
