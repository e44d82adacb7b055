"""What a run needs to resume: the trained tensors, the optimiser, and the step.

Random numbers are not among them: they follow from seed and step.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen.backbones.archives import DAMAGE, check_is_file, check_unpacked_size, is_plain
from unseen.errors import CheckpointError, SettingError, shortage
from unseen.files import replacing
from unseen.runs import FORMER_STATE, STATE
from unseen.settings.ranges import MOST

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
    # By way of memory: torch does not say what kept it from writing a file.
    content = io.BytesIO()
    torch.save({"format": FORMAT, **parts}, content)
    with replacing(last, ours=True) as beside:
        beside.write_bytes(content.getbuffer())
        # Killed from here on, the run goes on from the former one.
        if last.exists():
            last.replace(out / FORMER_STATE)


def read_state(out: Path) -> dict[str, Any]:
    """The last state of a run folder, or the one before where the last is damaged.

    The one before then takes the place of the damaged one. Nothing that the files may contain is
    executed.

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
            # The next state moves the last one aside: that must not be the damaged one.
            with suppress(OSError):
                path.replace(paths[0])
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
    except CheckpointError as error:
        raise _DamagedError(str(error).partition(";")[0]) from error
    except (*DAMAGE, pickle.UnpicklingError) as error:
        # Then it is not damaged, and must not give way to the state before.
        cause = shortage(error)
        if cause is not None:
            raise CheckpointError(
                f"{path} cannot be read ({cause}); close other programs and resume again"
            ) from error
        told = error.strerror if isinstance(error, OSError) else None
        raise _DamagedError(told or "it is damaged, or was never a state") from error
    if not isinstance(state, dict):
        raise _DamagedError("it holds no state")
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of unseen, whose runs this one cannot resume;"
            " finish the run with that version, or start again with another --out"
        )
    _check_parts(state)
    return state


def _check_parts(state: dict[str, Any]) -> None:
    """Raise a `_DamagedError` for parts that no run can go on from."""
    step = state.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= MOST:
        raise _DamagedError("its step is no number of steps")
    kinds = {"trained": dict, "optimizer": dict, "precision": dict}
    if not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise _DamagedError("parts are missing")
    momenta = state["optimizer"].get("state", {})
    if not isinstance(momenta, dict) or not all(isinstance(one, dict) for one in momenta.values()):
        raise _DamagedError("it holds no optimiser")
    tensors = list(state["trained"].values())
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise _DamagedError("its weights are no tensors")
    for values in momenta.values():
        tensors += [value for value in values.values() if isinstance(value, Tensor)]
    if not all(map(is_plain, tensors)):
        raise _DamagedError("it holds tensors that are not plain")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise _DamagedError("it holds numbers that are not finite")


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
        {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        for tensors in (trained, saved)
    )
    # Nothing is copied before everything fits.
    if shapes != saved_shapes:
        raise SettingError(OTHER_MODEL)
    # In place, as optimisers hold these tensors themselves; parameters refuse it with gradients on.
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(saved[name])
