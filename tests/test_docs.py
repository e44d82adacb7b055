"""What the documentation says about itself: recomputed numbers follow from the printed ones, named
files exist, named methods are described."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from unseen.data.benchmarks import BENCHMARKS
from unseen.methods import METHODS
from unseen.metrics import harmonic_mean

ROOT = Path(__file__).parents[1]
DOCS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.md"))
URL = "https://github.com/unseen-segmentation/unseen"


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
        r"`((?:tests|docs|benchmarks|src|modules|methods|data|backbones|segments|recipes)/[\w/]+\.(?:py|md|png|yaml))",
        page.read_text(encoding="utf-8"),
    )
    missing = [
        name
        for name in named
        if not any((base / name).exists() for base in (ROOT, ROOT / "src" / "unseen"))
    ]
    assert [name for name in missing if "NAME" not in name] == []


@pytest.mark.parametrize("page", DOCS + EXAMPLES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", DOCS + EXAMPLES, ids=lambda page: page.name)
def test_lines_of_prose_have_100_columns(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    wide = [line for line in lines if len(line) > 100 and not line.startswith(("|", "!["))]
    assert wide == []


def test_code_named_beside_equations_exists() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py"))
    )
    missing = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        tables = re.findall(
            r"^\| what \| where \|\n\|-+\|-+\|\n((?:\|.*\n)+)",
            page.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        for row in "".join(tables).splitlines():
            for name in re.findall(r"`([A-Za-z_][\w.]*)`", row.split("|")[-2]):
                last = name.rpartition(".")[2]
                if not re.search(
                    rf"\b(def|class) {last}\b|\b{last}\b( =|:)|self\.{last}\b", source
                ):
                    missing.append(f"{page.name}: {name}")
    assert missing == []


def test_every_method_and_benchmark_is_described() -> None:
    methods = "".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "methods").glob("*.md")
    )
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if f"`{name}`" not in methods] == []
    assert [bench.base for bench in BENCHMARKS.values() if f"`{bench.base}" not in benchmarks] == []


def test_the_address_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["urls"]["Homepage"] == URL
    assert all(address.startswith(URL) for address in project["urls"].values())
    assert citation["repository-code"] == URL
    assert citation["version"] == project["version"]


def test_every_dependency_is_named_once_with_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[\[<>=]", line)[0].lower() for line in project["dependencies"]]
    printed = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "lowest.py")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(set(names)) == len(names)
    assert set(names) <= {line.partition("==")[0].lower() for line in printed}
