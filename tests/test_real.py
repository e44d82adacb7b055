"""Real photographs with real masks, where they lie beside the project.

The scores mean nothing; every pixel must be accounted for.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import SHARED
from tiny.commands import FEW, run_command
from unseen.data.benchmarks import BENCHMARKS
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix

SMALL = f"{FEW} --train.workers 0"


def labelled_pixels(root: Path) -> int:
    data = BENCHMARKS["voc"].data("val", root)
    assert len(data) == 53
    return sum(int((data[i].labels != IGNORE).sum()) for i in range(len(data)))


def test_labels_fed_back_score_100(voc_small: Path) -> None:
    bench = BENCHMARKS["voc"]
    data, matrix = bench.data("val", voc_small), ConfusionMatrix(20)
    for i in range(len(data)):
        matrix.update(data[i].labels, data[i].labels)
    scores = matrix.summary(bench.seen_ids, bench.unseen_ids)
    assert {name: scores[name] for name in ("pAcc", "mIoU_S", "mIoU_U", "hIoU")} == {
        "pAcc": 100,
        "mIoU_S": 100,
        "mIoU_U": 100,
        "hIoU": 100,
    }
    assert int(matrix.counts.sum()) == labelled_pixels(voc_small)


@pytest.mark.parametrize("tower", ["doodles", "ViT-B-16-quickgelu/random"])
def test_two_steps_and_an_evaluation(voc_small: Path, tmp_path: Path, tower: str) -> None:
    """With the doodle CLIP, and with real text embeddings of VOC's classes on a random ViT-B/16."""
    run, where = tmp_path / "run", f"--benchmark voc --root {voc_small}"
    side = 64 if tower == "doodles" else 32
    more = f"--train.transforms.crop {side} --train.transforms.resize [{4 * side},{side}]"
    if tower != "doodles":
        more += f" --text-embeddings {SHARED / 'data' / 'clip_text' / 'voc12_single.npy'}"
    run_command("train zegclip", where, f"--clip {tower} --out {run}", SMALL, more)
    run_command(
        f"evaluate {run}",
        where,
        f"--inference.short_side {side} --inference.window {side} --inference.stride {side}",
    )
    report = json.loads((run / "eval-voc" / "report.json").read_text())
    assert report["images"] == 53
    assert (
        sum(map(sum, report["confusion"]["pixels"]))
        == report["pixels"]
        == labelled_pixels(voc_small)
    )


def test_real_text_embeddings_are_the_ones_we_expect() -> None:
    """First values of aeroplane and tvmonitor, and the cosine of cat and dog."""
    import numpy as np

    path = SHARED / "data" / "clip_text" / "voc12_single.npy"
    if not path.exists():
        pytest.skip("the real text embeddings of ../shared/data are not here")
    rows = torch.from_numpy(np.load(path).astype(np.float32))
    assert rows[0, :3].tolist() == pytest.approx([-0.04514, -0.02377, 0.03577], abs=1e-5)
    assert (rows[7] @ rows[11]).item() == pytest.approx(0.9154, abs=1e-3)
