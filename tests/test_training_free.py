"""The five overrides against plain loops over heads and tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tiny import tiny_clip
from unseen.backbones.clip.tower import CLIP
from unseen.building import encode
from unseen.errors import DataError, SettingError
from unseen.methods import METHODS, create
from unseen.methods.training_free import Mode, TrainingFree
from unseen.segmenter import TextFeatures

MODES: list[Mode] = ["clip", "maskclip", "maskclip_no_residual", "sclip", "clearclip", "naclip"]


def plain_last_block(clip: CLIP, x: Tensor, mode: str, grid: tuple[int, int]) -> Tensor:
    """Attention written out; x (T, C)."""
    block = clip.visual.transformer.resblocks[-1]
    y = block.ln_1(x)
    q, k, v = (y @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=1)
    heads, d = block.attn.num_heads, q.shape[1] // block.attn.num_heads
    places = [(i // grid[1], i % grid[1]) for i in range(grid[0] * grid[1])]
    out = []
    for h in range(heads):
        qh, kh, vh = (t[:, h * d : (h + 1) * d] for t in (q, k, v))
        s = d**-0.5
        if mode == "clip":
            a = (s * qh @ kh.T).softmax(dim=1)
        elif mode.startswith("maskclip"):
            a = torch.eye(len(x))
        elif mode == "sclip":
            a = (s * qh @ qh.T).softmax(dim=1) + (s * kh @ kh.T).softmax(dim=1)
        elif mode == "clearclip":
            a = (s * qh @ qh.T).softmax(dim=1)
        else:
            g = torch.zeros(len(x), len(x))
            for i, (yi, xi) in enumerate(places):
                for j, (yj, xj) in enumerate(places):
                    g[1 + i, 1 + j] = torch.exp(
                        torch.tensor(-((yi - yj) ** 2 + (xi - xj) ** 2) / (2 * 5.0**2))
                    )
            a = (s * kh @ kh.T + g).softmax(dim=1)
        out.append(a @ vh)
    z = torch.cat(out, dim=1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    if mode in ("clip", "maskclip", "sclip"):
        z = x + z
        z = z + block.mlp(block.ln_2(z))
    return z


@pytest.mark.parametrize("mode", MODES)
def test_equations(mode: Mode) -> None:
    clip = tiny_clip()
    torch.nn.init.normal_(
        clip.visual.transformer.resblocks[-1].attn.in_proj_weight, std=0.3
    )  # attention far from uniform
    segmenter = TrainingFree(clip, mode=mode).eval()
    images, text = (
        torch.rand(2, 3, 32, 40),
        TextFeatures(
            ("a", "b", "c"), torch.nn.functional.normalize(torch.randn(3, clip.embed_dim), dim=1)
        ),
    )
    logits = segmenter(images, text).logits
    x = clip.embed(images)
    for i in range(clip.num_layers - 1):
        x = clip.block(i, x)
    for b in range(2):
        features = clip.finish(plain_last_block(clip, x[b], mode, (4, 5)))[1:]
        expected = (features / features.norm(dim=1, keepdim=True)) @ text.pooled.T
        assert torch.allclose(logits[b].flatten(1).T, expected, atol=1e-5)


def test_modes_differ() -> None:
    clip = tiny_clip()
    torch.nn.init.normal_(clip.visual.transformer.resblocks[-1].attn.in_proj_weight, std=0.3)
    images, text = (
        torch.rand(1, 3, 32, 32),
        TextFeatures(("a",), torch.nn.functional.normalize(torch.randn(1, clip.embed_dim), dim=1)),
    )
    maps = [TrainingFree(clip, mode=mode)(images, text).logits for mode in MODES]
    for i, a in enumerate(maps):
        for b in maps[i + 1 :]:
            assert (a - b).abs().max() > 1e-3


def test_confidence_is_a_softmax_of_scaled_cosines() -> None:
    segmenter = TrainingFree(tiny_clip(), temperature=10)
    logits = torch.tensor([[[[0.1]], [[0.3]]]])
    scores = segmenter.scores(logits, None)
    confidence = segmenter.confidence(scores[:, 1], scores.logsumexp(dim=1))
    assert confidence.item() == pytest.approx(
        1 / (1 + torch.exp(torch.tensor(-2.0)).item()), rel=1e-5
    )


def test_unknown_mode() -> None:
    with pytest.raises(SettingError, match="'dense'"):
        TrainingFree(tiny_clip(), mode="dense")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["naclip", "zegclip", "clip_rc", "otseg", "cascade_clip"])
def test_a_rim_is_left_away_and_stretched_over(method: str) -> None:
    """As released: the maps of the whole patches cover the whole image."""
    sizes = METHODS[method].cls.TINY
    segmenter = create(method, tiny_clip(), rim="stretch", **sizes).eval()
    images = torch.rand(1, 3, 45, 38)
    text = encode(segmenter, ["cat", "dog"])
    prediction = segmenter(images, text)
    inside = segmenter(images[..., :40, :32], text)
    assert torch.equal(prediction.logits, inside.logits)
    assert prediction.padded_size == (45, 38)
    assert inside.padded_size == (40, 32)
    assert create(method, tiny_clip(), published=True, **sizes).tower_quirks.rim == "stretch"
    padded = create(method, tiny_clip(), **sizes).eval()(images, text)
    assert (padded.logits.shape[-2:], padded.padded_size) == ((6, 5), (48, 40))


def test_templates_may_be_a_file_or_a_list(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("a drawing of a {}\n\n{} in the wild\n")
    for given in (str(file), ["a drawing of a {}", "{} in the wild"]):
        assert create("naclip", tiny_clip(), templates=given).templates == (
            "a drawing of a {}",
            "{} in the wild",
        )
    file.write_text("a drawing\n")
    with pytest.raises(SettingError, match="has 'a drawing', which does not hold one {}"):
        create("naclip", tiny_clip(), templates=str(file))
    with pytest.raises(DataError, match="none.txt does not exist; write one template a line"):
        create("naclip", tiny_clip(), templates=str(tmp_path / "none.txt"))
    with pytest.raises(SettingError, match="no set of templates called 'sinlge'"):
        create("naclip", tiny_clip(), templates="sinlge")
    with pytest.raises(SettingError, match="list of templates is empty"):
        create("naclip", tiny_clip(), templates=[])


def test_options_that_mean_nothing() -> None:
    with pytest.raises(SettingError, match="temperature is 0; give a number above 0"):
        create("naclip", tiny_clip(), temperature=0)
    with pytest.raises(SettingError, match="for naclip's neighbourhood, which sclip has not"):
        create("sclip", tiny_clip(), gaussian_std=3.0)
