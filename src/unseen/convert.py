"""Published checkpoints to segmenters: the released codes' parameter names to ours, every tensor accounted for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unseen.backbones.clip import CLIP, build_clip
from unseen.errors import CheckpointError
from unseen.methods.zegclip import ZegCLIP
from unseen.segmenter import Segmenter

_ZEGCLIP_NAMES = (
    (r"backbone\.(prompt_embeddings|deep_prompt_embeddings|prompt_proj\..*)", r"prompts.\1"),
    (r"backbone\.(prompt_norm\..*)", r"\1"),
    (r"backbone\.(.*)", r"clip.visual.\1"),
    (r"text_encoder\.(.*)", r"clip.text.\1"),
    (r"decode_head\.(q_proj\..*)", r"descriptor.\1"),
)
_ZEGCLIP_DEAD = r"decode_head\.(decoder_1\.layers\.\d+\.(self_attn|norm1)\.|loss_decode\.).*"


@dataclass
class Report:
    """What became of every tensor of a checkpoint.

    Attributes:
        loaded: Tensors that are now in the segmenter.
        dead: Tensors that never influenced the released output.
    """

    loaded: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)


def from_state_dict(method: str, state: dict[str, Tensor], **sizes: Any) -> tuple[Segmenter, Report]:
    """A segmenter with a released checkpoint's weights, behaving as the released code does.

    Args:
        method: "zegclip".
        state: Tensors under the released names.
        sizes: What shapes do not tell: `vision_heads`, `text_heads`, `decoder_heads`, and any option of the method.

    Raises:
        CheckpointError: A tensor that the method does not know, one that is missing, or one of another shape.
    """
    if method != "zegclip":
        raise CheckpointError(f"checkpoints of {method!r} cannot be converted; choose zegclip")
    prompts = state["backbone.prompt_embeddings"]
    deep = state.get("backbone.deep_prompt_embeddings")
    layers = 1 + max(int(name.split(".")[3]) for name in state if name.startswith("decode_head.decoder_1.layers."))
    clip = _clip(state, sizes.pop("vision_heads", prompts.shape[2] // 64), sizes.pop("text_heads", None))
    options = {**ZegCLIP.PUBLISHED, "train_grid": None, **sizes}  # the stored table is already the one of the training crops
    segmenter = ZegCLIP(
        clip, num_prompts=prompts.shape[1], prompt_depth=1 if deep is None else 1 + len(deep), decoder_layers=layers,
        hidden_dim=state["decode_head.decoder_1.layers.0.linear1.weight"].shape[0], **options,
    )  # fmt: skip
    ours: dict[str, Tensor] = {}
    report = Report()
    last = rf"decode_head\.decoder_1\.layers\.{layers - 1}\."
    for name, tensor in state.items():
        if re.fullmatch(_ZEGCLIP_DEAD, name) or re.match(last + r"(?!multihead_attn\.[qk]\.)", name):
            report.dead.append(name)
            continue
        new = re.sub(last + r"multihead_attn\.", "decoder.", name)
        new = re.sub(r"^decode_head\.decoder_1\.layers\.", "decoder.layers.", new)
        for pattern, target in _ZEGCLIP_NAMES:
            if re.fullmatch(pattern, new):
                new = re.sub(pattern, target, new)
                break
        ours[new] = tensor.float()
        report.loaded.append(name)
    own = segmenter.state_dict()
    odd = sorted(ours.keys() ^ own.keys()) or sorted(name for name in own if own[name].shape != ours[name].shape)
    if odd:
        raise CheckpointError(f"the checkpoint does not fit {method} (first tensor out of place: {odd[0]}); is it one of another method or size?")
    segmenter.load_state_dict(ours)
    return segmenter.eval(), report


def _clip(state: dict[str, Tensor], vision_heads: int, text_heads: int | None) -> CLIP:
    width, _, _, patch = state["backbone.conv1.weight"].shape
    side = round((len(state["backbone.positional_embedding"]) - 1) ** 0.5)
    context, text_width = state["text_encoder.positional_embedding"].shape
    blocks = [len({n.split(".")[3] for n in state if n.startswith(f"{part}.transformer.resblocks.")}) for part in ("backbone", "text_encoder")]
    config = {
        "embed_dim": state["backbone.proj"].shape[1],
        "vision_cfg": {"image_size": side * patch, "patch_size": patch, "width": width, "layers": blocks[0], "head_width": width // vision_heads},
        "text_cfg": {
            "context_length": context, "vocab_size": len(state["text_encoder.token_embedding.weight"]), "width": text_width,
            "heads": text_heads or max(1, text_width // 64), "layers": blocks[1],
        },
        "quick_gelu": True,
    }  # fmt: skip
    return build_clip(config, source="released")
