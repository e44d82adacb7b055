"""Command lines in tests: a call that succeeds, and one that is refused."""

from __future__ import annotations

import shlex

import pytest

from unseen.__main__ import main

FEW = "--train.steps 2 --train.batch_size 2 --train.warmup 0"
"""Flags of a training of two steps."""

ONE_STEP = "--train.steps 1 --train.batch_size 2 --train.warmup 0"
"""Flags of a training of one step."""


def run_command(*parts: str) -> None:
    """Run `unseen` with a command line in parts, in which quotes hold values with spaces."""
    values = shlex.shlex(" ".join(parts), posix=True)
    values.whitespace_split, values.commenters = True, ""
    values.escape = ""  # a backslash divides the folders of a path on Windows
    main(list(values))


def error_of(capsys: pytest.CaptureFixture[str], *parts: str) -> str:
    """The message of a command line that is refused, which ends with exit code 2 and one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_command(*parts)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("unseen: ")
    assert "\n" not in error
    return error
