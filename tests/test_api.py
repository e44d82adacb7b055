"""The verbs as functions: the segmenters they build, and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import unseen
from tiny.commands import FEW, ONE_STEP, error_of, run_command
from unseen.building import build
from unseen.data.benchmarks import get_benchmark
from unseen.data.datasets import DoodleScenes
from unseen.errors import SettingError
from unseen.methods import OWN, Method
from unseen.methods.training_free import TrainingFree
from unseen.settings import EvaluationSettings, InferenceSettings, ModelSettings
from unseen.sources import ModelSource


class SecondNetwork(TrainingFree):
    """A method without training whose second network has weights of its own to load."""

    ready = False

    def initialise(self) -> None:
        self.ready = True


def test_every_segmenter_loads_what_it_starts_from(monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{__name__}:SecondNetwork"
    method = Method(path, "", trainable=False, options={"mode": "naclip"})
    monkeypatch.setitem(OWN, "second", method)
    assert build(ModelSource(ModelSettings("second"))).ready
    model = unseen.load("second")
    assert model.segmenter.ready  # type: ignore[attr-defined]
    assert model.segment(np.zeros((40, 40, 3), dtype=np.uint8), ["tree"]).shares == {"tree": 1.0}


def test_a_run_refuses_another_tower_and_released_choices(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"--limit 1 --out {tmp_path / 'out'}"
    tower = error_of(capsys, f"evaluate {run} --clip ViT-B-32/openai", place)
    assert "has a tower of its own; remove --clip" in tower
    released = error_of(capsys, f"evaluate {run} --published", place)
    assert "was trained with its own choices; remove --published" in released
    with pytest.raises(SettingError, match="has a tower of its own"):
        unseen.load(str(run), clip="no-such-tower")
    with pytest.raises(SettingError, match="was trained with its own choices"):
        unseen.load(run, published=True)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------- evaluation


QUICK = EvaluationSettings(limit=2, shown=0, progress=False)


def test_evaluate_gives_reports_and_writes_them(tmp_path: Path) -> None:
    reports = unseen.evaluate("naclip", settings=QUICK, out=tmp_path / "eval")
    assert [report.title for report in reports] == ["naclip"]
    assert reports[0].folder == tmp_path / "eval"
    stored = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert stored.pop("about").startswith("written by unseen")
    assert stored == json.loads(json.dumps(reports[0].as_dict()))
    assert (stored["format"], stored["images"]) == (2, 2)
    assert stored["protocol"]["evaluation"]["limit"] == 2
    kept = sorted(path.name for path in tmp_path.iterdir())
    again = unseen.evaluate(["naclip", "sclip"], "doodles", settings=QUICK, save=False)
    assert [report.title for report in again] == ["naclip", "sclip"]
    assert again[0].scores == pytest.approx(reports[0].scores, nan_ok=True)
    assert again[0].folder is None
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_only_whole_evaluations_are_the_scores_of_a_run(run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    bench = get_benchmark("doodles")
    few = replace(
        bench, open=lambda root, split: DoodleScenes(3, 2, size=96, min_things=2, max_things=4)
    )
    whole = EvaluationSettings(shown=0, progress=False)
    for settings, changes in (
        (replace(whole, limit=1), {}),
        (whole, {"inference": {"window": 0}}),
        (whole, {"options": {"calibration": 0.1}}),
    ):
        unseen.evaluate(run, few, settings=settings, **changes)
        assert not (run / "metrics.json").exists()
    report = unseen.evaluate(run, few, settings=whole)[0]
    stored = json.loads((run / "metrics.json").read_text())
    assert stored["doodles"] == report.as_dict()["scores"]
    assert stored.keys() == {"about", "doodles"}


def test_reports_of_a_supervised_run_name_the_regime(fold_run: Path, tmp_path: Path) -> None:
    """In every title, whatever the protocol and whatever it is scored on."""
    run = tmp_path / "run"
    run_command(
        f"train esda --benchmark doodles-5i/0 --out {run} --train.regime supervised", ONE_STEP
    )
    for name in ("doodles-5i/0", "doodles-5i/1", "doodles"):
        report = unseen.evaluate(run, name, settings=QUICK, save=False)[0]
        assert report.title == "esda (supervised)"
    assert unseen.evaluate(fold_run, settings=QUICK, save=False)[0].title == "esda"
    both = unseen.evaluate([run, fold_run], settings=QUICK, save=False)
    assert [report.title for report in both] == ["esda (supervised)", "esda"]


def test_reports_of_a_transductive_run_name_the_regime(run: Path, tmp_path: Path) -> None:
    regime = f"--train.regime transductive --init {run}"
    run_command(f"train zegclip --out {tmp_path / 'second'}", FEW, regime)
    report = unseen.evaluate(tmp_path / "second", settings=QUICK, save=False)[0]
    assert report.title == "zegclip (transductive)"


def test_folds_share_one_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def count(source: ModelSource, class_names: tuple[str, ...]) -> object:
        built.append(source)
        return build(source, class_names)

    monkeypatch.setattr("unseen.evaluation.comparison.build", count)
    reports = unseen.evaluate("naclip", "doodles-5i", settings=QUICK, save=False)
    assert [report.benchmark.name for report in reports] == [f"doodles-5i/{i}" for i in range(4)]
    assert len(built) == 1


def test_inference_is_changed_or_replaced(run: Path) -> None:
    own = unseen.load(run).inference
    assert unseen.load(run, inference={"window": 0}).inference == replace(own, window=None)
    assert unseen.load(run, inference={"window": None}).inference == replace(own, window=None)
    whole = InferenceSettings(short_side=48)
    report = unseen.evaluate(run, settings=QUICK, inference=whole, save=False)[0]
    assert report.protocol["inference"] == asdict(whole)
    with pytest.raises(SettingError, match=r"no inference setting 'windw' \(did you mean window\?"):
        unseen.load(run, inference={"windw": 3})
    with pytest.raises(SettingError, match="no inference setting 'windw'"):
        unseen.evaluate(run, inference={"windw": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 0}, "--limit is 0; give a whole number of at least 1"),
        ({"workers": -1}, "--workers is -1; give a whole number of at least 0"),
        ({"threshold": 1.5}, "--threshold is 1.5"),
        ({"seeds": ()}, "--seeds is .*; give a list that is not empty"),
        ({"seeds": (1, 1)}, "give different numbers of 0 or more"),
        ({"seeds": (1, 2)}, "nothing is drawn"),
        ({"choose_threshold": 5, "threshold": 0.5}, "choose first"),
    ],
)
def test_evaluation_settings_that_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        EvaluationSettings(**values)  # type: ignore[arg-type]


def test_images_of_episodes_are_read_by_workers() -> None:
    settings = [replace(QUICK, limit=6, workers=workers) for workers in (0, 2)]
    scores = [
        unseen.evaluate("naclip", "doodles-5i/1", settings=how, save=False)[0].as_dict()["counts"]
        for how in settings
    ]
    assert scores[0] == scores[1]
