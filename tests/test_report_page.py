"""report.html: what it shows in a browser, which images are kept, and that names are only text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny.commands import error_of, run_command
from unseen.data.benchmarks import get_benchmark
from unseen.evaluation.gallery import BEST, OF_CLASSES, WORST, Gallery
from unseen.evaluation.protocols import Judged
from unseen.metrics import ConfusionMatrix
from unseen.report_page import Shown, Told, write_page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a method on forty scenes."""
    folder = tmp_path_factory.mktemp("report")
    run_command(f"evaluate naclip --benchmark doodles --limit 40 --out {folder}")
    return folder


@pytest.fixture(scope="module")
def fold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a fold, with one query class an image."""
    folder = tmp_path_factory.mktemp("fold")
    run_command(f"evaluate naclip --benchmark doodles-5i/0 --limit 12 --out {folder}")
    return folder


def read_images(page: Path) -> list[dict[str, Any]]:
    """The images in the file."""
    line = re.search(r"^const images = (.*);$", page.read_text(encoding="utf-8"), re.M)
    assert line is not None
    images: list[dict[str, Any]] = json.loads(line[1])
    return images


# ------------------------------------------------------------------------ images


def judged(number: int, share: float) -> tuple[Judged, Any]:
    """An image of two classes, of the first of which a share of the pixels is predicted rightly."""
    truth = torch.zeros(10, 10, dtype=torch.int64)
    truth[5:] = 1 + number % 3
    guess = truth.clone()
    guess[:5].view(-1)[: round(50 * (1 - share))] = 4
    image = torch.zeros(3, 10, 10, dtype=torch.uint8)
    item = Judged(f"image {number}", image, truth, [guess], confidence=lambda: torch.rand(10, 10))
    return item, ConfusionMatrix(20).update(guess, truth).numpy()


def test_the_worst_and_the_best_are_kept() -> None:
    gallery = Gallery(get_benchmark("doodles"))
    rng = np.random.default_rng(0)
    shares = rng.permutation(200) / 200
    for number, share in enumerate(shares):
        gallery.add(*judged(number, share))
    shown = gallery.done()
    scores = [each.score for each in shown]
    assert scores == sorted(scores)
    every = sorted((share + 1) / 2 for share in shares)
    assert scores[:WORST] == pytest.approx(every[:WORST], abs=0.01)
    assert scores[-BEST:] == pytest.approx(every[-BEST:], abs=0.01)
    # Three classes are always right, so that the first images stay as their worst.
    kept = OF_CLASSES // 20
    for class_id in (1, 2, 3):
        name = get_benchmark("doodles").class_names[class_id]
        first = [each.name for each in shown if name in each.scores and each.scores[name] == 1]
        assert len(set(first)) >= kept
    assert len(shown) <= WORST + BEST + 4 * kept
    assert set(shown[0].pictures) == {"image", "truth", "prediction", "confidence"}
    assert shown[0].extra == (get_benchmark("doodles").class_names[4],)


def test_images_without_a_label_are_not_kept() -> None:
    gallery = Gallery(get_benchmark("doodles"))
    item, _ = judged(0, 1.0)
    gallery.add(item, np.zeros((20, 21), dtype=np.int64))
    assert gallery.done() == []


def test_scores_of_the_file(report: Path, fold: Path) -> None:
    """They are those of report.json; of a fold those of the query class."""
    page = (report / "report.html").read_text(encoding="utf-8")
    told = json.loads((report / "report.json").read_text())
    for name in ("pAcc", "mIoU_S", "mIoU_U", "hIoU"):
        assert f"<b>{told['scores'][name]:.1f}</b>" in page
    images = read_images(report / "report.html")
    assert WORST + BEST <= len(images) <= 40
    for image in images:
        values = [value for _, value in image["classes"]]
        assert image["score"] == pytest.approx(np.mean(values), abs=0.1)
        assert list(image["pictures"]) == ["image", "truth", "prediction", "confidence"]
    assert all(len(image["classes"]) == 1 for image in read_images(fold / "report.html"))


def test_no_images_where_none_are_asked_for(tmp_path: Path) -> None:
    run_command(f"evaluate naclip --benchmark doodles --limit 3 --shown 0 --out {tmp_path}")
    assert read_images(tmp_path / "report.html") == []
    assert not (tmp_path / "sheet.png").exists()


def test_a_file_of_somebody_else_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").write_text("<!doctype html>\n<p>mine</p>")
    line = f"evaluate naclip --benchmark doodles --limit 3 --out {tmp_path}"
    assert "report.html exists and was not written by unseen" in error_of(capsys, line)


# ----------------------------------------------------------------------- browser


@pytest.mark.parametrize("width", [390, 1280])
def test_a_look(report: Path, browser: Any, width: int) -> None:
    """Bars, matrix, images; a class is chosen, the order turned; nothing is too wide."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda asked: errors.append(asked.url) if "http" in asked.url[:5] else None)
    page.goto((report / "report.html").as_uri())
    assert page.locator(".bars button").count() == 20
    assert page.locator(".image").count() == 24
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#list img").first.evaluate("image => image.naturalWidth") > 100
    # A cell of the matrix tells its numbers.
    page.locator("#confusion").scroll_into_view_if_needed()
    page.locator("#confusion").hover(position={"x": 150, "y": 150})
    assert re.fullmatch(r".+ → .+: [0-9.]+ % of its [0-9,.]+ pixels", page.inner_text("#told"))
    # A click on a bar chooses its class.
    name = page.locator(".bars button").nth(3).get_attribute("data-class")
    page.locator(".bars button").nth(3).click()
    assert page.input_value("#class") == name
    first = shown_scores(page)
    page.select_option("#order", "best")
    assert shown_scores(page) == first[::-1]
    assert all(name in text for text in page.locator(".image .chips").all_inner_texts())
    page.select_option("#class", "")
    more = page.locator("#more")
    while more.is_visible():
        more.click()
    assert page.locator(".image").count() == len(read_images(report / "report.html"))
    assert errors == []
    page.close()


def shown_scores(page: Any) -> list[str]:
    """The numbers of the images that are labelled, in their order; all others come behind."""
    texts: list[str] = page.locator(".image h3 b").all_inner_texts()
    labelled = [text for text in texts if not text.endswith("not labelled")]
    assert texts[: len(labelled)] == labelled
    return labelled


def test_names_are_only_text(tmp_path: Path, browser: Any) -> None:
    """Of classes, images, models: whatever they hold, nothing of it is run."""
    run = "document.title='run'"
    evil = f'</script><script>{run}</script><img src=x onerror="{run}">'
    told = {
        "model": evil,
        "images": 1,
        "pixels": 4,
        "scores": {"mIoU": 50.0, "hIoU": None},
        "iou": {evil: 50.0, "ünïcode 🐟": None},
        "protocol": {"vocabulary": [evil]},
        "confusion": {"rows": [evil], "columns": [evil, "no class"], "pixels": [[3, 1]]},
    }
    image = Shown(evil, 0.5, {evil: 0.5}, (), {"image": b""})
    names = [evil, "ünïcode 🐟"]
    heads = {"mIoU": "mIoU", "hIoU": "hIoU"}
    write_page(tmp_path / "page.html", told, Told(evil, heads, names, [evil], [image], evil))
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == f"{evil} on {evil}"
    assert page.locator("h1").inner_text() == f"{evil} on {evil}"
    assert page.locator(".image h3").inner_text().startswith(evil)
    assert page.locator(".tiles b").all_inner_texts() == ["50.0", "–"]
    page.close()


def test_no_address_of_the_network(report: Path) -> None:
    assert "://" not in (report / "report.html").read_text(encoding="utf-8")
    assert (report / "report.html").stat().st_size < 8e6
