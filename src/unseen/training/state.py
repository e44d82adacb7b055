"""What a run needs to resume: the trained tensors, the optimiser, and the step.

Random numbers are not among them: they follow from seed and step.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen.errors import CheckpointError, SettingError
from unseen.files import replacing

FORMAT = 2
"""Version of the file; 1 are the states of unseen 0.1, which carry no version."""


def save_state(path: Path, **parts: Any) -> None:
    """Write a state, whole or not at all."""
    with replacing(path, ours=True) as beside:
        torch.save({"format": FORMAT, **parts}, beside)


def read_state(path: Path) -> dict[str, Any]:
    """A state as it was written; nothing that the file may contain is executed.

    Raises:
        CheckpointError: A damaged file, or one of another version of unseen.
    """
    # Tensors and plain containers only, as in weight files: a run folder may come from anywhere.
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read, so the run cannot be resumed; remove the run folder and start"
            " again"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of unseen, whose runs this one cannot resume;"
            " finish the run with that version, or start again with another --out"
        )
    return state


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
        raise SettingError(
            "the state to resume from belongs to another model; resume with the settings the run"
            " was started with, or start a new one"
        )
    # In place, as optimisers hold these tensors themselves; parameters refuse it with gradients on.
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(saved[name])
