"""What models cost, as tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unseen.compared.stored import Group
from unseen.compared.tables import Cell, Comparison, Number

HEADS = (
    "model", "parameters", "text tower", "trained", "multiply-adds", "memory", "label map",
)  # fmt: skip


def cost_table(groups: Sequence[Group]) -> Comparison:
    """A row a model: what its reports say it costs, and at what; times are means over its seeds."""
    rows = tuple((group.title, *_cells_of_seeds(group)) for group in groups)
    return Comparison((*HEADS, "measured at"), rows)


def _cells_of_seeds(group: Group) -> list[Cell]:
    """A row; of seeds that were measured in different ways there are no means."""
    costs = [report.told["cost"] for report in group.reports if report.told.get("cost")]
    if not costs:
        return ["-"] * len(HEADS)
    told = {measured_at(cost) for cost in costs}
    if len(told) > 1:
        counted = {
            name: costs[0].get(name) for name in ("parameters", "text_parameters", "trained")
        }
        return [*cost_cells(counted), "different"]
    mean = {**costs[0], "seconds": statistics.mean(cost["seconds"] for cost in costs)}
    return [*cost_cells(mean), *told]


def cost_cells(cost: Mapping[str, Any]) -> list[Cell]:
    """A row of numbers; a dash for what is not known.

    Args:
        cost: The fields of `unseen.profiling.Cost`, or some of them.
    """
    units = {
        "parameters": (1e-6, 1, "M"),
        "text_parameters": (1e-6, 1, "M"),
        "trained": (1e-6, 1, "M"),
        "multiply_adds": (1e-9, 1, "G"),
        "peak_bytes": (1e-6, 0, "MB"),
        "seconds": (1e3, 0, "ms"),
    }
    return [Number(cost.get(name, math.nan), None, *unit) for name, unit in units.items()]


def measured_at(cost: Mapping[str, Any]) -> str:
    """What a cost was measured at, in words."""
    threads = (
        f", {cost['threads']} thread{'s' * (cost['threads'] != 1)}"
        if cost["device"] == "cpu"
        else ""
    )
    return (
        f"{cost['size']} x {cost['size']} pixels, {cost['classes']} classes,"
        f" {cost['device']}{threads}, {cost['precision']}"
    )
