"""The verb export: a method as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from unseen.cli.classes import read_vocabulary
from unseen.cli.flags import FLAT, ModelFlags

if TYPE_CHECKING:
    from unseen.sources import ModelChoices

MODEL = ModelFlags()


def export(
    name: str,
    /,
    *,
    out: Path,
    size: int = 512,
    classes: str | None = None,
    model: Annotated[ModelFlags, FLAT] = MODEL,
) -> None:
    """Write a method as a file that runs without unseen: ONNX or torch.export.

    Images and the vectors of the classes are its inputs, scores of the classes for each patch its
    output. It is checked against the method before it is kept; OUT.json says what it takes.

    Args:
        name: A method without training of `unseen list`, or a run folder.
        out: A file that ends in .onnx (squares of one size) or .pt2 (torch.export, any size).
        size: Side of the images in pixels, for ONNX.
        classes: Class names separated by commas, or a file of them, whose vectors are written to
            OUT.npy.
        model: What a method without training is built with.
    """
    from unseen.methods import METHODS
    from unseen.sources import find_model

    vocabulary = None if classes is None else read_vocabulary(classes, {})
    names = () if vocabulary is None else vocabulary.names
    choices: ModelChoices = model.given() if name in METHODS else {}
    find_model(name, choices)
    from unseen import api
    from unseen.deployment import check_exportable, export_model

    check_exportable(out)
    loaded = api.load(name, class_names=names, device="cpu", **choices)
    made = export_model(loaded, out, size=size, classes=vocabulary or ())
    print(
        f"wrote {made.path}; in {made.checked} combinations of batch, size and classes its scores"
        f" differ by at most {made.difference:.1g}"
    )
