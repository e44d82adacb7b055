"""The verbs `list`, `demo` and `pretrain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tiny.commands import error_of, run_command


@pytest.mark.parametrize("topic", ["all", "methods", "benchmarks", "templates", "clips"])
def test_list(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"list {topic}")
    out = capsys.readouterr().out
    expected = {
        "all": ["zegclip", "doodles", "imagenet"],
        "methods": ["naclip"],
        "benchmarks": ["voc"],
        "templates": ["multi"],
        "clips": ["ViT-B-16-quickgelu/openai"],
    }
    assert all(name in out for name in expected[topic])


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"demo --out {tmp_path / 'demo'} --steps 2 --limit 8")
    scores = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert list(scores) == ["about", "clip", "maskclip", "sclip", "clearclip", "naclip", "zegclip"]
    assert Image.open(tmp_path / "demo" / "demo.png").width > 800
    assert (tmp_path / "demo" / "segmented" / "scene0.overlay.png").exists()
    run_command(f"evaluate {tmp_path / 'demo' / 'run'} --limit 8 --out {tmp_path / 'again'}")
    assert (
        json.loads((tmp_path / "again" / "report.json").read_text())["scores"] == scores["zegclip"]
    )
    run_command(f"demo --out {tmp_path / 'demo'} --steps 1 --limit 1")
    keep = tmp_path / "documents"
    keep.mkdir()
    (keep / "thesis.txt").write_text("dear")
    (keep / "run").mkdir()
    assert "choose another folder" in error_of(capsys, f"demo --out {keep}")
    assert (keep / "thesis.txt").read_text() == "dear"


def test_pretrain_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unseen.pretrain import Pretraining

    monkeypatch.setattr(Pretraining, "accuracy", lambda self: 5.0)
    run_command(f"pretrain doodles --out {tmp_path} --steps 1 --batch-size 4")
    assert (tmp_path / "doodles.safetensors").exists()
    assert "5.0 %" in capsys.readouterr().out
