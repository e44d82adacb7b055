"""The doodle CLIP's training: its loss written out, its batches, and a resumed run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from unseen.backbones.clip.loading import load_clip
from unseen.pretrain import WEIGHTS, Captions, Pretraining, contrastive_loss, pretrain


class KilledError(Exception):
    pass


def test_loss_written_out() -> None:
    images = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    match, scale = torch.tensor([0, 2, 0, 1]), torch.tensor(5.0)
    logits = 5.0 * images @ texts.T
    of_image = (
        sum(-torch.log(logits[b].exp()[match[b]] / logits[b].exp().sum()) for b in range(4)) / 4
    )
    of_text = torch.tensor(0.0)
    for u in range(3):
        own = [b for b in range(4) if match[b] == u]
        of_text += (
            sum(-torch.log(logits[b, u].exp() / logits[:, u].exp().sum()) for b in own)
            / len(own)
            / 3
        )
    assert contrastive_loss(images, texts, match, scale).item() == pytest.approx(
        ((of_image + of_text) / 2).item(), rel=1e-5
    )


def test_distinct_captions_give_the_loss_of_clip() -> None:
    images, texts = (torch.nn.functional.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    logits, own = 3.0 * images @ texts.T, torch.arange(5)
    expected = (
        torch.nn.functional.cross_entropy(logits, own)
        + torch.nn.functional.cross_entropy(logits.T, own)
    ) / 2
    assert contrastive_loss(images, texts, own, torch.tensor(3.0)).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_batches_grow_harder_and_are_always_the_same() -> None:
    batches = Captions(0, 1000, 16)
    images, captions = batches[3]
    assert images.shape == (16, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert all(" and " not in caption for caption in captions)
    assert torch.equal(images, batches[3][0])
    spread = [
        (batches[step][0].float().amax(dim=1) - batches[step][0].float().amin(dim=1)).mean()
        for step in (3, 350)
    ]
    assert spread[0] < 0.5 * spread[1], "early scenes are greyer"
    assert any(" and " in caption for caption in batches[800][1])


def test_captions_are_encoded_as_the_tower_encodes_them() -> None:
    module = Pretraining()
    captions = ["a photo of a tree", "a red fish and a blue house"]
    full = torch.nn.functional.normalize(
        module.clip.encode_tokens(module.clip.tokenize(captions))[0], dim=1
    )
    assert torch.allclose(module.encode_texts(captions), full, atol=1e-5)


def test_a_resumed_run_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pretraining, "accuracy", lambda self: 5.0)
    pretrain(tmp_path / "whole", steps=9, batch_size=4, progress=False, save_every=2)
    forward = Pretraining.forward
    calls = []

    def kill(self: Pretraining, batch: tuple[torch.Tensor, list[str]]) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 4:
            raise KilledError
        return forward(self, batch)

    monkeypatch.setattr(Pretraining, "forward", kill)
    with pytest.raises(KilledError):
        pretrain(tmp_path / "cut", steps=9, batch_size=4, progress=False, save_every=2)
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    monkeypatch.setattr(Pretraining, "forward", forward)
    assert (
        pretrain(tmp_path / "cut", steps=9, batch_size=4, progress=False, save_every=2, resume=True)
        == 5.0
    )
    whole, cut = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert load_clip(str(tmp_path / "cut" / WEIGHTS)).embed_dim == 128


def test_shipped_weights_say_how_they_were_made() -> None:
    from importlib import resources

    with resources.as_file(resources.files("unseen") / "weights" / WEIGHTS) as path:
        assert path.stat().st_size <= 12 * 2**20
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
    assert float(about["accuracy"]) >= 90
    assert {"seed", "steps", "batch_size", "config"} <= about.keys()


def test_shipped_weights_reach_their_accuracy() -> None:
    """≥ 90 % of single-thing scenes over 20 classes; 5 is chance."""
    module = Pretraining()
    module.clip = load_clip()
    assert module.accuracy(400) >= 90
