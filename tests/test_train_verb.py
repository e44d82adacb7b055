"""The verb `train`: what a run folder holds, how training resumes, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unseen
from tiny.commands import FEW, error_of, run_command
from unseen.errors import VocabularyError
from unseen.methods.zegclip import ZegCLIP


def test_train_writes_a_run(run: Path) -> None:
    assert {"config.yaml", "weights.safetensors", "logs"} <= {p.name for p in run.iterdir()}
    config = (run / "config.yaml").read_text()
    assert "num_prompts: 8" in config, "from the recipe"
    assert "steps: 2" in config, "from the command line"


def test_transductive_second_stage_starts_from_a_snapshot(tmp_path: Path) -> None:
    run_command(f"train zegclip --out {tmp_path / 'one'}", FEW, "--train.snapshots [1]")
    run_command(
        f"train zegclip --out {tmp_path / 'two'}",
        FEW,
        f"--train.regime transductive --init {tmp_path / 'one' / 'step-1'}",
    )
    config = (tmp_path / "two" / "config.yaml").read_text()
    assert "regime: transductive" in config
    assert f"init: {tmp_path / 'one' / 'step-1'}" in config
    # A run without a saved state resumes from the weights of --init, which config.yaml names.
    shutil.rmtree(tmp_path / "two" / "state")
    (tmp_path / "two" / "weights.safetensors").rename(tmp_path / "whole.safetensors")
    run_command(
        f"train zegclip --out {tmp_path / 'two'}", FEW, "--train.regime transductive --resume"
    )
    again, whole = (
        load_file(tmp_path / "two" / "weights.safetensors"),
        load_file(tmp_path / "whole.safetensors"),
    )
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_run_is_resumed_with_its_own_settings_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out {tmp_path / 'run'}"
    four = "--train.steps 4 --train.batch_size 2 --train.warmup 0 --train.save_every 2"
    with pytest.MonkeyPatch.context() as patch:  # stopped in its third step
        loss, calls = ZegCLIP.loss, []

        def stop(self: object, *inputs: object) -> object:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return loss(self, *inputs)  # type: ignore[arg-type]

        patch.setattr(ZegCLIP, "loss", stop)
        with pytest.raises(SystemExit) as stopped:
            run_command("train zegclip", out, four)
    assert stopped.value.code == 130
    assert "stopped after step 2; go on from there with --resume" in capsys.readouterr().err
    assert "go on with --resume" in error_of(capsys, "train zegclip", out, four)
    assert "its training did not finish" in error_of(capsys, f"evaluate {tmp_path / 'run'}")
    error = error_of(capsys, "train zegclip", out, four, "--train.lr 0.5 --resume")
    assert "train.lr is 0.003 there and 0.5 here" in error
    assert "model.options.num_prompts is 8 there and 3 here" in error_of(
        capsys, "train zegclip", out, four, "--options.num_prompts 3 --resume"
    )
    run_command("train zegclip", out, four, "--train.log_every 1 --resume")
    assert "is finished, so there is nothing to resume" in error_of(
        capsys, "train zegclip", out, four, "--resume"
    )
    assert "holds no run to go on with" in error_of(
        capsys, f"train zegclip --out {tmp_path / 'typo'}", four, "--resume"
    )


def test_an_interrupt_ends_with_a_message_and_code_130(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ZegCLIP, "loss", stop)
    with pytest.raises(SystemExit) as stopped:
        run_command(f"train zegclip --out {tmp_path / 'run'}", FEW)
    assert stopped.value.code == 130
    assert "nothing was saved yet (--train.save_every), so start again" in capsys.readouterr().err
    monkeypatch.setattr("unseen.predictor.label_maps", stop)
    with pytest.raises(SystemExit) as stopped:
        run_command(f"segment {photo} --classes tree --out {tmp_path / 'out'}")
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "unseen: stopped\n"


def test_text_embeddings_from_a_file(tmp_path: Path) -> None:
    np.save(
        tmp_path / "classes.npy",
        torch.nn.functional.normalize(torch.randn(20, 128), dim=1).half().numpy(),
    )
    run_command(
        f"train zegclip --out {tmp_path / 'run'}",
        FEW,
        f"--text-embeddings {tmp_path / 'classes.npy'}",
    )
    vectors = torch.from_numpy(np.load(tmp_path / "classes.npy")).float()
    (tmp_path / "classes.npy").unlink()
    run_command(f"evaluate {tmp_path / 'run'} --limit 2")
    report = json.loads((tmp_path / "run" / "eval-doodles-first-2" / "report.json").read_text())
    assert report["protocol"]["text_embeddings"] == "classes.npy"
    assert len(report["protocol"]["towers"]["clip"]["fingerprint"]) == 16
    model = unseen.load(str(tmp_path / "run"))
    assert torch.equal(model.encode(["cactus", "tree"]).pooled, vectors[[18, 0]])
    with pytest.raises(VocabularyError, match="none for 'sofa'"):
        model.encode(["tree", "sofa"])


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Two CPU processes see the same batches as one; the weights agree up to rounding."""
    line = "train zegclip --train.steps 2 --train.batch_size 4 --train.warmup 0"
    line += " --train.precision 32-true --options.dropout 0 --options.num_prompts 2"
    run_command(line, f"--out {tmp_path / 'one'}")
    two_processes = f"--train.devices 2 --train.strategy ddp --out {tmp_path / 'two'}"
    subprocess.run(
        [sys.executable, "-m", "unseen", *line.split(), *two_processes.split()],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
    )
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-3
