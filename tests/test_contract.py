"""What every method of the table promises."""

from __future__ import annotations

import pytest
import torch

from tiny import tiny_clip
from unseen.errors import SettingError, VocabularyError
from unseen.inference import ask
from unseen.methods import METHODS, create
from unseen.segmenter import ClipSegmenter, TextFeatures

WORDS = ("tree", "house", "car", "boat")
OPTIONS = {
    "zegclip": {"num_prompts": 3, "decoder_heads": 2},
    "clip_rc": {"num_prompts": 3, "decoder_heads": 2, "lattice": (2, 2)},
    "esda": {"text_blocks": (1,)},
    "sazs": {"backbone": "small"},
    "edgeclip": {
        "stem": (8, 8, 16),
        "planes": (8, 8, 16),
        "blocks": (1, 1, 2),
        "strides": (2, 1, 2),
        "match_dim": 32,
        "train_backbone": "all",
        "norm": "batch",
    },
}
TRAINABLE = [name for name, method in METHODS.items() if method.trainable]


def make(name: str, **more: object) -> ClipSegmenter:
    torch.manual_seed(0)
    return create(name, tiny_clip(), **{**OPTIONS.get(name, {}), **more})


def task(segmenter: ClipSegmenter) -> tuple[TextFeatures, torch.Tensor]:
    """Words and random labels for two images of 32 by 32 pixels."""
    text = segmenter.encode_text(WORDS)
    if segmenter.kind == "binary":
        return text.select([0, 2]), torch.randint(0, 2, (2, 32, 32))
    return text, torch.randint(0, len(WORDS), (2, 32, 32))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (37, 61), (5, 9)])
def test_finite_logits_at_any_size(name: str, size: tuple[int, int]) -> None:
    segmenter = make(name).eval()
    prediction = ask(segmenter, torch.rand(2, 3, *size), segmenter.encode_text(WORDS))
    assert prediction.logits.shape[:2] == (2, len(WORDS))
    assert prediction.resized(size).shape == (2, len(WORDS), *size)
    assert torch.isfinite(prediction.logits).all()


@pytest.mark.parametrize("name", METHODS)
def test_permuting_words_permutes_maps(name: str) -> None:
    segmenter = make(name).eval()
    images, order = torch.rand(1, 3, 32, 40), [2, 0, 3, 1]
    maps = ask(segmenter, images, segmenter.encode_text(WORDS)).logits
    permuted = ask(segmenter, images, segmenter.encode_text([WORDS[i] for i in order])).logits
    assert torch.allclose(maps[:, order], permuted, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_an_image_alone_scores_as_in_a_batch(name: str) -> None:
    segmenter = make(name).eval()
    images, text = torch.rand(3, 3, 40, 32), segmenter.encode_text(WORDS)
    assert torch.allclose(
        ask(segmenter, images, text).logits[1:2],
        ask(segmenter, images[1:2], text).logits,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.cls.kind == "binary"]
)
def test_binary_methods_take_one_word_an_image(name: str) -> None:
    """A batch with a word for each image, and a map of background and word for each."""
    segmenter = make(name).eval()
    images, text = torch.rand(2, 3, 32, 40), segmenter.encode_text(WORDS).select([3, 1])
    logits = segmenter(images, text).logits
    assert logits.shape[:2] == (2, 2)
    alone = segmenter(images[1:], text.select([1])).logits
    assert torch.allclose(logits[1:], alone, atol=1e-5)
    assert torch.allclose(
        ask(segmenter, images[1:], text.select([1])).logits, alone[:, 1:] - alone[:, :1], atol=1e-5
    )


@pytest.mark.parametrize("name", METHODS)
def test_words_are_checked(name: str) -> None:
    segmenter = make(name)
    for words, message in (
        ([], "empty"),
        (["cat", "cat "], "'cat' is in the list twice"),
        (["cat", " "], "word 2"),
        (["word " * 100], "at most 77"),
    ):
        with pytest.raises(VocabularyError, match=message):
            segmenter.encode_text(words)


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("published", [False, True])
def test_every_trainable_parameter_gets_a_gradient(name: str, published: bool) -> None:
    segmenter = create(name, tiny_clip(), published=published, **OPTIONS[name]).train()
    text, labels = task(segmenter)
    segmenter.loss(segmenter(torch.rand(2, 3, 32, 32), text), labels)["total"].backward()
    missing = [n for n, p in segmenter.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert not any(p.grad is not None for p in segmenter.clip.parameters())


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_frozen_part_stays_in_eval_mode(name: str) -> None:
    segmenter = make(name).train()
    assert segmenter.training
    assert not any(module.training for module in segmenter.clip.modules())
    assert not any(key.startswith("clip.") for key in segmenter.trainable_state())
    assert {
        n for n, p in segmenter.named_parameters() if p.requires_grad
    } <= segmenter.trainable_state().keys()


@pytest.mark.parametrize("name", TRAINABLE)
def test_losses_add_up_and_leave_labels_alone(name: str) -> None:
    segmenter = make(name).train()
    text, labels = task(segmenter)
    labels[:, :5] = 255
    before = labels.clone()
    losses = segmenter.loss(segmenter(torch.rand(2, 3, 32, 32), text), labels)
    assert losses["total"].item() == pytest.approx(
        sum(v.item() for k, v in losses.items() if k != "total"), rel=1e-6
    )
    assert torch.equal(labels, before)


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_few_steps_on_one_image_learn_it(name: str) -> None:
    segmenter = make(name, dropout=0.0).train()
    images, labels = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64)
    images[:, :, :, 16:] *= 0.1
    labels[:, :, 16:] = 1 if segmenter.kind == "binary" else 2
    text = segmenter.encode_text(WORDS)
    text = (
        text.select([2])
        if segmenter.kind == "binary"
        else TextFeatures(WORDS, torch.eye(16)[: len(WORDS)])
    )
    optimizer = torch.optim.AdamW([p for p in segmenter.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        segmenter.loss(segmenter(images, text), labels)["total"].backward()
        optimizer.step()
    right = (
        (segmenter.eval()(images, text).resized((32, 32)).argmax(dim=1) == labels).float().mean()
    )
    assert right > 0.9


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'zegclip'"):
        create("zegclp", tiny_clip())
    with pytest.raises(SettingError, match="did you mean 'num_prompts'"):
        create("zegclip", tiny_clip(), num_prompt=3)
    with pytest.raises(SettingError, match="no option 'mode'"):
        create("naclip", tiny_clip(), mode="sclip")
    with pytest.raises(SettingError, match="templates called 'many'"):
        create("naclip", tiny_clip(), templates="many")
