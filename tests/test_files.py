"""Nothing half-written under its final name; images and label maps as they were stored."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from unseen.backbones.archives import write_tensors
from unseen.data.classes import voc_palette
from unseen.errors import DataError
from unseen.files import (
    MARK,
    UNFINISHED,
    about,
    check_replaceable,
    replacing,
    sweep,
    write_json,
    write_labels,
    write_png,
    write_text,
)
from unseen.images import read_image, read_labels
from unseen.runs import Run, save_config
from unseen.settings import InferenceSettings, ModelSettings


def noise(h: int = 12, w: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


def fail_inside(path: Path, error: Exception) -> None:
    with replacing(path) as beside:
        beside.write_text("half")
        raise error


# ------------------------------------------------------------------- replacing


def test_replacing_takes_the_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    with replacing(path) as beside:
        assert beside.parent == path.parent
        assert beside.suffix == ".json"
        beside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        fail_inside(tmp_path / "a.json", RuntimeError("stop"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [RuntimeError("stop"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failing_block_leaves_the_old_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "a.json"
    write_text(path, f"old, {MARK}")
    with pytest.raises((RuntimeError, DataError)):
        fail_inside(path, error)
    assert path.read_text() == f"old, {MARK}"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(
        DataError, match=r"a\.json cannot be written \(No space left on device\); free some space"
    ):
        fail_inside(path, OSError(errno.ENOSPC, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_text(tmp_path / "results" / "a.txt", "text")


def test_the_file_may_be_read_as_any_other(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "ä")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()


def test_the_umask_of_the_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads write at the same time, and a umask set for a moment would hold for all of them."""
    mask = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
            write_text(tmp_path / "a.txt", "a")
            with replacing(tmp_path / "b.safetensors") as beside:
                save_file({"x": np.zeros(3)}, beside)
            write_labels(tmp_path / "c.png", np.zeros((2, 2), dtype=np.uint8), voc_palette())
    finally:
        os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a.txt": 0o640, "b.safetensors": 0o640, "c.png": 0o640}


# ------------------------------------------------------- whose file, what kills leave


def test_files_of_somebody_else_are_never_replaced(tmp_path: Path) -> None:
    """Whatever their name; a file of the program's own is replaced."""
    own = tmp_path / "own"
    write_json(own / "a.json", {"x": 1})
    write_labels(own / "a.png", np.zeros((4, 4), np.uint8), voc_palette())
    write_png(own / "a.overlay.png", Image.fromarray(noise()))
    write_tensors(own / "a.safetensors", {"x": torch.zeros(3)}, {"about": about()})
    save_config(own, Run(ModelSettings(), "doodles", ("a",), ("a",), InferenceSettings()))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in own.iterdir():
        before = path.read_bytes()
        with replacing(path) as beside:
            beside.write_bytes(before)
        (theirs / path.name).write_text("a thesis")
        with pytest.raises(DataError, match="exists and was not written by unseen; move it away"):
            fail_inside(theirs / path.name, RuntimeError("not reached"))
        assert (theirs / path.name).read_text() == "a thesis"
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="was not written by unseen"):
        write_json(tmp_path / "link.json", {})
    with pytest.raises(DataError, match="was not written by unseen"):
        check_replaceable([own / "a.json", tmp_path / "nothing.json", theirs / "a.png"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report.json", b'{\n "format": 1,\n "model": "naclip"'),
        ("config.yaml", b"format: 1\nmodel:\n"),
        ("w.safetensors", b"12345678" + b'{"__metadata__":{"format":"1"},"x"'),
        ("e.safetensors", b"12345678" + b'{"__metadata__":{"unseen":"{}"},"x"'),
    ],
)
def test_files_of_version_0_1_are_own(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    check_replaceable([tmp_path / name])


def test_what_kills_leave_is_swept_up(tmp_path: Path) -> None:
    """The next file written into a folder removes what dead processes left there."""
    lines = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from unseen.files import replacing\n"
        "with replacing(Path(sys.argv[1]) / 'a.png') as beside:\n"
        "    beside.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", lines, tmp_path], check=False).returncode
    (left,) = tmp_path.iterdir()
    assert UNFINISHED.fullmatch(left.name)
    with replacing(tmp_path / "b.png") as beside:  # being written by a living process
        beside.write_text("b")
        machine = beside.name.split("-")[1]
        elsewhere = tmp_path / left.name.replace(machine, "0" * 8)
        elsewhere.write_text("by another machine, now")
        old = tmp_path / left.name.replace(machine, "1" * 8)
        old.write_text("by another machine, long ago")
        os.utime(old, (0, 0))
        other = tmp_path / ".unseen-notes"
        other.write_text("")
        sweep(tmp_path)
        assert set(tmp_path.iterdir()) == {beside, elsewhere, other}


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="would have 257 characters; give what it is named after a sh"
    ):
        write_json(tmp_path / ("a" * 252 + ".json"), {})
    write_json(tmp_path / ("a" * 250 + ".json"), {})  # as long as a name may be


def test_bytes_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def record_fsync(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def record_rename(self: Path, target: Path) -> Path:
        events.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_rename)
    write_json(tmp_path / "a.json", {})
    assert events == ["file", "name", "folder"]


# -------------------------------------------------------------------- images


def test_read_image_keeps_colours(tmp_path: Path) -> None:
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels)


def test_transparency_is_dropped_and_grey_becomes_rgb(tmp_path: Path) -> None:
    pixels = noise()
    alpha = np.arange(240, dtype=np.uint8).reshape(12, 20, 1)
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png"), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(pixels[..., :1], 3, axis=2))
    Image.fromarray(np.concatenate([pixels[..., :1], alpha], axis=2)).save(tmp_path / "la.png")
    assert np.array_equal(read_image(tmp_path / "la.png"), np.repeat(pixels[..., :1], 3, axis=2))


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [15, 255]], dtype=np.uint8)
    write_labels(tmp_path / "a.png", ids, voc_palette())
    assert read_image(tmp_path / "a.png").tolist() == [
        [[0, 0, 0], [128, 0, 0]],
        [[192, 128, 128], [224, 224, 192]],
    ]


def test_upright_only_by_option(tmp_path: Path) -> None:
    pixels = noise()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: show turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_image(tmp_path / "a.png", upright=True), np.rot90(pixels, -1))


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the image .*nowhere\.jpg does not exist; check the path"):
        read_image(tmp_path / "nowhere.jpg")


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(
        DataError,
        match=r"a\.jpg cannot be read \(not an image\); replace the file or leave it out",
    ):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="is not a file"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\.{suffix} cannot be read \(.+\); replace the file"):
        read_image(path)


# ------------------------------------------------------------------ label maps


def test_palette_indices_are_kept(tmp_path: Path) -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(ids)
    image.putpalette([channel for i in range(256) for channel in (255 - i, i // 2, 7)])
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert np.array_equal(read_labels(tmp_path / "a.png"), ids)


def test_grey_and_bilevel_label_maps(tmp_path: Path) -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    assert np.array_equal(read_labels(tmp_path / "grey.png"), ids)
    Image.fromarray(ids > 9).save(tmp_path / "bits.png")
    bits = read_labels(tmp_path / "bits.png")
    assert bits.dtype == np.uint8
    assert np.array_equal(bits, (ids > 9).astype(np.uint8))


def test_label_maps_stored_as_colours_are_refused(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    with pytest.raises(
        DataError,
        match=r"a\.png is stored as RGB colours; save class ids as an 8-bit grey or palette PNG",
    ):
        read_labels(tmp_path / "a.png")


def test_label_maps_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere\.png does not exist; check the data set's folder"
    ):
        read_labels(tmp_path / "nowhere.png")
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)[..., 0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.png cannot be read \(.+\); restore the file"):
        read_labels(path)


def test_written_label_maps_come_back(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).choice(np.array([0, 3, 19, 254, 255], dtype=np.uint8), (9, 14))
    write_labels(tmp_path / "a.png", ids, voc_palette())
    assert np.array_equal(read_labels(tmp_path / "a.png"), ids)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(
            np.array(image.convert("RGB")), np.array(voc_palette(), dtype=np.uint8)[ids]
        )
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(2, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png")[..., 0] == ramp >> 8).all()


def test_grey_labels_of_few_bits_are_refused(tmp_path: Path) -> None:
    """Pillow scales 2- and 4-bit greys, so their ids would change."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00\x1b"))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "two.png").write_bytes(png)
    with pytest.raises(DataError, match="grey PNG of 2 bits"):
        read_labels(tmp_path / "two.png")


def test_a_short_palette_does_not_change_the_ids(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 200, 255]], dtype=np.uint8)
    write_labels(tmp_path / "map.png", labels, [(255, 0, 0), (0, 255, 0)])
    assert (read_labels(tmp_path / "map.png") == labels).all()
