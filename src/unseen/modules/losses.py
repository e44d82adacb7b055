"""Mask losses on resized logits.

Targets are made by comparison when needed; label maps stay integer maps everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unseen.labels import IGNORE

FocalOver = Literal["labelled", "all"]
BLOCK = (2**24, 2**18)
"""Values of the maps that are computed at a time, on accelerators and on CPUs: more than a cache
holds takes longer."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0 where there are none.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), indices of the K classes or 255.
    """
    # The mean of PyTorch divides by 0 where every pixel is ignored.
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


@dataclass(frozen=True)
class MaskLoss:
    """Focal and dice loss, weighted (ZegCLIP eq. 9).

    Attributes:
        mask_weight: Weight of the focal loss.
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of positives in the focal loss.
        ignored_as: What a pixel with the ignore label is: left out ("ignore"), or "negative" for
            every class.
        focal_over: What the focal loss is averaged over (`sigmoid_focal_loss`).
    """

    mask_weight: float = 1.0
    dice_weight: float = 1.0
    focal_alpha: float = 0.25
    ignored_as: Literal["ignore", "negative"] = "ignore"
    focal_over: FocalOver = "all"

    def __call__(
        self,
        maps: Sequence[tuple[Tensor, float]],
        labels: Tensor,
        resize: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Terms `mask` (focal) and `dice`, weighted, summed over the maps.

        Args:
            maps: Logits (B, K, h, w), each with the weight of its loss.
            labels: (B, H, W), indices of the K classes or 255.
            resize: Takes maps (B, k, h, w) to image size (B, k, H, W).
        """
        terms = [[weight * term for term in self.terms(m, labels, resize)] for m, weight in maps]
        focal, dice = (torch.stack(parts).sum() for parts in zip(*terms, strict=True))
        return {"mask": self.mask_weight * focal, "dice": self.dice_weight * dice}

    def terms(
        self, logits: Tensor, labels: Tensor, resize: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Focal and dice loss of one set of maps, unweighted.

        Both are divided by the number of (image, class) pairs present, at least 1, averaged over
        processes.
        """
        focal, dice, present = _MaskTerms.apply(logits, labels, resize, self)
        present = mean_over_ranks(present).clamp(min=1)
        return focal / present, dice / present


class _MaskTerms(torch.autograd.Function):
    """Focal and dice loss of all maps, and their gradients, in blocks that fit into caches.

    The gradients of both sums are computed with their values, in closed form, and brought back to
    the size of the logits at once. So no map of image size outlives its block: plain operations
    would keep about ten of each class until the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        resize: Callable[[Tensor], Tensor],
        loss: MaskLoss,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of both losses, and the number of (image, class) pairs present."""
        with_gradient = ctx.needs_input_grad[0]
        gradients = [torch.zeros_like(logits) for _ in range(2 if with_gradient else 0)]
        sums = []
        for image, label in enumerate(labels):
            pixels = _Pixels(label.flatten(), loss)
            for first, last in _ranges(logits.shape[1], label.numel(), logits.device):
                part = logits[image : image + 1, first:last].detach()
                part.requires_grad_(with_gradient)
                with torch.set_grad_enabled(with_gradient):
                    maps = resize(part)
                values, slopes = pixels.terms(maps.detach(), first, with_gradient=with_gradient)
                sums.append(values)
                for gradient, slope in zip(gradients, slopes, strict=True):
                    (back,) = torch.autograd.grad(maps, part, slope, retain_graph=True)
                    gradient[image, first:last] = back[0]
        ctx.save_for_backward(*gradients)
        focal, dice, present = torch.stack(sums).sum(dim=0).unbind()
        ctx.mark_non_differentiable(present)
        return focal, dice, present

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, focal: Tensor, dice: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the logits from those of the two sums."""
        of_focal, of_dice = ctx.saved_tensors
        return focal * of_focal + dice * of_dice, None, None, None


def _ranges(classes: int, pixels: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Classes whose maps are computed together."""
    blocks = math.ceil(classes * pixels / BLOCK[device.type == "cpu"])
    step = math.ceil(classes / min(blocks, classes))
    for first in range(0, classes, step):
        yield first, min(first + step, classes)


class _Pixels:
    """The labels of an image, and the losses of maps on them.

    Args:
        labels: (P,), indices of classes or 255.
        loss: How the losses are computed.
    """

    def __init__(self, labels: Tensor, loss: MaskLoss) -> None:
        self.labels, self.alpha = labels, loss.focal_alpha
        known = torch.ones_like(labels, dtype=torch.bool)
        if loss.ignored_as == "ignore":
            known = labels != IGNORE
        self.weights = known.float()
        over_all = loss.focal_over == "all"
        self.count = known.new_tensor(labels.numel(), dtype=torch.float32)
        if not over_all:
            self.count = self.weights.sum().clamp(min=1)

    def terms(
        self, maps: Tensor, first: int, *, with_gradient: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Focal loss, dice loss and classes present (3), and the slopes (1, k, H, W) of the losses.

        Args:
            maps: Logits (1, k, H, W) float32 of the classes from index `first` on.
            first: Index of the first class.
            with_gradient: Without it there are no slopes.
        """
        x = maps.flatten(2)[0]  # (k, P)
        inside = (self.labels >= first) & (self.labels < first + len(x)) & (self.weights > 0)
        pixel = inside.nonzero().squeeze(1)
        at = (self.labels[pixel] - first, pixel)
        negative = 1 - self.alpha
        p, entropy = x.sigmoid(), F.softplus(x)  # -log(1 - p)
        squared = p * p
        # Each pixel is positive for one class at most: all are summed as negatives first.
        focal_map = squared * entropy
        own, missed, own_entropy = p[at], 1 - p[at], F.softplus(-x[at])
        positives = focal_map[at].sum()
        focal = negative * (focal_map.mul_(self.weights).sum() - positives)
        focal = (focal + self.alpha * (missed**2 * own_entropy).sum()) / self.count
        counts = p.new_zeros(len(x)).index_add_(0, at[0], torch.ones_like(own))
        overlap = p.new_zeros(len(x)).index_add_(0, at[0], own)
        # Classes that an image does not show have no area to overlap: they do not count.
        present = (counts > 0).float()
        whole = (p * self.weights).sum(dim=1) + counts + 1
        shared = 2 * overlap + 1
        dice = (present * (1 - shared / whole)).sum()
        values = torch.stack([focal, dice, present.sum()])
        if not with_gradient:
            return values, ()
        slope = p.neg().add_(1)  # 1 - p
        of_focal = entropy.mul_(slope).mul_(2).add_(p).mul_(squared)
        of_focal.mul_(self.weights * (negative / self.count))
        of_focal[at] = -self.alpha / self.count * missed**2 * (2 * own * own_entropy + missed)
        of_dice = slope.mul_(p).mul_(self.weights).mul_((present * shared / whole**2)[:, None])
        of_dice[at] -= 2 / whole[at[0]] * own * missed
        return values, (of_focal.view_as(maps), of_dice.view_as(maps))


def calibrated(scores: Tensor, seen: Sequence[int] | None, calibration: float) -> Tensor:
    """Scores with those of seen classes reduced.

    Calibrated stacking (Chao et al. 2016, arXiv 1605.04253).

    Args:
        scores: (B, K, …); left as they are.
        seen: Indices of the seen classes.
        calibration: γ.
    """
    if seen is None:
        return scores
    # A new tensor, because callers may hand over views of what they keep.
    reduction = scores.new_zeros(scores.shape[1])
    reduction[list(seen)] = calibration
    return scores - reduction.view(1, -1, *[1] * (scores.ndim - 2))


def mean_over_ranks(count: Tensor) -> Tensor:
    """A number averaged over the processes of a distributed run, float32."""
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count
