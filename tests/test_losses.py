"""Focal loss against torchvision, dice against a plain loop, and ignored pixels in both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
import torchvision
from torch import Tensor

from unseen.labels import IGNORE, PADDING
from unseen.modules.losses import (
    MaskLoss,
    calibrated,
    dice_loss,
    mean_over_ranks,
    one_hot,
    sigmoid_focal_loss,
)

CLASSES = 4


def maps() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (2, 4, 5, 6), labels and weights.

    Some pixels are ignored, and class 3 is absent in the first image.
    """
    logits, labels = 2 * torch.randn(2, CLASSES, 5, 6), torch.randint(0, CLASSES, (2, 5, 6))
    labels[0] = labels[0].clamp(max=2)
    labels[:, 1, 2:] = IGNORE
    labels[1, 2:] = IGNORE
    return logits, labels, (labels != IGNORE).unsqueeze(1).float()


def test_one_hot() -> None:
    labels = torch.tensor([[[0, 2], [IGNORE, PADDING]]])
    targets = one_hot(labels, 3)
    assert targets.dtype == torch.bool
    assert targets.int().tolist() == [[[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [0, 0]]]]


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0), (0.5, 0.0)])
def test_focal_loss_is_torchvisions(alpha: float, gamma: float) -> None:
    logits, labels, _ = maps()
    targets = one_hot(labels, CLASSES)
    expected = torchvision.ops.sigmoid_focal_loss(
        logits, targets.float(), alpha=alpha, gamma=gamma, reduction="none"
    )
    ours = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    assert ours.item() == pytest.approx(expected.mean(dim=(2, 3)).sum().item(), rel=1e-6)


@pytest.mark.parametrize("over", ["labelled", "all"])
def test_focal_loss_averages_over_labelled_or_all_pixels(over: Literal["labelled", "all"]) -> None:
    logits, labels, weights = maps()
    expected = 0.0
    for image_logits, label in zip(logits, labels, strict=True):
        known = label != IGNORE
        one = torch.nn.functional.one_hot(label[known], CLASSES).T.float()
        total = torchvision.ops.sigmoid_focal_loss(
            image_logits[:, known], one, reduction="sum"
        ).item()
        expected += total / (known.sum().item() if over == "labelled" else known.numel())
    assert sigmoid_focal_loss(
        logits, one_hot(labels, CLASSES), weights, over=over
    ).item() == pytest.approx(expected, rel=1e-6)


def plain_dice(logits: Tensor, labels: Tensor, *, with_ignored: bool) -> float:
    total = 0.0
    for image_logits, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for k in range(CLASSES):
            overlap = area = positives = 0.0
            for logit_row, label_row in zip(image_logits[k], label, strict=True):
                for logit, value in zip(logit_row, label_row, strict=True):
                    if value == IGNORE and not with_ignored:
                        continue
                    p = 1 / (1 + math.exp(-logit))
                    overlap += p if value == k else 0.0
                    area += p
                    positives += value == k
            if positives:
                total += 1 - (2 * overlap + 1) / (area + positives + 1)
    return total


def test_dice_loss_is_the_plain_loop() -> None:
    logits, labels, weights = maps()
    targets = one_hot(labels, CLASSES)
    assert not targets[0, 3].any()
    assert dice_loss(logits, targets).item() == pytest.approx(
        plain_dice(logits, labels, with_ignored=True), rel=1e-5
    )
    assert dice_loss(logits, targets, weights).item() == pytest.approx(
        plain_dice(logits, labels, with_ignored=False), rel=1e-5
    )


def test_dice_of_a_perfect_map_is_nothing() -> None:
    targets = one_hot(torch.tensor([[[0, 1], [1, 1]]]), 2)
    assert dice_loss(torch.where(targets, 50.0, -50.0), targets).item() == pytest.approx(
        0, abs=1e-6
    )
    assert dice_loss(torch.where(targets, -50.0, 50.0), targets).item() == pytest.approx(
        (1 - 1 / 5) + (1 - 1 / 5), rel=1e-6
    )


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, dice_loss])
def test_ignored_pixels_have_no_loss_and_no_gradient(
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> None:
    logits, labels, weights = maps()
    targets, ignored = one_hot(labels, CLASSES), (weights == 0).expand_as(logits)
    changed = torch.where(ignored, logits + 7 * torch.randn_like(logits), logits).requires_grad_()
    logits.requires_grad_()
    first, second = loss(logits, targets, weights), loss(changed, targets, weights)
    assert first.item() == second.item()
    assert loss(logits, targets, None).item() != pytest.approx(
        loss(changed, targets, None).item(), rel=1e-3
    )
    second.backward()
    assert changed.grad is not None
    assert (changed.grad[ignored] == 0).all()
    assert (changed.grad[~ignored & targets] != 0).all()


def test_an_ignored_image_has_no_loss() -> None:
    logits = torch.randn(1, CLASSES, 3, 3, requires_grad=True)
    targets, weights = one_hot(torch.full((1, 3, 3), IGNORE), CLASSES), torch.zeros(1, 1, 3, 3)
    total = sigmoid_focal_loss(logits, targets, weights) + dice_loss(logits, targets, weights)
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_far_logits_stay_finite() -> None:
    logits = torch.tensor([[[[1e4, -1e4]]]], requires_grad=True)
    targets = torch.tensor([[[[False, True]]]])
    total = sigmoid_focal_loss(logits, targets) + dice_loss(logits, targets)
    total.backward()
    assert total.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("ignored_as", ["ignore", "negative"])
def test_classes_in_parts_have_the_loss_and_gradient_of_all_at_once(
    ignored_as: Literal["ignore", "negative"],
) -> None:
    """The loss sums over the classes present, whatever the number computed at a time."""
    _, labels, weights = maps()
    resize = torch.nn.UpsamplingBilinear2d(size=(5, 6))
    small = torch.randn(2, CLASSES, 2, 3)
    results = []
    for classes_at_once in (1, 3, 100):
        leaf = small.clone().requires_grad_()
        loss = MaskLoss(ignored_as=ignored_as, classes_at_once=classes_at_once)
        focal, dice = loss.terms(leaf, labels, resize)
        (focal + 3 * dice).backward()
        results.append((focal.item(), dice.item(), leaf.grad))
    for focal_, dice_, grad in results[:2]:
        assert focal_ == pytest.approx(results[2][0], rel=1e-5)
        assert dice_ == pytest.approx(results[2][1], rel=1e-5)
        assert grad is not None
        assert results[2][2] is not None
        assert torch.allclose(grad, results[2][2], atol=1e-6)
    targets, counted = one_hot(labels, CLASSES), weights if ignored_as == "ignore" else None
    present = targets.flatten(2).any(dim=2).sum().item()
    assert results[2][0] == pytest.approx(
        sigmoid_focal_loss(resize(small), targets, counted).item() / present, rel=1e-5
    )
    assert results[2][1] == pytest.approx(
        dice_loss(resize(small), targets, counted).item() / present, rel=1e-5
    )


def test_mean_over_one_process_is_the_number_itself() -> None:
    mean = mean_over_ranks(torch.tensor(7))
    assert mean.dtype == torch.float32
    assert mean.item() == 7


def test_weightless_pixels_do_not_count_as_positives() -> None:
    targets, weights = torch.ones(1, 1, 2, 2, dtype=torch.bool), torch.zeros(1, 1, 2, 2)
    assert dice_loss(torch.randn(1, 1, 2, 2), targets, weights).item() == 0


def test_calibration_leaves_the_scores_it_was_given_as_they_are() -> None:
    scores = torch.rand(2, 3, 4, 4)
    before = scores.clone()
    reduced = calibrated(scores, [0, 2], 0.1)
    assert torch.equal(scores, before)
    assert torch.allclose(before - reduced, torch.tensor([0.1, 0, 0.1]).view(1, 3, 1, 1))
    assert torch.equal(calibrated(scores, [0, 1, 2], 0.1), before)
    assert torch.equal(calibrated(scores, None, 0.1), before)
