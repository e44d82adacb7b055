"""The files of a labelled image, and how its background is treated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Kept apart from `unseen.data.datasets`, so that command lines are checked without importing torch.
Background = Literal["ignore", "class", "threshold", "rest"]
"""How labelled pixels that show none of the classes are treated.

"ignore": they are ignored. "class": the background is a class of the vocabulary. "threshold": it is
scored as a class that has no name to segment by, and is predicted where the confidence of the best
class is too low. "rest": in folds, all that is not the query class is background.
"""


@dataclass(frozen=True)
class Pair:
    """The files of a sample."""

    image: Path
    labels: Path
