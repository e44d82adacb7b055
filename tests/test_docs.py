"""The documentation: numbers follow from printed ones, files exist, methods are described."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import yaml
from cyclopts import MissingArgumentError

from tiny import tiny_clip
from unseen.cli.legacy import modernised
from unseen.cli.parser import build
from unseen.clip_segmenter import ClipSegmenter
from unseen.data.benchmarks import BENCHMARKS
from unseen.methods import METHODS
from unseen.metrics import harmonic_mean
from unseen.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
DOCS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [
    page for page in sorted((ROOT / "examples").rglob("*.md")) if "node_modules" not in page.parts
]
URL = "https://github.com/unseen-segmentation/unseen"


def test_recomputed_numbers_follow_from_the_printed_ones() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    rows = re.findall(
        r"^\| [^|]+ \| [^|]+ \| (\d+\.\d) \| (\d+\.\d) \| [^|]+ \| (\d+\.\d) \|",
        page.partition("### Without training")[0],
        re.MULTILINE,
    )
    assert len(rows) > 15
    for seen, unseen, recomputed in rows:
        assert float(recomputed) == pytest.approx(
            harmonic_mean(float(seen), float(unseen)), abs=0.0501
        )


@pytest.mark.parametrize("page", DOCS + EXAMPLES, ids=lambda page: page.name)
def test_files_named_in_the_docs_exist(page: Path) -> None:
    """Every `path.py`, from the root, the package, the tests or the page's own folder."""
    named = re.findall(
        r"`([\w./-]+\.py\b|(?:tests|docs|src|recipes)/[\w/]+\.(?:md|png|yaml))",
        page.read_text(encoding="utf-8"),
    )
    bases = (ROOT, ROOT / "src" / "unseen", ROOT / "tests", page.parent)
    missing = [name for name in named if not any((base / name).exists() for base in bases)]
    worked = re.compile("NAME|vvclip|adapter")  # what a reader is about to write
    assert [name for name in missing if not worked.search(name)] == []


@pytest.mark.parametrize("page", DOCS + EXAMPLES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading of it."""
    missing = []
    text = page.read_text(encoding="utf-8")
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(f"{path}#{anchor}")
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of a page, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


def commands(page: Path) -> list[str]:
    """The command lines of `unseen` on a page, in blocks and in the text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fence = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines = [line for block in fence.findall(text) for line in block.splitlines()]
    inline = re.findall(r"`(unseen [a-z][^`]*)`", fence.sub("", text))
    lines = [line.removeprefix(".venv/bin/") for line in lines]
    return [line for line in lines if line.startswith("unseen ")] + inline


@pytest.mark.parametrize("page", DOCS + EXAMPLES, ids=lambda page: page.name)
def test_command_lines_parse(page: Path) -> None:
    """With today's names of flags and values; a mention may lack what a command needs."""
    app = build()
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        today = modernised(words)
        assert " ".join(today).replace("=", " ") == " ".join(words).replace("=", " "), line
        with contextlib.suppress(MissingArgumentError):
            app.parse_args(today, exit_on_error=False, print_error=False)


def test_the_tree_of_the_design_is_the_tree() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tree = page.split("src/unseen/\n")[1].split("```")[0]
    named = set(re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE))
    package = ROOT / "src" / "unseen"
    there = {f"{path.parent.name}/" for path in package.glob("*/*.py")}
    there |= {path.name for path in package.glob("*.py")}
    assert named == there - {"__main__.py"}


@pytest.fixture
def worked() -> dict[str, type[ClipSegmenter]]:
    """The classes of the worked examples of docs/add_method.md, by name."""
    page = (ROOT / "docs" / "add_method.md").read_text(encoding="utf-8")
    classes: dict[str, type[ClipSegmenter]] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        if "ClipSegmenter" in code:
            space: dict[str, Any] = {"__name__": "worked"}
            exec(compile(code, "add_method.md", "exec"), space)
            found = [value for value in space.values() if isinstance(value, type)]
            classes |= {cls.__name__: cls for cls in found if cls.__module__ == "worked"}
    return classes


def test_worked_examples_run(worked: dict[str, type[ClipSegmenter]]) -> None:
    assert set(worked) == {"VVCLIP", "Adapter"}
    for cls in worked.values():
        segmenter = cls(tiny_clip(), **cls.TINY)
        text = segmenter.encode_text(Vocabulary(("tree", "car")))
        prediction = segmenter(torch.rand(2, 3, 37, 24), text)
        assert prediction.resized((37, 24)).shape == (2, 2, 37, 24)
        if cls.trainable:
            labels = torch.randint(0, 2, (2, 37, 24))
            segmenter.loss(prediction, labels)["total"].backward()


def test_the_guide_lists_the_modules_and_what_a_tower_gives() -> None:
    page = (ROOT / "docs" / "add_method.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "src" / "unseen" / "modules").glob("[a-z]*.py")}
    assert set(re.findall(r"^\| `modules/(\w+\.py)`", page, re.MULTILINE)) == files
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src/unseen/modules").glob("*.py")
    )
    held = re.findall(r"^\| `modules/\w+\.py` \| (.*) \|$", page, re.MULTILINE)
    named = re.findall(r"`(\w+)`", "".join(held))
    assert [name for name in named if not re.search(rf"(def|class) {name}\b", source)] == []
    clip = tiny_clip()
    given = re.findall(r"`clip\.(\w+)", page)
    assert len(given) > 10
    assert [name for name in given if not hasattr(clip, name)] == []


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


def test_functions_that_benchmarks_replace_exist() -> None:
    """By name: a benchmark of a function that has moved would end with an error."""
    named = [
        name
        for file in (ROOT / "benchmarks").glob("*.py")
        for name in re.findall(r'"(unseen\.[\w.]+)"', file.read_text(encoding="utf-8"))
    ]
    assert len(named) > 5
    for name in named:
        assert resolve_name(name) is not None
