"""InverseForm's network: the distance of two edge maps, which SAZS's shape loss minimises.

Borse et al. 2021, arXiv 2104.02745.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import read_state_dict
from unseen.errors import CheckpointError

TILES = (3, 6)
"""Rows and columns of tiles that edge maps are cut into, whatever the image's aspect ratio; the
network was trained on Cityscapes, whose images are twice as wide as high."""


class ShapeNetwork(nn.Module):
    """A frozen MLP from two tiles of edges to the four numbers by which they are apart.

    Args:
        tile: Side of a tile; released: 224.
        hidden: Widths of the two hidden layers; released: 1000 and 32.
    """

    def __init__(self, tile: int = 224, hidden: tuple[int, int] = (1000, 32)) -> None:
        super().__init__()
        self.tile = tile
        # Two flattened tiles enter side by side. The name `fc` is that of the released file.
        self.fc = nn.Sequential(
            nn.Linear(2 * tile * tile, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], 4),
        )
        self.requires_grad_(False)

    def tiles(self, maps: Tensor) -> Tensor:
        """Maps (B, h, w), resized and cut into 3 x 6 tiles: (18·B, tile²).

        The B images of a tile are consecutive.
        """
        size = TILES[0] * self.tile, TILES[1] * self.tile
        large = F.interpolate(
            maps.float().unsqueeze(1), size, mode="bilinear", align_corners=False
        )[:, 0]
        cut = large.view(-1, TILES[0], self.tile, TILES[1], self.tile)  # (B, 3, tile, 6, tile)
        return cut.permute(1, 3, 0, 2, 4).flatten(3).flatten(0, 2)  # (3, 6, B, tile²) first

    def forward(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Four numbers for every tile of two edge maps (B, h, w), (18·B, 4)."""
        out: Tensor = self.fc(torch.cat([self.tiles(predicted), self.tiles(true)], dim=1))
        return out


def load_shape_network(file: str) -> ShapeNetwork:
    """The shape network of a file, its sizes read off the shapes.

    Raises:
        CheckpointError: Not such a file.
    """
    # Released files put prefixes before "fc.", and may hold other networks besides.
    state = {
        name[name.index("fc.") :]: tensor
        for name, tensor in read_state_dict(Path(file)).items()
        if "fc." in name
    }
    try:
        # The first layer reads two tiles of tile² pixels.
        hidden, inputs = state["fc.0.weight"].shape
        network = ShapeNetwork(round((inputs // 2) ** 0.5), (hidden, len(state["fc.2.weight"])))
        network.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} does not hold InverseForm's shape network (fc.0, fc.2, fc.4); give"
            " distance_measures_regressor.pth"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise CheckpointError(f"{file} holds values that are not finite; download it again")
    return network
