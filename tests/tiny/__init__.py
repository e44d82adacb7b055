"""Small stand-ins: a random CLIP, and data sets of four images in the true layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from unseen.backbones.clip.loading import build_clip
from unseen.backbones.clip.text import StoredText
from unseen.backbones.clip.tower import CLIP
from unseen.data.classes import voc_palette
from unseen.inference import output_resize, score_maps
from unseen.score_maps import Place, ScoreMaps
from unseen.segmenter import Prediction, QuerySegmenter, Segmenter, TextFeatures
from unseen.settings import InferenceSettings
from unseen.vocabulary import Vocabulary


def tiny_clip(
    image_size: int = 32,
    patch_size: int = 8,
    width: int = 32,
    layers: int = 3,
    heads: int = 2,
    embed_dim: int = 16,
) -> CLIP:
    """A random CLIP with the true tokenizer and context."""
    vision = {
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "layers": layers,
        "head_width": width // heads,
    }
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    return build_clip(
        {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "quick_gelu": False},
        source="tiny",
    )


def text_only(embed_dim: int = 32) -> StoredText:
    """Stands for a text tower where text features are given."""
    return StoredText(["a"], np.zeros((2, embed_dim), dtype=np.float32), Path("text.npy"))


def write_voc(
    root: Path, size: tuple[int, int] = (20, 24), count: int = 4, mode: Literal["P", "L"] = "P"
) -> Path:
    """PASCAL VOC 2012 in mmsegmentation's layout, `root` being the VOC2012 folder; returns it.

    Half of the images stand in train.txt, a quarter each in aug.txt and val.txt. Every mask
    holds, from left to right, a seen class (1 + i % 15), background and an unseen class (16 + i %
    5), above a row of ignored pixels. `SegmentationClass`, stored as `mode`, holds train and val;
    `SegmentationClassAug`, grey as SBD's masks are, holds train and aug.
    """
    h, w = size
    names = [f"2007_{i:06d}" for i in range(count)]
    quarter = max(1, count // 4)
    lists = {
        "train": names[: count - 2 * quarter],
        "aug": names[count - 2 * quarter : count - quarter],
        "val": names[count - quarter :],
    }
    lists["trainaug"] = lists["train"] + lists["aug"]
    for folder in (
        "JPEGImages",
        "SegmentationClass",
        "SegmentationClassAug",
        "ImageSets/Segmentation",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(
            "".join(f"{stem}\n" for stem in stems)
        )
    table, rng = np.array(voc_palette(), dtype=np.uint8), np.random.default_rng(0)
    for i, stem in enumerate(names):
        mask = np.zeros((h, w), dtype=np.uint8)
        mask[:, : w // 3], mask[:, -(w // 3) :], mask[-1] = 1 + i % 15, 16 + i % 5, 255
        Image.fromarray(table[mask] // 2 + rng.integers(0, 100, (h, w, 3), dtype=np.uint8)).save(
            root / "JPEGImages" / f"{stem}.jpg"
        )
        if stem not in lists["aug"]:
            _save_mask(mask, root / "SegmentationClass" / f"{stem}.png", mode)
        if stem not in lists["val"]:
            _save_mask(mask, root / "SegmentationClassAug" / f"{stem}.png", "L")
    return root


def _save_mask(mask: np.ndarray, path: Path, mode: Literal["P", "L"]) -> None:
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette([channel for colour in voc_palette() for channel in colour])
    image.save(path)


def write_folds(folder: Path, size: tuple[int, int] = (60, 80)) -> Path:
    """PASCAL-5i: eight images in `folder`/VOC2012, HSNet's lists in `folder`/lists.

    Image i shows the classes 1 + i % 5 (fold 0, in the upper left) and 6 + 4i % 15 (in the lower
    right), background and an ignored border. Returns the VOC2012 folder.
    """
    root, (h, w) = folder / "VOC2012", size
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    lines: dict[str, list[list[str]]] = {split: [[] for _ in range(4)] for split in ("trn", "val")}
    rng, stems = np.random.default_rng(0), [f"2007_{i:06d}" for i in range(8)]
    for i, stem in enumerate(stems):
        mask = np.zeros(size, dtype=np.uint8)
        first, second = 1 + i % 5, 6 + 4 * i % 15
        mask[: h // 2, : w // 2], mask[h // 2 :, w // 2 :], mask[0], mask[:, 0] = (
            first,
            second,
            255,
            255,
        )
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(
            root / "JPEGImages" / f"{stem}.jpg"
        )
        Image.fromarray(mask).save(root / "SegmentationClassAug" / f"{stem}.png")
        for value in (first, second):
            lines["trn" if i % 2 else "val"][(value - 1) // 5].append(f"{stem}__{value:02d}\n")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text(
        "".join(f"{stem}\n" for stem in stems[::2])
    )
    for split, folds in lines.items():
        (folder / "lists" / split).mkdir(parents=True)
        for fold, content in enumerate(folds):
            (folder / "lists" / split / f"fold{fold}.txt").write_text("".join(content))
    return root


def write_own(folder: Path, count: int = 10, size: tuple[int, int] = (20, 30)) -> Path:
    """A user's folder: ground (0), cat (1), dog (2) and tree (3, unseen) in every image.

    A row of pixels is ignored; three images in ten are for validation.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "classes.txt").write_text("ground\ncat\ndog\ntree # unseen\n")
    h, w = size
    rng, names = np.random.default_rng(0), [f"p {i}" for i in range(count)]
    for i, name in enumerate(names):
        mask = np.zeros(size, dtype=np.uint8)
        mask[: h // 2, : w // 3], mask[: h // 2, -(w // 3) :], mask[h // 2 :, : 2 + i], mask[-1] = (
            1,
            2,
            3,
            255,
        )
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(
            folder / "images" / f"{name}.png"
        )
        Image.fromarray(mask).save(folder / "labels" / f"{name}.png")
    train = count - 3 * count // 10
    for split, part in (("train", names[:train]), ("val", names[train:])):
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
    return folder


def learn_one_image(segmenter: Segmenter, steps: int = 150) -> tuple[float, float, float]:
    """Train on one image of two halves; first and last loss, and the share of right pixels."""
    images, labels = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64)
    images[:, :, :, 16:] *= 0.1
    query = isinstance(segmenter, QuerySegmenter)
    labels[:, :, 16:] = 1 if query else 2
    names = ("car",) if query else ("tree", "house", "car", "boat")
    forward = segmenter.forward_query if query else segmenter

    def text() -> TextFeatures:
        if query or segmenter.trains_text:
            return segmenter.encode_text(Vocabulary(names))
        easy = torch.eye(16)[: len(names)]  # to tell apart
        other = torch.eye(16)[-len(names) :]
        return TextFeatures(names, easy, per_template=torch.stack([easy, other], dim=1))

    fixed = text()
    optimizer = torch.optim.AdamW([p for p in segmenter.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        features = text() if segmenter.trains_text else fixed
        loss = segmenter.loss(forward(images, features), labels)["total"]
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    segmenter.eval()
    predicted = forward(images, text()).resized((32, 32)).argmax(dim=1)
    return losses[0], losses[-1], (predicted == labels).float().mean().item()


def whole_scores(*given: Any, **named: Any) -> torch.Tensor:
    """All that `unseen.inference.score_maps` returns, (B, K, h, w)."""
    return score_maps(*given, **named).whole()


def given_scores(maps: torch.Tensor) -> ScoreMaps:
    """Score maps (B, K, h, w) that somebody has computed."""
    place = Place.unresized(Prediction(maps, (maps.shape[-2], maps.shape[-1])))
    return ScoreMaps((place,), place.resize.size, lambda logits, seen: logits, classwise=True)


def resize_output(
    maps: torch.Tensor, size: tuple[int, int], settings: InferenceSettings
) -> torch.Tensor:
    """Score maps (B, K, h, w) at the size of their images."""
    return output_resize(given_scores(maps), size, settings).whole(maps)
