"""What surrounds a verb: outputs that cannot be written, encodings, signals at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny.commands import error_of
from unseen.__main__ import SPINS, main
from unseen.cli import parser

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and Linux's names")


def unseen(
    line: str,
    *,
    stdout: int | Path = subprocess.PIPE,
    stderr: int | Path = subprocess.PIPE,
    **variables: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in a process of its own."""
    streams = [
        stream.open("wb") if isinstance(stream, Path) else stream for stream in (stdout, stderr)
    ]
    return subprocess.run(
        [sys.executable, "-m", "unseen", *line.split()],
        stdout=streams[0],
        stderr=streams[1],
        check=False,
        env={**os.environ, **variables},
        timeout=120,
    )


@ON_LINUX
def test_an_output_that_cannot_be_written() -> None:
    ended = unseen("list methods", stdout=Path("/dev/full"))
    assert ended.returncode == 2
    assert ended.stderr.decode() == (
        "unseen: the output cannot be written (No space left on device); send it elsewhere\n"
    )
    ended = unseen("list nothing", stderr=Path("/dev/full"))
    assert (ended.returncode, ended.stdout) == (2, b"")


def test_threads_wait_asleep_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other processes compute too, threads that spin take the processor from each other."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # taken back after the test, whatever `main` sets
        monkeypatch.delenv(name)
    main(["list", "methods"])
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    main(["list", "methods"])
    assert "GOMP_SPINCOUNT" not in os.environ


def test_a_reader_that_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = unseen("list methods", stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_an_encoding_does_not_have(photo: Path, tmp_path: Path, encoding: str) -> None:
    line = f"segment {photo} --classes [/猫] --out {tmp_path / 'out'}"
    ended = unseen(line, PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout.decode(encoding)
    shown = "猫" if encoding == "utf-8" else "\\u732b"
    assert f"[/{shown}] 100.0 %" in printed


@ON_LINUX
def test_file_names_that_are_no_text(photo: Path, tmp_path: Path) -> None:
    """Names are bytes: those that are not UTF-8 are shown as escapes, and work."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(photo.read_bytes())
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "unseen",
            "segment",
            name,
            "--classes",
            "a",
            "--out",
            tmp_path / "o",
        ],
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "o" / os.fsdecode(b"caf\xe9.json")).exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("seed", range(4))
def test_an_interrupt_at_any_moment(photo: Path, tmp_path: Path, seed: int) -> None:
    """From the first import on there is a sentence, and nothing is half-written."""
    line = f"segment {photo} --classes a --out {tmp_path / 'out'}".split()
    started = time.monotonic()
    # A shell that starts a job in the background lets it ignore Ctrl-C.
    process = subprocess.Popen(
        [sys.executable, "-c", _TOLD, *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    process.stdout.readline()  # Python itself has started
    time.sleep(random.Random(seed).uniform(0, 2))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    if process.returncode != 0:  # it had ended before
        assert process.returncode == 130, (time.monotonic() - started, error)
        assert error == b"unseen: stopped\n"
    left = [path.name for path in tmp_path.rglob("*") if path.name.startswith(".unseen")]
    assert left == []


_TOLD = "print('started', flush=True); from unseen.__main__ import main; main()"


@ON_LINUX
@pytest.mark.parametrize(
    "line",
    [
        "segment {photo} --classes boat --clip /dev/zero",
        "segment {photo} --classes boat --text-embeddings /dev/zero",
        "segment {photo} --classes /dev/zero",
        "segment /dev/zero --classes boat",
        "convert zegclip /dev/zero --benchmark voc",
    ],
)
def test_devices_are_called_what_they_are(
    photo: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    error = error_of(capsys, line.format(photo=photo))
    assert "/dev/zero" in error
    assert "does not exist" not in error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        ImportError("some.so: failed to map segment from shared object"),
    ],
)
def test_no_memory_is_left(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(parser, "_check_words", fail)
    assert "there is not enough memory; give smaller images" in error_of(capsys, "list")


def test_other_errors_of_imports_are_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ImportError("no such name")

    monkeypatch.setattr(parser, "_check_words", fail)
    with pytest.raises(ImportError, match="no such name"):
        parser.main(["list"])
