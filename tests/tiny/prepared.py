"""Running `unseen prepare` and checking its results."""

from __future__ import annotations

from pathlib import Path

import pytest

from unseen.__main__ import main


def arguments(name: str, root: Path, source: Path | None = None, *more: str) -> list[str]:
    """The command line, with one process."""
    line = ["prepare", name, "--root", str(root), "--jobs", "1", *more]
    if source is not None:
        line += ["--from", str(source)]
    return line


def run_prepare(name: str, root: Path, source: Path | None = None, *more: str) -> None:
    """Prepare a data set."""
    main(arguments(name, root, source, *more))


def refusal(
    capsys: pytest.CaptureFixture[str],
    name: str,
    root: Path,
    source: Path | None = None,
    *more: str,
) -> str:
    """The message after the lines of progress, with which a preparation ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments(name, root, source, *more))
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def file_states(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }
