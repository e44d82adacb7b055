"""SAZS against the released code (fixtures sazs_*) and its own promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import SHARED, close, converted, golden
from tiny import tiny_clip
from unseen.backbones.clip.text import StoredText
from unseen.backbones.mobilenet import DilatedMobileNet
from unseen.backbones.shape_network import ShapeNetwork, load_shape_network
from unseen.checkpoints import load_run
from unseen.conversion import translate
from unseen.errors import CheckpointError, SettingError, VocabularyError
from unseen.inference import query_mask
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.methods.sazs import SAZS, SAZSQuirks
from unseen.modules.edges import (
    attention_weight,
    balanced_edge_loss,
    edge_attention,
    edge_map,
    pixel_loss,
)
from unseen.released import rename
from unseen.segmenter import Prediction, TextFeatures
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary

FEATURES, LOSSES, GRADIENTS = 5e-5, 1e-5, 1e-3  # tolerances suggested with the fixtures


def words_only(embed_dim: int = 32) -> StoredText:
    """What stands for a text tower where the words' vectors are given."""
    return StoredText(["a"], np.zeros((2, embed_dim), dtype=np.float32), Path("text.npy"))


def shape_network() -> tuple[ShapeNetwork, dict[str, Tensor]]:
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


class Released:
    """A fixture of the whole network, and our segmenter with its weights; void is what it is in the
    released code."""

    def __init__(self, name: str) -> None:
        self.tensors, self.about = golden(name)
        self.state = {
            key[6:]: value for key, value in self.tensors.items() if key.startswith("param.")
        }
        sizes: dict[str, Any] = {}
        if self.about["kind"] == "dpt":
            sizes = {"vit_sizes": (16, 2, 2, 32, 4)}
        segmenter, self.report = translate(
            "sazs",
            self.state,
            clip=words_only(),
            shape="released",
            shape_weights="given below",
            **sizes,
        )
        assert isinstance(segmenter, SAZS)
        self.segmenter = segmenter
        self.segmenter.shape_network = shape_network()[0]
        self.segmenter.backbone.mean.zero_()  # the fixtures' images are normalised already
        self.segmenter.backbone.std.fill_(1)
        self.text = TextFeatures(
            ("a", "b"), self.tensors["text"][:, 1], None, self.tensors["text"][0, 0]
        )
        assert torch.equal(self.tensors["text"][0, 0], self.tensors["text"][1, 0])
        labels = self.tensors["label"].long()
        word = self.tensors["class_id"].view(-1, 1, 1) + 1
        self.labels = torch.where(
            labels == word, 1, torch.where((labels == IGNORE) | (labels == 0), labels, labels + 2)
        )  # as training hands them out


@pytest.fixture(params=["sazs_dpt_tiny", "sazs_drn_tiny"])
def released(request: pytest.FixtureRequest) -> Released:
    return Released(request.param)


# ---------------------------------------------------------------- parity


def test_every_tensor_of_the_checkpoint_is_accounted_for(released: Released) -> None:
    assert released.report.problem is None
    dead = {name for name, norm in released.about["grad_norm"].items() if norm is None}
    buffers = {name for name in released.state if name not in released.about["grad_norm"]}
    assert dead - buffers <= set(released.report.dead)
    assert len(released.report.loaded) + len(released.report.dead) == len(released.state)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_features_and_edges(released: Released, mode: str) -> None:
    tensors, segmenter = released.tensors, released.segmenter.train(mode == "train")
    close(segmenter.backbone(tensors["images"]), tensors[f"{mode}_features"], FEATURES)
    segmenter = Released(released.about["kind"].join(("sazs_", "_tiny"))).segmenter.train(
        mode == "train"
    )  # batch statistics moved
    prediction = segmenter.forward_query(tensors["images"], released.text)
    close(prediction.extras["edges"], tensors[f"{mode}_edge"], FEATURES)
    if mode == "train":
        close(prediction.logits.log_softmax(dim=1), tensors["train_result"], FEATURES)


def test_training_step(released: Released) -> None:
    """Targets, losses and the norm of every parameter's gradient of one step."""
    tensors, segmenter = released.tensors, released.segmenter.train()
    prediction = segmenter.forward_query(tensors["images"], released.text)
    target, edges = segmenter.targets(prediction, released.labels)
    assert torch.equal(target, tensors["train_target"])
    raw = tensors["label"].long()
    counted = edge_map(raw, ignored_is_other=True, counted=range(20), step=8)
    assert torch.equal(counted.unsqueeze(1), tensors["train_edge_gt"].long())
    # The last class does not count there, so that it has no border with void; nothing else differs
    # from what training makes.
    alone = edge_map(
        torch.where(raw == 20, 20, torch.where(raw == IGNORE, IGNORE, 0)),
        ignored_is_other=True,
        step=8,
    )
    assert torch.equal(edges.clamp(min=counted), edges)
    assert (edges != counted).any()
    assert (alone[edges != counted] == 1).all()
    losses = segmenter.losses(prediction, target, counted)
    for ours, theirs, weight in (
        ("seg", "seg", 1),
        ("edge", "bce", 0.3),
        ("attention", "att", 0.1),
        ("shape", "inv", 0.3),
        ("total", "total", 1),
    ):
        assert losses[ours].item() == pytest.approx(
            weight * tensors[f"train_loss_{theirs}"].item(), abs=LOSSES
        ), ours
    losses["total"].backward()
    own = dict(segmenter.named_parameters())
    norms = {name: norm for name, norm in released.about["grad_norm"].items() if norm is not None}
    for theirs, norm in norms.items():
        grad = own[rename(theirs, SAZS.RELEASED.names, "")].grad
        assert grad is not None
        assert grad.norm().item() == pytest.approx(
            norm, rel=GRADIENTS, abs=1e-5 * max(norms.values())
        ), theirs
    assert len(norms) == sum(p.requires_grad for p in own.values())


def test_loss_pieces() -> None:
    tensors, _ = golden("sazs_losses")
    logits, target, edge_logits, edges = (
        tensors["result"],
        tensors["target"],
        tensors["edge_out"][:, 0],
        tensors["edge_gt"][:, 0],
    )
    kept = edge_logits > 0.8
    pictures = edge_attention(logits, target, kept)
    assert pictures.sum().item() == pytest.approx(tensors["loss_att"].item(), abs=LOSSES)
    weights = torch.stack(
        [attention_weight((kept & (target == value)).sum(), kept.sum()) for value in (0, 1)]
    )
    close(weights, tensors["att_class_weights"], LOSSES)
    assert balanced_edge_loss(edge_logits, edges).item() == pytest.approx(
        tensors["loss_bce"].item(), abs=LOSSES
    )
    some = tensors["edge_gt_with_ignore"][:, 0]
    assert balanced_edge_loss(edge_logits, some).item() == pytest.approx(
        tensors["loss_bce_with_ignore"].item(), abs=LOSSES
    )
    assert torch.nn.functional.cross_entropy(logits, target).item() == pytest.approx(
        tensors["loss_seg"].item(), abs=LOSSES
    )


def test_shape_loss() -> None:
    network, tensors = shape_network()
    truth, logits = tensors["edge_gt"][:, 0], tensors["edge_logits"][:, 0].requires_grad_()
    close(network(torch.zeros_like(truth), truth), tensors["dist_as_released"], LOSSES)
    close(network(tensors["sigmoid_input"][:, 0], truth), tensors["dist_sigmoid"], LOSSES)
    close(
        network.tiles(tensors["sigmoid_input"][:, 0])[:6],
        tensors["tiles_pred_sigmoid"].flatten(1),
        LOSSES,
    )
    close(network.tiles(truth)[:6], tensors["tiles_gt"].flatten(1), LOSSES)
    for shape, key in (("released", "loss_as_released"), ("sigmoid", "loss_sigmoid")):
        segmenter = create(
            "sazs", words_only(), backbone="small", shape=shape, shape_weights="given below"
        )
        assert isinstance(segmenter, SAZS)
        segmenter.shape_network = network
        loss = segmenter.shape_loss(logits, truth.long())
        assert loss.item() == pytest.approx(tensors[key].item(), abs=LOSSES)
        logits.grad = None
        loss.backward()
        assert logits.grad is not None
        if shape == "released":
            close(logits.grad.unsqueeze(1), tensors["grad_edge_as_released"], 0)
        else:
            assert logits.grad.abs().max() > 0
    assert not any(p.requires_grad for p in network.parameters())


def test_edge_truth() -> None:
    tensors, about = golden("sazs_edge_gt")
    for name, classes in (
        ("0", about["nclass_pascal"]),
        ("1", about["nclass_pascal"]),
        ("2", about["nclass_pascal"]),
    ):
        labels, edges = tensors[f"label{name}"].long()[None], tensors[f"edge{name}"].long()[None]
        found = edge_map(labels, ignored_is_other=True, counted=range(classes))
        assert torch.equal(found, edges)
        small = edge_map(labels, ignored_is_other=True, counted=range(classes), step=8)
        assert torch.equal(small, edges[:, ::8, ::8])
        if (
            labels.shape[1] == labels.shape[2]
        ):  # the released code swaps the sides of the small map, which only squares survive
            assert torch.equal(small[0], tensors[f"edge{name}_down8"].long())
            assert torch.equal(labels[0, ::8, ::8], tensors[f"label{name}_down8"].long())
    coco = edge_map(
        tensors["coco_label"].long()[None],
        ignored_is_other=True,
        counted=range(about["nclass_coco"]),
    )
    assert torch.equal(coco[0], tensors["coco_edge"].long())


def test_masks_of_the_test_step() -> None:
    """Squashed without anti-aliasing, and the answer brought to the image's size at once: the
    released code's masks, pixel by pixel."""
    tensors, about = golden("sazs_infer_pascal")
    segmenter = Released("sazs_dpt_tiny").segmenter.eval()
    side = about["resize"][0]
    for i in range(3):
        text = TextFeatures(("word",), tensors["text"][i, 1:], None, tensors["text"][i, 0])
        image = tensors[f"{i}.image"].unsqueeze(0)
        found = query_mask(
            segmenter, image, text, 0, InferenceSettings(square=side, antialias=False)
        )
        assert torch.equal(found[0], tensors[f"{i}.pred"].bool())


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


def test_void_teaches_nothing() -> None:
    """What the network says on void cells does not matter; to the released code they are others,
    and one more thing to the edges."""
    labels = torch.randint(0, 2, (2, 16, 16))
    labels[:, :, 8:] = IGNORE
    logits, edges = torch.randn(2, 2, 4, 4), torch.full((2, 1, 4, 4), 2.0)
    other, elsewhere = logits.clone(), edges.clone()
    other[..., 2:], elsewhere[..., 2:] = 5 * torch.randn(2, 2, 4, 2), -7
    for void, same in (("ignore", True), ("others", False)):
        segmenter = small(ignored_as=void)
        assert (
            segmenter.loss(maps(logits, edges), labels)["total"]
            == segmenter.loss(maps(other, elsewhere), labels)["total"]
        ) == same
    nothing = small().loss(maps(logits, edges), torch.full((2, 16, 16), IGNORE))
    assert nothing["total"].item() == 0


def test_edges_are_of_things_and_not_of_what_is_void() -> None:
    """Two things side by side have an edge, though both are not the word; a hidden word has none,
    and its neighbours are unknown."""
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


def test_training_hands_out_things() -> None:
    """Edges between two seen things that are not the word, in the batches the training makes."""
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


def test_published_sizes() -> None:
    with torch.device("meta"):
        counts = {
            name: sum(
                p.numel() for p in create("sazs", words_only(512), backbone=name).parameters()
            )
            for name in ("vit_large", "drn_d_105")
        }
        base = create("sazs", words_only(512), backbone="drn_d_105").get_submodule("backbone.base")
    assert counts == {
        "vit_large": 156_206_080 + 513,
        "drn_d_105": 67_138_480 + 513,
    }  # with the edge head, without fc2 and up
    assert sum(p.numel() for p in base.parameters()) == 54_288_304


@pytest.mark.filterwarnings("ignore:.*is a no-op.*")
@pytest.mark.parametrize(("name", "tensors", "dead"), [("vitl16", 428, 272), ("drn_d_105", 682, 2)])
def test_all_names_of_the_full_checkpoints(name: str, tensors: int, dead: int) -> None:
    path = SHARED / "spec" / f"sazs_state_dict_{name}.json"
    if not path.exists():
        pytest.skip("the lists of names are not in ../shared/spec")
    shapes = json.loads(path.read_text())
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    with torch.device("meta"):
        segmenter, report = translate("sazs", state, clip=words_only(512))
    assert isinstance(segmenter, SAZS)
    assert report.problem is None
    assert (len(report.loaded) + len(report.dead), len(report.dead)) == (tensors, dead)


def write_checkpoint(folder: Path, name: str, **about: Any) -> tuple[Path, Path]:
    """A file as the released training stores it, and a CLIP of its width."""
    from unseen.checkpoints import save_tower

    state = {
        f"module.{key[6:]}": value
        for key, value in golden(name)[0].items()
        if key.startswith("param.")
    }
    torch.save(
        {"epoch": 3, "arch": golden(name)[1]["kind"], "state_dict": state, **about},
        folder / "model_best.pth.tar",
    )
    save_tower(folder, tiny_clip(embed_dim=32))
    return folder / "model_best.pth.tar", folder / "clip.safetensors"


@pytest.mark.parametrize(
    ("name", "flags"),
    [("sazs_dpt_tiny", ["--options.vit_sizes", "[16,2,2,32,4]"]), ("sazs_drn_tiny", [])],
)
def test_a_checkpoint_becomes_a_run(
    name: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from unseen.__main__ import main
    from unseen.checkpoints import load_run

    path, clip = write_checkpoint(
        tmp_path, name, best_prec1=np.float64(51.5), val_miou=torch.tensor(3.0)
    )
    run = tmp_path / "run"
    main(
        [
            "convert",
            "sazs",
            str(path),
            "--out",
            str(run),
            "--benchmark",
            "pascal-5i/1",
            "--clip",
            str(clip),
            *flags,
        ]
    )
    assert "missing: 0" in capsys.readouterr().out
    segmenter, about = load_run(run)
    assert about.model.published
    assert about.model.clip == str(clip)
    assert not (run / "clip.safetensors").exists()
    tensors, _ = golden(name)
    assert isinstance(segmenter, SAZS)
    images = (
        tensors["images"] * segmenter.backbone.std + segmenter.backbone.mean
    )  # as they were before the released statistics
    text = TextFeatures(("a", "b"), tensors["text"][:, 1], None, tensors["text"][0, 0])
    close(
        segmenter.forward_query(images, text).extras["edges"], tensors["eval_edge"], 1e-4
    )  # twice through the statistics


def test_checkpoints_need_their_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_flow import said

    path, _ = write_checkpoint(tmp_path, "sazs_dpt_tiny")
    command = [
        "convert",
        "sazs",
        str(path),
        "--out",
        str(tmp_path / "run"),
        "--benchmark",
        "pascal-5i/1",
    ]
    assert "text features have 32 channels, those of doodles 128" in said(
        capsys, *command, "--clip", "doodles"
    )
    assert "brings its own towers" in said(
        capsys, "convert", "esda", *command[2:], "--clip", "doodles"
    )
    state = {
        key[6:]: value
        for key, value in golden("sazs_dpt_tiny")[0].items()
        if key.startswith("param.")
    }
    with pytest.raises(SettingError, match="part of vit_sizes"):
        converted("sazs", state, clip=words_only(), vision_heads=2)
    with pytest.raises(SettingError, match="holds no text tower"):
        converted("sazs", state)
    with pytest.raises(CheckpointError, match="blocks.1.mlp.fc2.bias is missing"):
        converted(
            "sazs",
            {k: v for k, v in state.items() if k != "pretrained.model.blocks.1.mlp.fc2.bias"},
            clip=words_only(),
            vit_sizes=(16, 2, 2, 32, 4),
        )


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


def test_the_backbone_is_computed_once_for_many_words() -> None:
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


def test_words_from_a_file_and_a_learned_background() -> None:
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


def test_the_released_statistics() -> None:
    tensors, _ = golden("sazs_transforms")
    backbone = small(statistics="released").backbone
    close(
        backbone.normalize(tensors["image"].permute(2, 0, 1).unsqueeze(0) / 255)[0],
        tensors["tensor"],
        1e-5,
    )


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
        tensors["loss_sigmoid"].item(), abs=LOSSES
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
    """MobileNetV2 with real weights, words from a file and a learned background, on the images of
    a fold that are here; then an evaluation."""
    from unseen.__main__ import main

    data = SHARED / "data"
    words, weights = (
        data / "clip_text" / "voc12_single.npy",
        data / "weights" / "mobilenet_v2_imagenet_tv.safetensors",
    )
    if not (words.exists() and weights.exists() and (data / "lists").is_dir()):
        pytest.skip("words, weights or lists of ../shared/data are not here")
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
    where = ["--root", str(voc_small), "--lists", str(tmp_path / "lists")]
    main(
        [
            "train",
            "sazs",
            "--benchmark",
            "pascal-5i/0",
            *where,
            "--out",
            str(tmp_path / "run"),
            "--clip",
            "none",
            "--text-embeddings",
            str(words),
            "--options",
            json.dumps(
                {"backbone": "mobilenet_v2", "background": "learned", "weights": str(weights)}
            ),
            "--train.steps",
            "2",
            "--train.batch_size",
            "2",
            "--train.workers",
            "0",
            "--train.transforms.crop",
            "64",
        ]
    )
    main(
        [
            "evaluate",
            str(tmp_path / "run"),
            *where,
            "--limit",
            "3",
            "--inference.canvas",
            "0",
            "--inference.square",
            "64",
            "--inference.antialias",
            "false",
        ]
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
