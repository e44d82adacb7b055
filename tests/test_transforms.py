"""Augmentation: image and label map move together, crops are guarded, small images padded."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import golden
from unseen.data.transforms import Padding, TrainTransform, colours
from unseen.data.transforms.colours import PhotometricDistortion, saturate
from unseen.data.transforms.drn import rotate_like_drn, zoom_like_drn
from unseen.labels import BACKGROUND, IGNORE, PADDING
from unseen.recipes import settings
from unseen.settings import TransformSettings

STEP = 40
"""Red of a pixel is STEP times its label."""


def tiles(h: int, w: int, tile: int, classes: int = 6) -> Tensor:
    """A label map of square tiles without symmetry."""
    rows, columns = torch.arange(h) // tile, torch.arange(w) // tile
    return (rows.view(-1, 1) * 2 + columns.view(1, -1)) % classes


def encoded(labels: Tensor) -> Tensor:
    """An image whose red is the label, whose green the row and whose blue the column."""
    h, w = labels.shape
    rows, columns = torch.arange(h).view(-1, 1).expand(h, w), torch.arange(w).expand(h, w)
    return torch.stack([STEP * labels, rows, columns]).to(torch.uint8)


def plain(**changes: object) -> TransformSettings:
    """No scale, no crop, no flip, no photometric distortion, but for the changes."""
    return TransformSettings(
        **{"resize": None, "crop": None, "flip": 0.0, "photometric": False, **changes}
    )  # type: ignore[arg-type]


def inner(labels: Tensor, radius: int) -> Tensor:
    """Pixels whose neighbourhood holds one label, where bilinear interpolation blurs no border."""
    x, side = labels.float().view(1, 1, *labels.shape), 2 * radius + 1
    same = (F.max_pool2d(x, side, stride=1) == -F.max_pool2d(-x, side, stride=1)).float()
    return F.pad(same, (radius,) * 4)[0, 0] > 0


def agree(image: Tensor, labels: Tensor) -> bool:
    """Whether red equals the label, at more than a third of all pixels."""
    known = inner(labels, 2) & (labels != IGNORE)
    assert known.sum() > labels.numel() / 3
    return bool(((image[0].long() - STEP * labels)[known].abs() <= 1).all())


# ------------------------------------------------------------- moving together


@pytest.mark.parametrize("seed", range(6))
def test_scale_and_crop_move_both(seed: int) -> None:
    torch.manual_seed(seed)
    labels = tiles(96, 80, 16)
    image, out = TrainTransform(plain(resize=(96, 80), scale=(0.75, 2.0), crop=56))(
        encoded(labels), labels
    )
    assert image.shape == (3, 56, 56)
    assert out.shape == (56, 56)
    assert (image.dtype, out.dtype) == (torch.uint8, torch.int64)
    assert type(image) is type(out) is Tensor
    assert agree(image, out)


def test_a_flip_moves_both() -> None:
    labels = tiles(20, 30, 4)
    image, out = TrainTransform(plain(flip=1.0))(encoded(labels), labels)
    assert torch.equal(out, labels.flip(1))
    assert torch.equal(image, encoded(labels).flip(2))


def test_a_flip_has_the_probability_of_its_setting() -> None:
    labels, transform = tiles(4, 6, 2), TrainTransform(plain(flip=0.25))
    flips = sum(not torch.equal(transform(encoded(labels), labels)[1], labels) for _ in range(400))
    assert 70 < flips < 130


def test_a_crop_is_a_part_of_both() -> None:
    labels = tiles(40, 50, 4)
    places = set()
    for _ in range(20):
        image, out = TrainTransform(plain(crop=12))(encoded(labels), labels)
        top, left = int(image[1, 0, 0]), int(image[2, 0, 0])
        assert torch.equal(image, encoded(labels)[:, top : top + 12, left : left + 12])
        assert torch.equal(out, labels[top : top + 12, left : left + 12])
        places.add((top, left))
    assert len(places) > 10


def test_the_inputs_are_left_alone() -> None:
    labels = tiles(40, 50, 8)
    image = encoded(labels)
    before = image.clone(), labels.clone()
    for _ in range(4):
        TrainTransform(TransformSettings(resize=(64, 32), crop=36, flip=0.0))(image, labels)
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    ("size", "expected"),
    [((20, 30), (32, 48)), ((30, 20), (48, 32)), ((10, 100), (6, 64)), ((64, 64), (32, 32))],
)
def test_images_are_resized_into_the_box(size: tuple[int, int], expected: tuple[int, int]) -> None:
    labels = tiles(*size, 4)
    image, out = TrainTransform(plain(resize=(64, 32), scale=(1.0, 1.0)))(encoded(labels), labels)
    assert out.shape == image.shape[1:] == expected
    assert set(out.unique().tolist()) <= set(labels.unique().tolist())


def test_scales_fill_their_range() -> None:
    labels = tiles(32, 32, 8)
    sizes = [
        TrainTransform(plain(resize=(64, 32), scale=(0.5, 2.0)))(encoded(labels), labels)[1].shape[
            0
        ]
        for _ in range(60)
    ]
    assert 16 <= min(sizes) < 24
    assert 52 < max(sizes) <= 64


# ----------------------------------------------------------------------- crops


@pytest.mark.parametrize("share", [0.6, 0.75, 0.95])
def test_one_class_crops_are_drawn_again(share: float) -> None:
    """The first of eleven draws that keeps the guard, else the last one."""
    labels = torch.zeros(40, 60, dtype=torch.int64)
    labels[28:, 44:] = 1
    labels[:, :10] = IGNORE
    settings, again = plain(crop=16, max_class_share=share), 0
    for seed in range(40):
        torch.manual_seed(seed)
        draws = 0
        while draws < 11:
            draws += 1
            top, left = int(torch.randint(25, ())), int(torch.randint(45, ()))
            part = labels[top : top + 16, left : left + 16]
            ones, zeros = int((part == 1).sum()), int((part == 0).sum())
            if min(ones, zeros) > 0 and max(ones, zeros) < share * (ones + zeros):
                break
        again += 1 < draws < 11
        torch.manual_seed(seed)
        image, out = TrainTransform(settings)(encoded(labels), labels)
        assert (int(image[1, 0, 0]), int(image[2, 0, 0])) == (top, left)
        assert torch.equal(out, part)
    assert again > 5


def test_an_image_of_one_class_or_without_labels_is_cropped_all_the_same() -> None:
    for value in (3, IGNORE):
        labels = torch.full((20, 20), value)
        assert (
            TrainTransform(plain(crop=8))(encoded(labels), labels)[1].tolist() == [[value] * 8] * 8
        )


@pytest.mark.parametrize("special", [BACKGROUND, PADDING])
def test_the_crop_guard_counts_classes_alone(special: int) -> None:
    """The same crops are drawn whether pixels of no class are ignored or kept as background."""
    ignored = torch.full((40, 60), IGNORE)
    ignored[20:, 20:] = 3
    ignored[30:, 50:] = 4
    kept = torch.where(ignored == IGNORE, special, ignored)
    transform = TrainTransform(plain(crop=16, max_class_share=0.75))
    for seed in range(40):
        torch.manual_seed(seed)
        expected, _ = transform(encoded(ignored), ignored)
        torch.manual_seed(seed)
        image, _ = transform(encoded(ignored), kept)
        assert torch.equal(image, expected)


@pytest.mark.parametrize("size", [(10, 12), (10, 30), (30, 10), (16, 10)])
def test_small_images_are_padded(size: tuple[int, int]) -> None:
    labels = tiles(*size, 3)
    image, out = TrainTransform(plain(crop=16), Padding((122.77, 116.75, 104.09), PADDING))(
        encoded(labels), labels
    )
    h, w = min(size[0], 16), min(size[1], 16)
    top, left = int(image[1, 0, 0]), int(image[2, 0, 0])
    assert image.shape == (3, 16, 16)
    assert torch.equal(image[:, :h, :w], encoded(labels)[:, top : top + h, left : left + w])
    assert torch.equal(out[:h, :w], labels[top : top + h, left : left + w])
    padded = torch.ones(16, 16, dtype=torch.bool)
    padded[:h, :w] = False
    assert padded.any()
    assert image[:, padded].unique(dim=1).flatten().tolist() == [123, 117, 104]
    assert out[padded].unique().tolist() == [PADDING]


def test_padding_is_ignored_and_black_by_default() -> None:
    labels = torch.zeros(2, 2, dtype=torch.int64)
    image, out = TrainTransform(plain(crop=3))(encoded(labels) + 9, labels)
    assert out.tolist() == [[0, 0, IGNORE], [0, 0, IGNORE], [IGNORE] * 3]
    assert image[:, 2].max() == image[:, :, 2].max() == 0


def test_padding_keeps_its_colour_under_photometric_distortion() -> None:
    labels = torch.zeros(4, 4, dtype=torch.int64)
    transform = TrainTransform(plain(crop=8, photometric=True), Padding((120, 110, 100)))
    for _ in range(8):
        image, _ = transform(encoded(labels) + 50, labels)
        assert image[:, 4:].flatten(1).unique(dim=1).flatten().tolist() == [120, 110, 100]


# ------------------------------------------------------------------ randomness


def test_the_seed_decides() -> None:
    labels = tiles(48, 64, 8)
    transform = TrainTransform(TransformSettings(resize=(96, 48), crop=32))

    def once(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return transform(encoded(labels), labels)

    for seed in range(4):
        first, second, other = once(seed), once(seed), once(seed + 1)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(first[0], other[0])


def test_photometric_distortion() -> None:
    image = encoded(tiles(16, 16, 4))
    changed = [PhotometricDistortion()(image, image[0])[0] for _ in range(40)]
    assert {(one.shape, one.dtype) for one in changed} == {(image.shape, torch.uint8)}
    same = sum(torch.equal(one, image) for one in changed)
    assert 0 < same < 10  # every step is left out with probability 1/16


def test_photometric_distortion_leaves_the_labels() -> None:
    labels = tiles(16, 16, 4)
    for _ in range(6):
        image, out = TrainTransform(plain(photometric=True))(encoded(labels), labels)
        assert torch.equal(out, labels)
        assert image.shape == (3, 16, 16)


def test_brightness_moves_by_at_most_32() -> None:
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    distort = PhotometricDistortion()
    means = torch.tensor([distort(grey, grey[0])[0].float().mean() for _ in range(300)])
    assert (100 - 32) * 0.5 - 2 <= means.min() < 50
    assert 160 < means.max() <= (100 + 32) * 1.5 + 2


def test_a_flip_after_a_crop_moves_both() -> None:
    labels = tiles(40, 50, 8)
    image, out = TrainTransform(plain(crop=32, flip=1.0))(encoded(labels), labels)
    assert torch.equal(image[0].long(), STEP * out)


# --------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("method", "benchmark", "steps"),
    [
        ("zegclip", "voc", "ScaleToBox RandomCrop RandomFlip PhotometricDistortion Pad"),
        ("clip_rc", "coco-stuff", "ScaleToBox RandomCrop RandomFlip PhotometricDistortion Pad"),
        ("esda", "pascal-5i/0", "Zoom Rotate Blur PadAround RandomCrop RandomFlip Pad"),
        ("sazs", "pascal-5i/0", "DrnRotate DrnZoom RandomCrop RandomFlip Pad"),
        ("edgeclip", "pascal-5i/0", "RandomCrop RandomFlip Pad"),
    ],
)
def test_recipes_name_the_released_pipelines(method: str, benchmark: str, steps: str) -> None:
    _, train = settings(method, benchmark)
    transform = TrainTransform(train.transforms)
    assert [type(step).__name__ for step in transform.steps] == steps.split()


# ---------------------------------------------------- one query class an image


def test_zoom_changes_the_images_own_size() -> None:
    torch.manual_seed(0)
    transform = TrainTransform(
        TransformSettings(resize=None, zoom=(0.5, 0.5), crop=None, flip=0.0, photometric=False)
    )
    image, labels = transform(
        torch.zeros(3, 40, 60, dtype=torch.uint8), torch.ones(40, 60, dtype=torch.int64)
    )
    assert image.shape == (3, 20, 30)
    assert labels.shape == (20, 30)


def test_crops_keep_pixels_of_the_query_class() -> None:
    """An object of 10 by 10 pixels in a corner stays in nearly every crop of half the side.

    Without the rule it mostly does not.
    """
    labels = torch.zeros(64, 64, dtype=torch.int64)
    labels[-10:, -10:] = 1
    kept = {}
    for share in (0.0, 0.85):
        transform = TrainTransform(
            TransformSettings(
                resize=None,
                crop=32,
                flip=0.0,
                photometric=False,
                min_positives=share,
                max_class_share=1.0,
            )
        )
        torch.manual_seed(0)
        kept[share] = [
            int((transform(torch.zeros(3, 64, 64, dtype=torch.uint8), labels)[1] == 1).sum())
            for _ in range(40)
        ]
    assert sum(count >= 85 for count in kept[0.85]) > 2 * sum(count >= 85 for count in kept[0.0])
    assert max(kept[0.85]) >= 85


def test_small_images_are_padded_on_all_sides() -> None:
    transform = TrainTransform(
        TransformSettings(
            resize=None, crop=10, centre=True, flip=0.0, photometric=False, max_class_share=None
        ),
        Padding((9, 8, 7)),
    )
    image, labels = transform(
        torch.full((3, 4, 7), 200, dtype=torch.uint8), torch.ones(4, 7, dtype=torch.int64)
    )
    assert (labels == 1).nonzero().amin(dim=0).tolist() == [
        3,
        1,
    ], "the extra pixel is at the bottom and right"
    assert (labels == 1).nonzero().amax(dim=0).tolist() == [6, 7]
    assert image[:, 0, 0].tolist() == [9, 8, 7]


def test_rotation_pads_the_corners_and_keeps_labels_whole() -> None:
    torch.manual_seed(3)
    transform = TrainTransform(
        TransformSettings(resize=None, crop=None, rotate=40.0, flip=0.0, photometric=False),
        Padding((1, 2, 3)),
    )
    outcomes = [
        transform(
            torch.full((3, 30, 30), 100, dtype=torch.uint8), torch.ones(30, 30, dtype=torch.int64)
        )
        for _ in range(30)
    ]
    rotated = [pair for pair in outcomes if (pair[1] == 255).any()]
    assert 5 < len(rotated) < 25, "half of the time"
    for image, labels in rotated:
        assert set(labels.unique().tolist()) == {1, 255}
        assert image[:, labels == 255].float().mean() < 50, "padded with the colour given"
        assert image[:, 15, 15].tolist() == [100] * 3


def test_blur_softens_edges_half_of_the_time() -> None:
    torch.manual_seed(0)
    transform = TrainTransform(
        TransformSettings(resize=None, crop=None, blur=True, flip=0.0, photometric=False)
    )
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    image[:, :, 10:] = 200
    blurred = [
        len(transform(image, torch.zeros(20, 20, dtype=torch.int64))[0].unique()) > 2
        for _ in range(40)
    ]
    assert 10 < sum(blurred) < 30


def test_rotation_and_zoom_as_released_by_sazs() -> None:
    """Fixture sazs_transforms: every pixel."""
    tensors, _ = golden("sazs_transforms")
    image, labels = tensors["image"].permute(2, 0, 1), tensors["label"].long()
    results = {
        "rot7": rotate_like_drn(image, labels, 7),
        "scale0.7": zoom_like_drn(image, labels, 0.7),
        "scale1.4": zoom_like_drn(image, labels, 1.4),
    }
    for name, (augmented, map_) in results.items():
        assert torch.equal(augmented.permute(1, 2, 0), tensors[f"{name}.image"]), name
        assert torch.equal(map_, tensors[f"{name}.label"].long()), name
    plain_crop = TrainTransform(
        TransformSettings(resize=None, crop=48, flip=0.0, photometric=False, max_class_share=None)
    )
    same = []
    for seed in range(40):
        torch.manual_seed(seed)
        augmented, map_ = plain_crop(image, labels)
        same.append(
            torch.equal(augmented.permute(1, 2, 0), tensors["crop48_x3.image"])
            and torch.equal(map_, tensors["crop48_x3.label"].long())
        )
    assert any(same)  # one place in nine
    flip = TrainTransform(TransformSettings(resize=None, crop=None, flip=1.0, photometric=False))
    assert torch.equal(flip(image, labels)[0].permute(1, 2, 0), tensors["flip.image"])


def test_every_image_is_rotated_by_whole_degrees_before_it_is_zoomed() -> None:
    image, labels = (
        torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8),
        torch.randint(0, 5, (40, 56)),
    )
    transform = TrainTransform(
        TransformSettings(
            resize=None,
            pillow=True,
            rotate=3.0,
            zoom=(1.0, 1.0),
            crop=None,
            flip=0.0,
            photometric=False,
        )
    )
    allowed, angles = [rotate_like_drn(image, labels, angle) for angle in range(-3, 4)], set()
    for seed in range(30):
        torch.manual_seed(seed)
        augmented, map_ = transform(image, labels)
        same = [
            i
            for i, (one, other) in enumerate(allowed)
            if torch.equal(augmented, one) and torch.equal(map_, other)
        ]
        assert len(same) == 1
        angles.add(same[0])
    assert angles == set(range(7))


# --------------------------------------------------------------- released augmentation


def test_saturation_in_hsv() -> None:
    """As colorsys converts: saturation times the factor, at most 1; hue and value stay."""
    image = torch.randint(0, 256, (3, 6, 7), dtype=torch.uint8)
    for factor in (0.5, 1.0, 1.5):
        changed = saturate(image, factor).permute(1, 2, 0).reshape(-1, 3)
        for before, after in zip(image.permute(1, 2, 0).reshape(-1, 3), changed, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255).tolist())
            rgb = colorsys.hsv_to_rgb(hue, min(1.0, factor * saturation), value)
            assert (255 * torch.tensor(rgb) - after).abs().max() < 0.51
    assert torch.equal(saturate(torch.zeros_like(image), 1.5), torch.zeros_like(image))


def test_distortion_in_hsv_turns_by_steps_of_two_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: set[float] = set()

    def noted(image: Tensor, turn: float) -> Tensor:
        turns.add(round(180 * turn, 6))
        return image

    monkeypatch.setattr(colours.TF, "adjust_hue", noted)
    torch.manual_seed(0)
    image, labels = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(2, 2)
    for _ in range(1000):
        PhotometricDistortion(hsv=True)(image, labels)
    assert turns == set(range(-18, 18))


def test_hue_turns_by_up_to_a_tenth_of_the_circle() -> None:
    """All else of a colour stays but for rounding."""
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    for seed in range(20):
        torch.manual_seed(seed)
        changed = PhotometricDistortion()._turned(image)
        assert (changed.shape, changed.dtype) == (image.shape, torch.uint8)
        assert (changed.amax(0).int() - image.amax(0)).abs().max() <= 1
        turned = []
        for before, after in zip(image.flatten(1).T, changed.flatten(1).T, strict=True):
            (hue, strength, value), new = (
                colorsys.rgb_to_hsv(*(colour / 255).tolist()) for colour in (before, after)
            )
            if strength * value > 0.5:  # others have no hue to speak of
                turned.append((new[0] - hue + 0.5) % 1 - 0.5)
        assert max(turned) - min(turned) < 0.02
        assert abs(sum(turned) / len(turned)) <= 0.105


def test_padding_first_is_flipped_with_the_image() -> None:
    """DRN and SAZS pad at the right and flip afterwards: half of the fill is on the left."""
    settings = TransformSettings(
        resize=None, crop=8, max_class_share=None, photometric=False, pad_first=True, flip=1.0
    )
    image = torch.full((3, 6, 5), 9, dtype=torch.uint8)
    padded, labels = TrainTransform(settings)(image, torch.ones(6, 5, dtype=torch.int64))
    assert padded.shape == (3, 8, 8)
    assert (labels[:6, 3:] == 1).all()
    assert (labels[:, :3] == 255).all()
    assert (padded[:, :, :3] == 0).all()
    last = replace(settings, pad_first=False)
    _, labels = TrainTransform(last)(image, torch.ones(6, 5, dtype=torch.int64))
    assert (labels[:6, :5] == 1).all()


def test_images_may_shrink_without_smoothing() -> None:
    image, labels = torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(64, 64).long()
    image[:, ::2] = 255
    for box in ({"resize": (32, 32), "scale": (1.0, 1.0)}, {"resize": None, "zoom": (0.5, 0.5)}):
        plain, smooth = (
            TrainTransform(
                TransformSettings(
                    **box, crop=None, photometric=False, flip=0.0, antialias=antialias
                )  # type: ignore[arg-type]
            )(image, labels)[0]
            for antialias in (False, True)
        )
        expected = F.interpolate(image[None].float(), (32, 32), mode="bilinear")
        assert (plain - expected[0]).abs().max() <= 1
        assert not torch.equal(plain, smooth)
