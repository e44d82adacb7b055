"""Colours, overlays, legends and sheets: sizes, and that the pixels of a class carry its colour."""

from __future__ import annotations

import itertools
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from unseen import legends
from unseen.errors import SettingError
from unseen.labels import IGNORE
from unseen.legends import PAPER, Entry, fit_text, fonts_of, legend
from unseen.palettes import class_colours, colours
from unseen.settings import DrawSettings
from unseen.visualize import Row, _wider, label_palette, overlay, paint, percent, sheet, spread

_SPEC = spec_from_file_location("palette", Path(__file__).parents[1] / "tools" / "palette.py")
assert _SPEC is not None
assert _SPEC.loader is not None
palette_tool = module_from_spec(_SPEC)
_SPEC.loader.exec_module(palette_tool)


def scene(h: int = 30, w: int = 40) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A noisy image; class 1 at the left, ignored pixels at the right, class 0 between."""
    labels = np.zeros((h, w), dtype=np.uint8)
    labels[:, : w // 4], labels[:, -(w // 4) :] = 1, IGNORE
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8), labels


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def holds(image: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return int((np.array(image) == colour).all(axis=2).sum())


def test_twenty_classes_have_twenty_colours() -> None:
    table = colours(20)
    assert min(distance(a, b) for a, b in itertools.combinations(table, 2)) > 40
    assert min(distance(a, b) for a, b in itertools.pairwise(table)) > 80
    assert colours(5) == table[:5]
    assert all(distance(colour, (0, 0, 0)) > 130 for colour in table)
    assert colours(254)[253] == table[0]


def test_colours_are_far_apart_for_colour_blind_eyes() -> None:
    """In OKLab times 100; two is about what the eye can tell."""
    told = ["".join(f"{channel:02x}" for channel in colour) for colour in colours(60)]
    assert min(palette_tool.measure(told, 7).values()) > 7
    assert min(palette_tool.measure(told, 20).values()) > 5.5
    assert min(palette_tool.measure(told, 60).values()) > 3


def test_the_colours_are_those_that_the_tool_makes() -> None:
    made = palette_tool.make()
    assert [bytes.fromhex(colour) for colour in made] == [bytes(each) for each in colours(253)]


def test_palettes(tmp_path: Path) -> None:
    names = ["sky", "tree", "red house"]
    assert class_colours("safe", names) == colours(3)
    assert class_colours("voc", names) == [(128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert len(class_colours("voc", ["name"] * 300)) == 300
    file = tmp_path / "p.txt"
    file.write_text("#010203\n\n#FF0000\n")
    assert class_colours(str(file), names) == [(1, 2, 3), (255, 0, 0), colours(3)[2]]
    file.write_text("red house: #ff0000\nnobody #000000\nsky #0000ff")
    assert class_colours(str(file), names) == [(0, 0, 255), colours(3)[1], (255, 0, 0)]
    file.write_text("sky #0000ff\ntree green")
    with pytest.raises(SettingError, match="line 2: 'tree green' is no colour"):
        class_colours(str(file), names)
    with pytest.raises(SettingError, match="no palette 'rainbow'; choose safe or voc"):
        class_colours("rainbow", names)


def test_the_palette_is_full() -> None:
    assert len(label_palette(colours(20))) == 256
    assert label_palette(colours(20))[:20] == colours(20)
    assert set(label_palette(colours(20))[20:]) == {(0, 0, 0)}


# ----------------------------------------------------------------------- paint


def test_classes_carry_their_colours() -> None:
    image, labels = scene()
    painted = paint(image, labels, colours(2), DrawSettings(alpha=1.0))
    assert painted.shape == image.shape
    assert painted.dtype == np.uint8
    for label in (0, 1):
        here = labels == label
        here[:, 1:] &= labels[:, 1:] == labels[:, :-1]
        assert (painted[here] == colours(2)[label]).all()


def test_the_image_shows_through() -> None:
    image, labels = scene()
    grey = image @ np.array([0.299, 0.587, 0.114])
    mixed = (
        0.3 * (0.45 * image + 0.55 * grey[..., None])
        + 0.7 * np.array(colours(2))[labels.clip(max=1)]
    )
    painted = paint(image, labels, colours(2))
    # Two blends of whole numbers, each of which cuts off what is behind the point.
    assert np.abs(painted[:, 12:28].astype(float) - mixed[:, 12:28]).max() < 2


def test_ignored_pixels_are_grey() -> None:
    image, labels = scene()
    painted = paint(image, labels, colours(2))
    ignored = painted[:, -9:].astype(int)
    assert (ignored == ignored[..., :1]).all()
    assert ignored.std() > 10
    assert (
        paint(image, np.full_like(labels, IGNORE), colours(2))
        == paint(image, np.full_like(labels, IGNORE), colours(9))
    ).all()


def test_a_dark_line_where_classes_meet() -> None:
    image = np.full((6, 8, 3), 200, dtype=np.uint8)
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[3:, 4:] = 1
    painted = paint(image, labels, colours(2)).astype(int).sum(axis=2)
    dark = np.zeros((6, 8), dtype=bool)
    dark[3, 4:] = dark[3:, 4] = True
    for label in (0, 1):
        inside = np.unique(painted[(labels == label) & ~dark])
        assert len(inside) == 1
        assert (painted[(labels == label) & dark] < 0.5 * inside[0]).all()


def test_width_of_the_line() -> None:
    """None, one pixel, or more on both sides; wider in large images unless it is given."""
    image = np.full((20, 20, 3), 200, dtype=np.uint8)
    labels = np.zeros((20, 20), dtype=np.uint8)
    labels[:, 10:] = 1
    for width, dark in ((0, 0), (1, 1), (3, 3)):
        painted = paint(image, labels, colours(2), DrawSettings(contour=width))
        lines = (painted.astype(int).sum(axis=2) < 0.6 * painted[0, 0].sum()).all(axis=0)
        assert lines.sum() == dark, width
    assert DrawSettings().contour_of((4000, 3000)) == 3
    assert DrawSettings(contour=0).contour_of((4000, 3000)) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_wider_lines_are_squares_around_their_pixels(width: int) -> None:
    edge = np.random.default_rng(0).random((20, 30)) < 0.05
    wider = _wider(_wider(edge, width, 0), width, 1)
    assert (wider == ndimage.maximum_filter(edge, size=width, mode="constant")).all()


def test_the_inputs_are_left_alone() -> None:
    image, labels = scene()
    before = image.copy(), labels.copy()
    overlay(image, labels, ["sky", "tree"])
    assert (image == before[0]).all()
    assert (labels == before[1]).all()


# ---------------------------------------------------------------------- legend


def test_a_legend_flows_over_lines() -> None:
    entries = [Entry(f"class {i}", colour) for i, colour in enumerate(colours(8))]
    heights = [legend(entries, width).height for width in (2000, 400, 200, 60)]
    assert heights == sorted(heights)
    assert len(set(heights)) == 4
    assert heights[0] == legend(entries[:1], 2000).height
    assert (heights[3] - heights[0]) % 7 == 0
    for width in (2000, 400, 200, 60):
        canvas = legend(entries, width)
        assert canvas.width == width
        assert all(holds(canvas, entry.colour) > 80 for entry in entries)


def test_unseen_classes_are_marked() -> None:
    colour = colours(1)[0]
    plain, marked = (
        legend([Entry("kite", colour)], 300),
        legend([Entry("kite", colour, unseen=True)], 300),
    )
    assert plain.size == marked.size
    assert holds(plain, (196, 58, 32)) == 0
    assert holds(marked, (196, 58, 32)) > 40


def test_a_legend_grows_with_its_scale() -> None:
    entries = [Entry("name", colours(1)[0])]
    assert legend(entries, 600, scale=2.0).height == pytest.approx(
        2 * legend(entries, 600).height, abs=1
    )


# --------------------------------------------------------------------- overlay


@pytest.mark.parametrize(
    ("size", "factor"), [((30, 40), 12), ((300, 479), 2), ((200, 480), 1), ((100, 700), 1)]
)
def test_small_overlays_are_enlarged_whole(size: tuple[int, int], factor: int) -> None:
    image, labels = scene(*size)
    result = overlay(image, labels, ["sky", "tree"])
    assert result.width == size[1] * factor
    assert size[0] * factor < result.height < size[0] * factor + 120
    pixels = np.array(result)[: size[0] * factor]
    assert (pixels[::factor, ::factor] == paint(image, labels, colours(2))).all()
    last = pixels[factor - 1 :: factor, factor - 1 :: factor]
    assert (last == paint(image, labels, colours(2))).all()


def test_the_legend_names_what_is_there() -> None:
    image, labels = scene(200, 600)
    below = overlay(image, labels, ["sky", "tree", "car"]).crop((0, 200, 600, 1000))
    table = colours(3)
    assert [holds(below, colour) > 80 for colour in table] == [True, True, False]
    assert holds(below, (150, 150, 150)) > 80
    labels[labels == IGNORE] = 0
    assert (
        holds(
            overlay(image, labels, ["sky", "tree", "car"]).crop((0, 200, 600, 1000)),
            (150, 150, 150),
        )
        < 20
    )


def test_small_shares_are_not_nothing() -> None:
    assert [percent(share) for share in (0.5, 0.0006, 0.0004)] == ["50.0 %", "0.1 %", "< 0.1 %"]


def test_the_largest_class_comes_first() -> None:
    image, labels = scene(200, 600)
    below = np.array(overlay(image, labels, ["sky", "tree"]))[200:]
    left = [
        int(np.nonzero((below == colour).all(axis=2).any(axis=0))[0][0]) for colour in colours(2)
    ]
    assert left[0] < left[1]


# ----------------------------------------------------------------------- sheet


@pytest.mark.parametrize(("count", "across", "lines"), [(1, 1, 1), (3, 1, 3), (3, 2, 2), (4, 2, 2)])
def test_sheet_size(count: int, across: int, lines: int) -> None:
    image, labels = scene()
    rows = [Row(image, labels, {"first": labels, "second": labels}) for _ in range(count)]
    result = sheet(rows, ["sky", "tree"], ["tree"], title="A title", cell=100, across=across)
    key = legend(
        [Entry("sky", colours(2)[0]), Entry("tree", colours(2)[1], unseen=True)], result.width
    )
    assert result.width == across * (4 * 108 + 8) + (across - 1) * 16
    # An image is 40 wide and 30 high.
    assert result.height == 42 + 30 + lines * (75 + 8) + key.height
    taller = sheet(
        rows, ["sky", "tree"], ["tree"], title="A title", subtitle="more", cell=100, across=across
    )
    assert (taller.width, taller.height) == (result.width, result.height + 20)
    assert (np.array(result)[-key.height :] == np.array(key)).all()


def test_sheet_cells() -> None:
    """Image, truth and prediction stand side by side; the prediction is ignored as the truth is."""
    image, labels = scene(50, 50)
    prediction = np.ones_like(labels)
    sheeted = np.array(
        sheet([Row(image, labels, {"ours": prediction})], ["sky", "tree"], [], title="t", cell=100)
    )
    cells = [sheeted[72:172, 8 + i * 108 : 108 + i * 108] for i in range(3)]
    expected = [
        image,
        paint(image, labels, colours(2)),
        paint(image, np.where(labels == IGNORE, IGNORE, prediction), colours(2)),
    ]
    for cell, pixels in zip(cells, expected, strict=True):
        assert (cell == pixels.repeat(2, axis=0).repeat(2, axis=1)).all()
    assert (sheeted[72:172, 108:116] == PAPER).all()


def test_the_sheets_legend_names_the_classes_shown() -> None:
    image, labels = scene(50, 200)
    labels[labels == 1] = 2
    result = sheet(
        [Row(image, labels, {"ours": np.ones_like(labels)})],
        ["sky", "tree", "car", "sea"],
        [],
        title="t",
        cell=200,
    )
    below = result.crop((0, 42 + 30 + 58, result.width, result.height))
    assert [holds(below, colour) > 80 for colour in colours(4)] == [True, True, True, False]


def test_a_class_whose_index_is_the_ignore_value_is_in_the_legend() -> None:
    image, _ = scene(50, 200)
    labels = np.full(image.shape[:2], 258)  # of index 255 (`unseen.labels`)
    names = [f"class {i}" for i in range(300)]
    result = sheet([Row(image, labels, {"ours": labels})], names, [], title="t", cell=200)
    below = result.crop((0, 42 + 30 + 58, result.width, result.height))
    assert holds(below, colours(300)[255]) > 80


def test_images_keep_their_ratio_in_a_cell() -> None:
    """Rows are as high as their highest image; beside narrower ones the paper shows."""

    def row(height: int, width: int) -> Row:
        image = np.full((height, width, 3), 7, dtype=np.uint8)
        labels = np.zeros((height, width), dtype=np.uint8)
        return Row(image, labels, {"ours": labels})

    def cell(*rows: Row) -> NDArray[np.uint8]:
        return np.array(sheet(rows, ["sky"], [], title="t", cell=80, across=2))

    flat = cell(row(20, 40))
    assert (flat[72:112, 8:88] == 7).all()
    assert (flat[112:120, 8:88] == PAPER).all()
    both = cell(row(20, 40), row(40, 20))
    assert (both[92:132, 8:88] == 7).all(), "in the middle"
    assert (both[72:92, 8:88] == PAPER).all()
    upright = both[72:152, 3 * 88 + 32 :][:, :80]
    assert (upright[:, 20:60] == 7).all()
    assert (upright[:, :20] == PAPER).all()


def test_long_names_are_cut_to_the_width() -> None:
    name = (
        "a very long description of a thing that nobody would ever want to read to its end, but"
        " somebody will write"
    )
    narrow = np.array(legend([Entry(name, (10, 200, 30), unseen=True, note="12.3 %")], 240))
    assert (narrow[:, -8:] == PAPER).all(), "a margin at the right"
    assert (narrow[:, 180:230] != PAPER).any(), "the note still stands there"
    shown, font = fit_text(name, 15, 100)
    assert shown.endswith("…")
    assert font.getlength(shown) <= 100
    assert fit_text("tree", 15, 100)[0] == "tree"


def test_names_beyond_ascii_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a font of the system where there is one; else without accents, never as empty boxes."""

    def shown(*names: str) -> list[str]:
        fonts_of.cache_clear()
        legends._writes.cache_clear()
        return [fit_text(name, 15, 1000)[0] for name in names]

    emoji = {"🚗 car": "car", "tree 🌲": "tree", "👩\u200d🚀": "?", "a\nb": "a?b"}
    with monkeypatch.context() as patch:
        patch.setattr(legends, "WIDE_FONTS", ())
        without = {"Möwe": "Mowe", "Straße": "Strasse", "中": "?", "हाथी": "?", "tree": "tree"}
        assert shown(*without, *emoji) == [*without.values(), *emoji.values()]
    names = ["Möwe", "кот", "tree"]
    written = shown(*names)
    if "DejaVu Sans" in [font.getname()[0] for font in fonts_of(15)]:
        assert written == names


def test_predictions_are_shown_where_the_truth_is_known_or_everywhere() -> None:
    image, _ = scene()
    truth, guess = (
        np.full(image.shape[:2], IGNORE, dtype=np.uint8),
        np.zeros(image.shape[:2], dtype=np.uint8),
    )
    row = Row(image, truth, {"prediction": guess})
    plain, whole = (
        np.array(sheet([row], ["tree"], [], title="t", everywhere=everywhere), dtype=int)
        for everywhere in (False, True)
    )
    assert plain.shape[0] <= whole.shape[0]
    cells = [sheet_[80:280, 480:680].std(axis=2).mean() for sheet_ in (plain, whole)]
    assert cells[1] > 2 * cells[0], "grey where nothing is known, coloured where all is shown"


def test_images_are_spread_over_all() -> None:
    assert spread(20, 8) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(7, 20) == list(range(7))
    assert (spread(5, 1), spread(5, 0), spread(0, 4)) == ([0], [], [])
