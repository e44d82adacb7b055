"""OTSeg against the released code (fixtures otseg_a, otseg_b) and its own promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import LOSSES, Released, close
from test_zegclip import dead, trainable
from tiny import tiny_clip
from unseen.backbones.clip.loading import load_clip
from unseen.data.benchmarks import get_benchmark
from unseen.deployment import Deployed
from unseen.errors import SettingError
from unseen.methods import create
from unseen.methods.otseg import RELEASED_SINKHORN, SIX, OTSeg
from unseen.modules.sinkhorn import Sinkhorn
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings, ModelSettings
from unseen.sources import ModelSource
from unseen.vocabulary import Vocabulary

# Tolerances suggested with the fixtures.
FEATURES, PLANS, GRADIENTS = 1e-5, 2e-5, 1e-3


@pytest.fixture(scope="module", params=["otseg_a", "otseg_b"])
def released(request: pytest.FixtureRequest) -> Released:
    return Released(request.param, "otseg")


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    released.check_tensors()


def test_features(released: Released) -> None:
    released.check_features(FEATURES)


def test_prompts_of_the_own_text_tower(released: Released) -> None:
    """A unit vector for every sentence, no mean."""
    ids = released.tensors["in.tokens"]
    vectors, _ = released.segmenter.clip.encode_tokens(ids.flatten(0, 1).long())
    expected = released.tensors["out.text_embedding"]
    close(F.normalize(vectors, dim=-1).view_as(expected), expected, FEATURES)


def test_queries_plans_and_maps(released: Released) -> None:
    """Of the path without a decoder, then layer by layer."""
    segmenter, tensors = released.segmenter, released.tensors
    assert isinstance(segmenter, OTSeg)
    image = tensors["out.backbone.global"]
    memory = tensors["out.backbone.patch"].flatten(2).transpose(1, 2)
    prompts = released.text.per_template
    assert prompts is not None
    queries = segmenter.descriptor(image, prompts.flatten(0, 1)).view(2, *prompts.shape)
    close(queries, tensors["out.q_proj"], FEATURES)

    def check(name: str, plan: Tensor, maps: Tensor) -> None:
        close(plan.transpose(2, 3), tensors[f"out.{name}.plan"], PLANS)
        expected = tensors[f"out.{name}.map"]
        close(maps.view_as(expected), expected, PLANS)

    check("score", *segmenter.sinkhorn(queries, memory))
    decoder = segmenter.decoder
    for number, layer in enumerate(decoder.layers):
        attn = layer.multihead_attn
        check(f"decoder.{number}", *segmenter.sinkhorn(attn.q(queries), attn.k(memory)))
        queries, _ = layer(queries, memory)
        close(queries, tensors[f"out.decoder.{number}.queries"], FEATURES)
    last = len(decoder.layers)
    check(f"decoder.{last}", *segmenter.sinkhorn(decoder.q(queries), decoder.k(memory)))
    chained = decoder(tensors["out.q_proj"], memory)
    expected = tensors["out.decoder.chained"]
    close(chained.view_as(expected), expected, PLANS)


def test_scores(released: Released) -> None:
    released.check_scores(FEATURES)


def test_inference_at_another_size(released: Released) -> None:
    window, stride = released.config["window"], released.config["stride"]
    released.check_inference(
        InferenceSettings(window=window, stride=stride, window_batch=1), FEATURES
    )


def test_training_step(released: Released) -> None:
    """Both maps, targets (remapped or pseudo-labelled), losses and gradients of one step."""
    prediction, losses = released.training_step()
    decoded, direct = prediction.auxiliary
    close(decoded.logits, released.tensors["out.train.decoder_map"], PLANS)
    close(direct.logits, released.tensors["out.train.score_map"], PLANS)
    about = released.about["losses"]
    for name in ("mask", "dice"):
        both = about[f"decode.loss_{name}"] + about[f"score.loss_{name}"]
        assert losses[name].item() == pytest.approx(both, rel=LOSSES)
    released.check_gradients(GRADIENTS)


def test_a_fixed_number_of_rounds_is_near(released: Released) -> None:
    """25 rounds differ from the released rule by less than a score of 1e-4."""
    assert isinstance(released.segmenter, OTSeg)
    ours = Sinkhorn(rounds=25)
    images = released.tensors["in.image"]
    before = released.segmenter(images, released.text).logits.sigmoid()
    parts = [released.segmenter, released.segmenter.decoder, *released.segmenter.decoder.layers]
    kept = released.segmenter.sinkhorn
    for part in parts:
        part.sinkhorn = ours
    after = released.segmenter(images, released.text).logits.sigmoid()
    for part in parts:
        part.sinkhorn = kept
    assert 0 < (after - before).abs().max() < 1e-4


# ------------------------------------------------------------------- transport


def test_shares_are_equal() -> None:
    cosines = 2 * torch.rand(2, 3, 4, 50) - 1
    plan = Sinkhorn(rounds=200).plan(cosines)
    assert torch.allclose(plan.sum(dim=-1), torch.tensor(1 / 4), atol=1e-5)
    assert torch.allclose(plan.sum(dim=-2), torch.tensor(1 / 50), atol=1e-5)
    one = Sinkhorn().plan(cosines[:, :, :1])
    assert torch.allclose(one, torch.tensor(1 / 50), atol=1e-6)  # a single prompt chooses nothing


def test_plans_are_those_of_the_equations() -> None:
    """The potentials u and v of the released rounds, in float64 and by logarithms."""
    cosines = 2 * torch.rand(1, 2, 3, 20) - 1
    costs, epsilon = (1 - cosines).double().transpose(-1, -2), 0.05
    u, v = torch.zeros(1, 2, 20).double(), torch.zeros(1, 2, 3).double()
    for _ in range(7):
        kernel = (u.unsqueeze(-1) + v.unsqueeze(-2) - costs) / epsilon
        u = u + epsilon * (torch.tensor(1 / 20 + 1e-8).log() - kernel.logsumexp(dim=-1))
        kernel = (u.unsqueeze(-1) + v.unsqueeze(-2) - costs) / epsilon
        v = v + epsilon * (torch.tensor(1 / 3 + 1e-8).log() - kernel.logsumexp(dim=-2))
    expected = ((u.unsqueeze(-1) + v.unsqueeze(-2) - costs) / epsilon).exp()
    plan = Sinkhorn(epsilon, rounds=7).plan(cosines)
    assert torch.allclose(plan, expected.transpose(-1, -2).float(), rtol=1e-4, atol=1e-9)


def test_gradients_go_through_all_rounds() -> None:
    cosines = (2 * torch.rand(2, 3, 5, dtype=torch.float64) - 1).requires_grad_()
    for rounds in (1, 2, 7):
        assert torch.autograd.gradcheck(Sinkhorn(0.2, rounds).plan, cosines)


def test_costs_as_far_apart_as_they_can_be() -> None:
    cosines = torch.tensor([[[1.0, -1.0], [-1.0, -1.0]]]).requires_grad_()
    plan = Sinkhorn(0.05, rounds=50).plan(cosines)
    plan.square().sum().backward()
    assert torch.isfinite(plan).all()
    assert torch.isfinite(cosines.grad).all()


# ---------------------------------------------------------------- sizes, options


@pytest.mark.parametrize(("num_prompts", "published"), [(10, 13_821_184), (100, 14_650_624)])
def test_published_sizes(num_prompts: int, published: int) -> None:
    """Exactly ZegCLIP's: the method adds no parameter."""
    with torch.device("meta"):
        tower = load_clip("ViT-B-16-quickgelu/random")
        segmenter = create("otseg", tower, num_prompts=num_prompts, start="released")
    assert trainable(segmenter) + dead(512, 3, 2048) == published


def test_plans_do_not_depend_on_other_classes() -> None:
    """By fixed rounds; the released rule looks at all that is computed together."""
    easy, hard = 0.1 * torch.rand(1, 3, 20), 2 * torch.rand(1, 3, 20) - 1
    both = torch.cat([easy, hard])
    for rule, same in ((Sinkhorn(), True), (RELEASED_SINKHORN, False)):
        assert torch.equal(rule.plan(both)[:1], rule.plan(easy)) is same


def test_the_start_compares_patches_with_prompts() -> None:
    clip, images = tiny_clip(), torch.rand(1, 3, 32, 40)
    segmenter = create("otseg", clip, num_prompts=2).eval()
    text = segmenter.encode_text(Vocabulary(("tree", "car")))
    _, patches = segmenter.encode_images(images)
    assert text.per_template is not None
    assert text.per_template.shape == (2, len(SIX), clip.embed_dim)
    _, maps = segmenter.sinkhorn(text.per_template.unsqueeze(0), patches)
    prediction = segmenter(images, text)
    direct = prediction.auxiliary[1].logits
    assert torch.allclose(direct.flatten(2), maps, atol=1e-5)


def test_the_ensemble() -> None:
    clip, images = tiny_clip(), torch.rand(1, 3, 32, 32)
    for share in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        segmenter = create("otseg", clip, num_prompts=2, ensemble=share, start="released").eval()
        prediction = segmenter(images, segmenter.encode_text(Vocabulary(("tree", "car"))))
        decoded, direct = (part.logits for part in prediction.auxiliary)
        assert torch.allclose(prediction.logits, (1 - share) * decoded + share * direct, atol=1e-6)


def test_offsets_make_several_prompts_of_one() -> None:
    clip = tiny_clip()
    vectors = F.normalize(torch.randn(2, 1, clip.embed_dim), dim=-1)
    text = TextFeatures(("tree", "car"), vectors[:, 0], per_template=vectors)
    segmenter = create("otseg", clip, num_prompts=2, text_offsets=4, start="released")
    assert segmenter.text_offsets.shape == (4, clip.embed_dim)
    segmenter(torch.rand(1, 3, 32, 32), text).logits.sum().backward()
    assert segmenter.text_offsets.grad.abs().sum() > 0


def test_templates_are_kept_apart_and_synonyms_averaged() -> None:
    segmenter = create("otseg", tiny_clip(), num_prompts=2)
    names = Vocabulary(("tree", "car"), synonyms={"car": ("car", "automobile")})
    text = segmenter.encode_text(names).per_template
    assert text is not None
    for row, words in ((0, ["tree"]), (1, ["car", "automobile"])):
        vectors = F.normalize(segmenter.text_encoder.encode_prompts(words, SIX), dim=-1)
        assert torch.allclose(text[row], F.normalize(vectors.mean(dim=0), dim=-1), atol=1e-6)


def test_a_single_prompt_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for options, told in (
        ({"templates": "single"}, True),
        ({"templates": "single", "text_offsets": 1}, True),
        ({"text_offsets": 2}, False),
        ({}, False),
    ):
        caplog.clear()
        segmenter = create("otseg", tiny_clip(), num_prompts=2, **options)
        segmenter.encode_text(Vocabulary(("tree", "car")))
        assert ("single prompt a class" in caplog.text) is told


def test_other_benchmarks_leave_the_prompts_alone() -> None:
    """Their own templates would be a single prompt on VOC."""
    model = ModelSettings("otseg", "doodles", options={"templates": list(SIX)})
    source = ModelSource(model).on(get_benchmark("voc"))
    assert source.settings.options["templates"] == list(SIX)
    assert ModelSource(ModelSettings("zegclip", "doodles")).on(
        get_benchmark("voc")
    ).settings.options == {"templates": "single"}


def test_a_published_segmenter_can_be_exported() -> None:
    """Where values cannot be looked at, all rounds are taken."""
    segmenter = create("otseg", tiny_clip(), published=True, num_prompts=2, train_grid=[4, 4])
    module = Deployed(segmenter.eval(), prompts=3)
    example = (torch.rand(2, 3, 32, 32), F.normalize(torch.randn(4, 3, 16), dim=-1))
    with torch.no_grad():
        program = torch.export.export(module, example).module()
        assert (program(*example) - module(*example)).abs().max() < 1e-3


def test_a_segmenter_compiles_whole() -> None:
    """A fixed number of rounds looks at no value, so that nothing breaks the graph."""
    segmenter = create("otseg", tiny_clip(), num_prompts=2).eval()
    module = Deployed(segmenter, prompts=3)
    example = (torch.rand(2, 3, 32, 32), F.normalize(torch.randn(4, 3, 16), dim=-1))
    with torch.no_grad():
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(*example), module(*example), atol=1e-5)


def test_impossible_options() -> None:
    for options, message in (
        ({"epsilon": 0.01}, "epsilon is 0.01; give a number from 0.05 to 2"),
        ({"ensemble": 1.5}, "ensemble is 1.5, a share; give a number from 0 to 1"),
        ({"decoder_heads": 8}, "otseg has no option 'decoder_heads'"),
        ({"rounds": 10, "sinkhorn_stop": "batch"}, "sinkhorn_stop=batch ends them by itself"),
        ({"rounds": 25, "sinkhorn_stop": "batch"}, "sinkhorn_stop=batch ends them by itself"),
    ):
        with pytest.raises(SettingError, match=message):
            create("otseg", tiny_clip(), **options)
    with pytest.raises(SettingError, match="rounds is 0; give at least 1"):
        Sinkhorn(rounds=0)
    assert create("otseg", tiny_clip(), num_prompts=2, text_offsets=0).text_offsets is None
