"""Class names of all kinds, kept exactly or refused; and places to write to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hostile.judge import Case, command

WORDS = (
    "a", "A cat", "ein Hund", "猫", "собака", "🐶", "👩‍👩‍👧", "قط", "שלום", "é", "e\u0301",
    "\u202edog\u202c", "[bold]x", "[/x]", "{0}", "{}", "%s", "%(a)s", "$HOME", "`ls`", "$(ls)",
    "; rm -rf x", "<b>x</b>", "<script>", "../../up", "/etc/passwd", "C:\\x", "nul", "con", "-x",
    "--help", "a=b", "a:b", "a;b", "'", "a'b", "&amp;", "#", "a # b", "!", "*", "?", "~", "^", "|",
    "null", "true", "1", "1e5", "nan", "a" * 300, "wort " * 60, "\u200b", "\ufeffcat", "\xa0", "ﬁ",
    "Ⅷ", "x\u0308" * 50,
)  # fmt: skip
"""Names that stand for themselves, or are refused in a sentence."""
REFUSED = (
    "", " ", ",", "a,a", "a,", "\0", "a\0b", "a\nb", "a\rb", "a\tb,\x1b[0m", "\ud800", "a" * 501,
    '"a', "a,,b", "a" * 10**6,
)  # fmt: skip
"""Lists that have to be refused."""
ALLOWED = ("a,",)
"""Those of them that are forgiven."""


def cases(photo: Path, work: Path) -> Iterator[Case]:
    """`segment` with these names."""
    for number, word in enumerate((*WORDS, *REFUSED)):
        out = work / f"words-{number}"
        yield Case(
            f"--classes {word!r:.60}",
            command(
                *("segment", str(photo), f"--classes={word}", "--out", str(out)),
                *("--inference.short_side", "32", "--inference.window", "0"),
            ),
            may_work=word in WORDS or word in ALLOWED,
            written=(out,),
            kept=(work,),
            check=partial(_is_kept, word.strip().removesuffix(","), out / f"{photo.stem}.json"),
        )


def _is_kept(word: str, report: Path, _: Any) -> str | None:
    names = [entry["name"] for entry in json.loads(report.read_text(encoding="utf-8"))["classes"]]
    return None if names == [word] else f"became {names}"


def places(work: Path) -> dict[str, str]:
    """Places that nothing can be written to, or that are somebody else's."""
    (work / "file").write_text("mine")
    (work / "loop").symlink_to(work / "loop")
    (work / "dangling").symlink_to("/nowhere/at/all")
    return {
        "a file": str(work / "file"),
        "below a file": str(work / "file" / "below"),
        "a link to itself": str(work / "loop"),
        "/proc": "/proc/unseen",
        "/dev/null": "/dev/null",
        "/dev/full": "/dev/full",
        "a null byte": "a\0b",
        "a long name": str(work / ("x" * 300)),
        "a long path": "/".join(["x" * 200] * 30),
        "no text": "",
    }


def place_cases(photo: Path, run: Path, own: Path, work: Path) -> Iterator[Case]:
    """Every verb that writes, with every such place."""
    small = ("--train.steps", "1", "--train.batch_size", "2", "--train.warmup", "0")
    verbs = {
        "segment": ("segment", str(photo), "--classes", "a"),
        "check": ("check", str(own)),
        "train": ("train", "zegclip", *small),
        "pretrain": ("pretrain", "--steps", "1", "--batch_size", "2"),
        "demo": ("demo", "--steps", "1", "--limit", "1"),
        "evaluate": ("evaluate", "naclip", "--limit", "1"),
        "evaluate a run": ("evaluate", str(run), "--limit", "1"),
        "eigenvectors": ("eigenvectors", str(own / "images"), "--limit", "1"),
        "convert": ("convert", "zegclip", str(run / "weights.safetensors"), "--benchmark", "voc"),
    }
    for place, path in places(work).items():
        for verb, words in verbs.items():
            yield Case(f"{verb} --out {place}", command(*words, "--out", path), kept=(work,))


def foreign_cases(photo: Path, run: Path, own: Path, work: Path) -> Iterator[Case]:
    """Files of somebody else's that have the name of a result."""
    verbs = {
        "segment": (("segment", str(photo), "--classes", "a"),
                    ("photo.png", "photo.overlay.png", "photo.json")),
        "check": (("check", str(own)), ("check.json", "sheet.png")),
        "evaluate": (("evaluate", "naclip", "--limit", "1"), ("report.json", "sheet.png")),
        "eigenvectors": (("eigenvectors", str(own / "images"), "--limit", "1"), ("sheet.png",)),
        "train": (("train", "zegclip", "--train.steps", "1", "--train.batch_size", "2"),
                  ("config.yaml", "weights.safetensors", "state/last.ckpt")),
        "demo": (("demo", "--steps", "1", "--limit", "1"),
                 ("demo.json", "demo.png", "thesis.txt", "run/notes.txt")),
        "pretrain": (("pretrain", "--steps", "1", "--batch_size", "2"), ("doodles.safetensors",)),
        "convert": (("convert", "zegclip", str(run / "weights.safetensors"), "--benchmark", "voc"),
                    ("anything.txt",)),
    }  # fmt: skip
    for verb, (words, names) in verbs.items():
        for name in names:
            for kind, content in (("text", "mine"), ("a link", None), ("a folder", "")):
                out = work / f"{verb}-{name.replace('/', '-')}-{kind}"
                path = out / name
                path.parent.mkdir(parents=True)
                if content is None:
                    path.symlink_to(photo)
                elif content:
                    path.write_text(content)
                else:
                    path.mkdir()
                    (path / "mine.txt").write_text("mine")
                yield Case(
                    f"{verb} over {kind} called {name}",
                    command(*words, "--out", str(out)),
                    kept=(work, photo.parent),
                )
