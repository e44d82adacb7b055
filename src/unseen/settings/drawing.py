"""How label maps are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from unseen.settings.ranges import check_ranges, number, text, whole


@dataclass(frozen=True)
class DrawSettings:
    """How label maps are drawn over images.

    Attributes:
        palette: Colours of the classes: "safe" (for colour-blind eyes too), "voc" (those of PASCAL
            VOC's classes), or a text file with a line a class: #rrggbb, or its name and #rrggbb.
        alpha: Strength of the colours over the image, in 0..1.
        contour: Width of the dark line where two classes meet, in pixels; 0 for none, by default
            one pixel and one more for each 2000 of the longer side.
    """

    palette: str = "safe"
    alpha: float = 0.7
    contour: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            SettingError: Names the first.
        """
        check_ranges(self, "", DRAW_RANGES)

    def contour_of(self, size: tuple[int, ...]) -> int:
        """Width of the line in an image of a size."""
        return 1 + max(size) // 2000 if self.contour is None else self.contour


DRAW_RANGES = {
    "palette": text(),
    "alpha": number(0, 1),
    "contour": whole(0, 100).or_none(),
}
