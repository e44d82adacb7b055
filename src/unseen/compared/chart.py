"""The scores of models as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from unseen.charts import bar_chart, save_chart
from unseen.compared.stored import Group
from unseen.compared.tables import HEADS, mean_of_seeds, shown_scores


def draw(groups: Sequence[Group], path: Path, flag: str) -> None:
    """A group of bars for each score, a bar a model, with the standard deviation over its seeds.

    Args:
        groups: The models.
        path: A PNG.
        flag: The flag that names it, for messages.
    """
    names = shown_scores(groups)
    bars = {}
    for group in groups:
        made = [
            mean_of_seeds([report.scores.get(name, math.nan) for report in group.reports])
            for name in names
        ]
        bars[group.title] = ([mean for mean, _ in made], [spread or 0.0 for _, spread in made])
    save_chart(bar_chart(bars, [HEADS[name] for name in names], "%"), path, flag=flag)
