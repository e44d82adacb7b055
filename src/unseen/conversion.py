"""Published checkpoints to segmenters: the released codes' parameter names to ours, every tensor
accounted for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unseen.backbones.clip.loading import build_clip, build_text
from unseen.backbones.clip.shapes import config_from_shapes, text_config_from_shapes
from unseen.backbones.clip.text import CLIPText, StoredText
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import CheckpointError, SettingError
from unseen.methods import create

Names = Sequence[tuple[str, str]]


@dataclass
class Report:
    """What became of every tensor of a checkpoint, in the names it has there; `missing` in ours.

    Attributes:
        loaded: Tensors that are now in the segmenter.
        dead: Tensors that never influenced the released output.
        missing: Tensors the segmenter needs and the file lacks.
        unknown: Tensors the method has no place for.
        misshaped: Tensors of another shape than their place, with both.
        not_finite: Tensors that hold NaN or infinity.
        heads: Of the towers, which no shape tells, by tower.
    """

    loaded: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    heads: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What a reader wants to see: the number of each kind, and the names with layers' numbers
        as `*`.
        """
        found = []
        for kind in ("loaded", "dead", "missing", "unknown", "misshaped", "not_finite"):
            names = getattr(self, kind)
            found.append(f"{kind.replace('_', ' ')}: {len(names)}")
            groups = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
            found += [
                f"    {name}" + (f"  x {count}" if count > 1 else "")
                for name, count in groups.items()
            ]
        if self.heads:
            found.append(
                "heads, which shapes do not tell:"
                f" {', '.join(f'{tower} {count}' for tower, count in self.heads.items())}"
                " (--vision_heads, --text_heads)"
            )
        return found

    @property
    def problem(self) -> str | None:
        """The first thing that is wrong, or None."""
        for name, what in (
            ("misshaped", "of another shape"),
            ("missing", "missing"),
            ("unknown", "unknown"),
            ("not_finite", "not finite"),
        ):
            found = getattr(self, name)
            if found:
                return f"{found[0]} is {what}" + (
                    f", and {len(found) - 1} more" if len(found) > 1 else ""
                )
        return None


@dataclass(frozen=True)
class Released:
    """How a released code names things.

    Attributes:
        mark: Start of a name that no other method's checkpoint has.
        towers: Prefixes of image and text tower; None for an image tower that is not there or idle;
            None for both where the text tower has to be given.
        names: Patterns of names and what they become, the first that fits whole.
        dead: Pattern of tensors without influence. `LAST` stands for the number of the decoder's
            last layer, `USED` for those of the image blocks that count.
        options: Options of the method, read off shapes.
        folds: It was trained on folds, with one query class an image.
    """

    mark: str
    towers: tuple[str | None, str] | None
    names: Names
    dead: str
    options: Callable[[dict[str, Tensor]], dict[str, Any]]
    folds: bool = False


def _layers(state: dict[str, Tensor], start: str) -> int:
    return 1 + max(
        (int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start)),
        default=-1,
    )


def _prompts(state: dict[str, Tensor]) -> dict[str, Any]:
    deep = state.get("backbone.deep_prompt_embeddings")
    return {
        "num_prompts": state["backbone.prompt_embeddings"].shape[1],
        "prompt_depth": 1 if deep is None else 1 + len(deep),
    }


def _zegclip(state: dict[str, Tensor]) -> dict[str, Any]:
    hidden = state["decode_head.decoder_1.layers.0.linear1.weight"].shape[0]
    return {
        **_prompts(state),
        "decoder_layers": _layers(state, "decode_head.decoder_1.layers."),
        "hidden_dim": hidden,
        "train_grid": None,
    }


def _clip_rc(state: dict[str, Tensor]) -> dict[str, Any]:
    side = round(len(state["backbone.region_level_bridge"]) ** 0.5)
    recovery = _layers(
        state, "decode_head.recovery_decoder.decouple_q."
    )  # not needed to predict, so it may have been stripped
    return {
        **_prompts(state),
        "lattice": (side, side),
        "decoder_layers": _layers(state, "decode_head.decoder_q.layers."),
        **({"recovery_layers": recovery} if recovery else {"recovery_weight": 0.0}),
        "hidden_dim": state["decode_head.decoder_q.layers.0.linear1.weight"].shape[0],
        "train_grid": None,
    }


def _esda(state: dict[str, Tensor]) -> dict[str, Any]:
    adapters = "image_encoder.prompt.0" in state
    return {
        "train_grid": None,
        "adapters": adapters,
        **({"rank": state["image_encoder.prompt.0"].shape[1]} if adapters else {}),
    }


def _edgeclip(state: dict[str, Tensor]) -> dict[str, Any]:
    own = {
        renamed(name, RELEASED["edgeclip"].names, ""): tensor for name, tensor in state.items()
    }  # under either of the two names of a tensor
    stages = [f"backbone.layer{i}." for i in (1, 2, 3)]
    return {
        "stem": tuple(len(own[f"backbone.conv1.{i}.weight"]) for i in (0, 3, 6)),
        "planes": tuple(len(own[f"{stage}0.conv1.weight"]) for stage in stages),
        "blocks": tuple(_layers(own, stage) for stage in stages),
        "match_dim": len(own["project.0.weight"]),
    }


def _sazs(state: dict[str, Tensor]) -> dict[str, Any]:
    if "fc1.weight" in state:
        first = {
            level: state[f"base.{level}.0.{'conv2.' if 3 <= level <= 6 else ''}weight"]
            for level in range(1, 9)
        }
        parts = {level: _layers(state, f"base.{level}.") for level in first}
        layers = [
            count if 3 <= level <= 6 else -(-count // 3) for level, count in parts.items()
        ]  # convolution, norm, and a ReLU without tensors
        return {
            "backbone": "drn_d_105",
            "drn_layers": tuple(layers),
            "drn_channels": tuple(len(weight) for weight in first.values()),
        }
    hidden, width = state["pretrained.model.blocks.0.mlp.fc1.weight"].shape
    blocks = (
        _layers(state, "pretrained.model.blocks.") // 2
    )  # the features come from the middle one
    positions = state["pretrained.model.pos_embed"].shape[1] - 1
    return {
        "backbone": "vit_large",
        "vit_sizes": (width, blocks, max(1, width // 64), hidden, round(positions**0.5)),
    }


_MMSEG: Names = (
    (r"backbone\.(prompt_embeddings|deep_prompt_embeddings|prompt_proj\..*)", r"prompts.\1"),
    (r"backbone\.(prompt_norm\..*)", r"\1"),
    (r"backbone\.region_level_bridge", r"bridge.tokens"),
    (r"backbone\.(.*)", r"clip.visual.\1"),
    (r"text_encoder\.(.*)", r"clip.text.\1"),
)
_UNUSED = r"(self_attn|norm1)\..*"

RELEASED: dict[str, Released] = {
    "zegclip": Released(
        "decode_head.decoder_1.",
        ("backbone.", "text_encoder."),
        (
            *_MMSEG,
            (r"decode_head\.(q_proj\..*)", r"descriptor.\1"),
            (r"decode_head\.decoder_1\.layers\.LAST\.multihead_attn\.([qk]\..*)", r"decoder.\1"),
            (r"decode_head\.decoder_1\.(layers\..*)", r"decoder.\1"),
        ),
        rf"decode_head\.(decoder_1\.layers\.(\d+\.{_UNUSED}|LAST\.(?!multihead_attn\.[qk]\.).*)|loss_decode\..*)",
        _zegclip,
    ),
    "clip_rc": Released(
        "decode_head.decoder_q.",
        ("backbone.", "text_encoder."),
        (
            *_MMSEG,
            (r"decode_head\.((q|lateral)_proj\..*)", r"\1"),
            (r"decode_head\.decoder_([qv])\.layers\.(.*)", r"decoder.\1.\2"),
            (r"decode_head\.recovery_decoder\.decouple_([qv])\.(.*)", r"recovery.decoder.\1.\2"),
            (r"decode_head\.recovery_decoder\.(linear_.*)", r"recovery.\1"),
        ),
        rf"decode_head\.((decoder_[qv]\.layers|recovery_decoder\.decouple_[qv])\.\d+\.{_UNUSED}|loss_decode\..*)",
        _clip_rc,
    ),
    "esda": Released(
        "image_encoder.",
        ("image_encoder.", "text_encoder."),
        (
            (r"image_encoder\.(text_cls_proj\..*)", r"\1"),
            (r"image_encoder\.prompt\.(.*)", r"adapters.\1"),
            (r"image_encoder\.(.*)", r"clip.visual.\1"),
            (r"text_encoder\.(.*)", r"clip.text.\1"),
            (r"decoder\.VL_interaction\.(\d)\.resblocks\.0\.(.*)", r"interactor.together.\1.\2"),
            (r"decoder\.IEE\.(\d)\.resblocks\.0\.(.*)", r"interactor.patches.\1.\2"),
            (r"decoder\.SSE\.0\.resblocks\.0\.(.*)", r"interactor.support.\1"),
            (r"decoder\.(text_\w+_proj\..*)", r"interactor.\1"),
            (r"decoder\.res2\.([02]\..*)", r"head.\1"),
            (r"decoder\.cls\.0\.(.*)", r"head.4.\1"),
            (r"decoder\.cls\.3\.(.*)", r"head.7.\1"),
        ),
        r"",
        _esda,
        folds=True,
    ),
    "edgeclip": Released(
        "gam.gate.",
        (None, "model."),
        (
            (r"layer0\.0\.(.*)", r"backbone.conv1.\1"),
            (r"layer0\.1\.(.*)", r"backbone.bn1.\1"),
            (r"(layer[123]\..*)", r"backbone.\1"),
            (r"gam\.(gate\..*)", r"\1"),
            (r"down_query\.(.*)", r"project.\1"),
            (r"down_text_cp\.(.*)", r"project_word.\1"),
            (r"down_text_up\.(.*)", r"project_background.\1"),
            (r"model\.(.*)", r"clip.text.\1"),
        ),
        r"model\.(visual\..*|logit_scale)|down_supp\..*",
        _edgeclip,
        folds=True,
    ),
    "sazs": Released(
        "edgeocr_cls_head.",
        None,
        (
            (r"edgeocr_cls_head\.(.*)", r"edge_head.\1"),
            (r"pretrained\.model\.patch_embed\.proj\.(.*)", r"backbone.patch_embed.\1"),
            (r"pretrained\.model\.(.*)", r"backbone.\1"),
            (r"pretrained\.act_postprocess2\.0\.project\.0\.(.*)", r"backbone.readout.\1"),
            (r"pretrained\.act_postprocess2\.3\.(.*)", r"backbone.project.\1"),
            (r"pretrained\.act_postprocess2\.4\.(.*)", r"backbone.upsample.\1"),
            (r"((base|pool\d_conv|pool\d_bn|fc1|fc1_bn)\..*)", r"backbone.\1"),
        ),
        r"pretrained\.model\.(blocks\.(?!(?:USED)\.)\d+|norm|head)\..*|pretrained\.act_postprocess[134]\..*|scratch\..*|fc2\..*|up\..*",
        _sazs,
        folds=True,
    ),
}


def from_state_dict(method: str, state: dict[str, Tensor], **sizes: Any) -> TextSegmenter:
    """A segmenter with a released checkpoint's weights, in eval mode, behaving as the released code
    does.

    Args:
        method: Key of `RELEASED`.
        state: Tensors under the released names.
        sizes: What shapes do not tell: `vision_heads`, `text_heads` (64 channels each by default),
            `clip`, the text half of a CLIP, where the checkpoint holds none (SAZS), and any option
            of the method, such as `decoder_heads`.

    Raises:
        CheckpointError: The checkpoint of another method, or a tensor that is missing, unknown, of
            another shape or not finite.
    """
    segmenter, report = translate(method, state, **sizes)
    if report.problem:
        raise CheckpointError(
            f"the checkpoint does not fit {method} ({report.problem}); is it one of another size or"
            " version?"
        )
    return segmenter


def read_sizes(method: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """The options of the method that the shapes of a released checkpoint tell.

    Raises:
        CheckpointError: The checkpoint of another method, of none, or a part of one.
    """
    if method not in RELEASED:
        raise CheckpointError(
            f"checkpoints of {method!r} cannot be converted; choose one of {', '.join(RELEASED)}"
        )
    looks = [
        name for name, other in RELEASED.items() if any(key.startswith(other.mark) for key in state)
    ]
    if method not in looks:
        what = (
            f"looks like one of {looks[0]}"
            if looks
            else "is of none of the methods that can be converted"
        )
        raise CheckpointError(
            f"the checkpoint has no {RELEASED[method].mark}* as {method}'s have; it {what}"
        )
    try:
        return RELEASED[method].options(state)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint lacks what says {method}'s sizes ({error}); it may be a part of one,"
            " so download it again"
        ) from error


def translate(method: str, state: dict[str, Tensor], **sizes: Any) -> tuple[TextSegmenter, Report]:
    """As `from_state_dict`, with the report; tensors that do not fit are listed there and left out
    instead of refused.

    Raises:
        CheckpointError: The checkpoint of another method, or of none.
        SettingError: A text tower that is missing, is too many, or of another width.
    """
    read = read_sizes(method, state)
    released = RELEASED[method]
    clip = _tower(method, state, sizes)
    segmenter = create(method, clip, published=True, **{**read, **sizes})
    heads: dict[str, int] = {}
    if released.towers is not None:
        heads = _heads_of(clip)
    report, own, ours = Report(heads=heads), segmenter.state_dict(), {}
    last = str(read.get("decoder_layers", 0) - 1)
    dead = released.dead.replace("LAST", last).replace(
        "USED", "|".join(map(str, range(read.get("vit_sizes", (0, 0))[1])))
    )
    for name, tensor in state.items():
        place = renamed(name, released.names, last)
        idle = "recovery_decoder." in name and not any(
            key.startswith("recovery.") for key in own
        )  # of a weight of 0
        if idle or re.fullmatch(dead, name):
            report.dead.append(name)
        elif place not in own:
            report.unknown.append(name)
        elif own[place].shape != tensor.shape:
            report.misshaped.append(
                f"{name} ({list(tensor.shape)} instead of {list(own[place].shape)})"
            )
            ours[place] = own[place]
        else:
            (report.loaded if bool(torch.isfinite(tensor).all()) else report.not_finite).append(
                name
            )
            ours[place] = tensor.float()
    brought = own.keys() if released.towers is not None else segmenter.trainable_state().keys()
    report.missing = sorted(brought - ours.keys())
    segmenter.load_state_dict(ours, strict=False)
    return segmenter.eval(), report


def _heads_of(clip: CLIPText | StoredText) -> dict[str, int]:
    """The attention heads of a tower's parts, which the shapes of the weights do not tell."""
    if isinstance(clip, StoredText) or not clip.config:
        return {}
    heads = {"text": clip.config["text_cfg"]["heads"]}
    vision = clip.config.get("vision_cfg")
    if vision:
        heads["image"] = vision["width"] // vision["head_width"]
    return heads


def renamed(name: str, names: Names, last: str) -> str:
    """Our name of a released tensor; `LAST` in the patterns stands for the number of the decoder's
    last layer.
    """
    for pattern, target in names:
        found = re.fullmatch(pattern.replace("LAST", last), name)
        if found:
            return found.expand(target)
    return name


def _tower(method: str, state: dict[str, Tensor], sizes: dict[str, Any]) -> CLIPText | StoredText:
    """The tower the method stands on, from the checkpoint or given among `sizes`, out of which what
    concerns it is taken.
    """
    towers, given = RELEASED[method].towers, sizes.pop("clip", None)
    heads = sizes.pop("vision_heads", None), sizes.pop("text_heads", None)
    if towers is not None:
        if given is not None:
            raise SettingError(f"a checkpoint of {method} brings its own towers; leave clip away")
        return _clip(state, towers, *heads)
    if not isinstance(given, (CLIPText, StoredText)):
        raise SettingError(
            f"a checkpoint of {method} holds no text tower; give the one it was trained with as"
            " clip (ViT-B-32-quickgelu/openai)"
        )
    if heads != (None, None):
        raise SettingError(
            f"a checkpoint of {method} holds no tower of CLIP whose heads could be told; leave them"
            " away, a ViT's own are part of vit_sizes"
        )
    width = state[f"{RELEASED[method].mark}weight"].shape[1]
    if given.embed_dim != width:
        raise SettingError(
            f"the checkpoint's words have {width} numbers, those of {given.source or 'the tower'}"
            f" {given.embed_dim}; give the tower it was trained with"
        )
    return given


def _clip(
    state: dict[str, Tensor],
    towers: tuple[str | None, str],
    vision_heads: int | None,
    text_heads: int | None,
) -> CLIPText:
    """A tower of the checkpoint's sizes, its position table as large as stored; the weights come
    with all others.
    """
    image, words = towers
    named = {
        name.removeprefix(words): tensor for name, tensor in state.items() if name.startswith(words)
    }
    if image is None:
        return build_text(
            text_config_from_shapes(named, path="the checkpoint", text_heads=text_heads),
            source="released",
        )
    named |= {
        f"visual.{name.removeprefix(image)}": tensor
        for name, tensor in state.items()
        if name.startswith(image)
    }
    return build_clip(
        config_from_shapes(
            named, path="the checkpoint", vision_heads=vision_heads, text_heads=text_heads
        ),
        source="released",
    )
