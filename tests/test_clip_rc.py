"""CLIP-RC against the released code (fixtures clip_rc_a, clip_rc_b) and its own promises."""

from __future__ import annotations

import pytest
import torch

from conftest import LOSSES, Released, close
from tiny import tiny_clip
from unseen.backbones.clip.loading import load_clip
from unseen.errors import SettingError
from unseen.methods import create
from unseen.methods.clip_rc import CLIPRC
from unseen.modules.queries import relationship
from unseen.modules.regions import region_mask, regions_of
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

# Tolerances suggested with the fixtures.
FEATURES, LOGITS, GRADIENTS = 1e-5, 1e-4, 1e-3


@pytest.fixture(scope="module", params=["clip_rc_a", "clip_rc_b"])
def released(request: pytest.FixtureRequest) -> Released:
    return Released(
        request.param, "clip_rc", decoder_heads="dec_heads", recovery_weight="recovery_loss_weight"
    )


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    released.check_tensors()


def test_mask(released: Released) -> None:
    side, regions = (
        released.tensors["out.backbone.patch"].shape[-1],
        released.tensors["out.backbone.region"].shape[-1],
    )
    allowed = region_mask(
        1 + released.config["num_tokens"], regions_of((side, side), (regions, regions)), regions**2
    )
    assert torch.equal(~allowed, released.tensors["out.attn_mask"].bool())


def test_features(released: Released) -> None:
    image, patches, regions = released.segmenter.encode_images(released.tensors["in.image"])
    expected = released.tensors["out.backbone.patch"]
    close(image, released.tensors["out.backbone.global"], FEATURES)
    close(patches.transpose(1, 2).unflatten(2, expected.shape[-2:]), expected, FEATURES)
    lattice = released.tensors["out.backbone.region"]
    close(regions.transpose(1, 2).unflatten(2, lattice.shape[-2:]), lattice, FEATURES)
    close(
        relationship(regions + image.unsqueeze(1), released.text.pooled),
        released.tensors["out.region_text"],
        FEATURES,
    )


def test_scores(released: Released) -> None:
    released.check_scores(FEATURES)


def test_inference_at_another_size(released: Released) -> None:
    """Windows, mean over overlaps, resize to the original size, best class."""
    window, stride = released.config["img_size"], released.config["stride"]
    released.check_inference(InferenceSettings(window=window, stride=stride), FEATURES)


def test_training_step(released: Released) -> None:
    """Logits, recovered features, targets, losses and gradients of one step."""
    prediction, losses = released.training_step()
    for name, released_name in (
        ("recovered_descriptors", "rec_q"),
        ("recovered_patches", "rec_lateral"),
        ("descriptors", "ori_q"),
        ("patches", "ori_lateral"),
    ):
        close(prediction.extras[name], released.tensors[f"out.train.{released_name}"], LOGITS)
    expected = released.tensors["out.train.pred_masks"]
    close(prediction.resized(expected.shape[-2:]), expected, LOGITS)
    for name, released_name in (
        ("mask", "loss_mask"),
        ("dice", "loss_dice"),
        ("recovery_q", "recovery_loss_q"),
        ("recovery_k", "recovery_loss_k"),
    ):
        assert losses[name].item() == pytest.approx(
            released.about["losses"][f"decode.{released_name}"], rel=LOSSES
        )
    released.check_gradients(GRADIENTS)


# ---------------------------------------------------------------- sizes, options


@pytest.mark.parametrize(("num_prompts", "published"), [(10, 36_941_568), (100, 37_771_008)])
def test_published_sizes(num_prompts: int, published: int) -> None:
    """36.9 M on VOC, 37.8 M on COCO-Stuff.

    8 413 184 of them are dead (self-attention and its norm in eight layers) and left out here.
    """
    with torch.device("meta"):
        tower = load_clip("ViT-B-16-quickgelu/random")
        segmenter = create("clip_rc", tower, num_prompts=num_prompts, start="released")
    ours = sum(p.numel() for p in segmenter.parameters() if p.requires_grad)
    dead = 8 * (4 * 512 * 513 + 2 * 512)
    assert dead == 8_413_184
    assert ours + dead == published


def test_regions_cover_any_grid() -> None:
    assert regions_of((4, 4), (2, 2)).view(4, 4).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]
    assert regions_of((3, 5), (2, 2)).view(3, 5).tolist() == [
        [0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1],
        [2, 2, 2, 3, 3],
    ]
    assert regions_of((3, 5), (2, 2), whole_cells=True).view(3, 5).tolist() == [
        [0, 0, 1, 1, -1],
        [2, 2, 3, 3, -1],
        [-1] * 5,
    ]
    assert regions_of((1, 2), (2, 4)).tolist() == [
        0,
        2,
    ], "a lattice finer than the grid leaves regions without patches"
    for grid, lattice in (((7, 9), (4, 4)), ((32, 32), (3, 5))):
        for whole in (False, True):
            owner = regions_of(grid, lattice, whole_cells=whole)
            assert set(owner.tolist()) - {-1} == set(range(lattice[0] * lattice[1]))


def test_who_looks_at_whom() -> None:
    mask = region_mask(2, torch.tensor([0, 1, -1]), 2).int().tolist()
    assert mask == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0, 1],
        [1, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0, 1],
    ]


def small(**options: object) -> CLIPRC:
    torch.manual_seed(0)
    segmenter = create(
        "clip_rc",
        tiny_clip(),
        **{"num_prompts": 2, "decoder_heads": 2, "lattice": (2, 2), **options},
    )
    assert isinstance(segmenter, CLIPRC)
    return segmenter.eval()


def test_a_region_sees_its_own_part_alone() -> None:
    segmenter, images = small(), torch.rand(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 16:, 16:] = 1 - changed[..., 16:, 16:]
    # Patches attend to each other, so after the first block a region depends on all; with one block
    # left it does not.
    segmenter.clip.num_layers = 1
    before, after = segmenter.encode_images(images)[2], segmenter.encode_images(changed)[2]
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3], atol=1e-3)


def test_region_tokens_start_as_the_class_token_and_learn_only_by_option() -> None:
    clip = tiny_clip()
    expected = clip.visual.class_embedding + clip.visual.positional_embedding[0]
    for learns in (False, True):
        segmenter = small(train_regions=learns)
        assert torch.allclose(segmenter.bridge.tokens, expected.expand(4, -1))
        assert segmenter.bridge.tokens.requires_grad is learns
        segmenter.train()
        labels = torch.zeros(1, 32, 32, dtype=torch.int64)
        segmenter.loss(
            segmenter(
                torch.rand(1, 3, 32, 32),
                segmenter.encode_text(Vocabulary(["tree", "car"])),
            ),
            labels,
        )["total"].backward()
        assert (segmenter.bridge.tokens.grad is not None) is learns
        assert "bridge.tokens" in segmenter.trainable_state()


def test_norm_for_regions_too() -> None:
    images, plain, normed = torch.rand(1, 3, 32, 32), small(), small(norm_regions=True)
    with torch.no_grad():
        for segmenter in (plain, normed):
            segmenter.prompt_norm.weight.copy_(torch.linspace(0.5, 2, 32))
    a, b = plain.encode_images(images), normed.encode_images(images)
    assert torch.equal(a[1], b[1])
    assert not torch.allclose(a[2], b[2], atol=1e-3)


def test_no_recovery_without_its_weight_or_outside_training() -> None:
    without, text, images = (
        small(recovery_weight=0.0),
        small().encode_text(Vocabulary(["tree", "car"])),
        torch.rand(1, 3, 32, 32),
    )
    assert without.recovery is None
    assert not any(name.startswith("recovery") for name, _ in without.named_parameters())
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    assert set(without.train().loss(without(images, text), labels)) == {"mask", "dice", "total"}
    assert small()(images, text).extras == {}
    assert set(small().train()(images, text).extras) == {
        "descriptors",
        "patches",
        "recovered_descriptors",
        "recovered_patches",
    }


def test_prompts_in_some_blocks_only() -> None:
    """The released code's mask has one length; ours follows the tokens."""
    for depth in (1, 2, 3):
        segmenter = small(prompt_depth=depth)
        assert segmenter(
            torch.rand(1, 3, 40, 24),
            segmenter.encode_text(Vocabulary(["tree"])),
        ).logits.shape == (1, 1, 5, 3)


def test_impossible_options() -> None:
    with pytest.raises(
        SettingError,
        match=r"lattice is \(0, 4\); for each entry, give a whole number of at least 1",
    ):
        small(lattice=(0, 4))
    with pytest.raises(SettingError, match="decoder_heads is 3"):
        small(decoder_heads=3)
    with pytest.raises(SettingError, match="prompt_depth is 9"):
        small(prompt_depth=9)


def test_published_option() -> None:
    segmenter = create("clip_rc", tiny_clip(), published=True, decoder_heads=2)
    assert isinstance(segmenter, CLIPRC)
    assert (
        segmenter.tower_quirks.class_embedding_twice,
        segmenter.mask_loss.ignored_as,
        segmenter.tower_quirks.resize,
        segmenter.bridge.whole_cells,
    ) == (True, "negative", "bilinear", True)
