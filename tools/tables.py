"""The demo's three seeds, trained, scored, compared and drawn by the verbs alone, for the docs.

The tables go between the marks of README.md and of pages in docs/ (`<!-- table: NAME -->`), the
pictures into docs/. What is trained and scored already is not done again.

Run: python tools/tables.py --work runs/tables (needs Chromium for the picture of the report)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from playwright.sync_api import sync_playwright

from unseen.__main__ import main as unseen
from unseen.charts import save_chart
from unseen.compared.stored import find_report, grouped

ROOT = Path(__file__).parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
METHODS = ("zegclip", "clip_rc")
SEEDS = (0, 1, 2)
FREE = "naclip"
PICTURES = {
    "curves.png": "zegclip/seed-0/curves.png",
    "comparing.png": "comparing.png",
    "sweep.png": "sweep.png",
    "scene-overlay.png": "scene/scene.overlay.png",
}
"""In docs/, from the folder of runs."""


def run(line: str) -> str:
    """Run a command; what it prints."""
    print("unseen", line, flush=True)
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            unseen(shlex.split(line))
    except SystemExit as error:
        if error.code:
            raise
    return told.getvalue().strip()


def make_runs() -> list[str]:
    """Train and score what is missing; the reports' folders, that without training first."""
    if not Path(FREE, "report.json").exists():
        run(f"evaluate {FREE} --benchmark doodles --out {FREE}")
    folders = [FREE]
    for method in METHODS:
        seeds = ",".join(map(str, SEEDS))
        run(
            f"train {method} --benchmark doodles --seeds {seeds} --out {method}"
            " --train.validate_every 100"
        )
        runs = [f"{method}/seed-{seed}" for seed in SEEDS]
        missing = [each for each in runs if not Path(each, "eval-doodles").exists()]
        if missing:
            run(f"evaluate {' '.join(missing)}")
        folders += runs
    return folders


def make_sweep(page: Path) -> str:
    """The sweep of its page, and a chart of it; its table."""
    grid = re.search(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert grid is not None
    Path("grid.yaml").write_text(grid[1], encoding="utf-8")
    table = run("sweep grid.yaml --out grid --format md")
    runs = " ".join(map(str, sorted(Path("grid").glob("*/seed-*"))))
    run(f"compare {runs} --format md --chart sweep.png")
    return table[table.index("| model") :]


def write_table(page: Path, name: str, table: str) -> None:
    """Put a table between its marks."""
    text = page.read_text(encoding="utf-8")
    mark, end = f"<!-- table: {name} -->\n", "\n<!-- end -->"
    pattern = re.compile(re.escape(mark) + ".*?" + re.escape(end), re.DOTALL)
    assert pattern.search(text), (page, name)
    page.write_text(pattern.sub(lambda _: mark + table + end, text), encoding="utf-8")


def draw_costs(folders: list[str], path: Path) -> None:
    """Multiply-adds of a label map and hIoU, a point a model."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for group in grouped([find_report(Path(folder)) for folder in folders]):
        place = (
            group.reports[0].told["cost"]["multiply_adds"] / 1e9,
            statistics.mean(report.scores["hIoU"] for report in group.reports),
        )
        axis.scatter(*place, s=60)
        axis.annotate(group.title, place, (8, -4), textcoords="offset points")
    axis.margins(0.25)
    axis.set(xlabel="multiply-adds of a label map, G", ylabel="hIoU on Doodles, %")
    axis.set_xlim(0, None)
    axis.set_ylim(0, None)
    axis.spines[["top", "right"]].set_visible(False)
    save_chart(figure, path)


def draw_report(report: Path, out: Path) -> None:
    """The pictures of report.html: its head, and its images."""
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 1130})
        page.goto(report.resolve().as_uri())
        page.wait_for_timeout(500)
        page.screenshot(path=out / "report.png")
        page.set_viewport_size({"width": 1100, "height": 860})
        page.evaluate("document.getElementById('images').scrollIntoView()")
        page.wait_for_timeout(500)
        page.screenshot(path=out / "report-images.png")
        browser.close()


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    folders = make_runs()
    docs, joined = ROOT / "docs", " ".join(folders)
    tables = run(f"compare {joined} --classes --costs --format md --chart comparing.png")
    scores, classes, costs = tables.split("\n\n")
    write_table(docs / "comparing.md", "scores", scores)
    write_table(docs / "comparing.md", "classes", classes)
    write_table(docs / "costs.md", "costs", costs)
    write_table(ROOT / "README.md", "demo", scores)
    draw_costs(folders, docs / "costs.png")
    scene = shlex.quote(str(docs / "scene.png"))
    run(f"segment {scene} --classes boat,umbrella,clock --model zegclip/seed-0 --out scene")
    write_table(docs / "sweeps.md", "grid", make_sweep(docs / "sweeps.md"))
    for name, source in PICTURES.items():
        shutil.copyfile(source, docs / name)
    draw_report(Path("zegclip/seed-0/eval-doodles/report.html"), docs)


if __name__ == "__main__":
    main()
