"""Doodles with few scenes, for tests that train and score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from unseen.data.benchmarks import BENCHMARKS
from unseen.data.datasets import DoodleScenes


def use_few_scenes(patch: pytest.MonkeyPatch) -> None:
    """Twelve scenes of each split."""

    def few(root: Path | None, split: str) -> DoodleScenes:
        return DoodleScenes(5 if split == "train" else 6, 12, size=96, min_things=2, max_things=3)

    patch.setitem(BENCHMARKS, "doodles", replace(BENCHMARKS["doodles"], open=few))
