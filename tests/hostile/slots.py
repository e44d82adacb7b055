"""Where the command line takes files: every kind of file in every place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from hostile.files import (
    ANYTHING,
    ARRAYS,
    BAD_IMAGES,
    CLASS_LISTS,
    FORGIVEN,
    GOOD_IMAGES,
    WEIGHTS,
    Writer,
    photograph,
)
from hostile.judge import Case, command
from tiny import write_folds, write_own, write_voc
from tiny.commands import ONE_STEP


@dataclass(frozen=True)
class World:
    """Good things that cases are made from.

    Attributes:
        folder: Holds them.
        run: A run folder of ZegCLIP on Doodles.
        stopped: One that was stopped.
    """

    folder: Path
    run: Path
    stopped: Path

    def copy(self, source: Path, target: Path) -> Path:
        """A folder with the same files; those are shared, so a case replaces them, if any."""
        shutil.copytree(source, target, copy_function=os.link)
        return target


Placed = Callable[[World, Path, Writer], tuple[list[str], Path]]
"""Puts a file into its place in an empty folder; returns the command line and the file."""


@dataclass(frozen=True)
class Slot:
    """A place for a file.

    Attributes:
        name: Verb and place.
        place: Puts a file there.
        kinds: What is tried there besides `ANYTHING`.
        works: Kinds that may work; None for all.
        skipped: Kinds that are no question there.
    """

    name: str
    place: Placed
    kinds: Mapping[str, Writer] = field(default_factory=dict)
    works: tuple[str, ...] | None = ()
    skipped: tuple[str, ...] = ()


def _write(path: Path, writer: Writer) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()  # a shared file stays as it is elsewhere
    writer(path)
    return path


def _given(name: str, *words: str) -> Placed:
    """A file given on the command line, as FILE among the words."""

    def place(world: World, folder: Path, writer: Writer) -> tuple[list[str], Path]:
        path = _write(folder / name, writer)
        photo = str(world.folder / "photo.png")
        values = {"FILE": str(path), "PHOTO": photo, "OUT": str(folder / "out")}
        values["RUN"], values["OWN"] = str(world.run), str(world.folder / "own")
        return [_filled(word, values) for word in words], path

    return place


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _in_copy(source: str, name: str, *words: str) -> Placed:
    """A file in a copy of a good folder, which is FOLDER among the words."""

    def place(world: World, folder: Path, writer: Writer) -> tuple[list[str], Path]:
        sources = {"run": world.run, "stopped": world.stopped}
        copied = world.copy(sources.get(source, world.folder / source), folder / source)
        path = _write(copied / name, writer)
        values = {"FOLDER": str(copied), "PHOTO": str(world.folder / "photo.png")}
        values |= {"OUT": str(folder / "out"), "RUN": str(world.run)}
        return [_filled(word, values) for word in words], path

    return place


IMAGES: dict[str, Writer] = {
    name: (lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    for name, content in {**GOOD_IMAGES, **BAD_IMAGES}.items()
}
LISTS: dict[str, Writer] = {
    name: (lambda path, text=text: path.write_text(text, encoding="utf-8", newline=""))  # type: ignore[misc]
    for name, text in CLASS_LISTS.items()
}
_READABLE = (*GOOD_IMAGES, *FORGIVEN)
SEGMENT = ("segment", "PHOTO", "--classes", "boat,key", "--out", "OUT")
TRAIN = ("train", "zegclip", "--out", "OUT", *ONE_STEP.split())
SAZS = ("train", "sazs", "--benchmark", "doodles-5i/0", "--out", "OUT", *ONE_STEP.split())
OWN_TRAIN = (
    *TRAIN, "--benchmark", "FOLDER", "--train.transforms.crop", "16", "--clip", "doodles",
)  # fmt: skip
SMALL = ("--limit", "1", "--inference.short_side", "32", "--inference.window", "0")
SLOTS = (
    Slot(
        "segment: image",
        _given("photo.jpg", "segment", "FILE", "--classes", "boat,key", "--out", "OUT"),
        IMAGES,
        _READABLE,
    ),
    Slot("segment: --classes", _given("words.txt", "segment", "PHOTO", "--classes", "FILE",
                                      "--out", "OUT"), LISTS, None),
    Slot("segment: --background-words", _given("words.txt", *SEGMENT, "--background-words",
                                               "FILE"), LISTS, None),
    Slot("segment: --text-embeddings", _given("rows.npy", *SEGMENT, "--text-embeddings", "FILE"),
         ARRAYS, ("truths",)),
    Slot("segment: --clip .pt", _given("tower.pt", *SEGMENT, "--clip", "FILE"), WEIGHTS),
    Slot("segment: --clip .safetensors", _given("tower.safetensors", *SEGMENT, "--clip", "FILE"),
         WEIGHTS),
    Slot("segment: --clip NAME@", _given("tower.pt", *SEGMENT, "--clip", "ViT-B-32@FILE"),
         WEIGHTS),
    Slot("segment: templates", _given("templates.txt", *SEGMENT, "--options.templates", "FILE"),
         LISTS, None),
    Slot("segment: config of a run", _in_copy("run", "config.yaml", *SEGMENT, "--model",
                                              "FOLDER"), LISTS),
    Slot("segment: weights of a run", _in_copy("run", "weights.safetensors", *SEGMENT, "--model",
                                               "FOLDER"), WEIGHTS),
    Slot("segment: stored segments", _in_copy(
        "segments", "photo.safetensors", *SEGMENT, "--inference.refinement", "segment_iou",
        "--inference.segments_dir", "FOLDER"), WEIGHTS),
    Slot("segment: network of segments", _given(
        "vit.pth", *SEGMENT, "--inference.refinement", "segment_iou",
        "--inference.segments_features", "timm:vit_tiny_patch16_224@FILE"), WEIGHTS),
    Slot("check: image", _in_copy("own", "images/p 0.png", "check", "FOLDER", "--out", "OUT"),
         IMAGES, (*_READABLE,)),
    Slot("check: labels", _in_copy("own", "labels/p 0.png", "check", "FOLDER", "--out", "OUT"),
         IMAGES, None),
    Slot("check: classes", _in_copy("own", "classes.txt", "check", "FOLDER", "--out", "OUT"),
         LISTS, None),
    Slot("check: list", _in_copy("own", "train.txt", "check", "FOLDER", "--out", "OUT"), LISTS,
         None),
    Slot("train: image", _in_copy("one", "images/a.png", *OWN_TRAIN), IMAGES, _READABLE),
    Slot("train: labels", _in_copy("one", "labels/a.png", *OWN_TRAIN), IMAGES, _READABLE),
    Slot("train: classes", _in_copy("one", "classes.txt", *OWN_TRAIN), LISTS, None),
    Slot("train: --class-file", _given("words.txt", *TRAIN, "--class-file", "FILE"), LISTS),
    Slot("train: --text-embeddings", _given("rows.npy", *TRAIN, "--text-embeddings", "FILE"),
         ARRAYS),
    Slot("train: --init", _in_copy("run", "weights.safetensors", *TRAIN, "--init", "FOLDER"),
         WEIGHTS),
    Slot("train: --init config", _in_copy("run", "config.yaml", *TRAIN, "--init", "FOLDER"),
         LISTS),
    Slot("train: state", _in_copy("stopped", "state/last.ckpt", "train", "zegclip", "--out",
                                  "FOLDER", "--resume", "--train.steps", "2",
                                  "--train.batch_size", "2", "--train.warmup", "0",
                                  "--train.save_every", "1"), WEIGHTS, None, ("missing", "folder")),
    Slot("train: backbone", _given("net.pth", *SAZS, "--options.backbone", "mobilenet_v2",
                                   "--options.weights", "FILE"), WEIGHTS),
    Slot("evaluate: metrics of a run", _in_copy("run", "metrics.json", "evaluate", "FOLDER",
                                                "--limit", "1", "--out", "OUT"), {}, None),
    Slot("evaluate: classes", _in_copy("own", "classes.txt", "evaluate", "naclip", "--benchmark",
                                       "FOLDER", "--out", "OUT", *SMALL), LISTS, None),
    Slot("evaluate: labels", _in_copy("own", "labels/p 8.png", "evaluate", "naclip",
                                      "--benchmark", "FOLDER", "--out", "OUT"), IMAGES,
         _READABLE),
    Slot("evaluate: image", _in_copy("own", "images/p 8.png", "evaluate", "naclip",
                                     "--benchmark", "FOLDER", "--out", "OUT"), IMAGES, _READABLE),
    Slot("evaluate: --class-file", _given("words.txt", "evaluate", "naclip", "--limit", "1",
                                          "--class-file", "FILE", "--out", "OUT"), LISTS),
    Slot("evaluate: list of a fold", _in_copy(
        "folds", "lists/val/fold0.txt", "evaluate", "naclip", "--benchmark", "pascal-5i/0",
        "--root", "FOLDER/VOC2012", "--lists", "FOLDER/lists", "--out", "OUT"), LISTS),
    Slot("evaluate: list of a benchmark", _in_copy(
        "voc", "ImageSets/Segmentation/val.txt", "evaluate", "naclip", "--benchmark", "voc",
        "--root", "FOLDER", "--out", "OUT"), LISTS),
    Slot("convert: checkpoint", _given("checkpoint.pth", "convert", "zegclip", "FILE",
                                       "--benchmark", "voc", "--out", "OUT"), WEIGHTS),
    Slot("eigenvectors: network", _given(
        "vit.pth", "eigenvectors", "OWN/images", "--limit", "1", "--features",
        "timm:vit_tiny_patch16_224@FILE", "--out", "OUT"), WEIGHTS),
    Slot("eigenvectors: kept ones", _in_copy(
        "segments", "p 0.safetensors", "eigenvectors", "IMAGES", "--limit", "1", "--out",
        "FOLDER"), WEIGHTS, (), ("missing",)),
    Slot("prepare: archive", _given(
        "archives/VOCtrainval_11-May-2012.tar", "prepare", "voc", "--from", "ARCHIVES", "--root",
        "OUT"), {}, (), ("missing",)),
)  # fmt: skip


def make_world(folder: Path, run: Path, stopped: Path) -> World:
    """Everything that cases are made from."""
    photograph(60, 40).save(folder / "photo.png")
    write_own(folder / "own")
    write_voc(folder / "voc")
    write_folds(folder / "folds")
    for name, image in (("images", photograph(24, 20)), ("labels", None)):
        (folder / "one" / name).mkdir(parents=True)
        labels = np.tile(np.arange(24, dtype=np.uint8) // 8, (20, 1))
        (image or Image.fromarray(labels)).save(folder / "one" / name / "a.png")
    (folder / "one" / "classes.txt").write_text("ground\ncat\ndog\n")
    (folder / "one" / "train.txt").write_text("a\n")
    (folder / "one" / "val.txt").write_text("a\n")
    (folder / "segments").mkdir()
    return World(folder, run, stopped)


def cases(world: World, work: Path, every: int = 1) -> Iterator[Case]:
    """Kinds of files in every place.

    Args:
        world: What they are made from.
        work: Where they are made.
        every: Of the kinds that can be given anywhere, one in so many; others in the next place.
    """
    for number, slot in enumerate(SLOTS):
        turn = [kind for i, kind in enumerate(ANYTHING) if (i + number) % every]
        for kind, writer in {**ANYTHING, **slot.kinds}.items():
            if kind in slot.skipped or kind in turn:
                continue
            folder = work / f"{len(list(work.iterdir()))}"
            folder.mkdir()
            words, path = slot.place(world, folder, writer)
            words = [
                word.replace("IMAGES", str(world.folder / "own" / "images")).replace(
                    "ARCHIVES", str(folder / "archives")
                )
                for word in words
            ]
            yield Case(
                f"{slot.name}: {kind}",
                command(*words),
                may_work=slot.works is None or kind in slot.works,
                about=_names(path, slot),
                kept=(folder, world.folder),
                reports=slot.name.startswith("check"),
                written=(folder / "out", folder / "run", folder / "stopped", folder / "segments"),
            )
            shutil.rmtree(folder, ignore_errors=True)


def _names(path: Path, slot: Slot) -> tuple[str, ...]:
    """By what a sentence may name a file: itself, its folder, or the flag it was given with."""
    flag = next((word for word in slot.name.split() if word.startswith("--")), path.name)
    return (path.name, path.stem, str(path.parent), path.parent.name, flag)
