"""SAZS against the released code (fixtures sazs_*) and its own promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import SHARED, close, golden
from tiny import tiny_clip
from unseen.backbones.clip import CLIPText
from unseen.convert import RELEASED, from_state_dict, renamed, translate
from unseen.errors import CheckpointError, SettingError, VocabularyError
from unseen.inference import ask, foreground
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.methods.sazs import SAZS, ShapeNetwork, balanced_edge_loss, edge_attention, attention_weight, load_shape_network
from unseen.modules.edges import edge_map
from unseen.segmenter import Prediction, TextFeatures
from unseen.settings import InferenceSettings

FEATURES, LOSSES, GRADIENTS = 5e-5, 1e-5, 1e-3  # tolerances suggested with the fixtures


def words_only(embed_dim: int = 32) -> CLIPText:
    """What stands for a text tower where the words' vectors are given."""
    return CLIPText(None, embed_dim)


def shape_network() -> tuple[ShapeNetwork, dict[str, Tensor]]:
    tensors, _ = golden("sazs_shape_loss")
    network = ShapeNetwork(28, (16, 8))
    network.load_state_dict({name.removeprefix("inversenet."): tensor for name, tensor in tensors.items() if name.startswith("inversenet.")})
    return network, tensors


class Released:
    """A fixture of the whole network, and our segmenter with its weights; void is what it is in the released code."""

    def __init__(self, name: str) -> None:
        self.tensors, self.about = golden(name)
        self.state = {key[6:]: value for key, value in self.tensors.items() if key.startswith("param.")}
        sizes: dict[str, Any] = {}
        if self.about["kind"] == "dpt":
            sizes = {"vit_sizes": (16, 2, 2, 32, 4)}
        segmenter, self.report = translate("sazs", self.state, clip=words_only(), shape="released", shape_weights="given below", **sizes)
        assert isinstance(segmenter, SAZS)
        self.segmenter = segmenter
        self.segmenter.shape_network = shape_network()[0]
        self.segmenter.backbone.mean.zero_()  # the fixtures' pictures are normalised already
        self.segmenter.backbone.std.fill_(1)
        self.text = TextFeatures(("a", "b"), self.tensors["text"][:, 1], None, self.tensors["text"][0, 0])
        assert torch.equal(self.tensors["text"][0, 0], self.tensors["text"][1, 0])
        labels = self.tensors["label"].long()
        word = self.tensors["class_id"].view(-1, 1, 1) + 1
        self.labels = torch.where(labels == word, 1, torch.where((labels == IGNORE) | (labels == 0), labels, labels + 2))  # as training hands them out


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
    segmenter = Released(released.about["kind"].join(("sazs_", "_tiny"))).segmenter.train(mode == "train")  # batch statistics moved
    prediction = segmenter(tensors["images"], released.text)
    close(prediction.extras["edges"], tensors[f"{mode}_edge"], FEATURES)
    if mode == "train":
        close(prediction.logits.log_softmax(dim=1), tensors["train_result"], FEATURES)


def test_training_step(released: Released) -> None:
    """Targets, losses and the norm of every parameter's gradient of one step."""
    tensors, segmenter = released.tensors, released.segmenter.train()
    prediction = segmenter(tensors["images"], released.text)
    target, edges = segmenter.targets(prediction, released.labels)
    assert torch.equal(target, tensors["train_target"])
    raw = tensors["label"].long()
    counted = edge_map(raw, void_is_other=True, counted=range(20), step=8)
    assert torch.equal(counted.unsqueeze(1), tensors["train_edge_gt"].long())
    # The last class does not count there, so that it has no border with void; nothing else differs from what training makes.
    alone = edge_map(torch.where(raw == 20, 20, torch.where(raw == IGNORE, IGNORE, 0)), void_is_other=True, step=8)
    assert torch.equal(edges.clamp(min=counted), edges)
    assert (edges != counted).any()
    assert (alone[edges != counted] == 1).all()
    losses = segmenter.losses(prediction, target, counted)
    for ours, theirs, weight in (("seg", "seg", 1), ("edge", "bce", 0.3), ("attention", "att", 0.1), ("shape", "inv", 0.3), ("total", "total", 1)):
        assert losses[ours].item() == pytest.approx(weight * tensors[f"train_loss_{theirs}"].item(), abs=LOSSES), ours
    losses["total"].backward()
    own = dict(segmenter.named_parameters())
    norms = {name: norm for name, norm in released.about["grad_norm"].items() if norm is not None}
    for theirs, norm in norms.items():
        grad = own[renamed(theirs, RELEASED["sazs"].names, "")].grad
        assert grad is not None
        assert grad.norm().item() == pytest.approx(norm, rel=GRADIENTS, abs=1e-5 * max(norms.values())), theirs
    assert len(norms) == sum(p.requires_grad for p in own.values())


def test_loss_pieces() -> None:
    tensors, _ = golden("sazs_losses")
    logits, target, edge_logits, edges = tensors["result"], tensors["target"], tensors["edge_out"][:, 0], tensors["edge_gt"][:, 0]
    kept = edge_logits > 0.8
    pictures = edge_attention(logits, target, kept)
    assert pictures.sum().item() == pytest.approx(tensors["loss_att"].item(), abs=LOSSES)
    weights = torch.stack([attention_weight((kept & (target == value)).sum(), kept.sum()) for value in (0, 1)])
    close(weights, tensors["att_class_weights"], LOSSES)
    assert balanced_edge_loss(edge_logits, edges).item() == pytest.approx(tensors["loss_bce"].item(), abs=LOSSES)
    some = tensors["edge_gt_with_ignore"][:, 0]
    assert balanced_edge_loss(edge_logits, some).item() == pytest.approx(tensors["loss_bce_with_ignore"].item(), abs=LOSSES)
    assert torch.nn.functional.cross_entropy(logits, target).item() == pytest.approx(tensors["loss_seg"].item(), abs=LOSSES)


def test_shape_loss() -> None:
    network, tensors = shape_network()
    truth, logits = tensors["edge_gt"][:, 0], tensors["edge_logits"][:, 0].requires_grad_()
    close(network(torch.zeros_like(truth), truth), tensors["dist_as_released"], LOSSES)
    close(network(tensors["sigmoid_input"][:, 0], truth), tensors["dist_sigmoid"], LOSSES)
    close(network.tiles(tensors["sigmoid_input"][:, 0])[:6], tensors["tiles_pred_sigmoid"].flatten(1), LOSSES)
    close(network.tiles(truth)[:6], tensors["tiles_gt"].flatten(1), LOSSES)
    for shape, key in (("released", "loss_as_released"), ("sigmoid", "loss_sigmoid")):
        segmenter = create("sazs", words_only(), backbone="small", shape=shape, shape_weights="given below")
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
    for name, classes in (("0", about["nclass_pascal"]), ("1", about["nclass_pascal"]), ("2", about["nclass_pascal"])):
        labels, edges = tensors[f"label{name}"].long()[None], tensors[f"edge{name}"].long()[None]
        found = edge_map(labels, void_is_other=True, counted=range(classes))
        assert torch.equal(found, edges)
        small = edge_map(labels, void_is_other=True, counted=range(classes), step=8)
        assert torch.equal(small, edges[:, ::8, ::8])
        if labels.shape[1] == labels.shape[2]:  # the released code swaps the sides of the small map, which only squares survive
            assert torch.equal(small[0], tensors[f"edge{name}_down8"].long())
            assert torch.equal(labels[0, ::8, ::8], tensors[f"label{name}_down8"].long())
    coco = edge_map(tensors["coco_label"].long()[None], void_is_other=True, counted=range(about["nclass_coco"]))
    assert torch.equal(coco[0], tensors["coco_edge"].long())


def test_masks_of_the_test_step() -> None:
    """Squashed without anti-aliasing, and the answer brought to the picture's size at once: the released code's masks, pixel by pixel."""
    tensors, about = golden("sazs_infer_pascal")
    segmenter = Released("sazs_dpt_tiny").segmenter.eval()
    side = about["resize"][0]
    for i in range(3):
        text = TextFeatures(("word",), tensors["text"][i, 1:], None, tensors["text"][i, 0])
        image = tensors[f"{i}.image"].unsqueeze(0)
        found = foreground(segmenter, image, text, 0, InferenceSettings(square=side, plain=True))
        assert torch.equal(found[0], tensors[f"{i}.pred"].bool())
