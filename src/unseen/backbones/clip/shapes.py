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
    """open_clip's configuration of a ViT CLIP with QuickGELU, read off a state dict in OpenAI's
    names; heads of 64 channels unless given.

    Raises:
        CheckpointError: The names are not those of a ViT CLIP.
        SettingError: Heads that do not divide a width.
    """
    try:
        width, _, _, patch = state["visual.conv1.weight"].shape
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        layers = _layers(state, "visual.transformer.resblocks.")
        vision = {"image_size": side * patch, "patch_size": patch, "width": width, "layers": layers}
        state["visual.proj"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not hold a ViT CLIP in OpenAI's names ({_first_line(error)} is missing or"
            " odd); give a ViT file"
        ) from error
    vision["head_width"] = (
        width // _checked_heads("vision_heads", vision_heads, width)
        if vision_heads is not None
        else min(64, width)
    )
    return {
        **text_config_from_shapes(state, path=path, text_heads=text_heads),
        "vision_cfg": vision,
    }


def text_config_from_shapes(
    state: dict[str, Tensor], *, path: Path | str, text_heads: int | None = None
) -> dict[str, Any]:
    """The part of open_clip's configuration that says what the text tower is; as
    `config_from_shapes`.
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
            " missing or odd); give another file"
        ) from error
    heads = (
        max(1, width // 64)
        if text_heads is None
        else _checked_heads("text_heads", text_heads, width)
    )
    return {"embed_dim": embed_dim, "text_cfg": {**text, "heads": heads}, "quick_gelu": True}


def _layers(state: dict[str, Tensor], start: str) -> int:
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
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
