"""ZegCLIP against the released code (fixtures zegclip_a, zegclip_b) and its own promises."""

from __future__ import annotations

import pytest
import torch

from conftest import LOSSES, Released, close, converted, golden
from tiny import tiny_clip
from unseen.backbones.clip.loading import load_clip
from unseen.errors import CheckpointError, SettingError
from unseen.methods import create
from unseen.methods.zegclip import ZegCLIP
from unseen.segmenter import Prediction
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

FEATURES, GRADIENTS = 1e-5, 1e-3  # tolerances suggested with the fixtures


@pytest.fixture(scope="module", params=["zegclip_a", "zegclip_b"])
def released(request: pytest.FixtureRequest) -> Released:
    return Released(request.param, "zegclip", decoder_heads="dec_heads")


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    released.check_tensors()


def test_features(released: Released) -> None:
    released.check_features(FEATURES)


def test_queries(released: Released) -> None:
    image = released.tensors["out.backbone.global"]
    close(
        released.segmenter.descriptor(image, released.text.pooled),
        released.tensors["out.q_proj"],
        FEATURES,
    )


def test_scores(released: Released) -> None:
    released.check_scores(FEATURES)


def test_inference_at_another_size(released: Released) -> None:
    """Windows, mean over overlaps, resize to the original size, best class."""
    settings = InferenceSettings()
    if released.config["test_mode"] == "slide":
        window, stride = released.config["img_size"], released.config["stride"]
        settings = InferenceSettings(window=window, stride=stride)
    released.check_inference(settings, FEATURES)


def test_training_step(released: Released) -> None:
    """Logits, targets (remapped or pseudo-labelled), losses and gradients of one step."""
    prediction, losses = released.training_step()
    expected = released.tensors["out.train.pred_masks"]
    close(prediction.resized(expected.shape[-2:]), expected, FEATURES)
    for name, released_name in (("mask", "decode.loss_mask"), ("dice", "decode.loss_dice")):
        released_loss = released.about["losses"][released_name]
        assert losses[name].item() == pytest.approx(released_loss, rel=LOSSES)
    released.check_gradients(GRADIENTS)


# ---------------------------------------------------------------- sizes, options


def trainable(segmenter: ZegCLIP) -> int:
    return sum(p.numel() for p in segmenter.parameters() if p.requires_grad)


def dead(embed_dim: int, layers: int, hidden: int) -> int:
    """The number of parameters the released code trains without effect.

    These are self-attention and its norm in every layer, and the last layer after its scores.
    """
    attention, norm, feed = (
        4 * embed_dim * (embed_dim + 1),
        2 * embed_dim,
        2 * embed_dim * hidden + hidden + embed_dim,
    )
    tail = (
        attention // 2 + feed + 2 * norm
    )  # values and output projection, feed-forward, its two norms
    return layers * (attention + norm) + tail


@pytest.mark.parametrize(("num_prompts", "published"), [(10, 13_821_184), (100, 14_650_624)])
def test_published_sizes(num_prompts: int, published: int) -> None:
    """13.8 M on VOC, 14.6 M on COCO-Stuff with dead parameters, which are left out here."""
    with torch.device("meta"):
        tower = load_clip("ViT-B-16-quickgelu/random")
        segmenter = create("zegclip", tower, num_prompts=num_prompts, start="released")
    ours = trainable(segmenter)
    assert ours + dead(512, 3, 2048) == published
    assert ours == {10: 8_039_168, 100: 8_868_608}[num_prompts]


def test_shallow_prompts_have_no_norm_and_stay() -> None:
    segmenter = create("zegclip", tiny_clip(), num_prompts=2, prompt_depth=1, decoder_heads=2)
    assert isinstance(segmenter.prompt_norm, torch.nn.Identity)
    assert segmenter.prompts.deep_prompt_embeddings is None
    assert isinstance(
        create(
            "zegclip", tiny_clip(), prompt_depth=1, decoder_heads=2, prompt_norm=True
        ).prompt_norm,
        torch.nn.LayerNorm,
    )


def test_calibration_reduces_seen_logits_only_where_classes_are_unseen() -> None:
    segmenter, logits = (
        create("zegclip", tiny_clip(), decoder_heads=2, calibration=0.2),
        torch.zeros(1, 3, 1, 1),
    )
    assert segmenter.scores(logits, [0, 2]).flatten().tolist() == pytest.approx([0.3, 0.5, 0.3])
    assert segmenter.scores(logits, None).flatten().tolist() == [0.5] * 3


def test_ignored_pixels_are_left_out_or_negative() -> None:
    text = None
    for ignored_as, moved in (("ignore", False), ("negative", True)):
        torch.manual_seed(0)
        segmenter = create("zegclip", tiny_clip(), decoder_heads=2, ignored_as=ignored_as)
        text = text or segmenter.encode_text(Vocabulary(["tree", "car"]))
        logits = torch.randn(1, 2, 4, 4)
        labels = torch.zeros(1, 32, 32, dtype=torch.int64)
        labels[:, :, 16:] = 255
        changed = logits.clone()
        changed[..., 3] += 3  # lies under ignored pixels only
        losses = [
            segmenter.loss(Prediction(maps, (32, 32)), labels)["total"].item()
            for maps in (logits, changed)
        ]
        assert (abs(losses[0] - losses[1]) > 1e-3) is moved


def test_deep_supervision_reaches_every_layer() -> None:
    torch.manual_seed(0)
    segmenter = create(
        "zegclip", tiny_clip(), decoder_heads=2, deep_supervision=True, decoder_layers=3
    ).train()
    text, images = (
        segmenter.encode_text(Vocabulary(["tree", "car"])),
        torch.rand(1, 3, 32, 32),
    )
    prediction = segmenter(images, text)
    assert [part.weight for part in prediction.auxiliary] == [1.0, 1.0]
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    alone = segmenter.loss(Prediction(prediction.logits, prediction.padded_size), labels)["total"]
    assert segmenter.loss(prediction, labels)["total"] > alone
    assert segmenter.eval()(images, text).auxiliary == ()


def test_identical_layers_start_equal() -> None:
    segmenter = create(
        "zegclip", tiny_clip(), decoder_heads=2, identical_layers=True, start="released"
    )
    first, second = segmenter.decoder.layers
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert torch.equal(segmenter.decoder.q.weight, first.multihead_attn.q.weight)
    other = create("zegclip", tiny_clip(), decoder_heads=2)
    assert not torch.equal(
        other.decoder.layers[0].linear1.weight, other.decoder.layers[1].linear1.weight
    )  # type: ignore[union-attr]


def test_maps_are_scaled_by_heads_or_by_width() -> None:
    """The released scale is 1/(heads·√(D/heads)), ours 1/√D: √heads times as much."""
    maps = []
    for scale in ("heads", "width"):
        torch.manual_seed(0)
        segmenter = create(
            "zegclip", tiny_clip(), decoder_heads=4, scale=scale, start="released"
        ).eval()
        maps.append(
            segmenter(
                torch.ones(1, 3, 32, 32),
                segmenter.encode_text(Vocabulary(["tree", "car"])),
            ).logits
        )
    assert torch.allclose(2 * maps[0], maps[1], rtol=1e-4, atol=1e-6)


def test_published_option() -> None:
    segmenter = create("zegclip", tiny_clip(), published=True, decoder_heads=2)
    assert isinstance(segmenter, ZegCLIP)
    assert (
        segmenter.tower_quirks.class_embedding_twice,
        segmenter.mask_loss.ignored_as,
        segmenter.tower_quirks.resize,
        segmenter.tower_quirks.train_grid,
    ) == (True, "negative", "bilinear", (32, 32))
    assert segmenter.clip.mean.flatten().tolist() == pytest.approx(
        [123.675 / 255, 116.28 / 255, 103.53 / 255]
    )


def test_impossible_options() -> None:
    with pytest.raises(SettingError, match="prompt_depth is 9, but the tower has 3 blocks"):
        create("zegclip", tiny_clip(), prompt_depth=9)
    with pytest.raises(SettingError, match="decoder_heads is 5"):
        create("zegclip", tiny_clip(), decoder_heads=5)


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    tensors, _ = golden("zegclip_a")
    state = {key[3:]: value for key, value in tensors.items() if key.startswith("sd.")}
    bad = {**state, "decode_head.decoder_1.layers.0.linear2.weight": torch.zeros(3, 3)}
    with pytest.raises(
        CheckpointError,
        match=r"linear2.weight \(\[3, 3\] instead of \[32, 128\]\) is of another shape",
    ):
        converted("zegclip", bad, vision_heads=4, text_heads=2, decoder_heads=4)
    with pytest.raises(CheckpointError, match="unknown"):
        converted(
            "zegclip",
            {**state, "decode_head.unknown": torch.zeros(3)},
            vision_heads=4,
            text_heads=2,
            decoder_heads=4,
        )
    with pytest.raises(CheckpointError, match="cannot be converted"):
        converted("naclip", state)
