"""Targets, schedules, batches; a resumed run ends where the uninterrupted one does."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tiny import tiny_clip, write_own
from tiny.commands import ONE_STEP, error_of
from unseen.backbones.clip.blocks import run_block
from unseen.data.benchmarks import BENCHMARKS, Benchmark, get_benchmark
from unseen.data.datasets import DoodleScenes, LabelledImages, Sample, SegmentationSet
from unseen.data.pairs import Pair
from unseen.errors import DataError, SettingError
from unseen.labels import IGNORE, PADDING
from unseen.methods import METHODS, create
from unseen.segmenter import Prediction, Segmenter
from unseen.settings import TrainSettings, TransformSettings
from unseen.training.batches import (
    LabelMapItems,
    QueryItems,
    StepSampler,
    images_by_class,
    images_to_query,
    training_items,
)
from unseen.training.curves import CsvCurve
from unseen.training.loop import fit
from unseen.training.records import RunControl
from unseen.training.schedules import learning_rate
from unseen.training.targets import targets_of
from unseen.vocabulary import Vocabulary

SMALL = TrainSettings(
    steps=6,
    batch_size=4,
    lr=1e-3,
    warmup=2,
    workers=0,
    save_every=3,
    log_every=1,
    precision="32-true",
    transforms=TransformSettings(resize=(64, 32), scale=(0.8, 1.2), crop=32),
)


def world() -> Benchmark:
    return replace(
        BENCHMARKS["doodles"],
        open=lambda root, split: DoodleScenes(5, 10, size=32, min_things=1, max_things=2),
    )


def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return create("zegclip", tiny_clip(), num_prompts=2, decoder_heads=2)


def fit_on(
    bench: Benchmark, model: Segmenter, folder: Path, settings: TrainSettings, **control: Any
) -> bool:
    text = model.encode_text(Vocabulary(bench.class_names))
    return fit(model, text, bench, None, settings, RunControl(folder, progress=False, **control))


def trained(folder: Path, settings: TrainSettings, **control: Any) -> dict[str, Tensor]:
    model = segmenter()
    assert fit_on(world(), model, folder, settings, **control)
    return model.trainable_state()


# --------------------------------------------------------------------- targets


def test_inductive_targets_are_indices_among_the_seen_classes() -> None:
    labels = torch.tensor([[[0, 1, 2], [3, 255, 254]]])
    prediction = Prediction(torch.zeros(1, 2, 2, 3), (2, 3))
    targets = targets_of(labels, prediction, regime="inductive", seen=[3, 1], unseen=[0, 2])
    assert targets.tolist() == [[[255, 1, 255], [0, 255, 255]]]


def test_transductive_targets_never_look_at_the_unseen_class() -> None:
    """Pixels of unseen classes get the unseen class of highest logit, whatever their label.

    Seen pixels keep their labels.
    """
    logits = torch.zeros(1, 4, 1, 4)
    logits[0, 0] = 9  # a seen class that wins everywhere must not be given to unseen pixels
    logits[0, 3, 0, :2] = 1
    logits[0, 2, 0, 2:] = 1
    prediction = Prediction(logits, (1, 4))
    for hidden in ((2, 2, 2), (3, 2, 3)):
        labels = torch.tensor([[[hidden[0], 1, hidden[1], hidden[2]]]])
        targets = targets_of(labels, prediction, regime="transductive", seen=[0, 1], unseen=[2, 3])
        assert targets.tolist() == [[[3, 1, 2, 2]]]


def test_ignored_pixels_get_pseudo_labels_only_by_the_setting_and_padding_never() -> None:
    logits = torch.zeros(1, 3, 1, 3)
    logits[0, 2] = 1
    prediction, labels = Prediction(logits, (1, 3)), torch.tensor([[[IGNORE, PADDING, 0]]])
    assert targets_of(
        labels, prediction, regime="transductive", seen=[0], unseen=[1, 2]
    ).tolist() == [[[255, 255, 0]]]
    assert targets_of(
        labels,
        prediction,
        regime="transductive",
        seen=[0],
        unseen=[1, 2],
        pseudo_label_ignored=True,
    ).tolist() == [[[2, 255, 0]]]


def test_supervised_targets_are_the_labels() -> None:
    labels = torch.tensor([[[0, 2, IGNORE, PADDING]]])
    assert targets_of(
        labels,
        Prediction(torch.zeros(1, 3, 1, 4), (1, 4)),
        regime="supervised",
        seen=[0, 1, 2],
        unseen=[],
    ).tolist() == [[[0, 2, 255, 255]]]


# ------------------------------------------------------------------- schedules


def test_released_schedule() -> None:
    """Check values of the released configurations."""
    settings = TrainSettings()
    for step, rate in (
        (0, 2.0e-10),
        (750, 9.663559e-05),
        (1500, 1.865157e-04),
        (10_000, 1.076415e-04),
        (19_999, 1.026787e-06),
    ):
        assert learning_rate(step, settings) == pytest.approx(rate, rel=1e-6)


def test_other_schedules() -> None:
    base = TrainSettings(steps=90, lr=1.0, warmup=0)
    assert [
        learning_rate(s, replace(base, schedule="step")) for s in (0, 29, 30, 60, 89)
    ] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    assert [
        learning_rate(s, replace(base, schedule="cosine")) for s in (0, 45, 90)
    ] == pytest.approx([1, 0.5, 0])
    assert learning_rate(50, replace(base, schedule="constant")) == 1


def test_norms_and_biases_decay_only_by_the_setting() -> None:
    model = segmenter()
    plain = model.parameter_groups(TrainSettings())
    assert [group["weight_decay"] for group in plain] == [0.01, 0.0]
    assert all(p.ndim > 1 for p in plain[0]["params"])
    released = model.parameter_groups(TrainSettings(decay_norms=True))
    assert len(released) == 1
    assert len(released[0]["params"]) == sum(p.requires_grad for p in model.parameters())


# --------------------------------------------------------------------- batches


def test_every_epoch_sees_every_sample_once_in_another_order() -> None:
    sampler = StepSampler(12, TrainSettings(steps=6, batch_size=4, seed=0))
    numbers = [number for batch in sampler for number, _ in batch]
    assert sorted(numbers[:12]) == list(range(12))
    assert sorted(numbers[12:]) == list(range(12))
    assert numbers[:12] != numbers[12:]
    keys = [key for batch in sampler for _, key in batch]
    assert len(set(keys)) == len(keys)


def test_the_last_incomplete_batch_of_an_epoch_is_dropped() -> None:
    batches = list(StepSampler(10, TrainSettings(steps=4, batch_size=4, seed=0)))
    assert len({n for batch in batches[:2] for n, _ in batch}) == 8


def test_ranks_and_parts_deal_the_same_batch() -> None:
    whole = list(StepSampler(40, TrainSettings(steps=3, batch_size=8, seed=1)))
    dealt = [
        list(
            StepSampler(
                40, TrainSettings(steps=3, batch_size=8, seed=1, accumulate=2), rank=rank, ranks=2
            )
        )
        for rank in range(2)
    ]
    for step, batch in enumerate(whole):
        parts = [
            item for part in range(2) for rank in range(2) for item in dealt[rank][2 * step + part]
        ]
        assert parts == batch


def test_a_late_start_continues_the_order() -> None:
    whole = list(StepSampler(10, TrainSettings(steps=7, batch_size=4, seed=3, accumulate=2)))
    assert (
        list(StepSampler(10, TrainSettings(steps=7, batch_size=4, seed=3, accumulate=2), start=3))
        == whole[6:]
    )


def test_a_set_smaller_than_a_batch_is_repeated() -> None:
    assert sorted(
        n for n, _ in StepSampler(3, TrainSettings(steps=1, batch_size=6, seed=0)).batch(0)
    ) == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]


def test_sampling_by_class_shows_rare_classes_as_often() -> None:
    groups = [np.arange(30), np.array([31]), np.array([32, 33])]
    settings = TrainSettings(steps=100, batch_size=9, seed=0)
    sampler = StepSampler(40, settings, groups)
    drawn = [index for step in range(100) for index, _ in sampler.batch(step)]
    counts = np.bincount(drawn, minlength=40)
    assert counts[34:].sum() == 0, "images that show no class are left out"
    assert counts[31] == pytest.approx(300, abs=50)
    assert counts[:30].sum() == pytest.approx(300, abs=50)
    assert sampler.batch(7) == StepSampler(40, settings, groups).batch(7)
    assert list(StepSampler(40, settings, groups, start=99)) == [sampler.batch(99)]


def test_images_by_class() -> None:
    bench = get_benchmark("doodles")
    data = DoodleScenes(5, 12, size=32, min_things=1, max_things=2)
    items = LabelMapItems(data, lambda image, labels: (image, labels))
    groups = images_by_class(items, bench.seen_ids)
    shown = [set(data.labels(i).unique().tolist()) for i in range(12)]
    present = [c for c in bench.seen_ids if any(c in labels for labels in shown)]
    assert len(groups) == len(present)
    for class_id, group in zip(present, groups, strict=True):
        assert group.tolist() == [i for i, labels in enumerate(shown) if class_id in labels]
    with pytest.raises(DataError, match="no training image shows any"):
        images_by_class(items, [])


def test_batches_that_cannot_be_divided() -> None:
    with pytest.raises(SettingError, match="multiple of 6"):
        StepSampler(10, TrainSettings(steps=1, batch_size=8, seed=0, accumulate=2), ranks=3)


def test_augmentation_follows_the_key_alone() -> None:
    items = LabelMapItems(
        DoodleScenes(5, 4, size=48, min_things=1, max_things=2),
        lambda image, labels: (image + torch.rand(()).mul(9).to(torch.uint8), labels),
    )
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = items[0, 7][0]
    assert torch.equal(torch.get_rng_state(), before), (
        "the generator of the training loop is left alone"
    )
    torch.manual_seed(2)
    assert torch.equal(items[0, 7][0], a)
    assert any(not torch.equal(items[0, key][0], a) for key in range(8, 12))


class LabelRows(SegmentationSet):
    """Images of one row of labels."""

    def __init__(self, *rows: list[int]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        labels = torch.tensor([self.rows[index]])
        return Sample(torch.zeros(3, *labels.shape, dtype=torch.uint8), labels, str(index))


def unchanged(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return image, labels


def test_labels_of_a_query() -> None:
    """Pixels of unseen classes are ignored, or background, or their images are left out.

    Other classes are background, or have labels of their own.
    """
    data = LabelRows([0, 1, 2, 253, 255], [0, 1, 1, 253, 255])

    def labels(index: int, **how: Any) -> list[int]:
        return QueryItems(data, unchanged, [0], **how)[index, 1][1][0].tolist()

    assert labels(0, ignored_ids=[2]) == [1, 0, 255, 0, 255]
    assert labels(0) == [1, 0, 0, 0, 255]
    assert labels(0, excluded_ids=[2]) == labels(1) == [1, 0, 0, 0, 255]
    assert labels(0, ignored_ids=[2], class_labels=True) == [1, 3, 255, 0, 255]
    assert labels(0, class_labels=True) == [1, 3, 4, 0, 255]
    with pytest.raises(DataError, match="each of the 2 training images shows an unseen class"):
        labels(0, excluded_ids=[1])
    with pytest.raises(DataError, match="no training image shows any of the classes"):
        QueryItems(data, unchanged, [7])[0, 1]


@pytest.mark.parametrize("drop_image", [True, False])
def test_images_that_fit_are_equally_likely(drop_image: bool) -> None:
    """Images that follow one with an unseen class are drawn as often as others."""
    unfit = [0, 2] if drop_image else [3, 3]
    data = LabelRows([0, 0], [0, 1], unfit, unfit, unfit, unfit, [0, 0, 1], [0, 0, 0, 1])
    seen: Counter[int] = Counter()
    items = QueryItems(data, unchanged, [0], excluded_ids=[2] if drop_image else ())
    steps = 4 if drop_image else 400
    settings = TrainSettings(steps=steps, batch_size=len(items), accumulate=1)
    for batch in StepSampler(len(items), settings):
        for key in batch:
            labels = items[key][1][0].tolist()
            seen[len(labels) if len(labels) > 2 else sum(labels)] += 1
    share = steps * len(items) / 4
    tolerance = 0 if drop_image else 0.1 * share
    assert set(seen) == {1, 2, 3, 4}
    assert all(abs(count - share) <= tolerance for count in seen.values())


@pytest.mark.parametrize(
    ("method", "options", "mean"),
    [
        ("zegclip", {"decoder_heads": 2}, [122.77, 116.75, 104.09]),
        ("sazs", {"backbone": "small"}, [127.5, 127.5, 127.5]),
        ("sazs", {"backbone": "small", "padding": "black"}, [0, 0, 0]),
        ("edgeclip", {}, [123.675, 116.28, 103.53]),
        ("edgeclip", {"normalization": "none"}, [0, 0, 0]),
    ],
)
def test_crops_are_padded_with_what_is_zero_to_the_network(
    method: str, options: dict[str, Any], mean: list[float]
) -> None:
    """Training pads as inference does; black only where the released code does so."""
    model = create(method, tiny_clip(), **options)
    bench = world()
    settings = replace(SMALL, transforms=TransformSettings(resize=None, crop=48, flip=0.0))
    items = training_items(model, bench, bench.data("train", None), settings)
    image = items[0, 0][0]
    assert image.shape == (3, 48, 48)
    assert image[:, -1, -1].tolist() == [round(value) for value in mean]


# ------------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    ("steps", "killed", "parts"), [(6, 4, 1), (12, 4, 1), (12, 7, 2), (12, 11, 1)]
)
def test_resume_ends_in_the_weights_of_the_uninterrupted_run(
    tmp_path: Path, steps: int, killed: int, parts: int
) -> None:
    settings = replace(SMALL, steps=steps, accumulate=parts)
    whole = trained(tmp_path / "whole", settings)
    # Killed after a step between two states, which are kept every three.
    model = segmenter()
    with pytest.raises(KilledError):
        fit_on(
            world(), model, tmp_path / "cut", replace(settings, snapshots=(killed,)), snapshot=_kill
        )
    assert (tmp_path / "cut" / "state" / "last.ckpt").exists()
    resumed = trained(tmp_path / "cut", settings, resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    moved = segmenter().trainable_state()
    assert any(not torch.equal(whole[name], moved[name]) for name in whole)


class KilledError(Exception):
    pass


def _kill(step: int) -> None:
    raise KilledError


def test_accumulated_parts_train_like_the_whole_batch(tmp_path: Path) -> None:
    """Without dropout and with equal numbers of classes in the parts, gradients are equal."""
    settings = replace(SMALL, steps=1, warmup=0, lr=1e-2)
    states = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = create("zegclip", tiny_clip(), num_prompts=2, decoder_heads=2, dropout=0.0)
        bench = replace(
            world(),
            open=lambda root, split: DoodleScenes(5, 1, size=32, min_things=1, max_things=1),
        )
        plain = replace(
            settings,
            accumulate=parts,
            transforms=TransformSettings(resize=None, crop=None, flip=0.0, photometric=False),
        )
        fit_on(bench, model, tmp_path / str(parts), plain)
        states.append(model.trainable_state())
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-5) for name in states[0])


def test_recomputed_blocks_train_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = []

    def counted(*args: Any) -> Tensor:
        walked.append(args[0])
        return run_block(*args)

    monkeypatch.setattr("unseen.backbones.clip.tower.run_block", counted)
    settings = replace(SMALL, precision="bf16-mixed", steps=3)
    kept = trained(tmp_path / "kept", settings)
    at_start, in_steps = 3, 3 * 3  # three blocks: where training starts, and in every step
    assert len(walked) == at_start + in_steps
    again = trained(tmp_path / "again", replace(settings, recompute=True))
    assert len(walked) == 2 * at_start + 3 * in_steps
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_only_clips_image_tower_is_recomputed(tmp_path: Path) -> None:
    model = create("sazs", tiny_clip(), **METHODS["sazs"].cls.TINY)
    with pytest.raises(SettingError, match="SAZS does not use .* --train.recompute"):
        fit_on(world(), model, tmp_path, replace(SMALL, recompute=True))


@pytest.mark.parametrize("regime", ["transductive", "supervised"])
def test_regimes_train(tmp_path: Path, regime: str) -> None:
    state = trained(tmp_path, replace(SMALL, steps=2, regime=regime, pseudo_label_ignored=True))
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def curve_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_run_continues_its_curve(tmp_path: Path) -> None:
    """Every step has one row, as if the run had not been stopped."""
    trained(tmp_path / "whole", SMALL)
    with pytest.raises(KilledError):
        fit_on(
            world(), segmenter(), tmp_path / "cut", replace(SMALL, snapshots=(4,)), snapshot=_kill
        )
    assert [row["step"] for row in curve_of(tmp_path / "cut")] == ["0", "1", "2", "3"]
    trained(tmp_path / "cut", SMALL, resume=True)
    assert curve_of(tmp_path / "cut") == curve_of(tmp_path / "whole")
    trained(tmp_path / "cut", replace(SMALL, steps=2))
    assert [row["step"] for row in curve_of(tmp_path / "cut")] == ["0", "1"]


def test_the_state_holds_data_only(tmp_path: Path) -> None:
    """It is read without unpickling code."""
    trained(tmp_path, SMALL)
    state = torch.load(tmp_path / "state" / "last.ckpt", weights_only=True)
    assert state["step"] == 6


def test_images_of_different_sizes_without_a_crop(tmp_path: Path) -> None:
    class Mixed(DoodleScenes):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(
                sample,
                image=sample.image[:, : 32 - index % 2],
                labels=sample.labels[: 32 - index % 2],
            )

    model, bench = (
        segmenter(),
        replace(
            world(), open=lambda root, split: Mixed(5, 10, size=32, min_things=1, max_things=2)
        ),
    )
    for workers in (0, 1):
        settings = replace(
            SMALL, workers=workers, transforms=TransformSettings(resize=None, crop=None)
        )
        with pytest.raises(
            SettingError,
            match=(
                r"^images of a batch have different sizes \(32x31, 32x32\); give"
                r" --train.transforms.crop$"
            ),
        ):
            fit_on(bench, model, tmp_path, settings)


def test_a_segmenter_in_eval_mode_trains_in_training_mode(tmp_path: Path) -> None:
    """Dropout is on during training only; the tower stays in eval mode."""
    model = segmenter().eval()
    modes = []
    model.descriptor.register_forward_hook(
        lambda *_: modes.append((model.training, model.clip.visual.training))
    )  # type: ignore[union-attr, operator]
    fit_on(world(), model, tmp_path, replace(SMALL, steps=1))
    # The first time is that of the start, which looks at images as at inference.
    assert modes == [(False, False), (True, False)]
    assert not model.training


def test_curves_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "csv", replace(SMALL, steps=2))
    rows = curve_of(tmp_path / "csv")
    assert [row["step"] for row in rows] == ["0", "1"]
    assert list(rows[0]) == ["loss", "loss/dice", "loss/mask", "lr", "step"]
    assert float(rows[1]["lr"]) == pytest.approx(learning_rate(1, replace(SMALL, steps=2)))
    assert not list((tmp_path / "csv" / "logs").glob("events.*"))
    boards = replace(SMALL, steps=2, logger="tensorboard")
    trained(tmp_path / "board", boards)
    assert curve_of(tmp_path / "board") == rows
    assert list((tmp_path / "board" / "logs").glob("events.*"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match=r"pip install 'unseen\[track\]'"):
        trained(tmp_path / "none", boards)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it stands for a full disk")
def test_a_curve_on_a_full_disk(tmp_path: Path) -> None:
    curve = CsvCurve(tmp_path, 0)
    curve.path = Path("/dev/full")
    with pytest.raises(DataError, match="No space left on device.; free some space"):
        curve.add(0, {"loss": 1.0})


def test_methods_without_training_say_so(tmp_path: Path) -> None:
    model = create("naclip", tiny_clip())
    with pytest.raises(SettingError, match="nothing to train"):
        fit_on(world(), model, tmp_path, SMALL)


def test_a_diverged_loss_stops_with_a_remedy(tmp_path: Path) -> None:
    model = segmenter()
    with torch.no_grad():
        model.descriptor.q_proj.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(SettingError, match="lower --train.lr"):
        fit_on(world(), model, tmp_path, SMALL)


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, SMALL)
    torch.manual_seed(0)
    other = create("zegclip", tiny_clip(), num_prompts=2, decoder_heads=2, decoder_layers=2)
    with pytest.raises(SettingError, match="belongs to another model"):
        fit_on(world(), other, tmp_path, replace(SMALL, steps=9), resume=True)


def test_images_are_listed_by_their_label_maps_alone(tmp_path: Path) -> None:
    pairs = []
    for name, ids in (("both", [1, 2]), ("seen", [1, 1]), ("none", [0, 0])):
        path = tmp_path / f"{name}.png"
        Image.fromarray(np.array([ids], dtype=np.uint8)).save(path)
        pairs.append(Pair(tmp_path / f"{name}.jpg", path))
    data = LabelledImages(pairs, 2, background=0, keep_background=True)
    assert images_to_query(data, [0], [1]) == [1], "the images do not exist"


def test_gradients_of_a_weight_used_twice_are_summed_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under bf16 its two casts are two tensors, so that what is summed is float32."""
    cached = []

    def recording(*arguments: Any, **options: Any) -> Tensor:
        cached.append(torch.is_autocast_cache_enabled())
        return targets_of(*arguments, **options)

    monkeypatch.setattr("unseen.training.loop.targets_of", recording)
    trained(tmp_path, replace(SMALL, steps=1, precision="bf16-mixed"))
    assert cached == [False]
    assert torch.is_autocast_cache_enabled()


def test_label_maps_without_a_class_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_own(tmp_path / "own")
    for path in (folder / "labels").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    line = f"train zegclip --benchmark {folder} --clip doodles --out {tmp_path / 'run'}"
    assert "shows a class to train on" in error_of(capsys, line, ONE_STEP)
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert "has a labelled pixel" in error_of(
        capsys, f"evaluate naclip --benchmark {folder} --out {tmp_path / 'scores'}"
    )
    assert not (tmp_path / "scores").exists()
