"""The verbs as a user calls them: on Doodles, on a tiny VOC in the true layout, and with everything
that can be wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unseen
from tiny import write_voc
from unseen.__main__ import main
from unseen.data.doodles import draw
from unseen.errors import SettingError, VocabularyError
from unseen.methods.zegclip import ZegCLIP
from unseen.settings import InferenceSettings

FEW = ["--train.steps", "2", "--train.batch_size", "2", "--train.warmup", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two steps on Doodles."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "zegclip", "--benchmark", "doodles", "--out", str(folder), *FEW])
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(draw(3, 0, size=80).image).crop((0, 0, 80, 60)).save(path, quality=95)
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Call with a mistake: exit code 2 and one sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("unseen: ")
    assert "\n" not in error
    return error


# ------------------------------------------------------------------------ verbs


def test_help_is_fast_and_light() -> None:
    code = (
        "import sys, unseen.__main__ as m\ntry: m.main(['train', '--help'])\nexcept SystemExit:"
        " pass\nassert not {'torch', 'open_clip'} & sys.modules.keys()"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "--train.steps" in out
    assert "--resume" in out


@pytest.mark.parametrize("what", ["all", "methods", "benchmarks", "templates", "clips"])
def test_list(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", what])
    out = capsys.readouterr().out
    expected = {
        "all": ["zegclip", "doodles", "imagenet"],
        "methods": ["naclip"],
        "benchmarks": ["voc"],
        "templates": ["multi"],
        "clips": ["ViT-B-16-quickgelu/openai"],
    }
    assert all(word in out for word in expected[what])


def test_train_writes_a_run(run: Path) -> None:
    assert {"config.yaml", "weights.safetensors", "logs"} <= {p.name for p in run.iterdir()}
    config = (run / "config.yaml").read_text()
    assert "num_prompts: 8" in config, "from the recipe"
    assert "steps: 2" in config, "from the command line"


def test_evaluate_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run), "--limit", "6", "--out", str(tmp_path / "eval")])
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert report["images"] == 6
    assert report["protocol"]["evaluation"]["oracle"] is False
    assert report["protocol"]["calibrated"] is True
    assert report["protocol"]["train"]["seed"] == 0
    assert (
        sum(map(sum, report["confusion"]["pixels"]))
        == report["pixels"]
        == sum(
            int((draw(3, i, size=96, min_things=2, max_things=4).labels != 255).sum())
            for i in range(6)
        )
    )
    s, u = report["scores"]["mIoU_S"], report["scores"]["mIoU_U"]
    assert report["scores"]["hIoU"] == pytest.approx(2 * s * u / (s + u) if s + u else 0, abs=1e-3)
    assert Image.open(tmp_path / "eval" / "sheet.png").width > 400
    assert not (run / "metrics.json").exists(), "a part of the images is not the run's score"
    assert "hIoU" in capsys.readouterr().out


def test_evaluate_without_training(tmp_path: Path) -> None:
    main(
        [
            "evaluate",
            "sclip",
            "--limit",
            "3",
            "--out",
            str(tmp_path),
            "--inference.window",
            "64",
            "--inference.stride",
            "32",
            "--options.temperature",
            "20",
        ]
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["inference"]["window"] == 64
    assert report["protocol"]["calibrated"] is False
    assert report["protocol"]["model"]["options"]["temperature"] == 20


def test_segment(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        ["segment", str(photo), "--words", "tree, fish ,red house", "--out", str(tmp_path / "out")]
    )
    labels = Image.open(tmp_path / "out" / "photo.png")
    assert labels.mode == "P"
    assert labels.size == (80, 60)
    ids = np.array(labels)
    assert set(np.unique(ids)) <= {0, 1, 2}
    about = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert [word["name"] for word in about["classes"]] == ["tree", "fish", "red house"]
    for word in about["classes"]:
        assert word["share"] == pytest.approx((ids == word["id"]).mean(), abs=1e-6)
    assert (tmp_path / "out" / "photo.overlay.png").exists()
    assert "photo.jpg" in capsys.readouterr().out


def test_segment_with_a_run_and_python(run: Path, photo: Path, tmp_path: Path) -> None:
    main(
        [
            "segment",
            str(photo),
            "--words",
            "tree,kite",
            "--model",
            str(run),
            "--out",
            str(tmp_path / "out"),
            "--threshold",
            "0.9999",
        ]
    )
    assert (np.array(Image.open(tmp_path / "out" / "photo.png")) == 255).all()
    model = unseen.load(str(run))
    result = model.segment(photo, ["tree", "kite"])
    assert result.unseen == ("kite",)
    assert result.labels.shape == (60, 80)
    assert result.mask("tree").sum() + result.mask("kite").sum() == 60 * 80
    again = model.segment(Image.open(photo), ["tree", "kite"])
    assert (again.labels == result.labels).all()
    quick = unseen.segment(np.array(Image.open(photo)), ["tree"])
    assert quick.shares == {"tree": 1.0}
    assert unseen.list_methods()[0] == "clip"
    assert "doodles" in unseen.list_benchmarks()


def test_segment_a_folder_goes_on_after_a_bad_image(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(photo.read_bytes()[:300])
    error = said(
        capsys, "segment", str(tmp_path), "--words", "tree,fish", "--out", str(tmp_path / "out")
    )
    assert "bad.jpg cannot be read" in error
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "photo.json",
        "photo.overlay.png",
        "photo.png",
    ]


@pytest.mark.parametrize("mode", ["P", "L"])
def test_voc_through_the_verbs(tmp_path: Path, mode: str) -> None:
    root = write_voc(tmp_path / "VOC2012", mode=mode)
    common = ["--benchmark", "voc", "--root", str(tmp_path / "VOC2012")]
    small = [
        "--train.transforms.resize",
        "[128,64]",
        "--train.transforms.crop",
        "64",
        "--train.workers",
        "0",
    ]
    main(
        [
            "train",
            "zegclip",
            *common,
            "--clip",
            "doodles",
            "--options.decoder_heads",
            "4",
            "--out",
            str(tmp_path / "run"),
            *FEW,
            *small,
        ]
    )
    main(
        [
            "evaluate",
            str(tmp_path / "run"),
            *common,
            "--inference.short_side",
            "64",
            "--inference.window",
            "64",
            "--inference.stride",
            "48",
            "--out",
            str(tmp_path / "eval"),
        ]
    )
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    masks = [
        np.array(Image.open(p))
        for p in sorted((tmp_path / "VOC2012" / "SegmentationClass").iterdir())
    ]
    listed = (tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    named = dict(
        zip(
            (p.stem for p in sorted((tmp_path / "VOC2012" / "SegmentationClass").iterdir())),
            masks,
            strict=True,
        )
    )
    assert report["pixels"] == sum(int(((named[s] > 0) & (named[s] < 255)).sum()) for s in listed)
    assert sum(map(sum, report["confusion"]["pixels"])) == report["pixels"]
    assert root is None or root.exists()


def test_transductive_second_stage_starts_from_a_snapshot(tmp_path: Path) -> None:
    main(["train", "zegclip", "--out", str(tmp_path / "one"), *FEW, "--train.snapshots", "[1]"])
    main(
        [
            "train",
            "zegclip",
            "--out",
            str(tmp_path / "two"),
            *FEW,
            "--train.regime",
            "transductive",
            "--init",
            str(tmp_path / "one" / "step-1"),
        ]
    )
    config = (tmp_path / "two" / "config.yaml").read_text()
    assert "regime: transductive" in config
    assert f"init: {tmp_path / 'one' / 'step-1'}" in config
    # Stopped before its first state, it goes on from the weights it was begun with, without being
    # told again.
    shutil.rmtree(tmp_path / "two" / "state")
    (tmp_path / "two" / "weights.safetensors").rename(tmp_path / "whole.safetensors")
    main(
        [
            "train",
            "zegclip",
            "--out",
            str(tmp_path / "two"),
            *FEW,
            "--train.regime",
            "transductive",
            "--resume",
        ]
    )
    again, whole = (
        load_file(tmp_path / "two" / "weights.safetensors"),
        load_file(tmp_path / "whole.safetensors"),
    )
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_run_goes_on_only_with_its_own_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    four = [
        "--train.steps",
        "4",
        "--train.batch_size",
        "2",
        "--train.warmup",
        "0",
        "--train.save_every",
        "2",
    ]
    with pytest.MonkeyPatch.context() as patch:  # stopped in its third step
        loss, calls = ZegCLIP.loss, []

        def stop(self: object, *inputs: object) -> object:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return loss(self, *inputs)  # type: ignore[arg-type]

        patch.setattr(ZegCLIP, "loss", stop)
        with pytest.raises(SystemExit) as stopped:
            main(["train", "zegclip", *out, *four])
    assert stopped.value.code == 130
    assert (
        "stopped after step 2; go on from the last saved state with --resume"
        in capsys.readouterr().err
    )
    assert "go on with --resume" in said(capsys, "train", "zegclip", *out, *four)
    assert "its training did not finish" in said(capsys, "evaluate", str(tmp_path / "run"))
    error = said(capsys, "train", "zegclip", *out, *four, "--train.lr", "0.5", "--resume")
    assert "train.lr is 0.003 there and 0.5 here" in error
    assert "model.options.num_prompts is 8 there and 3 here" in said(
        capsys, "train", "zegclip", *out, *four, "--options.num_prompts", "3", "--resume"
    )
    main(["train", "zegclip", *out, *four, "--train.log_every", "1", "--resume"])
    assert "is finished, so there is nothing to resume" in said(
        capsys, "train", "zegclip", *out, *four, "--resume"
    )
    assert "holds no run to go on with" in said(
        capsys, "train", "zegclip", "--out", str(tmp_path / "typo"), *four, "--resume"
    )


def test_interrupts_are_told_apart(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ZegCLIP, "loss", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "zegclip", "--out", str(tmp_path / "run"), *FEW])
    assert stopped.value.code == 130
    assert "nothing was saved yet (--train.save_every), so start again" in capsys.readouterr().err
    monkeypatch.setattr("unseen.predictor.Predictor.segment_encoded", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["segment", str(photo), "--words", "tree", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "unseen: stopped\n"


def test_text_embeddings_from_a_file(tmp_path: Path) -> None:
    np.save(
        tmp_path / "words.npy",
        torch.nn.functional.normalize(torch.randn(20, 128), dim=1).half().numpy(),
    )
    main(
        [
            "train",
            "zegclip",
            "--out",
            str(tmp_path / "run"),
            *FEW,
            "--text-embeddings",
            str(tmp_path / "words.npy"),
        ]
    )
    vectors = torch.from_numpy(np.load(tmp_path / "words.npy")).float()
    (tmp_path / "words.npy").unlink()
    main(["evaluate", str(tmp_path / "run"), "--limit", "2"])
    report = json.loads((tmp_path / "run" / "eval-doodles-first-2" / "report.json").read_text())
    assert report["protocol"]["text_embeddings"] == "words.npy"
    assert len(report["protocol"]["towers"]["clip"]["fingerprint"]) == 16
    model = unseen.load(str(tmp_path / "run"))
    assert torch.equal(model.encode(["cactus", "tree"]).pooled, vectors[[18, 0]])
    with pytest.raises(VocabularyError, match="none for 'sofa'"):
        model.encode(["tree", "sofa"])


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """DDP over two CPU processes sees the same batches; without dropout the weights agree up to
    rounding."""
    common = [
        "--train.steps",
        "2",
        "--train.batch_size",
        "4",
        "--train.warmup",
        "0",
        "--train.precision",
        "32-true",
        "--options.dropout",
        "0",
        "--options.num_prompts",
        "2",
    ]
    for name, more in (("one", []), ("two", ["--train.devices", "2", "--train.strategy", "ddp"])):
        command = [
            sys.executable,
            "-m",
            "unseen",
            "train",
            "zegclip",
            "--out",
            str(tmp_path / name),
            *common,
            *more,
        ]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            env={**__import__("os").environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            timeout=300,
        )
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-3


def test_pretrain_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unseen.pretrain import Pretraining

    monkeypatch.setattr(Pretraining, "accuracy", lambda self: 5.0)
    main(["pretrain", "doodles", "--out", str(tmp_path), "--steps", "1", "--batch-size", "4"])
    assert (tmp_path / "doodles.safetensors").exists()
    assert "5.0 %" in capsys.readouterr().out


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--out", str(tmp_path / "demo"), "--steps", "2", "--limit", "8"])
    scores = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert list(scores) == ["clip", "maskclip", "sclip", "clearclip", "naclip", "zegclip"]
    assert Image.open(tmp_path / "demo" / "demo.png").width > 800
    assert (tmp_path / "demo" / "segmented" / "scene0.overlay.png").exists()
    main(
        [
            "evaluate",
            str(tmp_path / "demo" / "run"),
            "--limit",
            "8",
            "--out",
            str(tmp_path / "again"),
        ]
    )
    assert (
        json.loads((tmp_path / "again" / "report.json").read_text())["scores"] == scores["zegclip"]
    )
    main(["demo", "--out", str(tmp_path / "demo"), "--steps", "1", "--limit", "1"])
    keep = tmp_path / "mine"
    keep.mkdir()
    (keep / "thesis.txt").write_text("dear")
    (keep / "run").mkdir()
    assert "choose another folder" in said(capsys, "demo", "--out", str(keep))
    assert (keep / "thesis.txt").read_text() == "dear"


# -------------------------------------------------------------------- bad input


def test_words_with_commas_and_words_the_tower_does_not_know(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["segment", str(photo), "--words", 'tree, "house, red"', "--out", str(tmp_path / "out")])
    names = [
        word["name"]
        for word in json.loads((tmp_path / "out" / "photo.json").read_text())["classes"]
    ]
    assert names == ["tree", "house, red"]
    assert capsys.readouterr().err == ""
    main(["segment", str(photo), "--words", "tree, sofa", "--out", str(tmp_path / "out")])
    assert "cannot recognise 'sofa'" in capsys.readouterr().err
    assert "are not closed" in said(
        capsys,
        "segment",
        str(photo),
        "--words",
        'tree, "house, red',
        "--out",
        str(tmp_path / "out"),
    )


def test_python_refuses_what_the_verbs_refuse(
    run: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = unseen.load(str(run))
    with pytest.raises(SettingError, match="threshold is 3"):
        model.segment(photo, ["tree"], threshold=3)
    with pytest.raises(VocabularyError, match="1 among the classes is not a text"):
        model.segment(photo, [1, 2])  # type: ignore[list-item]
    with pytest.raises(SettingError, match="'tpu9' is not available here"):
        unseen.load("naclip", device="tpu9")
    assert "has a tower of its own" in said(
        capsys, "segment", str(photo), "--words", "tree", "--model", str(run), "--clip", "doodles"
    )
    assert "is a folder" in said(capsys, "convert", "zegclip", str(run), "--benchmark", "voc")
    assert "is not a file of weights" in said(
        capsys, "convert", "zegclip", str(photo), "--benchmark", "voc"
    )


def test_a_bad_mask_met_by_a_worker_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_voc(tmp_path / "VOC2012")
    stem = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    Image.new("L", (24, 20), 77).save(root / "SegmentationClass" / f"{stem}.png")
    error = said(
        capsys,
        "evaluate",
        "naclip",
        "--benchmark",
        "voc",
        "--root",
        str(root),
        "--workers",
        "1",
        "--inference.short_side",
        "64",
    )
    assert "holds the id 77" in error
    assert "Traceback" not in error


def test_bad_words(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "empty" in said(capsys, "segment", str(photo), "--words", "", *out)
    assert "'tree' is in the list twice" in said(
        capsys, "segment", str(photo), "--words", "tree,fish,tree", *out
    )
    assert "reads at most 77" in said(capsys, "segment", str(photo), "--words", "tree " * 90, *out)
    assert "class 2" in said(capsys, "segment", str(photo), "--words", "tree,,fish", *out)
    assert "at most 253" in said(
        capsys, "segment", str(photo), "--words", ",".join(f"w{i}" for i in range(254)), *out
    )
    assert not (tmp_path / "out").exists()


def test_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.jpg").write_text("not an image")
    (tmp_path / "empty").mkdir()
    assert "does not exist" in said(capsys, "segment", str(tmp_path / "no.jpg"), "--words", "tree")
    assert "notes.jpg" in said(capsys, "segment", str(tmp_path / "notes.jpg"), "--words", "tree")
    assert "holds no images" in said(capsys, "segment", str(tmp_path / "empty"), "--words", "tree")


def test_bad_names(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'zegclip'" in said(capsys, "train", "zegclp")
    assert "nothing to train" in said(capsys, "train", "naclip", "--out", str(tmp_path / "x"))
    assert "has to be trained first" in said(capsys, "evaluate", "zegclip")
    assert "neither a method nor a run folder" in said(capsys, "evaluate", "nothing")
    assert "no benchmark called 'vocc'" in said(capsys, "evaluate", "naclip", "--benchmark", "vocc")
    assert "--root" in said(capsys, "evaluate", "naclip", "--benchmark", "voc")
    assert "not PASCAL VOC's folder" in said(
        capsys, "evaluate", "naclip", "--benchmark", "voc", "--root", str(tmp_path)
    )
    assert "did you mean 'num_prompts'" in said(
        capsys, "train", "zegclip", "--options.num_promts", "3", "--out", str(tmp_path / "x")
    )
    assert "no list of 'x'" in said(capsys, "list", "x")
    assert "choose doodles" in said(capsys, "pretrain", "web")
    assert "no file and no open_clip tag" in said(
        capsys, "segment", str(photo), "--words", "a", "--clip", "missing.pt"
    )


def test_bad_values(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ["--out", str(tmp_path / "x")]
    assert "'ignore', 'negative'" in said(
        capsys, "train", "zegclip", *new, "--options.void", "ignored"
    )
    assert "type int" in said(capsys, "train", "zegclip", *new, "--options.num_prompts", "ten")
    assert "give at least 1" in said(
        capsys, "train", "zegclip", *new, "--options.decoder_heads", "0"
    )
    assert "probability" in said(capsys, "train", "zegclip", *new, "--options.dropout", "2")
    assert "--train.steps is 0" in said(capsys, "train", "zegclip", *new, "--train.steps", "0")
    assert "--inference.window is -3; give 0 or more" in said(
        capsys, "evaluate", "naclip", "--inference.window", "-3"
    )
    assert "starts from an inductive run" in said(
        capsys, "train", "zegclip", *new, "--train.regime", "transductive"
    )
    assert "there is no --limi" in said(capsys, "evaluate", "naclip", "--limi", "2")
    assert "did you mean doodles-5i/0?" in said(
        capsys, "evaluate", "naclip", "--benchmark", "doodels-5i/0"
    )
    assert "--limit is 0" in said(capsys, "evaluate", "naclip", "--limit", "0")
    assert "not available here" in said(
        capsys, "segment", str(photo), "--words", "tree", "--device", "tpu9"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train zegclip --train.steps ten", "--train.steps is 'ten'; give a whole number"),
        (
            "train zegclip --trian.steps 10",
            "there is no --trian.steps (did you mean --train.steps?); unseen train --help shows"
            " all flags",
        ),
        (
            "train zegclip --train.regime x",
            "--train.regime is 'x'; choose one of 'inductive', 'transductive', 'supervised'",
        ),
        (
            "evaluate naclip --inference.window abc",
            "--inference.window is 'abc'; give a whole number",
        ),
        ("segment a.jpg --words cat --threshold high", "--threshold is 'high'; give a number"),
        ("segment a.jpg", "--classes is missing; unseen segment --help says what to give"),
        ("segment a.jpg --classes", "--classes needs a value; unseen segment --help says more"),
        ("train", "METHOD is missing; unseen train --help says what to give"),
    ],
)
def test_the_parser_answers_in_one_sentence(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, *arguments.split()) == f"unseen: {sentence}"


def test_single_inference_values_leave_the_rest_of_the_protocol(tmp_path: Path) -> None:
    main(
        [
            "evaluate",
            "naclip",
            "--limit",
            "1",
            "--out",
            str(tmp_path),
            "--inference.window_batch",
            "2",
        ]
    )
    assert json.loads((tmp_path / "report.json").read_text())["protocol"]["inference"] == asdict(
        InferenceSettings(window=64, stride=32, window_batch=2)
    )
    main(["evaluate", "naclip", "--limit", "1", "--out", str(tmp_path), "--inference.window", "0"])
    assert (
        json.loads((tmp_path / "report.json").read_text())["protocol"]["inference"]["window"]
        is None
    )


def test_a_run_on_another_benchmark_follows_that_benchmark(run: Path, tmp_path: Path) -> None:
    """Its own size and windows, and no word lowered."""
    write_voc(tmp_path / "VOC2012")
    main(
        [
            "evaluate",
            str(run),
            "--benchmark",
            "voc",
            "--root",
            str(tmp_path / "VOC2012"),
            "--out",
            str(tmp_path / "eval"),
            "--inference.short_side",
            "64",
        ]
    )
    protocol = json.loads((tmp_path / "eval" / "report.json").read_text())["protocol"]
    assert protocol["inference"] == asdict(InferenceSettings(short_side=64, window=512, stride=426))
    assert protocol["calibrated"] is False


def test_bad_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "VOC2012"
    write_voc(root)
    stem = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    mask = root / "SegmentationClass" / f"{stem}.png"
    good = mask.read_bytes()
    size = Image.open(mask).size
    Image.new("L", (size[0] + 1, size[1])).save(mask)
    assert f"{stem}.png is {size[0] + 1}x{size[1]} pixels" in said(
        capsys, "evaluate", "naclip", "--benchmark", "voc", "--root", str(root)
    )
    Image.new("L", size, 77).save(mask)
    assert "holds the id 77" in said(
        capsys, "evaluate", "naclip", "--benchmark", "voc", "--root", str(root)
    )
    mask.write_bytes(good[:40])
    assert f"{stem}.png cannot be read" in said(
        capsys, "evaluate", "naclip", "--benchmark", "voc", "--root", str(root)
    )


def test_bad_runs(
    run: Path, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (broken / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes()[:1000])
    assert "not a complete safetensors file" in said(
        capsys, "segment", str(photo), "--words", "tree", "--model", str(broken)
    )
    (broken / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("format: 2", "format: 7")
    )
    assert "layout version 7" in said(capsys, "evaluate", str(broken))
    assert "not a run folder" in said(capsys, "evaluate", str(tmp_path))
    assert "holds a finished run" in said(capsys, "train", "zegclip", "--out", str(run), *FEW)
    (tmp_path / "half" / "state").mkdir(parents=True)
    (tmp_path / "half" / "state" / "last.ckpt").touch()
    assert "go on with --resume" in said(
        capsys, "train", "zegclip", "--out", str(tmp_path / "half"), *FEW
    )
    assert "another model" in said(
        capsys,
        "train",
        "zegclip",
        "--out",
        str(tmp_path / "n"),
        "--init",
        str(run),
        *FEW,
        "--options.decoder_layers",
        "2",
    )
    torch.save({"a": Path("x")}, tmp_path / "code.pt")
    assert "may run code" in said(
        capsys, "segment", str(photo), "--words", "tree", "--clip", str(tmp_path / "code.pt")
    )


def test_no_place_to_write(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in said(
        capsys, "segment", str(photo), "--words", "tree", "--out", str(tmp_path / "file" / "out")
    )


def test_results_never_replace_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert "choose another folder" in said(
        capsys, "segment", str(tmp_path / "a.png"), "--words", "tree", "--out", str(tmp_path)
    )
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_full_disk_leaves_nothing_behind(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    def full(self: Image.Image, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        error = said(
            capsys, "segment", str(photo), "--words", "tree", "--out", str(tmp_path / "out")
        )
    assert "No space left on device" in error
    assert list((tmp_path / "out").iterdir()) == []
