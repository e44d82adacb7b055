"""--published: every resolved field is the released one; what has no protocol is refused."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tiny import write_own, write_voc
from tiny.commands import error_of, run_command
from unseen.cli.notices import about_release
from unseen.data.benchmarks import get_benchmark
from unseen.errors import SettingError
from unseen.evaluation.entries import Changes, Entry, Places, plan_entries
from unseen.methods import METHODS
from unseen.recipes import FROM, published_across, published_on, require_published, resolve
from unseen.runs import Run, save_config
from unseen.settings import ModelSettings
from unseen.sources import find_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return import_module("published")
    finally:
        sys.path.pop(0)


def test_every_field_is_the_released_one(table: ModuleType) -> None:
    rows = list(table.rows())
    assert len(rows) > 1000
    assert [row for row in rows if row[2] not in (row[3], table.NOT_RELEASED)] == []


def test_no_field_is_left_out(table: ModuleType) -> None:
    """Each is compared, off, without effect, or says only how a run goes."""
    assert list(table.left_out()) == []


def test_what_was_not_released_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: ModuleType
) -> None:
    guessed = {
        (method, name.partition("/")[0])
        for method, name, _, values in table.released()
        if table.NOT_RELEASED in values.values()
    }
    noted = {
        (method, name)
        for method in METHODS
        for name in published_on(method)
        if require_published(method, name).note
    }
    assert noted == guessed | {("zegclip", "context-60")}
    assert "no configuration was released" in about_release(
        require_published("zegclip", "context-60").note
    )


def test_every_protocol_is_compared(table: ModuleType) -> None:
    compared = {(method, name.partition("/")[0]) for method, name, _, _ in table.released()}
    offered = {(method, name) for method in METHODS for name in published_on(method)}
    # Of ZegCLIP on Context numbers were published, and no configuration.
    assert offered - compared == {("zegclip", "context-60")}
    assert compared <= offered


def test_every_regime_is_compared_or_noted(table: ModuleType) -> None:
    """Where all classes compete, methods are trained in three regimes."""
    compared = {(method, name, regime) for method, name, regime, _ in table.released()}
    for method, row in METHODS.items():
        for name in published_on(method) if row.trainable else ():
            for regime in ("inductive", "transductive", "supervised"):
                noted = bool(require_published(method, name, regime).note)
                unknown = name in table.GENERALISED and (method, name, regime) not in compared
                assert noted or not unknown, (method, name, regime)


def test_the_page_is_up_to_date(table: ModuleType) -> None:
    page = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    assert page == table.page(), "python benchmarks/published.py > docs/published.md"


@pytest.mark.parametrize(
    ("method", "benchmark"),
    [("zegclip", "doodles"), ("zegclip", "ade20k-150"), ("clip_rc", "context"), ("clip", "voc")],
)
def test_what_was_never_published_is_refused(method: str, benchmark: str) -> None:
    with pytest.raises(SettingError, match=f"{method} has no published protocol for {benchmark}"):
        require_published(method, benchmark)


def test_a_regime_may_have_a_test_of_its_own() -> None:
    windows = {
        regime: require_published("otseg", "context", regime).inference["window"]
        for regime in (None, "inductive", "transductive", "supervised")
    }
    assert windows == {None: 480, "inductive": 480, "transductive": 420, "supervised": 480}
    assert published_on("otseg") == ("voc", "coco-stuff", "context")


def test_a_run_on_another_benchmark_may_have_a_test_of_its_own(tmp_path: Path) -> None:
    """Its windows depend on what it was trained on."""
    run, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()

    def run_tested(method: str, trained: str, on: str) -> Entry:
        bench, model = get_benchmark(trained), ModelSettings(method, "doodles", published=True)
        names, how = bench.class_names, {"regime": "transductive"}
        save_config(run, Run(model, trained, names, names, bench.inference, how))
        return plan_entries([run], on, Places(root=data), Changes(choices={"published": True}))[0]

    for method, trained, on, short_side, window, stride in (
        ("otseg", "coco-stuff", "voc", 512, 512, 380),
        ("otseg", "context", "voc", 512, 480, 80),
        ("otseg", "coco-stuff", "context", 520, 512, 426),
        ("otseg", "context", "coco-stuff", 512, 480, 80),
        ("otseg", "coco-stuff", "ade20k-150", 512, 512, 426),
        ("otseg", "context", "context", 520, 420, 80),
        ("cascade_clip", "coco-stuff", "context", 512, 512, 426),
        ("zegclip", "coco-stuff", "context-60", 512, 512, 426),
    ):
        entry = run_tested(method, trained, on)
        test = entry.inference
        assert (test.short_side, test.window, test.stride) == (short_side, window, stride), on
        assert entry.own is (trained == on)
        words = {"tvmonitor": ("tv monitor",)} if (method, on) == ("otseg", "context") else {}
        assert {x: tuple(y) for x, y in entry.vocabulary.synonyms.items()} == words
        statistics = "clip" if on == "ade20k-150" else None
        assert entry.source.settings.options.get("normalization") == statistics
    for method, trained, on, message in (
        (
            "otseg",
            "voc",
            "context",
            "for runs on voc tested on context.*choose one of runs on coco",
        ),
        ("clip_rc", "coco-stuff", "voc", "for runs on coco-stuff tested on voc.*remove --publ"),
    ):
        with pytest.raises(SettingError, match=message):
            run_tested(method, trained, on)
    with pytest.raises(SettingError, match="for ade20k-150, so .* choose one of voc, coco-stuff, "):
        require_published("otseg", "ade20k-150", "inductive")


def test_every_test_across_data_sets_is_compared(table: ModuleType) -> None:
    offered = {(method, *pair) for method in METHODS for pair in published_across(method)}
    compared = {(m, on, how.removeprefix(FROM)) for m, on, how, _ in table.released("across")}
    assert compared == offered


def test_given_values_win_over_published_ones() -> None:
    model, train = resolve(
        "zegclip",
        "voc",
        model={"published": True, "options": {"start": "aligned"}},
        train={"precision": "bf16-mixed"},
    )
    assert (model.options["start"], train.precision) == ("aligned", "bf16-mixed")
    assert train.decay_norms
    assert not train.transforms.antialias
    ours, settings = resolve("zegclip", "voc")
    assert (ours.published, settings.precision, settings.decay_norms) == (False, "auto", False)


def test_refusals_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out {tmp_path / 'run'}"
    assert "zegclip has no published protocol for doodles" in error_of(
        capsys, f"train zegclip --published {out}"
    )
    assert "clip has no published protocol, so --published" in error_of(
        capsys, f"evaluate clip --published {out}"
    )
    assert "choose one of voc, voc-21" in error_of(capsys, f"evaluate sclip --published {out}")


def test_a_training_free_protocol_through_the_verb(tmp_path: Path) -> None:
    """SCLIP on VOC with the background: words, synonyms, temperature, windows, thresholds."""
    root = write_voc(tmp_path / "VOC2012")
    common = f"--clip doodles --benchmark voc-21 --root {root} --limit 1 --out {tmp_path / 'out'}"
    run_command(f"evaluate sclip --published {common} --inference.short_side 64")
    protocol = json.loads((tmp_path / "out" / "report.json").read_text())["protocol"]
    assert protocol["inference"]["short_side"] == 64, "a given value wins"
    assert (protocol["inference"]["window"], protocol["inference"]["stride"]) == (224, 112)
    assert protocol["inference"]["area_threshold"] == 0.1
    assert protocol["evaluation"]["threshold"] == 0.1
    assert protocol["model"]["options"]["temperature"] == 65.0
    assert protocol["combine"] == "max"
    assert len(protocol["background_words"]) == 26
    assert protocol["synonyms"]["boat"] == ["ship"]
    run_command(f"evaluate sclip --published {common} --inference.short_side 64 --threshold 0.3")
    again = json.loads((tmp_path / "out" / "report.json").read_text())["protocol"]
    assert again["evaluation"]["threshold"] == 0.3


def test_the_tower_is_the_published_one() -> None:
    """Unless another is given."""
    protocol = require_published("sclip", "voc")
    for given, clip in ((None, "ViT-B-16-quickgelu/openai"), ("doodles", "doodles")):
        source = find_model("sclip", {"published": True, "clip": given}).by(protocol)
        assert source.settings.clip == clip


def test_a_published_training_keeps_its_protocol(tmp_path: Path) -> None:
    """Class file, size and settings go into the run folder, and its test follows the protocol."""
    root = write_voc(tmp_path / "VOC2012")
    run = tmp_path / "run"
    run_command(
        f"train zegclip --published --benchmark voc --root {root} --out {run} --clip doodles",
        "--train.steps 1 --train.batch_size 2 --train.workers 0 --train.transforms.crop 64",
        "--options.train_grid [4,4] --train.transforms.resize [128,64]",
    )
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["inference"]["antialias"] is False
    assert stored["train"]["precision"] == "32-true"
    assert stored["train"]["decay_norms"] is True
    assert stored["train"]["transforms"]["hsv"] is True
    run_command(
        f"evaluate {run} --published --root {root} --limit 1 --inference.short_side 64",
        f"--out {tmp_path / 'out'}",
    )
    assert (tmp_path / "out" / "report.json").exists()


def test_every_way_to_draw_exists_on_its_folds() -> None:
    """BAM's draw needs BAM's list, which COCO-20i has not."""
    for method in METHODS:
        for name in published_on(method):
            episodes = require_published(method, name).evaluation.get("episodes", "all")
            assert not (name == "coco-20i" and episodes == "bam"), method


def test_given_episodes_bring_their_own_seeds() -> None:
    protocol = require_published("esda", "pascal-5i/0")
    assert Changes().scoring(protocol).seeds == (923,)
    assert Changes(settings={"episodes": "all"}).scoring(protocol).seeds == (0,)
    assert Changes(settings={"episodes": "hsnet"}).scoring(protocol).seeds == (0,)
    given = {"episodes": "hsnet", "seeds": (1, 2)}
    assert Changes(settings=given).scoring(protocol).seeds == (1, 2)


def test_folders_of_your_own_have_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own(tmp_path / "voc" / "mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="no published protocol for voc/mine"):
        require_published("zegclip", "voc/mine")
