"""What the charts are drawn with: pieces of SVG."""

from __future__ import annotations

from collections.abc import Sequence

INK, FAINT, GRID = "#22292e", "#5c676d", "#e3e6e8"


def start(width: int, height: int) -> str:
    """The beginning of a picture with a white ground; `END` ends it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' font-family="sans-serif" font-size="12" fill="{INK}">\n'
        '<rect width="100%" height="100%" fill="#fff"/>'
    )


END = "</svg>"


def text(x: float, y: float, told: str, colour: str = INK, more: str = "") -> str:
    """A line of text.

    Args:
        x: Where it begins.
        y: Its base line.
        told: What it says.
        colour: Of the letters.
        more: Further attributes, such as a weight.
    """
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{more and " " + more}>{told}</text>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled box."""
    size = f'width="{width:.1f}" height="{height}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


def line(
    points: Sequence[tuple[float, float]], colour: str, width: float = 1, *, dashed: bool = False
) -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'
