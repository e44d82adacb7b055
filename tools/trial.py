"""A job from beginning to end, as a new user does it: docs/trial.md and its picture.

Photographs in subfolders are labelled, stopped when a part is done, resumed, exported to two tools,
and the least sure ones looked at on the web page; every command is printed with what it said and
how long it took.

Run: python tools/trial.py PHOTOGRAPHS --count 200 --classes classes.txt
     --model "sclip --clip ViT-B-16-quickgelu/openai" > docs/trial.md
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright
from screenshots import FLAGS

from unseen.image_files import images_in
from unseen.labelling.results import find_results
from unseen.labels import IGNORE
from unseen.legends import FAINT, PAPER, Entry, fit_text, legend
from unseen.palettes import class_colours

DOCS = Path(__file__).parents[1] / "docs"
STOP_AT = 0.4
"""Share of the images after which the first command is stopped."""
LOOKED_AT, CELL, GAP = 12, 200, 12
HEAD = """# A job from beginning to end

{count} photographs in {folders} folders are labelled with {classes} classes, as somebody does who
has only installed the package.
`tools/trial.py` did it and wrote this page.
The model is {model}.
The flags that say so are left out below, where yours may be `--clip ViT-B-16-quickgelu/openai`.
"""


def spread(photographs: Path, count: int, into: Path) -> int:
    """Copy photographs into subfolders by the first part of their names; how many there are."""
    for file in images_in(photographs)[:count]:
        folder = into / file.stem.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    return len(list(into.iterdir()))


def tell(title: str, words: Sequence[str], said: str, seconds: float, hidden: str) -> None:
    """A step of the page: the command, what it said, and how long it took."""
    line = shlex.join(words).replace(hidden, "").replace("  ", " ")
    # Bars are drawn over themselves: what was there at the end.
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).strip()
    rows = (row.split("\r")[-1].rstrip() for row in said.splitlines())
    said = "\n".join(part for row in rows for part in textwrap.wrap(row, 100))
    print(f"\n## {title}\n\n```\n$ {line}\n{said}\n```\n\n{seconds:.0f} seconds.")


def run(place: Path, words: Sequence[str], stop_at: int = 0) -> tuple[str, float]:
    """Run a command, and stop it as Ctrl-C does when so many results are there."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(  # noqa: S603 - a command of ours
        command, cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        while stop_at and process.poll() is None:
            if len(list((place / "labelled").rglob("*.overlay.png"))) >= stop_at:
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.02)
        said = process.communicate()[0]
    return said, time.perf_counter() - begun


def look(tab: Tab, files: list[Path]) -> float:
    """Label files on the page; how long it took."""
    tab.set_input_files("#images input[type=file]", files)
    tab.wait_for_timeout(2000)
    begun = time.perf_counter()
    tab.click("#go")
    tab.get_by_text(f"{len(files)} of {len(files)} labelled").wait_for(timeout=300_000)
    return time.perf_counter() - begun


def leave_out(tab: Tab, least: float) -> float:
    """Set the least confidence; how long the page takes to answer, and that it has done so."""
    before = tab.locator(".unseen-legend").inner_text()
    begun = time.perf_counter()
    tab.fill("#threshold input[type=number]", str(least))
    tab.keyboard.press("Enter")
    tab.wait_for_function(
        "before => document.querySelector('.unseen-legend').innerText !== before", arg=before
    )
    return time.perf_counter() - begun


def picture(folder: Path, names: list[str], path: Path) -> None:
    """The label maps of some results, without the photographs."""
    known = {result.name: result for result in find_results(folder)[0]}
    classes = known[names[0]].class_names
    table = class_colours("safe", classes)
    paints = np.full((256, 3), 230, dtype=np.uint8)
    paints[: len(table)] = table
    columns = 4
    rows = -(-len(names) // columns)
    body = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + 30) + GAP), PAPER)
    pen, shown = ImageDraw.Draw(body), set[int]()
    for place, name in enumerate(names):
        labels = known[name].read_labels()
        shown |= set(labels[labels != IGNORE].tolist())
        cell = Image.fromarray(paints[labels])
        cell.thumbnail((CELL, CELL), Image.Resampling.NEAREST)
        left = GAP + place % columns * (CELL + GAP)
        top = GAP + place // columns * (CELL + 30)
        body.paste(cell, (left, top + CELL - cell.height))
        margin = known[name].told["margin"]
        text, font = fit_text(f"{name}   margin {margin:.2f}", 12, CELL)
        pen.text((left, top + CELL + 4), text, fill=FAINT, font=font)
    below = legend([Entry(classes[i], table[i]) for i in sorted(shown)], body.width)
    whole = Image.new("RGB", (body.width, body.height + below.height), PAPER)
    whole.paste(body, (0, 0))
    whole.paste(below, (0, body.height))
    whole.save(path, optimize=True)


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--model", default="naclip", help="with its flags")
    parser.add_argument("--called", default="`{model}`", help="the model in words")
    flags = parser.parse_args()
    name, *model = shlex.split(flags.model)
    hidden = shlex.join(model)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        folders = spread(flags.photographs, flags.count, place / "photos")
        shutil.copy(flags.classes, place / "classes.txt")
        count = len(images_in(place / "photos", recursive=True))
        lines = len(flags.classes.read_text(encoding="utf-8").splitlines())
        called = flags.called.format(model=name)
        print(HEAD.format(count=count, folders=folders, classes=lines, model=called), end="")
        job = ["unseen", "segment", "photos", "--recursive", "--classes", "classes.txt"]
        job += ["--model", name, *model, "--out", "labelled"]
        tell("Label, and stop", job, *run(place, job, int(STOP_AT * count)), hidden)
        tell("Go on", job, *run(place, job), hidden)
        export = ["unseen", "export-labels", "labelled", "--to", "cvat,label-studio"]
        tell("Hand over to CVAT and Label Studio", export, *run(place, export), hidden)
        with (place / "labelled" / "index.csv").open(encoding="utf-8", newline="") as file:
            least_sure = list(csv.DictReader(file))[:LOOKED_AT]
        review(place, [place / row["image"] for row in least_sure], name, model)
        names = [row["result"].removesuffix(".png") for row in least_sure]
        picture(place / "labelled", names, DOCS / "trial.png")


def review(place: Path, files: list[Path], name: str, model: list[str]) -> None:
    """The step in the browser."""
    words = ["unseen", "serve", name, *model, "--classes", "classes.txt", "--port", "7899"]
    command = [sys.executable, "-m", *words]
    with (
        subprocess.Popen(  # noqa: S603 - a command of ours
            command, cwd=place, stdout=subprocess.PIPE, text=True
        ) as server,
        sync_playwright() as running,
    ):
        assert server.stdout is not None
        told = server.stdout.readline().strip()
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            tab = browser.new_page()
            tab.goto("http://127.0.0.1:7899")
            seconds, again = look(tab, files), leave_out(tab, 0.3)
        finally:
            browser.close()
            server.send_signal(signal.SIGINT)
    line = shlex.join(words).replace(shlex.join(model), "").replace("  ", " ")
    print(f"""
## Look at the least sure

`labelled/index.csv` names them first.
These are the label maps of the first {len(files)}, with the mean distance between the scores of the
best class and the next:

![label maps of the images with the smallest margins](trial.png)

```
$ {line}
{told}
```

The {len(files)} photographs, dropped on [the page](web_page.md), are labelled there in
{seconds:.0f} seconds.
A least confidence of 0.3, which leaves the rest without a class, shows after {again:.1f}
seconds.""")


if __name__ == "__main__":
    main()
