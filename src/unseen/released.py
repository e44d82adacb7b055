"""How a method's released code names the tensors of its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Names = Sequence[tuple[str, str]]
"""Patterns of released names, and ours for what matches."""


@dataclass(frozen=True)
class Released:
    """A released checkpoint.

    Attributes:
        mark: Start of a name that tells the checkpoint from those of other kinds.
        names: Patterns of released names and ours; the first that matches a whole name counts.
            `LAST` stands for the number of the decoder's last layer.
        options: Options of the method, read off the shapes of the tensors.
        towers: Prefixes of image and text tower; None in place of an image tower that is missing or
            without influence.
        tower: The CLIP it was trained with, where the checkpoint holds no tower.
        unused: Pattern of tensors that never influenced the released output. `LAST` as above;
            `USED` stands for the numbers of the image blocks that count.
        folds: It was trained on folds, with one query class an image.
    """

    mark: str
    names: Names
    options: Callable[[dict[str, Tensor]], dict[str, Any]]
    towers: tuple[str | None, str] | None = None
    tower: str | None = None
    unused: str = ""
    folds: bool = False


def rename(name: str, names: Names, last: str = "") -> str:
    """Our name of a released tensor; its own where no pattern matches.

    Args:
        name: The released name.
        names: Of the method.
        last: What `LAST` in the patterns stands for.
    """
    # In order: later patterns are more general.
    for pattern, ours in names:
        match = re.fullmatch(pattern.replace("LAST", last), name)
        if match:
            return match.expand(ours)
    return name


def count_layers(state: dict[str, Tensor], prefix: str) -> int:
    """Layers whose tensors are called PREFIX0..., PREFIX1..., ...; 0 if there are none."""
    numbers = [
        int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)
    ]
    return 1 + max(numbers, default=-1)


# ---------------------------------------------------- ZegCLIP and the codes built on it

MMSEG_NAMES: Names = (
    (r"backbone\.(prompt_embeddings|deep_prompt_embeddings|prompt_proj\..*)", r"prompts.\1"),
    (r"backbone\.(prompt_norm\..*)", r"\1"),
    (r"backbone\.region_level_bridge", r"bridge.tokens"),
    (r"backbone\.(.*)", r"clip.visual.\1"),
    (r"text_encoder\.(.*)", r"clip.text.\1"),
)
"""Prompts and towers."""
UNUSED_IN_LAYER = r"(self_attn|norm1)\..*"
"""Parts of a decoder layer that its forward pass skips."""
USED_OF_LAST = r"multihead_attn\.[qk]\..*"
"""Parts of the last decoder layer that reach the maps."""


def prompt_options(state: dict[str, Tensor]) -> dict[str, Any]:
    """Number and depth of the visual prompts.

    The position table has been resized to the training grid already.
    """
    # Shallow prompts have no table for later blocks.
    deep = state.get("backbone.deep_prompt_embeddings")
    return {
        "num_prompts": state["backbone.prompt_embeddings"].shape[1],
        "prompt_depth": 1 if deep is None else 1 + len(deep),
        "train_grid": None,
    }


def decoder_options(
    state: dict[str, Tensor], decoder: str = "decode_head.decoder_1"
) -> dict[str, Any]:
    """Prompts, and number and width of the layers of a decoder, by its name."""
    hidden = state[f"{decoder}.layers.0.linear1.weight"].shape[0]
    layers = count_layers(state, f"{decoder}.layers.")
    return {**prompt_options(state), "decoder_layers": layers, "hidden_dim": hidden}


LIKE_ZEGCLIP = Released(
    mark="decode_head.decoder_1.",
    towers=("backbone.", "text_encoder."),
    names=(
        *MMSEG_NAMES,
        (r"decode_head\.(q_proj\..*)", r"descriptor.\1"),
        (r"decode_head\.decoder_1\.layers\.LAST\.multihead_attn\.([qk]\..*)", r"decoder.\1"),
        (r"decode_head\.decoder_1\.(layers\..*)", r"decoder.\1"),
    ),
    unused=rf"decode_head\.(decoder_1\.layers\.(\d+\.{UNUSED_IN_LAYER}"
    rf"|LAST\.(?!{USED_OF_LAST}).*)|loss_decode\..*)",
    options=decoder_options,
)
"""Checkpoints of ZegCLIP, and of OTSeg, whose tensors have the same names and shapes."""
