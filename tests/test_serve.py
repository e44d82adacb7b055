"""The web page: what a visitor sees in a browser, what a program gets, what is refused."""

from __future__ import annotations

import gc
import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unseen
from tiny.commands import error_of
from unseen.data.doodles import draw
from unseen.errors import SettingError
from unseen.palettes import colours
from unseen.settings import ServeSettings
from unseen.visualize import paint
from unseen.vocabulary import Vocabulary

gr = pytest.importorskip("gradio")
client_module = pytest.importorskip("gradio_client")

from unseen.app.page import Page  # noqa: E402
from unseen.app.sessions import Session, downloads, label  # noqa: E402
from unseen.app.view import shown  # noqa: E402

CLASSES = "sun, <b>fish</b> 🐟, tree"
NAMES = ("sun", "<b>fish</b> 🐟", "tree")


def drawn(folder: Path, name: str, side: int = 64) -> Path:
    """A file with a drawing."""
    path = folder / name
    Image.fromarray(draw(len(name), 0, size=side).image[: side - 16]).save(path)
    return path


@pytest.fixture(scope="module")
def model() -> unseen.api.Predictor:
    return unseen.load("naclip")


@pytest.fixture(scope="module")
def address(model: Any) -> Iterator[str]:
    """A page with one model, small bounds."""
    page = Page({"naclip": model}, ServeSettings(port=0, images=3, megabytes=1)).start()
    yield page.local_url
    page.close()


# ---------------------------------------------------------------------- sessions


def test_a_session_keeps_label_maps_without_a_threshold(model: Any, tmp_path: Path) -> None:
    files = [drawn(tmp_path, "a.png"), drawn(tmp_path, "b.png", 48)]
    (tmp_path / "c.jpg").write_bytes(b"%PDF-1.7")
    (tmp_path / "list.txt").write_text("/etc/passwd")
    text = model.encode(NAMES)
    files += [tmp_path / "c.jpg", tmp_path / "list.txt"]
    *_, session = label(model, text, files, tmp_path, 60)
    assert [each.name for each in session.images] == ["a", "b"]
    pdf, listed = session.problems
    assert pdf == "the image c.jpg cannot be read (not an image); replace the file or leave it out"
    assert listed.startswith("the image list.txt cannot be read")
    for threshold in (0.0, 0.4):
        whole = model.segment(files[0], NAMES, threshold=threshold or None)
        kept = session.images[0].at(threshold)
        assert np.abs(kept.confidence - whole.confidence).max() < 0.005
        # Confidences of 8 bits may fall on the other side of the threshold.
        near = np.abs(whole.confidence - threshold) < 0.005
        assert ((kept.labels == whole.labels) | near).all()
        assert (kept.image == whole.image).all()
    session.remove()
    assert not session.folder.exists()


def test_images_of_one_name_and_too_little_time(model: Any, tmp_path: Path) -> None:
    for folder in "xyz":
        (tmp_path / folder).mkdir()
    files = [drawn(tmp_path / folder, "a.png") for folder in "xyz"]
    *_, session = label(model, model.encode(NAMES), files, tmp_path, 60)
    assert [each.name for each in session.images] == ["a", "a-2", "a-3"]
    *_, hurried = label(model, model.encode(NAMES), files, tmp_path, 0)
    assert not hurried.images
    assert hurried.problems == ["a.png and what follows were not begun in 0 s; give fewer images"]


@pytest.mark.parametrize("kind", downloads())
def test_downloads(kind: str, model: Any, tmp_path: Path) -> None:
    names = ("tree", "fish", "boat")
    files = [drawn(tmp_path, "a.png"), drawn(tmp_path, "b.png")]
    *_, session = label(model, model.encode(names), files, tmp_path, 60)
    with zipfile.ZipFile(session.pack(kind, 0.35)) as archive:
        content = archive.namelist()
        if kind == "label maps":
            assert {"a.png", "a.json", "a.overlay.png", "b.json"} <= set(content)
            labels = np.array(Image.open(io.BytesIO(archive.read("a.png"))))
            assert (labels == session.images[0].at(0.35).labels).all()
            assert json.loads(archive.read("a.json"))["made_with"]["threshold"] == 0.35
        else:
            assert json.loads(archive.read("export.json"))["images"] == 2


def test_html_of_a_view_is_escaped(model: Any) -> None:
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    result = model.segment(pixels, ["<script>alert(1)</script>", "'\"><img src=x>"])
    page = shown(result, "<i>a</i>.png")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<i>" not in page
    large = model.segment(np.zeros((20, 900, 3), dtype=np.uint8), ["tree", "fish"])
    assert "data:image/jpeg;base64," in shown(large, "b")


# --------------------------------------------------------------------- programs


def test_a_program_gets_a_label_map(address: str, model: Any, tmp_path: Path) -> None:
    client = client_module.Client(address, verbose=False, download_files=str(tmp_path))
    file = client_module.handle_file(str(drawn(tmp_path, "a.png")))
    path, told = client.predict(file, "tree, fish", "naclip", 0.5, api_name="/segment")
    labels = np.array(Image.open(path))
    assert (
        labels == model.segment(tmp_path / "a.png", ["tree", "fish"], threshold=0.5).labels
    ).all()
    assert [each["name"] for each in told["classes"]] == ["tree", "fish"]
    assert told["image"] == "a.png"
    with pytest.raises(Exception, match="give at least one class|no class"):
        client.predict(file, " , ", "naclip", 0, api_name="/segment")
    many = ", ".join(f"c{i}" for i in range(10_000))
    with pytest.raises(Exception, match="at most 253"):
        client.predict(file, many, "naclip", 0, api_name="/segment")
    with pytest.raises(Exception, match="nobody"):
        client.predict(file, "tree", "nobody", 0, api_name="/segment")
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/segment"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "~/.bashrc"])
def test_files_of_the_server_are_never_opened(
    path: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that was not uploaded comes to no method."""
    opened: list[Any] = []
    monkeypatch.setattr("unseen.app.page.Page.api_segment", lambda *given: opened.append(given))
    client = client_module.Client(address, verbose=False)
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match=r".+"):
        client.predict(given, "tree", "naclip", 0, api_name="/segment")
    assert not opened


def test_ten_visitors_at_once(address: str, tmp_path: Path) -> None:
    """All are served, and what they have sent does not stay in memory."""
    file = drawn(tmp_path, "a.png")
    errors: list[Exception] = []

    def visit() -> None:
        try:
            client = client_module.Client(address, verbose=False, download_files=str(tmp_path))
            for _ in range(2):
                client.predict(
                    client_module.handle_file(str(file)), "tree, fish", "naclip", 0,
                    api_name="/segment",
                )  # fmt: skip
        except Exception as error:
            errors.append(error)

    visitors = [threading.Thread(target=visit) for _ in range(10)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(120)
    assert not errors
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Session)]
    assert all(image.result.labels.size == 0 for session in kept for image in session.images)


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert "port is 70000" in error_of(capsys, "serve --port 70000")
    assert "nobody" in error_of(capsys, "serve nobody")
    error = error_of(capsys, "serve naclip --text-embeddings vectors.npy")
    assert "--text-embeddings needs --classes" in error
    error = error_of(capsys, "serve runs/some --clip doodles")
    assert "are for methods without training, and a run has its own" in error


def test_classes_stand_there_at_the_beginning(model: Any) -> None:
    """With their synonyms, as long as they are not taken away."""
    names = ("sun", "tree, tall", 'a "b"')
    given = Vocabulary(names, {"sun": ("sun", "star")})
    page = Page({"naclip": model}, ServeSettings(port=0), given)
    boxes = [each["props"] for each in page.build().config["components"]]
    (line,) = [props["value"] for props in boxes if props.get("elem_id") == "classes"]
    _, text = page.encode("naclip", line)
    assert text.vocabulary == names
    assert text.source == given
    assert page.encode("naclip", "tree")[1].source == Vocabulary(("tree",))


def test_answers_to_programs_do_not_stay(model: Any, tmp_path: Path) -> None:
    page = Page({"naclip": model}, ServeSettings(keep_minutes=5))
    file = str(drawn(tmp_path, "a.png"))
    path, _ = page.api_segment(file, "sun, tree", "naclip", 0)
    assert [each.name for each in Path(path).parent.iterdir()] == ["labels.png"]
    old = time.time() - 600
    os.utime(Path(path).parent, (old, old))
    again, _ = page.api_segment(file, "sun, tree", "naclip", 0)
    assert not Path(path).exists()
    assert Path(again).exists()


def test_images_are_shown_once(model: Any, tmp_path: Path) -> None:
    """What a visitor looks at stays while the others are labelled."""
    files = [str(drawn(tmp_path, f"{name}.png")) for name in ("a", "bb", "ccc")]
    page = Page({"naclip": model}, ServeSettings())
    steps = list(page.segment(files, "sun, tree", "naclip", 0, None))
    views = [step[2] for step in steps]
    assert isinstance(views[0], str)
    assert not any(isinstance(view, str) for view in views[1:])


def test_a_port_that_is_taken(model: Any, address: str) -> None:
    port = int(address.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(SettingError, match="--port"):
        Page({"naclip": model}, ServeSettings(port=port)).start()


# --------------------------------------------------------------------- a browser


@pytest.mark.parametrize("wide", [390, 1440])
def test_a_visit(
    wide: int,
    address: str,
    browser: Any,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upload, type, click, point, slide, choose, download."""
    files = [drawn(tmp_path, "a.png"), drawn(tmp_path, "bb.png")]
    page = browser.new_page(viewport={"width": wide, "height": 900}, accept_downloads=True)
    page.goto(address)
    page.set_input_files("#images input[type=file]", files)
    page.get_by_text("bb.png").or_(page.get_by_text("bb")).first.wait_for()
    page.fill("#classes input, #classes textarea", CLASSES)
    page.click("#go")
    page.get_by_text("2 of 2 labelled").wait_for()
    result = model.segment(files[0], NAMES)
    legend = page.inner_text(".unseen-legend")
    for name, share in result.largest(3):
        assert name in legend
        assert f"{100 * share:.1f} %" in legend or share < 0.0005
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    # The pixels of the overlay are those that the package paints, but for JPEG's losses.
    there = page.evaluate(PIXELS, ".unseen-painted")
    height, width = result.labels.shape
    factor = there["size"][0] // width
    assert there["size"] == [width * factor, height * factor]
    seen = np.array(there["pixels"]).reshape(height * factor, width * factor, 4)
    painted = paint(result.image, result.labels, colours(3)).astype(int)
    middles = seen[factor // 2 :: factor, factor // 2 :: factor, :3]
    assert np.abs(middles - painted).mean() < 6
    # Under the pointer: class and confidence.
    painted_image = page.locator(".unseen-painted")
    box = painted_image.bounding_box()
    painted_image.hover(position={"x": 0.3 * box["width"], "y": 0.6 * box["height"]})
    row, column = int(0.6 * height), int(0.3 * width)
    tip = page.inner_text(".unseen-tip")
    assert tip.startswith(NAMES[result.labels[row, column]])
    assert float(tip.split()[-1]) == pytest.approx(result.confidence[row, column], abs=0.01)
    # The slider answers without the network.
    monkeypatch.setattr("unseen.predictor.label_maps", no_network)
    page.fill("#threshold input[type=number]", "0.9")
    page.keyboard.press("Tab")
    page.locator(".unseen-legend", has_text="no class").wait_for()
    page.fill("#threshold input[type=number]", "0")
    page.keyboard.press("Tab")
    page.locator(".unseen-legend:not(:has-text('no class'))").wait_for()
    with page.expect_download() as waiting:
        page.click("#download")
    waiting.value.save_as(tmp_path / "taken.zip")
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "taken.zip") as archive:
        labels = np.array(Image.open(io.BytesIO(archive.read("a.png"))))
    assert (labels == result.labels).all()
    page.close()


def no_network(*_: object, **__: object) -> None:
    """In place of the network."""
    raise AssertionError("the network was asked")


PIXELS = """(selector) => {
  const image = document.querySelector(selector), canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return { size: [canvas.width, canvas.height], pixels: Array.from(data) };
}"""


def test_what_the_page_refuses(address: str, browser: Any, tmp_path: Path) -> None:
    """Too many images, no classes, a large file, a name that is HTML: a sentence on the page."""
    page = browser.new_page()
    told: list[str] = []
    page.on("dialog", lambda dialog: told.append(dialog.message))
    page.goto(address)
    page.click("#go")
    page.get_by_text("Choose an image first.").wait_for()
    files = [drawn(tmp_path, f"{name}.png") for name in "abcd"]
    page.set_input_files("#images input[type=file]", files)
    page.get_by_text("d.png").or_(page.get_by_text("d", exact=True)).first.wait_for()
    page.click("#go")
    page.get_by_text("4 images are too many; choose at most 3.").wait_for()
    page.reload()
    page.set_input_files("#images input[type=file]", files[:1])
    page.get_by_text("a.png").or_(page.get_by_text("a", exact=True)).first.wait_for()
    page.fill("#classes input, #classes textarea", "a, <img src=x onerror=alert(1)>, a")
    page.click("#go")
    page.get_by_text("<img src=x onerror=alert(1)>").or_(page.get_by_text("twice")).first.wait_for()
    time.sleep(0.5)
    assert not told, "no script of a visitor runs"
    page.close()
