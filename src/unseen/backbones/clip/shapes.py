"""Sizes of a CLIP, read off the shapes of its weights in OpenAI's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from unseen.errors import CheckpointError, SettingError


def config_from_shapes(
    state: dict[str, Tensor],
    *,
    path: Path | str,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> dict[str, Any]:
    """open_clip's configuration of a ViT CLIP with QuickGELU, as OpenAI's are.

    Args:
        state: The weights, in OpenAI's names.
        path: For messages.
        vision_heads: Of the image tower; by default as many as have 64 channels each.
        text_heads: Of the text tower, likewise.

    Raises:
        CheckpointError: The names are not those of a ViT CLIP.
        SettingError: Heads that do not divide a width.
    """
    try:
        width, _, _, patch = state["visual.conv1.weight"].shape
        # The position table has one row for each patch and one for the class token.
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        layers = _layers(state, "visual.transformer.resblocks.")
        vision = {"image_size": side * patch, "patch_size": patch, "width": width, "layers": layers}
        state["visual.proj"]  # a ViT without a projection is no CLIP's
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not hold a ViT CLIP in OpenAI's names ({_first_line(error)} is missing or"
            " has another shape); give a ViT file"
        ) from error
    # Heads leave no trace in the shapes; all of OpenAI's ViTs have heads of 64 channels.
    vision["head_width"] = min(64, width)
    if vision_heads is not None:
        vision["head_width"] = width // _checked_heads("vision_heads", vision_heads, width)
    return {
        **text_config_from_shapes(state, path=path, text_heads=text_heads),
        "vision_cfg": vision,
    }


def text_config_from_shapes(
    state: dict[str, Tensor], *, path: Path | str, text_heads: int | None = None
) -> dict[str, Any]:
    """The part of open_clip's configuration that describes the text tower.

    Arguments and errors are those of `config_from_shapes`.
    """
    try:
        context, width = state["positional_embedding"].shape
        layers = _layers(state, "transformer.resblocks.")
        text = {
            "context_length": context,
            "vocab_size": len(state["token_embedding.weight"]),
            "width": width,
            "layers": layers,
        }
        embed_dim = state["text_projection"].shape[1]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not hold CLIP's text tower in OpenAI's names ({_first_line(error)} is"
            " missing or has another shape); give another file"
        ) from error
    heads = max(1, width // 64)
    if text_heads is not None:
        heads = _checked_heads("text_heads", text_heads, width)
    return {"embed_dim": embed_dim, "text_cfg": {**text, "heads": heads}, "quick_gelu": True}


def _layers(state: dict[str, Tensor], start: str) -> int:
    # Blocks are numbered from 0. `max` of nothing is a ValueError: no block has this prefix.
    return 1 + max(
        int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start)
    )


def _checked_heads(name: str, given: int, channels: int) -> int:
    if given < 1 or channels % given:
        raise SettingError(
            f"{name} is {given}, which does not divide the {channels} channels of that tower; give"
            " a divisor"
        )
    return given


def _first_line(error: Exception) -> str:
    # A KeyError's text is the missing name, which is what the user needs to see.
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0]
