"""Runs on the hub, which a server on this machine plays: pushed, fetched, and what goes wrong."""

from __future__ import annotations

import base64
import json
import shutil
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

import unseen
from test_hub import COMMIT, Handler, Hub, hub
from tiny.commands import error_of, run_command
from unseen.errors import CheckpointError, SettingError
from unseen.sharing import fetch_run, push_run

__all__ = ["hub"]  # the fixture
REPO = "somebody/zebras"


def answer_json(handler: BaseHTTPRequestHandler, content: Any) -> None:
    data = json.dumps(content).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def shared(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that also takes files, and says what it has."""

    def post(handler: Handler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        hub.asked.append(f"POST {handler.path}")
        if handler.path == "/api/repos/create":
            answer_json(handler, {"url": f"{constants.ENDPOINT}/{REPO}", "id": REPO})
        elif handler.path == "/api/validate-yaml":  # the header of a card
            answer_json(handler, {"errors": [], "warnings": []})
        elif "/preupload/" in handler.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            answer_json(handler, {"files": files})
        else:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    put(hub, entry["value"]["path"], base64.b64decode(entry["value"]["content"]))
            told = {
                "commitUrl": f"{constants.ENDPOINT}/{REPO}/commit/{COMMIT}",
                "commitOid": COMMIT,
            }
            answer_json(handler, {**told, "success": True, "pullRequestUrl": None})

    get = Handler.do_GET

    def info(handler: Handler) -> None:
        if not handler.path.startswith("/api/models/"):
            get(handler)
            return
        start = f"/{REPO}/resolve/main/"
        names = [path.removeprefix(start) for path in hub.files if path.startswith(start)]
        if "/tree/" in handler.path:
            tree = [{"type": "file", "path": name, "size": 1, "oid": "abc"} for name in names]
            answer_json(handler, tree)
            return
        siblings = [{"rfilename": name} for name in names]
        answer_json(handler, {"id": REPO, "sha": COMMIT, "siblings": siblings, "tags": []})

    monkeypatch.setattr(Handler, "do_POST", post, raising=False)
    monkeypatch.setattr(Handler, "do_GET", info)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return hub


def put(hub: Hub, name: str, data: bytes) -> None:
    for revision in ("main", COMMIT):
        hub.files[f"/{REPO}/resolve/{revision}/{name}"] = data


def test_a_run_is_pushed_and_loaded(
    run: Path, shared: Hub, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(f"push {run} {REPO} --license mit")
    assert f"others load it as hf://{REPO}@{COMMIT}" in capsys.readouterr().out
    card = shared.files[f"/{REPO}/resolve/main/README.md"].decode()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit"
    assert header["pipeline_tag"] == "image-segmentation"
    assert header["library_name"] == "unseen"
    assert f'unseen.load("hf://{REPO}")' in card
    assert "Known by name alone:" in card
    assert not any("state" in path or "logs" in path for path in shared.files)
    mine, theirs = unseen.load(run), unseen.load(f"hf://{REPO}@{COMMIT}")
    names = ["tree", "fish", "kite"]
    assert (mine.segment(photo, names).labels == theirs.segment(photo, names).labels).all()
    asked = len(shared.asked)
    unseen.load(f"hf://{REPO}@{COMMIT}")
    assert len(shared.asked) == asked, "what is in the cache needs no network"


def test_a_report_of_a_fetched_run_lies_here(
    run: Path, shared: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written into the cache of the hub."""
    push_run(run, REPO, licence="mit")
    folder = fetch_run(f"hf://{REPO}")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.chdir(tmp_path)
    run_command(f"evaluate hf://{REPO} --limit 2")
    assert sorted(path.name for path in folder.iterdir()) == before
    (report,) = (tmp_path / "runs").rglob("report.json")
    assert "somebody-zebras-doodles" in str(report)


def test_what_was_broken_off_is_fetched_again(run: Path, shared: Hub) -> None:
    push_run(run, REPO, licence="mit")
    weights = f"/{REPO}/resolve/{COMMIT}/weights.safetensors"
    kept = shared.files.pop(weights)
    with pytest.raises(CheckpointError):
        fetch_run(f"hf://{REPO}")
    shared.files[weights] = kept
    assert (fetch_run(f"hf://{REPO}") / "weights.safetensors").read_bytes() == kept


def test_what_cannot_be_fetched(shared: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("hf://name", "hf://a/b/c", "hf://a/b@", "hf://../etc"):
        with pytest.raises(SettingError, match="is no address of a run"):
            fetch_run(address)
    error = error_of(capsys, f"evaluate hf://{REPO}")
    assert f"hf://{REPO} could not be fetched: the hub has no such file" in error
    shared.status = 401
    assert "log in with `hf auth login`" in error_of(capsys, f"evaluate hf://{REPO}")
    shared.status, shared.login = 200, True
    assert "answers with a web page" in error_of(capsys, f"evaluate hf://{REPO}")


def test_what_cannot_be_pushed(
    run: Path,
    shared: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "no place on the hub" in error_of(capsys, f"push {run} zebras --license mit")
    assert "--license is 'M I T'" in error_of(capsys, f"push {run} {REPO} --license 'M I T'")
    assert "--license" in error_of(capsys, f"push {run} {REPO}")
    assert "not a run folder" in error_of(capsys, f"push {tmp_path} {REPO} --license mit")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text()
    tower = tmp_path / "tower.pt"
    np.save(tower, np.zeros(1))
    tower = tmp_path / "tower.pt.npy"
    (copy / "config.yaml").write_text(config.replace("clip: doodles", f"clip: ViT-B-16@{tower}"))
    error = error_of(capsys, f"push {copy} {REPO} --license mit")
    assert f"is the file ViT-B-16@{tower}, which others do not have" in error
    (copy / "config.yaml").write_text(config)
    (copy / "metrics.json").write_text("{")
    assert "metrics.json" in error_of(capsys, f"push {copy} {REPO} --license mit")
    (copy / "metrics.json").unlink()
    (copy / "weights.safetensors").unlink()
    assert "end its training" in error_of(capsys, f"push {copy} {REPO} --license mit")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("unseen.sharing.get_token", lambda: None)
    assert "hf auth login" in error_of(capsys, f"push {run} {REPO} --license mit")
