"""The command line: lines of version 0.1, help, refusals before heavy imports, completion."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import unseen
from tiny.commands import run_command
from unseen.cli.flags import DataFlags, ModelFlags
from unseen.cli.legacy import modernised
from unseen.cli.notices import about_tower, is_doodle
from unseen.cli.parser import VERBS, build, main
from unseen.cli.scoring import ConvertFlags, EvaluateFlags
from unseen.cli.segment_flags import SegmentFlags
from unseen.cli.training import TrainFlags
from unseen.files import about
from unseen.methods.options import argument_docs
from unseen.settings import (
    EvaluationSettings,
    ExtractionSettings,
    InferenceSettings,
    SpectralSettings,
    TrainSettings,
    TransformSettings,
)

SETTINGS = [
    TrainSettings,
    TransformSettings,
    InferenceSettings,
    EvaluationSettings,
    SpectralSettings,
    ExtractionSettings,
    DataFlags,
    ModelFlags,
    TrainFlags,
    EvaluateFlags,
    ConvertFlags,
    SegmentFlags,
]

# ------------------------------------------------------------------- version 0.1

LINES: list[tuple[str, dict[str, Any]]] = [
    ("list", {}),
    ("list clips", {"what": "clips"}),
    ("check zoo", {"source": "zoo"}),
    ("check voc --root VOC2012 --samples 3 --out here", {"root": "VOC2012", "samples": 3}),
    ("pretrain doodles --out runs/doodle-clip --resume", {"world": "doodles", "resume": True}),
    ("pretrain --batch_size 2 --steps 5", {"batch_size": 2, "steps": 5}),
    (
        "train zegclip --benchmark voc --root VOC2012 --out runs/voc",
        {"method": "zegclip", "benchmark": "voc", "out": "runs/voc"},
    ),
    ("train zegclip --published", {"published": True}),
    ("train zegclip --options.num_prompts 3", {"options.num_prompts": 3}),
    ("train zegclip --options.num-prompts 3", {"options.num_prompts": 3}),
    ("train zegclip --options.dropout 1e-1", {"options.dropout": 0.1}),
    ("train zegclip --options.templates single", {"options.templates": "single"}),
    ("train zegclip --options.train_grid [2,3]", {"options.train_grid": [2, 3]}),
    ("train zegclip --options.train_grid null", {"options.train_grid": None}),
    ("train zegclip --options.deep_supervision true", {"options.deep_supervision": True}),
    (
        'train zegclip --options {"num_prompts":3,"scale":"width"} --options.dropout 0',
        {"options.num_prompts": 3, "options.scale": "width", "options.dropout": 0},
    ),
    ("train zegclip --train.steps 12 --train.lr=1e-3", {"train.steps": 12, "train.lr": 1e-3}),
    ("train zegclip --train.batch-size 4", {"train.batch_size": 4}),
    (
        'train zegclip --train {"steps":12,"transforms":{"crop":64}}',
        {"train.steps": 12, "train.transforms.crop": 64},
    ),
    ("train zegclip --train.decay_norms true", {"train.decay_norms": True}),
    ("train zegclip --train.decay_norms false", {"train.decay_norms": False}),
    ("train zegclip --train.decay_norms=true", {"train.decay_norms": True}),
    ("train zegclip --train.clip_norm null", {"train.clip_norm": None}),
    ("train zegclip --train.snapshots [10000]", {"train.snapshots": (10000,)}),
    ("train zegclip --train.snapshots []", {"train.snapshots": ()}),
    ("train zegclip --train.devices 2 --train.strategy ddp", {"train.devices": "2"}),
    ("train zegclip --train.transforms.resize [128,64]", {"train.transforms.resize": (128, 64)}),
    ("train zegclip --train.transforms.resize null", {"train.transforms.resize": None}),
    ("train zegclip --train.transforms.scale [0.5,2]", {"train.transforms.scale": (0.5, 2.0)}),
    ("train zegclip --train.transforms.photometric false", {"train.transforms.photometric": False}),
    (
        "train zegclip --init RUN/step-10000 --train.regime transductive",
        {"init": "RUN/step-10000", "train.regime": "transductive"},
    ),
    ("train zegclip --text_embeddings classes.npy", {"text_embeddings": "classes.npy"}),
    ("train zegclip --text-embeddings classes.npy", {"text_embeddings": "classes.npy"}),
    ("train zegclip --text-embeddings=classes.npy", {"text_embeddings": "classes.npy"}),
    ("train zegclip --train.steps 3 --train.steps 4", {"train.steps": 4}),
    ("train esda --train.unseen_pixels skip", {"train.unseen_pixels": "drop_image"}),
    ("train esda --train.unseen_pixels void", {"train.unseen_pixels": "ignore"}),
    ("train esda --train.unseen-pixels=background", {"train.unseen_pixels": "background"}),
    ("train zegclip --train.pseudo_label_void true", {"train.pseudo_label_ignored": True}),
    ("train zegclip --options.void negative", {"options.ignored_as": "negative"}),
    ('train zegclip --options {"void":"negative"}', {"options.ignored_as": "negative"}),
    ("evaluate runs/a runs/b --root VOC2012", {"models": ["runs/a", "runs/b"], "root": "VOC2012"}),
    ("evaluate --limit 3 naclip", {"models": ["naclip"], "limit": 3}),
    ("evaluate naclip --clip RN50/openai --published", {"clip": "RN50/openai", "published": True}),
    ("evaluate naclip --seeds [0,1,2] --episodes hsnet", {"seeds": (0, 1, 2)}),
    ("evaluate naclip --oracle --released_counts", {"oracle": True, "released_counts": True}),
    ("evaluate naclip --released-counts", {"released_counts": True}),
    ("evaluate naclip --choose-threshold 500", {"choose_threshold": 500}),
    ("evaluate naclip --threshold 0.5 --workers 1", {"threshold": 0.5, "workers": 1}),
    ("evaluate naclip --inference.window 0", {"inference.window": 0}),
    ("evaluate naclip --inference.segments_dir=", {"inference.segments_dir": ""}),
    ("evaluate naclip --inference.segments agreement", {"inference.refinement": "segment_iou"}),
    ("evaluate naclip --inference.segments none", {"inference.refinement": "none"}),
    (
        "evaluate naclip --inference.segments_threshold 0.6",
        {"inference.refinement_threshold": 0.6},
    ),
    (
        "evaluate RUN --inference.canvas 0 --inference.square 512 --inference.plain true",
        {"inference.square": 512, "inference.antialias": False},
    ),
    ("evaluate RUN --inference.plain=false", {"inference.antialias": True}),
    (
        'evaluate RUN --inference {"segments":"agreement","window":64}',
        {"inference.refinement": "segment_iou", "inference.window": 64},
    ),
    (
        "convert clip_rc iter.pth --benchmark voc --out runs/voc --vision_heads 12",
        {"method": "clip_rc", "file": "iter.pth", "benchmark": "voc", "vision_heads": 12},
    ),
    ("convert sazs a.pth --benchmark pascal-5i/0 --regime supervised", {"regime": "supervised"}),
    ("segment a.jpg b --words cat", {"images": ["a.jpg", "b"], "classes": "cat"}),
    ("segment a.jpg --classes cat,dog", {"classes": "cat,dog"}),
    ("segment a.jpg --words=cat --threshold 0.5", {"classes": "cat", "threshold": 0.5}),
    ("segment --words cat a.jpg --model runs/voc", {"images": ["a.jpg"], "model": "runs/voc"}),
    ("eigenvectors photos --png --limit 3", {"png": True, "limit": 3}),
    ("eigenvectors voc --lapnorm false --count 3", {"lapnorm": False, "count": 3}),
    ("eigenvectors voc --split train --cell 8", {"split": "train", "cell": 8}),
    ("prepare voc --from /archives --jobs 2", {"source": "/archives", "jobs": 2}),
    ("prepare voc --root data --check", {"name": "voc", "check": True}),
    ("demo --seed 1 --steps 5 --limit 2 --out there", {"seed": 1, "steps": 5, "limit": 2}),
]


def parsed(line: str) -> dict[str, Any]:
    """The values of a command line, by dotted names; groups without a prefix are flattened."""
    _, bound, _ = build().parse_args(modernised(line.split()), exit_on_error=False)
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if name in ("evaluation", "extraction", "spectral"):
            values |= value
        elif name in ("train", "inference"):
            values |= flat(value, f"{name}.")
        elif hasattr(value, "__dataclass_fields__"):
            values |= flat(vars(value), "")
        else:
            values[name] = value
    return values


def flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return out


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_command_lines_of_0_1(line: str, expected: dict[str, Any]) -> None:
    values = parsed(line)
    for name, value in expected.items():
        got = values[name]
        if isinstance(got, list) and got and isinstance(got[0], Path):
            got = [str(path) for path in got]
        assert (str(got) if isinstance(got, Path) else got) == value, name


def test_only_what_is_given_is_passed_on() -> None:
    assert not {name for name in parsed("train zegclip") if name.startswith("train.")}
    assert {n for n in parsed("evaluate a --inference.window 3") if n.startswith("inf")} == {
        "inference.window"
    }


# -------------------------------------------------------------------------- help


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of a command, without frames and line breaks."""
    capsys.readouterr()
    main(arguments)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_nothing_at_all_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys)
    assert all(verb in out for verb in VERBS)
    assert out == shown(capsys, "--help")


def test_help_of_a_method_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "train", "zegclip", "--help")
    assert "--options.num_prompts INT" in out
    assert "visual prompts" in out
    assert "--train.steps INT Optimiser steps. [default: 400]" in out, "of the recipe"
    again = shown(capsys, "train", "zegclip", "--benchmark", "coco-stuff", "--help")
    assert "[default: 80000]" in again
    assert "[default: ViT-B-16-quickgelu/openai]" in again


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_flag_is_documented(settings: type) -> None:
    docs = argument_docs(settings.__doc__ or "")
    assert [field.name for field in fields(settings) if not docs.get(field.name)] == []


def test_lists_of_one_thing(capsys: pytest.CaptureFixture[str]) -> None:
    method = shown(capsys, "list", "zegclip")
    assert "num_prompts" in method
    assert "0.1" in method
    bench = shown(capsys, "list", "voc")
    assert "pottedplant" in bench
    assert "pascal-5i/3" in shown(capsys, "list", "pascal-5i")


# ----------------------------------------------------------------- cheap refusals

BAD = [
    ("segment nope.jpg --classes cat", "there is no image or folder nope.jpg"),
    ("segment {image} --classes cat,cat", "twice"),
    ("segment {image} --classes cat --threshold 3", "--threshold is 3"),
    ("segment {image} --classes cat --model nothing", "neither a method nor a run folder"),
    ("segment {image} --classes cat --model naclipp", "did you mean 'naclip'?"),
    ("segment {image} --classes cat --out {image}", "is a file, not a folder"),
    ("train zegclip --out {image}", "is a file, not a folder"),
    ("segment {image} --classes cat --model zegclip", "has to be trained first"),
    ("segment {image} --classes cat --out {here}", "choose another folder"),
    ("segment {image} --classes cat --inference.windw 3", "did you mean --inference.window?"),
    ("train zegclp", "did you mean 'zegclip'"),
    ("train naclip", "nothing to train"),
    ("train zegclip --benchmark vocc", "no benchmark called 'vocc'"),
    ("train zegclip --benchmark voc", "--root"),
    ("train zegclip --train.steps 0", "--train.steps is 0"),
    ("train zegclip --train.workers -1", "--train.workers is -1"),
    ("train zegclip --out {here}/run", "holds a finished run"),
    ("evaluate nothing", "neither a method nor a run folder"),
    ("evaluate naclip naclip", "twice"),
    ("evaluate naclip --benchmark voc", "--root"),
    ("evaluate naclip --benchmark vocc", "no benchmark called 'vocc'"),
    ("evaluate naclip --limit 0", "--limit is 0"),
    ("evaluate naclip --inference.window -3", "--inference.window is -3"),
    ("convert zegclp a.pth --benchmark voc", "zegclp"),
    ("convert zegclip nope.pth --benchmark voc", "nope.pth does not exist"),
    ("eigenvectors nothing", "nothing"),
    ("eigenvectors {here} --split train", "--split is for benchmarks"),
    ("eigenvectors {here} --root {here}", "--root is for benchmarks"),
    ("train zegclip --root {here}", "--root {here} would not be used"),
    ("train zegclip --benchmark voc --root {here} --lists {here}", "--lists is for the folds"),
    ("train zegclip --init {here}/none", "none, given with --init, does not exist"),
    ("train zegclip --text-embeddings {here}/none", "given with --text-embeddings"),
    ("evaluate naclip --root {here}", "--root {here} would not be used"),
    ("evaluate naclip --inference.segments_count 3", "--inference.segments_count is given"),
    ("evaluate naclip --oracle --seeds [0,1]", "--seeds is for drawn episodes"),
    ("evaluate naclip --released-counts", "--released-counts is for folds"),
    ("eigenvectors voc --limit 0", "--limit is 0"),
    ("list nothing", "no list of 'nothing'"),
    ("check nothing", "nothing"),
    ("prepare nothing", "nothing"),
    ("demo --steps 0", "--steps is 0"),
    ("trian zegclip", "did you mean 'train'"),
]


REFUSED = """
import contextlib, io, json, sys
from unseen.cli.parser import main
results = []
for line in json.loads(sys.stdin.read()):
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            main(line.split())
            code = 0
        except SystemExit as stopped:
            code = stopped.code
    results.append((code, stderr.getvalue(), "torch" in sys.modules))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, bool, str]]:
    """Exit code, error, whether torch was imported, and the message due, for the lines of `BAD`.

    One process runs them all, so that a line that imports torch makes all lines after it fail.
    """
    folder = tmp_path_factory.mktemp("refusals")
    image = folder / "photo.jpg"
    image.write_bytes(b"")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(f"# {about()}\n")
    (folder / "run" / "weights.safetensors").touch()
    lines = [line.format(image=image, here=folder) for line, _ in BAD]
    command = [sys.executable, "-c", REFUSED]
    ran = subprocess.run(
        command, input=json.dumps(lines), capture_output=True, text=True, cwd=folder, check=True
    )
    messages = [message.format(here=folder) for _, message in BAD]
    return [
        (*result, message) for result, message in zip(json.loads(ran.stdout), messages, strict=True)
    ]


@pytest.mark.parametrize("index", range(len(BAD)), ids=[line for line, _ in BAD])
def test_refusals_before_torch(index: int, refusals: list[tuple[int, str, bool, str]]) -> None:
    code, error, torch_was_imported, message = refusals[index]
    assert code == 2
    assert error.startswith("unseen: ")
    assert error.count("\n") == 1
    assert message in error
    assert not torch_was_imported


@pytest.mark.parametrize(
    "line", ["--help", "train --help", "evaluate --help", "list", "list voc", "completion bash"]
)
def test_answers_without_torch(line: str) -> None:
    code = (
        "import sys, time; from unseen.cli.parser import main\n"
        "main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\n"
        "assert time.process_time() < 5"
    )
    subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, check=True)


# --------------------------------------------------------------------- the doodles


@pytest.mark.parametrize("name", ["tree", "a red house", "Fish", "fish-shaped kite"])
def test_doodles(name: str) -> None:
    assert is_doodle(name)
    assert about_tower("doodles", [name], "give --clip") == ""


@pytest.mark.parametrize("name", ["carpet", "keyboard", "starfish", "sunglasses", "treehouse"])
def test_no_doodles(name: str) -> None:
    """Names of which a doodle's name is a part only."""
    assert f"cannot recognise {name!r}" in about_tower("doodles", ["tree", name], "give --clip")
    assert about_tower("ViT-B-16/openai", [name], "give --clip") == ""


# ---------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"completion {shell}")
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    for flag in ("benchmark", "classes", "train.transforms.crop", "inference.window", "from"):
        assert flag in script


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tra", "train"),
        ("train zegclip --train.st", "--train.steps"),
        ("train zegclip --train.regime tra", "transductive"),
        ("segment a.jpg --cla", "--classes"),
    ],
)
def test_completion_in_bash(words: str, completed: str, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    main(["completion", "bash"])
    typed = ["unseen", *words.split()]
    script = capsys.readouterr().out + (
        f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}\n"
        '_unseen; echo "${COMPREPLY[@]}"\n'
    )
    ran = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert completed in ran.stdout.split()


# ---------------------------------------------------------------------- the package


def test_public_names() -> None:
    public = {
        "Segmenter",
        "Vocabulary",
        "convert",
        "eigenvectors",
        "evaluate",
        "list_benchmarks",
        "list_methods",
        "load",
        "segment",
        "train",
    }
    code = (
        "import sys, unseen; print(*dir(unseen)); assert 'torch' not in sys.modules;"
        "assert 'numpy' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert public <= set(out.stdout.split())
    assert all(callable(getattr(unseen, name)) for name in public)
    assert unseen.list_methods()[0] == "clip"
    assert inspect.signature(unseen.load)
    with pytest.raises(AttributeError, match="'lod'"):
        unseen.lod  # noqa: B018
