"""JSON files with long lists, written item by item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Append = Callable[[Any], None]


@contextmanager
def json_list(
    path: Path, key: str = "", before: Mapping[str, Any] | None = None, after: Any = dict
) -> Iterator[Append]:
    """A function that appends to a list in a JSON file, without keeping it.

    Args:
        path: The file.
        key: Of the list in an object; by default the list is all there is.
        before: What stands in the object before the list.
        after: A function that gives what stands behind it, when the block has ended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(_opened(before or {}, key) if key else "[")
        between = "\n"

        def append(item: Any) -> None:
            nonlocal between
            file.write(between + json.dumps(item, ensure_ascii=False))
            between = ",\n"

        yield append
        file.write("\n]")
        if key:
            rest = [f",\n{_pair(name, value)}" for name, value in after().items()]
            file.write("".join(rest) + "\n}")
        file.write("\n")


def _opened(before: Mapping[str, Any], key: str) -> str:
    pairs = "".join(f"{_pair(name, value)},\n" for name, value in before.items())
    return f"{{\n{pairs}{json.dumps(key)}: ["


def _pair(name: str, value: Any) -> str:
    return f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
