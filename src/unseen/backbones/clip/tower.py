"""The image tower of a CLIP, walked block by block.

Methods never call open_clip's towers: they call `embed`, `blocks` and `finish`, between which they
may add tokens, masks and adapters, or read any layer. Walked without changes, the tower returns
what open_clip returns, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unseen.backbones.clip.blocks import run_block
from unseen.backbones.clip.text import CLIPText, text_tower_of
from unseen.errors import SettingError
from unseen.modules.cache import TableCache
from unseen.modules.positions import resize_as_dino

Resize = Literal["bicubic", "bilinear", "bicubic_plain"]

IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""Statistics the released ZegCLIP, its successors and ESDA normalise with, although CLIP was
trained with its own."""


class CLIP(CLIPText):
    """A CLIP whose image tower is a plain ViT with a class token, frozen.

    Images are RGB in 0..1; `normalize` brings them to the statistics the tower was trained with.

    Args:
        model: Of open_clip.
        mean: Of the images the tower was trained on, RGB in 0..1.
        std: Their standard deviation.
        source: Where the weights came from.
        config: open_clip's configuration, where it is known.
        image_only: Leave the model's text tower away.

    Attributes:
        width: C, channels of the image tower.
        num_layers: Blocks of the image tower.
        patch_size: Side of a patch in pixels.
        recompute: Compute blocks again for their gradients instead of keeping all that they
            computed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: open_clip.CLIP | open_clip.CustomTextCLIP,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        source: str = "",
        config: dict[str, Any] | None = None,
        image_only: bool = False,
    ) -> None:
        visual = model.visual
        # Checked before any part is taken over: another tower may lack the parts.
        _check_plain(visual, source)
        text = None if image_only else text_tower_of(model, source)
        super().__init__(text, visual.output_dim, source=source, config=config)
        self.visual = visual
        self.width, self.patch_size = visual.conv1.out_channels, visual.patch_size[0]
        self.num_layers = len(visual.transformer.resblocks)
        # Not persistent: files in OpenAI's names hold no statistics.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.recompute = False
        self._positions = TableCache()
        self._only_table: Tensor | None = None
        self.requires_grad_(False)
        self.eval()

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> CLIP:
        """The same weights with other statistics to normalise images; this tower stays as it is."""
        # A shallow copy shares the weights; only the dictionary of buffers is another.
        other = copy(self)
        other._buffers = {
            **self._buffers,
            "mean": self.mean.new_tensor(mean).view(3, 1, 1),
            "std": self.std.new_tensor(std).view(3, 1, 1),
        }
        return other

    def image_part(self, table: Tensor | None = None) -> CLIP:
        """The same image tower without a text tower; this tower stays as it is.

        Args:
            table: Positions of one grid (`positions`), for programs that cannot resize them.
        """
        other = copy(self)
        other._modules = {**self._modules, "text": None}
        other._only_table = table
        return other

    def positions(
        self,
        grid: tuple[int, int],
        resize: Resize = "bicubic",
        *,
        via: tuple[int, int] | None = None,
    ) -> Tensor:
        """The position table (1 + h·w, C) for a grid; row 0 is the class token's.

        Args:
            grid: Patches down and across.
            resize: "bicubic" with anti-aliasing, as open_clip does it; "bilinear" without, as
                ZegCLIP, its successors and ESDA do it; "bicubic_plain", `resize_as_dino`.
            via: A grid the table goes through on the way (released code resizes once at loading and
                again at run time).
        """
        if self._only_table is not None:
            return self._only_table
        table: Tensor = self.visual.positional_embedding
        sizes = [size for size in (via, grid) if size is not None]
        if all(size == self.visual.grid_size for size in sizes):
            return table

        def resized() -> Tensor:
            patches = table[1:].T.reshape(1, -1, *self.visual.grid_size)  # (1, C, h, w)
            # Through `via` first; the class token's row, 0, has no place in the grid and stays.
            for size in sizes:
                if patches.shape[-2:] != size:
                    patches = _resized(patches, size, resize)
            return torch.cat([table[:1], patches.flatten(2)[0].T])

        if table.requires_grad:  # a stored table would cut the gradient
            return resized()
        # With address and version in the key, a table that is loaded anew is resized anew.
        if torch.compiler.is_exporting():  # of any grid; and its tensors have no address
            return resized()
        key = (grid, resize, via, table.device, table.dtype, table.data_ptr(), table._version)
        return self._positions.get(key, resized)

    def normalize(self, images: Tensor) -> Tensor:
        """Images with the tower's statistics, padded to whole patches.

        Args:
            images: (B, 3, H, W), RGB in 0..1; the mean becomes 0, which is also what pads the
                bottom and the right.
        """
        # -x % p is what x lacks to the next multiple of p.
        p = self.patch_size
        images = (images - self.mean) / self.std
        return F.pad(images, (0, -images.shape[-1] % p, 0, -images.shape[-2] % p))

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Patches down and across that cover images (…, H, W)."""
        return -(-images.shape[-2] // self.patch_size), -(-images.shape[-1] // self.patch_size)

    def padded_size(self, images: Tensor) -> tuple[int, int]:
        """Height and width in pixels of images (…, H, W) padded to whole patches."""
        h, w = self.grid(images)
        return h * self.patch_size, w * self.patch_size

    def embed(
        self,
        images: Tensor,
        *,
        resize: Resize = "bicubic",
        via: tuple[int, int] | None = None,
        twice: bool = False,
    ) -> Tensor:
        """The tokens (B, 1 + N, C) that enter the first block, class token first.

        Args:
            images: (B, 3, H, W), RGB in 0..1, any size; padded to whole patches.
            resize: How the position table is resized (`positions`).
            via: A grid the table goes through (`positions`).
            twice: Add the class embedding a second time, as the released ZegCLIP, its successors
                and ESDA do.
        """
        visual = self.visual
        # In float32 also where blocks compute in bf16: the rounding of what enters the first block
        # goes through all of them, and this is half a percent of the time.
        with torch.autocast(images.device.type, enabled=False):
            x = visual.conv1(self.normalize(images))  # (B, C, h, w)
        positions = self.positions((x.shape[-2], x.shape[-1]), resize, via=via)
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        # The class embedding has the first row of the position table added to it, like any token.
        first = visual.class_embedding.expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], dim=1) + positions
        if twice:
            x = torch.cat([x[:, :1] + visual.class_embedding, x[:, 1:]], dim=1)
        out: Tensor = visual.ln_pre(x)
        return out

    def block(self, index: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """One residual block on tokens (B, T, C); `mask` as in `self_attention`."""
        block = self.visual.transformer.resblocks[index]
        if self.recompute and x.requires_grad:
            # Nothing in a block is random, so there is no state of random numbers to keep.
            out: Tensor = checkpoint(
                run_block, block, x, mask, use_reentrant=False, preserve_rng_state=False
            )
            return out
        return run_block(block, x, mask)

    def blocks(
        self, x: Tensor, start: int = 0, stop: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Some blocks in turn on tokens (B, T, C).

        Args:
            x: What enters block `start`.
            start: First block.
            stop: Block to end before; all by default; negative counts from the end.
            mask: As in `self_attention`; one for each image as (B, 1, T, T).
        """
        for index in range(self.num_layers)[start:stop]:
            x = self.block(index, x, mask)
        return x

    def layers(self, x: Tensor, indices: Sequence[int], mask: Tensor | None = None) -> list[Tensor]:
        """The tokens (B, T, C) after any set of blocks, in the order of `indices`.

        Args:
            x: What enters the first block.
            indices: Blocks, from 0; negative counts from the end. Blocks behind the last of them
                are not run.
            mask: As in `blocks`.
        """
        # Indexing a range resolves negative indices and refuses those outside.
        wanted = [range(self.num_layers)[index] for index in indices]
        after = {}
        for index in range(max(wanted) + 1):
            x = self.block(index, x, mask)
            if index in wanted:
                after[index] = x
        return [after[index] for index in wanted]

    def finish(self, x: Tensor) -> Tensor:
        """Final norm and projection of tokens (…, C) into the joint space (…, D)."""
        out: Tensor = self.visual.ln_post(x) @ self.visual.proj
        return out

    def encode_image(self, images: Tensor) -> Tensor:
        """The images' vectors (B, D), not normalised, as open_clip's `encode_image`."""
        return self.finish(self.blocks(self.embed(images))[:, 0])


def _resized(table: Tensor, size: tuple[int, int], resize: Resize) -> Tensor:
    """A position table (1, C, h, w) on another grid."""
    if resize == "bicubic_plain":
        return resize_as_dino(table, size)
    return F.interpolate(table, size, mode=resize, antialias=resize == "bicubic")


def _check_plain(visual: Any, source: str) -> None:
    """Refuse image towers whose patches do not lie in the joint space."""
    # With pooling by attention or a mean, norm and projection are not made for single patches.
    plain = isinstance(visual, VisionTransformer) and visual.pool_type == "tok"
    if not plain or visual.attn_pool is not None or visual.final_ln_after_pool:
        raise SettingError(
            f"the image tower of {source!r} is not a plain ViT with a class token; choose a CLIP"
            " tag such as ViT-B-16-quickgelu/openai"
        )
