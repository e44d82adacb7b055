"""The numbers that networks compute with."""

from __future__ import annotations

import torch


def chosen_precision(name: str, device: torch.device) -> str:
    """A precision by Lightning's name; "auto" is bf16-mixed where `device` computes in bf16."""
    if name != "auto":
        return name
    return "bf16-mixed" if computes_bf16(device) else "32-true"


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16."""
    if device.type == "cuda":
        # Older GPUs emulate bf16 only, which makes nothing faster.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public function for this; where the private one is gone, it is float32.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(supported())


def computing(name: str, device: torch.device) -> torch.autocast:
    """A context in which networks compute with a precision, by Lightning's name or "auto"."""
    mixed = chosen_precision(name, device) == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)
