"""What models cost, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unseen.compared.stored import Group
from unseen.compared.tables import Comparison

HEADS = (
    "model", "parameters", "text tower", "trained", "multiply-adds", "label map", "memory",
)  # fmt: skip


def cost_table(groups: Sequence[Group]) -> Comparison:
    """A row a model: what its reports say it costs; times and memory are means over its seeds."""
    return Comparison(HEADS, tuple((group.title, *_cells_of_seeds(group)) for group in groups))


def _cells_of_seeds(group: Group) -> list[str]:
    costs = [report.told["cost"] for report in group.reports if report.told.get("cost")]
    if not costs:
        return ["-"] * (len(HEADS) - 1)
    means = dict(costs[0])
    for name in ("seconds", "peak_bytes"):
        values = [cost[name] for cost in costs if cost[name] is not None]
        means[name] = statistics.mean(values) if values else None
    return cost_cells(means)


def cost_cells(cost: Mapping[str, Any]) -> list[str]:
    """A row of numbers; a dash for what is not known.

    Args:
        cost: The fields of `unseen.profiling.Cost`, or some of them.
    """
    shown = [
        *((cost.get(name), 1e-6, 1, "M") for name in ("parameters", "text_parameters", "trained")),
        (cost.get("multiply_adds"), 1e-9, 1, "G"),
        (cost.get("seconds"), 1e3, 0, "ms"),
        (cost.get("peak_bytes"), 1e-6, 0, "MB"),
    ]
    return [
        "-" if value is None else f"{value * factor:.{digits}f} {unit}"
        for value, factor, digits, unit in shown
    ]


def measured_at(cost: Mapping[str, Any]) -> str:
    """What a cost was measured at, in words."""
    return (
        f"{cost['size']} x {cost['size']} pixels, {cost['classes']} classes, {cost['device']},"
        f" {cost['threads']} threads, precision {cost['precision']}"
    )
