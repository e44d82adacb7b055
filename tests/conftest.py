"""Fixtures of the released codes, from beside the project or from `tests/golden`; shared runs."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tiny import archives as tiny_archives
from tiny import whole_scores
from tiny.commands import FEW, ONE_STEP, run_command
from unseen import precision
from unseen.backbones.shape_network import ShapeNetwork
from unseen.clip_segmenter import TextSegmenter
from unseen.conversion import translate
from unseen.data.doodles import draw
from unseen.errors import CheckpointError
from unseen.methods import METHODS
from unseen.released import rename
from unseen.segmenter import Prediction, Segmenter, TextFeatures
from unseen.settings import InferenceSettings
from unseen.training.targets import targets_of

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
"""Flags of Chromium for a machine without a screen and a network."""

# Fixtures of one test are shared by its examples: a folder for files, which each writes anew.
_SHARED_FIXTURES = [HealthCheck.function_scoped_fixture]
hypothesis.register_profile(
    "steady",
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=_SHARED_FIXTURES,
)
hypothesis.register_profile(
    "attack", max_examples=3000, deadline=None, suppress_health_check=_SHARED_FIXTURES
)
hypothesis.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def _in_float32() -> Iterator[None]:
    """Tests compute in the same numbers on every machine, unless they ask for bf16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "computes_bf16", lambda device: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs is not that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
LOSSES = 1e-5
"""Relative tolerance of losses, suggested with the fixtures."""
WHOLE_GRADIENTS = 1e-4
"""Of the largest entry, suggested with the fixtures."""
FIXTURES = (SHARED / "fixtures", HERE / "golden")


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a fixture."""
    for folder in FIXTURES:
        if (folder / f"{name}.safetensors").exists():
            return load_file(folder / f"{name}.safetensors"), json.loads(
                (folder / f"{name}.json").read_text()
            )
    pytest.skip(f"fixture {name} is neither in tests/golden nor in ../shared/fixtures")


class Released:
    """A fixture of a released mmsegmentation code, and our segmenter with its weights.

    Args:
        name: Of the fixture.
        method: Of the table.
        options: Of the method, each with the name it has in the fixture's configuration.
    """

    def __init__(self, name: str, method: str, **options: str) -> None:
        self.tensors, self.about = golden(name)
        self.config, self.method = self.about["config"], method
        self.state = {
            key[3:]: value for key, value in self.tensors.items() if key.startswith("sd.")
        }
        text_heads = self.config["text"]["heads"] if "text" in self.config else 2
        self.segmenter, self.report = translate(
            method,
            self.state,
            vision_heads=self.config["vit_heads"],
            text_heads=text_heads,
            dropout=0.0,
            mask_weight=self.config["mask_weight"],
            dice_weight=self.config["dice_weight"],
            **{option: self.config[released] for option, released in options.items()},
        )
        self.segmenter.clip.mean.zero_()  # the fixtures' images are normalised already
        self.segmenter.clip.std.fill_(1)
        vectors = self.tensors["in.text_embedding"].float()
        names = tuple("abcdefg"[: len(vectors)])
        self.text = TextFeatures(names, vectors)
        if vectors.ndim == 3:
            self.text = TextFeatures(names, vectors.mean(dim=1), per_template=vectors)
        self.seen = None if self.config["self_training"] else self.config["base_class"]

    def check_tensors(self) -> None:
        """Every tensor of the checkpoint is loaded or known to be dead."""
        report = self.report
        assert report.problem is None
        assert len(report.loaded) + len(report.dead) == len(self.state)
        dead = {name for name in report.dead if "loss_decode" not in name}
        assert dead == set(self.about["trainable_without_grad"])

    def check_features(self, tolerance: float) -> None:
        """Class tokens and patches of the square images, and of others where there are any."""
        for suffix in ("", "_rect"):
            if f"in.image{suffix}" not in self.tensors:
                continue
            expected = self.tensors[f"out.backbone{suffix}.patch"]
            image, *_, patches = self.segmenter.encode_images(self.tensors[f"in.image{suffix}"])
            close(image, self.tensors[f"out.backbone{suffix}.global"], tolerance)
            maps = patches.transpose(1, 2).unflatten(2, expected.shape[-2:])
            close(maps, expected, tolerance)

    def check_scores(self, tolerance: float) -> None:
        """The scores of whole images."""
        scores = whole_scores(
            self.segmenter, self.tensors["in.image"], self.text, InferenceSettings(), self.seen
        )
        close(scores, self.tensors["out.head_eval"], tolerance)

    def check_inference(self, settings: InferenceSettings, tolerance: float) -> None:
        """Scores resized to the image's original size, and the class of every pixel."""
        images = self.tensors["in.image_infer"]
        scores = whole_scores(self.segmenter, images, self.text, settings, self.seen)
        size = tuple(self.config["ori_shape"])
        resized = F.interpolate(scores, size, mode="bilinear", align_corners=False)
        if "out.infer_scores" in self.tensors:  # left out of tests/golden
            close(resized, self.tensors["out.infer_scores"], tolerance)
        assert torch.equal(resized.argmax(dim=1)[0], self.tensors["out.infer_pred"].long())

    def training_step(self) -> tuple[Prediction, dict[str, Tensor]]:
        """Prediction, targets (which are checked) and losses of the fixture's step.

        The gradients are computed.
        """
        seen, transductive = self.config["base_class"], self.config["self_training"]
        text = self.text if transductive else self.text.select(seen)
        self.segmenter.train().zero_grad()
        prediction = self.segmenter(self.tensors["in.image"], text)
        labels = self.tensors["in.label"][:, 0].long()
        targets = targets_of(
            labels,
            prediction,
            regime="transductive" if transductive else "inductive",
            seen=seen,
            unseen=self.config["novel_class"],
        )
        assert torch.equal(labels, self.tensors["in.label"][:, 0].long())
        assert torch.equal(targets, self.tensors["out.train.target"].long())
        losses = self.segmenter.loss(prediction, targets)
        assert losses["total"].item() == pytest.approx(self.about["total_loss"], rel=LOSSES)
        losses["total"].backward()
        self.segmenter.eval()
        return prediction, losses

    def check_gradients(self, tolerance: float) -> None:
        """The norm of every parameter's gradient and some whole gradients, after a backward pass.

        Nothing else has a gradient.
        """
        names, last = METHODS[self.method].cls.RELEASED.names, str(self.config["dec_layers"] - 1)
        check_gradient_norms(self.segmenter, self.about["grad_norm"], names, tolerance, last)
        own = dict(self.segmenter.named_parameters())
        for name in self.about["grad_norm"]:
            if f"grad.{name}" in self.tensors:
                expected, grad = self.tensors[f"grad.{name}"], own[rename(name, names, last)].grad
                assert grad is not None
                # Whole gradients are nearer than their norms, whose small ones are noise.
                close(grad, expected, WHOLE_GRADIENTS * expected.abs().max().item())


def check_gradient_norms(
    segmenter: Segmenter, norms: dict[str, float], names: Any, tolerance: float, last: str = ""
) -> None:
    """Gradient norms of the trained parameters, by their released names, and of no others."""
    own, largest = dict(segmenter.named_parameters()), max(norms.values())
    for name, norm in norms.items():
        grad = own[rename(name, names, last)].grad
        assert grad is not None
        assert grad.norm().item() == pytest.approx(norm, rel=tolerance, abs=1e-5 * largest), name
    assert len(norms) == sum(p.requires_grad for p in own.values())


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal shapes, and no entry further off than the tolerance."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance


@pytest.fixture(scope="session")
def voc_small() -> Path:
    """112 real photographs in VOC's layout, where they lie beside the project."""
    root = SHARED / "data" / "voc_small" / "VOCdevkit" / "VOC2012"
    if not root.is_dir():
        pytest.skip("the real photographs of ../shared/data are not here")
    return root


def trained(factory: pytest.TempPathFactory, line: str, length: str) -> Path:
    """The run folder of a training, by the end of its command line."""
    folder = factory.mktemp("runs") / "run"
    run_command(f"train {line} --out {folder}", length)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _small_costs() -> Iterator[None]:
    """Costs in reports are measured on small images.

    The small tower has four times as many patches at the size of photographs as a real one.
    """
    from unseen import profiling

    side = profiling._side

    def small(inference: InferenceSettings) -> int | None:
        found = side(inference)
        return None if found is None else min(found, 96)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "_side", small)
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of ZegCLIP after two steps on Doodles, which tests read and leave as it is."""
    return trained(tmp_path_factory, "zegclip --benchmark doodles", FEW)


@pytest.fixture(scope="session")
def query_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of ESDA, a query method, after a step on Doodles."""
    return trained(tmp_path_factory, "esda", ONE_STEP)


@pytest.fixture(scope="session")
def fold_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of ESDA after a step on the first fold of Doodles."""
    return trained(tmp_path_factory, "esda --benchmark doodles-5i/0", ONE_STEP)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A doodle of 80 x 60 pixels as a JPEG file."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(draw(3, 0, size=80).image).crop((0, 0, 80, 60)).save(path, quality=95)
    return path


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tiny archives for `unseen prepare`, which takes them for the published ones."""
    folder = tmp_path / "archives"
    folder.mkdir()
    tiny_archives.write_all(folder)
    tiny_archives.publish(folder, monkeypatch)
    return folder


@pytest.fixture(autouse=True, scope="session")
def _scenes_are_drawn_once() -> Iterator[None]:
    """Keep the scenes of Doodles, which dozens of tests read again, in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unseen.data.datasets.draw", functools.cache(draw))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def shape_network() -> tuple[ShapeNetwork, dict[str, Tensor]]:
    """The shape network of the fixture of SAZS's shape loss, and its tensors."""
    tensors, _ = golden("sazs_shape_loss")
    network = ShapeNetwork(28, (16, 8))
    network.load_state_dict(
        {
            name.removeprefix("inversenet."): tensor
            for name, tensor in tensors.items()
            if name.startswith("inversenet.")
        }
    )
    return network, tensors


def converted(method: str, state: dict[str, Tensor], **sizes: Any) -> TextSegmenter:
    """A segmenter from a released checkpoint, every tensor of which has its place."""
    segmenter, report = translate(method, state, **sizes)
    if report.problem:
        raise CheckpointError(report.problem)
    return segmenter


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=path, args=CHROMIUM)
        yield started
        started.close()
