"""Recipes: every published setting resolves to the values of its paper's code and is known."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml

from tiny import tiny_clip
from unseen.data.benchmarks import BENCHMARKS
from unseen.errors import SettingError
from unseen.methods import METHODS, create
from unseen.recipes import recipe, resolve, settings

SMALL = {
    "zegclip": {"decoder_heads": 2},
    "clip_rc": {"decoder_heads": 2},
    "esda": {"text_blocks": (1,)},
}
TRAINABLE = [name for name, method in METHODS.items() if method.trainable]


def own_folder(folder: Path) -> Path:
    (folder / "classes.txt").write_text("cat\n")
    return folder


@pytest.mark.parametrize("method", TRAINABLE)
def test_every_section_is_a_benchmark_and_fits_the_method(method: str, tmp_path: Path) -> None:
    sections = yaml.safe_load(
        (resources.files("unseen") / "recipes" / f"{method}.yaml").read_text(encoding="utf-8")
    )
    assert "doodles" in sections
    known = {bench.base for bench in BENCHMARKS.values()} | {"own"}
    assert {name.partition("/")[0] for name in sections.pop("published")} <= known
    for section in sections:
        base, _, regime = section.partition("/")
        assert base in known
        assert regime in ("", "transductive", "supervised")
        model, train = settings(
            method,
            str(own_folder(tmp_path)) if base == "own" else base,
            regime=regime or "inductive",
        )
        assert model.clip == sections[base].get("model", {}).get("clip", "doodles")
        options = {
            name: value
            for name, value in model.options.items()
            # Of towers with more blocks than the tiny one.
            if name not in ("text_blocks", "read_blocks", "groups", "decoder_heads")
        }
        with torch.device("meta" if method == "sazs" else "cpu"):  # whose backbones are large
            create(method, tiny_clip(), **options, **SMALL.get(method, {}))
        assert train.steps > 0


@pytest.mark.parametrize(
    ("method", "benchmark", "regime", "steps", "options"),
    [
        ("zegclip", "voc", "inductive", 20_000, {"num_prompts": 10}),
        ("zegclip", "voc", "transductive", 10_000, {"num_prompts": 10}),
        ("zegclip", "coco-stuff", "inductive", 80_000, {"num_prompts": 100, "templates": "multi"}),
        ("zegclip", "coco-stuff", "transductive", 40_000, {"num_prompts": 100}),
        (
            "clip_rc",
            "voc",
            "inductive",
            40_000,
            {"recovery_weight": 2.0, "mask_weight": 100.0, "dice_weight": 1.0},
        ),
        ("clip_rc", "voc", "transductive", 20_000, {"recovery_weight": 2.0}),
        ("clip_rc", "voc", "supervised", 40_000, {"recovery_weight": 0.0}),
        (
            "clip_rc",
            "coco-stuff",
            "inductive",
            80_000,
            {"recovery_weight": 50.0, "mask_weight": 200.0, "dice_weight": 3.0},
        ),
        (
            "clip_rc",
            "coco-stuff",
            "supervised",
            80_000,
            {"recovery_weight": 1.0, "mask_weight": 100.0, "dice_weight": 1.5},
        ),
    ],
)
def test_published_settings(
    method: str, benchmark: str, regime: str, steps: int, options: dict[str, object]
) -> None:
    model, train = settings(method, benchmark, regime=regime)
    assert model.clip == "ViT-B-16-quickgelu/openai"
    assert (train.steps, train.lr, train.batch_size, train.warmup, train.weight_decay) == (
        steps,
        2e-4,
        16,
        1500,
        0.01,
    )
    assert {name: model.options[name] for name in options} == options


def test_published_settings_of_sazs() -> None:
    for benchmark, steps, lr in (("pascal-5i/1", 34_000, 1e-3), ("coco-20i/3", 236_000, 2e-4)):
        model, train = settings("sazs", benchmark)
        assert model.clip == "ViT-B-32-quickgelu/openai"
        assert (
            train.steps,
            train.lr,
            train.batch_size,
            train.optimizer,
            train.weight_decay,
            train.warmup,
        ) == (steps, lr, 6, "sgd", 1e-4, 0)
        assert (train.decay_norms, train.schedule, train.power, train.min_lr, train.precision) == (
            True,
            "poly",
            0.9,
            0.0,
            "32-true",
        )
        assert (
            train.transforms.pillow,
            train.transforms.crop,
            train.transforms.rotate,
            train.transforms.zoom,
        ) == (True, 512, 10.0, (0.5, 2.0))
        assert model.options == {
            "weights": "timm:vit_large_patch16_384.augreg_in21k_ft_in1k",
            "templates": "name",
            "attention_over": "sum",
            "balanced": False,
        }
    assert settings("sazs", "doodles-5i/0")[0].options["backbone"] == "small"


def test_settings_of_ssp_for_edgeclip() -> None:
    for benchmark, radius in (("pascal-5i/1", 13), ("coco-20i/3", None)):
        model, train = settings("edgeclip", benchmark)
        assert model.clip == "RN50/openai"
        options = {
            "weights": "timm:resnet50s.gluon_in1k",
            "norm": "frozen",
            **({"edge_radius": radius} if radius else {}),
        }
        assert model.options == options
        assert (train.steps, train.batch_size, train.optimizer, train.lr, train.weight_decay) == (
            6000,
            4,
            "sgd",
            1e-3,
            5e-4,
        )
        assert (train.decay_norms, train.schedule, train.warmup, train.precision) == (
            True,
            "step",
            0,
            "32-true",
        )
        assert (
            train.transforms.crop,
            train.transforms.max_class_share,
            train.transforms.photometric,
        ) == (473, None, False)


def test_folds_share_a_recipe() -> None:
    model, train = settings("esda", "pascal-5i/2")
    assert (
        train.optimizer,
        train.lr,
        train.steps,
        train.transforms.crop,
        train.transforms.zoom,
    ) == ("sgd", 5e-4, 105_200, 480, (0.9, 1.1))
    assert settings("esda", "coco-20i/0")[1].lr == 1e-3
    assert model.clip == "ViT-B-16-quickgelu/openai"
    assert recipe("zegclip", "nothing") == {}
    assert recipe("naclip", "voc") == {}


def test_photographs_without_a_recipe_need_a_tower() -> None:
    with pytest.raises(SettingError, match="zegclip has no recipe for cityscapes, so its tower is"):
        settings("zegclip", "cityscapes")
    model, _ = resolve("zegclip", "cityscapes", model={"clip": "ViT-B-16-quickgelu/openai"})
    assert model.clip == "ViT-B-16-quickgelu/openai"
