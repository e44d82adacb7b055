"""The site: it is built without a warning, its links lead somewhere, and its commands run.

A block of commands or of Python on a page runs as it stands, after those before it, in a folder
with small data; a block that cannot says why in a comment above it (`<!-- not run: ... -->`). In
place of the real towers and of long trainings there are small ones.
"""

from __future__ import annotations

import html.parser
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tiny import write_own, write_voc
from tiny.commands import run_command
from tiny.films import film
from tiny.scenes import use_few_scenes
from unseen.data.doodles import draw
from unseen.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
TOWER = re.compile(r"(--clip |clip=\")?(ViT-[\w.-]+/openai)")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
FEW = "--train.steps 2 --train.batch_size 2 --train.workers 0 --train.transforms.crop 64"
SOURCE = "https://github.com/unseen-segmentation/unseen/blob/main/"
PHOTOGRAPHS = ("voc", "zoo")
"""Benchmarks whose recipes ask for a real tower."""


def blocks(page: Path) -> Iterator[tuple[str, str, str | None]]:
    """Kind, text, and why it is not run, of each block that shows commands or Python."""
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        kind, text = found["kind"], found["text"]
        is_shell = kind in ("", "bash") and re.search(
            r"^(unseen|pip|pipx|python|docker|make|\.venv/bin/\w+) ", text, re.MULTILINE
        )
        if kind == "python" or is_shell:
            yield "python" if kind == "python" else "shell", text, found["why"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path) -> Path:
    """A folder with what the pages talk of, small."""
    monkeypatch.chdir(tmp_path)
    use_few_scenes(monkeypatch)
    names = ("photo", "a", "b", "photos/a/one", "photos/b/two", "photos/three")
    for number, name in enumerate(names):
        file = tmp_path / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(3, number, size=96).image).save(file)
    for name in ("classes.txt", "words.txt"):
        Path(name).write_text("sun\ntree, bush\nboat\n")
    film("film.mp4")
    Image.fromarray(draw(3, 7, size=160).image).save("scene.tif")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    for name in ("voc", "zegclip-doodles"):
        shutil.copytree(run, tmp_path / "runs" / name)
    write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    write_own(tmp_path / "zoo", count=10)
    return tmp_path


def small(line: str) -> list[str]:
    """A command with the tower of Doodles, few steps and few images."""
    line = TOWER.sub(lambda found: f"{found[1] or ''}doodles", line)
    words = shlex.split(line, comments=True)[1:]
    verb = words[0]
    if verb == "train":
        if "--out" in words:  # of a page that trains the run which others take as given
            shutil.rmtree(Path(words[words.index("--out") + 1]), ignore_errors=True)
        words += [word for word in FEW.split() if word not in words]
        if any(name in words for name in PHOTOGRAPHS) and "--clip" not in words:
            words += ["--clip", "doodles"]
    if verb == "export" and "--size" in words:
        words[words.index("--size") + 1] = "64"
    if verb == "profile":
        words += ["--size", "64", "--repeats", "1"]
    if verb == "evaluate" and "--limit" not in words:
        words += ["--limit", "1"]
    if verb == "evaluate" and words[1] in METHODS and "--clip" not in words:
        words += ["--clip", "doodles"]  # in place of a published one too
    return words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_whether_it_runs(page: Path) -> None:
    """Nothing is left out in silence: a block runs, or says why not."""
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- not run:") == sum(why is not None for _, _, why in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {"__name__": "page"}
    for kind, text, why in blocks(page):
        if why is not None:
            continue
        if kind == "python":
            code = TOWER.sub(lambda found: f"{found[1] or ''}doodles", text)
            exec(compile(code, page.name, "exec"), space)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            extra = re.match(r"pip install 'unseen\[(\w+)\]'$", line)
            if extra:
                assert extra[1] in EXTRAS
            elif line.strip() and not line.startswith("#"):
                assert line.startswith("unseen "), line
                run_command(shlex.join(small(os.path.expandvars(line))))
    capsys.readouterr()


# ---------------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built; a warning is an error."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run(
        [sys.executable, *words, str(ROOT / "docs"), str(folder / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(folder / "trees")
    return folder / "html"


class Links(html.parser.HTMLParser):
    """The addresses that a page leads to, and the names it can be entered at."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names = set[str]()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.add(given.get("id") or "")
        self.links += [value for name in ("href", "src") if (value := given.get(name))]


def test_every_page_is_on_the_site(site: Path) -> None:
    wanted = {
        page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for page in (ROOT / "docs").rglob("*.md")
    }
    there = {page.relative_to(site).as_posix() for page in site.rglob("*.html")}
    assert wanted <= there
    assert "load" in (site / "api.html").read_text(encoding="utf-8")


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    """To files, and to places in them; those to the repository to a file of it."""
    pages = {page: Links(page) for page in site.rglob("*.html")}
    missing = []
    for page, found in pages.items():
        for link in found.links:
            here, _, name = link.partition("#")
            source = re.fullmatch(
                r"https://github.com/unseen-segmentation/unseen/blob/main/(.+)", here
            )
            if source and not (ROOT / source[1]).exists():
                missing.append(f"{page.name}: {link}")
            if re.match(r"\w+:|//", here) or link in ("#", ""):
                continue
            target = (page.parent / here.partition("?")[0]).resolve() if here else page
            if not target.exists() or (
                name and target in pages and name not in pages[target].names
            ):
                missing.append(f"{page.name}: {link}")
    assert missing == []
