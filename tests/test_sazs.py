"""SAZS: its losses and targets, options, sizes, and training on photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import SHARED, close, shape_network
from tiny import tiny_clip
from tiny.commands import run_command
from unseen.backbones.mobilenet import DilatedMobileNet
from unseen.backbones.shape_network import load_shape_network
from unseen.checkpoints import load_run
from unseen.errors import CheckpointError, SettingError, VocabularyError
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.methods.sazs import SAZS, SAZSQuirks
from unseen.modules.edges import (
    edge_attention,
    edge_map,
    pixel_loss,
)
from unseen.segmenter import Prediction, TextFeatures
from unseen.vocabulary import Vocabulary

# ---------------------------------------------------------------- losses, targets


def small(**options: Any) -> SAZS:
    torch.manual_seed(0)
    segmenter = create("sazs", tiny_clip(), backbone="small", **options)
    assert isinstance(segmenter, SAZS)
    return segmenter.eval()


def maps(logits: Tensor, edges: Tensor) -> Prediction:
    """A prediction of `small` made by hand, one cell for four pixels."""
    return Prediction(logits, (4 * logits.shape[2], 4 * logits.shape[3]), {"edges": edges})


def test_images_without_a_confident_edge_cost_no_attention() -> None:
    """The released code divides 0 by 0 there, and the whole loss is NaN."""
    logits, target = torch.randn(2, 2, 4, 4, requires_grad=True), torch.randint(0, 2, (2, 4, 4))
    kept = torch.zeros(2, 4, 4, dtype=torch.bool)
    kept[0, 1] = True
    costs = edge_attention(logits, target, kept)
    assert costs[1].item() == 0
    assert costs[0].item() > 0
    costs.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] == 0).all()
    assert edge_attention(logits, target, torch.zeros_like(kept)).tolist() == [0, 0]


def test_attention_as_sum_or_mean() -> None:
    logits, edges, labels = (
        torch.randn(3, 2, 4, 4),
        torch.full((3, 1, 4, 4), 2.0),
        torch.randint(0, 2, (3, 16, 16)),
    )
    costs = {
        how: small(attention_over=how).loss(maps(logits, edges), labels)["attention"].item()
        for how in ("sum", "mean")
    }
    assert costs["sum"] == pytest.approx(3 * costs["mean"], rel=1e-5)


def test_ignored_pixels_have_no_effect_on_the_loss() -> None:
    """Predictions at ignored pixels change nothing, except as released, where they are others."""
    labels = torch.randint(0, 2, (2, 16, 16))
    labels[:, :, 8:] = IGNORE
    logits, edges = torch.randn(2, 2, 4, 4), torch.full((2, 1, 4, 4), 2.0)
    other, elsewhere = logits.clone(), edges.clone()
    other[..., 2:], elsewhere[..., 2:] = 5 * torch.randn(2, 2, 4, 2), -7
    for ignored_as, same in (("ignore", True), ("others", False)):
        segmenter = small(ignored_as=ignored_as)
        assert (
            segmenter.loss(maps(logits, edges), labels)["total"]
            == segmenter.loss(maps(other, elsewhere), labels)["total"]
        ) == same
    nothing = small().loss(maps(logits, edges), torch.full((2, 16, 16), IGNORE))
    assert nothing["total"].item() == 0


def test_edges_lie_between_objects_and_not_at_ignored_pixels() -> None:
    """Two objects side by side have an edge though neither is of the query class.

    The neighbours of an ignored object are ignored.
    """
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[:, :, 6:11], labels[:, :, 11:] = 5, 7
    _, edges = small().targets(maps(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)), labels)
    assert edges[0, 0].tolist() == [0, 1, 0, 1]  # columns 0, 4, 8 and 12
    labels[:, :, 6:11] = IGNORE
    _, edges = small().targets(maps(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)), labels)
    assert edges[0, 0].tolist() == [0, IGNORE, IGNORE, IGNORE]
    labels[:, :, 11:] = 0
    assert not (edge_map(labels) == 1).any()
    assert (edge_map(labels, ignored_is_other=True) == 1).any()


def test_edges_equal_distances_counted_out() -> None:
    """Against a search over all pairs of pixels."""
    labels = torch.randint(0, 3, (1, 9, 11)) * torch.randint(0, 2, (1, 9, 11))
    labels[torch.rand(1, 9, 11) < 0.1] = IGNORE
    rows, columns = (
        place.flatten()
        for place in torch.meshgrid(torch.arange(9), torch.arange(11), indexing="ij")
    )
    near = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    values = labels.flatten()
    for radius in (1, 2, 3):
        expected = []
        for place in near:
            seen = set(values[place <= radius**2].tolist())
            expected.append(1 if len(seen - {IGNORE}) > 1 else IGNORE if IGNORE in seen else 0)
        assert edge_map(labels, radius=radius).flatten().tolist() == expected
        assert torch.equal(
            edge_map(labels, radius=radius, step=4), edge_map(labels, radius=radius)[:, ::4, ::4]
        )


def test_training_batches_hold_labels_of_seen_objects() -> None:
    """Batches hold edges between seen objects that are not of the query class."""
    from unseen.data.benchmarks import get_benchmark
    from unseen.data.transforms import TrainTransform
    from unseen.settings import TransformSettings
    from unseen.training.batches import QueryItems

    bench = get_benchmark("doodles-5i/0")
    transform = TrainTransform(
        TransformSettings(resize=None, crop=96, photometric=False, max_class_share=None)
    )
    items = QueryItems(
        bench.data("train", None), transform, bench.seen_ids, class_labels=SAZS.needs_class_labels
    )
    _, labels, _ = items[3, 0]
    values = set(labels.unique().tolist())
    assert {0, 1} < values
    assert all(value in (0, 1) or 2 <= value < 22 for value in values)


# ---------------------------------------------------------------- sizes, options, weights


@pytest.mark.parametrize("backbone", ["vit_large", "drn_d_105", "mobilenet_v2", "small"])
@pytest.mark.parametrize("size", [(48, 64), (37, 61), (5, 9)])
def test_any_size(backbone: str, size: tuple[int, int]) -> None:
    sizes = {"vit_sizes": (16, 1, 2, 32, 3), "drn_layers": (1,) * 8, "drn_channels": (4,) * 8}
    segmenter = create("sazs", tiny_clip(), backbone=backbone, **sizes).eval()
    assert isinstance(segmenter, SAZS)
    text = segmenter.encode_text(Vocabulary(["tree", "car", "fish"]))
    prediction = segmenter.forward_query(torch.rand(1, 3, *size), text)
    assert prediction.logits.shape[:2] == (3, 2)
    assert torch.isfinite(prediction.resized(size)).all()
    assert prediction.resized(size).shape[-2:] == size
    target, edges = segmenter.targets(prediction, torch.randint(0, 2, (3, *size)))
    assert target.shape == edges.shape == prediction.logits[:, 0].shape


def test_the_backbone_is_computed_once_for_many_classes() -> None:
    segmenter, images = small(), torch.rand(1, 3, 24, 32)
    calls: list[int] = []
    segmenter.backbone.register_forward_hook(lambda *_: calls.append(1))
    text = segmenter.encode_text(Vocabulary([f"tree {i}" for i in range(20)]))
    together = segmenter(images, text).logits
    assert len(calls) == 1
    separate = torch.cat([segmenter(images, text.select([i])).logits for i in range(20)], dim=1)
    close(together, separate, 1e-4)


def test_balanced_pixels() -> None:
    logits, target = torch.randn(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    target[0, 0, :3], target[1, 0] = 1, IGNORE
    costs = torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    both = (costs[target == 1].mean() + costs[target == 0].mean()) / 2
    assert pixel_loss(logits, target, balanced=True).item() == pytest.approx(both.item(), rel=1e-6)
    assert pixel_loss(logits, target, balanced=False).item() == pytest.approx(
        costs.sum().item() / 28, rel=1e-6
    )
    nothing, one = torch.full_like(target, IGNORE), target.clamp(min=1)
    assert pixel_loss(logits, one, balanced=True).item() == pytest.approx(
        pixel_loss(logits, one, balanced=False).item(), rel=1e-6
    )
    assert [
        pixel_loss(logits, nothing, balanced=balanced).item() for balanced in (True, False)
    ] == [0, 0]
    losses = small(balanced=True).losses(
        Prediction(logits, (16, 16), {"edges": torch.zeros(2, 1, 4, 4)}), target, target
    )
    assert losses["seg"].item() == pytest.approx(both.item(), rel=1e-6)


def test_stored_text_and_a_learned_background() -> None:
    text = TextFeatures(("a", "b"), torch.randn(2, 16))
    with pytest.raises(VocabularyError, match="train with background=learned"):
        small().forward_query(torch.rand(1, 3, 8, 8), text)
    segmenter = small(background="learned").train()
    assert segmenter.background_name is None
    prediction = segmenter.forward_query(torch.rand(2, 3, 16, 16), text)
    assert (prediction.logits[:, 0] == 0).all()  # it starts at 0
    segmenter.loss(prediction, torch.randint(0, 2, (2, 16, 16)))["total"].backward()
    assert segmenter.others is not None
    assert segmenter.others.grad is not None
    assert segmenter.others.grad.abs().max() > 0


def test_drn_is_not_trained_on_one_image() -> None:
    segmenter = create(
        "sazs", tiny_clip(), backbone="drn_d_105", drn_layers=(1,) * 8, drn_channels=(4,) * 8
    ).train()
    with pytest.raises(SettingError, match="two or more"):
        segmenter.forward_query(
            torch.rand(1, 3, 16, 16),
            segmenter.encode_text(Vocabulary(["tree"])),
        )


def test_the_released_choices() -> None:
    segmenter = create("sazs", tiny_clip(), published=True, backbone="small")
    assert isinstance(segmenter, SAZS)
    assert segmenter.backbone.mean.flatten().tolist() == pytest.approx(
        [0.29010095, 0.32808144, 0.28696394]
    )
    assert segmenter.backbone.std.flatten().tolist() == pytest.approx(
        [0.18295405, 0.18656561, 0.18447509]
    )
    text = segmenter.encode_text(Vocabulary(["tree"]))
    raw = segmenter.clip.encode_tokens(segmenter.clip.tokenize(["tree", "others"]))[0]
    assert text.background is not None
    close(torch.cat([text.pooled, text.background[None]]), raw, 1e-6)
    assert segmenter.quirks == SAZSQuirks("released", "black", "sum", "others")
    assert (segmenter.scale, segmenter.balanced) == (1.0, False)


def test_the_shape_network_is_loaded_for_training_alone(tmp_path: Path) -> None:
    network, tensors = shape_network()
    path = tmp_path / "distance_measures_regressor.pth"
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, path)
    segmenter = small(shape="sigmoid", shape_weights=str(path))
    edges = tensors["edge_logits"][:, 0], tensors["edge_gt"][:, 0].long()
    with pytest.raises(SettingError, match="not loaded"):
        segmenter.shape_loss(*edges)
    segmenter.initialise()
    assert segmenter.shape_loss(*edges).item() == pytest.approx(
        tensors["loss_sigmoid"].item(), abs=1e-5
    )
    assert not any("shape_network" in name for name in segmenter.trainable_state())
    text = segmenter.encode_text(Vocabulary(["tree", "car"]))
    losses = segmenter.train().loss(
        segmenter.forward_query(torch.rand(2, 3, 16, 16), text), torch.randint(0, 2, (2, 16, 16))
    )
    assert set(losses) == {"seg", "edge", "attention", "shape", "total"}
    with pytest.raises(SettingError, match="needs the weights of its network"):
        small(shape="released")
    torch.save({"fc.0.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="InverseForm's shape network"):
        load_shape_network(str(path))


def test_two_steps_on_photographs(
    voc_small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MobileNetV2's real weights, text embeddings from a file and a learned background."""
    data = SHARED / "data"
    embeddings, weights = (
        data / "clip_text" / "voc12_single.npy",
        data / "weights" / "mobilenet_v2_imagenet_tv.safetensors",
    )
    if not (embeddings.exists() and weights.exists() and (data / "lists").is_dir()):
        pytest.skip("embeddings, weights or lists of ../shared/data are not here")
    here = {path.stem for path in (voc_small / "SegmentationClassAug").iterdir()}
    for source in (data / "lists" / "pascal-5i").rglob("*.txt"):
        target = tmp_path / "lists" / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            "".join(
                f"{line}\n"
                for line in source.read_text().split()
                if line.partition("__")[0] in here
            )
        )
    where = f"--root {voc_small} --lists {tmp_path / 'lists'}"
    options = {"backbone": "mobilenet_v2", "background": "learned", "weights": str(weights)}
    run_command(
        f"train sazs --benchmark pascal-5i/0 {where} --out {tmp_path / 'run'}",
        f"--clip none --text-embeddings {embeddings} --options '{json.dumps(options)}'",
        "--train.steps 2 --train.batch_size 2 --train.workers 0 --train.transforms.crop 64",
    )
    run_command(
        f"evaluate {tmp_path / 'run'}",
        where,
        "--limit 3 --inference.canvas 0 --inference.square 64",
        "--inference.antialias false",
    )
    report = json.loads((tmp_path / "run" / "eval-pascal-5i-0-first-3" / "report.json").read_text())
    assert report["protocol"]["inference"]["antialias"] is False
    assert sum(report["episodes"].values()) == 3
    segmenter, _ = load_run(tmp_path / "run")
    untouched = DilatedMobileNet(512)
    untouched.load(str(weights))
    close(
        segmenter.state_dict()["backbone.body.features.0.1.weight"],
        untouched.state_dict()["body.features.0.1.weight"],
        0.01,
    )
