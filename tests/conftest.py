"""Where the fixtures of the released codes are looked for: the full set where it lies beside the project, else `tests/golden`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
FIXTURES = (SHARED / "fixtures", HERE / "golden")


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a fixture."""
    for folder in FIXTURES:
        if (folder / f"{name}.safetensors").exists():
            return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())
    pytest.skip(f"fixture {name} is neither in tests/golden nor in ../shared/fixtures")


@pytest.fixture(scope="session")
def voc_small() -> Path:
    """112 real photographs in VOC's layout, where they lie beside the project."""
    root = SHARED / "data" / "voc_small" / "VOCdevkit" / "VOC2012"
    if not root.is_dir():
        pytest.skip("the real photographs of ../shared/data are not here")
    return root


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
