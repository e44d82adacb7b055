"""The verbs as functions: what every one of them builds, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unseen
from test_flow import FEW, said
from unseen.__main__ import main
from unseen.building import ModelSource, build
from unseen.errors import SettingError
from unseen.methods import OWN, Method
from unseen.methods.training_free import TrainingFree
from unseen.settings import ModelSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two steps on Doodles."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "zegclip", "--benchmark", "doodles", "--out", str(folder), *FEW])
    return folder


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
    place = ["--limit", "1", "--out", str(tmp_path / "out")]
    tower = said(capsys, "evaluate", str(run), "--clip", "ViT-B-32/openai", *place)
    assert "has a tower of its own; remove --clip" in tower
    released = said(capsys, "evaluate", str(run), "--published", *place)
    assert "was trained with its own choices; remove --published" in released
    with pytest.raises(SettingError, match="has a tower of its own"):
        unseen.load(str(run), clip="no-such-tower")
    with pytest.raises(SettingError, match="was trained with its own choices"):
        unseen.load(run, published=True)
    assert not (tmp_path / "out").exists()
