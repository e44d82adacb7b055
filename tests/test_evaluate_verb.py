"""The verb `evaluate`: on Doodles and on a tiny VOC in the true layout, with good and bad masks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tiny import write_voc
from tiny.commands import FEW, error_of, run_command
from unseen.data.doodles import draw
from unseen.settings import InferenceSettings


def test_evaluate_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(f"evaluate {run} --limit 6 --out {tmp_path / 'eval'}")
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert report["images"] == 6
    assert report["protocol"]["evaluation"]["oracle"] is False
    assert report["protocol"]["calibrated"] is True
    assert report["protocol"]["train"]["seed"] == 0
    assert (
        sum(map(sum, report["confusion"]["pixels"]))
        == report["pixels"]
        == sum(
            int((draw(3, i, size=96, min_things=2, max_things=4).labels != 255).sum())
            for i in range(6)
        )
    )
    s, u = report["scores"]["mIoU_S"], report["scores"]["mIoU_U"]
    assert report["scores"]["hIoU"] == pytest.approx(2 * s * u / (s + u) if s + u else 0, abs=1e-3)
    assert Image.open(tmp_path / "eval" / "sheet.png").width > 400
    assert not (run / "metrics.json").exists(), "a part of the images is not the run's score"
    assert "hIoU" in capsys.readouterr().out


def test_evaluate_without_training(tmp_path: Path) -> None:
    run_command(
        f"evaluate sclip --limit 3 --out {tmp_path} --inference.window 64",
        "--inference.stride 32 --options.temperature 20",
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["inference"]["window"] == 64
    assert report["protocol"]["calibrated"] is False
    assert report["protocol"]["model"]["options"]["temperature"] == 20


@pytest.mark.parametrize("mode", ["P", "L"])
def test_voc_through_the_verbs(tmp_path: Path, mode: str) -> None:
    write_voc(tmp_path / "VOC2012", mode=mode)
    common = f"--benchmark voc --root {tmp_path / 'VOC2012'}"
    small = "--train.transforms.resize [128,64] --train.transforms.crop 64 --train.workers 0"
    run_command(
        "train zegclip",
        common,
        f"--clip doodles --options.decoder_heads 4 --out {tmp_path / 'run'}",
        FEW,
        small,
    )
    run_command(
        f"evaluate {tmp_path / 'run'}",
        common,
        "--inference.short_side 64 --inference.window 64 --inference.stride 48",
        f"--out {tmp_path / 'eval'}",
    )
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    masks = [
        np.array(Image.open(p))
        for p in sorted((tmp_path / "VOC2012" / "SegmentationClass").iterdir())
    ]
    listed = (tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    named = dict(
        zip(
            (p.stem for p in sorted((tmp_path / "VOC2012" / "SegmentationClass").iterdir())),
            masks,
            strict=True,
        )
    )
    assert report["pixels"] == sum(int(((named[s] > 0) & (named[s] < 255)).sum()) for s in listed)
    assert sum(map(sum, report["confusion"]["pixels"])) == report["pixels"]


def as_json(settings: InferenceSettings) -> dict[str, Any]:
    """Settings as a report holds them."""
    return json.loads(json.dumps(asdict(settings)))


def test_single_inference_flags_keep_the_rest_of_the_protocol(tmp_path: Path) -> None:
    run_command(f"evaluate naclip --limit 1 --out {tmp_path} --inference.window_batch 2")
    stored = json.loads((tmp_path / "report.json").read_text())["protocol"]["inference"]
    assert stored == as_json(InferenceSettings(window=64, stride=32, window_batch=2))
    run_command(f"evaluate naclip --limit 1 --out {tmp_path} --inference.window 0")
    assert (
        json.loads((tmp_path / "report.json").read_text())["protocol"]["inference"]["window"]
        is None
    )


def test_a_run_on_another_benchmark_follows_that_benchmark(run: Path, tmp_path: Path) -> None:
    """With the size and windows of the benchmark, and without calibration."""
    write_voc(tmp_path / "VOC2012")
    run_command(
        f"evaluate {run} --benchmark voc --root {tmp_path / 'VOC2012'}",
        f"--out {tmp_path / 'eval'} --inference.short_side 64",
    )
    protocol = json.loads((tmp_path / "eval" / "report.json").read_text())["protocol"]
    expected = InferenceSettings(short_side=64, window=512, stride=426)
    assert protocol["inference"] == as_json(expected)
    assert protocol["calibrated"] is False


def test_a_bad_mask_in_a_worker_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_voc(tmp_path / "VOC2012")
    stem = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    Image.new("L", (24, 20), 77).save(root / "SegmentationClass" / f"{stem}.png")
    error = error_of(
        capsys,
        f"evaluate naclip --benchmark voc --root {root} --workers 1",
        "--inference.short_side 64",
    )
    assert "holds the id 77" in error
    assert "Traceback" not in error


def test_bad_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "VOC2012"
    write_voc(root)
    stem = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    mask = root / "SegmentationClass" / f"{stem}.png"
    line = f"evaluate naclip --benchmark voc --root {root} --inference.short_side 64"
    good = mask.read_bytes()
    size = Image.open(mask).size
    Image.new("L", (size[0] + 1, size[1])).save(mask)
    assert f"{stem}.png is {size[0] + 1}x{size[1]} pixels" in error_of(capsys, line)
    Image.new("L", size, 77).save(mask)
    assert "holds the id 77" in error_of(capsys, line)
    mask.write_bytes(good[:40])
    assert f"{stem}.png cannot be read" in error_of(capsys, line)
