"""The page of results, results.md, with its charts, from the stored results.

Run: python examples/photographs/page.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from charts import class_chart, curve_chart
from choices import CHOICES
from run import ROWS
from tables import (
    among_present,
    background_table,
    best_free,
    by_test,
    choices_table,
    folds_table,
    mistaken,
    of_choice,
    searched,
    unseen_classes,
    voc_table,
)

from unseen.files import write_text

HERE = Path(__file__).parent


def page(flags: argparse.Namespace) -> Iterator[str]:
    """The parts of results.md."""
    yield (
        "# Every method on photographs: results\n\n"
        "Made by `python examples/photographs/page.py` from [results](results); what they mean"
        " stands in\n[README.md](README.md).\n"
        "In tables of VOC and the folds ± is the standard deviation over seeds 0, 1 and 2;\n"
        "without training nothing is random."
    )
    yield from of_voc(flags)
    yield from of_folds(flags)
    yield from of_choices(flags)


def of_voc(flags: argparse.Namespace) -> Iterator[str]:
    """All twenty classes competing."""
    yield f"## VOC 15 + 5, all twenty classes competing\n\n{voc_table(flags)}"
    yield "![IoU of every class](classes.svg)"
    yield f"IoU of the classes without masks, means over seeds:\n\n{unseen_classes(flags)}"
    yield (
        "## Where the classes without masks lose\n\n"
        "Runs of seed 0, trained again, in percent of pixels (`confusions.py`)."
    )
    for name in (best_free(flags), "zegclip", "clip_rc", "esda"):
        if (flags.results / "confusions" / f"{name}.json").exists():
            yield mistaken(flags, name)
    yield (
        'The same runs where only the classes in an image compete ("told"), instead of all'
        " twenty:\n\n"
        f"{among_present(flags)}"
    )
    yield (
        "## By settings of the test\n\n"
        "Runs with an area threshold (classes with at most 5 % of an image lose it to"
        " others),\nwith score maps that follow the image's edges (PAMR), and with both"
        " (`inference.py`).\n"
        "All were trained again: the same seed gives slightly other runs on another processor.\n\n"
        f"{by_test(flags)}"
    )
    yield "## How many masks it takes\n\n![mIoU over training images](curve.svg)"


def of_folds(flags: argparse.Namespace) -> Iterator[str]:
    """One query class an image."""
    for score, title in (("mIoU", "mIoU of the fold"), ("FB_IoU", "FB-IoU")):
        yield f"## PASCAL-5i, one query class an image: {title}\n\n{folds_table(flags, score)}"
    yield (
        "## The folds without their background\n\n"
        "mIoU of the same masks on the pixels of the twenty classes (`background.py`).\n\n"
        f"{background_table(flags)}"
    )


def of_choices(flags: argparse.Namespace) -> Iterator[str]:
    """What was measured on held-back photographs, and on drawn scenes beside them."""
    yield (
        "## Choices on held-back photographs\n\n"
        "Training images alone: a third of the 15 seen classes unseen, every fifth image for\n"
        "validation (`choices.py`).\n"
        "`ours` is where the choices began, which is not today's default everywhere; ± is the"
        " standard\ndeviation over runs (two parts, seed 0; seed 1 too where there are four), and"
        ' "against ours" the\nmean difference between runs of the same part and seed.\n'
        "A choice is NAME=VALUE of an option; `train.` begins a setting of the training, `scored.`"
        " what\nis changed after training."
    )
    for method in CHOICES:
        if of_choice(flags, method, "ours"):
            yield f"### {ROWS[method].title}\n\n{choices_table(flags, method)}"
    yield (
        "## Parts of all methods in one\n\n"
        "`ours` is ZegCLIP with one head (`search.py`, `combination.py`).\n\n"
        f"### On held-back photographs\n\n{searched(flags, 'photographs')}"
    )
    yield (
        "### On drawn scenes\n\n"
        "Doodles numbers: the classes of a fold unseen, other scenes than in any table.\n\n"
        f"{searched(flags, 'doodles')}\n\n"
        "The folds that no choice was made on:\n\n"
        f"{searched(flags, 'doodles', '23')}"
    )


def shown(flags: argparse.Namespace) -> list[tuple[str, str]]:
    """The rows of the chart of classes, with their titles."""
    best = best_free(flags)
    rows = [(name, ROWS[name].title) for name in ("zegclip", "clip_rc", "zegclip-supervised")]
    return [(best, f"{best}, no training"), *rows]


def main() -> None:
    """Write the page and its charts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the page")
    flags = parser.parse_args()
    write_text(flags.out / "results.md", "\n\n".join(page(flags)) + "\n", ours=True)
    write_text(flags.out / "classes.svg", class_chart(flags, shown(flags)), ours=True)
    write_text(flags.out / "curve.svg", curve_chart(flags), ours=True)


if __name__ == "__main__":
    main()
