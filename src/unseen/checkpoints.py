"""Run folders: what was trained, how, and the trained weights. Readable by eye, loadable without running anything that lies in them.

RUN/config.yaml          resolved settings, vocabulary, versions
RUN/weights.safetensors  the trained part; the frozen tower comes from its own source
RUN/metrics.json         what evaluations of this run measured last, by benchmark
RUN/logs/, RUN/state/    curves; what `--resume` needs
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unseen.backbones.clip import CLIP, load_clip
from unseen.errors import CheckpointError
from unseen.files import replacing, write_text
from unseen.methods import create
from unseen.segmenter import ClipSegmenter
from unseen.settings import InferenceSettings, ModelSettings

FORMAT = 1
"""Version of the folder's layout."""


@dataclass(frozen=True)
class Run:
    """What `config.yaml` says.

    Attributes:
        model: Method, tower and options.
        benchmark: What it was trained on.
        vocabulary: Its words.
        seen: Those whose masks were trained on.
        inference: Size and windows to predict with.
        train: The training settings, as a dictionary.
        versions: Of the packages that made it.
        tower: Fingerprint of the frozen tower.
        text_embeddings: The file its words came from, if not from the text tower.
    """

    model: ModelSettings
    benchmark: str
    vocabulary: tuple[str, ...]
    seen: tuple[str, ...]
    inference: InferenceSettings
    train: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    tower: str = ""
    text_embeddings: str | None = None


def versions() -> dict[str, str]:
    """Of Python and the packages that decide numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("unseen", "torch", "torchvision", "open_clip_torch", "lightning")}}


def fingerprint(clip: CLIP) -> str:
    """A short hash of a tower's first and last image weights: two towers that share it are the same for all that matters."""
    digest = hashlib.sha256()
    for tensor in (clip.visual.conv1.weight, clip.visual.proj):
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_run(folder: Path, segmenter: ClipSegmenter, run: Run) -> None:
    """Write weights, then the configuration; each file whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in segmenter.trainable_state().items()}
    with replacing(folder / "weights.safetensors") as beside:
        save_file(state, beside, metadata={"format": str(FORMAT)})
    config = {"format": FORMAT, **asdict(run)}
    write_text(folder / "config.yaml", yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))


def load_run(folder: Path, options: dict[str, Any] | None = None) -> tuple[ClipSegmenter, Run]:
    """The segmenter of a run folder, in eval mode, and what the folder says about it.

    Args:
        folder: What `unseen train` wrote.
        options: Replace single options of the method (calibration, for one).

    Raises:
        CheckpointError: Not a run folder, one of another version, damaged weights, or a tower that is not the one trained on.
    """
    run = read_config(folder)
    clip = load_clip(run.model.clip)
    if fingerprint(clip) != run.tower:
        raise CheckpointError(f"{folder} was trained on a tower whose weights differ from today's {run.model.clip}; restore that file or train again")
    segmenter = create(run.model.method, clip, published=run.model.published, **{**run.model.options, **(options or {})})
    path = folder / "weights.safetensors"
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no weights.safetensors; its training did not finish: resume it with `unseen train --resume`") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file ({error}); restore it or train again") from error
    own = segmenter.trainable_state()
    odd = sorted(state.keys() ^ own.keys()) or sorted(name for name in own if own[name].shape != state[name].shape)
    if odd:
        raise CheckpointError(f"{path} does not fit {folder / 'config.yaml'} (first tensor out of place: {odd[0]}); they come from different runs")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise CheckpointError(f"{path} holds values that are not finite; the training diverged, so train again with a lower learning rate")
    segmenter.load_state_dict(state, strict=False)
    segmenter.eval()
    return segmenter, run


def read_config(folder: Path) -> Run:
    """What the folder's `config.yaml` says.

    Raises:
        CheckpointError: Not a run folder, or one of another version.
    """
    path = folder / "config.yaml"
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a run folder (no config.yaml in it); give the --out folder of `unseen train`") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read; restore it or train again") from error
    found = stored.get("format") if isinstance(stored, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{folder} has the layout version {found}, this unseen reads version {FORMAT}; use the unseen that wrote it, or train again")
    try:
        stored.pop("format")
        model, inference = ModelSettings(**stored.pop("model")), InferenceSettings(**stored.pop("inference"))
        return Run(model=model, inference=inference, vocabulary=tuple(stored.pop("vocabulary")), seen=tuple(stored.pop("seen")), **stored)
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not complete ({error}); restore it or train again") from error


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
