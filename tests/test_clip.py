"""CLIP's tower against open_clip and OpenAI's code (fixtures clip_vit_tiny, clip_tokens)."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from conftest import FIXTURES, golden
from tiny import tiny_clip
from unseen.backbones import hub
from unseen.backbones.archives import read_state_dict
from unseen.backbones.clip.loading import build_clip, known_sources, load_clip, load_text
from unseen.backbones.clip.templates import TEMPLATES
from unseen.backbones.clip.text import StoredText
from unseen.backbones.clip.tower import CLIP
from unseen.building import encode
from unseen.errors import CheckpointError, SettingError, VocabularyError
from unseen.methods import create
from unseen.modules.cache import CACHE_SIZE

CONFIG = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 96, "layers": 3, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def archive() -> Path:
    for folder in FIXTURES:
        if (folder / "clip_vit_tiny_openai_jit_codefree.pt").exists():
            return folder / "clip_vit_tiny_openai_jit_codefree.pt"
    pytest.skip("the OpenAI archive of the fixtures is not here")


@pytest.fixture
def reference_attention() -> Iterator[None]:
    """PyTorch's attention module as open_clip trains with it.

    Its inference-only kernel rounds otherwise than the same module in training.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("layer_scale", [None, 0.5])
def test_walking_the_tower_equals_open_clip_bit_for_bit(
    reference_attention: None, quick_gelu: bool, layer_scale: float | None
) -> None:
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "ls_init_value": layer_scale}}
    model = open_clip.CLIP(**config, quick_gelu=quick_gelu).eval()
    clip = CLIP(model, mean=(0, 0, 0), std=(1, 1, 1)).requires_grad_(True)
    images = torch.rand(3, 3, 64, 64)
    assert torch.equal(clip.encode_image(images), model.encode_image(images))
    ids = clip.tokenize(["a cat", "a dog on the roof of a small red house"])
    assert torch.equal(
        ids,
        open_clip.get_tokenizer("ViT-B-32")(["a cat", "a dog on the roof of a small red house"]),
    )
    assert torch.equal(clip.encode_tokens(ids)[0], model.encode_text(ids))


def test_frozen_tower_equals_open_clip_up_to_rounding() -> None:
    model = open_clip.CLIP(**CONFIG).eval()
    clip = CLIP(model, mean=(0, 0, 0), std=(1, 1, 1))
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert (clip.encode_image(images) - model.encode_image(images)).abs().max() < 5e-6


def test_openai_archive_is_read_as_data_and_matches_openai() -> None:
    tensors, about = golden("clip_vit_tiny")
    clip = load_clip(str(archive()))
    assert about["activation"] == "quick_gelu"
    clip.mean.zero_()
    clip.std.fill_(1)
    x = clip.embed(tensors["in.image"])
    assert (x - tensors["vision.embeddings"]).abs().max() < 1e-6
    for i in range(clip.num_layers):
        x = clip.block(i, x)
        assert (x - tensors[f"vision.block{i}"]).abs().max() < 1e-5
    assert (clip.finish(x)[:, 1:] - tensors["vision.dense_projected"]).abs().max() < 1e-5
    assert (clip.encode_image(tensors["in.image"]) - tensors["image_features"]).abs().max() < 1e-5
    pooled, tokens = clip.encode_tokens(tensors["in.tokens"].long())
    assert (tokens - tensors["text.all_tokens"]).abs().max() < 1e-5
    assert (pooled - tensors["text_features"]).abs().max() < 1e-5


def test_other_forms_of_the_same_weights(tmp_path: Path) -> None:
    """A safetensors file, a state dict and one with `module.` prefixes load like the archive."""
    clip = load_clip(str(archive()))
    state = {
        **{f"visual.{name}": tensor for name, tensor in clip.visual.state_dict().items()},
        **clip.text.state_dict(),
    }
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3},
        tmp_path / "c.pt",
    )
    for name in ("a.safetensors", "b.pt", "c.pt"):
        other = load_clip(str(tmp_path / name))
        assert all(
            torch.equal(a, b)
            for a, b in zip(clip.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_tokens() -> None:
    clip = tiny_clip()
    folder = next(f for f in FIXTURES if (f / "clip_tokens.json").exists())
    checked = 0
    for row in json.loads((folder / "clip_tokens.json").read_text())["rows"]:
        if "<|" in row["text"]:
            continue  # OpenAI's tokenizer takes these as control tokens, open_clip's as text
        if row["raises_without_truncate"]:
            with pytest.raises(VocabularyError, match="102 tokens long and CLIP reads at most 77"):
                clip.tokenize([row["text"]])
        else:
            assert clip.tokenize([row["text"]])[0].tolist() == row["tokenize_77_truncate"], row[
                "text"
            ]
        checked += 1
    assert checked == 38


def test_names_are_averaged_over_templates() -> None:
    clip = tiny_clip()
    vectors = []
    for name in ("cat", "tree"):
        prompts = [
            clip.encode_tokens(clip.tokenize([template.format(name)]))[0][0]
            for template in TEMPLATES["multi"]
        ]
        mean = torch.stack([v / v.norm() for v in prompts]).mean(dim=0)
        vectors.append(mean / mean.norm())
    assert torch.allclose(
        clip.encode_names(["cat", "tree"], TEMPLATES["multi"]),
        torch.stack(vectors),
        atol=1e-6,
    )


def test_template_sets() -> None:
    assert [len(TEMPLATES[name]) for name in ("single", "multi", "imagenet")] == [1, 15, 80]
    assert TEMPLATES["single"] == ("a photo of a {}",)
    assert TEMPLATES["imagenet"][0] == "a bad photo of a {}."
    assert all(
        template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates
    )


@pytest.mark.parametrize("size", [(32, 32), (40, 72), (33, 50), (7, 90)])
def test_any_size(size: tuple[int, int]) -> None:
    clip = tiny_clip()
    x = clip.embed(torch.rand(1, 3, *size))
    h, w = clip.grid(torch.rand(1, 3, *size))
    assert (h, w) == (-(-size[0] // 8), -(-size[1] // 8))
    assert x.shape == (1, 1 + h * w, clip.width)


def test_positions() -> None:
    clip = tiny_clip()
    table = clip.visual.positional_embedding
    assert clip.positions((4, 4)) is table
    wide = clip.positions((4, 7), "bilinear")
    assert torch.equal(wide[0], table[0])
    assert clip.positions((4, 7), "bilinear") is wide, "made once"
    patches = table[1:].view(4, 4, -1)
    # Bilinear without aligned corners: output column j reads input column (j + ½)·4/7 - ½.
    for column in range(7):
        at = max(0.0, (column + 0.5) * 4 / 7 - 0.5)
        left, share = int(at), at - int(at)
        expected = (1 - share) * patches[:, left] + share * patches[:, min(left + 1, 3)]
        assert torch.allclose(wide[1:].view(4, 7, -1)[:, column], expected, atol=1e-6)
    assert not torch.allclose(
        clip.positions((6, 6), "bilinear", via=(3, 3)),
        clip.positions((6, 6), "bilinear"),
        atol=1e-4,
    )


def test_changed_weights_make_a_new_table() -> None:
    clip = tiny_clip()
    before = clip.positions((5, 5)).clone()
    with torch.no_grad():
        clip.visual.positional_embedding.mul_(2)
    assert torch.allclose(clip.positions((5, 5)), 2 * before, atol=1e-6)


def test_class_embedding_can_be_added_twice() -> None:
    clip = tiny_clip()
    images = torch.rand(1, 3, 32, 32)
    once, twice = clip.embed(images), clip.embed(images, twice=True)
    assert torch.equal(once[:, 1:], twice[:, 1:])
    expected = clip.visual.ln_pre(
        2 * clip.visual.class_embedding + clip.visual.positional_embedding[0]
    )
    assert torch.allclose(twice[0, 0], expected, atol=1e-6)


def test_the_tower_is_frozen() -> None:
    clip = tiny_clip()
    assert not clip.training
    assert not any(p.requires_grad for p in clip.parameters())


def test_the_shipped_tower_recognises_its_classes() -> None:
    clip = load_clip()
    assert clip.source == "doodles"
    assert clip.config is not None
    assert clip.config["vision_cfg"]["patch_size"] == 8


def test_openai_tags_get_quick_gelu_under_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    requested = {}

    def create(architecture: str, *, pretrained: str, force_quick_gelu: bool) -> open_clip.CLIP:
        requested[f"{architecture}/{pretrained}"] = force_quick_gelu
        model = open_clip.CLIP(**CONFIG, quick_gelu=force_quick_gelu)
        open_clip.factory.set_model_preprocess_cfg(
            model, {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "size": 64}
        )
        return model

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(hub, "cached_file", lambda *_: Path("in the cache"))
    for tag in ("ViT-B-16/openai", "ViT-B-16-quickgelu/openai", "ViT-B-16/laion2b_s34b_b88k"):
        clip = load_clip(tag)
        assert clip.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert requested == {
        "ViT-B-16/openai": True,
        "ViT-B-16-quickgelu/openai": True,
        "ViT-B-16/laion2b_s34b_b88k": False,
    }
    assert "ViT-B-16-quickgelu/openai" in known_sources()


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("harmed", "w"))  # type: ignore[return-value]


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clip = tiny_clip()
    state = {name: tensor.float() for name, tensor in clip.state_to_save().items()}

    def refused(name: str, because: str) -> None:
        with pytest.raises(CheckpointError, match=because) as caught:
            load_clip(name)
        assert name in str(caught.value)

    torch.save({"a": _Harm()}, "pickle.pt")
    refused("pickle.pt", "may run code when loaded")
    Path("legacy.pt").write_bytes(pickle.dumps(_Harm()))
    refused("legacy.pt", "may run code when loaded|not a readable weight file")
    with zipfile.ZipFile("script.pt", "w") as file:
        buffer = io.BytesIO()
        pickle.dump(_Harm(), buffer)
        file.writestr("script/data.pkl", buffer.getvalue())
        file.writestr("script/constants.pkl", b"")
    refused("script.pt", "may run code when loaded")
    assert not Path("harmed").exists()
    save_file(state, "cut.safetensors")
    Path("cut.safetensors").write_bytes(Path("cut.safetensors").read_bytes()[:-100])
    refused("cut.safetensors", "not a complete safetensors file")
    torch.save(
        {name: tensor for name, tensor in state.items() if name != "visual.ln_post.bias"},
        "short.pt",
    )
    refused("short.pt", "visual.ln_post.bias")
    torch.save({"other": torch.zeros(2)}, "other.pt")
    refused("other.pt", "does not hold a ViT CLIP")
    torch.save(
        {
            **state,
            "visual.ln_post.bias": torch.full_like(state["visual.ln_post.bias"], float("nan")),
        },
        "nan.pt",
    )
    refused("nan.pt", "not finite")
    Path("text.pt").write_text("hello")
    refused("text.pt", "not a file of weights|not a readable weight file|may run code")


def test_unknown_sources() -> None:
    with pytest.raises(SettingError, match="'nothing.pt'"):
        load_clip("nothing.pt")
    with pytest.raises(SettingError, match="ViT-B-16/openai"):
        load_clip("ViT-B-16/nosuch")
    with pytest.raises(SettingError, match="not a plain ViT"):
        load_clip("RN50/random")


def test_other_statistics_leave_the_tower_as_it_is() -> None:
    clip, images = tiny_clip(), torch.rand(1, 3, 32, 32)
    before = clip.embed(images)
    other = clip.with_statistics((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert torch.equal(clip.embed(images), before)
    assert torch.allclose(other.normalize(images)[0, 2], (images[0, 2] - 0.3) / 0.5)
    assert other.visual is clip.visual


def test_tables_are_kept_for_the_last_sizes_only() -> None:
    clip = tiny_clip()
    for side in range(1, 3 * CACHE_SIZE):
        clip.positions((side, side))
    assert len(clip._positions._tables) == CACHE_SIZE


def test_a_file_with_the_architecture_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads and activation of files that do not state them."""
    config = {
        **CONFIG,
        "quick_gelu": False,
        "vision_cfg": {**CONFIG["vision_cfg"], "head_width": 8},
    }
    clip = build_clip(config)
    torch.save(clip.state_to_save(), tmp_path / "weights.pt")
    monkeypatch.setattr(
        open_clip, "get_model_config", lambda name: config if name == "Tiny" else None
    )
    images = torch.rand(1, 3, 32, 32)
    for parameter in clip.parameters():
        parameter.data = parameter.half().float()
    expected = clip.embed(images)
    named, plain = (
        load_clip(f"Tiny@{tmp_path / 'weights.pt'}"),
        load_clip(str(tmp_path / "weights.pt")),
    )
    assert torch.equal(named.embed(images), expected)
    assert torch.equal(named.blocks(named.embed(images)), clip.blocks(expected))
    assert not torch.allclose(plain.blocks(plain.embed(images)), clip.blocks(expected), atol=1e-4)
    with pytest.raises(SettingError, match="no architecture called 'Tinny'"):
        load_clip(f"Tinny@{tmp_path / 'weights.pt'}")


def test_the_text_half_alone(tmp_path: Path) -> None:
    """Text features and the weights of the fingerprint are those of the whole CLIP.

    Files with other image towers, and files without any, have a text tower that loads.
    """
    whole, half = load_clip("doodles"), load_text("doodles")
    assert torch.equal(
        half.encode_names(["tree", "key"], TEMPLATES["single"]),
        whole.encode_names(["tree", "key"], TEMPLATES["single"]),
    )
    assert not any(name.startswith("visual") for name in half.state_dict())
    bare = half.encode_names(["tree"], TEMPLATES["name"], unit=False)
    assert torch.allclose(bare, half.encode_tokens(half.tokenize(["tree"]))[0])
    resnet = {
        "visual.layer1.0.conv1.weight": torch.zeros(2, 2, 1, 1),
        **half.state_to_save(lossless=True),
    }
    save_file(resnet, tmp_path / "resnet.safetensors", metadata={"config": json.dumps(half.config)})
    again = load_text(str(tmp_path / "resnet.safetensors"))
    assert torch.equal(
        again.encode_tokens(again.tokenize(["tree"]))[1],
        half.encode_tokens(half.tokenize(["tree"]))[1],
    )
    torch.save(resnet, tmp_path / "resnet.pt")
    assert load_text(str(tmp_path / "resnet.pt")).text_width == half.text_width, (
        "sizes from the shapes, heads of 64 channels"
    )
    with pytest.raises(CheckpointError, match="ViT CLIP"):
        load_clip(str(tmp_path / "resnet.pt"))


def test_no_text_tower() -> None:
    """Without a text tower the text features come from a file, and there are no others."""
    with pytest.raises(SettingError, match="--text-embeddings"):
        load_text("none")
    stored = StoredText(["car"], np.ones((1, 8), dtype=np.float32), Path("text.npy"))
    with pytest.raises(VocabularyError, match=r"text\.npy, which has none for 'tree'"):
        stored.encode_names(["tree"], ["{}"])


def test_a_text_tower_with_random_weights() -> None:
    """Of an architecture whose image tower is no ViT."""
    text = load_text("RN50/random")
    assert (text.embed_dim, text.text_width, text.context_length) == (1024, 512, 77)
    assert torch.isfinite(text.encode_names(["tree"], ["{}"])).all()


# ------------------------------------------------------------- image towers alone


@pytest.fixture
def image_tower(tmp_path: Path) -> Path:
    """A file of an image tower, with its configuration and without text."""
    config = {
        name: value for name, value in (tiny_clip().config or {}).items() if name != "text_cfg"
    }
    clip = build_clip(config)
    path = tmp_path / "tower.safetensors"
    save_file(clip.state_to_save(), path, {"config": json.dumps(config)})
    return path


def test_an_image_tower_alone(image_tower: Path, tmp_path: Path) -> None:
    clip = load_clip(str(image_tower))
    assert clip.text is None
    assert (clip.text_width, clip.context_length) == (clip.embed_dim, 0)
    assert not [name for name in clip.state_dict() if name.startswith("text")]
    for call in (
        lambda: clip.encode_names(["cat"], ["a {}"]),
        lambda: clip.encode_tokens(torch.zeros(1, 3, dtype=torch.int64)),
    ):
        with pytest.raises(SettingError, match="image tower alone, .* --text-embeddings"):
            call()
    with pytest.raises(CheckpointError, match="image tower alone and no text tower"):
        load_text(str(image_tower))
    names, rows = ("cat", "dog"), np.random.default_rng(0).normal(size=(2, clip.embed_dim))
    np.save(tmp_path / "rows.npy", rows)
    for method in ("naclip", "zegclip", "esda"):
        options = {"decoder_heads": 2} if method != "naclip" else {}
        if method == "esda":
            options["text_blocks"] = (1,)
        segmenter = create(method, load_clip(str(image_tower)), **options).eval()
        segmenter.use_stored_text(StoredText.read(tmp_path / "rows.npy", names))
        text = encode(segmenter, names)
        assert segmenter(torch.rand(1, 3, 32, 32), text).logits.shape == (1, 2, 4, 4)
    assert text.tokens is not None
    assert text.tokens.shape == (2, 1, clip.embed_dim), "each vector is the only token of its class"


def test_plain_bicubic_positions() -> None:
    clip = tiny_clip()
    side = clip.visual.grid_size[0]
    table = clip.visual.positional_embedding[1:].T.reshape(1, -1, side, side)
    expected = torch.nn.functional.interpolate(
        table, scale_factor=(7.1 / side, 5.1 / side), mode="bicubic"
    )
    got = clip.positions((7, 5), "bicubic_plain")
    assert torch.allclose(got[1:], expected.flatten(2)[0].T)
    assert torch.equal(got[0], clip.visual.positional_embedding[0])
    assert torch.equal(
        clip.positions((side, side), "bicubic_plain"), clip.visual.positional_embedding
    )


def test_a_file_that_does_not_tell_its_activation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LAION's towers were trained with GELU, which no shape shows."""
    path = tmp_path / "weights.safetensors"
    save_file(tiny_clip(patch_size=16, width=64).state_to_save(), path)
    load_clip(str(path))
    assert "QuickGELU is assumed" in caplog.text
    assert f"ViT-B-16@{path}" in caplog.text
    caplog.clear()
    save_file(tiny_clip().state_to_save(), path, {"config": json.dumps(tiny_clip().config)})
    load_clip(str(path))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "not enough memory"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files"),
    ],
)
def test_weights_that_the_machine_cannot_read(
    error: Exception, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is not blamed."""

    def fail(*_: object, **__: object) -> None:
        raise error

    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(
        CheckpointError, match=f"a.pt cannot be read .{cause}.; close other programs"
    ):
        read_state_dict(tmp_path / "a.pt")


# ------------------------------------------------------------ text features on disk


def test_many_prompts_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("unseen.backbones.clip.kept.FEWEST", 4)
    clip, encoded = tiny_clip(), []
    forward = CLIP.encode_tokens

    def counted(self: CLIP, ids: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(ids))
        return forward(self, ids, *rest)

    monkeypatch.setattr(CLIP, "encode_tokens", counted)
    templates = ("a {}", "the {}")
    first = clip.encode_names(["cat", "dog"], templates)
    assert torch.equal(clip.encode_names(["cat", "dog"], templates), first)
    assert encoded == [4]
    # Other names, their order, templates, means or weights are other vectors.
    clip.encode_names(["dog", "cat"], templates)
    clip.encode_names(["cat", "dog"], templates[::-1])
    clip.encode_names(["cat", "dog"], templates, unit=False)
    with torch.no_grad():
        clip.text_tower.ln_final.bias += 1
    assert not torch.equal(clip.encode_names(["cat", "dog"], templates), first)
    assert encoded == [4] * 5
    assert not any("cat" in str(path) for path in tmp_path.rglob("*"))
    # A tower that is trained gives vectors with gradients, which are not kept.
    clip.text_tower.ln_final.bias.requires_grad_(True)
    assert clip.encode_names(["cat", "dog"], templates).requires_grad
    clip.text_tower.ln_final.bias.requires_grad_(False)
    # Few prompts are not kept.
    clip.encode_names(["cat"], templates)
    assert len(list((tmp_path / "unseen" / "text").iterdir())) == 5


@pytest.mark.parametrize("damage", ["cut", "text", "pickled", "other", "infinite", "folder"])
def test_damaged_vectors_are_encoded_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("unseen.backbones.clip.kept.FEWEST", 4)
    clip, names = tiny_clip(), ["cat", "dog", "boat", "key"]
    right = clip.encode_names(names, ["{}"])
    (path,) = (tmp_path / "unseen" / "text").iterdir()
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-7])
    elif damage == "text":
        path.write_text("no vectors")
    elif damage == "pickled":
        np.save(path, np.array([_Harm()], dtype=object), allow_pickle=True)
    elif damage == "other":
        np.save(path, right.numpy()[:2])
    elif damage == "infinite":
        np.save(path, np.full_like(right.numpy(), np.inf))
    else:
        path.unlink()
        path.mkdir()
    assert torch.equal(clip.encode_names(names, ["{}"]), right)
    if damage != "folder":
        assert path.read_bytes() == whole
