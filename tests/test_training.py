"""Targets, schedules, batches, and the promise that a resumed run ends where the uninterrupted one
does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny import tiny_clip
from unseen.data.benchmarks import BENCHMARKS, Benchmark
from unseen.data.datasets import DoodleScenes, Sample
from unseen.errors import DataError, SettingError
from unseen.labels import IGNORE, PADDING
from unseen.methods import create
from unseen.segmenter import Prediction, Segmenter
from unseen.settings import TrainSettings, TransformSettings
from unseen.training import (
    StepSampler,
    TrainingItems,
    fit,
    learning_rate,
    parameter_groups,
    targets_of,
)

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


def trained(folder: Path, settings: TrainSettings, **more: bool) -> dict[str, Tensor]:
    model = segmenter()
    fit(
        model,
        model.encode_text(world().class_names),
        world(),
        None,
        folder,
        settings,
        progress=False,
        **more,
    )
    return model.trainable_state()


# --------------------------------------------------------------------- targets


def test_inductive_targets_are_places_among_the_seen_words() -> None:
    labels = torch.tensor([[[0, 1, 2], [3, 255, 254]]])
    prediction = Prediction(torch.zeros(1, 2, 2, 3), (2, 3))
    targets = targets_of(labels, prediction, regime="inductive", seen=[3, 1], unseen=[0, 2])
    assert targets.tolist() == [[[255, 1, 255], [0, 255, 255]]]


def test_transductive_targets_never_look_at_the_unseen_class() -> None:
    """Pixels of unseen classes get the unseen word with the highest logit, whatever their label
    says; seen pixels keep theirs."""
    logits = torch.zeros(1, 4, 1, 4)
    logits[0, 0] = 9  # a seen word that wins everywhere must not be given to unseen pixels
    logits[0, 3, 0, :2] = 1
    logits[0, 2, 0, 2:] = 1
    prediction = Prediction(logits, (1, 4))
    for hidden in ((2, 2, 2), (3, 2, 3)):
        labels = torch.tensor([[[hidden[0], 1, hidden[1], hidden[2]]]])
        targets = targets_of(labels, prediction, regime="transductive", seen=[0, 1], unseen=[2, 3])
        assert targets.tolist() == [[[3, 1, 2, 2]]]


def test_void_is_pseudo_labelled_only_when_asked_and_padding_never() -> None:
    logits = torch.zeros(1, 3, 1, 3)
    logits[0, 2] = 1
    prediction, labels = Prediction(logits, (1, 3)), torch.tensor([[[IGNORE, PADDING, 0]]])
    assert targets_of(
        labels, prediction, regime="transductive", seen=[0], unseen=[1, 2]
    ).tolist() == [[[255, 255, 0]]]
    assert targets_of(
        labels, prediction, regime="transductive", seen=[0], unseen=[1, 2], pseudo_label_void=True
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


def test_norms_and_biases_decay_only_when_asked() -> None:
    model = segmenter()
    plain = parameter_groups(model, TrainSettings())
    assert [group["weight_decay"] for group in plain] == [0.01, 0.0]
    assert all(p.ndim > 1 for p in plain[0]["params"])
    released = parameter_groups(model, TrainSettings(decay_norms=True))
    assert len(released) == 1
    assert len(released[0]["params"]) == sum(p.requires_grad for p in model.parameters())


# --------------------------------------------------------------------- batches


def test_every_epoch_sees_every_sample_once_in_another_order() -> None:
    sampler = StepSampler(12, 4, parts=1, steps=6, seed=0)
    numbers = [number for batch in sampler for number, _ in batch]
    assert sorted(numbers[:12]) == list(range(12))
    assert sorted(numbers[12:]) == list(range(12))
    assert numbers[:12] != numbers[12:]
    keys = [key for batch in sampler for _, key in batch]
    assert len(set(keys)) == len(keys)


def test_the_last_incomplete_batch_of_an_epoch_is_dropped() -> None:
    batches = list(StepSampler(10, 4, parts=1, steps=4, seed=0))
    assert len({n for batch in batches[:2] for n, _ in batch}) == 8


def test_ranks_and_parts_deal_the_same_batch() -> None:
    whole = list(StepSampler(40, 8, parts=1, steps=3, seed=1))
    dealt = [
        list(StepSampler(40, 8, parts=2, steps=3, seed=1, rank=rank, ranks=2)) for rank in range(2)
    ]
    for step, batch in enumerate(whole):
        parts = [
            item for part in range(2) for rank in range(2) for item in dealt[rank][2 * step + part]
        ]
        assert parts == batch


def test_a_late_start_continues_the_order() -> None:
    whole = list(StepSampler(10, 4, parts=2, steps=7, seed=3))
    assert list(StepSampler(10, 4, parts=2, steps=7, seed=3, start=lambda: 3)) == whole[6:]


def test_a_set_smaller_than_a_batch_is_repeated() -> None:
    assert sorted(n for n, _ in StepSampler(3, 6, parts=1, steps=1, seed=0).batch(0)) == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]


def test_batches_that_cannot_be_dealt() -> None:
    with pytest.raises(SettingError, match="multiple of 6"):
        StepSampler(10, 8, parts=2, steps=1, seed=0, ranks=3)


def test_augmentation_follows_the_key_alone() -> None:
    items = TrainingItems(
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


def test_what_pixels_of_unseen_words_teach() -> None:
    """Nothing, that they are not the word, or their images are passed over; with things told
    apart, other words have numbers of their own."""

    class Pictures:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Sample:
            return Sample(
                torch.zeros(3, 1, 5, dtype=torch.uint8),
                torch.tensor([[[0, 1, 2, 253, 255], [0, 1, 1, 253, 255]][index]]),
                str(index),
            )

    def labels(number: int, **how: Any) -> list[int]:
        return TrainingItems(Pictures(), lambda image, labels: (image, labels), [0], **how)[
            number, 1
        ][1][0].tolist()

    assert labels(0, hidden=[2]) == [1, 0, 255, 0, 255]
    assert labels(0) == [1, 0, 0, 0, 255]
    assert labels(0, shunned=[2]) == labels(1) == [1, 0, 0, 0, 255]
    assert labels(0, hidden=[2], things=True) == [1, 3, 255, 0, 255]
    assert labels(0, things=True) == [1, 3, 4, 0, 255]
    with pytest.raises(DataError, match="without an unseen one"):
        labels(0, shunned=[1])


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
        fit(
            model,
            model.encode_text(world().class_names),
            world(),
            None,
            tmp_path / "cut",
            replace(settings, snapshots=(killed,)),
            progress=False,
            snapshot=_kill,
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
    """Without dropout and with equal numbers of classes in the parts, the gradients are the
    same."""
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
        fit(
            model,
            model.encode_text(bench.class_names),
            bench,
            None,
            tmp_path / str(parts),
            plain,
            progress=False,
        )
        states.append(model.trainable_state())
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-5) for name in states[0])


@pytest.mark.parametrize("regime", ["transductive", "supervised"])
def test_regimes_train(tmp_path: Path, regime: str) -> None:
    state = trained(tmp_path, replace(SMALL, steps=2, regime=regime, pseudo_label_void=True))  # type: ignore[arg-type]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_a_resumed_run_keeps_the_earlier_curve(tmp_path: Path) -> None:
    model = segmenter()
    with pytest.raises(KilledError):
        fit(
            model,
            model.encode_text(world().class_names),
            world(),
            None,
            tmp_path,
            replace(SMALL, snapshots=(4,)),
            progress=False,
            snapshot=_kill,
        )
    before = (tmp_path / "logs" / "metrics.csv").read_text()
    assert before.count("\n") > 2
    trained(tmp_path, SMALL, resume=True)
    assert (tmp_path / "logs" / "metrics.1.csv").read_text() == before
    assert (tmp_path / "logs" / "metrics.csv").read_text() != before


def test_the_state_holds_data_only(tmp_path: Path) -> None:
    """It is read without unpickling code."""
    trained(tmp_path, SMALL)
    state = torch.load(tmp_path / "state" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 6


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
            fit(
                model,
                model.encode_text(bench.class_names),
                bench,
                None,
                tmp_path,
                settings,
                progress=False,
            )


def test_a_segmenter_in_eval_mode_trains_in_training_mode(tmp_path: Path) -> None:
    """Dropout is on while training and off afterwards, whatever the mode before; the tower never
    leaves eval mode."""
    model = segmenter().eval()
    modes = []
    model.descriptor.register_forward_hook(
        lambda *_: modes.append((model.training, model.clip.visual.training))
    )  # type: ignore[union-attr, operator]
    fit(
        model,
        model.encode_text(world().class_names),
        world(),
        None,
        tmp_path,
        replace(SMALL, steps=1),
        progress=False,
    )
    assert modes == [(True, False)]
    assert not model.training


def test_logs_are_written(tmp_path: Path) -> None:
    trained(tmp_path, replace(SMALL, steps=2))
    rows = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    assert "loss" in rows[0].split(",")
    assert len(rows) == 3
    assert list((tmp_path / "logs").glob("events.*"))


def test_methods_without_training_say_so(tmp_path: Path) -> None:
    model = create("naclip", tiny_clip())
    with pytest.raises(SettingError, match="nothing to train"):
        fit(
            model,
            model.encode_text(world().class_names),
            world(),
            None,
            tmp_path,
            SMALL,
            progress=False,
        )


def test_a_diverged_loss_stops_with_a_remedy(tmp_path: Path) -> None:
    model = segmenter()
    with torch.no_grad():
        model.descriptor.q_proj.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(SettingError, match="lower --train.lr"):
        fit(
            model,
            model.encode_text(world().class_names),
            world(),
            None,
            tmp_path,
            SMALL,
            progress=False,
        )


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, SMALL)
    torch.manual_seed(0)
    other = create("zegclip", tiny_clip(), num_prompts=2, decoder_heads=2, decoder_layers=2)
    with pytest.raises(SettingError, match="belongs to another model"):
        fit(
            other,
            other.encode_text(world().class_names),
            world(),
            None,
            tmp_path,
            replace(SMALL, steps=9),
            resume=True,
            progress=False,
        )
