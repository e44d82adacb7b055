"""What a run needs to resume: the trained tensors, the optimiser, and the step.

Random numbers are not among them: they follow from seed and step.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen.backbones.archives import DAMAGE, check_is_file, check_unpacked_size, is_plain
from unseen.errors import CheckpointError, SettingError
from unseen.files import replacing
from unseen.runs import FORMER_STATE, STATE

_log = logging.getLogger(__name__)

OTHER_MODEL = (
    "the state to resume from belongs to another model; resume with the settings the run was"
    " started with, or start a new one"
)
FORMAT = 2
"""Version of the file; 1 are the states of unseen 0.1, which carry no version."""


def save_state(out: Path, **parts: Any) -> None:
    """Write a state of a run folder, whole or not at all; the one before it is kept."""
    last = out / STATE
    with replacing(last, ours=True) as beside:
        try:
            torch.save({"format": FORMAT, **parts}, beside)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(str(error).partition("\n")[0][:100]) from error
        # Killed from here on, the run goes on from the former one.
        if last.exists():
            last.replace(out / FORMER_STATE)


def read_state(out: Path) -> dict[str, Any]:
    """The last state of a run folder, or the one before where the last is damaged.

    Nothing that the files may contain is executed.

    Raises:
        CheckpointError: None can be read, or they are of another version of unseen.
    """
    paths = [out / name for name in (STATE, FORMER_STATE) if (out / name).exists()]
    problems = []
    for path in paths:
        try:
            state = _read(path)
        except _DamagedError as error:
            problems.append(f"{path} cannot be read ({error})")
            continue
        if problems:
            _log.warning(
                "unseen: %s; the run goes on from the state before, of step %d",
                problems[0],
                state["step"],
            )
        return state
    raise CheckpointError(
        f"{problems[0]}, so the run cannot be resumed; remove the run folder and start again"
    )


class _DamagedError(Exception):
    """A file that is no state."""


def _read(path: Path) -> dict[str, Any]:
    """A state as it was written.

    Raises:
        _DamagedError: A damaged file.
        CheckpointError: A state of another version.
    """
    # Tensors and plain containers only, as in weight files: a run folder may come from anywhere.
    try:
        check_is_file(path)
        check_unpacked_size(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, pickle.UnpicklingError, CheckpointError) as error:
        raise _DamagedError(str(error).partition("\n")[0][:80] or type(error).__name__) from error
    if not isinstance(state, dict):
        raise _DamagedError("it holds no state")
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of unseen, whose runs this one cannot resume;"
            " finish the run with that version, or start again with another --out"
        )
    kinds = {"step": int, "trained": dict, "optimizer": dict, "precision": dict}
    if not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise _DamagedError("parts are missing")
    trained = state["trained"].values()
    if not all(isinstance(value, Tensor) and is_plain(value) for value in trained):
        raise _DamagedError("its weights are not plain tensors")
    if not all(bool(torch.isfinite(value).all()) for value in trained):
        raise _DamagedError("it holds weights that are not finite")
    return state


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Give an optimiser the momenta and the like of a state.

    Raises:
        SettingError: They belong to another model.
    """
    try:
        optimizer.load_state_dict(saved)
        for parameter, values in optimizer.state.items():
            for value in values.values():
                shapes = ((), tuple(parameter.shape))
                if isinstance(value, Tensor) and tuple(value.shape) not in shapes:
                    raise ValueError("a shape differs")
    except (*DAMAGE,) as error:
        raise SettingError(OTHER_MODEL) from error


def restore_tensors(trained: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy the saved tensors over those of a model.

    Raises:
        SettingError: They belong to another model.
    """
    shapes, saved_shapes = (
        {name: tensor.shape for name, tensor in tensors.items()} for tensors in (trained, saved)
    )
    # Nothing is copied before everything fits.
    if shapes != saved_shapes:
        raise SettingError(OTHER_MODEL)
    # In place, as optimisers hold these tensors themselves; parameters refuse it with gradients on.
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(saved[name])
