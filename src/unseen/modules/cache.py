"""A small store of tables that depend on the image size alone, such as resized positions."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

CACHE_SIZE = 16
"""Tables kept at most; images of many sizes would otherwise fill the memory."""


class TableCache:
    """The last `CACHE_SIZE` tables that were made, by key; the oldest makes room for a new one."""

    def __init__(self) -> None:
        self._tables: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The table stored under `key`, made by `make` the first time.

        A table is made outside of inference mode: a tensor made inside could not take part in a
        later training step.
        """
        if torch.compiler.is_exporting():  # the key is not known yet
            return make()
        if key not in self._tables:
            if len(self._tables) >= CACHE_SIZE:
                self._tables.pop(next(iter(self._tables)))
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = make()
        return self._tables[key]
