"""The long campaign (make attack): kills, full disks, limits, and every file everywhere."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

import test_convert
import unseen
from hostile import slots
from hostile.children import BUG, start
from hostile.files import photograph
from hostile.judge import CHARACTERS, GIGABYTES, peak, reset_peak
from hostile.tally import TRIED
from hostile.test_hostile import settle, work, world  # noqa: F401 - fixtures
from tiny import archives as tiny_archives
from tiny import write_own
from unseen.backbones.archives import read_state_dict
from unseen.files import UNFINISHED
from unseen.labelling.sources import find_items
from unseen.labelling.whole import WholeJob

pytestmark = [
    pytest.mark.attack,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are copied and limited"),
]


def test_every_file_everywhere(world: slots.World, work: Path) -> None:  # noqa: F811
    settle(slots.cases(world, work), 2000, "files, every kind in every place")


# -------------------------------------------------------------------------- verbs


@dataclass(frozen=True)
class Verb:
    """A command line that writes, and how to see whether its results are right.

    Attributes:
        words: The command line, with OUT for the place of its results.
        again: What to add when it goes on after a kill.
        results: A pattern of its results, which are the same after every uninterrupted run.
        before: What is changed in its process, to make it small.
    """

    words: str
    again: str = ""
    results: str = "*"
    before: Callable[[], None] = lambda: None

    def line(self, out: Path) -> list[str]:
        """The words, for results in this folder."""
        words = self.words.split() + (self.again.split() if has_begun(out) else [])
        return [word.replace("OUT", str(out)) for word in words]


def has_begun(out: Path) -> bool:
    """Whether a stopped run can be resumed."""
    return (out / "config.yaml").exists() or (out / "state" / "last.ckpt").exists()


def _few_held_out_scenes() -> None:
    from unseen.pretrain import Pretraining

    full = Pretraining.accuracy
    Pretraining.accuracy = lambda self: full(self, scenes=20, batch_size=20)  # type: ignore


TRAIN = (
    "train zegclip --out OUT --train.batch_size 2 --train.warmup 0 --train.workers 0"
    " --train.transforms.crop 32 --train.save_every 2 --train.log_every 1 --train.steps"
)


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Verb]]:
    """By name, small versions of all that write."""
    torch.set_num_threads(1)  # threads would not survive in a copy of the process
    folder = tmp_path_factory.mktemp("material")
    (folder / "photos").mkdir()
    for number in range(6):
        photograph(60, 40 + number).save(folder / "photos" / f"{number}.png")
    write_own(folder / "own")
    whole, _, flags = test_convert.checkpoint("zegclip_a")
    torch.save(whole, folder / "a.pth")
    (folder / "archives").mkdir()
    tiny_archives.write_all(folder / "archives")
    small = "--inference.short_side 32 --inference.window 0"
    with pytest.MonkeyPatch.context() as patch:
        tiny_archives.publish(folder / "archives", patch)
        yield {
            "train": Verb(f"{TRAIN} 12", "--resume", "weights.safetensors"),
            "segment": Verb(f"segment {folder / 'photos'} --classes boat,key --out OUT {small}"),
            "prepare": Verb(
                f"prepare voc --root OUT --jobs 1 --from {folder / 'archives'}",
                results="VOCdevkit/**/*",
            ),
            "eigenvectors": Verb(
                f"eigenvectors {folder / 'own' / 'images'} --limit 3 --out OUT",
                results="*.safetensors",
            ),
            "convert": Verb(
                f"convert zegclip {folder / 'a.pth'} --benchmark voc --out OUT {' '.join(flags)}",
                results="*.safetensors",
            ),
            "pretrain": Verb(
                "pretrain --steps 3 --batch-size 4 --out OUT",
                "--resume",
                "doodles.safetensors",
                _few_held_out_scenes,
            ),
        }


NAMES = ("train", "segment", "prepare", "eigenvectors", "convert", "pretrain")


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on one of two file systems."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def results(verb: Verb, out: Path) -> dict[str, str]:
    """The contents of a verb's results, by name; of tensors without what surrounds them."""
    found = {}
    for path in sorted(out.glob(verb.results)):
        # Nothing reads VOC's trainval.txt, so a preparation is complete without it.
        if path.is_file() and not path.name.startswith(".") and path.name != "trainval.txt":
            found[str(path.relative_to(out))] = _digest(path)
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        state = sorted(read_state_dict(path).items())
        content = b"".join(
            name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes()
            for name, tensor in state
        )
    return hashlib.sha256(content).hexdigest()


def unfinished(folder: Path) -> list[str]:
    """What killed processes have left."""
    return [path.name for path in folder.rglob("*") if UNFINISHED.fullmatch(path.name)]


def uninterrupted(verb: Verb, folder: Path) -> tuple[dict[str, str], float]:
    """The results of a run that nobody disturbs, and its seconds."""
    started = time.monotonic()
    child = start(verb.line(folder / "whole"), folder / "log", before=verb.before)
    assert child.wait(300) == 0, child.log.read_text()
    return results(verb, folder / "whole"), time.monotonic() - started


def kill_once(verb: Verb, out: Path, after: float, log: Path) -> bool:
    """Start the verb and kill it after so many seconds; whether it was still running."""
    child = start(verb.line(out), log, before=verb.before)
    code = child.wait(after)
    if code is None:
        child.kill()
        return True
    assert code == 0, log.read_text()
    return False


# -------------------------------------------------------------------------- kills


@pytest.mark.parametrize("name", NAMES)
def test_kills_at_any_moment(verbs: dict[str, Verb], place: Path, name: str) -> None:
    """After each kill what is there is whole; the next run completes it and sweeps up."""
    verb, moments = verbs[name], random.Random(name)
    whole, seconds = uninterrupted(verb, place)
    assert whole
    killed, number = 0, 0
    while killed < KILLS:
        out = place / str(number)
        number += 1
        for _ in range(3):
            stopped = kill_once(verb, out, moments.uniform(0, seconds), place / "log")
            killed += stopped
            TRIED[f"kills of {name}"] += stopped
            assert results(verb, out).items() <= whole.items()
            if results(verb, out) == whole:  # killed behind its last result, or not at all
                break
        else:
            child = start(verb.line(out), place / "log", before=verb.before)
            assert child.wait(300) == 0, child.log.read_text()
            assert unfinished(out) == []
        assert results(verb, out) == whole


KILLS = 25
"""Of each verb on each file system."""


def test_a_hundred_kills_of_one_training(verbs: dict[str, Verb], place: Path) -> None:
    """They end in the weights of an uninterrupted run, to the bit."""
    verb = Verb(f"{TRAIN} 2000", "--resume", "weights.safetensors")
    whole, _ = uninterrupted(verb, place)
    moments, killed, out = random.Random(0), 0, place / "killed"
    while killed < 100:
        assert kill_once(verb, out, moments.uniform(0, 0.35), place / "log"), (
            f"it had ended after {killed} kills"
        )
        killed += 1
        TRIED["kills of one training in a row"] += 1
    child = start(verb.line(out), place / "log")
    assert child.wait(300) == 0, child.log.read_text()
    assert results(verb, out) == whole
    assert unfinished(out) == []


# ------------------------------------------------------- less than there should be


def ends_in_a_sentence(code: int | None, log: Path, about: str = "") -> None:
    """A process has ended well, or with one sentence on what was missing."""
    told = log.read_text()
    assert code in (0, 2), (code, told[-2000:])
    if code == 2:
        sentence = told.strip().splitlines()[-1]
        assert sentence.startswith("unseen: "), told[-2000:]
        assert len(sentence) <= CHARACTERS + len("unseen: ")
        assert about in sentence


@pytest.mark.parametrize("kilobytes", [0, 4, 16, 64, 256, 1024])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(verbs: dict[str, Verb], tmp_path: Path, name: str, kilobytes: int) -> None:
    verb = verbs[name]
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={max(4, kilobytes)}k"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be made here")
    try:
        if not kilobytes:
            (disk / "full").write_bytes(b"0" * 4096)
        whole, _ = uninterrupted(verb, tmp_path)
        TRIED["full disks"] += 1
        child = start(verb.line(disk / "out"), tmp_path / "log", before=verb.before)
        ends_in_a_sentence(child.wait(120), child.log, "free some space")
        assert results(verb, disk / "out").items() <= whole.items()
        assert unfinished(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


LIMITS = {
    "files of 1 kB": (resource.RLIMIT_FSIZE, 1_000),
    "files of 100 kB": (resource.RLIMIT_FSIZE, 100_000),
    "16 open files": (resource.RLIMIT_NOFILE, 16),
    "hardly any memory": (resource.RLIMIT_AS, -20_000_000),
    "little memory": (resource.RLIMIT_AS, -150_000_000),
}
"""By name, a resource and how much of it there is; below 0, how much more than now."""


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", NAMES)
def test_limits(verbs: dict[str, Verb], tmp_path: Path, name: str, limit: str) -> None:
    verb, (kind, most) = verbs[name], LIMITS[limit]
    whole, _ = uninterrupted(verb, tmp_path)
    if most < 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() - most
    TRIED["limits"] += 1
    child = start(verb.line(tmp_path / "out"), tmp_path / "log", {kind: most}, verb.before)
    ends_in_a_sentence(child.wait(120), child.log)
    assert results(verb, tmp_path / "out").items() <= whole.items()


def test_the_harness_sees_bugs(tmp_path: Path) -> None:
    """A traceback is told from a sentence, so that the tests above can fail."""

    def fail() -> None:
        raise ZeroDivisionError

    child = start(["list"], tmp_path / "log", before=fail)
    assert child.wait(60) == BUG
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ends_in_a_sentence(BUG, child.log)


def test_the_largest_image(tmp_path: Path) -> None:
    """Memory stays within its bound on the largest image that is read, with many classes."""
    model = unseen.load("naclip")
    model.segment(photograph(), ["a"])
    names = [f"class {number}" for number in range(40)]
    Image.new("RGB", (5000, 5000), (90, 140, 60)).save(tmp_path / "large.png")
    before = reset_peak()
    model.segment(tmp_path / "large.png", names).save(tmp_path, "result")
    assert (peak() - before) / 1e9 < GIGABYTES


def test_the_largest_images_in_a_row(tmp_path: Path) -> None:
    """While one is labelled, the next is read and the last written."""
    model = unseen.load("naclip")
    text = model.encode([f"class {number}" for number in range(40)])
    model.segment_encoded(photograph(), text)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.new("RGB", (5000, 5000), (90, 140, 60)).save(file)
    before = reset_peak()
    assert len(list(WholeJob(model, text, tmp_path / "results").run(find_items(files)))) == 3
    assert (peak() - before) / 1e9 < 2 * GIGABYTES
