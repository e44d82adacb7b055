"""A tower in CLIP's space from an image classifier: ViT-Tiny/16 of ImageNet, and CLIP's text.

The classifier's head says what 1000 classes look like to it. For those whose names have a vector of
CLIP's text tower, a ridge regression learns the map from vectors to rows of the head; this map is
the projection into CLIP's space that makes a CLIP of the classifier (the idea of DeViSE, Frome et
al. 2013, and ESZSL, Romera-Paredes and Torr 2015). Its strength and whether both sides are centred
are chosen by how well rows of held-back ImageNet classes are recognised, compared as the tower
compares images with classes; no photograph is looked at, and none of VOC.

Run: python examples/photographs/tower.py --classes examples/photographs/voc_names.txt
     --vectors lvis.npy oid.npy o365.npy --names names.json --out runs/photographs/tower
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from class_names import (
    Array,
    encoded_vectors,
    imagenet_names,
    known_name,
    stored_vectors,
    voc_names,
)
from common import VIT
from safetensors.torch import load_file, save_file
from torch import Tensor

from unseen.files import write_text

LAMBDAS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Strengths of the ridge regression, of unit vectors, that are tried."""
PARTS, DRAWS = 5, 5
"""Of the ImageNet classes; each part is held back once, in every draw of the parts."""


@dataclass(frozen=True)
class Ridge:
    """How the projection is computed.

    Attributes:
        strength: λ.
        centred: Whether the mean is taken from vectors and rows first.
    """

    strength: float
    centred: bool


def named_classes(vectors: dict[str, Array]) -> dict[str, list[int]]:
    """The numbers of ImageNet's classes by the name they go by; those without a vector left out."""
    groups: dict[str, list[int]] = {}
    for number, names in enumerate(imagenet_names()):
        name = known_name(names, vectors)
        if name is not None:
            groups.setdefault(name, []).append(number)
    return groups


def named_rows(
    groups: dict[str, list[int]], vectors: dict[str, Array], head: Tensor
) -> tuple[Array, Array]:
    """Vectors (M, D) and rows (M, C): the mean row of the classes that go by one name."""
    rows = head.double().numpy()
    means = [rows[numbers].mean(axis=0) for numbers in groups.values()]
    return np.stack([vectors[name] for name in groups]), np.stack(means)


# ------------------------------------------------------------------- projection


def project(text: Array, rows: Array, ridge: Ridge) -> tuple[Array, Array]:
    """The map (D, C) from vectors to rows, and the mean vector (D,)."""
    mean, mean_row = np.zeros(text.shape[1]), np.zeros(rows.shape[1])
    if ridge.centred:
        mean, mean_row = text.mean(axis=0), rows.mean(axis=0)
    x, y = text - mean, rows - mean_row
    penalty = ridge.strength * np.eye(x.shape[1])
    return np.linalg.solve(x.T @ x + penalty, x.T @ y), mean


def unit(rows: Array) -> Array:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def held_back_accuracy(text: Array, rows: Array, ridge: Ridge) -> float:
    """How often a held-back class is named, in percent, when its row stands for an image.

    As in the tower, the row is projected and its product with every unit vector counts; among the
    held-back classes of its part alone.
    """
    hits = [
        named_rightly(text, rows, ridge, part == number)
        for part in (
            np.random.default_rng(draw).permutation(len(text)) % PARTS for draw in range(DRAWS)
        )
        for number in range(PARTS)
    ]
    return 100 * float(np.concatenate(hits).mean())


def named_rightly(text: Array, rows: Array, ridge: Ridge, hidden: Array) -> Array:
    """Whether each class of the mask (M,) is named rightly by a projection made without them."""
    matrix, mean = project(text[~hidden], rows[~hidden], ridge)
    images = (rows[hidden] - rows[~hidden].mean(axis=0)) @ matrix.T
    best = (images @ unit(text[hidden] - mean).T).argmax(axis=1)
    return best == np.arange(hidden.sum())


# ------------------------------------------------------------------------ tower


def tower_state(vit: dict[str, Tensor], projection: Array) -> dict[str, Tensor]:
    """The classifier's weights in OpenAI's names, for images normalised as CLIP's are.

    CLIP's towers see (RGB - m) / s and have no bias of the patches: factor and bias of 2·RGB - 1 go
    into the patch weights and the position table.
    """
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    patches = vit["patch_embed.proj.weight"]
    bias = vit["patch_embed.proj.bias"] + (patches * (2 * mean - 1)).sum(dim=(1, 2, 3))
    positions = vit["pos_embed"][0].clone()
    positions[1:] += bias
    state = {
        "class_embedding": vit["cls_token"][0, 0],
        "positional_embedding": positions,
        "proj": torch.from_numpy(projection.T).float(),
        "conv1.weight": patches * 2 * std,
        "ln_post.weight": vit["norm.weight"],
        "ln_post.bias": vit["norm.bias"],
    }
    names = (
        ("norm1.", "ln_1."), ("norm2.", "ln_2."), ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj.", "attn.out_proj."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."),
    )  # fmt: skip
    for name, tensor in vit.items():
        if name.startswith("blocks."):
            ours = name.replace("blocks.", "transformer.resblocks.")
            for theirs, mine in names:
                ours = ours.replace(theirs, mine)
            state[ours] = tensor
    return {f"visual.{name}": tensor.contiguous() for name, tensor in state.items()}


def tower_config(vit: dict[str, Tensor], embed_dim: int) -> dict[str, Any]:
    """open_clip's configuration; without a text tower."""
    width, _, patch, _ = vit["patch_embed.proj.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in vit if name.startswith("blocks."))
    side = round((vit["pos_embed"].shape[1] - 1) ** 0.5)
    vision = {"image_size": side * patch, "patch_size": patch, "width": width, "layers": layers}
    return {
        "embed_dim": embed_dim,
        "quick_gelu": False,
        "vision_cfg": {**vision, "head_width": 64, "no_ln_pre": True},
    }


def classifier(weights: Path | None) -> dict[str, Tensor]:
    """The classifier's tensors, from a file in timm's names or fetched by timm."""
    if weights is not None:
        return {name: tensor.float() for name, tensor in load_file(weights).items()}
    return dict(timm.create_model(VIT, pretrained=True).state_dict())


def vectors_of(flags: argparse.Namespace, classes: dict[str, list[str]]) -> dict[str, Array]:
    """Unit vectors by name, stored ones or those of a text tower."""
    if flags.vectors:
        return stored_vectors(flags.vectors, flags.names)
    wanted = {name for group in (*imagenet_names(), *classes.values()) for name in group}
    return encoded_vectors(flags.clip, sorted(wanted))


def choose(text: Array, rows: Array) -> tuple[Ridge, dict[Ridge, float]]:
    """The projection that names most held-back classes, and the accuracy of all that were tried."""
    accuracy = {}
    for choice in product(LAMBDAS, (True, False)):
        ridge = Ridge(*choice)
        accuracy[ridge] = percent = held_back_accuracy(text, rows, ridge)
        how = f"λ {ridge.strength:g}, centred {ridge.centred}"
        print(f"{how}: {percent:.1f} % of held-back classes")
    best = max(accuracy, key=lambda ridge: accuracy[ridge])
    print(f"chosen: λ {best.strength:g}, centred {best.centred}")
    return best, accuracy


def vectors_of_classes(
    classes: dict[str, list[str]], vectors: dict[str, Array]
) -> tuple[Array, Array]:
    """The vectors of the classes, and of all names that are none of theirs."""
    known = {name: known_name(names, vectors) for name, names in classes.items()}
    missing = [name for name, found in known.items() if found is None]
    if missing:
        raise SystemExit(f"no vector for {', '.join(missing)}; add another name behind a comma")
    asked = np.stack([vectors[found] for found in known.values() if found is not None])
    of_classes = {name for names in classes.values() for name in names}
    return asked, np.stack([row for name, row in vectors.items() if name not in of_classes])


def main() -> None:
    """Choose, project, and write the tower and the vectors of the classes."""
    flags = parse()
    vit, classes = classifier(flags.weights), voc_names(flags.classes)
    vectors = vectors_of(flags, classes)
    asked, others = vectors_of_classes(classes, vectors)
    groups = named_classes(vectors)
    text, rows = named_rows(groups, vectors, vit["head.weight"])
    best, accuracy = choose(text, rows)
    matrix, mean = project(text, rows, best)
    flags.out.mkdir(parents=True, exist_ok=True)
    state, config = tower_state(vit, matrix), tower_config(vit, text.shape[1])
    save_file(state, flags.out / "tower.safetensors", {"config": json.dumps(config)})
    for name, part in (("classes", asked), ("others", others)):
        np.save(flags.out / f"{name}.npy", unit(part - mean).astype(np.float32))
    facts = {
        "classes with a known name": sum(map(len, groups.values())),
        "names with a vector": len(groups),
        "names of the classes": {
            name: known_name(names, vectors) for name, names in classes.items()
        },
        "other names": len(others),
        "strength": best.strength,
        "centred": best.centred,
        "held-back accuracy": {
            f"{r.strength:g} {r.centred}": round(a, 2) for r, a in accuracy.items()
        },
    }
    write_text(flags.out / "tower.json", json.dumps(facts, indent=1) + "\n", ours=True)
    print(f"wrote {flags.out}/tower.safetensors, classes.npy and others.npy")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--classes", type=Path, required=True, help="a class a line, other names behind commas"
    )
    parser.add_argument(
        "--weights", type=Path, help="the classifier in timm's names; timm fetches it by default"
    )
    parser.add_argument(
        "--clip", default="ViT-B-16-quickgelu/openai", help="whose text tower gives the vectors"
    )
    parser.add_argument("--vectors", type=Path, nargs="+", help="instead: .npy files of vectors")
    parser.add_argument("--names", type=Path, help="JSON: a list of names for each of these files")
    parser.add_argument("--out", type=Path, default=Path("runs/photographs/tower"))
    flags = parser.parse_args()
    if bool(flags.vectors) != bool(flags.names):
        parser.error("--vectors and --names belong together; give both or none")
    return flags


if __name__ == "__main__":
    main()
