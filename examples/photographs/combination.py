"""Parts of all methods in one, to look for a combination that is better on unseen classes.

Not a method of the package: `search.py` measures what each part does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.backbones.clip.tower import CLIP
from unseen.backbones.patches import patch_features
from unseen.labels import IGNORE
from unseen.methods import OWN, Method
from unseen.methods.cascade_clip import CascadeCLIP
from unseen.modules.proxy import proxy_attention
from unseen.modules.resize import bilinear
from unseen.modules.starts import logit_range
from unseen.prompted_segmenter import PromptedOptions
from unseen.segmenter import AuxiliaryMap, Prediction, TextFeatures, Tower

OTHERS = 20
"""Other names asked in a step."""
BETA, GAMMA = 1.2, 3.0
"""ProxyCLIP's, where its own statistics are not used."""


class Combination(CascadeCLIP):
    """ZegCLIP, with what others add.

    It is made of Cascade-CLIP, which is ZegCLIP where it reads no other blocks.

    The decoder has one head, which goes with a tower of any width.

    Args:
        clip: The frozen tower.
        options: Those that the methods with visual prompts share.
        read_blocks: Blocks that are read besides the last (Cascade-CLIP); none by default.
        groups: Of these blocks.
        text_noise: Standard deviation of noise that is added to text features in training, in parts
            of their length.
        centred: Whether the mean of the training classes' text features is subtracted from all,
            so that classes differ in what they do not share.
        pairs_weight: Weight of the same losses on pairs of training classes, drawn anew in each
            step: the text feature of a pair is the mean of both, its mask their union.
        others: File of text features of other names (M, D), some of which are asked in training
            as well: classes that no labelled pixel shows. Empty for none.
        direct: Whether the patches' cosines with the classes are trained as a second path, whose
            logits are averaged with the decoder's (the ensemble of OTSeg+, without transport).
        presence: How much the class token counts, whose cosine with a class says whether the image
            shows it: standard deviation of what is added to the logits of a class, on the images
            that training starts from. 0 for nothing.
        proxy: A second network; maps are averaged over patches that look alike to it (ProxyCLIP).
            Empty for none.
        proxy_in_training: Whether they are averaged in training too.
        proxy_share: Of the averaged maps in the logits.
    """

    TINY: ClassVar[dict[str, Any]] = {"num_prompts": 3}
    others: Tensor | None

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        clip: CLIP,
        options: PromptedOptions | None = None,
        *,
        read_blocks: tuple[int, ...] = (),
        groups: tuple[int, ...] | None = None,
        text_noise: float = 0.0,
        centred: bool = False,
        pairs_weight: float = 0.0,
        others: str = "",
        direct: bool = False,
        presence: float = 0.0,
        proxy: str = "",
        proxy_in_training: bool = False,
        proxy_share: float = 1.0,
    ) -> None:
        super().__init__(clip, options, decoder_heads=1, read_blocks=read_blocks, groups=groups)
        self.text_noise, self.pairs_weight = text_noise, pairs_weight
        self.text_mean: nn.Parameter | None = None
        if centred:
            self.text_mean = nn.Parameter(torch.zeros(clip.embed_dim), requires_grad=False)
        vectors = torch.from_numpy(np.load(others)).float() if others else None
        self.register_buffer("others", vectors, persistent=False)
        self.proxy_in_training, self.proxy_share = proxy_in_training, proxy_share
        self.direct: nn.Parameter | None = None
        if direct:
            self.direct = nn.Parameter(torch.tensor([1.0, 0.0]))  # factor and bias of the cosines
        self.presence: nn.Parameter | None = None
        self.presence_spread = presence
        if presence:
            self.presence = nn.Parameter(torch.zeros(2), requires_grad=False)  # factor and mean
        # All need training images or classes, wherever the decoder starts.
        self.starts_from_images |= centred or direct or bool(presence)
        self.proxy = patch_features(proxy) if proxy else None
        if self.proxy is not None:
            self.proxy.load()  # here, as the weights of a run are loaded without `initialise`

    @classmethod
    def register(cls) -> None:
        """Put it into the table of methods."""
        OWN["combination"] = Method(f"{cls.__module__}:{cls.__name__}", "parts of all methods")

    @property
    def towers(self) -> dict[str, Tower]:
        """The CLIP, and the second network where there is one."""
        if self.proxy is None:
            return super().towers
        return {**super().towers, "proxy": Tower(self.proxy, self.proxy.source)}

    @torch.no_grad()
    def start_from(self, images: Tensor, text: TextFeatures) -> None:
        """Set the mean of the text features; let both paths start in the same range."""
        if self.text_mean is not None:
            self.text_mean.copy_(text.pooled.mean(dim=0))
        if self.direct is not None:
            factor, bias = logit_range(self._paths(images, text)[1])
            self.direct.copy_(torch.tensor([factor, bias]))
        if self.logit_bias is not None:
            factor, bias = logit_range(self._paths(images, text)[0])
            self.scale_logits(factor)
            self.logit_bias.fill_(bias)
        if self.presence is not None:  # last, since it is no part of the ranges above
            cosines = self.encode_images(images)[0] @ self._centred(text).pooled.T  # (B, K)
            std, mean = torch.std_mean(cosines)
            self.presence.copy_(torch.stack([self.presence_spread / std, mean]))

    def _centred(self, text: TextFeatures) -> TextFeatures:
        """Text features without what the training classes share, where that is subtracted."""
        if self.text_mean is None:
            return text
        return replace(text, pooled=F.normalize(text.pooled - self.text_mean, dim=-1))

    def _paths(self, images: Tensor, text: TextFeatures) -> list[Tensor]:
        """Logits (B, K, h, w) of the decoders, and of the cosines where they are trained."""
        text = self._centred(text)
        class_token, *memories = self.encode_images(images)
        maps = [self.biased(torch.stack(self.decode(class_token, memories, text)).sum(dim=0))]
        if self.direct is not None:
            cosines = (memories[-1] @ text.pooled.T).transpose(1, 2)  # (B, K, N)
            maps.append(self.direct[0] * cosines + self.direct[1])
        if self.presence is not None:
            factor, mean = self.presence
            shown = factor * (class_token @ text.pooled.T - mean)  # (B, K)
            maps = [each + shown.unsqueeze(-1) for each in maps]
        return [each.unflatten(2, self.clip.grid(images)) for each in maps]

    def forward(self, images: Tensor, text: TextFeatures) -> Prediction:
        """Logits (B, K, h, w) of images (B, 3, H, W), RGB in 0..1."""
        if self.training and self.text_noise:
            noise = torch.randn_like(text.pooled) * text.pooled.shape[-1] ** -0.5
            noisy = F.normalize(text.pooled + self.text_noise * noise, dim=-1)
            text = replace(text, pooled=noisy)
        classes, extras = text.pooled, dict[str, Tensor]()
        if self.training and self.others is not None:
            drawn = self.others[torch.randperm(len(self.others))[:OTHERS]]
            text = replace(text, pooled=torch.cat([classes, drawn]))
        count = len(text.pooled)
        if self.training and self.pairs_weight and len(classes) > 1:
            extras["owner"] = owner = paired(len(classes)).to(classes.device)
            sums = torch.zeros_like(classes[: len(classes) // 2]).index_add(0, owner, classes)
            text = replace(text, pooled=torch.cat([text.pooled, F.normalize(sums, dim=-1)]))
        maps = self._paths(images, text)
        if self.proxy is not None and (self.proxy_in_training or not self.training):
            maps = [self._averaged(images, each) for each in maps]
        if extras:
            extras |= {f"pairs_{i}": each[:, count:] for i, each in enumerate(maps)}
        maps = [each[:, :count] for each in maps]
        auxiliary = tuple(AuxiliaryMap(each) for each in maps)
        logits = torch.stack(maps).mean(dim=0)
        return Prediction(logits, self.clip.padded_size(images), extras, auxiliary=auxiliary)

    def _averaged(self, images: Tensor, maps: Tensor) -> Tensor:
        """Maps (B, K, h, w), the mean over patches that look alike taken with its share."""
        assert self.proxy is not None
        features = self.proxy(images, self.clip.padded_size(images))
        grid = (features.shape[-2], features.shape[-1])
        values = maps if maps.shape[-2:] == grid else bilinear(maps, grid)
        mean = proxy_attention(
            features.flatten(2).transpose(1, 2),
            values.flatten(2).transpose(1, 2),
            beta=BETA,
            gamma=GAMMA,
        )
        mean = mean.transpose(1, 2).unflatten(2, grid)
        return torch.lerp(values, mean.to(values.dtype), self.proxy_share)

    def loss(self, prediction: Prediction, labels: Tensor) -> dict[str, Tensor]:
        """Of every path, and of the pairs of classes."""
        losses = super().loss(
            _of_paths(prediction, [x.logits for x in prediction.auxiliary]), labels
        )
        owner = prediction.extras.get("owner")
        if owner is not None:
            maps = [prediction.extras[f"pairs_{i}"] for i in range(len(prediction.auxiliary))]
            table = torch.full((IGNORE + 1,), IGNORE, device=labels.device)
            table[: len(owner)] = owner
            of_pairs = super().loss(_of_paths(prediction, maps), table[labels])["total"]
            total = losses["total"] + self.pairs_weight * of_pairs
            losses |= {"pairs": self.pairs_weight * of_pairs, "total": total}
        return losses


def _of_paths(prediction: Prediction, maps: list[Tensor]) -> Prediction:
    """A prediction with the maps of every path, all of which count in a loss."""
    first, *others = maps
    return replace(prediction, logits=first, auxiliary=tuple(AuxiliaryMap(x) for x in others))


def paired(count: int) -> Tensor:
    """The pair (count,) that each class belongs to, at random; of an odd number one is a triple."""
    owner = torch.empty(count, dtype=torch.int64)
    owner[torch.randperm(count)] = (torch.arange(count) // 2).clamp(max=count // 2 - 1)
    return owner
