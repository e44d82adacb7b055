"""ESDA against the released code (fixtures esda_a, esda_b) and its own promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import check_gradient_norms, close, golden
from tiny import tiny_clip
from unseen.backbones.clip.loading import load_clip
from unseen.conversion import translate
from unseen.errors import SettingError
from unseen.methods import create
from unseen.methods.esda import ESDA, prior_map
from unseen.segmenter import Prediction, TextFeatures
from unseen.vocabulary import Vocabulary

VALUES, GRADIENTS = 5e-5, 1e-3  # tolerances suggested with the fixtures


class Released:
    """A fixture, and our segmenter with its weights."""

    def __init__(self, name: str) -> None:
        self.tensors, self.about = golden(name)
        state = {key[6:]: value for key, value in self.tensors.items() if key.startswith("param.")}
        self.segmenter, self.report = self.with_options(state)
        self.state = state
        self.text = TextFeatures(
            tuple("abc"[: self.about["B"]]),
            *self.segmenter.clip.encode_tokens(self.tensors["in.tokens"].long()),
        )

    def with_options(self, state: dict[str, Tensor], **options: Any) -> tuple[ESDA, Any]:
        segmenter, report = translate(
            "esda",
            state,
            vision_heads=self.about["heads"],
            text_heads=self.about["theads"],
            text_blocks=tuple(self.about["replace_indices"]),
            decoder_heads=self.about["heads"],
            dropout=0.0,
            **options,
        )
        assert isinstance(segmenter, ESDA)
        segmenter.clip.mean.zero_()  # the fixtures' images are normalised already
        segmenter.clip.std.fill_(1)
        return segmenter, report


@pytest.fixture(scope="module", params=["esda_a", "esda_b"])
def released(request: pytest.FixtureRequest) -> Released:
    return Released(request.param)


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    assert released.report.problem is None
    assert len(released.report.loaded) == len(released.state)


def test_text(released: Released) -> None:
    close(released.text.pooled, released.tensors["eval.text_cls"], VALUES)
    assert released.text.tokens is not None
    close(released.text.tokens, released.tensors["eval.text_tokens"], VALUES)


def test_prediction(released: Released) -> None:
    tensors, segmenter = released.tensors, released.segmenter
    query = segmenter.text_cls_proj(released.text.pooled)
    tokens, _ = segmenter._text_blocks(segmenter.encode_images(tensors["in.image"]), query)
    image, patches = F.normalize(segmenter.clip.finish(tokens[:, 0]), dim=-1), tokens[:, 1:]
    grid = tuple(released.about["grid"])
    close(patches.transpose(1, 2).unflatten(2, grid), tensors["eval.image_features"], VALUES)
    close(image, tensors["eval.image_cls"], VALUES)
    last = max(released.about["prior_indices"])
    close(
        prior_map(patches, query).unflatten(1, grid).unsqueeze(1),
        tensors[f"eval.prior.{last}"],
        VALUES,
    )
    mixed = segmenter.interactor(released.text, image, patches)
    close(mixed.transpose(1, 2).unflatten(2, grid), tensors["eval.decoder_grid"], VALUES)
    prediction = segmenter.forward_query(tensors["in.image"], released.text)
    close(prediction.logits, tensors["eval.decoder_logits"], VALUES)
    close(prediction.resized(tuple(released.about["img"])), tensors["eval.logits"], VALUES)
    assert set(prediction.extras) == {"prior"}


@pytest.mark.parametrize("ignored_as", ["background", "ignore"])
def test_training_step(released: Released, ignored_as: str) -> None:
    """Logits, priors, losses and gradients of one step.

    The released code trains ignored pixels as background, or not, by accident.
    """
    key = {"background": "train", "ignore": "train_ignore"}[ignored_as]
    tensors, about = released.tensors, released.about
    segmenter, _ = released.with_options(released.state, ignored_as=ignored_as)
    segmenter.train()
    prediction = segmenter.forward_query(tensors["in.image"], released.text)
    labels = tensors["in.label"].long()
    before = labels.clone()
    close(prediction.logits, tensors[f"{key}.decoder_logits"], VALUES)
    priors = segmenter.priors(prediction, labels)
    assert len(priors) == len(about["prior_indices"])
    for i, prior in enumerate(priors):
        close(prior, tensors[f"{key}.prior.{i}"], VALUES)
    assert torch.equal(
        prediction.resized(tuple(about["img"])).argmax(dim=1), tensors[f"{key}.pred"].long()
    )
    losses = segmenter.loss(prediction, labels)
    assert torch.equal(labels, before)
    for name, released_name, weight in (
        ("mask", "loss_main", 1),
        ("prior_last", "loss_aux1", 0.2),
        ("prior_others", "loss_aux2", 0.1),
        ("total", "loss_total", 1),
    ):
        assert losses[name].item() == pytest.approx(
            weight * tensors[f"{key}.{released_name}"].item(), abs=VALUES
        )
    losses["total"].backward()
    check_gradient_norms(segmenter, about[f"{key}_grad_norm"], ESDA.RELEASED.names, GRADIENTS)


# ---------------------------------------------------------------- sizes, options


def test_published_sizes() -> None:
    with torch.device("meta"):
        segmenter = ESDA(load_clip("ViT-B-16-quickgelu/random"))
    assert sum(p.numel() for p in segmenter.parameters() if p.requires_grad) == 39_191_938


def small(**options: Any) -> ESDA:
    torch.manual_seed(0)
    segmenter = create("esda", tiny_clip(), text_blocks=(1,), **options)
    assert isinstance(segmenter, ESDA)
    with torch.no_grad():
        for up in segmenter.adapters[1::2]:
            up.normal_()
    return segmenter.eval()


def test_a_single_image_is_queried_with_every_class() -> None:
    segmenter, image = small(), torch.rand(1, 3, 40, 56)
    text = segmenter.encode_text(Vocabulary(["tree", "car", "fish"]))
    together, separate = (
        segmenter.forward_query(image, text),
        segmenter.forward_query(image.expand(3, -1, -1, -1), text),
    )
    assert torch.allclose(together.logits, separate.logits, rtol=1e-4, atol=1e-4)
    for i in range(3):
        assert torch.allclose(
            segmenter.forward_query(image, text.select([i])).logits,
            together.logits[i : i + 1],
            rtol=1e-4,
            atol=1e-4,
        )
    nowhere = small()
    nowhere.text_blocks = ()
    assert nowhere.forward_query(image, text).logits.shape == (3, 2, 5, 7)


def test_the_aligned_order_keeps_patches_in_place() -> None:
    """With blocks that are the identity, only the aligned order returns its input."""
    for order, same in (("aligned", True), ("released", False)):
        interactor = small(token_order=order).interactor
        for name, parameter in interactor.named_parameters():
            if "out_proj" in name or "c_proj" in name:
                parameter.data.zero_()
        patches = torch.rand(1, 300, 32)
        text = small().encode_text(Vocabulary(["tree"]))
        assert torch.equal(interactor(text, torch.rand(1, 16), patches), patches) is same


def test_released_order_at_a_large_grid() -> None:
    """Patches 2q further on, the q support tokens, then the first q patches (D2 of the spec)."""
    interactor = small(token_order="released").interactor
    for name, parameter in interactor.named_parameters():
        if "out_proj" in name or "c_proj" in name:
            parameter.data.zero_()
    patches, text, q = (
        torch.rand(1, 300, 32),
        small().encode_text(Vocabulary(["tree"])),
        79,
    )
    mixed = interactor(text, torch.rand(1, 16), patches)
    assert torch.equal(mixed[:, : 300 - 2 * q], patches[:, 2 * q :])
    assert torch.equal(mixed[:, -q:], patches[:, :q])


def test_prior_map() -> None:
    patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    assert prior_map(patches, torch.tensor([[2.0, 0.0]])).tolist()[0] == pytest.approx(
        [1, 0, 2**-0.5], abs=1e-5
    )
    assert prior_map(patches, torch.zeros(1, 2)).tolist() == [[0, 0, 0]]


def test_priors_pull_towards_the_mask_or_away_from_it() -> None:
    """A map equal to the mask costs less in the order "foreground", more in the released one."""
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, :, 16:] = 1
    prior = torch.zeros(1, 1, 32, 32)
    prior[..., 16:] = 1
    costs = []
    for order in ("foreground", "released"):
        segmenter = small(prior_logit_order=order, prior_blocks=())
        losses = segmenter.loss(
            Prediction(torch.zeros(1, 2, 32, 32), (32, 32), {"prior": prior}, align_corners=True),
            labels,
        )
        costs.append(losses["prior_last"].item() / 0.2)
        assert losses["prior_others"].item() == 0
    assert costs == pytest.approx([0.31326, 1.31326], abs=1e-4)


def test_ignored_images_have_no_mask_loss() -> None:
    segmenter = small().train()
    labels = torch.full((1, 32, 32), 255)
    losses = segmenter.loss(
        segmenter.forward_query(
            torch.rand(1, 3, 32, 32), segmenter.encode_text(Vocabulary(["tree"]))
        ),
        labels,
    )
    assert losses["total"].item() == 0


def test_impossible_options() -> None:
    with pytest.raises(SettingError, match="templates 'multi' hold 15"):
        small(templates="multi")
    with pytest.raises(
        SettingError, match=r"text_blocks is \[7\], but blocks are counted from 0 to 2"
    ):
        ESDA(tiny_clip(), text_blocks=(7,))
    with pytest.raises(
        SettingError, match=r"prior_blocks is \[2\], but blocks are counted from 0 to 1"
    ):
        small(prior_blocks=(2,))
    with pytest.raises(SettingError, match="decoder_heads is 5"):
        small(decoder_heads=5)
