"""Refinement of label maps and masks by eigen-segments: a mask is replaced by the one it overlaps.

This sees no labels of the data: which segment replaces a mask follows from the prediction alone.
Choices that look at the labels are oracles and belong to `unseen.evaluation.loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unseen.decision import best_rows
from unseen.inference import LabelMaps, output_resize
from unseen.labels import IGNORE, index_to_label
from unseen.score_maps import ScoreMaps
from unseen.segmenter import Segmenter
from unseen.segments.source import SegmentSource, segment_source
from unseen.settings import InferenceSettings


@dataclass(frozen=True)
class SegmentMatch:
    """A segment that replaces the mask of a class.

    Attributes:
        class_id: The label of the class.
        iou: Of segment and mask; where two segments overlap, the one with the higher IoU is kept.
        mask: The segment, (H, W) bool.
    """

    class_id: int
    iou: float
    mask: Tensor


@dataclass(frozen=True)
class SegmentRefiner:
    """Replaces masks by the eigen-segments with the highest IoU with them.

    Attributes:
        source: Where the segments of images come from.
        threshold: The IoU in 0..1 from which a segment replaces a mask.
    """

    source: SegmentSource
    threshold: float

    @classmethod
    def from_settings(
        cls, segmenter: Segmenter, settings: InferenceSettings
    ) -> SegmentRefiner | None:
        """The refinement that the settings ask for; None where they ask for none.

        Raises:
            UnseenError: As `segment_source`.
        """
        # A source may load a second network, which is only needed if there is a refinement.
        if settings.refinement != "segment_iou":
            return None
        return cls(segment_source(segmenter, settings), settings.refinement_threshold)

    def refine(self, maps: LabelMaps, segments: Tensor) -> LabelMaps:
        """Label maps with the masks of their classes replaced.

        Args:
            maps: As `unseen.inference.label_maps` returns them.
            segments: (B, S, H, W) bool, of the same images, by `source`.
        """
        matches = [
            match_segments(labels, candidates, self.threshold)
            for labels, candidates in zip(maps.labels, segments, strict=True)
        ]
        return refine_maps(maps, matches)

    def refine_mask(self, mask: Tensor, segments: Tensor) -> Tensor:
        """A mask (H, W) bool of one class, or the segment (S, H, W) that replaces it."""
        return refine_mask(mask, match_segments(mask.long(), segments, self.threshold))


def match_segments(labels: Tensor, segments: Tensor, threshold: float) -> list[SegmentMatch]:
    """For every class the segment, or complement of one, with the highest IoU with its mask.

    Segments that hold all pixels or none separate nothing and are left out.

    Args:
        labels: (H, W) int64; 255 is no class.
        segments: (S, H, W) bool.
        threshold: Matches of a lower IoU are left out.
    """
    # The sign of an eigenvector is a convention, so its negative part is a segment too.
    candidates = torch.cat([segments, ~segments])
    areas = candidates.flatten(1).sum(dim=1)
    candidates = candidates[(areas > 0) & (areas < labels.numel())]
    if len(candidates) == 0:
        return []
    class_ids, iou = segment_iou(labels, candidates)
    best, index = iou.max(dim=1)
    return [
        SegmentMatch(class_id, value, candidates[k])
        for class_id, value, k in zip(class_ids, best.tolist(), index.tolist(), strict=True)
        if value >= threshold
    ]


def segment_iou(labels: Tensor, segments: Tensor) -> tuple[list[int], Tensor]:
    """The IoU of the mask of every class in a label map with every segment.

    Args:
        labels: (H, W) int64; 255 is no class.
        segments: (S, H, W) bool.

    Returns:
        The labels of the P classes present, and (P, S) float64 on the CPU.
    """
    # Counting the classes' positions inside a segment gives its overlap with all masks at once.
    class_ids, positions, areas = torch.unique(labels, return_inverse=True, return_counts=True)
    intersection = torch.stack(
        [torch.bincount(positions[segment], minlength=len(class_ids)) for segment in segments],
        dim=1,
    )
    union = areas.unsqueeze(1) + segments.flatten(1).sum(dim=1) - intersection
    # Pixels are counted as integers where the maps lie, and divided on the CPU: Apple's GPUs have
    # no double precision, and single precision does not hold the counts of large images.
    iou = intersection.cpu().double() / union.cpu()
    present = class_ids.cpu()
    known = present != IGNORE
    return present[known].tolist(), iou[known]


def refine_maps(maps: LabelMaps, matches: Sequence[list[SegmentMatch]]) -> LabelMaps:
    """Label maps with segments in place of masks (`refine_labels`), given the matches by image."""
    refined = [
        refine_labels(labels, image_matches, maps.scores.image(i), maps.settings, maps.row_labels)
        for i, (labels, image_matches) in enumerate(zip(maps.labels, matches, strict=True))
    ]
    return replace(maps, labels=torch.stack(refined))


def refine_labels(
    labels: Tensor,
    matches: Sequence[SegmentMatch],
    scores: ScoreMaps,
    settings: InferenceSettings,
    row_labels: Tensor | None = None,
) -> Tensor:
    """A label map with segments in place of the masks of the matched classes.

    A pixel of several segments gets the class of the highest IoU. A pixel of a matched class that
    lies in no segment gets the best of the unmatched classes; it keeps its class if all are
    matched.

    Args:
        labels: (H, W) int64.
        matches: At most one of a class.
        scores: Of the image alone (`unseen.inference.score_maps`), for the next best class.
        settings: The settings of the scores.
        row_labels: (K,), the labels of the rows of the scores; by default row i is class i.
    """
    if not matches:
        return labels
    size = (labels.shape[0], labels.shape[1])
    # The best class may be a matched one: scores are compared again without those.
    matched = labels.new_tensor([match.class_id for match in matches])
    class_ids = row_labels
    if class_ids is None:
        class_ids = index_to_label(torch.arange(len(scores), device=labels.device))
    unmatched = torch.isin(class_ids, matched, invert=True)
    # First the matched classes lose all their pixels ...
    if unmatched.any():
        rows = unmatched.nonzero()[:, 0].tolist()
        resize = output_resize(scores, size, settings)
        others = class_ids[best_rows(scores, resize, rows).row[0]]
        labels = torch.where(torch.isin(labels, matched), others, labels)
    # ... then they get those of their segments, the highest IoU last, so that it wins.
    for match in sorted(matches, key=lambda match: match.iou):
        labels = torch.where(match.mask, match.class_id, labels)
    return labels


def refine_mask(mask: Tensor, matches: Sequence[SegmentMatch]) -> Tensor:
    """A mask (H, W) bool, or the segment that matches its inside (label 1)."""
    for match in matches:
        if match.class_id == 1:
            return match.mask
    return mask
