"""Weights over the network, from a server on this machine that plays the hub and its faults."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from unseen.backbones.hub import cached_file, load_from_hub
from unseen.backbones.timm_weights import create_from_timm
from unseen.backbones.vit import load_keys
from unseen.errors import CheckpointError

REPO, NAME, TITLE = "somebody/tower", "tower.safetensors", "somebody's tower"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NETWORK = "test_vit.r160_in1k"
"""A ViT of timm's own tests, small enough to make its weights here."""


@dataclass
class Hub:
    """A server with some files, and what is wrong with it.

    Attributes:
        files: Bytes by path below the endpoint.
        status: Of every answer; 200 for the files.
        login: Answer everything with a web page.
        drops: How many more answers break off in the middle.
        asked: Requests so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    login: bool = False
    drops: int = 0
    asked: list[str] = field(default_factory=list)

    def add(self, repo: str, name: str, data: bytes) -> None:
        self.files[f"/{repo}/resolve/main/{name}"] = data


class HubServer(ThreadingHTTPServer):
    """A hub at a free port of this machine."""

    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub


class Handler(BaseHTTPRequestHandler):
    """Answers of a `HubServer`."""

    server: HubServer

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.server.hub.asked.append(f"{self.command} {self.path}")
        data = self.server.hub.files.get(self.path)
        if self.server.hub.login:
            self.send(200, b"<html>please log in</html>", body, {})
        elif self.server.hub.status != 200:
            self.send(self.server.hub.status, b"no", body, {})
        elif data is None:
            self.send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
        else:
            self.send_file(data, body)

    def send_file(self, data: bytes, body: bool) -> None:
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        about = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if start:
            about["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(206 if start else 200, data[start:], body, about)

    def send(self, status: int, data: bytes, body: bool, about: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**about, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        if self.server.hub.drops and len(data) > 1:
            self.server.hub.drops -= 1
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """No lines on the screen."""


def use_endpoint(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Let huggingface_hub ask this machine, as HF_ENDPOINT set before its import does."""
    endpoint = f"http://127.0.0.1:{port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    server = HubServer(hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_endpoint(monkeypatch, server.server_port)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    yield hub
    server.shutdown()
    server.server_close()


def weights(folder: Path, size: int = 2000) -> bytes:
    save_file({"a": torch.arange(float(size))}, folder / "made.safetensors")
    return (folder / "made.safetensors").read_bytes()


def loaded() -> torch.Tensor:
    return load_file(cached_file(REPO, [NAME], TITLE))["a"]


def test_a_file_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, NAME, weights(tmp_path))
    first = load_from_hub(REPO, [NAME], TITLE, loaded)
    assert torch.equal(first, torch.arange(2000.0))
    assert hub.asked
    hub.asked.clear()
    hub.status = 500
    assert torch.equal(load_from_hub(REPO, [NAME], TITLE, loaded), first)
    assert hub.asked == [], "what is in the cache needs no network"


def test_a_second_name_stands_in_for_the_first(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, "tower.bin", weights(tmp_path))
    assert cached_file(REPO, [NAME, "tower.bin"], TITLE).name == "tower.bin"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"the hub wants to know who asks \(answer 401\); log in with `hf auth login`"),
        (403, r"the hub refuses access \(answer 403\); accept their terms"),
        (404, r"the hub has no such file \(answer 404\); check their name"),
        (429, r"too many requests from here \(answer 429\); wait some minutes"),
        (500, r"the hub has a fault \(answer 500\); try again later"),
        (503, r"the hub has a fault \(answer 503\); try again later"),
    ],
)
def test_every_answer_has_its_sentence_at_once(hub: Hub, status: int, message: str) -> None:
    hub.status = status
    begin = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as refused:
        cached_file(REPO, [NAME, "tower.bin"], TITLE)
    assert time.monotonic() - begin < 5
    assert str(refused.value).startswith(f"the weights of {TITLE} could not be fetched: ")
    assert str(refused.value).endswith("or give a local file of weights instead")


def test_a_login_page(hub: Hub) -> None:
    hub.login = True
    with pytest.raises(CheckpointError, match="a web page instead of the file, as networks with a"):
        cached_file(REPO, [NAME], TITLE)
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))


def test_no_route(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    use_endpoint(monkeypatch, port)
    with pytest.raises(CheckpointError, match=rf"http://127.0.0.1:{port} cannot be reached \(.*"):
        cached_file(REPO, [NAME], TITLE)


def test_a_network_that_swallows_everything(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes the connection and never answers."""
    monkeypatch.setattr("unseen.backbones.hub.TIMEOUT", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use_endpoint(monkeypatch, silent.getsockname()[1])
        begin = time.monotonic()
        with pytest.raises(CheckpointError, match="cannot be reached .*timed out"):
            cached_file(REPO, [NAME], TITLE)
        assert time.monotonic() - begin < 5


def test_offline_by_choice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set, and they are not in the"):
        cached_file(REPO, [NAME], TITLE)
    assert hub.asked == []


@pytest.mark.parametrize("drops", [1, 3])
def test_broken_off_downloads_go_on(hub: Hub, tmp_path: Path, drops: int) -> None:
    data = weights(tmp_path, 300_000)
    hub.add(REPO, NAME, data)
    hub.drops = drops
    assert cached_file(REPO, [NAME], TITLE).read_bytes() == data
    assert hub.drops == 0


def test_a_damaged_file_in_the_cache_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, NAME, b"x" * 500)
    with pytest.raises(CheckpointError, match="is damaged .*; delete it and run again") as refused:
        load_from_hub(REPO, [NAME], TITLE, loaded)
    path = cached_file(REPO, [NAME], TITLE)
    assert str(path.resolve()) in str(refused.value)
    path.resolve().unlink()
    hub.add(REPO, NAME, weights(tmp_path))
    assert len(load_from_hub(REPO, [NAME], TITLE, loaded)) == 2000


def test_too_little_memory_is_no_damage(hub: Hub, tmp_path: Path) -> None:
    """A good file would be deleted."""

    def load() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    hub.add(REPO, NAME, weights(tmp_path))
    with pytest.raises(RuntimeError, match="allocate memory"):
        load_from_hub(REPO, [NAME], TITLE, load)


def test_networks_of_timm(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_vit")
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    hub.add(f"timm/{NETWORK}", "model.safetensors", (tmp_path / "vit.safetensors").read_bytes())
    fetched = create_from_timm(NETWORK)
    assert torch.equal(fetched.pos_embed, network.pos_embed)
    hub.asked.clear()
    hub.status = 503
    keys = load_keys(f"timm:{NETWORK}")
    assert torch.equal(keys.network.pos_embed, network.pos_embed)
    assert hub.asked == []
    cached = next(Path(constants.HF_HUB_CACHE).rglob("model.safetensors"))
    cached.resolve().write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="the file of timm's test_vit.* is damaged"):
        create_from_timm(NETWORK)
