"""Contrastive pre-training of the doodle CLIP: what CLIP is to the web, this is to the embedded world.

A small open_clip model (plain ViT, patch 8; causal text tower; the CLIP tokenizer) learns from pictures and captions alone: all twenty
words, no masks, no labels. Loss: the symmetric cross-entropy of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3), with
equal captions of a batch counted as one text.

Learning shapes whose colour, place and turn are random starts slowly, so the world opens up: the `variety` of the scenes grows from 0 to 1
over the first fifth of the run, and scenes of several things join after two fifths.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import open_clip
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from unseen.data.classes import DOODLES
from unseen.data.doodles import draw

CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 6, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    "quick_gelu": False,
}
"""The architecture, in open_clip's terms."""

TEMPLATES = ("a photo of a {}", "a drawing of a {}", "a {}", "there is a {} in the scene")
HELD_OUT = 1_000_003
"""Seed of the scenes that measure zero-shot accuracy; training scenes come from other seeds."""


class Captions(Dataset[tuple[Tensor, list[str]]]):
    """Item `step` is the whole batch of that step, so a run that resumes at a step sees what the uninterrupted run sees."""

    def __init__(self, seed: int, steps: int, batch_size: int) -> None:
        self.seed, self.steps, self.batch_size = seed, steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        """Pictures (B, 3, 64, 64) uint8 and one caption each; all captions of a batch share template and style."""
        progress = step / self.steps
        rng = np.random.default_rng([self.seed, step, 1])
        template, with_colours = TEMPLATES[rng.integers(len(TEMPLATES))], bool(progress > 0.3 and rng.random() < 0.2)
        first = step * self.batch_size
        scenes = [
            draw(self.seed, index, max_things=3 if progress > 0.4 else 1, variety=min(1.0, 0.05 + progress / 0.2))
            for index in range(first, first + self.batch_size)
        ]
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        return images, [scene.caption(template, with_colours=with_colours) for scene in scenes]


def contrastive_loss(images: Tensor, texts: Tensor, match: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss when several pictures may share a text.

    Args:
        images: (B, D) unit vectors.
        texts: (U, D) unit vectors, one a distinct caption.
        match: (B,) int64, the caption of each picture; every caption has a picture.
        scale: The inverse temperature.
    """
    logits = scale * images @ texts.T  # (B, U)
    owners = F.one_hot(match, len(texts)).to(logits.dtype)
    of_text = -(owners * logits.log_softmax(dim=0)).sum(dim=0) / owners.sum(dim=0)  # (U,)
    return (F.cross_entropy(logits, match) + of_text.mean()) / 2


class Pretraining(L.LightningModule):
    """The doodle CLIP and its optimiser: AdamW, linear warm-up, cosine decay to zero."""

    def __init__(self, steps: int, lr: float = 1e-3, weight_decay: float = 0.05, warmup: int = 200) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = open_clip.CLIP(**CONFIG)
        self.model.token_embedding.requires_grad_(False)  # 49 408 rows, of which captions use thirty: random ones serve as well
        self.tokenizer = cache(open_clip.SimpleTokenizer().encode)
        self.register_buffer("mean", torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1), persistent=False)

    def encode_texts(self, captions: list[str]) -> Tensor:
        """Unit vectors (U, D). Tokens after the longest caption are left out: the tower is causal and reads the end-of-text token."""
        rows = [[49406, *self.tokenizer(caption), 49407] for caption in captions]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.device)
        model = self.model
        x = model.token_embedding(ids) + model.positional_embedding[:length]  # (U, T, width)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        return F.normalize((x[torch.arange(len(rows)), ids.argmax(dim=1)] @ model.text_projection).float(), dim=-1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, D) of pictures (B, 3, H, W) uint8."""
        return F.normalize(self.model.encode_image((images / 255 - self.mean) / self.std).float(), dim=-1)

    def training_step(self, batch: tuple[Tensor, list[str]], index: int) -> Tensor:
        images, captions = batch
        distinct = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        match = torch.tensor([distinct[caption] for caption in captions], device=self.device)
        scale = self.model.logit_scale.exp().clamp(max=100)
        loss = contrastive_loss(self.encode_images(images), self.encode_texts(list(distinct)), match, scale)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in self.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.hparams["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"], betas=(0.9, 0.98))

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / self.hparams["warmup"]) * 0.5 * (1 + np.cos(np.pi * step / self.hparams["steps"]))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @torch.no_grad()
    def accuracy(self, scenes: int = 2000, batch_size: int = 250) -> float:
        """Zero-shot accuracy in percent over the twenty words on held-out scenes of one thing each; template "a photo of a {}"."""
        self.eval()
        texts = self.encode_texts([TEMPLATES[0].format(word) for word in DOODLES])
        right = 0
        for first in range(0, scenes, batch_size):
            drawn = [draw(HELD_OUT, index, max_things=1) for index in range(first, first + batch_size)]
            images = torch.from_numpy(np.stack([scene.image for scene in drawn])).permute(0, 3, 1, 2).to(self.device)
            right += int(((self.encode_images(images) @ texts.T).argmax(dim=1).cpu() == torch.tensor([s.things[0] for s in drawn])).sum())
        return 100 * right / scenes


class _Resumable(L.LightningDataModule):
    def __init__(self, batches: Captions, workers: int) -> None:
        super().__init__()
        self.batches, self.workers = batches, workers

    def train_dataloader(self) -> DataLoader[Any]:
        start = self.trainer.global_step if self.trainer else 0
        return DataLoader(self.batches, batch_size=None, sampler=range(start, len(self.batches)), num_workers=self.workers)


def pretrain(out: Path, *, seed: int = 0, steps: int = 16_000, batch_size: int = 64, resume: bool = False, workers: int = 0) -> None:
    out.mkdir(parents=True, exist_ok=True)
    L.seed_everything(seed, verbose=False)
    module = Pretraining(steps)
    checkpoints = ModelCheckpoint(out / "state", filename="last", every_n_train_steps=500, enable_version_counter=False)
    trainer = L.Trainer(
        max_steps=steps, max_epochs=-1, precision="bf16-mixed", gradient_clip_val=1.0, callbacks=[checkpoints, TQDMProgressBar(refresh_rate=50)],
        logger=CSVLogger(out, name="", version=""), log_every_n_steps=50, enable_model_summary=False,
    )  # fmt: skip
    last = out / "state" / "last.ckpt"
    with sdpa_kernel(SDPBackend.MATH):
        trainer.fit(module, datamodule=_Resumable(Captions(seed, steps, batch_size), workers), ckpt_path=last if resume and last.exists() else None)
    module.float()
    with torch.autocast("cpu", torch.bfloat16):
        accuracy = module.accuracy()
    state = {name: tensor.detach().half().contiguous() for name, tensor in module.model.state_dict().items()}
    save_file(state, out / "doodles.safetensors", metadata={"config": json.dumps(CONFIG), "accuracy": f"{accuracy:.1f}"})
    print("accuracy", accuracy)


if __name__ == "__main__":
    import sys

    pretrain(Path(sys.argv[1]), steps=int(sys.argv[2]), resume="--resume" in sys.argv)
