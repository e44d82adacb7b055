"""The door for images: known formats, plain files, sizes judged first, the same pixels anyhow."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unseen.data.own.survey import read_pair
from unseen.data.pairs import Pair
from unseen.errors import DataError
from unseen.image_files import images_in
from unseen.images import MOST_PIXELS, read_image, read_labels, read_pixels

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\nshowpage\n"


def pixels(*shape: int, dtype: Any = np.uint8, high: int = 256) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def write_header(path: Path, width: int, height: int) -> Path:
    """A grey PNG that claims a size and holds no more than a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"0")), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


# ------------------------------------------------------------------ which files


def test_a_program_is_never_handed_to_an_interpreter(tmp_path: Path) -> None:
    """An EPS is a program; Pillow runs Ghostscript on it, whatever the file is called."""
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        script.chmod(0o755)
    image = tmp_path / "photo.jpg"
    image.write_bytes(EPS)
    lines = (
        "from pathlib import Path\n"
        "from unseen.images import read_image, read_labels\n"
        "from unseen.data.own.survey import read_pair\n"
        "from unseen.data.pairs import Pair\n"
        "from unseen.errors import DataError\n"
        f"path = Path({str(image)!r})\n"
        "assert set(read_pair(Pair(path, path)).faults) == {'image', 'labels'}\n"
        "for read in (read_image, read_labels):\n"
        "    try: read(path)\n"
        "    except DataError as error: assert 'not an image' in str(error)\n"
        "    else: raise SystemExit('read')\n"
    )
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([sys.executable, "-c", lines], env={**os.environ, "PATH": path}, check=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, read: Callable[..., Any]) -> None:
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="is not a file; check"):
            read(path)


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / "a.png")


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be looked at .Permission denied."):
        images_in(tmp_path)


def test_what_lies_in_a_folder(tmp_path: Path) -> None:
    """Hidden files are no images; folders in it count only if that is asked for."""
    names = ("a.png", ".a.png", "._a.jpg", "notes.txt", "b.JPG", "in/c.webp", ".trash/d.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert images_in(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert images_in(tmp_path, recursive=True)[2:] == [tmp_path / "in" / "c.webp"]
    with pytest.raises(DataError, match=r"holds no images \(\.jpg, .*\); check the path$"):
        images_in(tmp_path / "empty")


# ------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((13000, 13000), "is too large .13000 x 13000 pixels; at most 25 million."),
        ((60000, 60000), "is too large .*at most 25 million"),
        ((1, 300), "more than 50 times as long as wide; cut it into pieces"),
        ((20000, 3), "more than 50 times as long as wide"),
    ],
)
def test_sizes_are_judged_by_the_header(tmp_path: Path, size: tuple[int, int], told: str) -> None:
    path = write_header(tmp_path / "a.png", *size)
    for read in (read_image, read_labels, read_pixels):
        with pytest.raises(DataError, match=told):
            read(path)
    assert set(read_pair(Pair(path, path)).faults) == {"image", "labels"}


def test_large_enough_for_cameras() -> None:
    assert MOST_PIXELS >= 24_000_000


# ------------------------------------------------------- the same pixels, however given


def ways(path: Path) -> list[NDArray[np.uint8]]:
    """The pixels of a file that is given as a path, a PIL image and an array."""
    with Image.open(path) as image:
        return [read_pixels(path), read_pixels(image), read_pixels(np.asarray(image))]


@pytest.mark.parametrize(
    ("array", "suffix"),
    [
        (pixels(8, 9), "png"),
        (pixels(8, 9, 3), "png"),
        (pixels(8, 9, 4), "png"),
        (pixels(8, 9, 2), "png"),
        (pixels(8, 9, high=2).astype(bool), "png"),
        (pixels(8, 9, dtype=np.uint16, high=65536), "png"),
        (pixels(8, 9, dtype=np.int32, high=65536), "tif"),
        (pixels(8, 9).astype(np.float32) / 255, "tif"),
        (pixels(8, 9).astype(np.float32), "tif"),
    ],
)
def test_a_file_an_image_and_an_array_are_the_same(
    tmp_path: Path, array: NDArray[Any], suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path)
    first, *others = ways(path)
    assert first.shape == (8, 9, 3)
    assert first.std() > 20
    assert all(np.array_equal(first, other) for other in others)


def test_depths_keep_their_brightness(tmp_path: Path) -> None:
    eight = pixels(8, 9)
    Image.fromarray(eight.astype(np.uint16) << 8).save(tmp_path / "deep.png")
    Image.fromarray(eight.astype(np.float32) / 255).save(tmp_path / "unit.tif")
    Image.fromarray(eight.astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("deep.png", "unit.tif", "float.tif"):
        assert np.array_equal(read_pixels(tmp_path / name)[..., 0], eight), name


def test_rotation_holds_for_pil_images_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(8, 20, 3)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        turned = read_pixels(image)
    assert turned.shape == (20, 8, 3)
    assert np.array_equal(turned, read_pixels(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.zeros((0, 5, 3), np.uint8), "the array has 5 x 0 pixels; give one with pixels"),
        (np.zeros((4, 5, 7), np.uint8), r"the shape \(4, 5, 7\); give \(H, W, 3\), RGB"),
        (np.zeros(5), r"the shape \(5,\)"),
        (np.full((4, 5), np.nan), "the array's values are float64 from nan to nan; give 8 or"),
        (np.full((4, 5), -1.0), "values are float64 from -1.0 to -1.0"),
        (np.zeros((4, 5), np.int64), "values are int64 from 0 to 0"),
        (np.zeros((4, 5), complex), "values are complex128"),
        (np.array([["a"]]), "values are"),
        (np.zeros((7000, 7000), np.uint8), "the array is too large .7000 x 7000 pixels"),
        (None, "the image is of type NoneType; give a path, a PIL image, an "),
        (3, "the image is of type int"),
    ],
)
def test_what_is_no_image(given: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_pixels(given)


def test_a_file_of_meaningless_floats(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif cannot be read \(values are float32 from nan"):
        read_image(tmp_path / "a.tif")


def test_pil_images_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels(64, 64, 3)).save(path)
    closed = Image.open(path)
    closed.close()
    with pytest.raises(DataError, match="the PIL image cannot be read .*; open the file again"):
        read_pixels(closed)
    path.write_bytes(path.read_bytes()[:3000])
    with Image.open(path) as cut, pytest.raises(DataError, match="the PIL image cannot be read"):
        read_pixels(cut)


def test_folders_are_searched_for_all_formats(tmp_path: Path) -> None:
    endings = ("jpg", "png", "tif", "webp", "bmp", "ppm", "gif", "jp2")
    for ending in endings:
        Image.new("RGB", (16, 12), (200, 30, 60)).save(tmp_path / f"{ending}.{ending}")
    found = images_in(tmp_path)
    assert [path.stem for path in found] == sorted(endings)
    assert all(read_image(path).shape == (12, 16, 3) for path in found)


# ---------------------------------------------------------------------- addresses


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files in `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_images_are_fetched(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_pixels(f"{server}/a.png") == pixels).all()
    (tmp_path / "page.png").write_text("<html>sign in</html>")
    with pytest.raises(DataError, match=r"page\.png cannot be read \(not an image\)"):
        read_pixels(f"{server}/page.png")
    with pytest.raises(DataError, match=r"no\.png cannot be fetched \(File not found\)"):
        read_pixels(f"{server}/no.png")
    monkeypatch.setattr("unseen.images.MOST_FETCHED", 100)
    with pytest.raises(DataError, match=r"a\.png is too large"):
        read_pixels(f"{server}/a.png")


def test_servers_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unseen.images.FETCH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DataError, match=r"cannot be fetched \(timed out\)"):
            read_pixels(f"http://127.0.0.1:{port}/a.png")
    with pytest.raises(DataError, match="cannot be fetched"):
        read_pixels(f"http://127.0.0.1:{port}/a.png")
    with pytest.raises(DataError, match="cannot be fetched"):
        read_pixels("http://[half/a.png")
