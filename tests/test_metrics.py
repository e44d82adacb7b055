"""One confusion matrix: against the released evaluation, against torchmetrics, and its edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from conftest import golden
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix, harmonic_mean


def matrix_of(prediction: Tensor, labels: Tensor, classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes)
    matrix.update(prediction, labels)
    return matrix


def random_maps(classes: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, classes, (3, 20, 24))
    prediction = torch.where(
        torch.rand(labels.shape) < 0.6, labels, torch.randint(0, classes, labels.shape)
    )
    labels[torch.rand(labels.shape) < 0.2] = IGNORE
    return prediction, labels


def test_against_the_released_evaluation() -> None:
    tensors, about = golden("zegclip_metrics")
    matrix = ConfusionMatrix(about["num_classes"])
    count = sum(name.startswith("pred.") for name in tensors)
    for i in range(count):
        raw = tensors[f"gt_raw.{i}"].long()
        matrix.update(
            tensors[f"pred.{i}"], torch.where((raw == 0) | (raw == IGNORE), IGNORE, raw - 1)
        )
    assert count == 4
    torch.testing.assert_close(matrix.iou, tensors["iou"], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(matrix.accuracy, tensors["acc"], rtol=0, atol=0, equal_nan=True)
    summary = matrix.summary(about["seen"], about["unseen"])
    names = {
        "pAcc": "pAcc",
        "mAcc": "mAcc",
        "mIoU": "mIoU",
        "mIoU_S": "mIoU_seen",
        "mIoU_U": "mIoU_unseen",
        "hIoU": "hIoU",
    }
    assert {ours: summary[ours] / 100 for ours in names} == pytest.approx(
        {name: about[released_name] for name, released_name in names.items()}, rel=1e-12
    )


def test_against_torchmetrics() -> None:
    prediction, labels = random_maps(6)
    matrix = matrix_of(prediction, labels, 6)
    expected = MulticlassConfusionMatrix(6, ignore_index=IGNORE)(prediction, labels)
    assert torch.equal(matrix.counts[:, :-1], expected)
    iou = MulticlassJaccardIndex(6, average=None, ignore_index=IGNORE)(prediction, labels)
    assert (matrix.iou - iou).abs().max() < 1e-6
    assert matrix.summary(range(6), [])["mIoU"] == pytest.approx(100 * iou.mean().item(), rel=1e-6)


def test_the_sum_is_the_labelled_pixels() -> None:
    prediction, labels = random_maps(5)
    prediction[torch.rand(prediction.shape) < 0.3] = IGNORE
    matrix = matrix_of(prediction, labels, 5)
    assert matrix.counts.sum() == (labels != IGNORE).sum()
    assert torch.equal(matrix.counts.sum(dim=1), labels[labels != IGNORE].bincount(minlength=5))


def test_a_pixel_without_a_class_is_wrong() -> None:
    matrix = matrix_of(torch.tensor([0, IGNORE, 1, 1]), torch.tensor([0, 0, 1, IGNORE]), 2)
    assert matrix.counts.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert matrix.iou.tolist() == [0.5, 1.0]
    assert matrix.summary([0], [1])["pAcc"] == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_any_integer_type(dtype: torch.dtype) -> None:
    matrix = matrix_of(
        torch.tensor([[0, 1, 255]], dtype=dtype), torch.tensor([[0, 0, 2]], dtype=dtype), 3
    )
    assert matrix.counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_a_class_that_is_nowhere_is_left_out() -> None:
    matrix = matrix_of(torch.tensor([0, 1, 1, 3]), torch.tensor([0, 0, 1, 1]), 4)
    assert math.isnan(matrix.iou[2])
    assert matrix.iou[[0, 1, 3]].tolist() == pytest.approx([1 / 2, 1 / 3, 0])
    assert matrix.accuracy.isnan().tolist() == [False, False, True, True]
    summary = matrix.summary([0, 1], [2, 3])
    assert summary["mIoU"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 0) / 3)
    assert summary["mIoU_S"] == pytest.approx(100 * 5 / 12)
    assert summary["mIoU_U"] == 0
    assert summary["mAcc"] == pytest.approx(50)
    assert summary["zero_IoU"] == 0  # class 3 is never labelled


def test_classes_never_hit() -> None:
    summary = matrix_of(torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1, 2, 1]), 4).summary(
        [0], [1, 2, 3]
    )
    assert summary["zero_IoU"] == pytest.approx(100 * 2 / 3)
    assert summary["hIoU"] == 0


def test_nothing_to_average() -> None:
    empty = ConfusionMatrix(3).summary([0, 1], [2])
    assert all(math.isnan(value) for value in empty.values())
    supervised = matrix_of(torch.tensor([0, 1]), torch.tensor([0, 1]), 2).summary([0, 1], [])
    assert supervised["mIoU_S"] == 100
    assert math.isnan(supervised["mIoU_U"])
    assert math.isnan(supervised["hIoU"])


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.0, 0.0) == 0
    assert harmonic_mean(0.5, 0.0) == 0
    assert harmonic_mean(0.2, 0.6) == pytest.approx(0.3)
    assert math.isnan(harmonic_mean(0.5, math.nan))


def test_ignored_images_count_nothing() -> None:
    assert matrix_of(torch.tensor([0, 99]), torch.tensor([IGNORE, IGNORE]), 2).counts.sum() == 0


def test_maps_that_do_not_fit_are_refused() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"\(2, 2\) and labels \(2, 3\) differ in shape"):
        matrix.update(torch.zeros(2, 2), torch.zeros(2, 3))
    for prediction, label in ((0, 3), (0, -1), (3, 0), (4, 0), (-1, 0)):
        with pytest.raises(ValueError, match=r"outside 0\.\.2"):
            matrix.update(torch.tensor([prediction]), torch.tensor([label]))
    assert matrix.counts.sum() == 0
