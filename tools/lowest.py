"""Print the lower bounds of the package's dependencies as exact versions, a line each.

Run: python tools/lowest.py > lowest.txt
     pip install --constraint lowest.txt --editable . pytest

Covers the core and the extras that are imported by the package; what developers use (linters,
pytest) stays free, because no user installs it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
IMPORTED_EXTRAS = ("track", "data", "geo", "video")


def lowest(project: dict) -> list[str]:
    """The requirements of a `[project]` table as `NAME==LOWER BOUND`.

    Raises:
        SystemExit: A requirement has no lower bound.
    """
    extras = project.get("optional-dependencies", {})
    requirements = [*project["dependencies"]]
    for extra in IMPORTED_EXTRAS:
        requirements += extras.get(extra, [])
    pinned: dict[str, str] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?\s*>=\s*([\w.]+)", requirement)
        if match is None:
            raise SystemExit(f"{requirement!r} has no lower bound; give one as NAME>=VERSION")
        if match[1] in pinned and pinned[match[1]] != match[2]:
            raise SystemExit(f"{match[1]} has two lower bounds; give one")
        pinned[match[1]] = match[2]
    return [f"{name}=={version}" for name, version in sorted(pinned.items())]


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"])))
