"""Real photographs with real masks, where they lie beside the project. The numbers mean nothing;
every pixel must be accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import SHARED
from unseen.__main__ import main
from unseen.data.benchmarks import BENCHMARKS
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix

SMALL = [
    "--train.steps",
    "2",
    "--train.batch_size",
    "2",
    "--train.warmup",
    "0",
    "--train.workers",
    "0",
]


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
    """With the doodle CLIP, and with the real text embeddings of VOC's words on a random
    ViT-B/16."""
    run, where = tmp_path / "run", ["--benchmark", "voc", "--root", str(voc_small)]
    crop = "64" if tower == "doodles" else "128"
    more = [
        "--train.transforms.crop",
        crop,
        "--train.transforms.resize",
        f"[{4 * int(crop)},{crop}]",
    ]
    if tower != "doodles":
        more += ["--text-embeddings", str(SHARED / "data" / "clip_text" / "voc12_single.npy")]
    main(["train", "zegclip", *where, "--clip", tower, "--out", str(run), *SMALL, *more])
    main(
        [
            "evaluate",
            str(run),
            *where,
            "--inference.short_side",
            crop,
            "--inference.window",
            crop,
            "--inference.stride",
            str(int(crop) * 3 // 4),
        ]
    )
    report = json.loads((run / "eval-voc" / "report.json").read_text())
    assert report["images"] == 53
    assert (
        sum(map(sum, report["confusion"]["pixels"]))
        == report["pixels"]
        == labelled_pixels(voc_small)
    )


def test_real_text_embeddings_are_the_ones_we_expect() -> None:
    """Anchors of the published file: first values of aeroplane and tvmonitor, cosine of cat and
    dog."""
    import numpy as np

    path = SHARED / "data" / "clip_text" / "voc12_single.npy"
    if not path.exists():
        pytest.skip("the real text embeddings of ../shared/data are not here")
    rows = torch.from_numpy(np.load(path).astype(np.float32))
    assert rows[0, :3].tolist() == pytest.approx([-0.04514, -0.02377, 0.03577], abs=1e-5)
    assert (rows[7] @ rows[11]).item() == pytest.approx(0.9154, abs=1e-3)
