"""The short campaign: thousands of hostile cases in one process, and no wrong answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import unseen
from hostile import python, slots, values, words
from hostile.judge import Case, judge
from hostile.tally import TRIED
from tiny.commands import FEW, run_command

pytestmark = pytest.mark.no_cover  # the other tests reach the same lines; tracing takes minutes


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of small networks are no work to divide."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, run: Path) -> slots.World:
    folder = tmp_path_factory.mktemp("world")
    stopped = folder.parent / "stopped-run"
    run_command(f"train zegclip --out {stopped}", FEW, "--train.save_every 1")
    (stopped / "weights.safetensors").unlink()
    return slots.make_world(folder, run, stopped)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def settle(cases: Iterator[Case], least: int, what: str) -> None:
    """Judge cases, none of whose answers may be wrong, nor may anything in a file have been run."""
    count, wrong = 0, {}
    for case in cases:
        count += 1
        TRIED[what] += 1
        problem = judge(case)
        if problem is not None:
            wrong[case.name] = problem
    assert not wrong
    assert not Path("ran").exists()
    assert count >= least
    return f"{count} cases, {len(wrong)} wrong"


Make = Callable[[slots.World, Path], Iterator[Case]]
GROUPS: dict[str, tuple[Make, int]] = {
    "settings": (lambda world, work: values.settings_cases(), 3000),
    "options": (lambda world, work: values.option_cases(), 3000),
    "configurations": (lambda world, work: values.config_cases(world.run, work), 400),
    "arguments": (
        lambda world, work: python.cases(world.run, world.folder / "own", unseen.load("naclip")),
        1500,
    ),
    "class names": (lambda world, work: words.cases(world.folder / "photo.png", work), 70),
    "places": (
        lambda world, work: words.place_cases(
            world.folder / "photo.png", world.run, world.folder / "own", work
        ),
        90,
    ),
    "foreign files": (
        lambda world, work: words.foreign_cases(
            world.folder / "photo.png", world.run, world.folder / "own", work
        ),
        50,
    ),
    "files": (lambda world, work: slots.cases(world, work, every=4), 900),
}
"""By name, what makes the cases, and the number there must be of them."""


@pytest.mark.parametrize("group", GROUPS)
def test_no_wrong_answer(world: slots.World, work: Path, group: str) -> None:
    make, least = GROUPS[group]
    settle(make(world, work), least, group)
