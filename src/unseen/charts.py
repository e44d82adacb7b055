"""Charts, drawn by matplotlib, which is imported when the first one is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unseen.files import about, replacing
from unseen.palettes import colours

Points = tuple[Sequence[float], Sequence[float]]
"""The places of a line along both axes."""
GREY = "#6e747d"


def line_charts(panels: Mapping[str, Mapping[str, Points]], across: str) -> Any:
    """A figure with a panel under the other, each with lines by name.

    Args:
        panels: By what their upward axis shows: lines by name; one panel with one line has no
            legend.
        across: What their common axis shows.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (up, lines) in zip(axes, panels.items(), strict=True):
        table = colours(len(lines))
        for (name, (places, values)), colour in zip(lines.items(), table, strict=True):
            shown = tuple(channel / 255 for channel in colour)
            mark = "o" if len(places) < 2 else ""
            axis.plot(places, values, label=name, color=shown, linewidth=1.6, marker=mark)
        axis.set_ylabel(up)
        _plain(axis)
        if len(lines) > 1:
            axis.legend(frameon=False, fontsize=9)
    axes[-1].set_xlabel(across)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def bar_chart(bars: Mapping[str, Points], places: Sequence[str], up: str) -> Any:
    """A figure with a group of bars at every place, one of each name.

    Args:
        bars: By name, the heights and how far they reach up and down from there.
        places: What the groups are.
        up: What the upward axis shows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 1.6 * len(places) + 2), 4), layout="constrained")
    axis, width = figure.subplots(), 0.8 / len(bars)
    for place, ((name, (heights, spreads)), colour) in enumerate(
        zip(bars.items(), colours(len(bars)), strict=True)
    ):
        shown = tuple(channel / 255 for channel in colour)
        lefts = [group + (place - (len(bars) - 1) / 2) * width for group in range(len(places))]
        reach = list(spreads) if any(spreads) else None
        axis.bar(lefts, heights, 0.9 * width, label=name, color=shown, yerr=reach, ecolor=GREY)
    axis.set_xticks(range(len(places)), places)
    axis.set_ylabel(up)
    _plain(axis)
    if len(bars) > 1:
        axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _plain(axis: Any) -> None:
    """Few lines, in grey."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=GREY, labelsize=9)


def save_chart(figure: Any, path: Path, flag: str = "--out", *, ours: bool = False) -> None:
    """Write a figure as a PNG with the program's mark, whole or not at all.

    Args:
        figure: Of matplotlib.
        path: Its place.
        flag: The flag that chooses another place, for the message.
        ours: Whether a file that has the name is known to be the program's own.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": about()})
    with replacing(path, flag, ours=ours) as beside:
        beside.write_bytes(content.getvalue())
