"""Sizes of a CLIP: read off the shapes of its weights, or stored beside them and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unseen.errors import CheckpointError, SettingError
from unseen.settings.ranges import SWITCH, shown, whole


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


# ---------------------------------------------------------------- stored beside them

_SIZE, _LAYERS = whole(1, 2**14), whole(1, 2**8)
VISION = {
    "image_size": _SIZE,
    "patch_size": _SIZE,
    "width": _SIZE,
    "layers": _LAYERS,
    "head_width": _SIZE,
    "no_ln_pre": SWITCH,
}
TEXT = {
    "context_length": _SIZE,
    "vocab_size": whole(1, 2**22),
    "width": _SIZE,
    "heads": _SIZE,
    "layers": _LAYERS,
}
OWN = {"embed_dim": _SIZE, "quick_gelu": SWITCH}
TOWERS = {"vision_cfg": VISION, "text_cfg": TEXT}
"""What a file may say of a CLIP and of its towers."""


def parse_config(stored: str, state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """open_clip's configuration out of a file's header.

    Raises:
        CheckpointError: Not JSON, unknown or impossible sizes, or sizes of another file's weights.
    """
    try:
        config = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise _bad_header(path, "is not JSON") from error
    if not isinstance(config, dict) or "embed_dim" not in config or not config.keys() & TOWERS:
        raise _bad_header(path, f"has no embed_dim or none of {', '.join(TOWERS)}")
    towers = {name: config[name] for name in TOWERS if name in config}
    own = {name: value for name, value in config.items() if name not in towers}
    for name, part in {"": own, **towers}.items():
        table = TOWERS.get(name, OWN)
        if not isinstance(part, dict) or not part.keys() <= table.keys():
            raise _bad_header(
                path, f"has other entries {f'in {name} ' if name else ''}than a CLIP's"
            )
        wrong = next((key for key, value in part.items() if not table[key].holds(value)), None)
        if wrong is not None:
            raise _bad_header(path, f"has {shown(part[wrong])} as {wrong}")
    check_sizes(config, state, path)
    return config


def _bad_header(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"the header of {path} {problem}; give a file that unseen has written")


def check_sizes(config: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a configuration of a much larger network than a file has weights for.

    It would be built before the first tensor is compared.

    Raises:
        CheckpointError: Such a configuration.
    """
    wanted = 0
    for tower in (config.get("vision_cfg", {}), config.get("text_cfg", {})):
        width, layers = tower.get("width", 0), tower.get("layers", 0)
        # Other trunks than ViTs list their layers; open_clip's own architectures are trusted.
        if not isinstance(width, int) or not isinstance(layers, int):
            continue
        # A block has 12 D² weights; rows are those of the tokens and of the patches.
        patches = tower.get("image_size", 0) // (tower.get("patch_size") or 1)
        rows = tower.get("vocab_size", 0) + tower.get("context_length", 0) + patches**2
        wanted += 12 * layers * width**2 + rows * width
    held = sum(tensor.numel() for tensor in state.values())
    if wanted > 2 * held + 2**20:
        raise CheckpointError(
            f"{path} holds {held:,} numbers, too few for the network it is said to be; check the"
            " file and its architecture"
        )


def _layers(state: dict[str, Tensor], start: str) -> int:
    numbers = {name.removeprefix(start).split(".")[0] for name in state if name.startswith(start)}
    # Numbered from 0 without a gap: one name must not ask for a million blocks.
    if not numbers or numbers != set(map(str, range(len(numbers)))):
        raise ValueError(f"a block of {start}")
    return len(numbers)


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
