"""Training loses as little as can be: signals, damaged states, full disks, two processes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from test_training import SMALL, fit_on, segmenter, trained, world
from tiny.commands import FEW, error_of, run_command
from unseen.errors import CheckpointError, DataError, Interrupted, SettingError
from unseen.runs import LOGS
from unseen.training import loop
from unseen.training.lock import run_lock
from unseen.training.state import read_state

LATE = replace(SMALL, save_every=1000)
"""Nothing is due before the end."""


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def send_in_step(monkeypatch: pytest.MonkeyPatch, at: int, *numbers: int) -> None:
    """Signals reach the process while it takes a step."""
    take_step = loop.take_step

    def interrupted(*given: Any) -> dict[str, Tensor]:
        losses = take_step(*given)
        if given[4] == at:
            for number in numbers:
                os.kill(os.getpid(), number)
        return losses

    monkeypatch.setattr(loop, "take_step", interrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_state_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        send_in_step(patch, 3, number)
        with pytest.raises(Interrupted, match="stopped after step 4; go on from there") as end:
            fit_on(world(), segmenter(), tmp_path / "cut", LATE)
    assert end.value.code == code
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert read_state(tmp_path / "cut")["step"] == 4
    resumed = trained(tmp_path / "cut", LATE, resume=True)
    assert equal(resumed, trained(tmp_path / "whole", LATE))


def test_a_signal_in_the_last_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_in_step(monkeypatch, 5, signal.SIGTERM)
    trained(tmp_path, LATE)


def test_the_second_interrupt_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send_in_step(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped after step 3; nothing was saved yet"):
        fit_on(world(), segmenter(), tmp_path, LATE)
    assert not (tmp_path / "state" / "last.ckpt").exists()


def test_the_message_names_the_state_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_in_step(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="step 3; go on from step 2, which was saved last, with"):
        fit_on(world(), segmenter(), tmp_path, replace(LATE, save_every=2))
    assert read_state(tmp_path)["step"] == 2


def test_weights_are_written_while_the_folder_is_locked(tmp_path: Path) -> None:
    held = []

    def end() -> None:
        with pytest.raises(SettingError, match="is being written by process"), run_lock(tmp_path):
            pass
        held.append((tmp_path / LOGS).exists())

    fit_on(world(), segmenter(), tmp_path, LATE, end=end)
    assert held == [True]


def test_states_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send_in_step(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped after step 3; go on"):
        fit_on(world(), segmenter(), tmp_path, replace(LATE, save_minutes=0))
    assert read_state(tmp_path)["step"] == 3


# ------------------------------------------------------------------------- states


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A run with states after three and six steps, as if its end had not been written."""
    trained(tmp_path / "run", SMALL)
    return tmp_path / "run"


def _not_finite(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    next(iter(state["trained"].values())).fill_(torch.nan)
    torch.save(state, path)


def _without_optimizer(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state.pop("optimizer", None)
    torch.save(state, path)


def _replaced(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a state"),
    "pickle": lambda path: path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR."),
    "folder": _folder,
    "not finite": _not_finite,
    "no optimiser": _without_optimizer,
    "list": _replaced([1]),
    "strided": _replaced(
        {"format": 2, "step": 3, "optimizer": {}, "precision": {},
         "trained": {"w": torch.zeros(1).expand(10**10)}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_state_before_is_used_where_the_last_is_damaged(
    cut: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(tmp_path / "whole", SMALL)
    DAMAGE[damage](cut / "state" / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        state = read_state(cut)
    assert state["step"] == 3
    assert "last.ckpt cannot be read" in caplog.text
    assert "the run goes on from the state before, of step 3" in caplog.text
    if damage != "folder":  # which no file can replace
        # The damaged one is gone, so that the next state cannot move it over the good one.
        assert read_state(cut)["step"] == 3
        assert not (cut / "state" / "previous.ckpt").exists()
        assert equal(whole, trained(cut, SMALL, resume=True))
    DAMAGE[damage](cut / "state" / "previous.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read .*, so the run cannot be resumed"):
        read_state(cut) if damage == "folder" else _read_both(cut, damage)
    assert not Path("ran").exists()


def _read_both(cut: Path, damage: str) -> None:
    DAMAGE[damage](cut / "state" / "last.ckpt")
    read_state(cut)


def test_states_of_other_versions_and_models(cut: Path) -> None:
    path = cut / "state" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    first = next(iter(state["optimizer"]["state"]))
    state["optimizer"]["state"][first]["exp_avg"] = torch.zeros(2, 3, 4)
    torch.save(state, path)
    with pytest.raises(SettingError, match="the state to resume from belongs to another model"):
        trained(cut, SMALL, resume=True)
    torch.save({"state_dict": {}, "global_step": 3, "pytorch-lightning_version": "2.6"}, path)
    with pytest.raises(CheckpointError, match="written by another version of unseen"):
        trained(cut, SMALL, resume=True)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, os.strerror(errno.EMFILE))])
def test_a_state_that_the_machine_cannot_read_is_not_damaged(
    cut: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    before = {path.name: path.read_bytes() for path in (cut / "state").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(CheckpointError, match="close other programs and resume again"):
            read_state(cut)
    assert {path.name: path.read_bytes() for path in (cut / "state").iterdir()} == before


def test_rates_are_those_of_the_settings(cut: Path, tmp_path: Path) -> None:
    path = cut / "state" / "last.ckpt"
    (cut / "state" / "previous.ckpt").replace(path)
    state = torch.load(path, weights_only=True)
    for group in state["optimizer"]["param_groups"]:
        group.update(weight_decay=1000.0, lr=1000.0)
    torch.save(state, path)
    assert equal(trained(tmp_path / "whole", SMALL), trained(cut, SMALL, resume=True))


def test_a_full_disk_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes, sizes = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        sizes.append(len(content))
        if len(sizes) == 2:
            write_bytes(path, b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match="last.ckpt cannot be written .* free some space"):
            fit_on(world(), segmenter(), tmp_path / "cut", SMALL)
    assert {path.name for path in (tmp_path / "cut" / "state").iterdir()} == {"last.ckpt", "lock"}
    resumed = trained(tmp_path / "cut", SMALL, resume=True)
    assert equal(resumed, trained(tmp_path / "whole", SMALL))


# ------------------------------------------------------------------- two processes


def test_a_run_folder_has_one_process(tmp_path: Path) -> None:
    lines = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from unseen.training.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", lines, tmp_path], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(
            SettingError, match=rf"is being written by process {other.pid} on .*; wait for its end"
        ):
            fit_on(world(), segmenter(), tmp_path, SMALL)
    finally:
        other.kill()
        other.wait()
    # A killed process holds nothing.
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with run_lock(tmp_path):
                break
        except SettingError:
            time.sleep(0.05)
    trained(tmp_path, SMALL)


def test_a_run_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"), run_lock(tmp_path / "file" / "run"):
        pass
    assert "choose another place with --out" in error_of(
        capsys, f"train zegclip --out {tmp_path / 'file' / 'run'}", FEW
    )
    assert "choose another place" in error_of(
        capsys, f"pretrain --steps 1 --batch_size 2 --out {tmp_path / 'file' / 'run'}"
    )


def test_several_machines_need_a_launcher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    error = error_of(capsys, f"train zegclip --train.nodes 2 --out {tmp_path / 'run'}", FEW)
    assert "nothing here says where the other machines are; start it on each of them" in error
    assert not (tmp_path / "run").exists()


def test_a_finished_run_has_no_lock_of_a_process(tmp_path: Path) -> None:
    run_command(f"train zegclip --out {tmp_path / 'run'}", FEW)
    assert not (tmp_path / "run" / "state" / "running.txt").exists()
