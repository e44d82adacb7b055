"""The example for CVAT, through the classes that CVAT calls it with."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unseen
from unseen.data.doodles import draw

aa = pytest.importorskip("cvat_sdk.auto_annotation")
driver = pytest.importorskip("cvat_sdk.auto_annotation.driver")
masks = pytest.importorskip("cvat_sdk.masks")

NAMES = ("sun", "tree", "a fish, small")


@pytest.fixture(scope="module")
def function() -> Any:
    file = Path(__file__).parents[1] / "examples" / "cvat" / "unseen_cvat.py"
    spec = spec_from_file_location("unseen_cvat", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.create('sun, tree, "a fish, small"')


def asked(threshold: float | None = None, *, polygons: bool = False) -> Any:
    """What CVAT tells the function."""
    return driver._DetectionFunctionContextImpl(
        frame_name="a.png", conf_threshold=threshold, conv_mask_to_poly=polygons
    )


def test_masks_are_those_of_the_label_map(function: Any) -> None:
    assert isinstance(function.spec, aa.DetectionFunctionSpec)
    assert [label.name for label in function.spec.labels] == list(NAMES)
    image = Image.fromarray(draw(3, 0, size=80).image)
    for threshold in (None, 0.6):
        result = unseen.load("naclip").segment(image, NAMES, threshold=threshold)
        labels = np.full(result.labels.shape, 255, dtype=np.uint8)
        for shape in function.detect(asked(threshold), image):
            mask = masks.decode_mask(shape.points, image_width=80, image_height=80)
            labels[mask] = shape.label_id
        assert (labels == result.labels).all()


def test_outlines(function: Any) -> None:
    image = Image.fromarray(draw(3, 0, size=80).image)
    shapes = function.detect(asked(polygons=True), image)
    assert shapes
    assert {str(shape.type) for shape in shapes} == {"polygon"}
    assert all(len(shape.points) >= 6 and len(shape.points) % 2 == 0 for shape in shapes)
