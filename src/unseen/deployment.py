"""A method as a file for other programs: torch.export's or ONNX, checked against the method.

Images are an input and so are the vectors of the classes, so that one file serves any list of
classes. The answer is a small score map a class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from unseen.clip_segmenter import ClipSegmenter, TextSegmenter
from unseen.errors import SettingError
from unseen.files import check_replaceable, replacing, write_json
from unseen.predictor import Predictor
from unseen.segmenter import QuerySegmenter, TextFeatures
from unseen.vocabulary import Vocabulary

TORCH, ONNX = ".pt2", ".onnx"
"""Suffixes of the two kinds."""
CLOSE = 1e-3
"""How far scores may be from those of the method; farther, and nothing is written."""
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")


class Deployed(nn.Module):
    """What is exported: scores (B, K, h, w) of images (B, 3, H, W) and vectors of classes.

    The vectors are (K, D), or (K, P, D) for methods that keep P prompts of a class apart.

    Args:
        segmenter: A method that reads nothing of the classes but their vectors; it stays as it is.
        grid: The only grid of patches there will be; None for any.
        prompts: P; as many as the method has templates by default.
    """

    def __init__(
        self,
        segmenter: ClipSegmenter,
        grid: tuple[int, int] | None = None,
        prompts: int | None = None,
    ) -> None:
        super().__init__()
        self.of_class: tuple[int, ...] = (segmenter.clip.embed_dim,)
        if segmenter.needs_prompts:
            self.of_class = (prompts or len(segmenter.templates), *self.of_class)
        quirks, table = segmenter.tower_quirks, None
        if grid is not None:
            table = segmenter.clip.positions(grid, quirks.resize, via=quirks.train_grid)
        # A shallow copy shares the weights; the text tower stays behind.
        self.segmenter = copy(segmenter)
        tower = segmenter.clip.image_part(table)
        self.segmenter._modules = {**segmenter._modules, "clip": tower}

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        """Scores as the method decides by them; the best one is the class of a cell."""
        # The names are not looked at: there are as many classes as vectors.
        features = TextFeatures(("",), text)
        if self.segmenter.needs_prompts:
            pooled = F.normalize(text.mean(dim=1), dim=-1)
            features = TextFeatures(("",), pooled, per_template=text)
        return self.segmenter.scores(self.segmenter(images, features).logits, None)

    def vectors_of(self, text: TextFeatures) -> Tensor:
        """The second input: what the method reads of classes."""
        if self.segmenter.needs_prompts:
            assert text.per_template is not None
            return text.per_template
        return text.pooled


@dataclass(frozen=True)
class Deployment:
    """A file that was written.

    Attributes:
        path: Of it.
        difference: The largest difference of a score from the method's.
        checked: With how many combinations of batch, size and number of classes.
    """

    path: Path
    difference: float
    checked: int


def check_exportable(path: Path) -> None:
    """Refuse names of files and machines with which nothing can be exported.

    Raises:
        SettingError: Another suffix, or modules that are not installed.
        DataError: The place is taken by a file of somebody else's.
    """
    if path.suffix not in (TORCH, ONNX):
        raise SettingError(
            f"--out is {path}; give a file that ends in {ONNX} (ONNX) or {TORCH} (torch.export)"
        )
    if path.suffix == ONNX and not all(find_spec(name) for name in ONNX_NEEDS):
        needs = ", ".join(ONNX_NEEDS)
        raise SettingError(f"ONNX needs {needs}; install them with pip install 'unseen[onnx]'")
    check_replaceable([about_file(path)])
    # The others have no mark, and are ours where the one that has is there.
    if not about_file(path).exists():
        check_replaceable([path, vectors_file(path)])


def about_file(path: Path) -> Path:
    """Beside an exported file: what it takes and gives, and the classes that were given."""
    return path.with_name(f"{path.name}.json")


def vectors_file(path: Path) -> Path:
    """Beside an exported file: the vectors of the classes that were given."""
    return path.with_name(f"{path.name}.npy")


def export_model(
    predictor: Predictor,
    path: Path,
    *,
    size: int = 512,
    classes: Sequence[str] | Vocabulary = (),
) -> Deployment:
    """Write a method as a file, with a description and the vectors of classes beside it.

    torch.export's files take images of any size in whole patches; ONNX's take squares of one size,
    as its operators do not resize CLIP's position table as CLIP does.

    Args:
        predictor: The model; its windows and refinement stay behind.
        path: Ends in .onnx or .pt2; PATH.json and, with classes, PATH.npy come beside it.
        size: Side of images in pixels, for ONNX; whole patches.
        classes: Those whose vectors are written, with their synonyms.

    Raises:
        SettingError: A method that cannot be exported, or a size that is no whole patches.
    """
    check_exportable(path)
    segmenter = _exportable(predictor.segmenter, size)
    patch_size = segmenter.clip.patch_size
    only = (size // patch_size,) * 2 if path.suffix == ONNX else None
    text = predictor.encode(classes) if len(classes) else None
    prompts = None
    if text is not None and text.per_template is not None:
        prompts = text.per_template.shape[1]
    module = Deployed(segmenter, only, prompts).eval()
    write = _write_onnx if path.suffix == ONNX else _write_torch
    with torch.no_grad(), replacing(path, ours=True) as beside:
        cases = write(module, beside, size)
        difference = max(cases.values())
        if difference > CLOSE:
            raise SettingError(
                f"the exported {type(segmenter).__name__} differs by {difference:.1g} from itself;"
                " export with another version of torch"
            )
    told = {
        "model": json.loads(json.dumps(predictor.model_told, default=str)),
        "images": "float32 (batch, 3, height, width), RGB in 0..1",
        "text": f"float32 (classes, {', '.join(map(str, module.of_class))}), unit vectors",
        "scores": f"(batch, classes, height / {patch_size}, width / {patch_size}); the best is the"
        " class",
        "size": size if path.suffix == ONNX else f"any multiple of {patch_size}",
        "classes": [] if text is None else list(text.names),
        "difference": difference,
    }
    write_json(about_file(path), told)
    if text is not None:
        with replacing(vectors_file(path), ours=True) as beside, beside.open("wb") as file:
            np.save(file, module.vectors_of(text).cpu().numpy())
    return Deployment(path, difference, len(cases))


def _exportable(segmenter: TextSegmenter, size: int) -> ClipSegmenter:
    """The segmenter, if it can be exported for images of a size.

    Raises:
        SettingError: It cannot, or the size is no whole patches.
    """
    if isinstance(segmenter, QuerySegmenter) or not isinstance(segmenter, ClipSegmenter):
        raise SettingError(
            f"{type(segmenter).__name__} is asked one class at a time and cannot be exported;"
            " methods that compare all classes can"
        )
    if len(segmenter.towers) > 1:
        raise SettingError(
            f"{type(segmenter).__name__} stands on several networks and cannot be exported; methods"
            " on one CLIP can"
        )
    patch_size = segmenter.clip.patch_size
    if size < patch_size or size % patch_size:
        raise SettingError(f"--size is {size}; give a multiple of {patch_size} pixels")
    return segmenter


def _example(module: Deployed, batch: int, height: int, width: int, classes: int) -> list[Tensor]:
    """Random images and vectors."""
    generator = torch.Generator().manual_seed(batch + height + width + classes)
    images = torch.rand(batch, 3, height, width, generator=generator)
    text = torch.randn(classes, *module.of_class, generator=generator)
    return [images, F.normalize(text, dim=-1)]


def _differences(
    module: Deployed,
    run: Callable[[Tensor, Tensor], Tensor],
    sizes: Sequence[tuple[int, int]],
) -> dict[tuple[int, ...], float]:
    """By batch, size and number of classes: the largest difference of a score."""
    found: dict[tuple[int, ...], float] = {}
    for (height, width), batch, classes in product(sizes, (1, 3), (2, 21)):
        images, text = _example(module, batch, height, width, classes)
        gap = (run(images, text) - module(images, text)).abs().max()
        found[batch, height, width, classes] = float(gap)
    return found


def _write_torch(module: Deployed, path: Path, _: int) -> dict[tuple[int, ...], float]:
    """torch.export's file, and how far it is from the method."""
    side = module.segmenter.clip.patch_size
    free = {
        "images": {0: Dim("batch"), 2: Dim("rows", min=2) * side, 3: Dim("columns", min=2) * side},
        "text": {0: Dim("classes", min=2)},
    }
    example = _example(module, 2, 6 * side, 7 * side, 5)
    program = torch.export.export(module, tuple(example), dynamic_shapes=free)
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    sizes = [(4 * side, 4 * side), (9 * side, 5 * side), (14 * side, 14 * side)]
    return _differences(module, loaded, sizes)


def _write_onnx(module: Deployed, path: Path, size: int) -> dict[tuple[int, ...], float]:
    """ONNX's file, and how far it is from the method."""
    import onnxruntime

    free = {"images": {0: Dim("batch")}, "text": {0: Dim("classes", min=2)}}
    example = _example(module, 2, size, size, 5)
    program = torch.onnx.export(
        module,
        tuple(example),
        dynamo=True,
        dynamic_shapes=free,
        input_names=["images", "text"],
        output_names=["scores"],
        verbose=False,
    )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor, text: Tensor) -> Tensor:
        (scores,) = session.run(None, {"images": images.numpy(), "text": text.numpy()})
        return torch.from_numpy(scores)

    return _differences(module, run, [(size, size)])
