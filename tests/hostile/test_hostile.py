"""The short campaign: over fifteen hundred cases, and no wrong answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile import slots
from hostile.judge import Case, judge
from tiny.commands import FEW, run_command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, run: Path) -> slots.World:
    folder = tmp_path_factory.mktemp("world")
    stopped = folder.parent / "stopped-run"
    run_command(f"train zegclip --out {stopped}", FEW, "--train.save_every 1")
    (stopped / "weights.safetensors").unlink()
    return slots.make_world(folder, run, stopped)


def wrong(cases: Iterator[Case]) -> dict[str, str]:
    """The cases with a wrong answer."""
    found = {}
    for case in cases:
        problem = judge(case)
        if problem is not None:
            found[case.name] = problem
    return found


def test_files(world: slots.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    assert not wrong(slots.cases(world, tmp_path / "work"))
    assert not (tmp_path / "ran").exists()
