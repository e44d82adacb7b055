"""Published checkpoints: files in mmcv's format become runs that predict as the released code."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import unseen
from conftest import close, converted, golden
from tiny import whole_scores
from tiny.commands import error_of, run_command
from unseen.backbones.clip.loading import build_clip
from unseen.checkpoints import load_run
from unseen.conversion import translate
from unseen.errors import CheckpointError
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings


def checkpoint(name: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """A checkpoint as mmcv stores it, the fixture's description, and flags.

    The flags give what shapes do not determine.
    """
    tensors, about = golden(name)
    prefix = "param." if name.startswith("esda") else "sd."
    state = OrderedDict(
        (key.removeprefix(prefix), value)
        for key, value in tensors.items()
        if key.startswith(prefix)
    )
    whole = {
        "meta": {
            "epoch": 1,
            "iter": 20000,
            "mmcv_version": "1.3.14",
            "CLASSES": ("a", "b"),
            "PALETTE": [[0, 0, 0]],
        },
        "state_dict": state,
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    config = about.get("config", about)
    heads = [
        str(config.get("vit_heads", config.get("heads"))),
        str(config["text"]["heads"] if "text" in config else config.get("theads", 2)),
    ]
    flags = [
        "--vision_heads",
        heads[0],
        "--text_heads",
        heads[1],
        "--options.decoder_heads",
        str(config.get("dec_heads", config.get("heads"))),
    ]
    if name.startswith("esda"):
        flags += ["--options.text_blocks", str(config["replace_indices"]).replace(" ", "")]
    return whole, about, flags


@pytest.mark.parametrize("method", ["zegclip", "clip_rc", "otseg", "cascade_clip"])
def test_a_checkpoint_becomes_a_run(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{method.removesuffix('_clip')}_a"
    whole, about, flags = checkpoint(name)
    if method == "otseg":  # it has one head
        flags = flags[:-2]
    torch.save(whole, tmp_path / "iter_20000.pth")
    run_command(
        f"convert {method} {tmp_path / 'iter_20000.pth'} --out {tmp_path / 'run'}",
        "--benchmark voc",
        *flags,
    )
    out = capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["published"] is True
    assert config["model"]["clip"] == "clip.safetensors"
    assert config["model"]["options"]["num_prompts"] == about["config"]["num_tokens"]
    assert len(config["seen"]) == 15
    assert config["train"] == {"regime": "inductive", "converted_from": "iter_20000.pth"}
    dead = sum(1 for key in whole["state_dict"] if "self_attn" in key or "norm1" in key)
    assert f"loaded: {len(whole['state_dict'])}" not in out
    assert dead <= int(out.split("dead: ")[1].split("\n")[0])
    assert "missing: 0" in out
    config = about["config"]
    assert (
        f"heads, which shapes do not tell: text {config.get('text', {}).get('heads', 2)}, image"
        f" {config['vit_heads']}" in out
    )
    segmenter, run = load_run(tmp_path / "run")
    size: dict[str, Any] = {"short_side": 512, "window": 512, "stride": 426}
    if method == "otseg":  # its plans look at all that is computed together
        size["window_batch"] = 1
    assert run.inference == InferenceSettings(**size, antialias=False, precision="32-true")
    segmenter.clip.mean.zero_()
    segmenter.clip.std.fill_(1)
    tensors, _ = golden(name)
    vectors = tensors["in.text_embedding"].float()
    text = TextFeatures(tuple("abcdefg"), vectors)
    if vectors.ndim == 3:  # several prompts a class
        text = TextFeatures(tuple("abcdefg"), vectors.mean(dim=1), per_template=vectors)
    scores = whole_scores(
        segmenter, tensors["in.image"], text, InferenceSettings(), about["config"]["base_class"]
    )
    close(scores, tensors["out.head_eval"], 1e-5)


@pytest.mark.parametrize("name", ["zegclip_a", "clip_rc_a"])
def test_shallow_prompts_bring_a_norm_that_is_never_applied(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _, flags = checkpoint(name)
    del whole["state_dict"]["backbone.deep_prompt_embeddings"]
    assert "backbone.prompt_norm.weight" in whole["state_dict"]
    torch.save(whole, tmp_path / "a.pth")
    out = tmp_path / "run"
    run_command(f"convert {name[:-2]} {tmp_path / 'a.pth'} --out {out} --benchmark voc", *flags)
    shown = capsys.readouterr().out
    assert "unknown: 0" in shown
    segmenter, run = load_run(out)
    assert run.model.options["prompt_depth"] == 1
    assert isinstance(segmenter.prompt_norm, torch.nn.Identity)


def test_an_esda_checkpoint_becomes_a_run(tmp_path: Path) -> None:
    whole, about, flags = checkpoint("esda_a")
    wrapped = {
        "epoch": 3,
        "state_dict": {f"module.{name}": tensor for name, tensor in whole["state_dict"].items()},
        "optimizer": whole["optimizer"],
    }
    torch.save(wrapped, tmp_path / "best.pth")
    run_command(
        f"convert esda {tmp_path / 'best.pth'} --out {tmp_path / 'run'}",
        "--benchmark pascal-5i/2",
        *flags,
    )
    segmenter, run = load_run(tmp_path / "run")
    assert (run.benchmark, len(run.seen)) == ("pascal-5i/2", 15)
    tensors, _ = golden("esda_a")
    segmenter.clip.mean.zero_()
    segmenter.clip.std.fill_(1)
    text = TextFeatures(("a", "b"), *segmenter.clip.encode_tokens(tensors["in.tokens"].long()))
    close(
        segmenter.forward_query(tensors["in.image"], text).resized(tuple(about["img"])),
        tensors["eval.logits"],
        5e-5,
    )


def test_settings_come_from_the_recipe(tmp_path: Path) -> None:
    whole, _, flags = checkpoint("clip_rc_a")
    torch.save(whole, tmp_path / "a.pth")
    for regime, seen, weight in (("inductive", 15, 2.0), ("supervised", 20, 0.0)):
        run_command(
            f"convert clip_rc {tmp_path / 'a.pth'} --out {tmp_path / regime} --benchmark voc",
            f"--regime {regime}",
            *flags,
        )
        config = yaml.safe_load((tmp_path / regime / "config.yaml").read_text())
        assert len(config["seen"]) == seen
        assert config["model"]["options"]["recovery_weight"] == weight
    model = unseen.load(str(tmp_path / "supervised"))
    assert model.segmenter.recovery is None


def test_what_follows_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published test where there is one; elsewhere float32, and a sentence."""
    whole, _, flags = checkpoint("zegclip_a")
    torch.save(whole, tmp_path / "a.pth")
    for benchmark, published in (("voc", True), ("context", False)):
        out = tmp_path / benchmark
        run_command(
            f"convert zegclip {tmp_path / 'a.pth'} --out {out} --benchmark {benchmark}", *flags
        )
        told = capsys.readouterr()
        flag = " --published" if published else ""
        assert f"next: unseen evaluate {out}{flag} --root DATA" in told.out
        assert ("zegclip was not published on context" in told.err) is not published
        assert load_run(out)[1].inference.precision == "32-true"


def test_bad_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, _, flags = checkpoint("zegclip_a")
    state, out = whole["state_dict"], ["--out", str(tmp_path / "run"), "--benchmark", "voc"]
    path = tmp_path / "a.pth"

    def message(changed: dict[str, Any], method: str = "zegclip", more: list[str] = flags) -> str:
        torch.save({"state_dict": changed}, path)
        return error_of(capsys, f"convert {method} {path}", *out, *more)

    assert "looks like one of zegclip" in message(state, "clip_rc")
    _, report = translate("zegclip", state, vision_heads=4, text_heads=2, decoder_heads=4)
    assert "checkpoints of otseg look the same: is it not theirs?" in report.lines()
    assert "cannot be converted; choose one of zegclip, clip_rc, otseg" in message(state, "naclip")
    assert "is of none of the methods" in message({"weight": torch.zeros(3)})
    name = "backbone.transformer.resblocks.1.attn.in_proj_weight"
    assert f"{name} ([5, 5] instead of [192, 64]) is of another shape" in message(
        {**state, name: torch.zeros(5, 5)}
    )
    assert f"{name} is not finite" in message(
        {**state, name: torch.full_like(state[name], float("nan"))}
    )
    assert "clip.visual.transformer.resblocks.1.attn.in_proj_weight is missing" in message(
        {key: value for key, value in state.items() if key != name}
    )
    assert "decode_head.extra is unknown" in message({**state, "decode_head.extra": torch.zeros(2)})
    assert "may be a part of one" in message(
        {key: value for key, value in state.items() if "prompt_embeddings" not in key}
    )
    assert "does not hold CLIP's text tower" in message(
        {key: value for key, value in state.items() if not key.startswith("text_encoder.")}
    )
    assert "has no option 'promts'" in message(state, more=[*flags, "--options.promts", "3"])
    torch.save({"state_dict": state, "hook": Path("x")}, path)
    assert "may run code" in error_of(capsys, f"convert zegclip {path}", *out)
    path.write_bytes(path.read_bytes()[:5000])
    assert "not a readable weight file" in error_of(capsys, f"convert zegclip {path}", *out)
    assert "does not exist" in error_of(capsys, f"convert zegclip {tmp_path / 'no.pth'}", *out)
    assert "--benchmark is missing" in error_of(
        capsys, f"convert zegclip {path} --out {tmp_path / 'run'}"
    )
    torch.save(checkpoint("esda_a")[0], path)
    assert "was trained on folds" in error_of(
        capsys, f"convert esda {path}", *out, *checkpoint("esda_a")[2]
    )
    for heads in ("5", "999", "-1", "0"):
        assert f"vision_heads is {heads}" in message(state, more=["--vision_heads", heads])
    assert "lattice is 4; give a list of 2" in message(
        checkpoint("clip_rc_a")[0]["state_dict"], "clip_rc", ["--options.lattice", "4"]
    )
    torch.save({1: torch.zeros(2)}, path)
    assert "holds no tensors" in error_of(capsys, f"convert zegclip {path}", *out)
    assert list(tmp_path.iterdir()) == [path]


def test_a_stripped_recovery_decoder_is_not_missed(tmp_path: Path) -> None:
    whole, _, flags = checkpoint("clip_rc_a")
    torch.save(
        {name: tensor for name, tensor in whole["state_dict"].items() if "recovery" not in name},
        tmp_path / "a.pth",
    )
    run_command(
        f"convert clip_rc {tmp_path / 'a.pth'} --out {tmp_path / 'run'} --benchmark voc", *flags
    )
    assert load_run(tmp_path / "run")[0].recovery is None


def test_a_folder_with_anything_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _, flags = checkpoint("zegclip_a")
    torch.save(whole, tmp_path / "a.pth")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("dear")
    common = " ".join([f"convert zegclip {tmp_path / 'a.pth'} --benchmark voc", *flags, "--out"])
    assert "photos exists and is not empty" in error_of(capsys, common, str(photos))
    assert (photos / "cat.jpg").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    run_command(common, str(tmp_path / "empty"))
    assert (tmp_path / "empty" / "weights.safetensors").exists()


def test_a_full_disk_leaves_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    whole, _, flags = checkpoint("clip_rc_a")
    torch.save(whole, tmp_path / "a.pth")

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("unseen.backbones.archives.save_file", full)
    assert "No space left" in error_of(
        capsys,
        f"convert clip_rc {tmp_path / 'a.pth'} --out {tmp_path / 'run'} --benchmark voc",
        *flags,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_conversion_from_python() -> None:
    state = checkpoint("zegclip_a")[0]["state_dict"]
    segmenter = converted("zegclip", state, vision_heads=4, text_heads=2, decoder_heads=4)
    assert not segmenter.training
    with pytest.raises(CheckpointError, match="x is unknown"):
        converted(
            "zegclip", {**state, "x": torch.zeros(1)}, vision_heads=4, text_heads=2, decoder_heads=4
        )


def test_a_tower_survives_its_file(tmp_path: Path) -> None:
    """Values that half precision cannot hold are kept whole."""
    from unseen.backbones.clip.loading import load_clip
    from unseen.checkpoints import save_tower
    from unseen.runs import TOWER
    from unseen.segmenter import Tower

    config = json.loads('{"embed_dim": 16, "quick_gelu": true}')
    config["vision_cfg"] = {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "layers": 2,
        "head_width": 16,
    }
    config["text_cfg"] = {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    }
    clip = build_clip(config)
    clip.visual.conv1.weight.data = clip.visual.conv1.weight.half().float()
    save_tower(tmp_path, clip)
    again = load_clip(str(tmp_path / TOWER))
    assert Tower(again, "").fingerprint == Tower(clip, "").fingerprint
    assert all(
        torch.equal(a, b) for a, b in zip(clip.parameters(), again.parameters(), strict=True)
    )
