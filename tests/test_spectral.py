"""Spectral segments: the released eigenvectors and oracle (fixtures sazs_eig, sazs_infer_*), files,
degenerate images, and how masks use them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from conftest import golden
from tiny import tiny_clip
from unseen import api
from unseen.__main__ import main
from unseen.backbones.clip import split_heads
from unseen.backbones.vit import clip_keys, load_keys
from unseen.data.benchmarks import get_benchmark
from unseen.errors import CheckpointError, DataError, SettingError
from unseen.evaluation import (
    choose_threshold,
    evaluate,
    evaluate_episodes,
    oracle_choice,
    oracle_claims,
)
from unseen.inference import Claim, agreement, label_maps, segments_of, settled, settled_mask
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.metrics import EpisodeCounts, episode_counts
from unseen.segments import spectral
from unseen.segments.source import (
    SegmentSource,
    extract,
    load_spectrum,
    stored_segments,
    write_masks,
)
from unseen.segments.spectral import (
    SpectralSettings,
    Spectrum,
    affinity,
    batched_eigenpairs,
    colour_affinity,
    eigenpairs,
    rows_of,
    shrunk,
    signed,
    spectra,
)
from unseen.settings import InferenceChanges, InferenceSettings

TOLERANCE = 1e-5  # suggested with the fixtures, up to sign
AGREE = ("--inference.refinement", "segment_iou")
VARIANTS = {
    "default": SpectralSettings(),
    "nolapnorm": SpectralSettings(lapnorm=False),
    "color_knn": SpectralSettings(colour=10),
    "up8": SpectralSettings(cell=8),
}


def smooth(h: int, w: int, channels: int = 64, seed: int = 0) -> Tensor:
    """Unit rows (h·w, channels) of a smooth field with noise: few clear segments."""
    generator = torch.Generator().manual_seed(seed)
    field = (
        F.interpolate(torch.randn(1, channels, 4, 4, generator=generator), (h, w), mode="bicubic")[
            0
        ]
        .flatten(1)
        .T
    )
    return rows_of(field + 0.05 * torch.randn(h * w, channels, generator=generator))


def spectrum(
    features: Tensor, image: Tensor, patch_size: int, settings: SpectralSettings
) -> Spectrum:
    return spectra(features[None], image[None], patch_size, settings)[0]


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two vectors, up to sign."""
    return float(min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()))


# ----------------------------------------------------------------------- parity


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return golden("sazs_eig")[0]


def test_affinity_and_colours_are_the_released_ones(released: dict[str, Tensor]) -> None:
    joints = affinity(rows_of(released["features"]).numpy())
    assert np.abs(joints - np.triu(released["default.affinity"].numpy())).max() <= 1e-6
    lowres = shrunk(released["image_jpg_decoded"].permute(2, 0, 1), (6, 8))
    assert np.array_equal(lowres, released["color_knn.image_lowres"].numpy())
    assert np.array_equal(colour_affinity(lowres).toarray(), released["color_knn.W_color"].numpy())


@pytest.mark.parametrize("name", VARIANTS)
def test_eigenvectors_are_the_released_ones(name: str, released: dict[str, Tensor]) -> None:
    """Up to sign. Where the released vector itself is off by its residual over the gap to the next
    eigenvalue (ARPACK in single precision), by that."""
    image = released["image_jpg_decoded"].permute(2, 0, 1)
    ours = spectrum(released["features"], image, 16, VARIANTS[name])
    values, vectors = (
        released[f"{name}.eigenvalues"].numpy(),
        released[f"{name}.eigenvectors"].numpy(),
    )
    assert np.abs(ours.eigenvalues - values).max() <= TOLERANCE
    slack = np.zeros(5)
    if name == "nolapnorm":
        joints = released["default.affinity"].double().numpy()
        laplacian = np.diag(joints.sum(1)) - joints
        exact = np.linalg.eigvalsh(laplacian)
        theirs, mine = (
            np.linalg.norm(laplacian @ v.T - v.T * values, axis=0)
            for v in (vectors.astype(float), ours.eigenvectors.astype(float))
        )
        assert mine[4] < theirs[4]
        slack[4] = theirs[4] / min(exact[4] - exact[3], exact[5] - exact[4])
        assert slack[4] < 3e-4
    assert [
        off(mine, his) <= max(TOLERANCE, room)
        for mine, his, room in zip(ours.eigenvectors, vectors, slack, strict=True)
    ] == [True] * 5


def test_segments_are_the_released_ones(released: dict[str, Tensor]) -> None:
    image = released["image_jpg_decoded"].permute(2, 0, 1)
    found = spectrum(released["features"], image, 16, SpectralSettings())
    small = torch.from_numpy(found.eigenvectors > 0).view(5, 6, 8)
    assert torch.equal(small[1:], released["default.segments"][1:].bool())
    assert small[0].all(), "the constant vector is positive, whatever sign the released code's had"
    assert found.segments.shape == (5, 101, 137)
    assert torch.equal(
        found.segments[:, :96, :128], small.repeat_interleave(16, 1).repeat_interleave(16, 2)
    )
    assert torch.equal(found.segments[:, 96:, :], found.segments[:, 95:96, :].expand(-1, 5, -1)), (
        "the rim repeats"
    )
    assert torch.equal(found.segments[:, :, 128:], found.segments[:, :, 127:128].expand(-1, -1, 9))


def test_the_oracle_chooses_as_released() -> None:
    """From the network's masks and the segments: every count, the choice, mIoU and FB-IoU."""
    tensors, about = golden("sazs_infer_pascal")
    counts = EpisodeCounts(20 if max(about["class_ids"]) < 20 else 80, released=True)
    for i, sample in enumerate(about["samples"]):
        class_id = int(tensors[f"{i}.class_id"])
        label, mask = tensors[f"{i}.label"], tensors[f"{i}.pred"].bool()
        truth = torch.where(label == IGNORE, IGNORE, (label == class_id + 1).long())
        segments = torch.stack([tensors[f"{i}.eig{k}"] for k in range(5)]).bool()
        mine = [episode_counts(each, truth, released=True) for each in (mask, *segments)]
        assert [each[:, 0].tolist() for each in mine] == [sample["inter_net"], *sample["inter_eig"]]
        assert [each[:, 1].tolist() for each in mine] == [sample["union_net"], *sample["union_eig"]]
        iou = [float(each[1, 0] / each[1, 1]) for each in mine]
        assert iou == pytest.approx([sample["beta_net"], *sample["beta_eig"]], abs=1e-6)
        chosen = oracle_choice(mask, segments, truth, released=True)
        assert episode_counts(chosen, truth, released=True).T.tolist() == [
            sample["chosen_inter"],
            sample["chosen_union"],
        ]
        counts.update(chosen, truth, class_id)
    scores = counts.summary(about["class_ids"])
    assert scores["mIoU"] == pytest.approx(about["final_miou"], abs=1e-4)
    assert scores["FB_IoU"] == pytest.approx(about["final_fb_iou"], abs=1e-4)
    assert (100 * counts.iou[about["class_ids"]]).tolist() == pytest.approx(
        about["final_per_class"], abs=1e-4
    )


def test_void_counts_in_released_unions_only() -> None:
    """The example of the specification: everything foreground, half of the image void: union 8
    against 4."""
    truth = torch.full((2, 4), IGNORE)
    truth[:, :2] = 1
    everything = torch.ones(2, 4, dtype=torch.bool)
    assert episode_counts(everything, truth, released=True)[1].tolist() == [4, 8]
    assert episode_counts(everything, truth)[1].tolist() == [4, 4]


# ---------------------------------------------------------------------- solvers


def dense(
    features: Tensor, count: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    with monkeypatch.context() as patch:
        patch.setattr(spectral, "DENSE_BELOW", 10**9)
        return eigenpairs(affinity(features.numpy()), count)


@pytest.mark.parametrize("shape", [(20, 21), (30, 40)])
def test_lanczos_finds_what_the_dense_solver_finds(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = smooth(*shape)
    values, vectors = eigenpairs(affinity(features.numpy()), 5)
    exact, theirs = dense(features, 5, monkeypatch)
    assert np.abs(values - exact).max() <= TOLERANCE
    assert np.abs(vectors - theirs).max() <= TOLERANCE, "signs too"
    joints = (features @ features.T).clamp(min=0).double().numpy()
    degrees = joints.sum(1)
    residual = (
        np.diag(degrees) @ vectors.T - joints @ vectors.T - degrees[:, None] * vectors.T * values
    )
    assert np.abs(residual).max() < 1e-4 * degrees.max() ** 0.5
    assert np.abs(vectors * degrees @ vectors.T - np.eye(5)).max() < 1e-4


@pytest.mark.parametrize("n", [144, 900])
def test_batched_solver_finds_the_same(n: int) -> None:
    features = torch.stack([smooth(n // 12, 12, seed=seed) for seed in (0, 1)])
    values, vectors = batched_eigenpairs(features, 5)
    for mine, found, rows in zip(values, vectors, features, strict=True):
        alone = eigenpairs(affinity(rows.numpy()), 5)
        assert np.abs(mine - alone[0]).max() <= TOLERANCE
        assert np.abs(found - alone[1]).max() <= TOLERANCE


def test_batched_solver_falls_back_to_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    features = smooth(20, 21)[None]
    expected = batched_eigenpairs(features, 5)

    def poor(matrix: Tensor, k: int, X: Tensor, **_: object) -> tuple[Tensor, Tensor]:  # noqa: N803
        return torch.ones(len(matrix), k), F.normalize(X, dim=1)

    monkeypatch.setattr(torch, "lobpcg", poor)
    found = batched_eigenpairs(features, 5)
    assert np.abs(found[1] - expected[1]).max() <= TOLERANCE


def test_vectors_that_did_not_converge_are_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    features = smooth(20, 21)
    expected = eigenpairs(affinity(features.numpy()), 5)

    def poor(
        operator: object, k: int, v0: np.ndarray, **_: object
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.linspace(0.1, 0.9, k, dtype=np.float32), np.eye(len(v0), k, dtype=np.float32)

    def none(*_: object, **__: object) -> None:
        raise spectral.ArpackError(-9999)

    for broken in (poor, none):
        monkeypatch.setattr(spectral, "eigsh", broken)
        found = eigenpairs(affinity(features.numpy()), 5)
        assert np.abs(found[1] - expected[1]).max() <= TOLERANCE


def test_equal_eigenvalues_are_all_found() -> None:
    """Two copies of an image that know nothing of each other, where a single Krylov space holds
    one of each pair in exact arithmetic."""
    half = smooth(15, 20)
    values, _ = eigenpairs(affinity(torch.block_diag(half, half).numpy()), 6)
    assert np.abs(values[0::2] - values[1::2]).max() < TOLERANCE
    assert values[2] > 0.01


def test_same_features_same_vectors() -> None:
    for n in (10, 25):
        joints = affinity(smooth(20, n).numpy())
        first, second = (eigenpairs(joints.copy(), 5) for _ in range(2))
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])


def test_signs_follow_a_fixed_rule() -> None:
    rows = np.array(
        [
            [1, 1, 1, -1],
            [1, 1, 1, 1],
            [-1, -1, -1, -1],
            [1, 1, -1, -1],
            [-1, 1, 1, -1],
            [0, 1, -1, 0],
            [0, 0, 0, 0],
        ],
        dtype=np.float32,
    )
    expected = [
        [-1, -1, -1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [-1, -1, 1, 1],
        [-1, 1, 1, -1],
        [0, 1, -1, 0],
        [0, 0, 0, 0],
    ]
    assert signed(rows).tolist() == expected
    assert rows[0, 0] == 1, "the given vectors stay as they are"


# ------------------------------------------------------------------- degenerate


@pytest.mark.parametrize("lapnorm", [True, False])
@pytest.mark.parametrize("n", [9, 420])
def test_an_image_of_one_colour_has_the_constant_vector_alone(n: int, lapnorm: bool) -> None:
    values, vectors = eigenpairs(affinity(rows_of(torch.ones(n, 8)).numpy()), 5, lapnorm=lapnorm)
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(0, abs=1e-4)
    assert (vectors[0] > 0).all()
    assert not vectors[1:].any(), (
        "all other vectors have one eigenvalue and could be any: none is returned, and their"
        " segments are empty"
    )


def test_an_image_of_two_colours_has_one_cut() -> None:
    features = torch.tensor([[1.0, 0.2], [0.2, 1.0]])[torch.arange(450) % 2]
    _, vectors = eigenpairs(affinity(rows_of(features).numpy()), 5)
    assert (vectors[1] > 0).tolist() == [False, True] * 225
    assert not vectors[2:].any()


@pytest.mark.parametrize("n", [6, 500])
def test_patches_without_features(n: int) -> None:
    features = smooth(n, 1)
    features[1] = 0
    values, vectors = eigenpairs(affinity(features.numpy()), 4)
    assert np.isfinite(values).all()
    assert np.isfinite(vectors).all()
    nothing = eigenpairs(affinity(np.zeros((n, 4), dtype=np.float32)), 4)
    assert np.isfinite(nothing[0]).all()
    assert not nothing[1][1:].any()


def test_as_many_vectors_as_patches() -> None:
    values, vectors = eigenpairs(affinity(smooth(1, 3).numpy()), 3)
    assert values.shape == (3,)
    assert np.isfinite(vectors).all()
    assert (eigenpairs(np.ones((1, 1), dtype=np.float32), 1)[1] > 0).all()


def test_what_has_no_solution_is_said() -> None:
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    with pytest.raises(SettingError, match="4 patches and so no 5 eigenvectors; ask for fewer"):
        spectrum(torch.randn(4, 8), picture, 16, SpectralSettings())
    with pytest.raises(SettingError, match="4 patches and so no 5"):
        batched_eigenpairs(torch.randn(1, 4, 8), 5)
    with pytest.raises(DataError, match="32x32 pixels, smaller than one patch of 64"):
        spectrum(torch.randn(4, 8), picture, 64, SpectralSettings())
    with pytest.raises(DataError, match="not finite"):
        spectrum(torch.full((4, 8), torch.nan), picture, 16, SpectralSettings(2))
    with pytest.raises(SettingError, match="cells of 64 pixels"):
        spectrum(torch.randn(4, 8), picture, 16, SpectralSettings(2, cell=64))
    for wrong, message in (
        ({"count": 0}, "at least 1"),
        ({"colour": -1.0}, "0 or more"),
        ({"colour": float("nan")}, "0 or more"),
        ({"cell": 0}, "at least 1"),
    ):
        with pytest.raises(SettingError, match=message):
            SpectralSettings(**wrong)


# ------------------------------------------------------------------------- keys


def test_keys_of_a_clip_are_those_of_its_last_block() -> None:
    clip = tiny_clip()
    keys, images = clip_keys(clip), torch.rand(2, 3, 37, 45)
    found = keys(images)
    assert found.shape == (2, 4 * 5, clip.width)
    x = clip.blocks(clip.embed(images[..., :32, :40]), stop=-1)
    block = clip.visual.transformer.resblocks[-1]
    _, k, _ = split_heads(block.attn, block.ln_1(x))
    assert torch.allclose(found, k[:, :, 1:].transpose(1, 2).flatten(2), atol=1e-5)
    assert torch.allclose(
        keys((images * 255).round().to(torch.uint8)), keys((images * 255).round() / 255), atol=1e-5
    )
    assert not keys.train().training
    with pytest.raises(DataError, match="7x40 pixels, smaller than one patch of 8"):
        keys(torch.rand(1, 3, 40, 7))


def test_keys_of_timm_are_those_of_its_last_block(tmp_path: Path) -> None:
    keys = load_keys("timm:vit_tiny_patch16_224@random")
    images, got = torch.rand(1, 3, 50, 70), list[Tensor]()
    found = keys(images)
    hook = keys.network.blocks[-1].attn.qkv.register_forward_hook(
        lambda module, inputs, output: got.append(output)
    )
    keys.network.forward_features((images[..., :48, :64] - keys.mean) / keys.std)
    hook.remove()
    assert torch.allclose(found, got[0].view(1, 13, 3, 192)[:, 1:, 1], atol=1e-5)
    state = {**keys.network.state_dict(), "head.weight": torch.zeros(5, 192)}
    save_file(state, tmp_path / "vit.safetensors")
    again = load_keys(f"timm:vit_tiny_patch16_224@{tmp_path / 'vit.safetensors'}")
    assert torch.equal(again(images), found)
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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:resnet18@random", "not a plain ViT"),
        ("timm:vit_smal", "no network called"),
        ("timm:vit_tiny_patch16_224.mine", "no weights called"),
        ("timm:swin_tiny_patch4_window7_224@random", "not a plain ViT"),
        ("nowhere", "no file and no open_clip tag"),
    ],
)
def test_networks_without_keys(source: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_keys(source)


# ------------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return get_benchmark("doodles").data("val", None)[0].image


@pytest.fixture
def made(picture: Tensor, tmp_path: Path) -> tuple[Path, Spectrum]:
    """A folder with the spectrum and the masks of an image "one" of 96 by 96 pixels."""
    found = list(
        extract(
            [("one", picture)],
            clip_keys(tiny_clip()),
            SpectralSettings(4),
            tmp_path / "eig",
            png=True,
        )
    )
    return tmp_path / "eig", found[0].spectrum


def test_spectra_come_back(made: tuple[Path, Spectrum]) -> None:
    folder, found = made
    back, about = load_spectrum(folder / "one.safetensors")
    assert np.array_equal(back.eigenvalues, found.eigenvalues)
    assert np.array_equal(back.eigenvectors, found.eigenvectors)
    assert (back.grid, back.covers, back.size) == ((12, 12), (96, 96), (96, 96))
    assert (about["count"], about["colour"], about["features"]) == (4, 0.0, "tiny")
    assert len(about["fingerprint"]) == 16
    assert torch.equal(stored_segments(folder, "one", (96, 96), 3), found.segments[:3])


def test_masks_are_written_as_sazs_reads_them(made: tuple[Path, Spectrum]) -> None:
    folder, found = made
    with Image.open(folder / "one_k2.png") as mask:
        assert (mask.mode, mask.size) == ("L", (96, 96))
        assert np.array_equal(np.array(mask), found.segments[2].numpy() * np.uint8(255))
    (folder / "one.safetensors").unlink()
    assert torch.equal(stored_segments(folder, "one", (96, 96), 4), found.segments)


def test_stored_segments_that_do_not_fit(made: tuple[Path, Spectrum]) -> None:
    folder, found = made
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
    Image.fromarray(found.segments[1].numpy().astype(np.uint8) * 254).save(folder / "one_k1.png")
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


def test_what_is_there_is_kept(made: tuple[Path, Spectrum], picture: Tensor) -> None:
    folder, found = made
    keys, settings = clip_keys(tiny_clip()), SpectralSettings(4)
    before = (folder / "one.safetensors").stat().st_mtime_ns
    (folder / "one_k3.png").unlink()
    again = list(extract([("one", picture), ("two", picture)], keys, settings, folder, png=True))
    assert [one.fresh for one in again] == [False, True]
    assert np.array_equal(again[0].spectrum.eigenvectors, found.eigenvectors)
    assert (folder / "one.safetensors").stat().st_mtime_ns == before
    assert (folder / "one_k3.png").exists()
    with pytest.raises(SettingError, match="made with colour 0.0, not 3.0; choose another --out"):
        list(extract([("one", picture)], keys, replace(settings, colour=3.0), folder))
    with pytest.raises(SettingError, match=r"made with size \(96, 96\), not \(96, 80\)"):
        list(extract([("one", picture[:, :, :80])], keys, settings, folder))
    with pytest.raises(DataError, match="small: the image is 5x96 pixels"):
        list(extract([("small", picture[:, :, :5])], keys, settings, folder))


def test_a_stopped_run_leaves_nothing_half_written(
    picture: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unseen.segments.source.save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(extract([("one", picture)], clip_keys(tiny_clip()), SpectralSettings(4), tmp_path))
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- agreement


def halves() -> Tensor:
    """(1, 3, 4, 8) segments: everything, the left half, the upper half."""
    segments = torch.zeros(1, 3, 4, 8, dtype=torch.bool)
    segments[0, 0] = True
    segments[0, 1, :, :4] = True
    segments[0, 2, :2] = True
    return segments


def test_a_mask_gives_way_to_what_it_agrees_with() -> None:
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:, :3] = True  # 12 of 16 pixels of the left half
    left = halves()[0, 1]
    assert torch.equal(settled_mask(mask, agreement(halves(), 0.75)), left)
    assert torch.equal(settled_mask(mask, agreement(halves(), 0.76)), mask)
    right = torch.zeros(4, 8, dtype=torch.bool)
    right[:, 5:] = True
    assert torch.equal(settled_mask(right, agreement(halves(), 0.75)), ~left), "complements count"
    nearly_all = torch.ones(4, 8, dtype=torch.bool)
    nearly_all[0, 0] = False
    assert torch.equal(settled_mask(nearly_all, agreement(halves(), 0.6)), nearly_all), (
        "a segment that is everything says nothing"
    )
    none = torch.zeros(4, 8, dtype=torch.bool)
    assert torch.equal(settled_mask(none, agreement(halves(), 0.1)), none)
    assert agreement(halves()[:, :1], 0.1)(0, mask.long()) == []


def test_claims_on_label_maps() -> None:
    """Word 0 claims the left half; the pixels of word 0 outside go to the best of the words without
    a claim; the stronger claim wins a pixel."""
    labels = torch.tensor([[0, 0, 0, 0, 0, 2, 1, 1]] * 4)[None]
    scores = torch.zeros(1, 3, 4, 8)
    scores[:, 1], scores[:, 2, :2] = 0.5, 0.9
    settings = InferenceSettings()
    left = halves()[0, 1]
    found = settled(labels, lambda i, mine: [Claim(0, 0.8, left)], scores, settings)[0]
    assert found.tolist() == [[0, 0, 0, 0, 2, 2, 1, 1]] * 2 + [[0, 0, 0, 0, 1, 2, 1, 1]] * 2
    upper = halves()[0, 2]
    both = settled(
        labels, lambda i, mine: [Claim(0, 0.8, left), Claim(1, 0.9, upper)], scores, settings
    )[0]
    assert both.tolist() == [[1] * 8] * 2 + [[0, 0, 0, 0, 2, 2, 2, 2]] * 2
    weaker = settled(
        labels, lambda i, mine: [Claim(0, 0.8, left), Claim(1, 0.7, upper)], scores, settings
    )[0]
    assert weaker.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2 + [[0, 0, 0, 0, 2, 2, 2, 2]] * 2
    every = settled(
        labels, lambda i, mine: [Claim(w, 0.5, left) for w in range(3)], scores, settings
    )[0]
    assert torch.equal(every[:, 4:], labels[0, :, 4:]), (
        "no word without a claim is left: pixels keep theirs"
    )
    assert torch.equal(settled(labels, lambda i, mine: [], scores, settings), labels)


def test_agreement_of_label_maps_leaves_void_alone() -> None:
    labels = torch.full((4, 8), IGNORE)
    labels[:, :3] = 1
    claims = agreement(halves(), 0.7)(0, labels)
    assert [(claim.word, claim.strength) for claim in claims] == [(1, 0.75)]


def naclip() -> tuple:
    segmenter = create("naclip", tiny_clip()).eval()
    return segmenter, segmenter.encode_text(["tree", "house", "car"])


def test_label_maps_with_claims() -> None:
    segmenter, text = naclip()
    images, settings = torch.rand(2, 3, 40, 40), InferenceSettings()
    plain = label_maps(segmenter, images, text, settings)
    segments = segments_of(segmenter, settings)(images, ["", ""])
    assert segments.shape == (2, 5, 40, 40)
    same = label_maps(segmenter, images, text, settings, claims=agreement(segments, 1.0))
    assert torch.equal(same.labels, plain.labels)
    changed = label_maps(segmenter, images, text, settings, claims=agreement(segments, 0.05))
    assert not torch.equal(changed.labels, plain.labels)
    assert torch.equal(changed.confidence, plain.confidence)
    found = [
        label_maps(
            segmenter, images, text, settings, words_at_once=n, claims=agreement(segments, 0.3)
        ).labels
        for n in (1, 2, 32)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_sources_of_segments(made: tuple[Path, Spectrum], picture: Tensor) -> None:
    folder, _ = made
    segmenter, _ = naclip()
    stored = segments_of(segmenter, InferenceSettings(segments_dir=str(folder), segments_count=4))
    computed = segments_of(segmenter, InferenceSettings(segments_count=4))
    assert torch.equal(stored(picture[None], ["one"]), computed(picture[None], ["one"]))
    assert isinstance(
        segments_of(segmenter, InferenceSettings(segments_features="doodles")), SegmentSource
    )
    with pytest.raises(DataError, match="folder of segments nowhere does not exist"):
        segments_of(segmenter, InferenceSettings(segments_dir="nowhere"))
    with pytest.raises(SettingError, match="no CLIP tower to take keys from"):
        segments_of(torch.nn.Linear(1, 1), InferenceSettings())  # type: ignore[arg-type]


def test_settings_that_mean_nothing() -> None:
    for wrong, message in (
        ({"refinement_threshold": 0.0}, "above 0 and at most 1"),
        ({"refinement_threshold": 1.5}, "above 0"),
        ({"segments_count": 0}, "at least 1"),
        ({"segments_dir": "a", "segments_features": "b"}, "exclude each other"),
    ):
        with pytest.raises(SettingError, match=message):
            InferenceChanges(**wrong).on(InferenceSettings())
    base = InferenceSettings(refinement="segment_iou", segments_dir="somewhere")
    assert InferenceChanges(refinement="none", segments_dir="").on(base) == InferenceSettings()
    assert InferenceChanges(refinement_threshold=0.5).on(base).refinement_threshold == 0.5


# ----------------------------------------------------------------------- oracle


def test_the_oracle_of_label_maps_takes_what_is_truer() -> None:
    truth = torch.full((1, 4, 8), IGNORE)
    truth[0, :, :4], truth[0, :, 6:] = 0, 1
    labels = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]] * 4)
    claims = oracle_claims(halves(), truth)(0, labels)
    assert [(claim.word, claim.strength) for claim in claims] == [(0, 1.0)], (
        "word 1 has IoU 2/3 already, and no segment a higher one"
    )
    assert torch.equal(claims[0].mask, halves()[0, 1])
    assert oracle_claims(halves(), torch.full((1, 4, 8), IGNORE))(0, labels) == []


@pytest.mark.parametrize("method", ["naclip", "esda"])
def test_reports_say_whether_there_was_an_oracle(method: str) -> None:
    options = {"text_blocks": (1,)} if method == "esda" else {}
    segmenter = create(method, tiny_clip(), **options).eval()
    scores = {}
    for name, run in (("doodles", evaluate), ("doodles-5i/0", evaluate_episodes)):
        bench = get_benchmark(name)
        text = segmenter.encode_text(bench.class_names)
        for kind, inference, oracle in (
            ("none", "none", False),
            ("segment_iou", "segment_iou", False),
            ("oracle", "none", True),
        ):
            how = replace(
                bench.inference,
                refinement=inference,
                refinement_threshold=0.2,
                window=None,
                stride=None,
            )
            report = run(
                segmenter,
                text,
                bench,
                None,
                title="x",
                inference=how,
                limit=3,
                oracle=oracle,
                progress=False,
            )
            assert report.protocol["oracle"] is oracle
            assert (
                report.title
                == {"none": "x", "segment_iou": "x + segment IoU", "oracle": "x + oracle"}[kind]
            )
            assert (report.protocol["segments"] is None) == (kind == "none")
            assert report.protocol["inference"]["refinement"] == inference
            scores[name, kind] = report.scores["pAcc" if name == "doodles" else "mIoU"]
        assert scores[name, "oracle"] > scores[name, "none"]
        with pytest.raises(
            SettingError,
            match="the oracle and --inference.refinement segment_iou exclude each other",
        ):
            run(
                segmenter,
                text,
                bench,
                None,
                title="x",
                inference=how.__class__(refinement="segment_iou"),
                limit=1,
                oracle=True,
                progress=False,
            )
    assert len(set(scores.values())) > 3


@pytest.mark.parametrize(
    ("method", "name"),
    [("naclip", "doodles"), ("naclip", "doodles-5i/1"), ("esda", "doodles-5i/1")],
)
def test_thresholds_are_chosen_on_seen_words_alone(
    method: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = create(
        method, tiny_clip(), **({"text_blocks": (1,)} if method == "esda" else {})
    ).eval()
    bench = get_benchmark(name)
    text = segmenter.encode_text(bench.class_names)
    asked, splits = set[str](), list[str]()
    forward, data = type(segmenter).forward, type(bench).data
    monkeypatch.setattr(
        type(segmenter),
        "forward",
        lambda self, images, words: (asked.update(words.names), forward(self, images, words))[1],
    )
    monkeypatch.setattr(
        type(bench),
        "data",
        lambda self, split, root: (splits.append(split), data(self, split, root))[1],
    )
    found = choose_threshold(
        segmenter,
        text,
        bench,
        None,
        inference=InferenceSettings(refinement="segment_iou"),
        images=3,
        thresholds=(0.2, 1.0),
        progress=False,
    )
    assert list(found) == [0.2, 1.0]
    assert found[0.2] != found[1.0]
    assert all(0 <= score <= 100 for score in found.values())
    assert asked <= set(bench.seen)
    assert asked
    assert splits == ["train"]


# ------------------------------------------------------------------------ verbs


def test_the_verb_and_what_reads_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eig"
    main(["eigenvectors", "doodles", "--out", str(out), "--limit", "4", "--png"])
    assert "the eigenvectors of 4 images  ->" in capsys.readouterr().out
    names = [f"scene-3-{i}" for i in range(4)]
    assert {p.name for p in out.iterdir()} == {"sheet.png"} | {
        f"{n}.safetensors" for n in names
    } | {f"{n}_k{k}.png" for n in names for k in range(5)}
    assert Image.open(out / "sheet.png").width > 1000
    main(["eigenvectors", "doodles", "--out", str(out), "--limit", "5", "--png"])
    assert "of 1 images, 4 were there" in capsys.readouterr().out
    reports = []
    for folder in ([], ["--inference.segments_dir", str(out)]):
        main(
            [
                "evaluate",
                "naclip",
                "--limit",
                "4",
                "--out",
                str(tmp_path / "r"),
                *AGREE,
                "--inference.refinement_threshold",
                "0.3",
                *folder,
            ]
        )
        reports.append(json.loads((tmp_path / "r" / "report.json").read_text()))
    assert reports[0]["confusion"] == reports[1]["confusion"]
    assert reports[1]["protocol"]["segments"] == {"folder": str(out)}
    with pytest.raises(SystemExit):
        main(
            [
                "evaluate",
                "naclip",
                "--limit",
                "6",
                "--out",
                str(tmp_path / "r"),
                *AGREE,
                "--inference.segments_dir",
                str(out),
            ]
        )
    assert "holds no segments of scene-3-5" in capsys.readouterr().err


def test_the_verb_on_a_folder_and_segment(
    tmp_path: Path, picture: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(picture.permute(1, 2, 0).numpy()[:70]).save(folder / "a.png")
    out = tmp_path / "eig"
    main(
        [
            "eigenvectors",
            str(folder),
            "--out",
            str(out),
            "--count",
            "3",
            "--colour",
            "1",
            "--cell",
            "4",
        ]
    )
    assert load_spectrum(out / "a.safetensors")[0].grid == (16, 24)
    choices = [
        *AGREE,
        "--inference.segments_dir",
        str(out),
        "--inference.segments_count",
        "3",
        "--inference.refinement_threshold",
        "0.1",
    ]
    for i, more in enumerate(([], choices)):
        main(
            [
                "segment",
                str(folder / "a.png"),
                "--words",
                "tree, house, car",
                "--out",
                str(tmp_path / f"s{i}"),
                *more,
            ]
        )
    plain, agreed = (np.array(Image.open(tmp_path / f"s{i}" / "a.png")) for i in range(2))
    assert plain.shape == agreed.shape == (70, 96)
    assert (plain != agreed).any()
    loaded = api.load(
        "naclip",
        inference=InferenceChanges(
            refinement="segment_iou", segments_dir=str(out), segments_count=3
        ),
    )
    with pytest.raises(SettingError, match="by the image's file name; give a path"):
        loaded.segment(picture.permute(1, 2, 0).numpy(), ["tree"])
    for arguments, message in (
        ([str(folder), "--out", str(folder)], "among the images"),
        ([str(folder), "--limit", "0"], "at least 1"),
        (["none"], "no benchmark called"),
        ([str(folder), "--out", str(out), "--count", "4"], "made with count 3, not 4"),
        (["doodles", "--features", "timm:resnet18@random"], "not a plain ViT"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["eigenvectors", *arguments])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SettingError, match="no split called"):
        api.eigenvectors(
            "doodles",
            out,
            extraction=api.ExtractionSettings(split="test"),  # type: ignore[arg-type]
        )


def test_evaluate_with_oracle_and_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            "evaluate",
            "naclip",
            "--benchmark",
            "doodles-5i/2",
            "--limit",
            "4",
            "--out",
            str(tmp_path),
            "--oracle",
            "--released-counts",
        ]
    )
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    assert protocol["oracle"] is True
    assert protocol["released_counts"] is True
    assert "+ oracle" in " ".join(capsys.readouterr().out.split())
    main(
        [
            "evaluate",
            "naclip",
            "--limit",
            "2",
            "--out",
            str(tmp_path),
            *AGREE,
            "--choose-threshold",
            "2",
        ]
    )
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    chosen = protocol["threshold_chosen"]["mIoU_seen"]
    assert chosen[str(protocol["inference"]["refinement_threshold"])] == max(chosen.values())
    for arguments, message in (
        (["--choose-threshold", "2"], "is for --inference.refinement segment_iou"),
        (["--choose-threshold", "-1"], "or 0"),
        (["--released-counts"], "is for folds"),
        (["--oracle", *AGREE], "exclude each other"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["evaluate", "naclip", "--limit", "2", "--out", str(tmp_path), *arguments])
        assert message in capsys.readouterr().err


def test_masks_of_a_whole_image_round_trip(tmp_path: Path) -> None:
    segments = torch.rand(2, 5, 7) > 0.5
    write_masks(tmp_path, "x", segments)
    assert torch.equal(stored_segments(tmp_path, "x", (5, 7), 2), segments)
