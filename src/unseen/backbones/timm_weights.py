"""Networks of timm with their weights, which come from the hub."""

from __future__ import annotations

from typing import Any

import timm

from unseen.backbones.hub import load_from_hub


def create_from_timm(name: str, **options: Any) -> Any:
    """A network of timm with its weights.

    Args:
        name: timm's, with or without a tag.
        options: As for `timm.create_model`.

    Raises:
        CheckpointError: The weights cannot be had.
        RuntimeError: timm has no such weights.
    """

    def load() -> Any:
        return timm.create_model(name, pretrained=True, **options)

    about = timm.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None
    if about is None or not about.hf_hub_id:
        return load()
    repo, _, revision = about.hf_hub_id.partition("@")
    names = [about.hf_hub_filename or "pytorch_model.bin"]
    if about.hf_hub_filename is None:
        names = ["model.safetensors", *names]
    return load_from_hub(repo, names, f"timm's {name}", load, revision or None)
