"""Targets of the loss, made from the labels of a data set according to the regime."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unseen.labels import BACKGROUND, IGNORE, PADDING, subset_lookup
from unseen.segmenter import Prediction
from unseen.settings import Regime


def targets_of(
    labels: Tensor,
    prediction: Prediction,
    *,
    regime: Regime,
    seen: Sequence[int],
    unseen: Sequence[int],
    pseudo_label_ignored: bool = False,
) -> Tensor:
    """Targets (B, H, W) made from the labels of a data set, which are left unchanged.

    inductive: class ids become indices among the seen classes; every other pixel is ignored.
    supervised: ids as they are. transductive: pixels of unseen classes get the unseen class that
    the network itself scores highest there in this forward pass; their true class is never used
    (ZegCLIP §3.4, the variant marked with a dagger).

    Args:
        labels: Ids of the whole vocabulary; 255 ignored, 254 padding, 253 background (ignored by
            methods that score all classes at once).
        prediction: Of this step; over the seen classes (inductive) or the whole vocabulary.
        regime: See above.
        seen: Ids of the seen classes.
        unseen: Ids of the unseen classes.
        pseudo_label_ignored: Transductive: give ignored pixels pseudo labels as well, but not
            padding (the variant without dagger).
    """
    # Prediction and targets of an inductive step know the seen classes alone, by their index.
    if regime == "inductive":
        return subset_lookup(seen).to(labels.device)[labels]
    special = (labels == PADDING) | (labels == BACKGROUND)
    targets = torch.where(special, IGNORE, labels)
    if regime == "supervised":
        return targets
    # Transductive: which pixels are unseen is known from their label; which class they are is not.
    ids = torch.as_tensor(unseen, device=labels.device)
    guessed = torch.isin(labels, ids)
    if pseudo_label_ignored:
        guessed = guessed | (labels == IGNORE)
    # Without gradients: a pseudo label is a target, not a quantity to be trained. Seen classes are
    # left out of the competition.
    among_unseen = Prediction(prediction.logits.detach()[:, list(unseen)], prediction.padded_size)
    logits = among_unseen.resized((labels.shape[-2], labels.shape[-1]))
    return torch.where(guessed, ids[logits.argmax(dim=1)], targets)
