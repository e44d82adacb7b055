"""Optimisers, their parameter groups, and learning rates as functions of the step."""

from __future__ import annotations

import numpy as np
import torch

from unseen.segmenter import Segmenter
from unseen.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate at a step, counted from 0.

    poly: (lr - min_lr) (1 - t/T)^power + min_lr, at step t of T. During the warm-up the rate is
    multiplied by 1 - (1 - t/warmup) (1 - warmup_ratio).
    """
    progress = min(step / settings.steps, 1.0)
    # "step" divides the rate by 10 after each third of the run; "constant" is what remains.
    if settings.schedule == "poly":
        decay = (1 - progress) ** settings.power
        rate = (settings.lr - settings.min_lr) * decay + settings.min_lr
    elif settings.schedule == "cosine":
        rate = settings.lr * 0.5 * (1 + np.cos(np.pi * progress))
    elif settings.schedule == "step":
        rate = settings.lr * 0.1 ** min(2, int(3 * progress))
    else:
        rate = settings.lr
    # As in MMCV, the warm-up multiplies the schedule's rate and does not delay the schedule.
    if step < settings.warmup:
        rate *= 1 - (1 - step / settings.warmup) * (1 - settings.warmup_ratio)
    return float(rate)


def make_optimizer(segmenter: Segmenter, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9, over the method's parameter groups."""
    groups = segmenter.parameter_groups(settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.lr)
