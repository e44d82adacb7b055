"""Sources of eigen-segments: keys of networks, folders, and the verb that writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny import tiny_clip
from tiny.commands import run_command
from unseen import api
from unseen.backbones.vit import clip_keys, load_keys, timm_tokens
from unseen.data.benchmarks import get_benchmark
from unseen.errors import CheckpointError, DataError, SettingError
from unseen.methods import create
from unseen.modules.attention import split_heads
from unseen.segments.source import (
    SegmentSource,
    extract,
    load_spectrum,
    segment_source,
    stored_segments,
    write_masks,
)
from unseen.segments.spectral import (
    SpectralSettings,
    Spectrum,
)
from unseen.settings import InferenceSettings

DOODLES_FINGERPRINT_0_1 = "9548b71f53e356da"
"""What version 0.1 stored as the fingerprint of the doodle tower's keys."""
REFINE = "--inference.refinement segment_iou"


# ------------------------------------------------------------------------- keys


def test_keys_of_a_clip_are_those_of_its_last_block() -> None:
    clip = tiny_clip()
    keys, images = clip_keys(clip), torch.rand(2, 3, 37, 45)
    features = keys(images)
    assert features.shape == (2, 4 * 5, clip.width)
    x = clip.blocks(clip.embed(images[..., :32, :40]), stop=-1)
    block = clip.visual.transformer.resblocks[-1]
    _, k, _ = split_heads(block.attn, block.ln_1(x))
    assert torch.allclose(features, k[:, :, 1:].transpose(1, 2).flatten(2), atol=1e-5)
    assert torch.allclose(
        keys((images * 255).round().to(torch.uint8)), keys((images * 255).round() / 255), atol=1e-5
    )
    assert not keys.train().training
    with pytest.raises(DataError, match="7x40 pixels, smaller than one patch of 8"):
        keys(torch.rand(1, 3, 40, 7))


def test_keys_of_timm_are_those_of_its_last_block(tmp_path: Path) -> None:
    keys = load_keys("timm:vit_tiny_patch16_224@random")
    # A grid as large as the position table's: no resizing, which timm does otherwise.
    images, got = torch.rand(1, 3, 230, 235), list[Tensor]()
    features = keys(images)
    hook = keys.network.blocks[-1].attn.qkv.register_forward_hook(
        lambda module, inputs, output: got.append(output)
    )
    keys.network.forward_features((images[..., :224, :224] - keys.mean) / keys.std)
    hook.remove()
    assert torch.allclose(features, got[0].view(1, 197, 3, 192)[:, 1:, 1], atol=1e-5)
    state = {**keys.network.state_dict(), "head.weight": torch.zeros(5, 192)}
    save_file(state, tmp_path / "vit.safetensors")
    again = load_keys(f"timm:vit_tiny_patch16_224@{tmp_path / 'vit.safetensors'}")
    assert torch.equal(again(images), features)
    assert again.fingerprint == keys.fingerprint
    assert load_keys("timm:vit_tiny_patch16_224@random").fingerprint != keys.fingerprint
    save_file({**state, "pos_embed": torch.zeros(1, 3, 192)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match="does not hold the weights of vit_tiny_patch16_224 .*pos_embed"
    ):
        load_keys(f"timm:vit_tiny_patch16_224@{tmp_path / 'other.safetensors'}")
    save_file(
        {**state, "cls_token": torch.full((1, 1, 192), torch.nan)}, tmp_path / "nan.safetensors"
    )
    with pytest.raises(CheckpointError, match="not finite"):
        load_keys(f"timm:vit_tiny_patch16_224@{tmp_path / 'nan.safetensors'}")


def test_positions_are_resized_as_dino_does() -> None:
    """Bicubic, without anti-aliasing, by (n + 0.1) / 14; register tokens have no place in it."""
    for name in ("vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"):
        network = load_keys(f"timm:{name}@random").network
        torch.nn.init.normal_(network.pos_embed)
        side = network.patch_embed.grid_size[0]
        patch = network.patch_embed.patch_size[0]
        images = torch.rand(1, 3, 9 * patch, 20 * patch)
        got = timm_tokens(network, images)
        ahead = network.pos_embed.shape[1] - side**2
        table = network.pos_embed[:, ahead:].transpose(1, 2).reshape(1, -1, side, side)
        table = torch.nn.functional.interpolate(
            table, scale_factor=(9.1 / side, 20.1 / side), mode="bicubic"
        )
        patches = network.patch_embed(images).flatten(1, 2) + table.flatten(2).transpose(1, 2)
        assert torch.allclose(got[:, network.num_prefix_tokens :], patches, atol=1e-6)
        assert got.shape[1] == network.num_prefix_tokens + 180


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:resnet18@random", "not a plain ViT"),
        ("timm:vit_smal", "no network called"),
        ("timm:vit_tiny_patch16_224.unknown", "no weights called"),
        ("timm:swin_tiny_patch4_window7_224@random", "not a plain ViT"),
        ("nowhere", "no file and no open_clip tag"),
    ],
)
def test_networks_without_keys(source: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_keys(source)


# ------------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def image() -> Tensor:
    return get_benchmark("doodles").data("val", None)[0].image


@pytest.fixture
def made(image: Tensor, tmp_path: Path) -> tuple[Path, Spectrum]:
    """A folder with the spectrum and the masks of an image "one" of 96 by 96 pixels."""
    extracted = list(
        extract(
            [("one", image)],
            clip_keys(tiny_clip()),
            SpectralSettings(4),
            tmp_path / "eig",
            png=True,
        )
    )
    return tmp_path / "eig", extracted[0].spectrum


def test_spectra_come_back(made: tuple[Path, Spectrum]) -> None:
    folder, spectrum = made
    back, about = load_spectrum(folder / "one.safetensors")
    assert np.array_equal(back.eigenvalues, spectrum.eigenvalues)
    assert np.array_equal(back.eigenvectors, spectrum.eigenvectors)
    assert (back.grid, back.covers, back.size) == ((12, 12), (96, 96), (96, 96))
    assert (about["count"], about["colour"], about["features"]) == (4, 0.0, "tiny")
    assert len(about["fingerprint"]) == 16
    assert torch.equal(stored_segments(folder, "one", (96, 96), 3), spectrum.segments[:3])


def test_eigenvectors_of_another_network_are_refused(image: Tensor, tmp_path: Path) -> None:
    """Also of a network that differs in one bias, or in its statistics, alone."""
    keys, settings = clip_keys(tiny_clip()), SpectralSettings(4)
    list(extract([("one", image)], keys, settings, tmp_path))
    keys.network.visual.ln_pre.bias[0] += 1
    with pytest.raises(SettingError, match=r"one\.safetensors was made with fingerprint "):
        list(extract([("one", image)], keys, settings, tmp_path))
    fingerprint = keys.fingerprint
    keys.mean += 0.5
    assert keys.fingerprint != fingerprint


def test_eigenvectors_of_version_0_1_are_read(image: Tensor, tmp_path: Path) -> None:
    """Their fingerprint is a hash of three matrices."""
    keys, settings = load_keys("doodles"), SpectralSettings(4)
    (computed,) = extract([("one", image)], keys, settings, tmp_path)
    path = tmp_path / "one.safetensors"
    about = {**load_spectrum(path)[1], "fingerprint": DOODLES_FINGERPRINT_0_1}
    save_file(load_file(path), path, metadata={"unseen": json.dumps(about)})
    (kept,) = extract([("one", image)], keys, settings, tmp_path)
    assert not kept.fresh
    assert np.array_equal(kept.spectrum.eigenvectors, computed.spectrum.eigenvectors)
    about["fingerprint"] = "0" * 16
    save_file(load_file(path), path, metadata={"unseen": json.dumps(about)})
    with pytest.raises(SettingError, match="was made with fingerprint '0000000000000000'"):
        list(extract([("one", image)], keys, settings, tmp_path))


def test_masks_are_written_as_sazs_reads_them(made: tuple[Path, Spectrum]) -> None:
    folder, spectrum = made
    with Image.open(folder / "one_k2.png") as mask:
        assert (mask.mode, mask.size) == ("L", (96, 96))
        assert np.array_equal(np.array(mask), spectrum.segments[2].numpy() * np.uint8(255))
    (folder / "one.safetensors").unlink()
    assert torch.equal(stored_segments(folder, "one", (96, 96), 4), spectrum.segments)


def test_stored_segments_that_do_not_fit(made: tuple[Path, Spectrum]) -> None:
    folder, spectrum = made
    with pytest.raises(
        DataError,
        match=r"one.safetensors was made for an image of 96x96 pixels, and this one has 90x96",
    ):
        stored_segments(folder, "one", (96, 90), 4)
    with pytest.raises(
        DataError, match="holds 4 of 5 eigenvectors; .*--count 5, .*segments_count 4"
    ):
        stored_segments(folder, "one", (96, 96), 5)
    with pytest.raises(DataError, match="holds no segments of two .*unseen eigenvectors"):
        stored_segments(folder, "two", (96, 96), 4)
    (folder / "one.safetensors").unlink()
    with pytest.raises(
        DataError,
        match=r"one_k0.png was made for an image of 96x96 pixels, and this one has 96x80",
    ):
        stored_segments(folder, "one", (80, 96), 4)
    with pytest.raises(DataError, match=r"one_k\*.png holds 4 of 5 eigenvectors"):
        stored_segments(folder, "one", (96, 96), 5)
    Image.fromarray(spectrum.segments[1].numpy().astype(np.uint8) * 254).save(folder / "one_k1.png")
    with pytest.raises(
        DataError, match=r"one_k1.png holds the value 254; a segment is 0 outside and 255 inside"
    ):
        stored_segments(folder, "one", (96, 96), 4)
    Image.new("RGB", (96, 96)).save(folder / "one_k1.png")
    with pytest.raises(DataError, match="stored as RGB colours"):
        stored_segments(folder, "one", (96, 96), 4)


def test_damaged_spectra(made: tuple[Path, Spectrum]) -> None:
    folder, _ = made
    path = folder / "one.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="does not hold the eigenvectors of an image"):
        load_spectrum(path)
    about = {"grid": [12, 12], "covers": [96, 96], "size": [96, 96]}
    save_file(
        {"eigenvalues": torch.zeros(2), "eigenvectors": torch.zeros(2, 9)},
        path,
        metadata={"unseen": json.dumps(about)},
    )
    with pytest.raises(DataError, match="do not fit its grid"):
        load_spectrum(path)
    save_file({"eigenvalues": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="does not hold"):
        load_spectrum(path)


def test_what_is_there_is_kept(made: tuple[Path, Spectrum], image: Tensor) -> None:
    folder, spectrum = made
    keys, settings = clip_keys(tiny_clip()), SpectralSettings(4)
    before = (folder / "one.safetensors").stat().st_mtime_ns
    (folder / "one_k3.png").unlink()
    again = list(extract([("one", image), ("two", image)], keys, settings, folder, png=True))
    assert [one.fresh for one in again] == [False, True]
    assert np.array_equal(again[0].spectrum.eigenvectors, spectrum.eigenvectors)
    assert (folder / "one.safetensors").stat().st_mtime_ns == before
    assert (folder / "one_k3.png").exists()
    with pytest.raises(SettingError, match="made with colour 0.0, not 3.0; choose another --out"):
        list(extract([("one", image)], keys, replace(settings, colour=3.0), folder))
    with pytest.raises(SettingError, match=r"made with size \(96, 96\), not \(96, 80\)"):
        list(extract([("one", image[:, :, :80])], keys, settings, folder))
    with pytest.raises(DataError, match="small: the image is 5x96 pixels"):
        list(extract([("small", image[:, :, :5])], keys, settings, folder))


def test_a_stopped_run_leaves_nothing_half_written(
    image: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unseen.backbones.archives.save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(extract([("one", image)], clip_keys(tiny_clip()), SpectralSettings(4), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_masks_of_a_whole_image_round_trip(tmp_path: Path) -> None:
    segments = torch.rand(2, 5, 7) > 0.5
    write_masks(tmp_path, "x", segments)
    assert torch.equal(stored_segments(tmp_path, "x", (5, 7), 2), segments)


def test_sources_of_segments(made: tuple[Path, Spectrum], image: Tensor) -> None:
    folder, _ = made
    segmenter = create("naclip", tiny_clip()).eval()
    stored = segment_source(
        segmenter, InferenceSettings(segments_dir=str(folder), segments_count=4)
    )
    computed = segment_source(segmenter, InferenceSettings(segments_count=4))
    assert torch.equal(stored(image[None], ["one"]), computed(image[None], ["one"]))
    assert isinstance(
        segment_source(segmenter, InferenceSettings(segments_features="doodles")), SegmentSource
    )
    with pytest.raises(DataError, match="folder of segments nowhere does not exist"):
        segment_source(segmenter, InferenceSettings(segments_dir="nowhere"))
    with pytest.raises(SettingError, match="no CLIP tower to take keys from"):
        segment_source(torch.nn.Linear(1, 1), InferenceSettings())  # type: ignore[arg-type]


# ------------------------------------------------------------------------ verbs


def test_the_verb_and_what_reads_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eig"
    run_command(f"eigenvectors doodles --out {out} --limit 4 --png")
    assert "the eigenvectors of 4 images  ->" in capsys.readouterr().out
    names = [f"scene-3-{i}" for i in range(4)]
    assert {p.name for p in out.iterdir()} == {"sheet.png"} | {
        f"{n}.safetensors" for n in names
    } | {f"{n}_k{k}.png" for n in names for k in range(5)}
    assert Image.open(out / "sheet.png").width > 1000
    run_command(f"eigenvectors doodles --out {out} --limit 5 --png")
    assert "of 1 images, 4 were there" in capsys.readouterr().out
    reports = []
    for folder in ("", f"--inference.segments_dir {out}"):
        run_command(
            f"evaluate naclip --limit 4 --out {tmp_path / 'r'}",
            REFINE,
            "--inference.refinement_threshold 0.3",
            folder,
        )
        reports.append(json.loads((tmp_path / "r" / "report.json").read_text()))
    assert reports[0]["confusion"] == reports[1]["confusion"]
    assert reports[1]["protocol"]["segments"] == {"folder": str(out)}
    with pytest.raises(SystemExit):
        run_command(
            f"evaluate naclip --limit 6 --out {tmp_path / 'r'}",
            REFINE,
            f"--inference.segments_dir {out}",
        )
    assert "holds no segments of scene-3-5" in capsys.readouterr().err


def test_the_verb_on_a_folder_and_segment(
    tmp_path: Path, image: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(image.permute(1, 2, 0).numpy()[:70]).save(folder / "a.png")
    out = tmp_path / "eig"
    run_command(f"eigenvectors {folder} --out {out} --count 3 --colour 1 --cell 4")
    assert load_spectrum(out / "a.safetensors")[0].grid == (16, 24)
    choices = (
        f"{REFINE} --inference.segments_dir {out} --inference.segments_count 3"
        " --inference.refinement_threshold 0.1"
    )
    for i, more in enumerate(("", choices)):
        run_command(
            f"segment {folder / 'a.png'} --classes 'tree, house, car' --out {tmp_path / f's{i}'}",
            more,
        )
    plain, agreed = (np.array(Image.open(tmp_path / f"s{i}" / "a.png")) for i in range(2))
    assert plain.shape == agreed.shape == (70, 96)
    assert (plain != agreed).any()
    loaded = api.load(
        "naclip",
        inference={"refinement": "segment_iou", "segments_dir": str(out), "segments_count": 3},
    )
    with pytest.raises(SettingError, match="by the image's file name; give a path"):
        loaded.segment(image.permute(1, 2, 0).numpy(), ["tree"])
    for arguments, message in (
        ([str(folder), "--out", str(folder)], "among the images"),
        ([str(folder), "--limit", "0"], "at least 1"),
        (["none"], "no benchmark called"),
        ([str(folder), "--out", str(out), "--count", "4"], "made with count 3, not 4"),
        (["doodles", "--features", "timm:resnet18@random"], "not a plain ViT"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run_command("eigenvectors", *arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SettingError, match="--split is 'test'; choose one of 'train', 'val'"):
        api.eigenvectors(
            "doodles",
            out,
            extraction=api.ExtractionSettings(split="test"),  # type: ignore[arg-type]
        )
