"""The contract of every method of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny import learn_one_image, tiny_clip
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import VocabularyError
from unseen.methods import METHODS, create
from unseen.segmenter import Prediction, QuerySegmenter, Segmenter, TextFeatures
from unseen.vocabulary import Vocabulary

NAMES = ("tree", "house", "car", "boat")
TRAINABLE = [name for name, method in METHODS.items() if method.trainable]
QUERY = [name for name, method in METHODS.items() if issubclass(method.cls, QuerySegmenter)]


def make(name: str, **more: Any) -> TextSegmenter:
    torch.manual_seed(0)
    return create(name, tiny_clip(), **{**METHODS[name].cls.TINY, **more})


def step(
    segmenter: TextSegmenter, images: Tensor, names: Sequence[str]
) -> tuple[Prediction, TextFeatures]:
    """The forward pass of a training step; a query segmenter gets one class an image."""
    text = segmenter.encode_text(Vocabulary(tuple(names)))
    if isinstance(segmenter, QuerySegmenter):
        text = text.select(range(len(images)))
        return segmenter.forward_query(images, text), text
    return segmenter(images, text), text


def task(segmenter: TextSegmenter) -> tuple[Prediction, Tensor]:
    """A prediction and random labels for two images of 32 by 32 pixels."""
    prediction, _ = step(segmenter, torch.rand(2, 3, 32, 32), NAMES)
    return prediction, torch.randint(0, prediction.logits.shape[1], (2, 32, 32))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (37, 61), (5, 9)])
def test_finite_logits_at_any_size(name: str, size: tuple[int, int]) -> None:
    segmenter = make(name).eval()
    prediction = segmenter(torch.rand(2, 3, *size), segmenter.encode_text(Vocabulary(NAMES)))
    assert prediction.logits.shape[:2] == (2, len(NAMES))
    assert prediction.resized(size).shape == (2, len(NAMES), *size)
    assert torch.isfinite(prediction.logits).all()


@pytest.mark.parametrize("name", METHODS)
def test_permuting_classes_permutes_maps(name: str) -> None:
    segmenter = make(name).eval()
    images, order = torch.rand(1, 3, 32, 40), [2, 0, 3, 1]
    maps = segmenter(images, segmenter.encode_text(Vocabulary(NAMES))).logits
    permuted = segmenter(
        images, segmenter.encode_text(Vocabulary([NAMES[i] for i in order]))
    ).logits
    assert torch.allclose(maps[:, order], permuted, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_an_image_alone_scores_as_in_a_batch(name: str) -> None:
    segmenter = make(name).eval()
    images, text = torch.rand(3, 3, 40, 32), segmenter.encode_text(Vocabulary(NAMES))
    assert torch.allclose(
        segmenter(images, text).logits[1:2],
        segmenter(images[1:2], text).logits,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", QUERY)
def test_query_methods_take_one_class_an_image(name: str) -> None:
    """Logits of background and query class for every image; all classes are scored alike."""
    segmenter = make(name).eval()
    images, text = (
        torch.rand(2, 3, 32, 40),
        segmenter.encode_text(Vocabulary(NAMES)).select([3, 1]),
    )
    logits = segmenter.forward_query(images, text).logits
    assert logits.shape[:2] == (2, 2)
    alone = segmenter.forward_query(images[1:], text.select([1])).logits
    assert torch.allclose(logits[1:], alone, atol=1e-5)
    above = segmenter(images[1:], text.select([1])).logits
    assert torch.allclose(above, alone[:, 1:] - alone[:, :1], atol=1e-5)


@pytest.mark.parametrize("name", QUERY)
def test_what_no_class_changes_is_computed_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = make(name).eval()
    calls = []
    encode = segmenter.encode_images
    monkeypatch.setattr(segmenter, "encode_images", lambda x: calls.append(len(x)) or encode(x))
    monkeypatch.setattr(type(segmenter), "classes_at_once", 2)
    text = segmenter.encode_text(Vocabulary(NAMES))
    with torch.no_grad():
        segmenter(torch.rand(3, 3, 32, 40), text)
    assert calls == [1, 1, 1]


@pytest.mark.parametrize("name", METHODS)
def test_trainable_as_the_table_says(name: str) -> None:
    assert METHODS[name].cls.trainable == METHODS[name].trainable


@pytest.mark.parametrize("name", METHODS)
def test_class_names_are_checked(name: str) -> None:
    segmenter = make(name)
    for names, message in (
        ([], "empty"),
        (["cat", "cat "], "'cat' is in the list twice"),
        (["cat", " "], "class 2"),
        (["name " * 100], "at most 77"),
    ):
        with pytest.raises(VocabularyError, match=message):
            segmenter.encode_text(Vocabulary(tuple(names)))


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("published", [False, True])
def test_every_trainable_parameter_gets_a_gradient(name: str, published: bool) -> None:
    tiny = METHODS[name].cls.TINY
    segmenter = create(name, tiny_clip(), published=published, **tiny).train()
    segmenter.loss(*task(segmenter))["total"].backward()
    missing = [n for n, p in segmenter.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    for part in segmenter.frozen:
        assert not any(p.grad is not None for p in segmenter.get_submodule(part).parameters())


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_frozen_part_stays_in_eval_mode(name: str) -> None:
    segmenter = make(name).train()
    assert segmenter.training
    for part in segmenter.frozen:
        assert not any(module.training for module in segmenter.get_submodule(part).modules())
        assert not any(key.startswith(f"{part}.") for key in segmenter.trainable_state())
    assert {
        n for n, p in segmenter.named_parameters() if p.requires_grad
    } <= segmenter.trainable_state().keys()


@pytest.mark.parametrize("name", TRAINABLE)
def test_losses_add_up_and_leave_labels_alone(name: str) -> None:
    segmenter = make(name).train()
    prediction, labels = task(segmenter)
    labels[:, :5] = 255
    before = labels.clone()
    losses = segmenter.loss(prediction, labels)
    assert losses["total"].item() == pytest.approx(
        sum(v.item() for k, v in losses.items() if k != "total"), rel=1e-6
    )
    assert torch.equal(labels, before)


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_few_steps_on_one_image_learn_it(name: str) -> None:
    options = {"dropout": 0.0} if "dropout" in METHODS[name].choices else {}
    segmenter = make(name, **options).train()
    first, last, right = learn_one_image(segmenter)
    if segmenter.trains_text:  # prompts of a frozen tower cannot learn an image by heart
        assert last < 0.9 * first
    else:
        assert right > 0.9, "after 150 steps on one image; is TINY too small for it?"


@pytest.mark.parametrize("name", METHODS)
def test_training_follows_a_forward_in_inference_mode(name: str) -> None:
    """Tables that are kept from one forward to the next take part in later training steps."""
    segmenter = make(name)
    images = torch.rand(2, 3, 24, 40)
    with torch.inference_mode():
        step(segmenter.eval(), images, NAMES)
    if not METHODS[name].trainable:
        return
    prediction, _ = step(segmenter.train(), images, NAMES)
    labels = torch.zeros(2, 24, 40, dtype=torch.int64)
    segmenter.loss(prediction, labels)["total"].backward()


@pytest.mark.parametrize("name", METHODS)
def test_synonyms_are_averaged(name: str) -> None:
    segmenter = make(name)
    if segmenter.needs_tokens:
        return
    both = segmenter.encode_text(Vocabulary(("car",), {"car": ("car", "boat")})).pooled[0]
    alone = segmenter.encode_text(Vocabulary(("car", "boat"))).pooled.mean(dim=0)
    assert torch.allclose(both / both.norm(), alone / alone.norm(), atol=1e-5)


def test_a_segmenter_keeps_the_widths_of_its_padding() -> None:
    """What pads training crops becomes 0, as padding at inference does."""
    for name in METHODS:
        segmenter = make(name)
        color = torch.tensor(segmenter.pad_color).view(1, 3, 1, 1) / 255
        source = getattr(segmenter, "backbone", segmenter.clip)
        mean = getattr(segmenter, "mean", None)
        mean = source.mean if mean is None else mean
        assert torch.allclose(color, mean.view(1, 3, 1, 1))


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].cls.classwise])
def test_a_classwise_score_grows_with_the_logit_of_its_class_alone(name: str) -> None:
    segmenter = make(name).eval()
    logits = torch.randn(2, 5, 3, 4)
    scores, few = segmenter.scores(logits, [1, 4]), [1, 2, 4]
    torch.testing.assert_close(segmenter.scores(logits[:, few], [0, 2]), scores[:, few])
    torch.testing.assert_close(segmenter.scores(logits[:, [1, 4]], [0, 1]), scores[:, [1, 4]])
    grown = segmenter.scores(logits + torch.rand(1, 5, 1, 1), [1, 4])
    assert (grown > scores).all()


def test_a_method_says_if_its_scores_are_classwise() -> None:
    """All do today; what does not say so is decided between all classes."""
    assert all(METHODS[name].cls.classwise for name in METHODS)
    assert not Segmenter.classwise
