"""What the contract allows beyond the methods of the table, shown by four toys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unseen
from tiny import learn_one_image, tiny_clip
from toys import PROMPTS, LearnedPrompts, ThreeMaps, TrainedTower
from unseen import methods
from unseen.backbones.clip.loading import load_clip
from unseen.checkpoints import load_run
from unseen.errors import CheckpointError, SettingError
from unseen.methods import Method
from unseen.modules.losses import cross_entropy
from unseen.runs import read_config
from unseen.settings import (
    EvaluationSettings,
    InferenceSettings,
    ModelSettings,
    TrainSettings,
    TransformSettings,
)
from unseen.vocabulary import Vocabulary

NAMES = ("tree", "car", "boat")
QUICK = EvaluationSettings(limit=2)
WINDOW = InferenceSettings(window=64, stride=64)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys as lines of the table of methods."""
    for name in ("TwoTowers", "TrainedTower", "LearnedPrompts", "ThreeMaps"):
        line = Method(f"toys:{name}", "a toy", trainable=name != "TwoTowers")
        monkeypatch.setitem(methods.OWN, name, line)


def train(name: str, out: Path, steps: int = 3) -> None:
    """A few steps on doodles."""
    settings = TrainSettings(
        steps=steps,
        batch_size=2,
        lr=1e-3,
        warmup=0,
        precision="32-true",
        workers=0,
        transforms=TransformSettings(resize=None, crop=64),
    )
    unseen.train(ModelSettings(name, "doodles"), settings, "doodles", out, progress=False)


def test_two_towers_are_loaded_and_named_by_every_verb() -> None:
    predictor = unseen.load("TwoTowers", device="cpu")
    assert list(predictor.segmenter.towers) == ["clip", "second"]
    assert predictor.segmenter.frozen == ("clip", "second")
    (report,) = unseen.evaluate(
        "TwoTowers", "doodles", settings=QUICK, inference=WINDOW, save=False
    )
    towers = report.protocol["towers"]
    assert [tower["source"] for tower in towers.values()] == ["doodles", "doodles"]
    assert towers["clip"]["fingerprint"] != towers["second"]["fingerprint"]


def test_a_trained_tower_is_stored_and_has_its_own_learning_rate(tmp_path: Path) -> None:
    segmenter = TrainedTower(tiny_clip())
    groups = segmenter.parameter_groups(TrainSettings(lr=1e-3))
    assert [group.get("lr") for group in groups] == [1e-4, 1e-4, None]
    assert segmenter.frozen == ()

    train("TrainedTower", tmp_path / "run")
    stored = load_file(tmp_path / "run" / "weights.safetensors")
    block = "clip.visual.transformer.resblocks.3.mlp.c_fc.weight"
    before = load_clip().state_dict()
    last = max(name for name in stored if name.endswith("mlp.c_fc.weight") and "visual" in name)
    assert not torch.equal(stored[last], before[last.removeprefix("clip.")]), block
    untouched = "clip.visual.conv1.weight"
    assert torch.equal(stored[untouched], before[untouched.removeprefix("clip.")])
    assert read_config(tmp_path / "run").towers == {}
    loaded, _ = load_run(tmp_path / "run")
    assert torch.equal(loaded.state_dict()[last], stored[last])


def test_learned_prompts_make_new_text_features_in_every_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    segmenter = LearnedPrompts(tiny_clip()).train()
    text = segmenter.encode_text(Vocabulary(NAMES))
    assert text.per_template is not None
    assert text.per_template.shape[:2] == (3, PROMPTS)
    assert text.select([2, 0]).per_template.shape[:2] == (2, PROMPTS)  # type: ignore[union-attr]
    prediction = segmenter(torch.rand(2, 3, 32, 32), text)
    segmenter.loss(prediction, torch.randint(0, 3, (2, 32, 32)))["total"].backward()
    assert segmenter.context.grad is not None
    assert (segmenter.context.grad.flatten(1).abs().sum(dim=1) > 0).all()

    before, after, _ = learn_one_image(LearnedPrompts(tiny_clip()).train())
    assert after < 0.9 * before

    train("LearnedPrompts", tmp_path / "one", steps=1)
    train("LearnedPrompts", tmp_path / "three", steps=3)
    first, last = (
        load_run(tmp_path / run)[0].encode_text(Vocabulary(NAMES)).pooled
        for run in ("one", "three")
    )
    assert not torch.allclose(first, last, atol=1e-5)


def test_stored_text_features_are_refused_where_text_is_trained(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.ones((20, 128), dtype=np.float32))
    settings = TrainSettings(steps=1, warmup=0, workers=0)
    model = ModelSettings("LearnedPrompts", "doodles")
    with pytest.raises(SettingError, match="LearnedPrompts trains the text tower's input"):
        unseen.train(
            model,
            settings,
            out=tmp_path / "run",
            text_embeddings=tmp_path / "text.npy",
        )


def test_maps_of_three_layers_have_their_weights_in_the_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    segmenter = ThreeMaps(tiny_clip()).train()
    text = segmenter.encode_text(Vocabulary(NAMES))
    images, labels = torch.rand(2, 3, 32, 40), torch.randint(0, 3, (2, 32, 40))
    prediction = segmenter(images, text)
    assert [weight for _, weight in prediction.maps] == [1.0, 0.25, 0.5]
    alone = [
        weight * cross_entropy(10 * prediction.resized((32, 40), logits), labels)
        for logits, weight in prediction.maps
    ]
    assert torch.allclose(segmenter.loss(prediction, labels)["total"], torch.stack(alone).sum())

    # A mask for each image: alone it scores as beside another one.
    single = segmenter(images[1:], text).logits
    assert torch.allclose(prediction.logits[1:], single, atol=1e-5)
    train("ThreeMaps", tmp_path / "run", steps=2)


def test_any_layers_of_the_tower() -> None:
    clip = tiny_clip()
    x = clip.embed(torch.rand(1, 3, 32, 32))
    third, first = clip.layers(x, [-1, 0])
    assert torch.equal(first, clip.block(0, x))
    assert torch.equal(third, clip.blocks(x))


def test_a_changed_tower_is_told_by_any_of_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuned in a middle block alone, a tower is another one."""
    train("ThreeMaps", tmp_path / "run", steps=1)

    def altered(source: str) -> object:
        clip = load_clip(source)
        with torch.no_grad():
            clip.visual.transformer.resblocks[1].mlp.c_fc.bias[0] += 1e-3
        return clip

    load_run(tmp_path / "run")
    monkeypatch.setattr("unseen.clip_segmenter.load_clip", altered)
    with pytest.raises(CheckpointError, match="weights differ from today's doodles"):
        load_run(tmp_path / "run")
