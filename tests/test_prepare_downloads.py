"""Downloads from a server that breaks off, lies, or knows no ranges."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tiny import archives as made
from tiny.prepared import refusal, run_prepare
from unseen.data.prepare import fetch
from unseen.data.prepare.published import ARCHIVES, Archive


class _Server(BaseHTTPRequestHandler):
    """Serves a folder.

    Attributes:
        folder: The folder.
        breaks: Bytes of a request's answer after which it breaks off.
        wrong: Requests that are answered by zeros.
        ranges: Whether it can start in the middle of a file.
        page: Whether it answers by a web page.
        requested: The ranges of all requests.
    """

    folder: ClassVar[Path]
    breaks: ClassVar[int | None] = None
    wrong: ClassVar[int] = 0
    ranges: ClassVar[bool] = True
    page: ClassVar[bool] = False
    requested: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.folder / self.path.rpartition("/")[2]
        self.requested.append(self.headers.get("Range", ""))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if type(self).page:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>come back later</html>")
            return
        if type(self).wrong:
            type(self).wrong -= 1
            data = bytes(len(data))
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and self.ranges else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : None if self.breaks is None else start + self.breaks])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Server]]:
    handler = type("Handler", (_Server,), {"folder": archives, "requested": []})
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    made.publish(archives, monkeypatch, f"http://127.0.0.1:{served.server_address[1]}")
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    yield handler
    served.shutdown()
    served.server_close()


def test_download_resumes_after_every_break(server: type[_Server], tmp_path: Path) -> None:
    size = (server.folder / "ADEChallengeData2016.zip").stat().st_size
    server.breaks = size // 5
    root = tmp_path / "data"
    run_prepare("ade20k-150", root, None)
    assert server.requested[0] == ""
    assert server.requested[1:] == [
        f"bytes={n * (size // 5)}-" for n in range(1, len(server.requested))
    ]
    assert (root / "downloads" / "ADEChallengeData2016.zip").read_bytes() == (
        server.folder / "ADEChallengeData2016.zip"
    ).read_bytes()
    assert {p.name for p in (root / "downloads").iterdir()} == {"ADEChallengeData2016.zip"}


def test_a_later_run_resumes(
    server: type[_Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, root = "ADEChallengeData2016.zip", tmp_path / "data"
    content = (server.folder / name).read_bytes()
    (root / "downloads").mkdir(parents=True)
    part = root / "downloads" / f"{name}.part"
    part.write_bytes(content[:1000])
    server.breaks = 0
    message = refusal(capsys, "ade20k-150", root)
    assert "could not be downloaded" in message
    assert "are kept, run again to continue" in message
    assert part.read_bytes() == content[:1000]
    server.breaks = None
    run_prepare("ade20k-150", root, None)
    assert server.requested[-1] == "bytes=1000-"


def test_a_web_page_does_not_replace_a_partial_download(
    server: type[_Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, root = "ADEChallengeData2016.zip", tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    part, start = root / "downloads" / f"{name}.part", (server.folder / name).read_bytes()[:1000]
    part.write_bytes(start)
    server.page = True
    message = refusal(capsys, "ade20k-150", root)
    assert "a web page instead of the file" in message
    assert part.read_bytes() == start
    server.page, server.ranges = False, False
    run_prepare("ade20k-150", root, None)


def test_a_server_without_ranges(server: type[_Server], tmp_path: Path) -> None:
    server.ranges, root = False, tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / "ADEChallengeData2016.zip.part").write_bytes(b"something else")
    run_prepare("ade20k-150", root, None)
    assert server.requested == ["bytes=14-"], "the whole file comes in the first answer"
    assert len(list(root.rglob("ADE_*.jpg"))) == 4


def test_wrong_bytes_are_deleted(
    server: type[_Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    (root / "downloads").mkdir(parents=True)
    part = root / "downloads" / "ADEChallengeData2016.zip.part"
    part.write_bytes(b"half of another file")
    run_prepare(
        "ade20k-150", root, None
    )  # wrong with its first half, so fetched once more from the start
    assert server.requested == ["bytes=20-", ""]
    shutil.rmtree(root)
    server.wrong = 1
    message = refusal(capsys, "ade20k-150", root)
    assert "the server's file is not the published one (sha256" in message
    assert not root.exists(), "nothing is kept"
    whole = (server.folder / "ADEChallengeData2016.zip").read_bytes()
    part.parent.mkdir(parents=True)
    part.write_bytes(whole)
    run_prepare("ade20k-150", root, None)  # killed between the last byte and the check
    part.write_bytes(whole + b"x")
    (root / "downloads" / "ADEChallengeData2016.zip").unlink()
    (
        root / "ade" / "ADEChallengeData2016" / "images" / "training" / "ADE_train_00000000.jpg"
    ).unlink()
    run_prepare("ade20k-150", root, None)  # too long


def test_no_network_and_no_such_file(
    server: type[_Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (server.folder / "val2017.zip").unlink()
    message = refusal(capsys, "coco-stuff", tmp_path / "data")
    assert "answer 404" in message
    assert "give its folder with --from" in message
    assert (
        len(list((tmp_path / "data" / "coco_stuff164k" / "images" / "train2017").iterdir())) == 3
    ), "finished files are kept"
    monkeypatch.setitem(
        ARCHIVES, "ade", Archive("a.zip", "the page", ("http://127.0.0.1:9/a.zip",))
    )
    for root in (tmp_path / "data", tmp_path / "new"):
        message = refusal(capsys, "ade20k-150", root)
        assert "Connection refused" in message
        assert "the page" in message
    assert not (tmp_path / "new").exists(), "nothing is left of an attempt without a file"


@pytest.mark.parametrize("name", ["context", "coco-20i"])
def test_pycocotools_is_required_before_a_download(
    name: str,
    server: type[_Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    message = refusal(capsys, name, tmp_path / "data")
    assert "pip install 'unseen[data]'" in message
    assert server.requested == []


def test_a_full_disk_before_a_download(
    server: type[_Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert "free some space" in refusal(capsys, "ade20k-150", tmp_path / "data")
    assert server.requested == []
