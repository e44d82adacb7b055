"""A job on a Ray cluster of two workers: the files of a local run, whatever dies."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unseen
from tiny.commands import error_of, run_command
from tiny.deadly import DeadlyJob
from tiny.films import film
from unseen.data.doodles import draw
from unseen.errors import DataError, SettingError, UnseenError
from unseen.labelling.clusters import on_device, run_on_ray
from unseen.labelling.sources import find_items
from unseen.labelling.whole import WholeJob
from unseen.settings import ClusterSettings

ray = pytest.importorskip("ray")
NAMES = "sun,tree,fish"
TWO = ClusterSettings("ray", workers=2)


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty images in two folders, one of which cannot be read, seen from the current folder."""
    monkeypatch.chdir(tmp_path)
    # Workers compute with one thread each, and sums are rounded otherwise with more.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for a job of the tests' own
    for number in range(60):
        file = tmp_path / "in" / "ab"[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(draw(5, number, size=96).image)).save(file)
    (tmp_path / "in" / "a" / "30.png").write_bytes(b"no image")
    return Path("in")


def labelled(folder: Path) -> dict[str, bytes]:
    """What is in a folder, by names."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def workers() -> Iterator[int]:
    """The processes that label, of the cluster that this process has started."""
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes()
        except OSError:
            continue
        process = int(status.parent.name)
        if words.startswith(b"ray::MapWorker") and os.getpid() in ancestors(process):
            yield process


def ancestors(process: int) -> Iterator[int]:
    """The processes that have started a process, its own parent first."""
    while process > 1:
        status = Path(f"/proc/{process}/status").read_text()
        process = int(status.partition("PPid:")[2].split()[0])
        yield process


def test_a_worker_that_dies(photographs: Path) -> None:
    """Its images are labelled by others: each once, with the files of a run without a cluster."""
    model = unseen.load("naclip", inference={"precision": "32-true"})
    text = model.encode(NAMES.split(","))
    items = find_items([photographs, film("film.mp4")], recursive=True)
    local = WholeJob(model, text, Path("local"))
    wanted = dict(local.run(items))
    local.write_index(items)
    spread = WholeJob(model, text, Path("spread"))
    killed: list[int] = []
    found: list[tuple[Any, Any]] = []
    for outcome in run_on_ray(spread, items, TWO, "auto"):
        found.append(outcome)
        if not killed:
            killed = [next(workers())]
            os.kill(killed[0], signal.SIGKILL)
    spread.write_index(items)
    assert killed
    assert [item for item, _ in found] == items
    for item, told in found:
        if item.path.stem == "30":
            assert isinstance(told, DataError)
            assert str(told) == str(wanted[item])
        else:
            assert told == wanted[item]
    assert labelled(Path("spread")) == labelled(Path("local"))


def test_run_again_after_a_stop(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is labelled twice, and nothing is missing."""
    words = [sys.executable, "-m", "unseen", "segment", str(photographs), "--recursive"]
    words += ["--inference.precision", "32-true", "--classes", NAMES]
    words += ["--out", "spread", "--engine", "ray", "--workers", "2"]
    first = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    # What a stopped worker was writing begins with a dot.
    told_in = "[ab]/[0-9]*.json"
    while len(list(Path("spread").glob(told_in))) < 5:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    told = first.communicate(timeout=60)
    assert first.returncode == 130, told
    assert "Traceback" not in told[1]
    stamps = {path: path.stat().st_mtime_ns for path in Path("spread").glob(told_in)}
    assert 5 <= len(stamps) < 59
    second = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert second.returncode == 2, second
    assert f"{len(stamps)} had been labelled with the same settings" in second.stdout
    assert "30.png cannot be read" in second.stderr
    for path, stamp in stamps.items():
        assert path.stat().st_mtime_ns == stamp
    with pytest.raises(SystemExit):
        run_command(*words[3:-5], "local")
    capsys.readouterr()
    assert labelled(Path("spread")) == labelled(Path("local"))
    assert len(list(Path("spread").rglob("*.overlay.png"))) == 59


def test_an_image_that_workers_die_of(photographs: Path) -> None:
    """It is told, and all others are labelled; a defect of the program is not swallowed."""
    files = [photographs / "a" / f"{number:02d}.png" for number in range(0, 8, 2)]
    shutil.copy(files[0], photographs / "deadly.png")
    model = unseen.load("naclip", inference={"precision": "32-true"})
    job = DeadlyJob(model, model.encode(["sun", "tree"]), Path("out"))
    items = find_items([*files, photographs / "deadly.png"])
    found = dict(run_on_ray(job, items, TWO, "auto"))
    assert set(found) == set(items)
    wrong = {
        item.path.stem: str(told) for item, told in found.items() if isinstance(told, UnseenError)
    }
    assert wrong == {"deadly": "the image deadly.png ends the processes that label it"}
    assert len(list(Path("out").glob("*.overlay.png"))) == 4
    shutil.copy(files[0], photographs / "bug.png")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a defect"):
        list(run_on_ray(job, find_items([photographs / "bug.png"]), TWO, "auto"))


def test_maps_travel_too(photographs: Path) -> None:
    pytest.importorskip("rasterio")
    from unseen.labelling.tiles import TiledJob

    model = unseen.load("naclip", inference={"precision": "32-true", "window": 64, "stride": 40})
    text = model.encode(["sun", "tree"])
    maps = find_items([photographs / "b" / "01.png", photographs / "b" / "03.png"])
    local, spread = (TiledJob(model, text, Path(name), side=48) for name in ("local", "spread"))
    assert dict(run_on_ray(spread, maps, TWO, "cpu")) == dict(local.run(maps))
    assert labelled(Path("spread")) == labelled(Path("local"))


def test_what_a_cluster_cannot_do(
    photographs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"segment {photographs} --recursive --classes {NAMES}"
    assert "--workers is for --engine ray" in error_of(capsys, f"{line} --workers 2")
    error = error_of(capsys, f"{line} --engine ray --shard 0/2")
    assert "--engine ray shares the images out itself" in error
    assert "workers is 0" in error_of(capsys, f"{line} --engine ray --workers 0")
    assert "engine is 'dask'" in error_of(capsys, f"{line} --engine dask")
    model = unseen.load("naclip")
    job = WholeJob(model, model.encode(["sun"]), Path("out"))
    items = find_items([photographs], recursive=True)
    with pytest.raises(SettingError, match="room for .* workers; give fewer with --workers"):
        list(run_on_ray(job, items, ClusterSettings("ray", workers=1000), "auto"))
    assert list(run_on_ray(job, [], TWO, "auto")) == []
    assert "--device is 'tpu'" in error_of(capsys, f"{line} --engine ray --device tpu")
    assert "give --worker-gpus" in error_of(capsys, f"{line} --engine ray --device cuda")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(SettingError, match="Ray cluster at 127.0.0.1:1 .* cannot be reached"):
        list(run_on_ray(job, items, TWO, "auto"))
    monkeypatch.setattr("unseen.cli.segment_flags.find_spec", lambda _: None)
    error = error_of(capsys, f"{line} --engine ray")
    assert "--engine ray needs ray; install it with pip install 'unseen[ray]'" in error


def test_a_job_travels(photographs: Path, run: Path) -> None:
    """With the model of a run, and errors that name what they named."""
    model = unseen.load(run)
    job = WholeJob(model, model.encode(["sun", "tree"]), Path("out"), 0.2, batch=2)
    again = on_device(pickle.loads(pickle.dumps(job)), "cpu")
    assert again.made_with == job.made_with
    items = find_items([photographs / "a"])
    for (_, one), (_, other) in zip(job.run(items[:6]), again.run(items[:6]), strict=True):
        assert one == other
    error = pickle.loads(pickle.dumps(DataError("the image")))
    assert isinstance(error, UnseenError)
    assert json.dumps(str(error)) == '"the image"'
