"""Class lists, splits, folder layouts and Doodles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tiny import write_voc
from unseen.data import doodles
from unseen.data.benchmarks import BENCHMARKS, get_benchmark
from unseen.data.classes import COCO, COCO_STUFF, CONTEXT, DOODLES, DOODLES_FOLDS, VOC, voc_palette
from unseen.data.datasets import DoodleScenes, LabelledImages
from unseen.data.doodle_shapes import SHAPES
from unseen.data.doodles import draw
from unseen.data.layouts import voc_pairs
from unseen.data.pairs import Pair
from unseen.errors import DataError, SettingError
from unseen.labels import IGNORE

# ------------------------------------------------------------ classes, splits


def test_counts_of_classes() -> None:
    assert len(VOC) == len(set(VOC)) == 20
    assert len(DOODLES) == len(set(DOODLES)) == 20
    assert [len(fold) for fold in DOODLES_FOLDS] == [5, 5, 5, 5]
    assert set().union(*DOODLES_FOLDS) == set(DOODLES)
    assert set(SHAPES) == set(DOODLES)
    assert (len(COCO), len(COCO_STUFF), len(CONTEXT)) == (80, 171, 59)
    assert (COCO_STUFF[79], COCO_STUFF[80], COCO_STUFF[170]) == ("toothbrush", "banner", "wood")
    assert list(CONTEXT) == sorted(CONTEXT)
    assert list(COCO_STUFF[80:]) == sorted(COCO_STUFF[80:])
    assert (VOC[0], VOC[14], VOC[19]) == ("aeroplane", "person", "tvmonitor")


def test_voc_palette() -> None:
    palette = voc_palette()
    assert len(palette) == len(set(palette)) == 256
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {i: palette[i] for i in known} == known
    assert voc_palette(21) == palette[:21]


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_splits_part_the_vocabulary(name: str) -> None:
    benchmark = get_benchmark(name)
    assert benchmark.name == name
    assert set(benchmark.unseen) <= set(benchmark.class_names)
    sizes = {
        "coco-stuff": (156, 15),
        "context": (49, 10),
        "context-60": (50, 10),
        "coco-20i": (60, 20),
        "context-60-threshold": (49, 10),
        "context-cascade": (49, 10),
        "ade20k-150": (150, 0),
        "ade20k-847": (847, 0),
        "cityscapes": (19, 0),
        "coco-object": (80, 0),
    }
    if benchmark.base in ("voc-zs3", "context-zs3"):
        count = int(name.partition("/")[2])
        sizes[benchmark.base] = ((21 if benchmark.base == "voc-zs3" else 60) - count, count)
    assert (len(benchmark.seen_ids), len(benchmark.unseen_ids)) == sizes.get(
        benchmark.base, (15, 5)
    )
    assert sorted(benchmark.seen_ids + benchmark.unseen_ids) == list(
        range(len(benchmark.class_names))
    )
    assert len(set(benchmark.class_names)) == len(benchmark.class_names)
    assert {benchmark.class_names[i] for i in benchmark.unseen_ids} == set(benchmark.unseen)


def test_unseen_ids() -> None:
    assert get_benchmark("context-cascade").unseen_ids == [0, 2, 3, 7, 9, 13, 17, 19, 31, 37]
    assert get_benchmark("voc").class_names == VOC
    assert get_benchmark("voc").unseen_ids == [15, 16, 17, 18, 19]
    assert [VOC[i] for i in get_benchmark("voc").unseen_ids] == [
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ]
    assert get_benchmark("coco-stuff").unseen_ids == [
        19,
        23,
        28,
        29,
        36,
        51,
        76,
        88,
        94,
        112,
        133,
        136,
        137,
        157,
        160,
    ]
    assert get_benchmark("context").unseen_ids == [0, 6, 7, 14, 19, 24, 31, 33, 48, 54]
    assert get_benchmark("context-60").unseen_ids == [1, 7, 8, 15, 20, 25, 32, 34, 49, 55]
    assert get_benchmark("doodles").unseen_ids == [3, 7, 11, 15, 19]
    assert [DOODLES[i] for i in get_benchmark("doodles").unseen_ids] == [
        "boat",
        "flower",
        "key",
        "snowman",
        "kite",
    ]


def test_benchmarks_without_their_data() -> None:
    with pytest.raises(
        SettingError,
        match=(
            r"called 'vok' \(did you mean voc\?\); choose one of voc, coco-stuff, context,"
            r" context-60, doodles, pascal-5i/0..3, coco"
        ),
    ):
        get_benchmark("vok")
    with pytest.raises(
        DataError, match="the benchmark voc needs its images; give their folder with --root"
    ):
        get_benchmark("voc").data("val", None)


def test_the_doodle_benchmark_draws_its_splits() -> None:
    train, val = (get_benchmark("doodles").data(split, None) for split in ("train", "val"))
    assert (len(train), len(val)) == (20_000, 500)
    assert val[7].image.shape == (3, 96, 96)
    assert not torch.equal(train[7].image, val[7].image)


def test_voc_through_the_benchmark(tmp_path: Path) -> None:
    data = get_benchmark("voc").data("train", write_voc(tmp_path))
    assert len(data) == 3
    sample = data[1]
    assert sample.name == "2007_000001"
    assert sample.image.shape == (3, 20, 24)
    assert sample.labels.shape == (20, 24)
    assert sample.labels.dtype == torch.int64
    assert sample.labels[0, [0, 12, 23]].tolist() == [1, IGNORE, 16]
    assert (sample.labels[-1] == IGNORE).all()


def test_real_voc(voc_small: Path) -> None:
    data = get_benchmark("voc").data("val", voc_small)
    assert len(data) == 53
    sample = data[0]
    assert sample.image.shape[1:] == sample.labels.shape
    assert len(sample.labels.unique()) > 1


# --------------------------------------------------------------------- doodles


def test_a_scene_is_its_seed_and_number() -> None:
    scene = draw(3, 5)
    again = draw(3, 5)
    assert np.array_equal(scene.image, again.image)
    assert np.array_equal(scene.labels, again.labels)
    assert (scene.things, scene.colours) == (again.things, again.colours)
    for other in (draw(3, 6), draw(4, 5), draw(4, 4), draw(5, 3)):
        assert not np.array_equal(scene.image, other.image)
        assert not np.array_equal(scene.labels, other.labels)


def drawn(
    monkeypatch: pytest.MonkeyPatch, index: int
) -> tuple[doodles.Scene, list[NDArray[np.bool_]]]:
    """A scene on a magenta ground, and the pixels that every object changed when it was painted."""
    changed: list[NDArray[np.bool_]] = []
    paint = doodles._paint

    def watched(thing: str, canvas: Image.Image, *how: Any) -> tuple[Image.Image, str]:
        before = np.array(canvas)
        result = paint(thing, canvas, *how)
        changed.append((np.array(canvas) != before).any(axis=2))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(doodles, "_paint", watched)
        patch.setattr(
            doodles,
            "_background",
            lambda size, variety, rng: Image.new("RGB", (size, size), (255, 0, 255)),
        )
        scene = draw(11, index, size=64, min_things=2, max_things=4)
    return scene, changed[-len(scene.things) :]


@pytest.mark.parametrize("index", range(25))
def test_masks_are_exact_and_things_can_be_seen(
    monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    scene, changed = drawn(monkeypatch, index)
    labels = np.full((64, 64), IGNORE, dtype=np.uint8)
    for thing, pixels in zip(scene.things, changed, strict=True):
        labels[pixels] = thing
    assert np.array_equal(scene.labels, labels)
    magenta = (np.abs(scene.image.astype(int) - (255, 0, 255)) <= 12).all(axis=2)
    assert np.array_equal(magenta, scene.labels == IGNORE)
    for thing, pixels in zip(scene.things, changed, strict=True):
        assert (scene.labels == thing).sum() >= max(12, 0.5 * pixels.sum())


def test_small_scenes_show_twelve_pixels_of_everything() -> None:
    for index in range(60):
        scene = draw(0, index, size=16, min_things=2, max_things=3)
        assert min((scene.labels == thing).sum() for thing in scene.things) >= 12


def test_every_requested_class_appears() -> None:
    for thing in range(len(DOODLES)):
        scene = draw(0, thing, max_things=1, classes=(thing,))
        assert scene.things == (thing,)
        assert set(np.unique(scene.labels)) == {thing, IGNORE}
    for index in range(10):
        scene = draw(1, index, min_things=3, max_things=3, classes=(2, 5, 17))
        assert sorted(scene.things) == [2, 5, 17]
        assert set(np.unique(scene.labels)) == {2, 5, 17, IGNORE}


def test_numbers_of_things() -> None:
    scenes = [draw(2, index, min_things=2, max_things=4) for index in range(60)]
    assert {len(scene.things) for scene in scenes} == {2, 3, 4}
    assert all(
        len(set(scene.things)) == len(scene.things) == len(scene.colours) for scene in scenes
    )
    assert set().union(*(scene.things for scene in scenes)) == set(range(20))


def test_captions() -> None:
    empty = np.zeros((1, 1, 3), dtype=np.uint8)
    scene = doodles.Scene(empty, empty[..., 0], (0, 6, 2), ("red", "blue", "pink"))
    assert scene.caption("a photo of a {}") == "a photo of a car and a fish and a tree"
    assert (
        scene.caption("a {} here.", with_colours=True)
        == "a blue fish and a pink car and a red tree here."
    )


def test_the_caption_names_what_was_drawn() -> None:
    scene = draw(9, 4, min_things=3)
    assert scene.caption("{}").split(" and a ") == sorted(DOODLES[thing] for thing in scene.things)
    assert set(scene.colours) <= set(doodles.COLOURS)


def test_doodle_scenes() -> None:
    scenes = DoodleScenes(5, 3, size=48, min_things=1, max_things=2)
    sample, scene = scenes[2], draw(5, 2, size=48, min_things=1, max_things=2)
    assert (sample.image.dtype, sample.labels.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), scene.image)
    assert np.array_equal(sample.labels.numpy(), scene.labels)
    assert sample.name == "scene-5-2"
    assert len(scenes) == 3
    for outside in (3, -1):
        with pytest.raises(IndexError):
            scenes[outside]


# ---------------------------------------------------------------------- folders


def pair(folder: Path, ids: list[list[int]], size: tuple[int, int] | None = None) -> Pair:
    mask = np.array(ids, dtype=np.uint8)
    h, w = size or mask.shape
    Image.fromarray(np.arange(3 * h * w, dtype=np.uint8).reshape(h, w, 3)).save(folder / "a.png")
    Image.fromarray(mask).save(folder / "a_mask.png")
    return Pair(folder / "a.png", folder / "a_mask.png")


def test_labelled_images(tmp_path: Path) -> None:
    one = pair(tmp_path, [[0, 1, 2], [255, 2, 0]])
    data = LabelledImages([one], 3)
    assert len(data) == 1
    assert data[0].labels.tolist() == [[0, 1, 2], [255, 2, 0]]
    assert data[0].image.permute(1, 2, 0).flatten().tolist() == list(range(18))
    assert data[0].name == "a"
    assert LabelledImages([one], 2, background=0)[0].labels.tolist() == [[255, 0, 1], [255, 1, 255]]


@pytest.mark.parametrize(
    ("background", "ids", "message"),
    [
        (
            0,
            [[0, 21]],
            (
                "holds the id 21; valid are 1 to 20, 0 for background and 255 for ignored pixels:"
                " correct the mask or the list of classes"
            ),
        ),
        (None, [[0, 20]], "holds the id 20; valid are 0 to 19 and 255 for ignored pixels"),
        (0, [[0, 254]], "holds the id 254"),
    ],
)
def test_an_unknown_id(
    tmp_path: Path, background: int | None, ids: list[list[int]], message: str
) -> None:
    with pytest.raises(DataError, match=rf"a_mask\.png {message}"):
        LabelledImages([pair(tmp_path, ids)], 20, background)[0]


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=(
            r"a_mask\.png is 2x1 pixels, its image 5x4; make the mask again at the image's size"
        ),
    ):
        LabelledImages([pair(tmp_path, [[0, 1]], (4, 5))], 2)[0]


def test_a_missing_file(tmp_path: Path) -> None:
    one = pair(tmp_path, [[0, 1]])
    with pytest.raises(
        DataError, match=r"the label map .*gone\.png does not exist; check the data set's folder"
    ):
        LabelledImages([Pair(one.image, tmp_path / "gone.png")], 2)[0]
    with pytest.raises(DataError, match=r"the image .*gone\.png does not exist; check the path"):
        LabelledImages([Pair(tmp_path / "gone.png", one.labels)], 2)[0]


# -------------------------------------------------------------------------- VOC


def places(pairs: list[Pair]) -> list[tuple[str, str]]:
    assert all(
        pair.image.parent.name == "JPEGImages" and pair.image.suffix == ".jpg" for pair in pairs
    )
    assert all(pair.image.exists() and pair.image.stem == pair.labels.stem for pair in pairs)
    return [(pair.labels.parent.name, pair.labels.stem[-1]) for pair in pairs]


def test_training_pairs_are_train_then_aug(tmp_path: Path) -> None:
    assert places(voc_pairs(write_voc(tmp_path), "train")) == [
        ("SegmentationClass", "0"),
        ("SegmentationClass", "1"),
        ("SegmentationClassAug", "2"),
    ]
    assert places(voc_pairs(tmp_path, "val")) == [("SegmentationClass", "3")]


@pytest.mark.parametrize("missing", ["train", "aug"])
def test_trainaug_where_there_are_no_two_lists(tmp_path: Path, missing: str) -> None:
    lists = write_voc(tmp_path) / "ImageSets" / "Segmentation"
    (lists / f"{missing}.txt").unlink()
    assert places(voc_pairs(tmp_path, "train")) == [
        ("SegmentationClassAug", digit) for digit in "012"
    ]
    (lists / "trainaug.txt").unlink()
    with pytest.raises(
        DataError, match=r"trainaug\.txt is missing; `unseen prepare voc` makes PASCAL VOC's lists"
    ):
        voc_pairs(tmp_path, "train")


def test_the_root_may_be_a_folder_above(tmp_path: Path) -> None:
    base = write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    pairs = voc_pairs(base, "val")
    assert voc_pairs(tmp_path / "VOCdevkit", "val") == pairs
    assert voc_pairs(tmp_path, "val") == pairs
    with pytest.raises(
        DataError,
        match=(
            r"is not PASCAL VOC's folder \(no JPEGImages in it\); give the VOC2012 folder with"
            r" --root"
        ),
    ):
        voc_pairs(tmp_path / "elsewhere", "val")


def test_a_mask_is_looked_for_in_the_other_folder(tmp_path: Path) -> None:
    mask = write_voc(tmp_path) / "SegmentationClass" / "2007_000000.png"
    mask.unlink()
    assert places(voc_pairs(tmp_path, "train"))[0] == ("SegmentationClassAug", "0")
    (tmp_path / "SegmentationClassAug" / mask.name).unlink()
    with pytest.raises(
        DataError,
        match=(
            r"2007_000000, listed in .*train\.txt, has no mask in SegmentationClass or"
            r" SegmentationClassAug; restore it"
        ),
    ):
        voc_pairs(tmp_path, "train")


def test_a_missing_list(tmp_path: Path) -> None:
    (write_voc(tmp_path) / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt is missing"):
        voc_pairs(tmp_path, "val")


def test_palette_and_grey_masks_hold_the_same_ids(tmp_path: Path) -> None:
    palette, grey = (
        LabelledImages(voc_pairs(root, "train"), 20, background=0)
        for root in (write_voc(tmp_path / "P", mode="P"), write_voc(tmp_path / "L", mode="L"))
    )
    with Image.open(palette.pairs[0].labels) as one, Image.open(grey.pairs[0].labels) as other:
        assert (one.mode, other.mode) == ("P", "L")
    assert len(palette) == len(grey) == 3
    for i in range(3):
        assert torch.equal(palette[i].labels, grey[i].labels)
        assert torch.equal(palette[i].image, grey[i].image)
        assert len(palette[i].labels.unique()) == 3


# ------------------------------------------------------ COCO-Stuff and Context


def save(folder: Path, name: str, mask: NDArray[np.uint8]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(folder / f"{name}.png")


def photograph(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (90, 20, 20)).save(folder / f"{name}.jpg")


def test_coco_stuff_reads_training_ids(tmp_path: Path) -> None:
    mask = np.array([[0, 170, 255, 5]] * 3, dtype=np.uint8)
    for split in ("train2017", "val2017"):
        photograph(tmp_path / "images" / split, "000000000009")
        save(tmp_path / "annotations" / split, "000000000009_labelTrainIds", mask)
        save(tmp_path / "annotations" / split, "000000000009", mask + 1)
    for split in ("train", "val"):
        data = get_benchmark("coco-stuff").data(split, tmp_path)
        assert len(data) == 1
        assert data[0].labels[0].tolist() == [0, 170, 255, 5]
    (tmp_path / "annotations" / "val2017" / "000000000009_labelTrainIds.png").unlink()
    with pytest.raises(
        DataError,
        match=(
            "000000000009_labelTrainIds.png is missing; complete it with `unseen prepare"
            " coco-stuff`"
        ),
    ):
        get_benchmark("coco-stuff").data("val", tmp_path)
    with pytest.raises(DataError, match="not COCO-Stuff's folder"):
        get_benchmark("coco-stuff").data("val", tmp_path / "images")


def test_context_with_and_without_background(tmp_path: Path) -> None:
    root = tmp_path / "VOC2010"
    photograph(root / "JPEGImages", "2008_000002")
    save(
        root / "SegmentationClassContext",
        "2008_000002",
        np.array([[0, 1, 59, 255]] * 3, dtype=np.uint8),
    )
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2008_000002\n")
    assert get_benchmark("context").data("val", tmp_path)[0].labels[0].tolist() == [255, 0, 58, 255]
    assert get_benchmark("context-60").data("val", root)[0].labels[0].tolist() == [0, 1, 59, 255]
    with pytest.raises(DataError, match="train.txt is missing"):
        get_benchmark("context").data("train", tmp_path)
    (lists / "val.txt").write_text("2008_000009\n")
    with pytest.raises(DataError, match="2008_000009.png, listed in .* is missing"):
        get_benchmark("context").data("val", tmp_path)
    with pytest.raises(DataError, match="not PASCAL Context's folder"):
        get_benchmark("context").data("val", tmp_path / "VOC2010" / "ImageSets")
    with pytest.raises(DataError, match="x given with --root does not exist"):
        get_benchmark("context").data("val", tmp_path / "x")
