"""Kinds of files that nobody should have to give."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save, save_file

Writer = Callable[[Path], Any]


class Canary:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


# ------------------------------------------------------------------------ anything


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_to(target: str) -> Writer:
    return lambda path: path.symlink_to(target)


def _bytes(content: bytes) -> Writer:
    return lambda path: path.write_bytes(content)


def _sparse(size: int) -> Writer:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return write


def zip_of(**members: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), content)
    return memory.getvalue()


ANYTHING: dict[str, Writer] = {
    "missing": lambda path: None,
    "empty": _bytes(b""),
    "one byte": _bytes(b"\x80"),
    "newline": _bytes(b"\n"),
    "null bytes": _bytes(b"\0" * 4096),
    "noise": _bytes(np.random.default_rng(0).bytes(4096)),
    "latin-1": _bytes("caf\xe9 cr\xe8me\n".encode("latin-1")),
    "utf-16": _bytes("cat\ndog\n".encode("utf-16")),
    "html": _bytes(b"<!DOCTYPE html><html><body>Please log in</body></html>\n"),
    "json": _bytes(b'{"a": [1, 2, {"b": null}]}'),
    "deep json": _bytes(b"[" * 100_000 + b"]" * 100_000),
    "yaml bomb": _bytes(
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n".encode()
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        )
    ),
    "yaml object": _bytes(b"!!python/object/apply:os.system ['touch ran']\n"),
    "postscript": _bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\nshowpage\n"),
    "svg": _bytes(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    "pdf": _bytes(b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n"),
    "gzip": _bytes(gzip.compress(b"0" * 100_000)),
    "zip": _bytes(zip_of(a=b"0")),
    "empty zip": _bytes(b"PK\5\6" + b"\0" * 18),
    "zip bomb": _bytes(zip_of(archive__data_pkl=b"\0" * 200_000_000)),
    "pickle": _bytes(pickle.dumps(Canary())),
    "old pickle": _bytes(pickle.dumps(Canary(), protocol=0)),
    "torch pickle": lambda path: torch.save({"a": Canary()}, path),
    "torch legacy": lambda path: torch.save(
        {"a": Canary()}, path, _use_new_zipfile_serialization=False
    ),
    "elf": _bytes(b"\x7fELF" + b"\0" * 100),
    "shell": _bytes(b"#!/bin/sh\ntouch ran\n"),
    "huge": _sparse(50 * 10**9),
    "long line": _bytes(b"x" * 1_000_000),
    "many lines": _bytes(b"x\n" * 300_000),
    "folder": lambda path: path.mkdir(),
    "pipe": _pipe,
    "zero": _link_to("/dev/zero"),
    "random": _link_to("/dev/urandom"),
    "memory": _link_to("/proc/self/mem"),
    "link to itself": lambda path: path.symlink_to(path),
    "dangling link": _link_to("/nowhere/at/all"),
}
"""By kind, what writes such a file."""


# -------------------------------------------------------------------------- images


def png_header(width: int, height: int) -> bytes:
    """A grey PNG that claims a size and holds hardly a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"0")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def photograph(width: int = 40, height: int = 30) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    memory = io.BytesIO()
    image.save(memory, kind, **how)
    return memory.getvalue()


def _exif(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


_GREY = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
_FLOATS = np.random.default_rng(0).random((30, 40), dtype=np.float32)
GOOD_IMAGES: dict[str, bytes] = {
    "png": encoded(photograph(), "PNG"),
    "jpeg": encoded(photograph(), "JPEG"),
    "webp": encoded(photograph(), "WEBP"),
    "gif": encoded(photograph(), "GIF"),
    "animation": encoded(photograph(), "GIF", save_all=True, append_images=[photograph()] * 3),
    "bmp": encoded(photograph(), "BMP"),
    "tiff": encoded(photograph(), "TIFF"),
    "ppm": encoded(photograph(), "PPM"),
    "rgba": encoded(photograph().convert("RGBA"), "PNG"),
    "palette": encoded(photograph().convert("P"), "PNG"),
    "bits": encoded(photograph().convert("1"), "PNG"),
    "grey alpha": encoded(photograph().convert("LA"), "PNG"),
    "cmyk": encoded(photograph().convert("CMYK"), "JPEG"),
    "ycbcr": encoded(photograph().convert("YCbCr"), "TIFF"),
    "16 bits": encoded(_GREY, "PNG"),
    "floats": encoded(Image.fromarray(_FLOATS), "TIFF"),
    "rotated": encoded(photograph(), "JPEG", exif=_exif(6)),
    "rotated by 99": encoded(photograph(), "JPEG", exif=_exif(99)),
    "one pixel": encoded(photograph(1, 1), "PNG"),
    "elongated": encoded(photograph(90, 2), "PNG"),
}
"""Images that have to work, or to be refused in a sentence."""
BAD_IMAGES: dict[str, bytes] = {
    "cut png": GOOD_IMAGES["png"][:900],
    "cut jpeg": GOOD_IMAGES["jpeg"][:500],
    "cut webp": GOOD_IMAGES["webp"][:500],
    "cut tiff": GOOD_IMAGES["tiff"][:900],
    "cut gif": GOOD_IMAGES["gif"][:400],
    "jpeg of zeros": GOOD_IMAGES["jpeg"][:200] + b"\0" * 400,
    "png of a wrong sum": GOOD_IMAGES["png"][:60] + b"\1" + GOOD_IMAGES["png"][61:],
    "nothing inside": png_header(30, 30),
    "no pixels": png_header(0, 0),
    "169 million pixels": png_header(13_000, 13_000),
    "4 billion pixels": png_header(65_000, 65_000),
    "negative": png_header(2**31 + 5, 2**31 + 5),
    "line": encoded(photograph(300, 1), "PNG"),
    "tall line": encoded(photograph(1, 5000), "PNG"),
    "ribbon": encoded(photograph(20_000, 3), "PNG"),
    "floats of nothing": encoded(Image.fromarray(np.full((30, 40), np.nan, np.float32)), "TIFF"),
    "floats below 0": encoded(Image.fromarray(_FLOATS - 5), "TIFF"),
    "lab": encoded(photograph().convert("LAB"), "TIFF"),
    "exif bomb": GOOD_IMAGES["jpeg"][:2]
    + b"\xff\xe1\x40\x00Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    + b"\1\x12\0\3\xff\xff\xff\xff\0\0\0\6" * 1000
    + GOOD_IMAGES["jpeg"][2:],
}
"""Images that have to be refused in a sentence, except those that a decoder forgives."""
FORGIVEN = (
    "png of a wrong sum",
    "cut webp",
    "cut gif",
    "cut jpeg",
    "jpeg of zeros",
    "exif bomb",
    "lab",
)


# ------------------------------------------------------------------------- weights


def tensors(**values: Any) -> Writer:
    return lambda path: torch.save(values, path)


def _cyclic(path: Path) -> None:
    state: dict[str, Any] = {"a": torch.zeros(2)}
    state["state_dict"] = state
    torch.save(state, path)


def _header(config: Any) -> Writer:
    text = config if isinstance(config, str) else json.dumps(config)

    def write(path: Path) -> None:
        save_file({"visual.proj": torch.zeros(2, 2)}, path, metadata={"config": text})

    return write


def _torchscript(pickled: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/constants.pkl", b"\x80\2).")
        archive.writestr("archive/data/0", b"\0" * 4)
    return memory.getvalue()


def _shared_modules(depth: int) -> bytes:
    """Modules that each hold the next one twice: 2 ** depth ways to the last."""
    made = b"c__torch__\nModule\n)\x81"
    body = made + b"}b"
    for _ in range(depth):
        # memoise the inner module, then build one around it that has it under two names
        body = body + b"q\0" + b"0" + made + b"}(X\1\0\0\0ah\0X\1\0\0\0bh\0ub"
    return _torchscript(b"\x80\2" + body + b".")


def _strided(size: int) -> bytes:
    """A TorchScript tensor of four bytes that claims many numbers."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\00X\3\0\0\0cpuK\1tQ"
    number = b"\x8a\4" + struct.pack("<i", size)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + number + b"\x85K\0\x85"
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    return _torchscript(b"\x80\2c__torch__\nModule\n)\x81}X\1\0\0\0a" + tensor + b"sb.")


_BLOCK = "visual.transformer.resblocks."
WEIGHTS: dict[str, Writer] = {
    "no tensors": tensors(),
    "a list": lambda path: torch.save([torch.zeros(2)], path),
    "a number": lambda path: torch.save(3, path),
    "wrong names": tensors(a=torch.zeros(2), b=torch.zeros(3)),
    "cycle": _cyclic,
    "sparse": tensors(a=torch.zeros(4, 4).to_sparse()),
    "meta": tensors(a=torch.zeros(4, device="meta")),
    "complex": tensors(a=torch.zeros(4, dtype=torch.complex64)),
    "integers": tensors(a=torch.zeros(4, dtype=torch.int8)),
    "float8": tensors(a=torch.zeros(4).to(torch.float8_e4m3fn)),
    "quantised": tensors(a=torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)),
    "expanded": tensors(a=torch.zeros(1).expand(2 * 10**9)),
    "nan": tensors(a=torch.full((4,), torch.nan)),
    "no elements": tensors(a=torch.zeros(0, 5)),
    "a scalar": tensors(a=torch.tensor(1.0)),
    "many": tensors(**{f"t{i}": torch.zeros(1) for i in range(3000)}),
    "three million blocks": tensors(
        **{
            "visual.conv1.weight": torch.zeros(64, 3, 8, 8),
            "visual.positional_embedding": torch.zeros(17, 64),
            "visual.proj": torch.zeros(64, 8),
            f"{_BLOCK}3000000.ln_1.weight": torch.zeros(64),
        }
    ),
    "shared modules": _bytes(_shared_modules(40)),
    "huge stride": _bytes(_strided(2 * 10**9)),
    "deflated": _bytes(zip_of(archive__data_pkl=b"\x80\2}.", archive__data__0=b"\0" * 10**8)),
    "cut safetensors": _bytes(save({"a": torch.zeros(100)})[:200]),
    "safetensors of a huge header": _bytes(struct.pack("<Q", 2**60) + b"{}"),
    "safetensors beyond its end": _bytes(
        struct.pack("<Q", 61) + b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,39996]}}'
    ),
    "header of text": _header("not json"),
    "header of a number": _header("3"),
    "header without towers": _header({"embed_dim": 8}),
    "header of many layers": _header(
        {"embed_dim": 8, "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64,
                                        "layers": 100_000}}
    ),
    "header of no heads": _header(
        {"embed_dim": 8, "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64,
                                        "layers": 1, "head_width": 0}}
    ),
    "header of words": _header(
        {"embed_dim": 8, "vision_cfg": {"image_size": "big", "patch_size": 8, "width": 64,
                                        "layers": 1}}
    ),
    "header of a large vocabulary": _header(
        {"embed_dim": 8, "vision_cfg": {"image_size": 8, "patch_size": 8, "width": 8, "layers": 1},
         "text_cfg": {"vocab_size": 10**9, "width": 512, "heads": 8, "layers": 1,
                      "context_length": 77}}
    ),
    "header of a name": _header(
        {"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}}
    ),
    "deep header": _header("[" * 100_000),
}  # fmt: skip
"""Files that look like weights."""


# -------------------------------------------------------------------------- arrays


def _array(values: Any) -> Writer:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, values, allow_pickle=True)

    return write


def _npy(header: str) -> Writer:
    body = header.encode()
    return _bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body)


ARRAYS: dict[str, Writer] = {
    "objects": _array(np.array([Canary(), None], dtype=object)),
    "not finite": _array(np.full((2, 128), np.nan)),
    "infinite": _array(np.full((2, 128), np.inf)),
    "huge numbers": _array(np.full((2, 128), 1e300)),
    "zeros": _array(np.zeros((2, 128))),
    "texts": _array(np.array([["a", "b"]])),
    "complex numbers": _array(np.ones((2, 128), dtype=complex)),
    "truths": _array(np.ones((2, 128), dtype=bool)),
    "a line": _array(np.ones(128)),
    "no prompts": _array(np.ones((2, 0, 128))),
    "four dimensions": _array(np.ones((2, 3, 4, 128))),
    "nothing": _array(np.ones((0, 128))),
    "one number": _array(np.float64(3)),
    "too few rows": _array(np.ones((1, 128))),
    "too wide": _array(np.ones((2, 4096))),
    "terabytes": _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 100000)}\n"),
    "negative shape": _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 5)}\n"),
    "code": _npy("__import__('os').system('touch ran')\n"),
    "archive of arrays": lambda path: np.savez(path.open("wb"), a=np.ones((2, 128))),
}  # fmt: skip
"""Files that look like text embeddings."""


# ----------------------------------------------------------------------------- text

CLASS_LISTS: dict[str, str] = {
    "blank lines": "cat\n\n\ndog\n",
    "twice": "cat\ncat\n",
    "comment": "# my classes\ncat\n",
    "marks in the middle": "cat # unseen, kitten\ndog\n",
    "misspelt mark": "cat # unsen\ndog\n",
    "quotes": '"cat\ndog\n',
    "commas": "cat,\ndog\n",
    "only marks": "# unseen\n# ignore\n",
    "control": "cat\x1b[31m\ndog\n",
    "null": "cat\0\ndog\n",
    "long": "c" * 100_000 + "\ndog\n",
    "markup": "[/x]\n[bold]dog\n",
    "path": "../../etc/passwd\n/etc/shadow\n",
    "braces": "{0.__class__}\n%s %n\n",
    "all ignored": "cat # ignore\ndog # ignore\n",
    "all unseen": "cat # unseen\ndog # unseen\n",
    "line ends": "cat\r\ndog\r",
    "spaces": "  cat  \n\tdog\t\n",
    "too many": "".join(f"class {i}\n" for i in range(300)),
    "scripts": "猫\nсобака\n🐶\n",
    "right to left": "قط\n\u202edog\u202c\n",
    "yaml": "- cat\n- dog: {}\n",
}
"""Lists of classes; some of them may be right."""
