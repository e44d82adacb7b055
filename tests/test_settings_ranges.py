"""Every training setting refuses values out of range, with a message that names it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from unseen.errors import SettingError
from unseen.settings import (
    TRAIN_RANGES,
    TRANSFORM_RANGES,
    TrainSettings,
    TransformSettings,
    from_legacy,
)

BAD_TRAIN: dict[str, list[Any]] = {
    "regime": ["zero-shot"],
    "pseudo_label_ignored": ["yes"],
    "sampling": ["pixels"],
    "unseen_pixels": ["void", "skip"],
    "steps": [0, 2.5, True],
    "batch_size": [0],
    "accumulate": [0],
    "recompute": ["no"],
    "optimizer": ["adam"],
    "lr": [0, -1e-3, float("nan"), float("inf")],
    "weight_decay": [-0.1],
    "decay_norms": [1],
    "schedule": ["linear"],
    "power": [-0.5],
    "min_lr": [-1e-6],
    "warmup": [-1],
    "warmup_ratio": [-0.1, 1.1],
    "clip_norm": [0, -1],
    "seed": [-1],
    "precision": ["fp16"],
    "workers": [-1],
    "save_every": [0],
    "save_minutes": [-1, None],
    "snapshots": [(0,), (3, -1)],
    "validate_every": [0, -1],
    "validate_images": [0],
    "log_every": [0],
    "logger": ["comet"],
    "devices": ["0", "two", "-1"],
    "nodes": [0],
    "strategy": ["fsdp"],
    "transforms": [None],
}
BAD_TRANSFORMS: dict[str, list[Any]] = {
    "resize": [(512, 2048), (512,), (0, 0), (20.5, 10)],
    "scale": [(2.0, 1.0), (0.0, 1.0), 1.0],
    "crop": [0, -1, 2.5],
    "max_class_share": [0, -0.5],
    "zoom": [(1.1, 0.9), (-1.0, 1.0)],
    "rotate": [-1, 200],
    "pillow": [None],
    "blur": ["yes"],
    "min_positives": [-0.1, 1.1],
    "centre": [2],
    "flip": [-0.5, 1.5],
    "photometric": ["no"],
    "hsv": ["no"],
    "antialias": ["no"],
    "pad_first": ["no"],
}


def test_every_field_has_a_range_and_a_bad_value() -> None:
    for cls, table, bad in (
        (TrainSettings, TRAIN_RANGES, BAD_TRAIN),
        (TransformSettings, TRANSFORM_RANGES, BAD_TRANSFORMS),
    ):
        assert {field.name for field in fields(cls)} == table.keys() == bad.keys()


@pytest.mark.parametrize(
    ("cls", "group", "name", "value"),
    [
        (cls, group, name, value)
        for cls, group, table in (
            (TrainSettings, "train", BAD_TRAIN),
            (TransformSettings, "train.transforms", BAD_TRANSFORMS),
        )
        for name, values in table.items()
        for value in values
    ],
)
def test_bad_values_are_refused_by_name(cls: Any, group: str, name: str, value: Any) -> None:
    with pytest.raises(SettingError) as refused:
        cls(**{name: value})
    message = str(refused.value)
    assert message.startswith(f"--{group}.{name} is {value!r}; ")
    assert "give" in message or "choose one of" in message


def test_good_values_at_the_borders() -> None:
    TrainSettings(
        steps=1, warmup=0, min_lr=0, warmup_ratio=1, clip_norm=None, workers=0, devices="2"
    )
    TransformSettings(
        resize=(64, 64),
        scale=(1, 1),
        crop=None,
        max_class_share=1,
        zoom=(0.5, 0.5),
        flip=1,
        min_positives=1,
    )
    TransformSettings(resize=[64, 32], scale=[0.5, 1])  # type: ignore[arg-type]


def test_values_of_version_0_1() -> None:
    assert from_legacy("train.unseen_pixels", "void") == ("train.unseen_pixels", "ignore")
    assert from_legacy("train.unseen_pixels", "skip") == ("train.unseen_pixels", "drop_image")
    assert from_legacy("train.unseen_pixels", "background") == ("train.unseen_pixels", "background")
