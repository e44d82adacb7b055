"""What the documentation says about itself: recomputed numbers follow from the printed ones, named
files exist, named methods are described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unseen.data.benchmarks import BENCHMARKS
from unseen.methods import METHODS
from unseen.metrics import harmonic_mean

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_recomputed_numbers_follow_from_the_printed_ones() -> None:
    rows = re.findall(
        r"^\| [^|]+ \| [^|]+ \| (\d+\.\d) \| (\d+\.\d) \| [^|]+ \| (\d+\.\d) \|",
        (ROOT / "docs" / "results.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) > 15
    for seen, unseen, recomputed in rows:
        assert float(recomputed) == pytest.approx(
            harmonic_mean(float(seen), float(unseen)), abs=0.0501
        )


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_files_named_in_the_docs_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:tests|docs|benchmarks|src|modules|methods|data)/[\w/]+\.(?:py|md|png|yaml))",
        page.read_text(encoding="utf-8"),
    )
    missing = [
        name
        for name in named
        if not any((base / name).exists() for base in (ROOT, ROOT / "src" / "unseen"))
    ]
    assert [name for name in missing if "NAME" not in name] == []


def test_every_method_and_benchmark_is_described() -> None:
    methods, benchmarks = (
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("methods.md", "benchmarks.md")
    )
    assert [name for name in METHODS if f"`{name}`" not in methods] == []
    assert [bench.base for bench in BENCHMARKS.values() if f"`{bench.base}" not in benchmarks] == []
