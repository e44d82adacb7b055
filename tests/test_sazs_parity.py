"""SAZS against the released code (fixtures sazs_*), and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import SHARED, check_gradient_norms, close, converted, golden, shape_network
from tiny import text_only, tiny_clip
from tiny.commands import error_of, run_command
from unseen.checkpoints import load_run
from unseen.conversion import translate
from unseen.errors import CheckpointError, SettingError
from unseen.inference import query_mask
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.methods.sazs import SAZS
from unseen.modules.edges import attention_weight, balanced_edge_loss, edge_attention, edge_map
from unseen.segmenter import TextFeatures
from unseen.settings import InferenceSettings

FEATURES, LOSSES, GRADIENTS = 5e-5, 1e-5, 1e-3  # tolerances suggested with the fixtures


class Released:
    """A fixture of the whole network, and the segmenter with its weights and released quirks."""

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
            clip=text_only(),
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
        query = self.tensors["class_id"].view(-1, 1, 1) + 1
        self.labels = torch.where(
            labels == query, 1, torch.where((labels == IGNORE) | (labels == 0), labels, labels + 2)
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
    # The last class is left out there, so that it has no edge with ignored pixels; nothing else
    # differs from the targets of training.
    alone = edge_map(
        torch.where(raw == 20, 20, torch.where(raw == IGNORE, IGNORE, 0)),
        ignored_is_other=True,
        step=8,
    )
    assert torch.equal(edges.clamp(min=counted), edges)
    assert (edges != counted).any()
    assert (alone[edges != counted] == 1).all()
    losses = segmenter.losses(prediction, target, counted)
    for name, released_name, weight in (
        ("seg", "seg", 1),
        ("edge", "bce", 0.3),
        ("attention", "att", 0.1),
        ("shape", "inv", 0.3),
        ("total", "total", 1),
    ):
        assert losses[name].item() == pytest.approx(
            weight * tensors[f"train_loss_{released_name}"].item(), abs=LOSSES
        ), name
    losses["total"].backward()
    norms = {name: norm for name, norm in released.about["grad_norm"].items() if norm is not None}
    check_gradient_norms(segmenter, norms, SAZS.RELEASED.names, GRADIENTS)


def test_loss_pieces() -> None:
    tensors, _ = golden("sazs_losses")
    logits, target, edge_logits, edges = (
        tensors["result"],
        tensors["target"],
        tensors["edge_out"][:, 0],
        tensors["edge_gt"][:, 0],
    )
    kept = edge_logits > 0.8
    image_losses = edge_attention(logits, target, kept)
    assert image_losses.sum().item() == pytest.approx(tensors["loss_att"].item(), abs=LOSSES)
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
            "sazs", text_only(), backbone="small", shape=shape, shape_weights="given below"
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
        actual = edge_map(labels, ignored_is_other=True, counted=range(classes))
        assert torch.equal(actual, edges)
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
    """The released masks, pixel by pixel: resized to a square and back, without anti-aliasing."""
    tensors, about = golden("sazs_infer_pascal")
    segmenter = Released("sazs_dpt_tiny").segmenter.eval()
    side = about["resize"][0]
    for i in range(3):
        text = TextFeatures(("query",), tensors["text"][i, 1:], None, tensors["text"][i, 0])
        image = tensors[f"{i}.image"].unsqueeze(0)
        mask = query_mask(
            segmenter, image, text, 0, InferenceSettings(square=side, antialias=False)
        )
        assert torch.equal(mask[0], tensors[f"{i}.pred"].bool())


# ---------------------------------------------------------------- sizes, options, weights


def test_published_sizes() -> None:
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in create("sazs", text_only(512), backbone=name).parameters())
            for name in ("vit_large", "drn_d_105")
        }
        base = create("sazs", text_only(512), backbone="drn_d_105").get_submodule("backbone.base")
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
        segmenter, report = translate("sazs", state, clip=text_only(512))
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

    path, clip = write_checkpoint(
        tmp_path, name, best_prec1=np.float64(51.5), val_miou=torch.tensor(3.0)
    )
    run = tmp_path / "run"
    run_command(f"convert sazs {path} --out {run} --benchmark pascal-5i/1 --clip {clip}", *flags)
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


def test_checkpoints_need_their_text_tower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = write_checkpoint(tmp_path, "sazs_dpt_tiny")
    command = f"{path} --out {tmp_path / 'run'} --benchmark pascal-5i/1 --clip doodles"
    assert "text features have 32 channels, those of doodles 128" in error_of(
        capsys, "convert sazs", command
    )
    assert "brings its own towers" in error_of(capsys, "convert esda", command)
    state = {
        key[6:]: value
        for key, value in golden("sazs_dpt_tiny")[0].items()
        if key.startswith("param.")
    }
    with pytest.raises(SettingError, match="part of vit_sizes"):
        converted("sazs", state, clip=text_only(), vision_heads=2)
    with pytest.raises(SettingError, match="holds no text tower"):
        converted("sazs", state)
    with pytest.raises(CheckpointError, match="blocks.1.mlp.fc2.bias is missing"):
        converted(
            "sazs",
            {k: v for k, v in state.items() if k != "pretrained.model.blocks.1.mlp.fc2.bias"},
            clip=text_only(),
            vit_sizes=(16, 2, 2, 32, 4),
        )


def test_the_released_statistics() -> None:
    tensors, _ = golden("sazs_transforms")
    backbone = create("sazs", tiny_clip(), backbone="small", statistics="released").backbone
    close(
        backbone.normalize(tensors["image"].permute(2, 0, 1).unsqueeze(0) / 255)[0],
        tensors["tensor"],
        1e-5,
    )
