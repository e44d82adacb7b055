"""Weight files, read as data: no code in a file is ever executed.

There are three formats: safetensors; PyTorch's zip or legacy files, read by
`torch.load(weights_only=True)`; and TorchScript archives, as OpenAI publishes CLIP, whose pickled
object tree is read by an unpickler that knows only tensors and empty containers.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unseen.errors import CheckpointError, shortage
from unseen.files import replacing

_DTYPES = {
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# The function that rebuilds a NumPy number has no public name, and NumPy 2 renamed its module.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
]
"""NumPy's plain numbers, such as the best score beside the weights (SAZS's checkpoints)."""
DAMAGE = (
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
    OverflowError,
    MemoryError,
    AssertionError,
    NotImplementedError,
    UnicodeError,
    struct.error,
    zlib.error,
)
"""Errors that readers raise on damaged files."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU.

    A `state_dict` key around them and a `module.` prefix are removed.

    Raises:
        CheckpointError: The file is missing, truncated, holds anything but tensors and plain
            containers, or holds no tensors.
    """
    check_is_file(path)
    try:
        content = _read(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); download or train it again"
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which may run code when loaded; ask its"
            " author for safetensors or a plain state dict"
        ) from error
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    tensors = _named_tensors(content)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; give a file of weights")
    for name, tensor in tensors.items():
        problem = _problem(tensor)
        if problem:
            raise CheckpointError(
                f"{path} holds {problem} (called {name[:80]}); give plain weights in 16 or 32 bits"
            )
    return tensors


def check_is_file(path: Path) -> None:
    """Refuse what is no plain file: a pipe or a device would be read for ever.

    Raises:
        CheckpointError: Missing, a folder, a pipe, a device.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; check the path")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a plain file"
        raise CheckpointError(f"{path} is {kind}; give a file of weights")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a plain array of numbers, no larger than its data."""
    return _problem(tensor) is None


def _problem(tensor: Tensor) -> str | None:
    """Why a tensor is no plain array of numbers; None if it is one."""
    odd = tensor.is_meta or tensor.is_quantized or tensor.is_nested
    if odd or tensor.layout != torch.strided:
        return "a tensor that is not plain"
    if tensor.dtype not in _DTYPES.values():
        return f"a tensor of {tensor.dtype}"
    # A view may repeat a few stored numbers endlessly.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "a tensor that is larger than its data"
    return None


def _read(path: Path) -> Any:
    """The content of a weight file in any of the three formats."""
    if path.suffix == ".safetensors":
        return load_file(path)
    # Zip files start with a P, pickles with the byte 0x80.
    if path.is_file() and _first_byte(path) not in (b"P", b"\x80"):
        raise CheckpointError(
            f"{path} is not a file of weights; give a .pt, .pth or .safetensors file"
        )
    check_unpacked_size(path)
    if _is_torchscript(path):
        return _read_torchscript(path)
    with torch.serialization.safe_globals(_NUMBERS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of tensors that are refused in a sentence
        return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """What to raise where a weight file cannot be read."""
    cause = shortage(error)
    if cause is not None:
        return CheckpointError(
            f"{path} cannot be read ({cause}); close other programs, or give another copy of it"
        )
    return CheckpointError(
        f"{path} is not a readable weight file; it may be truncated, so download it again"
    )


def _named_tensors(content: Any) -> dict[str, Tensor]:
    # Training frameworks wrap state dicts, sometimes twice.
    for _ in range(2):
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
    if not isinstance(content, dict):
        return {}
    return {
        name.removeprefix("module."): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as a safetensors file, whole or not at all."""
    with replacing(path) as beside:
        try:
            save_file(tensors, beside, metadata=metadata)
        except SafetensorError as error:
            # It reports a full disk by an error of its own, and the system's number in its words.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise OSError(str(error)) from error
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def load_matching(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    name: str,
    optional: Callable[[str], bool] = lambda _: False,
    remedy: str = "give the file of the same network and size",
) -> None:
    """Load weights into a network if they are exactly its own.

    Args:
        network: The network.
        state: Its tensors by name.
        source: Where they come from, for messages.
        name: What the network is called in messages.
        optional: Whether a tensor of the network may be missing. Counters of batch norms always
            may: files from before PyTorch 0.4.1 have none.
        remedy: What to do if the weights are those of another network.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape or not finite.
    """
    expected = network.state_dict()
    missing = [
        key
        for key in expected
        if key not in state and not optional(key) and not key.endswith("num_batches_tracked")
    ]
    # Wrong networks show by their names, wrong sizes by shapes: names come first.
    misplaced = missing + [key for key in state if key not in expected]
    problem = f"{source} does not hold the weights of {name}"
    if misplaced:
        raise CheckpointError(f"{problem} (first tensor out of place: {misplaced[0]}); {remedy}")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{problem} ({key} is {list(tensor.shape)} instead of {list(expected[key].shape)});"
                f" {remedy}"
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise CheckpointError(f"{problem} ({key} is stored as {tensor.dtype}); {remedy}")
    # A truncated download or a diverged training shows here, not as NaN in the middle of a run.
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{source} holds values that are not finite (in {key}); download it again"
            )
    network.load_state_dict(state, strict=False)


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def check_unpacked_size(path: Path) -> None:
    """Refuse zip files that unpack to much more than they are.

    PyTorch stores weights as they are, so they unpack to their own size.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > 4 * path.stat().st_size + 2**20:
        raise CheckpointError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB, many times its size; do not trust it,"
            " download the published file"
        )


def _is_torchscript(path: Path) -> bool:
    # PyTorch's zip files are like TorchScript archives, but without constants.
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(
            name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist()
        )


class _Module:
    """Stands for a TorchScript module of any class: its attributes, without its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Reader(pickle.Unpickler):
    """Unpickles a TorchScript object tree without importing any class that the file names."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        # TorchScript compiles classes into the namespace __torch__: these hold the tensors.
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return name  # `persistent_load` gets it as the storage's type
        # Anything else could run code when it is built.
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")

    def persistent_load(self, pid: tuple[str, str, str, str, int]) -> Tensor:
        # A bytearray: tensors must own memory that can be written.
        _, kind, key, _, count = pid
        return torch.frombuffer(
            bytearray(self.archive.read(f"{self.root}/data/{key}")),
            dtype=_DTYPES[kind],
            count=count,
        )


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    view = storage.as_strided(size, stride, offset)
    if view.numel() > storage.numel():
        raise ValueError("a tensor is larger than its data")
    # Cloned, so that a small view does not keep a large storage alive.
    return view.clone()


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        tree = _Reader(archive, pickled.removesuffix("/data.pkl")).load()
    # Names of tensors are the paths of attributes to them, as in a state dict. A module is entered
    # once: in a damaged file, modules may hold each other.
    tensors: dict[str, Tensor] = {}
    waiting, entered = [("", tree)], {id(tree)}
    while waiting:
        prefix, module = waiting.pop()
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
            elif isinstance(value, _Module) and id(value) not in entered:
                entered.add(id(value))
                waiting.append((f"{prefix}{name}.", value))
    return tensors
