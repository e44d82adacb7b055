"""A training from its plan to the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from unseen.building import build, encode
from unseen.checkpoints import load_run, save_run, tower_identities
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import SettingError
from unseen.files import replacing
from unseen.plans import TrainingPlan
from unseen.runs import STATE, TEXT, Run, save_config
from unseen.segmenter import TextFeatures
from unseen.training.loop import fit
from unseen.training.records import RunControl


def carry_out(
    plan: TrainingPlan, progress: bool = True
) -> tuple[TextSegmenter, TextFeatures] | None:
    """Train as planned; writes the run folder.

    Returns:
        The trained segmenter, in eval mode, and the benchmark's vocabulary, encoded; None in the
        further processes of a distributed run.

    Raises:
        UnseenError: Weights that do not fit, or a loss that is not finite.
    """
    folder, class_names = plan.folder, plan.benchmark.class_names
    # Before anything is built, as new weights are drawn from this seed.
    torch.manual_seed(plan.settings.seed)
    segmenter = build(plan.source, class_names)
    text = encode(segmenter, class_names)
    run = plan.run(tower_identities(segmenter))
    # The state of a stopped run holds the weights itself.
    stopped = plan.resume and (folder / STATE).exists()
    if run.init is not None and not stopped:
        _start_from(Path(run.init), segmenter, run)
    begin, snapshot = _writers(folder, segmenter, run, plan.text_embeddings)
    control = RunControl(folder, plan.resume, progress, begin, snapshot)
    if not fit(segmenter, text, plan.benchmark, plan.root, plan.settings, control):
        return None
    save_run(folder, segmenter, run)
    return segmenter, text


def _writers(
    folder: Path, segmenter: TextSegmenter, run: Run, text_embeddings: Path | None
) -> tuple[Callable[[], None], Callable[[int], None]]:
    """What to write before the first step, and after the steps of `snapshots`."""

    def begin() -> None:
        save_config(folder, run)
        if text_embeddings is not None:
            with replacing(folder / TEXT) as beside:
                shutil.copyfile(text_embeddings, beside)

    def snapshot(step: int) -> None:
        save_run(folder / f"step-{step}", segmenter, run)
        if run.text_embeddings:
            shutil.copyfile(folder / TEXT, folder / f"step-{step}" / TEXT)

    return begin, snapshot


def _start_from(init: Path, segmenter: TextSegmenter, run: Run) -> None:
    """Give the segmenter the trained weights of another run.

    Raises:
        SettingError: A run of another method, other options or another tower.
    """
    start, _ = load_run(init)
    needed = {name: tensor.shape for name, tensor in segmenter.trainable_state().items()}
    stored = {name: tensor.shape for name, tensor in start.trainable_state().items()}
    differs = sorted(
        name for name in needed.keys() | stored.keys() if needed.get(name) != stored.get(name)
    )
    if tower_identities(start) != run.towers:
        differs.append("the tower")
    if differs:
        raise SettingError(
            f"{init} holds another model than the one to train (differs in {differs[0]}); start"
            " from a run of the same method and options"
        )
    segmenter.load_state_dict(start.trainable_state(), strict=False)
