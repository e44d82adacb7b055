"""Features of patches from a frozen network: DINO, DINOv2, DINOv3, SAM, MAE, or another CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.patch_embed import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.archives import load_matching, read_state_dict
from unseen.backbones.clip.loading import load_clip
from unseen.backbones.hub import log_first_warning_only
from unseen.backbones.timm_weights import create_from_timm
from unseen.backbones.vit import TIMM, timm_tokens
from unseen.errors import SettingError

EXAMPLE = "timm:vit_base_patch8_224.dino"


class PatchFeatures(nn.Module):
    """Features of patches from a vision transformer, as its last norm leaves them. Frozen.

    Class and register tokens are left out; of SAM it is what its image encoder gives.

    Args:
        source: `timm:NAME`, `timm:NAME@FILE` with weights from a .safetensors or .pth file, or
            `timm:NAME@random`, for trials. The weights come with `load`.

    Raises:
        SettingError: timm has no such network, or it is no vision transformer of these kinds.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.name, _, self.file = source.removeprefix(TIMM).partition("@")
        self.network: VisionTransformer | Eva | VisionTransformerSAM = _create(self.name)
        config = resolve_model_data_config(self.network)  # type: ignore[no-untyped-call]
        for name in ("mean", "std"):
            statistics = torch.tensor(config[name]).view(3, 1, 1)
            self.register_buffer(name, statistics)  # stored, so that the fingerprint tells them
        height, width = self.network.patch_embed.patch_size
        self.patch_size = (height, width)
        self.requires_grad_(False)
        self.eval()

    def load(self) -> None:
        """Load the network's weights, from timm's hub unless the source names a file.

        Raises:
            SettingError: timm has no weights of that name.
            CheckpointError: Weights that cannot be read or downloaded, or are another network's.
        """
        if self.file == "random":
            return
        if self.file:
            state = read_state_dict(Path(self.file))
        else:
            try:
                state = create_from_timm(self.name, num_classes=0).state_dict()
            except RuntimeError as error:
                raise SettingError(
                    f"timm has no weights called {self.name!r} ({str(error).splitlines()[0]}); give"
                    f" a file of weights: {TIMM}NAME@FILE"
                ) from error
        # A classifier's file also holds a head, which this network lacks.
        expected = self.network.state_dict()
        load_matching(
            self.network,
            {key: tensor for key, tensor in state.items() if key in expected},
            self.file or self.source,
            name=self.name,
            remedy="give its own file, in timm's names",
        )

    @torch.no_grad()
    def forward(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Features (B, F, h, w) of images padded to a size, which the features cover.

        Args:
            images: (B, 3, H, W), RGB in 0..1.
            size: Height and width in pixels; the padding, at the bottom and right, is the mean.
        """
        x = _padded((images - self.mean) / self.std, size)
        if isinstance(self.network, VisionTransformerSAM):
            return self._of_square(x)
        x = _nearest_patches(x, self.patch_size)
        h, w = (side // part for side, part in zip(x.shape[-2:], self.patch_size, strict=True))
        network: Any = self.network
        # timm resizes position tables with anti-aliasing, as the networks with registers do; the
        # codes of DINO, MAE and DINOv2 without registers do not.
        if isinstance(network, VisionTransformer) and network.reg_token is None:
            tokens = network.blocks(network.norm_pre(timm_tokens(network, x)))
            tokens = network.norm(tokens)
        else:
            tokens = network.forward_features(x)
        # Networks that pool by a mean have their last norm behind it.
        tokens = getattr(network, "fc_norm", nn.Identity())(tokens)
        patches: Tensor = tokens[:, network.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(x.shape[0], -1, h, w)

    def _of_square(self, x: Tensor) -> Tensor:
        """SAM's features, whose network takes squares of one size: images keep their ratio."""
        height, width = x.shape[-2:]
        side = max(height, width)
        x = _padded(x, (side, side))
        network: Any = self.network
        x = F.interpolate(x, network.patch_embed.img_size, mode="bilinear", align_corners=False)
        features: Tensor = network.forward_features(x)
        h, w = (
            max(1, round(cells * part / side))
            for cells, part in zip(features.shape[-2:], (height, width), strict=True)
        )
        return features[..., :h, :w]


class ClipPatches(nn.Module):
    """Features of patches from a CLIP's image tower, as its final norm leaves them. Frozen.

    Args:
        source: As for `load_clip`.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.network = source, load_clip(source).image_part()

    def load(self) -> None:
        """Nothing: a CLIP is made with its weights."""

    @torch.no_grad()
    def forward(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """As `PatchFeatures.forward`."""
        clip = self.network
        # Normalised only after the padding, whose colour is the mean then.
        x = _padded(images - clip.mean, size) + clip.mean
        x = _nearest_patches(x, (clip.patch_size, clip.patch_size))
        tokens = clip.visual.ln_post(clip.blocks(clip.embed(x))[:, 1:])
        out: Tensor = tokens.transpose(1, 2).reshape(x.shape[0], -1, *clip.grid(x))
        return out


def patch_features(source: str) -> PatchFeatures | ClipPatches:
    """The network of a source: one of timm, whose names begin with "timm:", or a CLIP.

    Raises:
        SettingError: There is no such network.
        CheckpointError: A CLIP that cannot be read or downloaded.
    """
    return PatchFeatures(source) if source.startswith(TIMM) else ClipPatches(source)


def _padded(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (…, H, W) with 0 at the bottom and right up to a size."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))


def _nearest_patches(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) resized to the nearest sides of whole patches."""
    size = (x.shape[-2], x.shape[-1])
    whole = [max(1, round(side / part)) * part for side, part in zip(size, patch, strict=True)]
    if whole == list(size):
        return x
    return F.interpolate(x, whole, mode="bilinear", align_corners=False)


def _is_plain(network: Any) -> bool:
    """Whether it is one of the three kinds, and not a variant with other tokens or patches."""
    if type(network) not in (VisionTransformer, Eva, VisionTransformerSAM):
        return False
    return type(network.patch_embed) is PatchEmbed or isinstance(network, VisionTransformerSAM)


def _create(name: str) -> Any:
    """The network, without weights."""
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise SettingError(
            f"timm has no network called {name!r}; choose a vision transformer such as {EXAMPLE}"
        )
    any_size: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {})
    for options in any_size:  # SAM has one size, and no such option
        try:
            with log_first_warning_only():
                # With its tag, which tells the statistics of its images.
                network = timm.create_model(name, num_classes=0, **options)
        except TypeError:
            continue
        except RuntimeError as error:
            raise SettingError(
                f"timm has no weights called {name!r} ({str(error).splitlines()[0]}); give a file"
                f" of weights: {TIMM}{architecture}@FILE"
            ) from error
        if _is_plain(network):
            return network
    raise SettingError(
        f"{name} is not a vision transformer whose patches can be compared; choose one of DINO,"
        f" DINOv2, DINOv3, SAM or MAE, such as {EXAMPLE}"
    )
