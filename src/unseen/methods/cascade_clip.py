"""Cascade-CLIP: ZegCLIP with the tower's middle blocks read as well, and a decoder for each group.

Li, Li, Zeng, Hou and Cheng, "Cascade-CLIP: Cascaded Vision-Language Embeddings Alignment for
Zero-Shot Semantic Segmentation", ICML 2024, arXiv 2406.00670. The patches of some blocks before the
last are brought into the joint space and summed in groups with learned weights. Every group, and
the last block alone, has a decoder with queries of its own; the map of a class is the sum of the
decoders' maps.

The released code differs from sound practice in a few places, collected in `MaskDecoderQuirks` and
in `CascadeCLIP.PUBLISHED`; `docs/methods/cascade_clip.md` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.tower import CLIP
from unseen.errors import SettingError
from unseen.modules.decoders import MaskDecoder, start_as_identity
from unseen.modules.queries import RelationshipDescriptor
from unseen.prompted_segmenter import MaskDecoderQuirks, PromptedOptions, PromptedSegmenter
from unseen.released import (
    MMSEG_NAMES,
    UNUSED_IN_LAYER,
    USED_OF_LAST,
    Released,
    decoder_options,
)
from unseen.segmenter import AuxiliaryMap, Prediction, TextFeatures

Projection = Literal["trained", "clip", "random"]
GROUP = 3
"""Blocks of a group, where no other is asked for, as in the released code."""


class LayerProjections(nn.Module):
    """A norm and a projection into the joint space for each of J blocks.

    Args:
        clip: Gives the sizes, and the first values unless they are random.
        count: J.
        kind: "trained", starting from CLIP's own final norm and projection; "clip", these as they
            are; "random", frozen at random values, as released.
    """

    def __init__(self, clip: CLIP, count: int, kind: Projection) -> None:
        super().__init__()
        final, width = clip.visual.ln_post, clip.width
        self.norms = nn.ModuleList(nn.LayerNorm(width, final.eps) for _ in range(count))
        first = width**-0.5 * torch.randn(count, width, clip.embed_dim)
        if kind != "random":
            first = clip.visual.proj.detach().repeat(count, 1, 1)
            for norm in self.norms:
                norm.load_state_dict(final.state_dict())
        self.projections = nn.Parameter(first)
        self.requires_grad_(kind == "trained")

    def forward(self, index: int, x: Tensor) -> Tensor:
        """Unit vectors (…, D) of tokens (…, C) of one of the blocks."""
        return F.normalize(self.norms[index](x) @ self.projections[index], dim=-1)


RELEASED = Released(
    mark="decode_head.cascade_decoders.",
    towers=("backbone.", "text_encoder."),
    names=(
        (r"backbone\.ln_layers\.(.*)", r"layer_projections.norms.\1"),
        (r"backbone\.proj_layers", r"layer_projections.projections"),
        *MMSEG_NAMES,
        (r"decode_head\.weights_s1", r"group_weights.0"),
        (r"decode_head\.weights_s2", r"group_weights.1"),
        (r"decode_head\.q_projs\.(\d)\.(.*)", r"descriptors.\1.q_proj.\2"),
        (
            r"decode_head\.cascade_decoders\.(\d)\.layers\.LAST\.multihead_attn\.([qk]\..*)",
            r"decoders.\1.\2",
        ),
        (r"decode_head\.cascade_decoders\.(\d\.layers\..*)", r"decoders.\1"),
    ),
    unused=rf"decode_head\.(cascade_decoders\.\d\.layers\.(\d+\.{UNUSED_IN_LAYER}"
    rf"|LAST\.(?!{USED_OF_LAST}).*)|loss_decode\..*)",
    options=partial(decoder_options, decoder="decode_head.cascade_decoders.0"),
)


class CascadeCLIP(PromptedSegmenter):
    """Cascade-CLIP.

    Args:
        clip: The frozen tower.
        options: Those that the methods with visual prompts share.
        read_blocks: Blocks, from 0, that are read besides the last; the six before it by default.
        groups: Sizes of the groups that these blocks form, in their order; threes by default.
        group_start: Weights that the blocks of every group start with, in their order, where all
            groups have that size; exp(-d²/2) by default, of the distance d to the last of the
            group.
        layer_projection: How the blocks get into the joint space: by a norm and a projection that
            are "trained", starting from CLIP's own; by "clip", its own as they are; or by "random"
            ones that are never trained (released).
        decoder_heads: Heads of the decoders' attention.
        deep_supervision: Losses on every decoder's map besides their sum.
        quirks: What the released code does otherwise.
    """

    PUBLISHED: ClassVar[dict[str, Any]] = {
        "start": "released",
        "calibration": 0.1,
        "layer_projection": "random",
    }
    Quirks = MaskDecoderQuirks
    RELEASED = RELEASED
    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3, "decoder_heads": 2}

    def __init__(
        self,
        clip: CLIP,
        options: PromptedOptions | None = None,
        *,
        read_blocks: tuple[int, ...] | None = None,
        groups: tuple[int, ...] | None = None,
        group_start: tuple[float, ...] | None = None,
        layer_projection: Projection = "trained",
        decoder_heads: int = 8,
        deep_supervision: bool = False,
        quirks: MaskDecoderQuirks | None = None,
    ) -> None:
        options, quirks = options or PromptedOptions(), quirks or MaskDecoderQuirks()
        blocks, groups = _grouped(read_blocks, groups, clip.num_layers)
        weights = _first_weights(groups, group_start)
        super().__init__(clip, options, quirks)
        self.read_blocks, self.deep_supervision = blocks, deep_supervision
        self.layer_projections = LayerProjections(clip, len(blocks), layer_projection)
        self.group_weights = nn.ParameterList(nn.Parameter(each) for each in weights)
        width = clip.embed_dim
        sizes = options.decoder_sizes(width, decoder_heads)
        count = len(groups) + 1
        self.descriptors = nn.ModuleList(RelationshipDescriptor(width) for _ in range(count))
        self.decoders = nn.ModuleList(
            MaskDecoder(width, sizes, identical=quirks.identical_layers, scale=quirks.scale)
            for _ in range(count)
        )
        self.set_start(options.start)

    @torch.no_grad()
    def start_as_cosines(self) -> None:
        """The last block's patches are compared with the classes; the other maps are 0 at first."""
        for descriptor, decoder in self._heads():
            start_as_identity(descriptor.q_proj)  # of [g ⊙ t ; t] the text feature
            decoder.start_as_product()
        for _, decoder in self._heads()[:-1]:
            nn.init.zeros_(decoder.k.weight)
        self.prompts.start_at_zero()

    def scale_logits(self, factor: float) -> None:
        """By the projection of the last block's patches."""
        _, last = self._heads()[-1]
        with torch.no_grad():
            last.k.weight.mul_(factor)

    def _heads(self) -> list[tuple[RelationshipDescriptor, MaskDecoder]]:
        """Descriptor and decoder of every group, the last block's at the end."""
        pairs = list(zip(self.descriptors, self.decoders, strict=True))
        return cast(list[tuple[RelationshipDescriptor, MaskDecoder]], pairs)

    def encode_images(self, images: Tensor) -> tuple[Tensor, ...]:
        """Unit vectors of class tokens (B, D), then the patches (B, N, D) of every group.

        Those of the last block are unit vectors; those of the others are weighted sums of such.

        Args:
            images: (B, 3, H, W), RGB in 0..1.
        """
        wanted = [*self.read_blocks, self.clip.num_layers - 1]
        after = self.prompts.forward_layers(self.clip.block, self.embed(images), wanted)
        # One trainable norm for all of them; the tower itself goes on without it.
        *middle, last = (self.prompt_norm(x) for x in after)
        z = F.normalize(self.clip.finish(last), dim=-1)
        maps = iter([self.layer_projections(i, x[:, 1:]) for i, x in enumerate(middle)])
        sums = [
            torch.stack([weight * next(maps) for weight in weights]).sum(dim=0)
            for weights in self.group_weights
        ]
        return z[:, 0], *sums, z[:, 1:]

    def decode(
        self, class_token: Tensor, memories: Sequence[Tensor], text: TextFeatures
    ) -> list[Tensor]:
        """Every decoder's scores (B, K, N), of what `encode_images` gives."""
        return [
            decoder(descriptor(class_token, text.pooled), memory)[-1]
            for (descriptor, decoder), memory in zip(self._heads(), memories, strict=True)
        ]

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1.

        Under deep supervision the decoders' own maps are auxiliary ones while training.
        """
        images, covered = self.covered(images)
        grid = self.clip.grid(images)
        class_token, *memories = self.encode_images(images)
        scores = self.decode(class_token, memories, text)
        # Patches run row by row, so scores (B, K, N) are maps (B, K, h, w).
        maps = [each.reshape(images.shape[0], -1, *grid) for each in scores]
        auxiliary: tuple[AuxiliaryMap, ...] = ()
        if self.training and self.deep_supervision:
            auxiliary = tuple(AuxiliaryMap(self.biased(each)) for each in maps)
        logits = self.biased(torch.stack(maps).sum(dim=0))
        return Prediction(logits, covered, auxiliary=auxiliary)


def _grouped(
    blocks: Sequence[int] | None, groups: Sequence[int] | None, num_layers: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The blocks that are read before the last, and the sizes of their groups.

    Raises:
        SettingError: Blocks that the tower does not have, or groups of another number of them.
    """
    last = num_layers - 1
    if blocks is None:
        blocks = range(max(0, last - 2 * GROUP), last)
    blocks = tuple(blocks)
    if list(blocks) != sorted(set(blocks)) or not all(block < last for block in blocks):
        raise SettingError(
            f"read_blocks is {list(blocks)}; give blocks from 0 to {last - 1} of this tower, each"
            f" once and in order (the last, {last}, is always read)"
        )
    if groups is None:
        full, rest = divmod(len(blocks), GROUP)
        groups = (GROUP,) * full + ((rest,) if rest else ())
    if sum(groups) != len(blocks) or not all(size > 0 for size in groups):
        raise SettingError(
            f"groups is {list(groups)}, sizes that add up to {sum(groups)}, and {len(blocks)}"
            f" blocks are read before the last ({list(blocks)}); give sizes of that sum"
        )
    return blocks, tuple(groups)


def _first_weights(groups: Sequence[int], given: Sequence[float] | None) -> list[Tensor]:
    """The weights that the blocks of each group start with.

    Raises:
        SettingError: Weights are given, and not all groups have as many blocks.
    """
    if given is None:
        return [torch.exp(-0.5 * torch.arange(size - 1, -1, -1.0) ** 2) for size in groups]
    if not groups or set(groups) != {len(given)}:
        raise SettingError(
            f"group_start holds {len(given)} weights, and the groups have"
            f" {', '.join(map(str, groups)) or 'no'} blocks; give one for each block of a group,"
            " with groups of equal sizes"
        )
    return [torch.tensor(given, dtype=torch.float32) for _ in groups]
