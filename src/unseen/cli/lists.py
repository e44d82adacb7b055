"""`unseen list`: what there is, and what is known about one method or benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unseen.errors import SettingError
from unseen.methods import METHODS
from unseen.methods.options import nearest

if TYPE_CHECKING:
    from unseen.data.benchmarks import Benchmark

Row = tuple[str, ...]


def list_(what: str = "all", /) -> None:
    """Show what there is, or what is known about one method or benchmark.

    Args:
        what: "methods", "benchmarks", "templates", "class-files" (what released codes put into
            prompts), "clips" (towers open_clip knows), "formats" (of other tools, for label maps)
            or "all" (the first three); or the name of a method, for its options, or of a
            benchmark.
    """
    from unseen.data.benchmarks import BENCHMARKS, folds_of, get_benchmark

    if what in TABLES:
        _print(TABLES[what]())
    elif what == "all":
        for name in ("methods", "benchmarks", "templates"):
            _print(TABLES[name]())
    elif what in METHODS:
        _show_method(what)
    elif folds_of(what) != [what] or what in BENCHMARKS:
        _show_benchmark(get_benchmark(folds_of(what)[0]), folds_of(what))
    else:
        names = [*TABLES, "all", *METHODS, *BENCHMARKS]
        raise SettingError(
            f"there is no list of {what!r}{nearest(what, names)}; choose one of"
            f" {', '.join(TABLES)}, all, or the name of a method or benchmark"
        )


def methods_table() -> list[Row]:
    """One row a method, below a row of heads."""
    rows = [
        (name, "yes" if method.trainable else "no", method.summary)
        for name, method in METHODS.items()
    ]
    return [("method", "trained", "what it is"), *rows]


def benchmarks_table() -> list[Row]:
    """One row a benchmark, folds together, below a row of heads."""
    from unseen.data.benchmarks import families

    rows = []
    for name, parts in families().items():
        unseen = _range(len(part.unseen) for part in parts)
        if parts[0].episodes:
            unseen += " a fold"
        rows.append((name, str(len(parts[0].class_names)), unseen, parts[0].summary))
    return [("benchmark", "classes", "unseen", "what it is"), *rows]


def templates_table() -> list[Row]:
    """One row a set of templates, below a row of heads."""
    from unseen.backbones.clip.templates import OWN

    rows = [(name, str(len(prompts)), prompts[0]) for name, prompts in OWN.items()]
    # Those of the CLIP paper come with open_clip, which takes seconds to import.
    return [("templates", "prompts", "first"), *rows, ("imagenet", "80", "those of the CLIP paper")]


def clips_table() -> list[Row]:
    """One row a tower that open_clip can fetch, below a row of heads."""
    from unseen.backbones.clip.loading import known_sources

    return [("clip",), *((name,) for name in known_sources())]


def class_files_table() -> list[Row]:
    """One row a class file that comes with the package."""
    from unseen.vocabulary import known_class_files

    rows = [
        (name, str(len(lines)), ", ".join(lines[0][:3]))
        for name, lines in known_class_files().items()
    ]
    return [("class file", "classes", "first"), *rows]


def formats_table() -> list[Row]:
    """One row a format of `unseen export-labels`."""
    from unseen.exports.formats import FORMATS

    return [("format", "what it is"), *((name, each.summary) for name, each in FORMATS.items())]


TABLES: dict[str, Callable[[], list[Row]]] = {
    "methods": methods_table,
    "benchmarks": benchmarks_table,
    "templates": templates_table,
    "class-files": class_files_table,
    "clips": clips_table,
    "formats": formats_table,
}


def _show_method(name: str) -> None:
    """Print a method's options with defaults and documentation; imports the method, and torch."""
    from unseen.cli.flags import write_value

    method = METHODS[name]
    rows = [
        (option.name, write_value(option.default), option.doc) for option in method.choices.values()
    ]
    trained = "has to be trained" if method.trainable else "without training"
    _print([(name, f"{method.summary} ({trained})")])
    _print([("option", "default", "what it is"), *rows])


def _show_benchmark(bench: Benchmark, parts: Sequence[str]) -> None:
    """Print what a benchmark fixes."""
    about: dict[str, Any] = {
        "classes": f"{len(bench.class_names)}: {', '.join(bench.class_names)}",
        "unseen": f"{len(bench.unseen)}: {', '.join(bench.unseen)}",
        "templates": bench.templates,
        "background": bench.background,
        **bench.protocol,
    }
    if len(parts) > 1:
        about["parts"] = ", ".join(parts)
    _print([(parts[0] if len(parts) == 1 else bench.base, bench.summary), *about.items()])


def _range(counts: Iterable[int]) -> str:
    ordered = sorted(counts)
    if ordered[0] == ordered[-1]:
        return str(ordered[0])
    return f"{ordered[0]}..{ordered[-1]}"


def _print(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, header_style="bold", pad_edge=False)
    for row in rows[1:]:
        table.add_row(*row)
    Console(markup=False).print(table, "")
