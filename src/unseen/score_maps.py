"""Score maps, computed where they are looked at.

What a method returns is small. At the size of an image, or only of what the network saw, the maps
of all classes together take gigabytes with a large vocabulary; any part of them is computed when it
is needed, for the classes that it is needed of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from unseen.modules.resize import linear_weights
from unseen.segmenter import Prediction

Range = tuple[int, int]
"""From, to; without the last."""
Score = Callable[[Tensor, Sequence[int] | None], Tensor]
"""From logits (B, K, …), and the rows of classes whose scores are reduced, to scores."""


@dataclass(frozen=True)
class Side:
    """How values along one side of maps are resized.

    Attributes:
        length: How many there are then.
        full: How many there were before the last ones were cut off.
        weights: (new, old), the share of each old value in each new one; None where the values stay
            as they are.
    """

    length: int
    full: int
    weights: Tensor | None = None

    @classmethod
    def resized(
        cls, old: int, new: int, device: torch.device, *, align_corners: bool = False
    ) -> Side:
        """A side of `old` values resized to `new` ones by linear interpolation."""
        if old == new:
            return cls(new, new)
        return cls(new, new, linear_weights(old, new, device, align_corners=align_corners))

    def cut(self, length: int) -> Side:
        """The side without what comes after the first `length` values."""
        return Side(length, self.full, None if self.weights is None else self.weights[:length])

    @cached_property
    def _sources(self) -> tuple[list[int], list[int]]:
        """By new value, the first and last old value with a share."""
        assert self.weights is not None
        used = (self.weights > 0).to(torch.int8)
        last = used.shape[1] - 1 - used.flip(1).argmax(dim=1)
        return used.argmax(dim=1).tolist(), last.tolist()

    def sources(self, part: Range) -> Range:
        """The old values that some of the new ones are made of."""
        if self.weights is None:
            return part
        first, last = self._sources
        return first[part[0]], last[part[1] - 1] + 1

    def shares(self, part: Range) -> Tensor | None:
        """The weights of some of the new values, over their sources."""
        if self.weights is None:
            return None
        old = self.sources(part)
        return self.weights[part[0] : part[1], old[0] : old[1]]


@dataclass(frozen=True)
class Box:
    """A part of maps: some rows and columns of pixels."""

    rows: Range
    columns: Range

    @property
    def index(self) -> tuple[slice, slice]:
        """To take it out of maps, after an ellipsis."""
        return slice(*self.rows), slice(*self.columns)


@dataclass(frozen=True)
class Resize:
    """How maps are resized, by bilinear interpolation as `F.interpolate` does it.

    Attributes:
        rows, columns: Of the resized maps.
        align_corners: Whether the first and last values lie on the first and last pixel.
    """

    rows: Side
    columns: Side
    align_corners: bool = False

    @classmethod
    def between(
        cls,
        old: tuple[int, int],
        new: tuple[int, int],
        device: torch.device,
        *,
        align_corners: bool = False,
    ) -> Resize:
        """From one size to another."""
        rows, columns = (
            Side.resized(before, after, device, align_corners=align_corners)
            for before, after in zip(old, new, strict=True)
        )
        return cls(rows, columns, align_corners)

    @classmethod
    def none(cls, size: tuple[int, int]) -> Resize:
        """Maps of this size stay as they are."""
        return cls(Side(size[0], size[0]), Side(size[1], size[1]))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the resized maps."""
        return self.rows.length, self.columns.length

    @property
    def is_none(self) -> bool:
        """Whether values stay as they are."""
        return self.rows.weights is None and self.columns.weights is None

    def cut(self, size: tuple[int, int]) -> Resize:
        """Without what comes after the first rows and columns."""
        return replace(self, rows=self.rows.cut(size[0]), columns=self.columns.cut(size[1]))

    def sources(self, box: Box) -> Box:
        """The part that a part of the resized maps is made of."""
        return Box(self.rows.sources(box.rows), self.columns.sources(box.columns))

    def apply(self, maps: Tensor, box: Box) -> Tensor:
        """A part of the resized maps, from its sources (…, h, w)."""
        rows, columns = self.rows.shares(box.rows), self.columns.shares(box.columns)
        # In float32, whatever the caller computes in.
        with torch.autocast(maps.device.type, enabled=False):
            if columns is not None:
                maps = maps @ columns.mT
            return maps if rows is None else rows @ maps

    def whole(self, maps: Tensor) -> Tensor:
        """All of the resized maps, from (B, K, h, w)."""
        full = (self.rows.full, self.columns.full)
        if maps.shape[-2:] != full:
            maps = F.interpolate(maps, full, mode="bilinear", align_corners=self.align_corners)
        return maps[..., : self.rows.length, : self.columns.length]


@dataclass(frozen=True)
class Place:
    """What the method returned for a part of every image: a window, or the whole image.

    Attributes:
        logits: (B, K, gh, gw) float32, at the method's own size.
        resize: To the pixels of the part.
        top, left: Where the part begins.
    """

    logits: Tensor
    resize: Resize
    top: int = 0
    left: int = 0

    @classmethod
    def of(
        cls, prediction: Prediction, size: tuple[int, int], corner: tuple[int, int] = (0, 0)
    ) -> Place:
        """A prediction for a part of so many pixels; the padding is cut off."""
        logits = prediction.logits.float()
        old = (logits.shape[-2], logits.shape[-1])
        resize = Resize.between(
            old,
            prediction.padded_size,
            logits.device,
            align_corners=prediction.align_corners,
        )
        return cls(logits, resize.cut(size), *corner)

    @classmethod
    def unresized(cls, prediction: Prediction) -> Place:
        """A prediction whose maps stay as small as they are."""
        logits = prediction.logits.float()
        return cls(logits, Resize.none((logits.shape[-2], logits.shape[-1])))

    def overlap(self, box: Box) -> tuple[Box, Box] | None:
        """What the place and a part of the maps share: in pixels of the place, and of the part."""
        sides = []
        for part, start, side in (
            (box.rows, self.top, self.resize.rows),
            (box.columns, self.left, self.resize.columns),
        ):
            first, end = max(part[0], start), min(part[1], start + side.length)
            if first >= end:
                return None
            sides.append(((first - start, end - start), (first - part[0], end - part[0])))
        (rows, rows_there), (columns, columns_there) = sides
        return Box(rows, columns), Box(rows_there, columns_there)

    def logits_of(self, box: Box) -> Tensor:
        """The logits (B, K, …) that a part of the place is made of."""
        rows, columns = self.resize.sources(box).index
        return self.logits[..., rows, columns]


@dataclass(frozen=True)
class ScoreMaps:
    """The scores of all rows of the text on the pixels of the resized images.

    Where places overlap, scores are the mean over the places.

    Attributes:
        places: Together they cover the images.
        size: Height and width of the maps.
        score: Makes scores of logits (`Segmenter.scores`).
        seen: The rows whose scores are reduced; None for none.
        classwise: Whether a score depends on its own class's logit alone and grows with it
            (`Segmenter.classwise`).
    """

    places: tuple[Place, ...]
    size: tuple[int, int]
    score: Score
    seen: tuple[int, ...] | None = None
    classwise: bool = False

    def __len__(self) -> int:
        """The number of rows, K."""
        return self.places[0].logits.shape[1]

    @property
    def device(self) -> torch.device:
        """Where they are computed."""
        return self.places[0].logits.device

    @property
    def batch(self) -> int:
        """The number of images, B."""
        return len(self.places[0].logits)

    @property
    def everything(self) -> Box:
        """All pixels."""
        return Box((0, self.size[0]), (0, self.size[1]))

    def image(self, index: int) -> ScoreMaps:
        """The maps of one image."""
        one = slice(index, index + 1)
        places = [replace(place, logits=place.logits[one]) for place in self.places]
        return replace(self, places=tuple(places))

    def part(self, box: Box, rows: Sequence[int] | None = None) -> Tensor:
        """Scores (B, K', …) of some of the rows on a part of the pixels; of all rows by default."""
        index: slice | Tensor
        if rows is None or len(rows) == len(self):
            index, seen = slice(None), self.seen
        elif self.classwise:
            index, seen = torch.tensor(rows, device=self.device), self._seen_among(rows)
        else:
            return self.part(box)[:, list(rows)]
        inside: list[tuple[Tensor, Box]] = []
        for place in self.places:
            both = place.overlap(box)
            if both is not None:
                logits = place.resize.apply(place.logits_of(both[0])[:, index], both[0])
                inside.append((self.score(logits, seen), both[1]))
        if len(inside) == 1:
            return inside[0][0]
        return self._mean(inside, box)

    def _mean(self, inside: list[tuple[Tensor, Box]], box: Box) -> Tensor:
        """Scores of a part of the pixels where several places overlap."""
        height, width = (end - start for start, end in (box.rows, box.columns))
        scores = inside[0][0]
        total = scores.new_zeros(*scores.shape[:2], height, width)
        count = scores.new_zeros(height, width)
        for scores, there in inside:
            total[(..., *there.index)] += scores
            count[there.index] += 1
        return total.div_(count)

    def _seen_among(self, rows: Sequence[int]) -> tuple[int, ...] | None:
        """Where the rows lie whose scores are reduced, among some of the rows."""
        if self.seen is None:
            return None
        reduced = set(self.seen)
        return tuple(place for place, row in enumerate(rows) if row in reduced)

    def whole(self, rows: Sequence[int] | None = None) -> Tensor:
        """Scores (B, K', h, w) of some of the rows on all pixels; of all rows by default."""
        return self.part(self.everything, rows)

    def contenders(self, box: Box, rows: Sequence[int]) -> list[int]:
        """The rows that can be the best somewhere in a part of the first image, in their order.

        Interpolated scores lie between those of the logits that they are made of: a row whose
        highest is below the lowest of another loses everywhere. For `classwise` maps.

        Args:
            box: The part.
            rows: Those to compare.
        """
        highs, lows = [], []
        for place in self.places:
            both = place.overlap(box)
            if both is not None:
                logits = place.logits_of(both[0])[:1]
                low, high = logits.amin(dim=(2, 3)), logits.amax(dim=(2, 3))
                lows.append(self.score(low, self.seen)[0])
                highs.append(self.score(high, self.seen)[0])
        low, high = torch.stack(lows).amin(dim=0), torch.stack(highs).amax(dim=0)
        if len(rows) < len(self):
            index = torch.tensor(rows, device=self.device)
            low, high = low[index], high[index]
        # Said so that what is no number stays among them.
        few: list[int] = (~(high < low.max())).nonzero()[:, 0].tolist()
        return [rows[i] for i in few]
