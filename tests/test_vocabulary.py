"""Vocabularies: synonyms and how they combine, words for the background, class files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import unseen
from tiny import tiny_clip, whole_scores
from tiny.commands import FEW, error_of, run_command
from unseen.backbones.clip.text import StoredText
from unseen.building import encode
from unseen.data.ade import ADE150
from unseen.data.benchmarks import get_benchmark
from unseen.data.classes import CITYSCAPES, COCO, COCO_STUFF, CONTEXT, DOODLES, VOC
from unseen.errors import DataError, VocabularyError
from unseen.inference import label_maps, query_mask
from unseen.labels import IGNORE
from unseen.methods import create
from unseen.segmenter import TextFeatures
from unseen.segments.refinement import SegmentMatch, refine_maps
from unseen.settings import InferenceSettings
from unseen.vocabulary import (
    NO_CLASS,
    Vocabulary,
    change_vocabulary,
    check_combine_used,
    known_class_files,
    read_class_file,
)

CATS = Vocabulary(
    ("cat", "dog", "sofa"), {"cat": ("cat", "kitten"), "dog": ("hound",)}, combine="max"
)


def test_rows_of_a_vocabulary() -> None:
    assert CATS.rows == (("cat", 0), ("kitten", 0), ("hound", 1), ("sofa", 2))
    assert not CATS.is_plain
    assert CATS.asked().names == ("cat", "kitten", "hound", "sofa")
    words = change_vocabulary(CATS, {"background_words": "sky, sofa"})
    assert words.rows[-2:] == (("sky", NO_CLASS), ("sofa", NO_CLASS))
    assert words.asked().names == ("cat", "kitten", "hound", "sofa", "sky"), "each word once"
    mean = Vocabulary(("cat", "dog"), {"cat": ("cat", "kitten")})
    assert mean.is_plain
    assert mean.rows == (("cat", 0), ("dog", 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ("cat",), "synonyms": {"dog": ("hound",)}}, "not among the classes"),
        ({"names": ("cat",), "synonyms": {"cat": ()}}, "one of the synonyms of 'cat' is empty"),
        ({"names": ("cat",), "synonyms": {"cat": ("a", "a ")}}, "given twice"),
        ({"names": ("cat",), "combine": "min"}, "give 'mean' or 'max'"),
        ({"names": ("cat",), "background": ("",)}, "words for the background is empty"),
        ({"names": ("cat",), "background": "sky"}, "are one string"),
        (
            {"names": ("boat", "clock"), "synonyms": {"boat": ("boat", "clock")}},
            "'clock' stands for 'boat' and for 'clock'",
        ),
    ],
)
def test_vocabularies_that_mean_nothing(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(**arguments)  # type: ignore[arg-type]


def test_averaged_synonyms_and_background_words_of_one_name_clash() -> None:
    both = Vocabulary(("cat",), {"cat": ("cat", "kitten")}, background=("cat",))
    with pytest.raises(VocabularyError, match="a word for the background and a class"):
        both.asked()


# -------------------------------------------------------------------- class files


def test_a_pipe_is_no_class_file(tmp_path: Path) -> None:
    pipe = tmp_path / "classes.txt"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=f"{pipe} is not a file"):
        change_vocabulary(Vocabulary(("cat", "desk")), {"class_file": str(pipe)})


def test_class_files(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text('cat, kitten\n"table, laid"\nsofa\n', encoding="utf-8")
    assert read_class_file(file) == (("cat", "kitten"), ("table, laid",), ("sofa",))
    changed = change_vocabulary(Vocabulary(("cat", "desk", "couch")), {"class_file": str(file)})
    assert changed.synonyms == {
        "cat": ("cat", "kitten"), "desk": ("table, laid",), "couch": ("sofa",),
    }  # fmt: skip
    with pytest.raises(VocabularyError, match="has 3 lines and there are 2 classes"):
        change_vocabulary(Vocabulary(("cat", "desk")), {"class_file": str(file)})
    with pytest.raises(VocabularyError, match="line 3 of .* is 'sofa', and class 3 is 'desk'"):
        change_vocabulary(Vocabulary(("cat", "sofa", "desk")), {"class_file": str(file)})
    with pytest.raises(VocabularyError, match="no class file called 'nothing'"):
        change_vocabulary(Vocabulary(("cat",)), {"class_file": "nothing"})
    with pytest.raises(VocabularyError, match="no 'classes'; choose among class_file"):
        change_vocabulary(Vocabulary(("cat",)), {"classes": "nothing"})
    with pytest.raises(VocabularyError, match="give words for the same classes"):
        change_vocabulary(Vocabulary(("cat",)), Vocabulary(("dog",)))
    file.write_text("cat\nzebra # unseen\n")
    with pytest.raises(VocabularyError, match="line 2 of .* has a mark .*; remove it"):
        read_class_file(file)
    file.write_text("cat\n\nsofa\n")
    with pytest.raises(VocabularyError, match="line 2 of .* has an empty name"):
        read_class_file(file)
    file.write_bytes("caf\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_class_file(file)


def test_released_class_files() -> None:
    """As many lines as classes, in their order; the names that differ are counted."""
    classes = {
        "voc-sclip": VOC, "voc-clearclip": VOC, "context-sclip": CONTEXT,
        "context-otseg": CONTEXT,
        "coco-object-sclip": COCO, "coco-object-clearclip": COCO, "coco-sazs": COCO,
        "coco-stuff-sclip": COCO_STUFF, "ade20k-sclip": ADE150, "cityscapes-sclip": CITYSCAPES,
    }  # fmt: skip
    assert known_class_files().keys() == {*classes, "background-sclip"}
    counts = {}
    for name, names in classes.items():
        vocabulary = change_vocabulary(Vocabulary(names), {"class_file": name, "combine": "max"})
        counts[name] = (len(vocabulary.rows), len(vocabulary.synonyms))
    assert counts == {
        "voc-sclip": (30, 4),
        "voc-clearclip": (20, 2),
        "context-sclip": (59, 0),
        "context-otseg": (59, 1),
        "coco-object-sclip": (87, 1),
        "coco-object-clearclip": (80, 0),
        "coco-sazs": (80, 19),
        "coco-stuff-sclip": (171, 15),
        "ade20k-sclip": (150, 15),
        "cityscapes-sclip": (19, 2),
    }
    [words] = known_class_files()["background-sclip"]
    assert len(words) == 26
    background = change_vocabulary(Vocabulary(VOC), {"background_words": "background-sclip"})
    assert background.background == words


# ------------------------------------------------------------------------ decision


def naclip_on(vocabulary: Vocabulary) -> tuple[object, TextFeatures]:
    segmenter = create("naclip", tiny_clip()).eval()
    return segmenter, encode(segmenter, vocabulary)


def test_max_takes_the_best_synonym_and_background_words_give_no_class() -> None:
    """Written out: softmax over all rows at image size, then the maximum of each class."""
    vocabulary = change_vocabulary(CATS, {"background_words": ["sky", "grass"]})
    segmenter, text = naclip_on(vocabulary)
    images, settings = torch.rand(2, 3, 37, 50), InferenceSettings(confidence_at="image")
    maps = label_maps(segmenter, images, text, settings)  # type: ignore[arg-type]
    scores = whole_scores(segmenter, images, text, settings)  # type: ignore[arg-type]
    probability = scores.softmax(dim=1)
    of_classes = torch.stack(
        [probability[:, [0, 1]].amax(1), probability[:, 2], probability[:, 3]], dim=1
    )
    nothing = probability[:, 4:].amax(1)
    expected = torch.where(nothing > of_classes.amax(1), IGNORE, of_classes.argmax(1))
    assert torch.equal(maps.labels, expected)
    assert {int(label) for label in maps.labels.unique()} - {IGNORE}
    assert torch.allclose(maps.confidence, probability.amax(1), atol=1e-6)
    assert maps.row_labels.tolist() == [0, 0, 1, 2, IGNORE, IGNORE]
    least = float(maps.confidence.median())
    cut = label_maps(segmenter, images, text, settings, threshold=least)  # type: ignore[arg-type]
    assert torch.equal(cut.labels, torch.where(maps.confidence < least, IGNORE, expected))


def test_small_classes_give_way() -> None:
    """SCLIP's rule: first arg-max, classes of few pixels out, arg-max again."""
    vocabulary = change_vocabulary(CATS, {"background_words": ["sky"]})
    segmenter, text = naclip_on(vocabulary)
    images = torch.rand(3, 3, 40, 40)
    plain = label_maps(segmenter, images, text, InferenceSettings())  # type: ignore[arg-type]
    settings = InferenceSettings(area_threshold=0.4)
    maps = label_maps(segmenter, images, text, settings)  # type: ignore[arg-type]
    scores = whole_scores(segmenter, images, text, settings)  # type: ignore[arg-type]
    classes, changed = torch.tensor([0, 0, 1, 2, IGNORE]), False
    for i in range(3):
        counts = torch.bincount(plain.labels[i][plain.labels[i] != IGNORE], minlength=3)
        large = [c for c in range(3) if counts[c] > 0.4 * counts.sum()]
        rows = [r for r in range(5) if int(classes[r]) in (*large, IGNORE)]
        expected = classes[rows][scores[i, rows].argmax(0)]
        assert torch.equal(maps.labels[i], expected)
        changed |= not torch.equal(expected, plain.labels[i])
    assert changed


def test_a_query_class_takes_its_best_synonym() -> None:
    segmenter = create("edgeclip", tiny_clip(), blocks=(1, 1, 1)).eval()
    images, settings = torch.rand(1, 3, 64, 64), InferenceSettings()
    text = encode(segmenter, CATS)
    both = query_mask(segmenter, images, text, 0, settings)
    alone = [query_mask(segmenter, images, text.select([row]), 0, settings) for row in (0, 1)]
    assert torch.equal(both, alone[0] | alone[1])


def test_features_of_some_classes_keep_their_rows() -> None:
    _, text = naclip_on(change_vocabulary(CATS, {"background_words": ["sky"]}))
    part = text.of_classes([2, 0])
    assert part.vocabulary == ("sofa", "cat")
    assert part.names == ("sofa", "cat", "kitten", "sky")
    assert part.classes == (0, 1, 1, NO_CLASS)
    assert torch.equal(part.pooled, text.pooled[[3, 0, 1, 4]])
    assert text.rows_of([1, 0]) == [2, 0, 1]


def test_own_synonyms_reach_the_benchmark(tmp_path: Path) -> None:
    from tiny import write_own

    folder = write_own(tmp_path / "zoo")
    lines = (folder / "classes.txt").read_text().splitlines()
    (folder / "classes.txt").write_text("\n".join([lines[0] + ", soil", *lines[1:]]) + "\n")
    bench = get_benchmark(str(folder))
    name = bench.class_names[0]
    assert bench.vocabulary.synonyms == {name: (name, "soil")}


def test_blanks_are_stripped_everywhere() -> None:
    vocabulary = Vocabulary((" cat ",), {"cat": (" cat", "kitten ")}, "max", background=(" sky",))
    assert vocabulary.rows == (("cat", 0), ("kitten", 0), ("sky", NO_CLASS))


def test_words_can_be_taken_away_again() -> None:
    changes = {"class_file": "voc-sclip", "background_words": "background-sclip", "combine": "max"}
    whole = change_vocabulary(Vocabulary(VOC), changes)
    plain = change_vocabulary(whole, {"class_file": "none", "background_words": "none"})
    assert (plain.synonyms, plain.background) == ({}, ())
    with pytest.raises(DataError, match="the file of words skies.txt does not exist"):
        change_vocabulary(whole, {"background_words": "skies.txt"})
    with pytest.raises(VocabularyError, match="--combine max is for synonyms, and no class has"):
        check_combine_used(plain, {"combine": "max"})
    check_combine_used(whole, {"combine": "max"})


def test_esda_asks_one_name_a_class() -> None:
    segmenter = create("esda", tiny_clip(), text_blocks=(1,)).eval()
    ship = encode(segmenter, Vocabulary(("boat",), {"boat": ("ship",)}))
    assert torch.equal(ship.pooled, encode(segmenter, ["ship"]).pooled)
    both = Vocabulary(("boat",), {"boat": ("boat", "ship")})
    with pytest.raises(VocabularyError, match="ESDA reads the tokens of one name a class"):
        encode(segmenter, both)
    assert len(encode(segmenter, replace(both, combine="max"))) == 2


def test_stored_vectors_are_those_of_the_classes(tmp_path: Path) -> None:
    """A file holds one vector a class, so its synonyms are not asked for."""
    segmenter = create("naclip", tiny_clip()).eval()
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(3, 16)))
    segmenter.use_stored_text(StoredText.read(tmp_path / "rows.npy", CATS.names))
    assert torch.equal(encode(segmenter, CATS).pooled, encode(segmenter, CATS.names).pooled)


def test_a_run_asks_its_classes_as_it_was_trained(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{name}, drawn {name}\n" for name in DOODLES))
    out = tmp_path / "run"
    run_command(f"train zegclip --class-file {words} --out {out}", FEW)
    model = unseen.load(out)
    assert model.run is not None
    assert model.run.vocabulary.synonyms["boat"] == ("boat", "drawn boat")
    trained = model.encode(["boat", "cloud"]).pooled
    mean = encode(model.segmenter, Vocabulary(("boat",), {"boat": ("boat", "drawn boat")})).pooled
    assert torch.allclose(trained[0], mean[0])
    assert not torch.allclose(trained[0], encode(model.segmenter, ["boat"]).pooled[0])


def test_query_methods_refuse_what_needs_competing_classes(
    fold_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = f"evaluate {fold_run} --limit 2 --out {tmp_path / 'out'}"
    for flag in (
        "--background-words sky", "--inference.area_threshold 0.1",
        "--inference.confidence_at image",
    ):  # fmt: skip
        message = error_of(capsys, f"{common} {flag}")
        assert "is for classes that compete, and esda is asked one class at a time" in message
    run_command(f"{common} --inference.refinement pamr --inference.pamr_steps 2")


def test_refinement_by_segments_knows_the_background() -> None:
    """A pixel that a class loses may go to a word of the background."""
    segmenter = create("naclip", tiny_clip()).eval()
    text = encode(segmenter, Vocabulary(("cat", "dog"), background=("sky", "grass", "sea", "sand")))
    images = torch.rand(1, 3, 40, 40)
    maps = label_maps(segmenter, images, text, InferenceSettings())
    label = int(maps.labels[maps.labels < 2][0])
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:4] = True
    refined = refine_maps(maps, [[SegmentMatch(label, 0.9, mask)]]).labels[0]
    without = maps.scores.whole()[0]
    without[label] = -1e9
    size = torch.nn.functional.interpolate(without[None], (40, 40), mode="bilinear")[0]
    lost = (maps.labels[0] == label) & ~mask
    others = maps.row_labels[size.argmax(dim=0)]
    assert lost.any()
    assert torch.equal(refined[lost], others[lost])
