"""Folds: HSNet's lists, BAM's rule, drawn episodes, counts, and bad lists and masks."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SHARED, close, golden
from tiny import resize_output, tiny_clip, write_folds
from tiny.commands import ONE_STEP, error_of, run_command
from unseen.backbones.clip.tower import IMAGENET_MEAN, IMAGENET_STD
from unseen.data.benchmarks import BENCHMARKS, folds_of, get_benchmark
from unseen.data.classes import COCO, DOODLES, DOODLES_FOLDS, VOC
from unseen.data.datasets import DoodleScenes
from unseen.data.episodes import HASHES, Episode, bam_list, coco_list, draw, find_list, pascal_list
from unseen.data.folds import voc_fold_pair
from unseen.errors import DataError, SettingError
from unseen.evaluation.protocols import SquareImages
from unseen.inference import query_mask, resize_input
from unseen.labels import BACKGROUND
from unseen.methods import create
from unseen.metrics import EpisodeCounts
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

# ----------------------------------------------------------------------- folds


def test_four_folds_of_every_benchmark() -> None:
    assert len(COCO) == len(set(COCO)) == 80
    for name, class_names, size in (
        ("pascal-5i", VOC, 5),
        ("coco-20i", COCO, 20),
        ("doodles-5i", DOODLES, 5),
    ):
        folds = [BENCHMARKS[fold] for fold in folds_of(name)]
        assert [len(bench.unseen) for bench in folds] == [size] * 4
        assert sorted(name for bench in folds for name in bench.unseen) == sorted(class_names)
    assert BENCHMARKS["pascal-5i/1"].unseen == ("bus", "car", "cat", "chair", "cow")
    assert BENCHMARKS["coco-20i/0"].unseen[:4] == ("person", "airplane", "boat", "parking meter")
    assert BENCHMARKS["coco-20i/3"].unseen[-2:] == ("vase", "toothbrush")
    assert BENCHMARKS["doodles-5i/3"].unseen == DOODLES_FOLDS[3] == BENCHMARKS["doodles"].unseen


def test_a_fold_has_to_be_chosen() -> None:
    with pytest.raises(SettingError, match="has 4 folds; choose one of pascal-5i/0, pascal-5i/1"):
        get_benchmark("pascal-5i")


def test_training_scenes_hold_no_class_of_the_fold() -> None:
    data = BENCHMARKS["doodles-5i/2"].data("train", None)
    values = set(
        np.unique(np.concatenate([np.unique(data[i].labels.numpy()) for i in range(60)])).tolist()
    )
    assert BACKGROUND in values
    assert 255 not in values
    assert not values & set(BENCHMARKS["doodles-5i/2"].unseen_ids)


# ----------------------------------------------------------------------- lists


@pytest.fixture
def hsnet() -> Path:
    folder = SHARED / "data" / "lists" / "pascal-5i"
    if not folder.is_dir():
        pytest.skip("HSNet's lists are not here")
    return folder


def test_the_published_lists(hsnet: Path) -> None:
    """Lines and images of every fold, as counted on the published files."""
    import hashlib

    for fold, (lines, images) in enumerate([(346, 345), (451, 433), (725, 587), (346, 326)]):
        path = find_list(hsnet, f"pascal/val/fold{fold}.txt")
        assert (
            hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            == HASHES[f"pascal/val/fold{fold}.txt"]
        )
        listed = pascal_list(path)
        assert (len(listed), len({stem for stem, _ in listed})) == (lines, images)
        assert {class_id for _, class_id in listed} == set(range(5 * fold, 5 * fold + 5))
    training = [
        len(pascal_list(find_list(hsnet, f"pascal/trn/fold{fold}.txt"))) for fold in range(4)
    ]
    assert training == [2286, 3425, 5883, 2086]
    assert [sum(training) - count for count in training] == [11394, 10255, 7797, 11594]


def test_coco_lists_are_read_as_data(tmp_path: Path) -> None:
    (tmp_path / "fold0.pkl").write_bytes(
        pickle.dumps({1: [], 0: ["val2014/b.jpg"], 4: ["val2014/a.jpg", "val2014/b.jpg"]})
    )
    assert coco_list(tmp_path / "fold0.pkl") == [
        ("val2014/b.jpg", 0),
        ("val2014/a.jpg", 4),
        ("val2014/b.jpg", 4),
    ]
    for bad in (pickle.dumps({0: Path("x")}), b"nothing", pickle.dumps([1, 2])):
        (tmp_path / "bad.pkl").write_bytes(bad)
        with pytest.raises(DataError, match="not one of HSNet's lists"):
            coco_list(tmp_path / "bad.pkl")


def test_lists_are_downloaded_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, text, requests = "pascal/val/fold1.txt", b"2007_000001__06\n", []

    def fetch(url: str, timeout: float) -> io.BytesIO:
        requests.append(url)
        return io.BytesIO(text)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", fetch)
    with pytest.raises(DataError, match="is not the list that was published"):
        find_list(None, name)
    monkeypatch.setitem(HASHES, name, hashlib.sha256(text).hexdigest()[:16])
    assert find_list(None, name).read_bytes() == text
    assert find_list(None, name).is_relative_to(tmp_path)
    assert len(requests) == 2
    monkeypatch.setattr(
        "urllib.request.urlopen",
        lambda *_, **__: (_ for _ in ()).throw(URLError("no network")),
    )
    with pytest.raises(DataError, match="could not be fetched"):
        find_list(None, "pascal/val/fold2.txt")


def test_lists_are_kept_in_the_cache_folder_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, text = "pascal/val/fold1.txt", b"2007_000001__06\n"
    monkeypatch.setitem(HASHES, name, hashlib.sha256(text).hexdigest()[:16])
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(text))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = find_list(None, name)
    assert path == tmp_path / "cache" / "unseen" / "lists" / name
    assert not (tmp_path / "home").exists()


def test_bam_rule(tmp_path: Path) -> None:
    """A class counts from 2048 pixels on; images are kept for novel classes that count."""
    root = write_folds(tmp_path)
    masks = {
        "none": {},
        "small": {1: 2047},
        "base": {8: 2048},
        "novel": {1: 2048, 8: 3000},
        "trace": {8: 4000, 1: 1},
        "both": {1: 2048, 2: 2500, 9: 5},
    }
    for name, areas in masks.items():
        flat = np.zeros(100 * 100, dtype=np.uint8)
        for value, area in areas.items():
            start = int((flat > 0).sum())
            flat[start : start + area] = value
        Image.fromarray(flat.reshape(100, 100)).save(root / "SegmentationClassAug" / f"{name}.png")
    pairs = [voc_fold_pair(root, name) for name in masks]
    kept, episodes = bam_list(pairs, 20, range(5))
    assert [pair.labels.stem for pair in kept] == ["novel", "both"]
    assert episodes == [Episode(0, 0), Episode(1, 0), Episode(1, 1)]


# ----------------------------------------------------------------------- draws


def test_draws() -> None:
    episodes = [Episode(0, 3), Episode(1, 3), Episode(1, 4), Episode(2, 4)]
    assert draw(episodes, "all", uniform_classes=False, seed=5) == episodes
    assert draw(episodes, "hsnet", uniform_classes=False, seed=5, count=6) == [
        *episodes,
        *episodes[:2],
    ]
    bam = draw(episodes, "bam", uniform_classes=False, seed=5, count=300)
    assert [episode.index for episode in bam[:6]] == [0, 1, 2, 0, 1, 2]
    assert 30 < Counter(bam)[Episode(1, 3)] < 70
    assert bam == draw(episodes, "bam", uniform_classes=False, seed=5, count=300)
    assert bam != draw(episodes, "bam", uniform_classes=False, seed=6, count=300)
    lopsided = [*[Episode(i, 0) for i in range(99)], Episode(99, 1)]
    for how in ("hsnet", "sazs"):
        drawn = Counter(
            episode.class_id for episode in draw(lopsided, how, uniform_classes=True, seed=0)
        )  # type: ignore[arg-type]
        assert sum(drawn.values()) == 1000
        assert abs(drawn[1] - 500) < 60, "first the class, then the image"
    assert draw(lopsided, "hsnet", uniform_classes=True, seed=0) != draw(
        lopsided, "sazs", uniform_classes=True, seed=0
    ), "hsnet draws an example too"
    for fold in range(4):
        pairs = [Episode(i, class_id) for class_id in range(fold, 80, 4) for i in range(9)]
        assert draw(pairs, "hsnet", uniform_classes=True, seed=0)[0].class_id == 72 + fold, (
            "as in HSNet's stream"
        )
        assert draw(pairs, "sazs", uniform_classes=True, seed=0)[0].class_id == 72 + fold, (
            "as in SAZS's stream"
        )
    with pytest.raises(SettingError, match="'half'; choose one of all, hsnet, sazs, bam"):
        draw(episodes, "half", uniform_classes=False, seed=0)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- counts


def test_counts() -> None:
    counts = EpisodeCounts(3)
    truth = torch.tensor([[1, 1, 0, 255]])
    counts.update(torch.tensor([[True, False, False, True]]), truth, 0)
    counts.update(torch.tensor([[True, True, True, False]]), truth, 2)
    assert counts.iou.tolist() == pytest.approx([1 / 2, 0, 2 / 3])
    scores = counts.summary([], [0, 1, 2])
    assert scores["mIoU"] == pytest.approx(100 * (1 / 2 + 0 + 2 / 3) / 3), (
        "a class without episodes counts as 0"
    )
    assert scores["FB_IoU"] == pytest.approx(100 * ((1 + 0) / (2 + 1) + (1 + 2) / (2 + 3)) / 2)
    assert counts.episodes.tolist() == [1, 0, 1]


def test_released_evaluation_of_esda() -> None:
    """The canvas images are fitted into, and what is counted on them (fixture esda_preproc)."""
    tensors, about = golden("esda_preproc")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    settings, counts = InferenceSettings(canvas=about["size"]), EpisodeCounts(5)
    for k, sample in enumerate(about["samples"]):
        image, labels = tensors[f"val.{k}.image_in"] / 255, tensors[f"val.{k}.label_in"].long()
        ours = (resize_input(image.unsqueeze(0), settings)[0] - mean) / std
        close(ours, tensors[f"val.{k}.image_out"], 1e-4)
        logits = tensors[f"eval.{k}.logits"]
        mask = (
            resize_output(logits[:, 1:] - logits[:, :1], (sample["h"], sample["w"]), settings)[0, 0]
            > 0
        )
        before = counts.counts.clone()
        counts.update(mask, labels, sample["class_index"])
        added = (counts.counts - before)[sample["class_index"]]
        assert added[:, 0].tolist() == tensors[f"eval.{k}.inter"].long().tolist()
        assert added[:, 1].tolist() == tensors[f"eval.{k}.union"].long().tolist()
    assert counts.iou.tolist() == pytest.approx(about["class_iou"], abs=1e-6)
    scores = counts.summary([], range(5))
    assert scores["mIoU"] == pytest.approx(100 * about["mIoU_5"], abs=1e-4)
    assert scores["FB_IoU"] == pytest.approx(100 * about["FB_IoU"], abs=1e-4)


def test_foreground_is_where_the_logit_of_the_query_class_is_higher() -> None:
    images = torch.rand(2, 3, 32, 40)
    one = create("esda", tiny_clip(), text_blocks=(1,)).eval()
    text = one.encode_text(Vocabulary(["tree", "car"]))
    mask = query_mask(one, images, text, 1, InferenceSettings())
    logits = torch.stack(
        [
            one.forward_query(image.unsqueeze(0), text.select([1])).resized((32, 40))[0]
            for image in images
        ]
    )
    assert torch.equal(mask, logits[:, 1] > logits[:, 0])
    assert torch.equal(mask, query_mask(one, images, text, 1, InferenceSettings(), 0.5))
    probability = (logits[:, 1] - logits[:, 0]).sigmoid()
    threshold = probability.quantile(0.3).item()
    assert torch.equal(
        query_mask(one, images, text, 1, InferenceSettings(), threshold), probability > threshold
    )


# ----------------------------------------------------------------------- verbs


def test_a_pascal_fold_through_the_verbs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folds(tmp_path)
    common = f"--benchmark pascal-5i/0 --root {root} --lists {tmp_path / 'lists'}"
    run_command(
        "train esda",
        common,
        f"--clip doodles --out {tmp_path / 'run'} --train.steps 2 --train.batch_size 2",
        "--train.warmup 0 --train.workers 0 --train.transforms.crop 48",
        "--train.unseen_pixels ignore",
    )
    run_command(f"evaluate {tmp_path / 'run'}", common, "--inference.canvas 48")
    report = json.loads((tmp_path / "run" / "eval-pascal-5i-0" / "report.json").read_text())
    listed = pascal_list(tmp_path / "lists" / "val" / "fold0.txt")
    assert sum(report["episodes"].values()) == len(listed)
    assert set(report["iou"]) == set(VOC[:5])
    run_command(
        f"evaluate {tmp_path / 'run'}",
        common,
        f"--inference.canvas 48 --threshold 0 --out {tmp_path / 'everywhere'}",
    )
    everywhere = json.loads((tmp_path / "everywhere" / "report.json").read_text())
    assert everywhere["protocol"]["evaluation"]["threshold"] == 0
    assert all(counted["background"][0] == 0 for counted in everywhere["counts"].values()), (
        "every pixel is more confident than 0"
    )
    assert report["protocol"]["evaluation"]["episodes"] == "all"
    assert Image.open(tmp_path / "run" / "eval-pascal-5i-0" / "sheet.png").width > 400
    run_command(
        f"evaluate {tmp_path / 'run'}",
        common,
        f"--inference.canvas 48 --episodes hsnet --limit 7 --out {tmp_path / 'h'}",
    )
    assert sum(json.loads((tmp_path / "h" / "report.json").read_text())["episodes"].values()) == 7
    bam = f"--inference.canvas 48 --episodes bam --seeds [1,2] --limit 5 --out {tmp_path / 'b'}"
    # BAM draws from images with objects of 2048 pixels or more.
    assert "has a labelled pixel" in error_of(capsys, f"evaluate {tmp_path / 'run'}", common, bam)
    root = write_folds(tmp_path / "large", (120, 160))
    common = f"--benchmark pascal-5i/0 --root {root} --lists {tmp_path / 'large' / 'lists'}"
    capsys.readouterr()
    run_command(f"evaluate {tmp_path / 'run'}", common, bam)
    out = capsys.readouterr().out
    assert "2 seeds" in out
    assert "±" in out
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"seed-1", "seed-2"}


def test_all_folds_end_in_their_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_command("evaluate naclip --benchmark doodles-5i --limit 4")
    assert "mean of 4 folds" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 4


def test_query_methods_give_one_label_map(query_run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (70, 50), (200, 30, 30)).save(tmp_path / "photo.png")
    run_command(
        f"segment {tmp_path / 'photo.png'} --classes tree,kite,sun",
        f"--model {query_run} --out {tmp_path / 'out'}",
    )
    assert set(np.unique(np.array(Image.open(tmp_path / "out" / "photo.png")))) <= {0, 1, 2}
    run_command(f"evaluate {query_run} --limit 2 --out {tmp_path / 'eval'}")
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert sum(map(sum, report["confusion"]["pixels"])) == report["pixels"]


# -------------------------------------------------------------------- bad input


def test_bad_folds(query_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folds(tmp_path)
    where = f"--benchmark pascal-5i/0 --root {root}"
    common = f"{where} --lists {tmp_path / 'lists'}"
    lists = tmp_path / "lists" / "val" / "fold0.txt"
    good = lists.read_text()
    lists.write_text(good + "2007_999999__01\n")
    assert "names 2007_999999, but" in error_of(capsys, "evaluate naclip", common)
    lists.write_text(good + "2007_000000\n")
    assert "the line '2007_000000'" in error_of(capsys, "evaluate naclip", common)
    lists.write_text(good.replace("__01", "__05"))
    assert "with 'bottle', which its mask does not hold" in error_of(
        capsys, "evaluate naclip", common
    )
    lists.write_text(good + "2007_000000__06\n")
    assert "names class 6 for 2007_000000, which does not belong" in error_of(
        capsys, "evaluate naclip", common
    )
    lists.write_text("")
    assert "fold0.txt is empty" in error_of(capsys, "evaluate naclip", common)
    assert "BAM's draw is made for photographs" in error_of(
        capsys, "evaluate naclip --benchmark doodles-5i/0 --episodes bam"
    )
    assert "--threshold is 1.5; give a number of at least 0 and at most 1" in error_of(
        capsys, "evaluate naclip --benchmark doodles-5i/0 --threshold 1.5"
    )
    assert "is for folds" in error_of(capsys, "evaluate naclip --episodes bam")
    assert "has no stable address" in error_of(
        capsys, f"evaluate naclip --benchmark coco-20i/1 --root {root} --episodes bam"
    )
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    assert "val.txt is missing" in error_of(capsys, "evaluate naclip", common, "--episodes bam")
    assert "holds no val/fold0.txt" in error_of(capsys, "evaluate naclip", where, f"--lists {root}")
    assert "needs its images" in error_of(capsys, "evaluate naclip --benchmark coco-20i/1")
    assert "has 4 folds; choose one" in error_of(
        capsys, f"train esda --benchmark pascal-5i --out {tmp_path / 'x'}"
    )
    assert "cannot give pseudo labels to unseen classes" in error_of(
        capsys,
        f"train esda --train.regime transductive --init {query_run}",
        f"--out {tmp_path / 'x'}",
    )
    np.save(tmp_path / "classes.npy", np.ones((20, 128), dtype=np.float32))
    assert "single tokens" in error_of(
        capsys, f"train esda --text-embeddings {tmp_path / 'classes.npy'} --out {tmp_path / 'x'}"
    )
    assert "exclude each other" in error_of(
        capsys, "evaluate naclip --inference.canvas 48 --inference.square 48"
    )
    assert "--out is one folder" in error_of(
        capsys, f"evaluate naclip sclip --out {tmp_path / 'x'}"
    )
    assert not (tmp_path / "x").exists()


def test_two_runs_of_one_method_are_two_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs are not seeds of one run, and both keep their scores.

    Drawn episodes do not replace exhaustive ones.
    """
    for name, seed in (("a", 0), ("b", 1)):
        run_command(
            f"train esda --benchmark doodles-5i/1 --out {tmp_path / name} --train.seed {seed}",
            ONE_STEP,
        )
    capsys.readouterr()
    run_command(f"evaluate {tmp_path / 'a'} {tmp_path / 'b'} --limit 2")
    out = capsys.readouterr().out
    assert "±" not in out
    assert not (tmp_path / "a" / "metrics.json").exists(), (
        "a part of the episodes is not the run's score"
    )
    tiny = get_benchmark("doodles-5i/1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "unseen.evaluation.entries.get_benchmark",
            lambda name, lists=None: replace(tiny, episodes=lambda *_: (_world(), [Episode(0, 5)])),
        )
        run_command(f"evaluate {tmp_path / 'a'}")
        kept = (tmp_path / "a" / "metrics.json").read_text()
        assert set(json.loads(kept)) == {"about", "doodles-5i/1"}
        run_command(f"evaluate {tmp_path / 'a'} --episodes bam")
    assert (tmp_path / "a" / "metrics.json").read_text() == kept


def _world() -> DoodleScenes:
    return DoodleScenes(
        5, 1, size=64, min_things=1, max_things=1, classes=(5,), keep_background=True
    )


def test_seen_classes_and_meaningless_spreads_are_refused(
    fold_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes seen in training are refused; seeds and runs count once.

    Only drawn episodes have seeds.
    """
    run = shutil.copytree(fold_run, tmp_path / "run")
    assert "and 4 more of the unseen classes of doodles-5i/1" in error_of(
        capsys, f"evaluate {run} --benchmark doodles-5i/1 --limit 2"
    )
    assert "is given twice" in error_of(capsys, f"evaluate {run} {run} --limit 2")
    for seeds in ("[1,1]", "[]", "[-1]"):
        error = error_of(capsys, f"evaluate {run} --episodes hsnet --seeds {seeds}")
        assert "--seeds is" in error
        assert "give a list" in error or "give different numbers" in error
    assert "nothing is drawn" in error_of(capsys, f"evaluate {run} --seeds [1,2]")
    run_command(f"evaluate {run} --episodes hsnet --seeds [1,2] --limit 2")
    out = capsys.readouterr().out
    assert "first 2" in " ".join(out.split())
    for seed in (1, 2):
        assert (run / "eval-doodles-5i-0-hsnet-first-2" / f"seed-{seed}" / "report.json").exists()
    assert not (run / "eval-doodles-5i-0").exists()


def test_squares_may_be_scored_at_their_own_size() -> None:
    """HSNet's evaluation: label maps go to the square by the nearest pixel."""
    bench = get_benchmark("doodles-5i/0")
    assert bench.episodes is not None
    data, _ = bench.episodes(None, "all", 0)
    squares = SquareImages(data, InferenceSettings(square=40))
    sample, whole = squares[3], data[3]
    assert len(squares) == len(data)
    assert sample.image.shape == (3, 40, 40)
    places = (torch.arange(40) * whole.labels.shape[0] / 40).long()
    assert torch.equal(sample.labels, whole.labels[places][:, places])
    assert sample.name == whole.name


def test_scoring_at_squares_needs_squares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = f"evaluate naclip --benchmark doodles-5i/0 --limit 3 --out {tmp_path}"
    assert "--at-square is for images resized to squares" in error_of(
        capsys, f"{common} --at-square"
    )
    run_command(f"{common} --at-square --inference.square 64")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["evaluation"]["at_square"] is True
    assert report["pixels"] == 3 * 64 * 64
