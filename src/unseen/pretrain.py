"""Contrastive pre-training of the doodle CLIP: what CLIP is to the web, this is to the embedded
world.

A small CLIP (plain ViT, patch 8; causal text tower; the CLIP tokenizer) learns from images and
captions alone: all twenty words, no masks, no labels. Loss: the symmetric cross-entropy of CLIP
(Radford et al. 2021, arXiv 2103.00020, figure 3), with equal captions of a batch counted as one
text.

Learning shapes whose colour, place and turn are random starts slowly, so the world opens up: the
`variety` of the scenes grows from 0 to 1 over the first fifth of the run, and scenes of several
things join after two fifths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from unseen.backbones.clip import build_clip
from unseen.data.classes import DOODLES
from unseen.data.doodles import draw
from unseen.files import replacing
from unseen.training import STATE, run

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
    """Item `step` is the whole batch of that step, so a run that resumes at a step sees what the
    uninterrupted run sees.
    """

    def __init__(self, seed: int, steps: int, batch_size: int) -> None:
        self.seed, self.steps, self.batch_size = seed, steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        """Images (B, 3, 64, 64) uint8 and one caption each; all captions of a batch share
        template and style.
        """
        progress = step / self.steps
        rng = np.random.default_rng([self.seed, step, 1])
        template, with_colours = (
            TEMPLATES[rng.integers(len(TEMPLATES))],
            bool(progress > 0.3 and rng.random() < 0.2),
        )
        first = step * self.batch_size
        scenes = [
            draw(
                self.seed,
                index,
                max_things=3 if progress > 0.4 else 1,
                variety=min(1.0, 0.05 + progress / 0.2),
            )
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
    owners = F.one_hot(match, len(texts)).to(logits.dtype)
    of_text = -(owners * logits.log_softmax(dim=0)).sum(dim=0) / owners.sum(dim=0)  # (U,)
    return (F.cross_entropy(logits, match) + of_text.mean()) / 2


class Pretraining(L.LightningModule):
    """The doodle CLIP and its optimiser: AdamW, linear warm-up, cosine decay to zero."""

    def __init__(
        self,
        steps: int,
        seed: int = 0,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: int = 200,
    ) -> None:
        super().__init__()
        self.steps, self.lr, self.weight_decay, self.warmup = steps, lr, weight_decay, warmup
        self.clip = build_clip(CONFIG, source="doodles", seed=seed)
        self.clip.requires_grad_(True)
        self.clip.text.token_embedding.requires_grad_(
            False
        )  # 49 408 rows, of which captions use thirty: random ones serve as well
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_texts(self, captions: list[str]) -> Tensor:
        """Unit vectors (U, D). Columns after the longest caption are left out: the tower is causal
        and reads the end-of-text token.
        """
        ids = self.clip.tokenize(captions)
        length = int((ids != 0).sum(dim=1).max())
        return F.normalize(
            self.clip.encode_tokens(ids[:, :length].to(self.device))[0].float(), dim=-1
        )

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) of images (B, 3, H, W) uint8."""
        return F.normalize(self.clip.encode_image(images / 255).float(), dim=-1)

    def training_step(self, batch: tuple[Tensor, list[str]], index: int) -> Tensor:
        """One step on one batch."""
        images, captions = batch
        distinct = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        match = torch.tensor([distinct[caption] for caption in captions], device=self.device)
        loss = contrastive_loss(
            self.encode_images(images),
            self.encode_texts(list(distinct)),
            match,
            self.logit_scale.exp().clamp(max=100),
        )
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with decay on matrices only."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98))

        def factor(step: int) -> float:
            return (
                min(1.0, (step + 1) / self.warmup)
                * 0.5
                * (1 + math.cos(math.pi * step / self.steps))
            )

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    @torch.no_grad()
    def accuracy(self, scenes: int = 2000, batch_size: int = 250) -> float:
        """Zero-shot accuracy in percent over the twenty words on held-out scenes of one thing each;
        template "a photo of a {}".
        """
        texts = self.encode_texts([TEMPLATES[0].format(word) for word in DOODLES])
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


class _Onward(Sampler[int]):
    """Steps from the current one on, asked anew whenever an iteration begins: Lightning cuts a
    resumed run into several.
    """

    def __init__(self, current: Callable[[], int], steps: int) -> None:
        self.current, self.steps = current, steps

    def __len__(self) -> int:
        return self.steps - self.current()

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.current(), self.steps))


class _Batches(L.LightningDataModule):
    """Builds the loader when Lightning asks for it: by then the step to resume from is known."""

    def __init__(self, batches: Captions) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=_Onward(lambda: trainer.global_step, len(self.batches)),
        )


def pretrain(
    out: Path,
    *,
    seed: int = 0,
    steps: int = 16_000,
    batch_size: int = 64,
    resume: bool = False,
    progress: bool = True,
    save_every: int = 500,
) -> float:
    """Train the doodle CLIP; writes `doodles.safetensors`, a log and a resumable state into `out`.

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
    L.seed_everything(seed, verbose=False)
    module = Pretraining(steps, seed)
    state = out / STATE
    checkpoints = ModelCheckpoint(
        state.parent,
        filename=state.stem,
        every_n_train_steps=min(save_every, steps),
        enable_version_counter=False,
    )
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        devices=1,
        enable_progress_bar=progress,
        enable_model_summary=False,
        callbacks=[checkpoints, *([TQDMProgressBar(refresh_rate=20)] if progress else [])],
        logger=CSVLogger(out, name="", version=""),
        log_every_n_steps=50,
    )
    run(
        trainer,
        module,
        _Batches(Captions(seed, steps, batch_size)),
        state if resume and state.exists() else None,
    )
    weights = module.clip.state_to_save()
    for tensor in module.clip.parameters():
        tensor.data = tensor.data.half().float()  # what a reader of the file will have
    accuracy = module.accuracy()
    about = {
        "config": json.dumps(CONFIG),
        "seed": str(seed),
        "steps": str(steps),
        "batch_size": str(batch_size),
        "accuracy": f"{accuracy:.2f}",
    }
    with replacing(out / WEIGHTS) as beside:
        save_file(weights, beside, metadata=about)
    return accuracy
