"""Cascade-CLIP against the released code (fixtures cascade_a, cascade_b) and its own promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import LOSSES, Released, close
from test_zegclip import dead, trainable
from tiny import tiny_clip
from unseen.backbones.clip.loading import load_clip
from unseen.errors import SettingError
from unseen.methods import create
from unseen.methods.cascade_clip import CascadeCLIP
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

# Tolerances suggested with the fixtures.
FEATURES, GRADIENTS = 1e-5, 1e-3
WORDS = Vocabulary(("tree", "car"))


@pytest.fixture(scope="module", params=["cascade_a", "cascade_b"])
def released(request: pytest.FixtureRequest) -> Released:
    return Released(request.param, "cascade_clip", decoder_heads="dec_heads")


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    released.check_tensors()


def test_features(released: Released) -> None:
    released.check_features(FEATURES)


def test_maps_of_the_middle_blocks(released: Released) -> None:
    segmenter = released.segmenter
    assert isinstance(segmenter, CascadeCLIP)
    assert list(segmenter.read_blocks) == released.config["out_indices"]
    after = segmenter.prompts.forward_layers(
        segmenter.clip.block, segmenter.embed(released.tensors["in.image"]), segmenter.read_blocks
    )
    for index, (layer, x) in enumerate(zip(segmenter.read_blocks, after, strict=True)):
        expected = released.tensors[f"out.backbone.layer.{layer}"]
        maps = segmenter.layer_projections(index, segmenter.prompt_norm(x[:, 1:]))
        close(maps.transpose(1, 2).unflatten(2, expected.shape[-2:]), expected, FEATURES)


def test_groups_queries_and_maps(released: Released) -> None:
    segmenter, tensors = released.segmenter, released.tensors
    assert isinstance(segmenter, CascadeCLIP)
    image, *memories = segmenter.encode_images(tensors["in.image"])
    for number, memory in enumerate(memories):
        close(memory, tensors[f"out.memory.{number}"], FEATURES)
        queries = segmenter.descriptors[number](image, released.text.pooled)
        close(queries, tensors[f"out.q_proj.{number}"], FEATURES)
        expected = tensors[f"out.decoder.{number}.map"]
        (scores,) = segmenter.decoders[number](queries, memory)
        close(scores.unflatten(2, expected.shape[-2:]), expected, FEATURES)
    close(segmenter(tensors["in.image"], released.text).logits, tensors["out.map"], FEATURES)


def test_scores(released: Released) -> None:
    released.check_scores(FEATURES)


def test_inference_at_another_size(released: Released) -> None:
    window, stride = released.config["window"], released.config["stride"]
    released.check_inference(InferenceSettings(window=window, stride=stride), FEATURES)


def test_training_step(released: Released) -> None:
    """Map, targets (remapped or pseudo-labelled), losses and gradients of one step."""
    prediction, losses = released.training_step()
    close(prediction.logits, released.tensors["out.train.map"], FEATURES)
    for name in ("mask", "dice"):
        expected = released.about["losses"][f"decode.loss_{name}"]
        assert losses[name].item() == pytest.approx(expected, rel=LOSSES)
    released.check_gradients(GRADIENTS)


# ---------------------------------------------------------------- sizes, options


@pytest.mark.parametrize(
    ("num_prompts", "published"), [(10, 40_094_982), (35, 40_325_382), (50, 40_463_622)]
)
def test_published_sizes(num_prompts: int, published: int) -> None:
    """40.5 M trained parameters on COCO-Stuff, with dead ones, without the random projections."""
    with torch.device("meta"):
        tower = load_clip("ViT-B-16-quickgelu/random")
        segmenter = create(
            "cascade_clip",
            tower,
            num_prompts=num_prompts,
            start="released",
            layer_projection="random",
        )
    assert trainable(segmenter) + 3 * dead(512, 3, 2048) == published
    frozen = sum(p.numel() for p in segmenter.layer_projections.parameters())
    assert frozen == 2_368_512


def test_projections_are_trained_frozen_or_random() -> None:
    clip = tiny_clip()
    for kind, trained, like_clip in (
        ("trained", True, True),
        ("clip", False, True),
        ("random", False, False),
    ):
        segmenter = create(
            "cascade_clip", clip, num_prompts=2, decoder_heads=2, layer_projection=kind
        )
        own = segmenter.layer_projections
        assert all(p.requires_grad is trained for p in own.parameters())
        assert torch.equal(own.projections[0], clip.visual.proj) is like_clip
        # Nothing else could bring the random ones back.
        assert "layer_projections.projections" in segmenter.trainable_state()


def test_any_blocks_in_any_groups() -> None:
    clip = tiny_clip()  # of three blocks
    segmenter = create("cascade_clip", clip, num_prompts=2, decoder_heads=2).eval()
    assert (segmenter.read_blocks, len(segmenter.decoders)) == ((0, 1), 2)
    segmenter = create(
        "cascade_clip", clip, num_prompts=2, decoder_heads=2, groups=[1, 1], group_start=[0.5]
    ).eval()
    assert [weights.tolist() for weights in segmenter.group_weights] == [[0.5], [0.5]]
    assert len(segmenter.encode_images(torch.rand(1, 3, 32, 40))) == 4
    alone = create("cascade_clip", clip, num_prompts=2, decoder_heads=2, read_blocks=[])
    assert len(alone.decoders) == 1
    whole = create("cascade_clip", clip, num_prompts=2, decoder_heads=2, group_start=[1, 2])
    assert whole.group_weights[0].tolist() == [1.0, 2.0]


def test_the_start_compares_the_last_blocks_patches() -> None:
    clip, images = tiny_clip(), torch.rand(1, 3, 32, 40)
    maps = []
    for name in ("cascade_clip", "zegclip"):
        segmenter = create(name, clip, num_prompts=2, decoder_heads=2).eval()
        maps.append(segmenter(images, segmenter.encode_text(WORDS)).logits)
    assert torch.allclose(*maps, atol=1e-5)


def test_losses_on_every_decoders_map() -> None:
    segmenter = create("cascade_clip", tiny_clip(), num_prompts=2, decoder_heads=2)
    segmenter.deep_supervision = True
    text, images = segmenter.encode_text(WORDS), torch.rand(1, 3, 32, 32)
    prediction = segmenter.train()(images, text)
    parts = torch.stack([part.logits for part in prediction.auxiliary])
    # Each has the bias, and so has their sum.
    assert torch.allclose(parts.sum(dim=0) - segmenter.logit_bias, prediction.logits, atol=1e-5)
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    alone = replace(prediction, auxiliary=())
    assert segmenter.loss(prediction, labels)["total"] > segmenter.loss(alone, labels)["total"]
    assert segmenter.eval()(images, text).auxiliary == ()


def test_impossible_options() -> None:
    for options, message in (
        (
            {"read_blocks": [0, 2]},
            r"read_blocks is \[0, 2\]; give blocks from 0 to 1 of this tower",
        ),
        ({"read_blocks": [1, 0]}, "each once and in order"),
        ({"groups": [3]}, r"groups is \[3\], sizes that add up to 3, and 2 blocks are read"),
        ({"group_start": [1, 1], "groups": [1, 1]}, "the groups have 1, 1 blocks"),
        ({"group_start": [1, 1], "read_blocks": []}, "the groups have no blocks"),
        (
            {"group_start": [1.0]},
            "group_start holds 1 weights, and the groups have 2 blocks; give one for",
        ),
    ):
        with pytest.raises(SettingError, match=message):
            create("cascade_clip", tiny_clip(), decoder_heads=2, **options)
