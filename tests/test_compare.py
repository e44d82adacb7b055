"""Reports side by side: the scores they hold, differences between models, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny import write_voc
from tiny.commands import error_of, run_command
from unseen.compared.bootstrap import Bootstrap
from unseen.compared.stored import Group, check_alike, find_report, grouped, read_report
from unseen.compared.tables import Comparison, class_table, score_table, written
from unseen.errors import DataError, SettingError
from unseen.image_counts import ImageCounter, read_counts, scores_of
from unseen.labels import IGNORE
from unseen.metrics import ConfusionMatrix, EpisodeCounts


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of two methods on the same twelve scenes, and of a fold."""
    folder = tmp_path_factory.mktemp("reports")
    for name in ("naclip", "clip"):
        run_command(f"evaluate {name} --benchmark doodles --limit 12 --out {folder / name}")
    run_command(f"evaluate clip --benchmark doodles-5i/0 --limit 9 --out {folder / 'fold'}")
    return folder


def copied(reports: Path, name: str, to: Path, **changes: Any) -> Path:
    """A report with other training settings, of a run."""
    shutil.copytree(reports / name, to)
    told = json.loads((to / "report.json").read_text())
    scores = changes.pop("scores", {})
    told["scores"] |= scores
    told["protocol"]["train"] = {"seed": 0, "lr": 1e-3, **changes}
    about = told.pop("about")
    (to / "report.json").write_text(json.dumps({"about": about, **told}, indent=1))
    return to


# ----------------------------------------------------------------- single images


def test_single_images_sum_to_the_metric() -> None:
    """For classes that compete, and for episodes."""
    rng = torch.Generator().manual_seed(0)
    matrix, counter = ConfusionMatrix(5), ImageCounter("classes")
    for number in range(6):
        truth, guess = (torch.randint(0, 5, (9, 8), generator=rng) for _ in range(2))
        truth[0], guess[1] = IGNORE, IGNORE
        guess[2:] = truth[2:]
        counter.add(str(number), matrix.update(guess, truth).numpy())
    sums = counter.done().dense(5).sum(axis=0)[None]
    made = scores_of(sums, "classes", [0, 1, 2], [3, 4])
    for name, value in matrix.summary([0, 1, 2], [3, 4]).items():
        if name in made:
            assert made[name][0] == pytest.approx(value)
    assert set(made) == {"mIoU", "mIoU_S", "mIoU_U", "hIoU"}
    episodes, counter = EpisodeCounts(5), ImageCounter("episodes")
    for class_id in (3, 4, 3):
        truth = torch.randint(0, 2, (9, 8), generator=rng)
        guess = torch.randint(0, 2, (9, 8), generator=rng).bool()
        counter.add("a", episodes.update(guess, truth, class_id).numpy(), class_id)
    made = scores_of(counter.done().dense(5).sum(axis=0)[None], "episodes", [0, 1, 2], [3, 4])
    assert {name: value[0] for name, value in made.items()} == pytest.approx(
        episodes.summary([0, 1, 2], [3, 4])
    )


def test_a_report_keeps_what_every_image_adds(reports: Path) -> None:
    for name, scores in (("naclip", ("mIoU", "hIoU")), ("fold", ("mIoU", "FB_IoU"))):
        report = read_report(reports / name)
        counts = report.read_counts()
        assert counts is not None
        sums = counts.dense(len(report.class_names)).sum(axis=0)[None]
        unseen = report.unseen_ids
        seen = [i for i in range(len(report.class_names)) if i not in unseen]
        made = scores_of(sums, counts.kind, seen, unseen)
        for score in scores:
            assert made[score][0] == pytest.approx(report.scores[score], abs=1e-3)


def test_damaged_counts_are_told(reports: Path, tmp_path: Path) -> None:
    shutil.copytree(reports / "clip", tmp_path / "a")
    (tmp_path / "a" / "images.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="images.safetensors cannot be read"):
        read_counts(tmp_path / "a" / "images.safetensors")


# ------------------------------------------------------------------ differences


def test_the_interval_holds_what_resampling_gives(reports: Path) -> None:
    """A model differs from itself by nothing; from another one, clearly or not, by its scores."""
    one, other = (Group(name, (read_report(reports / name),)) for name in ("naclip", "clip"))
    same = Bootstrap(one).differences(one)
    assert same is not None
    assert all(each.value == each.low == each.high == 0 for each in same.values())
    made = Bootstrap(other).differences(one)
    assert made is not None
    for name in ("mIoU", "mIoU_S", "hIoU"):
        wanted = one.reports[0].scores[name] - other.reports[0].scores[name]
        assert made[name].value == pytest.approx(wanted, abs=2e-3)
        assert made[name].low <= made[name].value <= made[name].high
    assert Bootstrap(other, seed=1).differences(one) != made
    assert Bootstrap(other).differences(one) == made


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of two models of equal quality, zero is left out by about one interval in twenty."""
    rng, outside = np.random.default_rng(0), 0
    for turn in range(100):
        groups = []
        for name in ("a", "b"):
            hits = rng.binomial(100, 0.5, size=(40, 2))
            counter = ImageCounter("classes")
            for i, (x, y) in enumerate(hits):
                counter.add(str(i), np.array([[x, 100 - x, 0], [100 - y, y, 0]]))
            groups.append(Group(name, (_Held(counter.done()),)))  # type: ignore[arg-type]
        made = Bootstrap(groups[1], seed=turn).differences(groups[0])
        assert made is not None
        outside += made["mIoU"].is_clear
    assert 1 <= outside <= 13


class _Held:
    """A report whose counts are at hand."""

    class_names, seen_ids, unseen_ids = ("x", "y"), (0,), (1,)

    def __init__(self, counts: Any) -> None:
        self.counts = counts

    def read_counts(self) -> Any:
        return self.counts


# ----------------------------------------------------------------------- tables


def test_seeds_share_a_row(reports: Path, tmp_path: Path) -> None:
    folders = [
        copied(reports, "clip", tmp_path / f"seed-{seed}", seed=seed, scores={"hIoU": 10.0 + seed})
        for seed in (0, 1, 2)
    ]
    folders.append(copied(reports, "clip", tmp_path / "other", lr=5e-4, scores={"hIoU": 20.0}))
    groups = grouped([find_report(folder) for folder in folders])
    assert [len(group.reports) for group in groups] == [3, 1]
    table = score_table(groups)
    place = table.heads.index("hIoU")
    assert [str(row[place]) for row in table.rows] == ["11.0 ± 1.0", "20.0"]
    titles = [str(row[0]) for row in table.rows]
    assert len(set(titles)) == 2
    assert titles[1].endswith("(other)")
    assert str(table.rows[1][-1]).startswith("+0.0 [")  # the counts are those of the same report


def test_the_command(reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = f"{reports / 'naclip'} {reports / 'clip'}"
    run_command(f"compare {both} --format csv --classes --chart {tmp_path / 'bars.png'}")
    out = capsys.readouterr().out
    scores, classes = out.strip().split("\n\n")
    rows = list(csv.DictReader(io.StringIO(scores)))
    assert [row["model"] for row in rows] == ["naclip", "clip"]
    wanted = read_report(reports / "clip").scores["hIoU"]
    # For programs, a column for each number.
    assert float(rows[1]["hIoU"]) == pytest.approx(wanted)
    assert rows[0]["hIoU against naclip"] == ""
    value, low, high = (
        float(rows[1][f"hIoU against naclip{part}"]) for part in ("", " low", " high")
    )
    assert low < value < high
    lines = list(csv.DictReader(io.StringIO(classes)))
    assert len(lines) == 20
    assert sum("(unseen)" in line["class"] for line in lines) == 5
    with Image.open(tmp_path / "bars.png") as bars:
        assert bars.width > 400
    run_command(f"compare {both} --format md")
    first = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in first}) == 1, "columns are aligned"
    assert first[1].endswith("-: |")
    run_command(f"compare {both}")
    shown = capsys.readouterr().out
    assert "hIoU against naclip" in shown, "nothing is cut or folded"
    assert "…" not in shown
    run_command(f"compare {reports / 'fold'}")
    assert "FB-IoU" in capsys.readouterr().out


def test_latex_and_markdown_take_names_as_they_are() -> None:
    table = Comparison(("model", "mIoU"), (("a_b & 50 %", "1.0 ± 0.1"), ("x|y", "2.0")))
    tex = written(table, "tex").splitlines()
    assert tex[0] == r"\begin{tabular}{lr}"
    assert r"a\_b \& 50 \% & 1.0 $\pm$ 0.1 \\" in tex
    assert written(table, "md").splitlines()[3] == r"| x\|y       |       2.0 |"


def test_no_torch_is_imported(reports: Path) -> None:
    code = (
        "import sys; from unseen.__main__ import main; main(sys.argv[1:]);"
        " assert 'torch' not in sys.modules"
    )
    words = [sys.executable, "-c", code, "compare", str(reports / "clip"), "--format", "csv"]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


# --------------------------------------------------------------------- refusals


def test_what_was_scored_otherwise_is_refused(
    reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(f"evaluate clip --benchmark doodles --limit 12 --threshold 0.1 --out {tmp_path}")
    line = f"compare {reports / 'clip'} {tmp_path}"
    error = error_of(capsys, line)
    assert "different protocols: evaluation.threshold is None there and 0.1 here" in error
    run_command(line, "--mixed --format csv")
    assert "against" not in capsys.readouterr().out
    error = error_of(capsys, f"compare {reports / 'clip'} {reports / 'fold'}")
    assert "scored by different protocols" in error


def test_what_is_no_report(
    reports: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no report in" in error_of(capsys, f"compare {tmp_path}")
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval-*"))
    assert "has no report; score it with unseen" in error_of(capsys, f"compare {tmp_path / 'run'}")
    shutil.copytree(reports / "clip", tmp_path / "half")
    content = (tmp_path / "half" / "report.json").read_text()
    (tmp_path / "half" / "report.json").write_text(content[: len(content) // 2])
    assert "report.json" in error_of(capsys, f"compare {tmp_path / 'half'}")
    told = json.loads(content)
    (tmp_path / "half" / "report.json").write_text(json.dumps({**told, "format": 1}))
    assert "is not a whole report of version 2 (it says 1)" in error_of(
        capsys, f"compare {tmp_path / 'half'}"
    )
    error = error_of(capsys, f"compare {reports / 'clip'} {reports / 'clip'}")
    assert "is given twice" in error
    shutil.copytree(reports / "clip", tmp_path / "again")
    error = error_of(capsys, f"compare {reports / 'clip'} {tmp_path / 'again'}")
    assert "are the same model with the same seed" in error
    assert "--chart is" in error_of(capsys, f"compare {reports / 'clip'} --chart bars.pdf")


def test_reports_without_single_images_have_no_difference(
    reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("naclip", "clip"):
        shutil.copytree(reports / name, tmp_path / name)
        (tmp_path / name / "images.safetensors").unlink()
    run_command(f"compare {tmp_path / 'naclip'} {tmp_path / 'clip'} --format csv")
    told = capsys.readouterr()
    assert "no differences where reports are of an earlier version" in told.err
    assert "[" not in told.out


def test_python(reports: Path) -> None:
    found = [find_report(reports / name) for name in ("naclip", "clip")]
    check_alike(found)
    table = class_table(grouped(found))
    assert table.heads == ("class", "naclip", "clip")
    with pytest.raises(SettingError, match="several reports"):
        find_report(_with_two(reports))


def _with_two(reports: Path) -> Path:
    place = reports / "run"
    for name in ("eval-a", "eval-b"):
        if not (place / name).exists():
            shutil.copytree(reports / "clip", place / name)
    return place


# ------------------------------------------------- what is one model, and what one image


def test_settings_are_no_seeds(reports: Path, tmp_path: Path) -> None:
    """Another batch or precision in training is another model, another number of workers is not."""
    made = {
        name: read_report(copied(reports, "clip", tmp_path / name, seed=seed, **given))
        for name, seed, given in [
            ("a", 0, {"batch_size": 8, "workers": 0}),
            ("b", 1, {"batch_size": 8, "workers": 4}),
            ("c", 1, {"batch_size": 16, "workers": 0}),
            ("d", 1, {"batch_size": 8, "workers": 0, "precision": "32-true"}),
        ]
    }
    groups = grouped(list(made.values()))
    assert [[each.folder.name for each in group.reports] for group in groups] == [
        ["a", "b"],
        ["c"],
        ["d"],
    ]


def test_one_model_scored_in_two_ways(reports: Path, tmp_path: Path) -> None:
    """Refused side by side; and with --mixed two rows."""
    shutil.copytree(reports / "clip", tmp_path / "other")
    path = tmp_path / "other" / "report.json"
    told = json.loads(path.read_text())
    told["protocol"]["inference"]["window"] = 48
    path.write_text(json.dumps(told, indent=1))
    both = [read_report(reports / "clip"), read_report(tmp_path / "other")]
    with pytest.raises(SettingError, match=r"inference\.window is .*; compare what is alike"):
        check_alike(both)
    with pytest.raises(SettingError, match="same model with the same seed"):
        grouped(both)
    assert len(grouped(both, mixed=True)) == 2


def test_a_background_is_no_seen_class(tmp_path: Path) -> None:
    """Where it is scored: differences are those of the columns beside them, for every score."""
    root = write_voc(tmp_path / "VOC2012", size=(60, 80), count=8)
    line = f"--benchmark voc-21 --root {root} --clip doodles --inference.short_side 64"
    line += " --inference.window 64 --inference.stride 64 --threshold 0.06"
    groups = []
    for name in ("clip", "naclip"):
        run_command(f"evaluate {name} {line} --out {tmp_path / name}")
        groups.append(Group(name, (read_report(tmp_path / name),)))
    assert groups[0].reports[0].class_names[-1] == "background"
    made = Bootstrap(groups[0]).differences(groups[1])
    assert made is not None
    one, other = (group.reports[0].scores for group in groups)
    for name in ("mIoU", "mIoU_S", "mIoU_U", "hIoU"):
        assert made[name].value == pytest.approx(other[name] - one[name], abs=1e-3)


def test_few_images_have_no_interval(reports: Path, tmp_path: Path) -> None:
    for name in ("clip", "naclip"):
        run_command(f"evaluate {name} --benchmark doodles --limit 3 --out {tmp_path / name}")
    groups = [Group(name, (read_report(tmp_path / name),)) for name in ("clip", "naclip")]
    last = str(score_table(groups).rows[1][-1])
    assert re.fullmatch(r"[+-]\d+\.\d", last)


def test_episodes_of_an_image_are_drawn_together(reports: Path) -> None:
    """They share what is hard in it: it is drawn, or not, with all of them."""
    made = Bootstrap(Group("fold", (read_report(reports / "fold"),)))
    images = [name.rpartition(" ")[0] for name in made.names]
    assert len(set(images)) < len(images)
    assert made.images == len(set(images))
    for image in set(images):
        places = [place for place, name in enumerate(images) if name == image]
        assert (made.weights[:, places] == made.weights[:, places[:1]]).all()
    drawn = made.weights[1:, [images.index(image) for image in sorted(set(images))]]
    assert (drawn.sum(axis=1) == made.images).all()


def test_a_class_of_no_episode_in_a_draw() -> None:
    """It is left out there; one that has no episode at all counts 0, as in the score."""
    sums = np.zeros((2, 4, 4))
    sums[0, 1] = sums[1, 1] = [5, 10, 3, 6]
    sums[0, 2] = [5, 10, 6, 6]
    made = scores_of(sums, "episodes", [0], [1, 2, 3])
    assert made["mIoU"].tolist() == pytest.approx([100 * 1.5 / 3, 100 * 0.5 / 2])
