"""Pictures of the web page for the documentation: docs/page.png and docs/page-narrow.png.

Run: python tools/screenshots.py (needs the extra "tools", and Chromium)
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import unseen
from unseen.app.page import Page
from unseen.data.doodles import draw
from unseen.settings import ServeSettings

DOCS = Path(__file__).parents[1] / "docs"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
SIZES = {"page.png": (1440, 860), "page-narrow.png": (390, 860)}


def picture(browser: Browser, address: str, files: list[Path], name: str) -> None:
    """Use the page as a visitor does, and draw what there is to see."""
    width, height = SIZES[name]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address)
    page.set_input_files("#images input[type=file]", files)
    page.fill("#classes input, #classes textarea", "sun, tree, house, fish, cup")
    page.wait_for_timeout(1500)
    page.click("#go")
    page.get_by_text(f"{len(files)} of {len(files)} labelled").wait_for()
    page.wait_for_timeout(1500)
    painted = page.locator(".unseen-painted")
    box = painted.bounding_box()
    assert box is not None
    painted.hover(position={"x": 0.45 * box["width"], "y": 0.4 * box["height"]})
    page.wait_for_timeout(300)
    page.screenshot(path=DOCS / name, full_page=width < 1000)
    page.close()


def main() -> None:
    """Draw both."""
    predictor = unseen.load("naclip")
    page = Page({"naclip": predictor}, ServeSettings(port=0)).start()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        files = [Path(folder) / f"doodle-{i}.png" for i in range(3)]
        for i, file in enumerate(files):
            Image.fromarray(draw(11, i, size=320, min_things=2).image).save(file)
        path = shutil.which("chromium")
        browser = running.chromium.launch(executable_path=path, args=FLAGS)
        for name in SIZES:
            picture(browser, page.local_url, files, name)
        browser.close()
    page.close()


if __name__ == "__main__":
    main()
