"""Run folders: segmenters are restored as saved, and unfit folders are refused with a message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from unseen.backbones.clip.loading import load_clip
from unseen.backbones.clip.text import StoredText
from unseen.checkpoints import load_run, save_run, tower_identities
from unseen.clip_segmenter import ClipSegmenter
from unseen.errors import CheckpointError, DataError, SettingError, VocabularyError
from unseen.methods import create
from unseen.methods.zegclip import ZegCLIP
from unseen.runs import Run, read_config, versions
from unseen.settings import InferenceSettings, ModelSettings
from unseen.vocabulary import Vocabulary

NAMES = ("tree", "car", "fish")
DOODLES_0_1 = "8c2eec42b0fb5994"
"""What version 0.1 stored as the fingerprint of the doodle tower."""


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, ClipSegmenter]:
    options = {"num_prompts": 2, "calibration": 0.3, "start": "released"}
    model = ModelSettings("zegclip", "doodles", options=options)
    segmenter = create("zegclip", load_clip(), **model.options).eval()
    save_run(
        tmp_path / "run",
        segmenter,
        Run(
            model,
            "doodles",
            NAMES,
            NAMES[:2],
            InferenceSettings(window=64),
            {"regime": "inductive"},
            versions(),
            tower_identities(segmenter),
        ),
    )
    return tmp_path / "run", segmenter


def test_round_trip(run: tuple[Path, ClipSegmenter]) -> None:
    folder, segmenter = run
    loaded, about = load_run(folder)
    images, text = torch.rand(1, 3, 64, 64), segmenter.encode_text(Vocabulary(NAMES))
    assert torch.equal(
        segmenter(images, text).logits,
        loaded(images, loaded.encode_text(Vocabulary(NAMES))).logits,
    )
    assert not loaded.training
    assert (
        about.class_names,
        about.seen,
        about.inference.window,
        about.model.options["calibration"],
    ) == (NAMES, NAMES[:2], 64, 0.3)
    assert torch.__version__.startswith(about.versions["torch"])


def test_a_run_folder_of_version_0_1_is_read(run: tuple[Path, ClipSegmenter]) -> None:
    """Settings have the names and values of that version, and mean the same."""
    folder, segmenter = run
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"format": 1, "vocabulary": config.pop("class_names"), "tower": DOODLES_0_1}
    del config["towers"]
    config["model"]["options"]["void"] = "negative"
    config["inference"] = {
        "short_side": None, "square": 64, "canvas": None, "window": None, "stride": None,
        "plain": True, "segments": "agreement", "segments_threshold": 0.6,
        "segments_features": None, "segments_dir": None, "segments_count": 4,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    loaded, about = load_run(folder)
    assert about.class_names == NAMES
    assert about.inference == InferenceSettings(
        square=64,
        antialias=False,
        refinement="segment_iou",
        refinement_threshold=0.6,
        segments_count=4,
        precision="32-true",
    )
    assert isinstance(loaded, ZegCLIP)
    assert loaded.mask_loss.ignored_as == "negative"
    images, text = torch.rand(1, 3, 64, 64), segmenter.encode_text(Vocabulary(NAMES))
    assert torch.equal(segmenter(images, text).logits, loaded(images, text).logits)
    change(folder, inference={"plain": False, "segments": "none"})
    assert read_config(folder).inference == InferenceSettings(precision="32-true")
    change(folder, tower="0" * 16)
    with pytest.raises(CheckpointError, match="weights differ from today's doodles"):
        load_run(folder)


def test_only_the_trained_part_is_stored(run: tuple[Path, ClipSegmenter]) -> None:
    folder, segmenter = run
    assert set(load_file(folder / "weights.safetensors")) == {
        name for name, p in segmenter.named_parameters() if p.requires_grad
    }


def test_options_can_be_replaced(run: tuple[Path, ClipSegmenter]) -> None:
    assert load_run(run[0], {"calibration": 0.0})[0].calibration == 0.0


def change(folder: Path, **entries: object) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **entries}))


def test_refused(run: tuple[Path, ClipSegmenter], tmp_path: Path) -> None:
    folder, _ = run
    good = (folder / "weights.safetensors").read_bytes()

    def refused(because: str) -> None:
        with pytest.raises(CheckpointError, match=because) as caught:
            load_run(folder)
        assert str(folder) in str(caught.value)

    state = {
        name: tensor.clone() for name, tensor in load_file(folder / "weights.safetensors").items()
    }
    (folder / "weights.safetensors").write_bytes(good[: len(good) // 2])
    refused("not a complete safetensors file")
    save_file(
        {name: tensor for name, tensor in state.items() if name != "decoder.q.bias"},
        folder / "weights.safetensors",
    )
    refused("decoder.q.bias")
    save_file(
        {**state, "decoder.q.bias": torch.full_like(state["decoder.q.bias"], torch.nan)},
        folder / "weights.safetensors",
    )
    refused("not finite")
    (folder / "weights.safetensors").unlink()
    refused("resume it with")
    (folder / "weights.safetensors").write_bytes(good)
    load_run(folder)
    change(folder, towers={"clip": {"source": "doodles", "fingerprint": "0" * 16}})
    refused("weights differ from today's doodles")
    change(folder, surprise=1)
    refused("not complete")
    for version in (99, 3.0, True):
        change(folder, format=version)
        refused(f"layout version {version}, this unseen reads versions 1 to 4")
    (folder / "config.yaml").write_text("- a: [")
    refused("is not YAML that can be read")
    with pytest.raises(CheckpointError, match="not a run folder"):
        read_config(tmp_path)


def test_an_option_that_changes_shapes_is_named(run: tuple[Path, ClipSegmenter]) -> None:
    with pytest.raises(SettingError, match="other values of num_prompts the method has other"):
        load_run(run[0], {"num_prompts": 5, "calibration": 0.3})


def test_nothing_in_the_configuration_is_executed(
    run: tuple[Path, ClipSegmenter], tmp_path: Path
) -> None:
    (run[0] / "config.yaml").write_text(
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path"
        f" ['{tmp_path}/harmed']]"
    )
    with pytest.raises(CheckpointError, match="is not YAML that can be read"):
        load_run(run[0])
    assert not (tmp_path / "harmed").exists()


def test_stored_text_with_a_background(tmp_path: Path) -> None:
    """The background's row comes last."""
    rows = torch.arange(12.0).view(3, 4)
    np.save(tmp_path / "classes.npy", rows.numpy())
    text = StoredText.read(tmp_path / "classes.npy", ["a", "b"])
    text.check(4, "others")
    assert torch.equal(text.encode_names(["b", "a"], ()), rows[[1, 0]])
    assert torch.equal(text.background, rows[2])
    assert text.embed_dim == 4
    with pytest.raises(VocabularyError, match="has none for 'c'; its classes are a, b"):
        text.encode_names(["c"], ())
    with pytest.raises(DataError, match="3 classes and 'others', the last,"):
        StoredText.read(tmp_path / "classes.npy", ["a", "b", "c"]).check(4, "others")


def test_stored_text_of_several_prompts(tmp_path: Path) -> None:
    """A vector a prompt, as OTSeg's released files hold them; their mean for other methods."""
    rows = torch.nn.functional.normalize(torch.randn(3, 2, 4), dim=-1)
    np.save(tmp_path / "classes.npy", rows.numpy())
    text = StoredText.read(tmp_path / "classes.npy", ["a", "b"])
    text.check(4, "others")
    assert torch.equal(text.encode_prompts(["b", "a"], ()), rows[[1, 0]])
    mean = rows[1].mean(dim=0)
    assert torch.equal(text.encode_names(["b"], ())[0], mean / mean.norm())
    assert torch.equal(text.encode_names(["b"], (), unit=False)[0], mean)
    mean = rows[2].mean(dim=0)
    assert torch.allclose(text.background, mean / mean.norm())
    np.save(tmp_path / "none.npy", np.zeros((2, 0, 4)))
    with pytest.raises(DataError, match="does not hold one plain array of numbers"):
        StoredText.read(tmp_path / "none.npy", ["a", "b"])
    rows[1, 1] = 0
    np.save(tmp_path / "classes.npy", rows.numpy())
    with pytest.raises(DataError, match=r"row 2 of .* is no vector \(its length is 0\)"):
        StoredText.read(tmp_path / "classes.npy", ["a", "b"])
