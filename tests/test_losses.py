"""Focal loss against torchvision's, dice against a plain loop, their gradients, and resizing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from unseen.labels import IGNORE
from unseen.modules import losses
from unseen.modules.losses import MaskLoss, calibrated, mean_over_ranks
from unseen.modules.resize import bilinear

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


def terms(logits: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Focal and dice loss summed over images and classes, on maps of the labels' size."""
    focal, dice = MaskLoss(**options).terms(logits, labels, lambda maps: maps.float())
    pairs = sum(
        int((image == k).any()) for image in labels for k in range(logits.shape[1])
    )  # that the losses are divided by
    return focal * max(pairs, 1), dice * max(pairs, 1)


def plain_focal(logits: Tensor, labels: Tensor, *, alpha: float, left_out: bool, over: str) -> Any:
    """torchvision's focal loss, image by image."""
    total = logits.new_zeros(())
    for image, label in zip(logits, labels, strict=True):
        known = label != IGNORE if left_out else torch.ones_like(label, dtype=torch.bool)
        ids = torch.arange(len(image)).view(-1, 1)
        loss = torchvision.ops.sigmoid_focal_loss(
            image[:, known], (label[known] == ids).float(), alpha=alpha, reduction="sum"
        )
        total = total + loss / (known.sum() if over == "labelled" else known.numel())
    return total


def plain_dice(logits: Tensor, labels: Tensor, *, left_out: bool) -> Any:
    """The dice loss of the classes that each image shows, one by one."""
    total = logits.new_zeros(())
    for image, label in zip(logits, labels, strict=True):
        known = label != IGNORE if left_out else torch.ones_like(label, dtype=torch.bool)
        for k, class_map in enumerate(image):
            p, y = class_map[known].sigmoid(), (label[known] == k).float()
            if y.any():
                total = total + 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return total


@pytest.mark.parametrize("block", [1, 60, 2**18])
@pytest.mark.parametrize("over", ["labelled", "all"])
@pytest.mark.parametrize("ignored_as", ["ignore", "negative"])
@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_losses_and_gradients_are_those_of_plain_operations(
    block: int, over: str, ignored_as: str, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK", (block, block))
    logits, labels, _ = maps()
    left_out, results = ignored_as == "ignore", []
    over = over if left_out else "all"
    for plain in (False, True):
        leaf = logits.clone().requires_grad_()
        if plain:
            focal = plain_focal(leaf, labels, alpha=alpha, left_out=left_out, over=over)
            dice = plain_dice(leaf, labels, left_out=left_out)
        else:
            focal, dice = terms(
                leaf, labels, focal_alpha=alpha, ignored_as=ignored_as, focal_over=over
            )
        # One after the other, so that each has a gradient of its own.
        grads = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (focal, dice)]
        results.append((focal.item(), dice.item(), *grads))
    (focal, dice, *grads), (plain_focal_, plain_dice_, *plain_grads) = results
    assert focal == pytest.approx(plain_focal_, rel=1e-5)
    assert dice == pytest.approx(plain_dice_, rel=1e-5)
    for grad, plain_grad in zip(grads, plain_grads, strict=True):
        assert plain_grad.abs().max() > 1e-3
        assert torch.allclose(grad, plain_grad, rtol=1e-4, atol=1e-7)


def test_gradients_go_through_the_resizing() -> None:
    _, labels, _ = maps()
    small, results = torch.randn(2, CLASSES, 2, 3), []
    for plain in (False, True):
        leaf = small.clone().requires_grad_()
        if plain:
            large = F.interpolate(leaf, (5, 6), mode="bilinear")
            focal = plain_focal(large, labels, alpha=0.25, left_out=True, over="all")
            total = (focal + 3 * plain_dice(large, labels, left_out=True)) / 7
        else:
            focal, dice = MaskLoss().terms(leaf, labels, lambda part: bilinear(part, (5, 6)))
            total = focal + 3 * dice
        total.backward()
        results.append((total.item(), leaf.grad))
    assert sum(len(set(image.unique().tolist()) - {IGNORE}) for image in labels) == 7
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] is not None
    assert results[1][1] is not None
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def test_losses_without_gradients_are_the_same() -> None:
    logits, labels, _ = maps()
    with torch.no_grad():
        focal, dice = terms(logits, labels)
    assert not focal.requires_grad
    again = terms(logits.requires_grad_(), labels)
    assert (focal.item(), dice.item()) == (again[0].item(), again[1].item())


def test_dice_of_a_perfect_map_is_nothing() -> None:
    labels = torch.tensor([[[0, 1], [1, 1]]])
    perfect = torch.where(labels == torch.arange(2).view(1, 2, 1, 1), 50.0, -50.0)
    assert terms(perfect, labels)[1].item() == pytest.approx(0, abs=1e-6)
    assert terms(-perfect, labels)[1].item() == pytest.approx((1 - 1 / 5) + (1 - 1 / 5), rel=1e-6)


def test_ignored_pixels_have_no_loss_and_no_gradient() -> None:
    logits, labels, weights = maps()
    ignored = (weights == 0).expand_as(logits)
    changed = torch.where(ignored, logits + 7 * torch.randn_like(logits), logits)
    leaves, found = [logits.requires_grad_(), changed.requires_grad_()], {}
    for ignored_as in ("ignore", "negative"):
        found[ignored_as] = [sum(terms(x, labels, ignored_as=ignored_as)) for x in leaves]
    assert found["ignore"][0].item() == found["ignore"][1].item()
    assert found["negative"][0].item() != pytest.approx(found["negative"][1].item(), rel=1e-3)
    (grad,) = torch.autograd.grad(found["ignore"][1], changed)
    assert (grad[ignored] == 0).all()
    assert (grad[~ignored] != 0).all()


@pytest.mark.parametrize("over", ["labelled", "all"])
def test_an_ignored_image_has_no_loss(over: str) -> None:
    logits = torch.randn(1, CLASSES, 3, 3, requires_grad=True)
    total = sum(terms(logits, torch.full((1, 3, 3), IGNORE), focal_over=over))
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_far_logits_stay_finite() -> None:
    logits = torch.tensor([[[[1e4, -1e4, 1e4, -1e4]]]], requires_grad=True)
    total = sum(terms(logits, torch.tensor([[[1, 0, 0, 1]]])))
    total.backward()
    assert total.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_labels_of_no_class_are_negatives() -> None:
    """Labels past the classes, as padding has, count as pixels that show none of them."""
    logits, labels, _ = maps()
    other = torch.where(labels == 0, CLASSES, labels)
    expected = plain_focal(logits, other, alpha=0.25, left_out=True, over="all")
    assert terms(logits, other)[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("old", "new"), [((3, 5), (48, 81)), ((7, 4), (5, 4)), ((1, 1), (3, 2))])
def test_bilinear_is_pytorchs(
    old: tuple[int, int], new: tuple[int, int], align_corners: bool, with_gradient: bool
) -> None:
    logits = torch.randn(2, 3, *old, requires_grad=with_gradient)
    expected = F.interpolate(logits, new, mode="bilinear", align_corners=align_corners)
    with torch.autocast("cpu", torch.bfloat16):
        resized = bilinear(logits, new, align_corners=align_corners)
    assert resized.dtype == torch.float32
    assert torch.allclose(resized, expected, atol=1e-6)
    assert resized.requires_grad == with_gradient
    if with_gradient:
        slope = torch.randn_like(expected)
        grads = [torch.autograd.grad(each, logits, slope)[0] for each in (resized, expected)]
        assert torch.allclose(*grads, atol=1e-5)


def test_mean_over_one_process_is_the_number_itself() -> None:
    mean = mean_over_ranks(torch.tensor(7))
    assert mean.dtype == torch.float32
    assert mean.item() == 7


def test_calibration_leaves_the_scores_it_was_given_as_they_are() -> None:
    scores = torch.rand(2, 3, 4, 4)
    before = scores.clone()
    reduced = calibrated(scores, [0, 2], 0.1)
    assert torch.equal(scores, before)
    assert torch.allclose(before - reduced, torch.tensor([0.1, 0, 0.1]).view(1, 3, 1, 1))
    assert torch.equal(calibrated(scores, None, 0.1), before)
