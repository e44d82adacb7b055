"""Run folders: what was trained, how, and the trained weights. Readable by eye, loadable without
running anything that lies in them.

RUN/config.yaml          resolved settings, vocabulary, versions
RUN/weights.safetensors  the trained part; the frozen tower comes from its own source
RUN/clip.safetensors     the frozen tower, in runs converted from a published checkpoint, which
brings its own
RUN/text_embeddings.npy  the words' vectors, where they did not come from the text tower
RUN/metrics.json         what evaluations of this run measured last, by benchmark
RUN/logs/, RUN/state/    curves; what `--resume` needs
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unseen.backbones.clip.text import NO_TOWER, CLIPText, StoredText
from unseen.backbones.clip.tower import CLIP
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import CheckpointError
from unseen.files import replacing, write_text
from unseen.methods import create, known
from unseen.segmenter import Segmenter
from unseen.settings import InferenceSettings, ModelSettings, flat, update_legacy

FORMAT = 2
"""Version of the folder's layout; 1 was written by version 0.1."""
WEIGHTS, CONFIG = "weights.safetensors", "config.yaml"
TEXT, TOWER = "text_embeddings.npy", "clip.safetensors"
HARMLESS = {
    f"train.{name}"
    for name in [
        "workers",
        "save_every",
        "snapshots",
        "log_every",
        "logger",
        "devices",
        "nodes",
        "strategy",
        "accumulate",
    ]
}
"""Settings that a resumed run may change."""


@dataclass(frozen=True)
class Run:
    """What `config.yaml` says.

    Attributes:
        model: Method, tower and options.
        benchmark: What it was trained on.
        class_names: Its words.
        seen: Those whose masks were trained on.
        inference: Size and windows to predict with.
        train: The training settings, as a dictionary.
        versions: Of the packages that made it.
        towers: Source and fingerprint of every frozen tower, by name.
        text_embeddings: The name of the file its words came from, if not from the text tower; a
            copy lies in the folder.
        init: The run folder its first weights came from.
    """

    model: ModelSettings
    benchmark: str
    class_names: tuple[str, ...]
    seen: tuple[str, ...]
    inference: InferenceSettings
    train: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    towers: dict[str, dict[str, str]] = field(default_factory=dict)
    text_embeddings: str | None = None
    init: str | None = None

    def lowered(self, names: Sequence[str]) -> list[int] | None:
        """Places among `names` of the words whose masks it was trained on, where that puts others
        at a disadvantage (inductive runs).
        """
        return (
            [i for i, name in enumerate(names) if name in self.seen]
            if self.train.get("regime") == "inductive"
            else None
        )

    def differs(self, other: Run) -> str | None:
        """The first setting that decides the weights and is not the same in both runs, with both
        values; None if they agree.
        """
        mine, theirs = (flat({**_plain(asdict(run)), "versions": {}}) for run in (self, other))
        for name in sorted(mine.keys() | theirs.keys()):
            if name not in HARMLESS and mine.get(name) != theirs.get(name):
                return f"{name} is {mine.get(name)!r} there and {theirs.get(name)!r} here"
        return None


def versions() -> dict[str, str]:
    """Of Python and the packages that decide numbers."""
    return {
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in ("unseen", "torch", "torchvision", "open_clip_torch", "lightning")
        },
    }


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
    tensors = [clip.text.positional_embedding, clip.text.ln_final.weight]
    last = clip.text.transformer.resblocks[-1].mlp
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
    _save_tensors(folder / WEIGHTS, state, {"format": str(FORMAT)})


def save_config(folder: Path, run: Run) -> None:
    """Write `config.yaml`: at the start of a training, so that `--resume` can compare."""
    config = {"format": FORMAT, **asdict(run)}
    write_text(folder / CONFIG, yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))


def save_tower(folder: Path, clip: CLIPText) -> None:
    """Write the tower to `clip.safetensors`, in OpenAI's names; in half precision where that loses
    nothing, as in OpenAI's own weights.
    """
    _save_tensors(
        folder / TOWER, clip.state_to_save(lossless=True), {"config": json.dumps(clip.config)}
    )


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as beside:
        try:
            save_file(tensors, beside, metadata=metadata)
        except SafetensorError as error:  # its words for a full disk
            raise OSError(str(error)) from error


def load_run(folder: Path, options: dict[str, Any] | None = None) -> tuple[TextSegmenter, Run]:
    """The segmenter of a run folder, in eval mode, and what the folder says about it.

    Args:
        folder: What `unseen train` wrote.
        options: Replace single options of the method (calibration, for one).

    Raises:
        CheckpointError: Not a run folder, one of another version, damaged weights, or a tower that
            is not the one trained on.
    """
    run = read_config(folder)
    segmenter = _untrained(folder, run, options or {})
    state = _read_weights(folder, run)
    own = segmenter.trainable_state()
    misfits = sorted(state.keys() ^ own.keys())
    misfits += sorted(
        name for name in state.keys() & own.keys() if own[name].shape != state[name].shape
    )
    if misfits:
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit {folder / CONFIG} (first tensor out of place:"
            f" {misfits[0]}); they come from different runs"
        )
    segmenter.load_state_dict(state, strict=False)
    segmenter.eval()
    return segmenter, run


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
        tower = segmenter.towers[name]
        fingerprint = tower.fingerprint
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


def read_config(folder: Path) -> Run:
    """What the folder's `config.yaml` says.

    Raises:
        CheckpointError: Not a run folder, or one of another version.
    """
    path = folder / CONFIG
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is not a run folder (no config.yaml in it); give the --out folder of `unseen"
            " train`"
        ) from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read; restore it or train again") from error
    version = stored.get("format") if isinstance(stored, dict) else None
    if version not in (1, FORMAT):
        raise CheckpointError(
            f"{folder} has the layout version {version}, this unseen reads versions 1 to {FORMAT};"
            " use the unseen that wrote it, or train again"
        )
    try:
        if version == 1:
            stored = _from_format_1(stored)
        model = ModelSettings(**stored.pop("model"))
        inference = InferenceSettings(**stored.pop("inference"))
        names, seen = tuple(stored.pop("class_names")), tuple(stored.pop("seen"))
        del stored["format"]
        return Run(model=model, inference=inference, class_names=names, seen=seen, **stored)
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not complete ({error}); restore it or train again"
        ) from error


def _from_format_1(stored: dict[str, Any]) -> dict[str, Any]:
    """What a config.yaml of version 0.1 says, in today's names."""
    stored = update_legacy(stored)
    stored["model"]["options"] = update_legacy(stored["model"]["options"], "options.")
    stored["class_names"] = stored.pop("vocabulary")
    fingerprint = stored.pop("tower")
    stored["towers"] = {}
    if fingerprint != NO_TOWER:
        stored["towers"]["clip"] = {"fingerprint_0_1": fingerprint}
    return stored


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
