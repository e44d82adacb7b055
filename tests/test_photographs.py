"""The scripts of examples/photographs: the tower, held-back data, the probe, tables and charts."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tiny import learn_one_image, tiny_clip, write_voc
from unseen.backbones.clip.loading import load_clip
from unseen.building import encode
from unseen.data.benchmarks import get_benchmark
from unseen.data.classes import VOC, VOC_UNSEEN
from unseen.methods import METHODS, create
from unseen.methods.options import check, options_of
from unseen.methods.zegclip import ZegCLIP
from unseen.prompted_segmenter import PromptedOptions
from unseen.settings import TrainSettings
from unseen.vocabulary import Vocabulary

FOLDER = Path(__file__).parents[1] / "examples" / "photographs"
MODULES = (
    "common",
    "choice",
    "class_names",
    "background",
    "sazs",
    "tower",
    "probe",
    "run",
    "curve",
    "inference",
    "floors",
    "svg",
    "tables",
    "charts",
    "page",
    "choices",
    "starts",
    "confusions",
    "sheets",
    "combination",
    "search",
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


def test_the_tower_computes_what_the_classifier_computes(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    """Statistics and biases are folded in; the projection follows the final norm."""
    tower = scripts["tower"]
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224").eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    vit = dict(network.state_dict())
    matrix = np.random.default_rng(0).normal(size=(16, 192))  # from vectors to rows
    path = tmp_path / "tower.safetensors"
    config = {"config": json.dumps(tower.tower_config(vit, 16))}
    save_file(tower.tower_state(vit, matrix), path, config)
    clip = load_clip(str(path))
    assert clip.text is None
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        ours = clip.finish(clip.blocks(clip.embed(images)))
        theirs = network.forward_features(2 * images - 1) @ torch.from_numpy(matrix.T).float()
    assert torch.allclose(ours, theirs, atol=1e-2 * float(theirs.std()))


def test_the_projection_recognises_held_back_classes(scripts: dict[str, ModuleType]) -> None:
    tower = scripts["tower"]
    rng = np.random.default_rng(1)
    text = tower.unit(rng.normal(size=(60, 12)))
    rows = text @ np.linalg.qr(rng.normal(size=(20, 12)))[0].T + 3.0
    good = tower.held_back_accuracy(text, rows, tower.Ridge(0.001, True))
    weak = tower.held_back_accuracy(text, rows, tower.Ridge(1000.0, False))
    assert good == pytest.approx(100)
    assert weak < good
    matrix, mean = tower.project(text, rows, tower.Ridge(1e-9, True))
    assert np.allclose((text - mean) @ matrix, rows - rows.mean(axis=0), atol=1e-5)


def test_names(scripts: dict[str, ModuleType]) -> None:
    names = scripts["class_names"]
    assert names.plain("Car (automobile)") == "car"
    vectors = {"lizard": np.zeros(1), "tabby": np.zeros(1)}
    assert names.known_name(["green lizard", "lacerta"], vectors) == "lizard"
    assert names.known_name(["tabby cat", "tabby"], vectors) == "tabby"
    assert names.known_name(["nothing"], vectors) is None
    assert list(names.voc_names(FOLDER / "voc_names.txt")) == list(VOC)


@pytest.fixture
def flags(tmp_path: Path) -> Namespace:
    text = tmp_path / "classes.npy"
    np.save(text, np.arange(20.0)[:, None] * np.ones((20, 4)))
    return Namespace(
        voc=write_voc(tmp_path / "VOC2012"),
        out=tmp_path / "out",
        results=tmp_path / "results",
        text=text,
    )


def test_held_back_data(scripts: dict[str, ModuleType], flags: Namespace) -> None:
    """No validation image and no unseen class of VOC is left in it."""
    common = scripts["common"]
    folder = common.held_back(flags, 1)
    bench = get_benchmark(str(folder))
    assert bench.class_names == common.SEEN
    assert bench.unseen == tuple(common.SEEN[1::3])
    assert not set(VOC_UNSEEN) & set(bench.class_names)
    val = (flags.voc / "ImageSets/Segmentation/val.txt").read_text().split()
    assert not {path.stem for path in (folder / "images").iterdir()} & set(val)
    rows = np.load(folder / "text.npy")[:, 0]
    assert rows.tolist() == [VOC.index(name) for name in common.SEEN]
    labels = bench.data("train", None).labels(0)
    stored = labels.unique().tolist()
    assert all(label < 15 or label == 255 for label in stored)


def test_the_probe_has_a_row_a_class(scripts: dict[str, ModuleType]) -> None:
    probe = scripts["probe"].LinearProbe(tiny_clip(), classes=("cat", "dog", "sofa"))
    text = encode(probe, ["sofa", "cat"])
    images = torch.rand(1, 3, 32, 40)
    both = probe(images, text).logits
    assert both.shape == (1, 2, 4, 5)
    assert torch.allclose(probe(images, text.select([1])).logits, both[:, 1:], atol=1e-5)
    labels = torch.randint(2, (1, 32, 40))
    probe.loss(probe(images, text), labels)["total"].backward()
    assert probe.head.weight.grad is not None
    assert probe.frozen == ("clip",)


def test_tables_and_charts(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    tables, charts, run = scripts["tables"], scripts["charts"], scripts["run"]
    results = tmp_path / "tables"
    results.mkdir()
    scores = {
        "pAcc": 50.0,
        "mIoU_S": 40.0,
        "mIoU_U": 20.0,
        "hIoU": 26.7,
        "mIoU": 33.0,
        "FB_IoU": 44.0,
    }
    part = {"scores": scores, "iou": dict.fromkeys(VOC, 30.0), "images": 2, "pixels": 9}
    folds = {f"pascal-5i/{fold}": part for fold in range(4)}
    floor = {
        "class": "person",
        "training images": 659,
        "with a seen class": 584,
        "generalised": scores,
    }
    floor |= dict.fromkeys(folds, scores)
    (results / "floors.json").write_text(json.dumps(floor))
    for name in run.FREE:
        (results / f"{name}.json").write_text(json.dumps({"generalised": part, **folds}))
    for name in ("zegclip", "clip_rc"):
        for seed, unseen in enumerate((50.0, 52.0)):
            made = {"generalised": {**part, "scores": {**scores, "mIoU_U": unseen}}}
            (results / f"{name}-voc-{seed}.json").write_text(json.dumps(made))
    made = {"fold": part, "wrong class": scores}
    for fold in range(4):
        (results / f"sazs-pascal-5i-{fold}-0.json").write_text(json.dumps(made))
    flags = Namespace(results=tmp_path)
    table = tables.voc_table(flags)
    assert "| ZegCLIP | 50.0 ± 0.0 | 40.0 ± 0.0 | 51.0 ± 1.4 | 26.7 ± 0.0 |" in table
    assert "| every pixel is person | 50.0 | 40.0 | 20.0 | 26.7 |" in table
    folds_table = tables.folds_table(flags, "mIoU")
    assert "| SAZS | 33.0 | 33.0 | 33.0 | 33.0 | 33.0 |" in folds_table
    assert "… asked a wrong class" in folds_table
    ElementTree.fromstring(charts.class_chart(flags, [("clip", "clip"), ("zegclip", "ZegCLIP")]))
    for place in ("curve", "choices/zegclip"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "curve/zegclip-25-0.json").write_text(json.dumps({"scores": scores}))
    for choice, gained in (("ours", 40.0), ("start=released", 43.0)):
        made = {**scores, "hIoU": gained}
        (tmp_path / f"choices/zegclip/{choice}-0-0.json").write_text(json.dumps(made))
    choices = tables.choices_table(flags, "zegclip")
    assert "| `ours` | 1 | 40.0 | 20.0 | 40.0 |  |  |" in choices
    assert "| `start=released` | 1 | 40.0 | 20.0 | 43.0 | +0.0 | +3.0 |" in choices
    ElementTree.fromstring(charts.curve_chart(flags))


def test_the_page_says_what_was_measured(scripts: dict[str, ModuleType]) -> None:
    page, charts = scripts["page"], scripts["charts"]
    flags = Namespace(results=FOLDER / "results")
    told = "\n\n".join(page.page(flags)) + "\n"
    assert told == (FOLDER / "results.md").read_text(), "run examples/photographs/page.py again"
    assert charts.curve_chart(flags) == (FOLDER / "curve.svg").read_text()
    assert charts.class_chart(flags, page.shown(flags)) == (FOLDER / "classes.svg").read_text()


def test_numbers_of_the_text_are_those_of_the_tables() -> None:
    text = (FOLDER / "README.md").read_text()
    told = set(re.findall(r"\d+\.\d\s±\s\d+\.\d", text))
    tables = (FOLDER / "results.md").read_text() + (FOLDER / "sazs.md").read_text()
    assert len(told) > 10
    assert [number for number in told if " ".join(number.split()) not in tables] == []


@pytest.mark.parametrize("method", ["zegclip", "clip_rc", "esda", "sazs", "edgeclip"])
def test_held_back_numbers_of_the_methods_pages(method: str) -> None:
    """Those of the first columns of the tables about photographs."""
    page = (FOLDER.parents[1] / "docs" / "methods" / f"{method}.md").read_text()
    section = page[page.index("examples/photographs/choices.py --voc") :].partition("\n### ")[0]
    table = re.findall(r"^\| (?!---)[^|]+ \| (\d[^|]*) \| (\d[^|]*) \|", section, re.MULTILINE)
    results = (FOLDER / "results.md").read_text()
    assert len(table) >= 3
    for first, second in table:
        assert f"| {first} | {second} |" in results


@pytest.mark.parametrize("method", ["zegclip", "esda", "sazs", "edgeclip"])
def test_differences_of_the_methods_pages(method: str, scripts: dict[str, ModuleType]) -> None:
    """To the runs of "ours": the last two columns of the tables of choices."""
    page = (FOLDER.parents[1] / "docs" / "methods" / f"{method}.md").read_text()
    section = page[page.index("### What photographs and Doodles say") :].partition("\n### ")[0]
    table = scripts["tables"].choices_table(Namespace(results=FOLDER / "results"), method)
    measured = {row.split(" | ")[0]: row for row in table.splitlines()}
    told = re.findall(
        r"^(\| `[^`]+`).*? ([+-]\d+\.\d)(?:, | \| )([+-]\d+\.\d)", section, re.MULTILINE
    )
    assert len(told) >= 3
    for choice, first, second in told:
        assert measured[choice].endswith(f"| {first} | {second} |"), choice


def test_every_pixel_is_accounted_for() -> None:
    """All rows were scored on the same pixels: of all classes at once, and of every fold."""
    pixels: dict[str, set[int]] = {}
    for path in (FOLDER / "results" / "tables").glob("*.json"):
        for name, part in json.loads(path.read_text()).items():
            split = re.search(r"pascal-5i.\d", name if name.startswith("pascal") else path.stem)
            key = split[0].replace("/", "-") if split and name != "generalised" else name
            if isinstance(part, dict) and "pixels" in part:
                pixels.setdefault(key, set()).add(part["pixels"])
    assert sorted(pixels) == ["generalised", *(f"pascal-5i-{fold}" for fold in range(4))]
    assert all(len(found) == 1 for found in pixels.values()), pixels


def test_every_row_and_choice_fits_its_method(scripts: dict[str, ModuleType]) -> None:
    """Settings resolve, and the options exist."""
    common, run, choices = scripts["common"], scripts["run"], scripts["choices"]
    flags = Namespace(mobilenet=Path("m"), tower=Path("t"), vit="timm:v")
    for row in (*run.ROWS.values(), *choices.ROWS.values()):
        model, settings = common.settings(row, flags, 3)
        assert (settings.seed, settings.steps, settings.batch_size) == (3, common.STEPS, 8)
        if row.method in METHODS:
            check(row.method, model.options, METHODS[row.method].choices)
    for name, listed in choices.CHOICES.items():
        for choice in map(scripts["choice"].Choice.read, listed):
            known = METHODS[name].choices.keys() | (choices.START if name == "zegclip" else set())
            assert {*choice.options, *choice.scored} <= known, choice
            TrainSettings(**choice.train)


def test_an_aligned_start_in_parts(scripts: dict[str, ModuleType]) -> None:
    """Each choice changes the first logits, and no choice is ZegCLIP."""
    images = torch.rand(1, 3, 32, 40)

    def first(made: type, **options: object) -> torch.Tensor:
        torch.manual_seed(0)
        clip = tiny_clip()
        segmenter = made(clip, PromptedOptions(2), **options).eval()
        text = segmenter.encode_text(Vocabulary(("cat", "dog")))
        segmenter.start_from(images, text)
        return segmenter(images, text).logits

    made = scripts["starts"].PartlyAligned
    whole = first(ZegCLIP)
    assert torch.equal(first(made), whole)
    for options in (
        {"random": "descriptor"},
        {"random": "decoder"},
        {"random": "prompts"},
        {"spread": 4.0},
        {"prior": -1.0},
    ):
        assert not torch.allclose(first(made, **options), whole, atol=0.02), options
    assert float(first(made, spread=4.0).std()) == pytest.approx(4, rel=1e-3)
    assert float(first(made, spread=4.0, prior=-1.0).mean()) == pytest.approx(-1, abs=1e-3)


def test_choices_are_read(scripts: dict[str, ModuleType]) -> None:
    read, run_name = scripts["choice"].Choice.read, scripts["choice"].run_name
    assert read("ours") == scripts["choice"].Choice()
    choice = read("start=released+train.lr=1e-3+scored.calibration=0.1")
    assert (choice.options, choice.train) == ({"start": "released"}, {"lr": 1e-3})
    assert choice.scored == {"calibration": 0.1}
    choice = read("direct=true+train.steps=200+mixed=0.5+inference.window=9")
    assert (choice.inference, choice.mixed) == ({"window": 9}, 0.5)
    otseg = read("epsilon=0.1+otseg")
    assert (otseg.method, otseg.options) == ("otseg", {"epsilon": 0.1})
    assert run_name("ours+inference.window=9+mixed=0.5") == "ours"
    assert run_name("scored.calibration=0.1") == "ours"
    assert run_name("train.lr=1e-3+scored.calibration=0.1") == "train.lr=1e-3"


def test_parts_of_the_start_are_zegclips(scripts: dict[str, ModuleType]) -> None:
    row_of, read = scripts["choices"].row_of, scripts["choice"].Choice.read
    assert row_of("zegclip", read("start=released")).method == "zegclip"
    assert row_of("zegclip", read("spread=4.0")).method == "partly_aligned"
    for name, text in (("clip_rc", "spread=4.0"), ("zegclip", "spread=4.0+start=released")):
        with pytest.raises(SystemExit, match="of ZegCLIP's aligned start alone"):
            row_of(name, read(text))


def test_choices_of_the_search_exist(scripts: dict[str, ModuleType]) -> None:
    search, combination = scripts["search"], scripts["combination"].Combination
    for text in search.CHOICES:
        choice = scripts["choice"].Choice.read(text)
        known = METHODS[choice.method].choices if choice.method else options_of(combination)
        check(choice.method or "combination", choice.options, known)


def test_a_combination_starts_as_zegclip_and_learns(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    clip, images = tiny_clip(), torch.rand(1, 3, 32, 40)
    others = tmp_path / "others.npy"
    np.save(others, np.random.default_rng(0).normal(size=(30, clip.embed_dim)))
    made = scripts["combination"].Combination
    combination = made(clip, PromptedOptions(2), direct=True, proxy="doodles").eval()
    zegclip = create("zegclip", clip, num_prompts=2, decoder_heads=1).eval()
    text = zegclip.encode_text(Vocabulary(("cat", "dog")))
    alone, both = (part.auxiliary for part in (zegclip(images, text), combination(images, text)))
    assert (len(alone), len(both)) == (0, 2)
    averaged = made(clip, PromptedOptions(2), proxy="doodles", proxy_share=0.5).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert averaged(images, text).logits.isfinite().all()
    plain = made(clip, PromptedOptions(2)).eval()
    assert torch.allclose(plain(images, text).logits, zegclip(images, text).logits, atol=1e-5)
    centred = made(clip, PromptedOptions(2, start="released"), centred=True, direct=True)
    assert centred.starts_from_images
    centred.start_from(images, text)
    assert centred.text_mean.any()
    assert centred.direct[0] != 1
    for options in (
        {"direct": True},
        {"text_noise": 0.3},
        {"pairs_weight": 0.5, "centred": True},
        {"presence": 1.0},
        {"others": str(others)},
    ):
        torch.manual_seed(0)
        learner = made(tiny_clip(), PromptedOptions(2, dropout=0.0), **options).train()
        assert learn_one_image(learner)[2] > 0.9


def test_pairs_of_classes(scripts: dict[str, ModuleType]) -> None:
    for count, sizes in ((6, [2, 2, 2]), (5, [2, 3]), (2, [2]), (3, [3])):
        owner = scripts["combination"].paired(count)
        assert sorted(torch.bincount(owner).tolist()) == sizes


def test_weights_between_start_and_end(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder, value in ((run / "step-1", 0.0), (run, 4.0)):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"a": torch.full((2,), value)}, folder / "weights.safetensors", {"b": "c"})
    mixed = scripts["search"].mixed_weights(run, 0.75, tmp_path / "mixed")
    assert load_file(mixed / "weights.safetensors")["a"].tolist() == [3.0, 3.0]
    assert not (mixed / "step-1").exists()
