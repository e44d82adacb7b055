"""Damaged and hostile archives, damaged files, and mistakes on the command line."""

from __future__ import annotations

import errno
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tiny import archives as made
from tiny.prepared import refusal, run_prepare
from unseen.data.prepare import DATASETS, prepare, unpack, voc
from unseen.data.prepare.parts import Part
from unseen.data.prepare.preparation import Preparation
from unseen.data.prepare.published import ARCHIVES, Archive
from unseen.errors import DataError, SettingError


def test_a_full_disk_while_unpacking(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(content: object, name: str) -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpack, "_chunks", full)
    root = tmp_path / "data"
    message = refusal(capsys, "ade20k-150", root, archives)
    assert "No space left on device" in message
    assert "free some space" in message
    assert not [p for p in root.rglob("*") if p.is_file()], "no half-written file stays"
    monkeypatch.undo()


def test_damaged_archives(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, key, file in (
        ("voc", "voc2012", "VOCtrainval_11-May-2012.tar"),
        ("voc", "sbd", "benchmark.tgz"),
        ("ade20k-150", "ade", "ADEChallengeData2016.zip"),
    ):
        path, root = archives / file, tmp_path / key
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        message = refusal(capsys, name, root, archives)
        assert f"{path} is not the published file" in message
        assert f"{len(whole) // 2} bytes instead of {len(whole)}" in message
        # Without a published checksum the archive's own structure must show it.
        monkeypatch.setitem(ARCHIVES, key, Archive(file, "page"))
        assert "damaged or cut short" in refusal(capsys, name, root, archives)
        assert not list(root.rglob(".*"))
        path.write_bytes(whole)
        run_prepare(name, root, archives)  # continues
    path = archives / "gtFine_trainvaltest.zip"
    content = bytearray(path.read_bytes())
    place = content.index(b"labelIds.png") + 40
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    monkeypatch.setitem(ARCHIVES, "cityscapes-masks", Archive(path.name, "page"))
    assert "damaged or cut short" in refusal(capsys, "cityscapes", tmp_path / "c", archives)


def hostile(tmp_path: Path, members: list[tarfile.TarInfo]) -> Path:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path


@pytest.mark.parametrize(
    "name",
    ["../../evil.jpg", "/tmp/evil.jpg", "in/../../evil.jpg", "in\\..\\evil.jpg", "C:/evil.jpg"],
)
def test_paths_that_lead_outside(name: str, tmp_path: Path) -> None:
    info = tarfile.TarInfo(name)
    info.size = 3
    parts = [Part("in", tmp_path / "out", (".jpg",), recursive=True)]
    with pytest.raises(DataError, match="outside of its folder"):
        unpack.unpack(hostile(tmp_path, [info]), parts, Preparation(tmp_path))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(DataError, match="outside of its folder"):
        unpack.unpack(tmp_path / "a.zip", parts, Preparation(tmp_path))
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_archives(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("in/a.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=r"holds in/a\.jpg as a link"):
        unpack.unpack(
            hostile(tmp_path, [info]),
            [Part("in", tmp_path / "out", (".jpg",))],
            Preparation(tmp_path),
        )
    link = zipfile.ZipInfo("in/a.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"holds in/a\.jpg as a link"):
        unpack.unpack(
            tmp_path / "a.zip", [Part("in", tmp_path / "out", (".jpg",))], Preparation(tmp_path)
        )
    assert not (tmp_path / "out").exists()


def test_archives_that_grow_out_of_proportion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.jpg", bytes(5000))
    part = Part("in", tmp_path / "out", (".jpg",))
    monkeypatch.setattr(unpack, "LARGEST_FILE", 4000)
    with pytest.raises(DataError, match="far more than belongs in it"):
        unpack.unpack(tmp_path / "a.zip", [part], Preparation(tmp_path))
    with pytest.raises(DataError, match="holds none of the files expected"):
        unpack.unpack(
            tmp_path / "a.zip",
            [Part("elsewhere", tmp_path / "out", (".jpg",))],
            Preparation(tmp_path),
        )
    monkeypatch.undo()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").write_bytes(b"photo")
    with pytest.raises(DataError, match="has 5 bytes, but 5000 in"):
        unpack.unpack(tmp_path / "a.zip", [part], Preparation(tmp_path))
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"photo"


def test_mistakes_on_the_command_line(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "data")
    assert "no data set called 'vok' to prepare; choose one of voc, context" in refusal(
        capsys, "vok", Path(root)
    )
    assert "--jobs is 0" in refusal(capsys, "voc", Path(root), None, "--jobs", "0")
    assert "given with --from, does not exist" in refusal(
        capsys, "voc", Path(root), tmp_path / "no"
    )
    for name in DATASETS:
        assert "nothing to check; run without --check first" in refusal(
            capsys, name, Path(root), None, "--check"
        )
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(capsys, "voc", tmp_path / "file" / "data", archives)
    with pytest.raises(SettingError):
        prepare("vok", tmp_path)


def test_a_folder_that_cannot_be_written(
    archives: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "data"
    (root / "VOCdevkit").mkdir(parents=True)
    (root / "VOCdevkit" / "VOC2012").write_text("a file where a folder belongs")
    message = refusal(capsys, "voc", root, archives)
    assert "another place with --root" in message

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    message = refusal(capsys, "voc", tmp_path / "fixed", archives)
    assert "cannot be written (Read-only file system); choose another place with --root" in message


def test_damaged_files(
    archives: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.mat").write_bytes(b"no matrix")
    for path in (tmp_path / "a.mat", tmp_path / "b.mat"):
        with pytest.raises(DataError, match="SBD's mask .* cannot be read"):
            voc.convert_sbd_mask((path, tmp_path / "a.png"))
    Image.fromarray(made.blocks(0, 44)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="holds the id 44"):
        voc.copy_mask((tmp_path / "m.png", tmp_path / "a.png"))
    assert not (tmp_path / "a.png").exists()
    for key, name, file in (
        ("detail", "context", "trainval_merged.json"),
        ("instances2014", "coco-20i", "annotations_trainval2014.zip"),
    ):
        monkeypatch.setitem(ARCHIVES, key, Archive(file, "page"))
        if file.endswith(".json"):
            deep = "[" * 100_000 + "]" * 100_000
            (archives / file).write_text(deep)
            assert "delete it and run again" in refusal(capsys, name, tmp_path / "deep", archives)
            (archives / file).write_text('{"images": 3}')
        else:
            made.pack(
                archives / file,
                {f"annotations/instances_{split}2014.json": b"[]" for split in ("train", "val")},
            )
        message = refusal(capsys, name, tmp_path / "data", archives)
        assert "delete it and run again" in message
    (archives / "pascal" / "val" / "fold2.txt").write_text("2007_000000__01\n")
    message = refusal(capsys, "pascal-5i", tmp_path / "data", archives)
    assert "is not HSNet's published list" in message
