"""Contrastive pre-training of the doodle CLIP on drawn scenes and their captions.

A small CLIP (plain ViT, patch 8; causal text tower; the CLIP tokenizer) learns from images and
captions alone: all twenty classes, no masks, no labels. Loss: the symmetric cross-entropy of CLIP
(Radford et al. 2021, arXiv 2103.00020, figure 3), with equal captions of a batch counted as one
text.

Shapes whose colour, place and rotation are random are hard to learn at first, so the scenes become
harder: their `variety` grows from 0 to 1 over the first fifth of the run, and scenes of several
objects join after two fifths.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from unseen.backbones.archives import write_tensors
from unseen.backbones.clip.loading import build_clip
from unseen.data.classes import DOODLES
from unseen.data.doodles import draw
from unseen.files import about, check_output_folder, check_replaceable
from unseen.segmenter import decay_groups
from unseen.settings import TrainSettings
from unseen.settings.ranges import SEED, check_ranges, whole
from unseen.training.loop import Job, make_fabric, run_loop
from unseen.training.records import RunControl

CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 6, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    "quick_gelu": False,
}
"""The architecture, in open_clip's terms."""

WEIGHTS = "doodles.safetensors"
TEMPLATES = ("a photo of a {}", "a drawing of a {}", "a {}", "there is a {} in the scene")
HELD_OUT = 1_000_003
"""Seed of the scenes that measure zero-shot accuracy; training scenes come from other seeds."""


class Captions(Dataset[tuple[Tensor, list[str]]]):
    """Item `step` is the whole batch of that step, so a resumed run sees the same batches."""

    def __init__(self, seed: int, steps: int, batch_size: int) -> None:
        self.seed, self.steps, self.batch_size = seed, steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        """Images (B, 3, 64, 64) uint8 and one caption each, all of one template and style."""
        progress = step / self.steps
        # The 1 keeps these numbers apart from those of the scenes, drawn from (seed, index).
        rng = np.random.default_rng([self.seed, step, 1])
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        # From 30 % of the run on, the captions of a fifth of the batches name colours as well.
        with_colours = bool(progress > 0.3 and rng.random() < 0.2)
        # The curriculum of the module's docstring.
        most = 1
        if progress > 0.4:
            most = 3
        variety = min(1.0, 0.05 + progress / 0.2)
        first = step * self.batch_size
        scenes = [
            draw(self.seed, index, max_things=most, variety=variety)
            for index in range(first, first + self.batch_size)
        ]
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        return images, [scene.caption(template, with_colours=with_colours) for scene in scenes]


def contrastive_loss(images: Tensor, texts: Tensor, match: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss when several images may share a text.

    Args:
        images: (B, D) unit vectors.
        texts: (U, D) unit vectors, one a distinct caption.
        match: (B,) int64, the caption of each image; every caption has an image.
        scale: The inverse temperature.
    """
    logits = scale * images @ texts.T  # (B, U)
    # Image to text is plain cross-entropy. A text averages over all of its images, so that images
    # with the same caption are no negatives of each other.
    owners = F.one_hot(match, len(texts)).to(logits.dtype)
    of_text = -(owners * logits.log_softmax(dim=0)).sum(dim=0) / owners.sum(dim=0)  # (U,)
    return (F.cross_entropy(logits, match) + of_text.mean()) / 2


class Pretraining(nn.Module):
    """The doodle CLIP, and its loss on a batch.

    Args:
        seed: Of the first weights.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.clip = build_clip(CONFIG, source="doodles", seed=seed)
        self.clip.requires_grad_(True)
        # Captions use thirty of its 49 408 rows, which serve as well at their random first values.
        self.clip.text_tower.token_embedding.requires_grad_(False)
        # CLIP's first temperature, 0.07, learned as the logarithm of its inverse (§2.5).
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.logit_scale.device

    def encode_texts(self, captions: list[str]) -> Tensor:
        """Unit vectors (U, D) of U captions."""
        ids = self.clip.tokenize(captions)
        # The tower is causal and reads the end-of-text token, so later columns change nothing.
        length = int((ids != 0).sum(dim=1).max())
        return F.normalize(
            self.clip.encode_tokens(ids[:, :length].to(self.device))[0].float(), dim=-1
        )

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) of images (B, 3, H, W) uint8."""
        return F.normalize(self.clip.encode_image(images / 255).float(), dim=-1)

    def forward(self, batch: tuple[Tensor, list[str]]) -> dict[str, Tensor]:
        """The loss of images (B, 3, H, W) uint8 and their captions, as "total"."""
        images, captions = batch
        # Equal captions of a batch are encoded once.
        rows = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        match = torch.tensor([rows[caption] for caption in captions], device=self.device)
        loss = contrastive_loss(
            self.encode_images(images),
            self.encode_texts(list(rows)),
            match,
            self.logit_scale.exp().clamp(max=100),  # as CLIP does, against instability (§2.5)
        )
        return {"total": loss}

    @torch.no_grad()
    def accuracy(self, scenes: int = 2000, batch_size: int = 250) -> float:
        """Zero-shot accuracy in percent over the twenty classes, with "a photo of a {}".

        Args:
            scenes: How many held-out scenes of one object each.
            batch_size: Scenes computed at a time.
        """
        texts = self.encode_texts([TEMPLATES[0].format(name) for name in DOODLES])
        right = 0
        for first in range(0, scenes, batch_size):
            drawn = [
                draw(HELD_OUT, index, max_things=1)
                for index in range(first, min(first + batch_size, scenes))
            ]
            images = (
                torch.from_numpy(np.stack([scene.image for scene in drawn]))
                .permute(0, 3, 1, 2)
                .to(self.device)
            )
            guess = (self.encode_images(images) @ texts.T).argmax(dim=1).cpu()
            right += int((guess == torch.tensor([scene.things[0] for scene in drawn])).sum())
        return 100 * right / scenes


def make_settings(seed: int, steps: int, batch_size: int, save_every: int) -> TrainSettings:
    """What the shipped tower was trained with, but for these four."""
    return TrainSettings(
        steps=steps,
        batch_size=batch_size,
        lr=1e-3,
        weight_decay=0.05,
        warmup=200,
        clip_norm=1.0,
        seed=seed,
        precision="bf16-mixed",
        save_every=save_every,
        devices="1",
    )


def make_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW that decays matrices only, with the second beta of CLIP's vision transformers."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = decay_groups(trained, settings)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98))


def rate_factor(step: int, settings: TrainSettings) -> float:
    """Linear warm-up that is at its peak in its last step, times a cosine decay to 0."""
    warmup = min(1.0, (step + 1) / settings.warmup)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def pretrain(  # noqa: PLR0913 - keyword-only
    out: Path,
    *,
    seed: int = 0,
    steps: int = 16_000,
    batch_size: int = 64,
    resume: bool = False,
    progress: bool = True,
    save_every: int = 500,
) -> float:
    """Train the doodle CLIP; writes `doodles.safetensors`, a curve and a state into `out`.

    Args:
        out: Folder.
        seed: Of scenes and first values.
        steps: Optimiser steps.
        batch_size: Scenes a step.
        resume: Go on from the state in `out`, if there is one.
        progress: Show a progress bar.
        save_every: Steps between resumable states.

    Returns:
        Zero-shot accuracy in percent (`Pretraining.accuracy`) of the weights as written.
    """
    numbers = SimpleNamespace(seed=seed, steps=steps, batch_size=batch_size)
    check_ranges(numbers, "", {"seed": SEED, "steps": whole(1), "batch_size": whole(1, 2**16)})
    check_output_folder(out)
    check_replaceable([out / WEIGHTS])
    settings = make_settings(seed, steps, batch_size, save_every)
    module = Pretraining(seed)
    captions = Captions(seed, steps, batch_size)
    job = Job(
        module=module,
        optimizer=make_optimizer(module, settings),
        factor=lambda step: rate_factor(step, settings),
        batches=lambda start, *_: DataLoader(
            captions, batch_size=None, sampler=range(start, steps)
        ),
        trained=module.state_dict,
    )
    run_loop(make_fabric(settings), job, settings, RunControl(out, resume, progress=progress))
    # Accuracy is that of the file, which is in half precision, not that of the trained weights.
    weights = module.clip.state_to_save()
    for tensor in module.clip.parameters():
        tensor.data = tensor.data.half().float()
    accuracy = module.accuracy()
    facts = {
        "about": about(),
        "config": json.dumps(CONFIG),
        "seed": str(seed),
        "steps": str(steps),
        "batch_size": str(batch_size),
        "accuracy": f"{accuracy:.2f}",
    }
    write_tensors(out / WEIGHTS, weights, facts)
    return accuracy
