"""CLIP-RC: regional clues for zero-shot segmentation on a frozen CLIP.

Zhang et al., CVPR 2024, pp. 3270-3280. ZegCLIP with the image seen in parts: beside the patches run
R region tokens on a lattice, each of which sees its own patches alone (the *region-level bridge*).
A class has one query a region, [(Γ_j + g) ⊙ t ; t]; queries and patches then attend to each other
in two parallel stacks, and the logits of a class are the dot products of its queries, averaged over
regions, with the patches. While training, a *recovery decoder* must reconstruct what queries and
patches were before.

The released code differs from sound practice in a few places, collected in `CLIPRCQuirks`; the
defaults are what we found right. `docs/methods/clip_rc.md` lists them with numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.tower import CLIP
from unseen.errors import SettingError
from unseen.modules.cache import TableCache
from unseen.modules.decoders import DecoderLayer, DecoderSizes, start_as_identity
from unseen.modules.queries import relationship
from unseen.modules.regions import region_mask, regions_of
from unseen.prompted_segmenter import (
    RELEASED_PROMPTED,
    PromptedOptions,
    PromptedQuirks,
    PromptedSegmenter,
)
from unseen.released import MMSEG_NAMES, UNUSED_IN_LAYER, Released, count_layers, prompt_options
from unseen.segmenter import Prediction, TextFeatures


class RegionLevelBridge(nn.Module):
    """R region tokens and the mask that binds each to its patches.

    Args:
        clip: Gives the tokens their first value, class embedding plus its position.
        lattice: Regions down and across.
        trainable: Whether the tokens are trained.
        whole_cells: `regions_of`.
    """

    def __init__(
        self, clip: CLIP, lattice: tuple[int, int], *, trainable: bool, whole_cells: bool
    ) -> None:
        super().__init__()
        self.lattice, self.count, self.whole_cells = lattice, lattice[0] * lattice[1], whole_cells
        first = clip.visual.class_embedding + clip.visual.positional_embedding[0]
        # A region starts as a second class token, which the tower knows how to use.
        self.tokens = nn.Parameter(first.detach().repeat(self.count, 1), requires_grad=trainable)
        self._masks = TableCache()

    def mask(self, grid: tuple[int, int], front: int, device: torch.device) -> Tensor:
        """The attention mask (T, T) of tokens [front | patches | regions] (`region_mask`)."""

        def make() -> Tensor:
            owner = regions_of(grid, self.lattice, whole_cells=self.whole_cells)
            return region_mask(front, owner, self.count).to(device)

        return self._masks.get((grid, front, device), make)


class TwoWayDecoder(nn.Module):
    """Two stacks of decoder layers side by side, queries to patches and patches to queries.

    Both attend to the other's previous state.
    """

    def __init__(self, embed_dim: int, sizes: DecoderSizes, *, identical: bool = False) -> None:
        super().__init__()
        self.q = nn.ModuleList(sizes.layer(embed_dim) for _ in range(sizes.num_layers))
        self.v = nn.ModuleList(sizes.layer(embed_dim) for _ in range(sizes.num_layers))
        if identical:
            for stack in (self.q, self.v):
                for layer in stack[1:]:
                    layer.load_state_dict(stack[0].state_dict())

    def start_as_identity(self) -> None:
        """Start where both sides pass through, normalised."""
        for layer in (*self.q, *self.v):
            cast(DecoderLayer, layer).start_as_identity()

    @torch.no_grad()
    def scale_queries(self, factor: float) -> None:
        """Make the queries, which the last norm gives their length, longer by a factor."""
        last = cast(DecoderLayer, self.q[-1])
        last.norm3.weight.mul_(factor)

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, R·K, D) and patches (B, N, D) after all layers."""
        for of_q, of_v in zip(self.q, self.v, strict=True):
            # Both sides read what the other was before this layer.
            q, v = of_q(q, v), of_v(v, q)
        return q, v


class RecoveryDecoder(nn.Module):
    """Reconstructs descriptors and patches from the decoder's outputs; runs in training only."""

    def __init__(self, embed_dim: int, sizes: DecoderSizes) -> None:
        super().__init__()
        self.linear_q_in = nn.Linear(embed_dim, embed_dim)
        self.linear_k_in = nn.Linear(embed_dim, embed_dim)
        self.decoder = TwoWayDecoder(embed_dim, sizes)
        self.linear_q_out = nn.Linear(embed_dim, 2 * embed_dim)
        self.linear_k_out = nn.Linear(embed_dim, embed_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Recovered descriptors (B, R·K, 2D) and patches (B, N, D)."""
        q, v = self.decoder(self.linear_q_in(q), self.linear_k_in(v))
        return self.linear_q_out(q), self.linear_k_out(v)


@dataclass(frozen=True)
class CLIPRCQuirks(PromptedQuirks):
    """What the released code does otherwise.

    Attributes:
        whole_cells: Where the lattice does not divide the grid, leave trailing patches without a
            region (released) instead of laying it evenly.
        scale: Of the dot products of queries and patches: "width", 1/√D, or "none" (released,
            although both are norms' outputs).
    """

    whole_cells: bool = False
    scale: Literal["width", "none"] = "width"

    @classmethod
    def released(cls) -> CLIPRCQuirks:
        """The released values."""
        return cls(
            **RELEASED_PROMPTED,
            whole_cells=True,
            scale="none",
        )


def _released_options(state: dict[str, Tensor]) -> dict[str, Any]:
    side = round(len(state["backbone.region_level_bridge"]) ** 0.5)
    options = {
        **prompt_options(state),
        "lattice": (side, side),
        "decoder_layers": count_layers(state, "decode_head.decoder_q.layers."),
        "hidden_dim": state["decode_head.decoder_q.layers.0.linear1.weight"].shape[0],
    }
    # The recovery decoder is not needed to predict, so it may have been removed from the file.
    recovery = count_layers(state, "decode_head.recovery_decoder.decouple_q.")
    if recovery:
        return {**options, "recovery_layers": recovery}
    return {**options, "recovery_weight": 0.0}


RELEASED = Released(
    mark="decode_head.decoder_q.",
    towers=("backbone.", "text_encoder."),
    names=(
        *MMSEG_NAMES,
        (r"decode_head\.((q|lateral)_proj\..*)", r"\1"),
        (r"decode_head\.decoder_([qv])\.layers\.(.*)", r"decoder.\1.\2"),
        (r"decode_head\.recovery_decoder\.decouple_([qv])\.(.*)", r"recovery.decoder.\1.\2"),
        (r"decode_head\.recovery_decoder\.(linear_.*)", r"recovery.\1"),
    ),
    unused=r"decode_head\.((decoder_[qv]\.layers|recovery_decoder\.decouple_[qv])\.\d+\."
    rf"{UNUSED_IN_LAYER}|loss_decode\..*)",
    options=_released_options,
)


@dataclass(frozen=True)
class CLIPRCOptions(PromptedOptions):
    """Shared options that are other here: the default of `calibration`, what is said of others.

    Attributes:
        num_prompts: P, visual prompts a block (10 on VOC, 100 on COCO-Stuff).
        decoder_layers: Layers of the two-way decoder.
        hidden_dim: Width of its feed-forward parts; 4 D by default.
        mask_weight: Weight of the focal loss (100 on VOC, 200 on COCO-Stuff).
        dice_weight: Weight of the dice loss (1 on VOC, 3 on COCO-Stuff).
    """

    calibration: float = 0.1


class CLIPRC(PromptedSegmenter):
    """CLIP-RC.

    Args:
        clip: The frozen tower.
        options: Those that the methods with visual prompts share.
        lattice: Regions down and across (4 by 4 released), laid over any grid of patches.
        train_regions: Train the region tokens (the released code freezes them, by the name of the
            parameter).
        norm_regions: Send the region tokens through the trainable norm too (released: not).
        decoder_heads: Heads of the decoder's attention.
        recovery_layers: Layers of the recovery decoder.
        recovery_weight: Weight of the recovery losses (2 on VOC, 50 on COCO-Stuff); 0 leaves the
            recovery decoder out.
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {"start": "released"}
    Options = CLIPRCOptions
    Quirks = CLIPRCQuirks
    RELEASED = RELEASED
    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3, "decoder_heads": 2, "lattice": (2, 2)}

    def __init__(
        self,
        clip: CLIP,
        options: CLIPRCOptions | None = None,
        *,
        lattice: tuple[int, int] = (4, 4),
        train_regions: bool = False,
        norm_regions: bool = False,
        decoder_heads: int = 8,
        recovery_layers: int = 1,
        recovery_weight: float = 2.0,
        quirks: CLIPRCQuirks | None = None,
    ) -> None:
        options, quirks = options or CLIPRCOptions(), quirks or CLIPRCQuirks()
        super().__init__(clip, options, quirks)
        if len(lattice) != 2 or min(lattice) < 1:
            raise SettingError(
                f"lattice is {list(lattice)}; give the regions down and across, such as [4,4]"
            )
        width = clip.embed_dim
        self.scale = width**-0.5 if quirks.scale == "width" else 1.0
        self.recovery_weight, self.norm_regions = recovery_weight, norm_regions
        self.bridge = RegionLevelBridge(
            clip,
            (lattice[0], lattice[1]),
            trainable=train_regions,
            whole_cells=quirks.whole_cells,
        )
        self.q_proj, self.lateral_proj = nn.Linear(2 * width, width), nn.Linear(3 * width, width)
        sizes = options.decoder_sizes(width, decoder_heads)
        self.decoder = TwoWayDecoder(width, sizes, identical=quirks.identical_layers)
        self.recovery: RecoveryDecoder | None = None
        if recovery_weight:
            self.recovery = RecoveryDecoder(width, replace(sizes, num_layers=recovery_layers))

        self.set_start(options.start)

    def start_as_cosines(self) -> None:
        """Queries are the text features, and the tower is undisturbed by prompts."""
        start_as_identity(self.q_proj)  # of [v ⊙ t ; t] the text feature
        start_as_identity(self.lateral_proj)  # of [regions ; class token ; patch] the patch
        self.decoder.start_as_identity()
        self.prompts.start_at_zero()

    def scale_logits(self, factor: float) -> None:
        """By the queries."""
        self.decoder.scale_queries(factor)

    def encode_images(self, images: Tensor) -> tuple[Tensor, ...]:
        """Unit vectors of class tokens (B, D), patches (B, N, D) and regions (B, R, D).

        Args:
            images: (B, 3, H, W), RGB in 0..1.
        """
        grid, count = self.clip.grid(images), self.bridge.count
        x = self.embed(images)
        regions = self.clip.visual.ln_pre(self.bridge.tokens).expand(x.shape[0], -1, -1)

        def block(layer: int, x: Tensor) -> Tensor:
            front = x.shape[1] - grid[0] * grid[1] - count  # the class token and the prompts
            return self.clip.block(layer, x, self.bridge.mask(grid, front, x.device))

        x = torch.cat([x, regions], dim=1)  # (B, 1 + N + R, C)
        x = self.prompts.forward_blocks(block, self.clip.num_layers, x)
        normed = x.shape[1] if self.norm_regions else x.shape[1] - count
        x = torch.cat([self.prompt_norm(x[:, :normed]), x[:, normed:]], dim=1)
        x = F.normalize(self.clip.finish(x), dim=-1)
        return x[:, 0], x[:, 1:-count], x[:, -count:]

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1.

        While training, the extras hold what the recovery loss compares.
        """
        images, covered = self.covered(images)
        grid = self.clip.grid(images)
        class_token, patches, regions = self.encode_images(images)
        # Each region is seen in the light of the whole image: Γ_j + g.
        views = regions + class_token.unsqueeze(1)
        descriptors = relationship(views, text.pooled)  # (B, R·K, 2D), region by region
        q = self.q_proj(descriptors)
        v = self._lateral(class_token, patches, regions, grid)
        q, v = self.decoder(q, v)
        # The mean over regions of dot products with the patches is the dot product with the mean.
        mean = q.reshape(q.shape[0], self.bridge.count, -1, q.shape[-1]).mean(dim=1)  # (B, K, D)
        # Unscaled products are too large for bf16.
        with torch.autocast(v.device.type, enabled=False):
            logits = (self.scale * mean.float() @ v.float().transpose(1, 2)).unflatten(2, grid)
        logits = self.biased(logits)
        extras: dict[str, Tensor] = {}
        if self.training and self.recovery is not None:
            recovered_q, recovered_v = self.recovery(q, v)
            # The targets are detached: the decoder must recover them, not pull them towards itself.
            extras = {
                "descriptors": descriptors.detach(),
                "patches": patches.detach(),
                "recovered_descriptors": recovered_q,
                "recovered_patches": recovered_v,
            }
        return Prediction(logits, covered, extras)

    def _lateral(
        self, class_token: Tensor, patches: Tensor, regions: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Patches (B, N, D), each joined with its surrounding regions and the class token."""
        lattice = regions.transpose(1, 2).reshape(regions.shape[0], -1, *self.bridge.lattice)
        around = F.interpolate(lattice, grid, mode="bilinear", align_corners=False)  # (B, D, h, w)
        around = around.flatten(2).transpose(1, 2)  # (B, N, D)
        image = class_token.unsqueeze(1).expand_as(patches)
        joined: Tensor = self.lateral_proj(torch.cat([around, image, patches], dim=-1))
        return joined

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms `mask` and `dice` (as ZegCLIP's), `recovery_q` and `recovery_k`, `total`.

        The recovery terms are mean absolute differences.
        """
        losses = super().loss(prediction, labels)
        if prediction.extras:
            extras = {name: tensor.float() for name, tensor in prediction.extras.items()}
            recovery_q = self.recovery_weight * F.l1_loss(
                extras["recovered_descriptors"], extras["descriptors"]
            )
            recovery_k = self.recovery_weight * F.l1_loss(
                extras["recovered_patches"], extras["patches"]
            )
            total = losses["total"] + recovery_q + recovery_k
            losses |= {"recovery_q": recovery_q, "recovery_k": recovery_k, "total": total}
        return losses
