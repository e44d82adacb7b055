"""Fingerprints of networks: two with the same one compute the same features."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn


def network_fingerprint(network: nn.Module, *further: Tensor) -> str:
    """A hash of every tensor, by name, in float32, and of the activations between them.

    Args:
        network: Its parameters and persistent buffers are hashed.
        further: Tensors that belong to the features but not to the network's state.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    # Towers with GELU and with QuickGELU may hold equal tensors and compute different features.
    for name, module in network.named_modules():
        if not list(module.children()) and not list(module.parameters()):
            digest.update(f"{name} {type(module).__name__}".encode())
    # In float32, so that a network stored in half precision and one converted from it are equal.
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes_of(tensor))
    for tensor in further:
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:16]


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().float().cpu().contiguous().numpy().data
