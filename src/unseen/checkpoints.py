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

from unseen.backbones.clip import CLIP, NO_TOWER, CLIPText
from unseen.errors import CheckpointError, VocabularyError
from unseen.files import replacing, write_text
from unseen.methods import create, known
from unseen.segmenter import TextFeatures, TextSegmenter, check_names, stored_text, stored_width
from unseen.settings import InferenceSettings, ModelSettings, flat, update_legacy

FORMAT = 1
"""Version of the folder's layout."""
WEIGHTS, CONFIG, TEXT, TOWER = (
    "weights.safetensors",
    "config.yaml",
    "text_embeddings.npy",
    "clip.safetensors",
)
HARMLESS = {
    f"train.{name}"
    for name in (
        "workers",
        "save_every",
        "snapshots",
        "log_every",
        "logger",
        "devices",
        "nodes",
        "strategy",
        "accumulate",
    )
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
        tower: Fingerprint of the frozen tower.
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
    tower: str = ""
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


def fingerprint(clip: CLIPText) -> str:
    """A short hash of the activation and of first and last weights of the towers: two CLIPs that
    share it are the same for all that matters.
    """
    if clip.text is None:
        return NO_TOWER
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
    config["vocabulary"] = config.pop("class_names")
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
    width = stored_width(folder / TEXT) if run.text_embeddings else None
    clip = known(run.model.method).cls.load_tower(
        str(folder / TOWER) if run.model.clip == TOWER else run.model.clip, width
    )
    if fingerprint(clip) != run.tower:
        raise CheckpointError(
            f"{folder} was trained on a tower whose weights differ from today's {run.model.clip};"
            " restore that file or train again"
        )
    segmenter = create(
        run.model.method,
        clip,
        published=run.model.published,
        **{**run.model.options, **(options or {})},
    )
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
    own = segmenter.trainable_state()
    odd = sorted(state.keys() ^ own.keys()) or sorted(
        name for name in own if own[name].shape != state[name].shape
    )
    if odd:
        raise CheckpointError(
            f"{path} does not fit {folder / CONFIG} (first tensor out of place: {odd[0]}); they"
            " come from different runs"
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise CheckpointError(
            f"{path} holds values that are not finite; the training diverged, so train again with a"
            " lower learning rate"
        )
    segmenter.load_state_dict(state, strict=False)
    segmenter.eval()
    return segmenter, run


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
    found = stored.get("format") if isinstance(stored, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{folder} has the layout version {found}, this unseen reads version {FORMAT}; use the"
            " unseen that wrote it, or train again"
        )
    try:
        stored.pop("format")
        stored = update_legacy(stored)
        model, inference = (
            ModelSettings(**stored.pop("model")),
            InferenceSettings(**stored.pop("inference")),
        )
        return Run(
            model=model,
            inference=inference,
            class_names=tuple(stored.pop("vocabulary")),
            seen=tuple(stored.pop("seen")),
            **stored,
        )
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not complete ({error}); restore it or train again"
        ) from error


def load_words(
    folder: Path, run: Run, names: Sequence[str], segmenter: TextSegmenter
) -> TextFeatures:
    """The vectors of some words of a run that was trained on text embeddings from a file.

    Raises:
        VocabularyError: A word the file had no vector for.
        DataError: The copy in the folder is damaged.
    """
    names = check_names(names)
    stored = stored_text(
        folder / TEXT, run.class_names, segmenter.clip.embed_dim, segmenter.background_word
    )
    strange = next((name for name in names if name not in run.class_names), None)
    if strange is not None:
        raise VocabularyError(
            f"{folder} was trained on text embeddings from a file, which has none for {strange!r};"
            f" its words are {', '.join(run.class_names)}"
        )
    return stored.select([run.class_names.index(name) for name in names])


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
