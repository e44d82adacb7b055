"""Masks from annotations, and tables of ids, against brute force and by hand."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tiny import archives as made
from unseen.data.classes import COCO, COCO_STUFF, CONTEXT
from unseen.data.prepare import masks, published
from unseen.data.prepare.published import ARCHIVES, PUBLISHED_COUNTS
from unseen.errors import DataError, SettingError


@pytest.mark.parametrize("seed", range(20))
def test_rectangles_cover_their_pixels(seed: int) -> None:
    """Corners on the grid leave no doubt about any pixel, in either direction around."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(10, 40, 2).tolist()
    top, bottom = np.sort(rng.choice(height + 1, 2, replace=False)).tolist()
    left, right = np.sort(rng.choice(width + 1, 2, replace=False)).tolist()
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    expected = np.zeros((height, width), dtype=bool)
    expected[top:bottom, left:right] = True
    for order in (corners, corners[::-1]):
        mask = masks.annotation_mask([np.ravel(order).tolist()], height, width)
        assert np.array_equal(mask, expected)


def even_odd(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether points (P, 2) lie inside of a polygon (N, 2): the edges left of each are counted."""
    start, end = corners, np.roll(corners, -1, axis=0)
    x, y = points[:, None, 0], points[:, None, 1]
    crosses = (start[:, 1] <= y) != (end[:, 1] <= y)
    height = np.where(crosses, end[:, 1] - start[:, 1], 1)
    at = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / height
    return (crosses & (at < x)).sum(axis=1) % 2 == 1


def rim_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The distance of points (P, 2) from the nearest edge of a polygon (N, 2)."""
    edges = np.roll(corners, -1, axis=0) - corners
    away = points[:, None] - corners
    along = ((away * edges).sum(axis=2) / (edges**2).sum(axis=1)).clip(0, 1)
    return np.linalg.norm(away - along[..., None] * edges, axis=2).min(axis=1)


@pytest.mark.parametrize("seed", range(30))
def test_polygons_follow_the_even_odd_rule(seed: int) -> None:
    """Edges may cross each other. Which pixels on a rim belong to it is COCO's convention."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 60, 2).tolist()
    corners = rng.uniform(0, (width, height), (int(rng.integers(3, 9)), 2))
    mask = masks.annotation_mask([corners.ravel().tolist()], height, width)
    y, x = np.indices((height, width)).reshape(2, -1)
    centres = np.stack([x, y], axis=1) + 0.5
    clear = rim_distance(centres, corners) > 1
    assert np.array_equal(mask.ravel()[clear], even_odd(centres, corners)[clear])
    assert clear.any()


def test_polygons_of_one_annotation_are_united() -> None:
    square, across = [0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]
    line = [1, 1, 5, 5]
    union = masks.annotation_mask([line, square, across], 8, 8)
    assert int(union.sum()) == 16 + 16 - 4, "a line has no inside"
    assert not masks.annotation_mask([line], 8, 8).any()
    assert not masks.annotation_mask([], 8, 8).any()


def test_later_annotations_lie_over_earlier_ones() -> None:
    square, across = [0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]
    labels = masks.draw_labels([(3, [square]), (7, [across])], 8, 8)
    assert [int((labels == value).sum()) for value in (0, 3, 7)] == [64 - 28, 12, 16]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3]],
        [["a", "b"]],
        5,
        [[0, 0, float("nan"), 1, 2, 2]],
        [[0, 0, 1e300, 1, 2, 2]],
        {"size": [8, 8]},
        {"counts": [64]},
        {"size": [8, 8], "counts": [1, 2]},
        {"size": [8, 8], "counts": [70]},
        {"size": [8, 8], "counts": [-1, 65]},
        {"size": [8, 8], "counts": "P"},
        {"size": [8, 8], "counts": 64},
        {"size": [4, 4], "counts": [16]},
    ],
)
def test_damaged_annotations_are_refused(segmentation: Any) -> None:
    with pytest.raises(DataError):
        masks.annotation_mask(segmentation, 8, 8)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_against_brute_force(seed: int) -> None:
    """As a list and in the compressed form, which is written bit by bit."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 90, 2).tolist()
    runs = rng.random(height * width // 7 + 1) < (0.02, 0.5, 0.98)[seed % 3]
    mask = np.repeat(runs, 7)[: height * width].reshape(height, width)
    counts = made.runs(mask)
    for form in (counts, made.compressed(counts), made.compressed(counts).encode()):
        segmentation = {"size": [height, width], "counts": form}
        assert np.array_equal(masks.annotation_mask(segmentation, height, width), mask)


def test_pycocotools_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(SettingError, match=r"pip install 'unseen\[data\]'"):
        masks.annotation_mask([[0, 0, 4, 0, 4, 4]], 8, 8)


def test_tables_follow_their_rules() -> None:
    for value in range(256):
        absent = value in published.COCO_STUFF_ABSENT or value > 181
        expected = 255 if absent else value - sum(a < value for a in published.COCO_STUFF_ABSENT)
        assert masks.COCO_STUFF_TABLE[value] == expected
        ids = published.CITYSCAPES_IDS
        assert masks.CITYSCAPES_TABLE[value] == (ids.index(value) if value in ids else 255)
    checked = {12: 11, 26: 24, 30: 26, 45: 40, 66: 60, 69: 61, 71: 62, 83: 73, 91: 80, 181: 170}
    assert {raw: int(masks.COCO_STUFF_TABLE[raw]) for raw in checked} == checked
    assert len(COCO_STUFF) == 171
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    colours[0, :, 0], colours[0, :, 1] = (
        [code // 256 * 10 for code in published.ADE_FULL_IDS[:30]],
        [code % 256 for code in published.ADE_FULL_IDS[:30]],
    )
    labels = masks.ade_full_labels(colours)
    for (r, g, _), label in zip(
        colours.reshape(-1, 3).tolist(), labels.ravel().tolist(), strict=True
    ):
        code = r // 10 * 256 + g
        assert label == (
            published.ADE_FULL_IDS.index(code) if code in published.ADE_FULL_IDS else 65535
        )
    assert (len(published.ADE_FULL_IDS), len(set(published.ADE_FULL_IDS))) == (847, 847)
    assert list(published.CONTEXT_IDS) == sorted(published.CONTEXT_IDS)
    assert len(published.CONTEXT_IDS) == len(CONTEXT)
    assert (len(published.COCO_IDS), published.COCO_IDS[-1]) == (len(COCO), 90)


def test_counts_that_are_published_agree() -> None:
    known = PUBLISHED_COUNTS["voc"]
    assert known["trainaug"] - known["train"] == known["aug"]
    assert known["aug"] + known["train"] + known["val"] == known["SegmentationClassAug"]
    assert known["train"] + known["val"] == known["SegmentationClass"]
    assert all(
        archive.digest is None or len(archive.digest.split(":")[1]) in (32, 40)
        for archive in ARCHIVES.values()
    )
