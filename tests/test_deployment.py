"""Methods as files for other programs: equal to the method, free in what they say is free."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import unseen
from tiny.commands import error_of, run_command
from unseen.backbones.clip.loading import load_clip
from unseen.clip_segmenter import ClipSegmenter
from unseen.data.doodles import draw
from unseen.deployment import Deployed, export_model
from unseen.errors import SettingError
from unseen.methods import METHODS, create
from unseen.predictor import Predictor
from unseen.segmenter import QuerySegmenter
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

EXAMPLES = Path(__file__).parents[1] / "examples" / "onnx"
EXPORTED = [
    name
    for name, method in METHODS.items()
    if issubclass(method.cls, ClipSegmenter)
    and not issubclass(method.cls, QuerySegmenter)
    and name != "proxyclip"
]


def predictor_of(name: str) -> Predictor:
    if not METHODS[name].trainable:
        return unseen.load(name)
    torch.manual_seed(0)
    options = {"start": "released", "num_prompts": 2}
    if "decoder_heads" in METHODS[name].choices:
        options["decoder_heads"] = 4
    return Predictor(create(name, load_clip("doodles"), **options), InferenceSettings())


def vectors_for(predictor: Predictor, classes: int) -> torch.Tensor:
    """Random unit vectors of classes, or of each of their prompts."""
    prompts = [6] if predictor.segmenter.needs_prompts else []
    return F.normalize(torch.randn(classes, *prompts, 128), dim=-1)


@pytest.mark.parametrize("name", EXPORTED)
def test_torch_export_is_the_method(name: str, tmp_path: Path) -> None:
    """At sizes, batches and vocabularies that it was not traced with."""
    predictor = predictor_of(name)
    made = export_model(predictor, tmp_path / "model.pt2")
    assert made.difference < 1e-5
    assert made.checked == 12
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    images, text = torch.rand(4, 3, 40, 120), vectors_for(predictor, 7)
    with torch.no_grad():
        assert torch.allclose(
            loaded(images, text), Deployed(predictor.segmenter)(images, text), atol=1e-5
        )
    names = dict(loaded.named_parameters())
    assert not any("text" in each for each in names), "the text tower stays behind"
    assert predictor.segmenter.clip.text is not None


@pytest.mark.parametrize("name", ["naclip", "sclip", "zegclip", "clip_rc", "otseg", "cascade_clip"])
def test_onnx_is_the_method(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    predictor = predictor_of(name)
    made = export_model(predictor, tmp_path / "model.onnx", size=72, classes=["sun", "fish"])
    assert made.difference < 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images, text = torch.rand(5, 3, 72, 72), vectors_for(predictor, 9)
    (scores,) = session.run(None, {"images": images.numpy(), "text": text.numpy()})
    with torch.no_grad():
        ours = Deployed(predictor.segmenter)(images, text)
    assert np.abs(scores - ours.numpy()).max() < 1e-3
    vectors = np.load(tmp_path / "model.onnx.npy")
    expected = Deployed(predictor.segmenter).vectors_of(predictor.encode(["sun", "fish"]))
    assert (vectors == expected.numpy()).all()
    told = json.loads((tmp_path / "model.onnx.json").read_text())
    assert told["size"] == 72
    assert told["classes"] == ["sun", "fish"]


def test_a_run_with_vectors_of_its_own_and_synonyms(tmp_path: Path) -> None:
    """No class has to be encoded, and synonyms count."""
    vectors = F.normalize(torch.randn(2, 128), dim=-1)
    np.save(tmp_path / "text.npy", vectors.numpy())
    given = unseen.load("naclip", class_names=["a", "b"], text_embeddings=tmp_path / "text.npy")
    export_model(given, tmp_path / "given.pt2")
    export_model(given, tmp_path / "given.pt2", classes=["b", "a"])
    assert np.allclose(np.load(tmp_path / "given.pt2.npy"), vectors.flip(0), atol=1e-6)
    model, words = unseen.load("naclip"), Vocabulary(("sun",), {"sun": ("sun", "star")})
    export_model(model, tmp_path / "words.pt2", classes=words)
    written = np.load(tmp_path / "words.pt2.npy")
    assert (written == model.encode(words).pooled.numpy()).all()
    assert not np.allclose(written, model.encode(["sun"]).pooled.numpy())


def test_the_example_runs_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    run_command(f"export naclip --out {tmp_path / 'm.onnx'} --size 64 --classes 'sun, tree, fish'")
    assert "differ by at most" in capsys.readouterr().out
    Image.fromarray(draw(3, 0, size=64).image).save(tmp_path / "photo.png")
    script = Path(__file__).parents[1] / "examples" / "onnx" / "segment.py"
    code = (
        "import runpy, sys; sys.modules['torch'] = None;"
        f" sys.argv = ['x', {str(tmp_path / 'm.onnx')!r}, {str(tmp_path / 'photo.png')!r},"
        f" {str(tmp_path / 'out.png')!r}]; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.count("%") == 3
    labels = np.array(Image.open(tmp_path / "out.png"))
    model = unseen.load("naclip", inference={"short_side": 64, "window": None})
    ours = model.segment(tmp_path / "photo.png", ["sun", "tree", "fish"]).labels
    assert (labels == ours).mean() > 0.97


def test_what_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.onnx"
    assert "ends in .onnx" in error_of(capsys, f"export naclip --out {tmp_path / 'm.tflite'}")
    assert "multiple of 8" in error_of(capsys, f"export naclip --out {out} --size 65")
    assert "has to be trained" in error_of(capsys, f"export zegclip --out {out}")
    proxy = "--options.proxy doodles"
    assert "stands on several networks" in error_of(capsys, f"export proxyclip {proxy} --out {out}")
    torch.manual_seed(0)
    esda = Predictor(create("esda", load_clip("doodles")), InferenceSettings())
    with pytest.raises(SettingError, match="ESDA is asked one class at a time"):
        export_model(esda, out)
    out.write_text("mine")
    assert "was not written by unseen" in error_of(capsys, f"export naclip --out {out}")
    out.unlink()
    monkeypatch.setattr("unseen.deployment.find_spec", lambda _: None)
    assert "pip install 'unseen[onnx]'" in error_of(capsys, f"export naclip --out {out}")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of onnxruntime-web, from the npm registry."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm here")
    folder = tmp_path_factory.mktemp("runtime")
    words = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "onnxruntime-web"]
    made = subprocess.run(words, cwd=folder, capture_output=True, check=False, timeout=120)
    if made.returncode:
        pytest.skip("onnxruntime-web cannot be installed here")
    return folder / "node_modules"


def test_a_label_map_in_a_browser(runtime: Path, browser: Any, tmp_path: Path, photo: Path) -> None:
    """The page of `examples/onnx/browser` shows what the example in Python writes."""
    pytest.importorskip("onnxruntime")
    site = tmp_path / "site"
    shutil.copytree(EXAMPLES / "browser", site)
    (site / "node_modules").symlink_to(runtime)
    classes = ["sun", "<b>tree</b>", "fish", "key"]
    export_model(predictor_of("naclip"), site / "model.onnx", size=96, classes=classes)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.get_by_text("Choose a photograph").wait_for()
        page.set_input_files("input", photo)
        page.locator("li").first.wait_for()
        shown = page.locator("li").all_inner_texts()
        size = page.eval_on_selector("canvas", "each => [each.height, each.width]")
        page.set_input_files("input", __file__)
        page.get_by_text("This file is no image").wait_for()
        page.close()
        server.shutdown()
    words = [sys.executable, EXAMPLES / "segment.py", site / "model.onnx", photo, site / "a.png"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    wanted = dict(line.rsplit(": ", 1) for line in told.splitlines())
    with Image.open(photo) as image:
        assert size == [image.height, image.width]
    for line in shown:
        name, share, _ = line.rsplit(" ", 2)
        assert float(share) == pytest.approx(float(wanted[name].removesuffix(" %")), abs=2)
    assert sum(float(line.rsplit(" ", 2)[1]) for line in shown) == pytest.approx(100, abs=0.3)
