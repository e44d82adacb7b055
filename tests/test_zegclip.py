"""ZegCLIP against the released code (fixtures zegclip_a, zegclip_b) and its own promises."""

from __future__ import annotations

import pytest
import torch

from conftest import golden
from unseen.convert import from_state_dict
from unseen.inference import score_maps
from unseen.methods.zegclip import ZegCLIP
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings
from unseen.training import targets_of

FEATURES, LOSSES, GRADIENTS = 1e-5, 1e-5, 1e-3  # tolerances suggested with the fixtures


class Released:
    """A fixture, and our segmenter with its weights."""

    def __init__(self, name: str) -> None:
        self.tensors, self.about = golden(name)
        config = self.about["config"]
        state = {key[3:]: value for key, value in self.tensors.items() if key.startswith("sd.")}
        segmenter, self.report = from_state_dict(
            "zegclip", state, vision_heads=config["vit_heads"], text_heads=config["text"]["heads"], decoder_heads=config["dec_heads"], dropout=0.0,
            mask_weight=config["mask_weight"], dice_weight=config["dice_weight"],
        )  # fmt: skip
        assert isinstance(segmenter, ZegCLIP)
        segmenter.clip.mean.zero_()  # the fixtures' pictures are normalised already
        segmenter.clip.std.fill_(1)
        self.segmenter, self.config, self.state = segmenter, config, state
        self.text = TextFeatures(tuple("abcdefg"), self.tensors["in.text_embedding"].float())
        self.seen = None if config["self_training"] else config["base_class"]


@pytest.fixture(scope="module", params=["zegclip_a", "zegclip_b"])
def released(request: pytest.FixtureRequest) -> Released:
    return Released(request.param)


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    assert len(released.report.loaded) + len(released.report.dead) == len(released.state)
    trainable_without_grad = {name for name in released.about["trainable_without_grad"]}
    assert trainable_without_grad == {name for name in released.report.dead if "loss_decode" not in name}


def test_features(released: Released) -> None:
    for suffix in ("", "_rect"):
        if f"in.image{suffix}" not in released.tensors:
            continue
        images = released.tensors[f"in.image{suffix}"]
        theirs = released.tensors[f"out.backbone{suffix}.patch"]
        picture, patches = released.segmenter.encode_image(images)
        close(picture, released.tensors[f"out.backbone{suffix}.global"], FEATURES)
        close(patches.transpose(1, 2).unflatten(2, theirs.shape[-2:]), theirs, FEATURES)


def test_queries(released: Released) -> None:
    picture = released.tensors["out.backbone.global"]
    close(released.segmenter.descriptor(picture, released.text.pooled), released.tensors["out.q_proj"], FEATURES)


def test_scores(released: Released) -> None:
    scores = score_maps(released.segmenter, released.tensors["in.image"], released.text, InferenceSettings(), released.seen)
    close(scores, released.tensors["out.head_eval"], FEATURES)


def test_inference_at_another_size(released: Released) -> None:
    """Windows, mean over overlaps, resize to the original size, best word."""
    slide = released.config["test_mode"] == "slide"
    settings = InferenceSettings(window=released.config["img_size"], stride=released.config["stride"]) if slide else InferenceSettings()
    images = released.tensors["in.image_infer"]
    scores = score_maps(released.segmenter, images, released.text, settings, released.seen)
    size = tuple(released.config["ori_shape"])
    resized = torch.nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)
    close(resized, released.tensors["out.infer_scores"], FEATURES)
    assert torch.equal(resized.argmax(dim=1)[0], released.tensors["out.infer_pred"])


def test_training_step(released: Released) -> None:
    """Logits, targets (remapped, or pseudo-labelled by the same forward), losses and gradients of one step."""
    segmenter, about = released.segmenter.train(), released.about
    seen, unseen = released.config["base_class"], released.config["novel_class"]
    transductive = released.config["self_training"]
    text = released.text if transductive else released.text.select(seen)
    segmenter.zero_grad()
    prediction = segmenter(released.tensors["in.image"], text)
    labels = released.tensors["in.label"][:, 0]
    before = labels.clone()
    targets = targets_of(labels, prediction, regime="transductive" if transductive else "inductive", seen=seen, unseen=unseen)
    assert torch.equal(labels, before)
    close(prediction.resized((labels.shape[-2], labels.shape[-1])), released.tensors["out.train.pred_masks"], FEATURES)
    assert torch.equal(targets, released.tensors["out.train.target"])
    losses = segmenter.loss(prediction, targets)
    for ours, theirs in (("mask", "decode.loss_mask"), ("dice", "decode.loss_dice")):
        assert losses[ours].item() == pytest.approx(about["losses"][theirs], rel=LOSSES)
    assert losses["total"].item() == pytest.approx(about["total_loss"], rel=LOSSES)
    losses["total"].backward()
    own = dict(segmenter.named_parameters())
    names = {
        "backbone.prompt_norm.": "prompt_norm.", "backbone.": "prompts.", "decode_head.q_proj.": "descriptor.q_proj.",
        f"decode_head.decoder_1.layers.{released.config['dec_layers'] - 1}.multihead_attn.": "decoder.", "decode_head.decoder_1.layers.": "decoder.layers.",
    }  # fmt: skip
    largest = max(about["grad_norm"].values())
    for theirs, norm in about["grad_norm"].items():
        start = next(start for start in names if theirs.startswith(start))
        grad = own[names[start] + theirs.removeprefix(start)].grad
        assert grad is not None
        assert grad.norm().item() == pytest.approx(norm, rel=GRADIENTS, abs=1e-5 * largest), theirs
        if f"grad.{theirs}" in released.tensors:
            full = released.tensors[f"grad.{theirs}"]
            close(grad, full, GRADIENTS * full.abs().max().item())
    assert len(about["grad_norm"]) == sum(p.requires_grad for p in own.values())
    segmenter.eval()
