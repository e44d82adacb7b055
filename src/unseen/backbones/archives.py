"""Weight files read as data: nothing that lies in a file is ever executed.

Three forms: safetensors; PyTorch's zip or legacy files, through `torch.load(weights_only=True)`;
and TorchScript archives, as OpenAI publishes CLIP, whose pickled object tree is walked with a
reader that knows tensors and empty containers only.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unseen.errors import CheckpointError

_DTYPES = {
    "HalfStorage": torch.float16, "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")), np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
]  # fmt: skip
"""numpy's plain numbers, such as the best score beside the weights (SAZS's checkpoints)."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU. A wrapping `state_dict` key and a `module.`
    prefix are removed.

    Raises:
        CheckpointError: The file is missing, truncated, holds anything but tensors and plain
            containers, or holds none.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give a file of weights")
    try:
        if (
            path.suffix != ".safetensors"
            and path.is_file()
            and _first_byte(path) not in (b"P", b"\x80")
        ):  # zip, pickle
            raise CheckpointError(
                f"{path} is not a file of weights; give a .pt, .pth or .safetensors file"
            )
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        elif _is_torchscript(path):
            loaded = _read_torchscript(path)
        else:
            with torch.serialization.safe_globals(_NUMBERS):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; check the path") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); download or train it again"
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which may run code when loaded; ask its"
            " author for safetensors or a plain state dict"
        ) from error
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        StopIteration,
        AttributeError,
        IndexError,
        TypeError,
    ) as error:
        raise CheckpointError(
            f"{path} is not a readable weight file; it may be truncated, so download it again"
        ) from error
    while isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    entries = loaded.items() if isinstance(loaded, dict) else ()
    tensors = {
        name.removeprefix("module."): value
        for name, value in entries
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; give a file of weights")
    return tensors


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(
            name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist()
        )


class _Bag:
    """Stands for any TorchScript module: its attributes, nothing more."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Reader(pickle.Unpickler):
    """Unpickles a TorchScript object tree without importing anything the file names."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Bag
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")

    def persistent_load(self, pid: tuple[str, str, str, str, int]) -> Tensor:
        _, kind, key, _, count = pid
        return torch.frombuffer(
            bytearray(self.archive.read(f"{self.root}/data/{key}")),
            dtype=_DTYPES[kind],
            count=count,
        )


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix(
            "/data.pkl"
        )
        tree = _Reader(archive, root).load()
    found: dict[str, Tensor] = {}

    def walk(node: Any, prefix: str) -> None:
        for name, value in vars(node).items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Bag):
                walk(value, f"{prefix}{name}.")

    walk(tree, "")
    return found
