"""Pictures of the web pages for the documentation.

docs/page.png and docs/page-narrow.png of `unseen serve`; examples/onnx/browser/page.png of the
example there, where onnxruntime-web is installed in its folder.

Run: python tools/screenshots.py (needs the extra "tools", and Chromium)
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import unseen
from unseen.app.page import Page
from unseen.data.doodles import draw
from unseen.deployment import export_model
from unseen.settings import ServeSettings

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = DOCS.parent / "examples" / "onnx" / "browser"
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


def picture_of_example(browser: Browser, file: Path) -> None:
    """Export a model beside the example's page, and label an image there."""
    made = EXAMPLE / "model.onnx"
    export_model(unseen.load("naclip"), made, size=160, classes=["boat", "sun", "kite", "house"])
    serve = partial(SimpleHTTPRequestHandler, directory=str(EXAMPLE))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(viewport={"width": 720, "height": 700})
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.get_by_text("Choose a photograph").wait_for()
        page.set_input_files("input", file)
        page.locator("li").first.wait_for()
        page.screenshot(path=EXAMPLE / "page.png", full_page=True)
        server.shutdown()
    for each in EXAMPLE.glob("model.onnx*"):
        each.unlink()


def main() -> None:
    """Draw all."""
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
        if (EXAMPLE / "node_modules").exists():
            picture_of_example(browser, files[1])
        browser.close()
    page.close()


if __name__ == "__main__":
    main()
