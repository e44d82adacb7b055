"""The weights of run folders (`unseen.runs`), read as data: nothing in them is executed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unseen.backbones.archives import check_is_file, write_tensors
from unseen.backbones.clip.text import CLIPText, StoredText
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import CheckpointError, SettingError
from unseen.files import about, sweep, unfinished_name
from unseen.methods import create, known
from unseen.runs import CONFIG, TEXT, TOWER, WEIGHTS, Run, read_config, save_config
from unseen.segmenter import Segmenter


def tower_identities(segmenter: Segmenter) -> dict[str, dict[str, str]]:
    """Source and fingerprint of every frozen tower: a run folder names them instead of storing."""
    return {
        name: {"source": tower.source, "fingerprint": tower.fingerprint}
        for name, tower in segmenter.towers.items()
        if not tower.trained
    }


def _fingerprint_0_1(clip: CLIPText | StoredText) -> str:
    """What version 0.1 stored as a tower's fingerprint: a hash of some of its weights."""
    assert isinstance(clip, CLIPText)
    text = clip.text_tower
    tensors = [text.positional_embedding, text.ln_final.weight]
    last = text.transformer.resblocks[-1].mlp
    if isinstance(clip, CLIP):
        last = clip.visual.transformer.resblocks[-1].mlp
        tensors = [clip.visual.conv1.weight, last.c_proj.weight, clip.visual.proj, *tensors]
    digest = hashlib.sha256(type(last.gelu).__name__.encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_run(folder: Path, segmenter: TextSegmenter, run: Run) -> None:
    """Write the configuration, then the weights; each file whole or not at all."""
    save_config(folder, run)
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in segmenter.trainable_state().items()
    }
    # The configuration comes first: a folder with weights and without it could not be read.
    write_tensors(folder / WEIGHTS, state, {"about": about()})


def save_tower(folder: Path, clip: CLIPText) -> None:
    """Write the tower to `clip.safetensors`, in OpenAI's names.

    A tensor is stored in half precision where that loses nothing, as in OpenAI's own weights.
    """
    write_tensors(
        folder / TOWER, clip.state_to_save(lossless=True), {"config": json.dumps(clip.config)}
    )


def save_converted(out: Path, segmenter: TextSegmenter, run: Run) -> None:
    """Write the run folder of a converted checkpoint, its tower included, whole or not at all."""
    sweep(out.parent)
    unfinished = out.parent / unfinished_name()
    try:
        if run.model.clip == TOWER:
            assert isinstance(segmenter.clip, CLIPText)
            save_tower(unfinished, segmenter.clip)
        save_run(unfinished, segmenter, run)
        unfinished.replace(out)  # `out` may exist if it is empty
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_run(folder: Path, options: dict[str, Any] | None = None) -> tuple[TextSegmenter, Run]:
    """The segmenter of a run folder, in eval mode, and what the folder says about it.

    Args:
        folder: What `unseen train` wrote.
        options: Replace single options of the method (calibration, for one).

    Raises:
        CheckpointError: Not a run folder, one of another version, damaged weights, or a tower that
            is not the one trained on.
        SettingError: Options that change the shapes of what was trained.
    """
    run = read_config(folder)
    segmenter = _untrained(folder, run, options or {})
    state = _read_weights(folder, run)
    own = segmenter.trainable_state()
    misfits = sorted(state.keys() ^ own.keys())
    misfits += sorted(
        name
        for name in state.keys() & own.keys()
        if own[name].shape != state[name].shape
        or own[name].is_floating_point() != state[name].is_floating_point()
    )
    changed = [
        name for name, value in (options or {}).items() if run.model.options.get(name) != value
    ]
    if misfits and changed:
        raise SettingError(
            f"with other values of {', '.join(changed)} the method has other tensors than {folder}"
            f" holds (the first: {misfits[0]}); remove these options, or train again with them"
        )
    if misfits:
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit {folder / CONFIG} (first tensor out of place:"
            f" {misfits[0]}); they come from different runs"
        )
    # Not strict: the frozen towers are in the segmenter and not in the file.
    segmenter.load_state_dict(state, strict=False)
    segmenter.eval()
    return segmenter, run


def load_initial_weights(init: Path, segmenter: TextSegmenter, run: Run) -> None:
    """Give the segmenter the trained weights of another run.

    Raises:
        SettingError: A run of another method, other options or another tower.
    """
    start, before = load_run(init)
    needed = {name: tensor.shape for name, tensor in segmenter.trainable_state().items()}
    stored = {name: tensor.shape for name, tensor in start.trainable_state().items()}
    differs = sorted(
        name for name in needed.keys() | stored.keys() if needed.get(name) != stored.get(name)
    )
    if tower_identities(start) != run.towers:
        differs.append("the tower")
    if differs:
        mine, theirs = run.model.options, before.model.options
        other = [
            f"--options.{name} {theirs[name]}"
            for name in sorted(theirs)
            if mine.get(name) != theirs[name]
        ]
        same_method = run.model.method == before.model.method
        hint = f": give {' '.join(other)}" if other and same_method else ""
        raise SettingError(
            f"{init} holds another model than the one to train (differs in {differs[0]}); start"
            f" from a run of the same method and options{hint}"
        )
    segmenter.load_state_dict(start.trainable_state(), strict=False)


def _untrained(folder: Path, run: Run, options: dict[str, Any]) -> TextSegmenter:
    """The segmenter of a run before its weights are loaded, on the towers it was trained on."""
    stored = StoredText.read(folder / TEXT, run.class_names) if run.text_embeddings else None
    source = str(folder / TOWER) if run.model.clip == TOWER else run.model.clip
    clip = known(run.model.method).cls.load_tower(source, stored)
    segmenter = create(
        run.model.method,
        clip,
        published=run.model.published,
        **{**run.model.options, **options},
    )
    for name, identity in run.towers.items():
        if name not in segmenter.towers:
            raise CheckpointError(
                f"{folder} was trained on a tower {name!r}, which {run.model.method} does not have;"
                " restore its config.yaml or train again"
            )
        fingerprint = segmenter.towers[name].fingerprint
        # A run of version 0.1 stored another hash.
        if "fingerprint_0_1" in identity:
            fingerprint = _fingerprint_0_1(clip)
        if fingerprint not in identity.values():
            raise CheckpointError(
                f"{folder} was trained on a tower whose weights differ from today's"
                f" {run.model.clip}; restore that file or train again"
            )
    if stored is not None:
        segmenter.use_stored_text(stored)
    return segmenter


def _read_weights(folder: Path, run: Run) -> dict[str, torch.Tensor]:
    """The trained tensors of a finished run.

    Raises:
        CheckpointError: The training did not finish, or the file is damaged.
    """
    path = folder / WEIGHTS
    try:
        if path.exists():
            check_is_file(path)
        state = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no weights.safetensors; its training did not finish: resume it with"
            f" `unseen train {run.model.method} --benchmark {run.benchmark} --out {folder}"
            " --resume`, and the settings it was begun with"
        ) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); restore it or train again"
        ) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise CheckpointError(
            f"{path} holds values that are not finite; the training diverged, so train again with a"
            " lower learning rate"
        )
    return state
