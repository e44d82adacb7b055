"""Published checkpoints to segmenters: every tensor of the file is accounted for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unseen.backbones.clip.loading import build_clip, build_text
from unseen.backbones.clip.shapes import config_from_shapes, text_config_from_shapes
from unseen.backbones.clip.text import CLIPText, StoredText
from unseen.clip_segmenter import TextSegmenter
from unseen.errors import CheckpointError, SettingError
from unseen.methods import METHODS, create, known
from unseen.released import Released, rename


def released(method: str) -> Released:
    """How a method's released checkpoints look.

    Raises:
        SettingError: No such method.
        CheckpointError: There are none that can be converted.
    """
    found = known(method).cls.RELEASED
    if found is None:
        names = [name for name, line in METHODS.items() if line.cls.RELEASED is not None]
        raise CheckpointError(
            f"checkpoints of {method!r} cannot be converted; choose one of {', '.join(names)}"
        )
    return found


PROBLEMS = {
    "misshaped": "of another shape",
    "missing": "missing",
    "unknown": "unknown",
    "not_finite": "not finite",
}
"""Kinds of tensors that a segmenter cannot be made with, and what is wrong with them."""


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
        alike: Other methods whose checkpoints have the same names and shapes.
    """

    loaded: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    heads: dict[str, int] = field(default_factory=dict)
    alike: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The number of tensors of each kind, and their names with layers' numbers as `*`."""
        lines = []
        for kind in ("loaded", "dead", "missing", "unknown", "misshaped", "not_finite"):
            names = getattr(self, kind)
            lines.append(f"{kind.replace('_', ' ')}: {len(names)}")
            # One line for the same tensor of every layer.
            groups = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
            for name, count in groups.items():
                times = f"  x {count}" if count > 1 else ""
                lines.append(f"    {name}{times}")
        if self.heads:
            heads = ", ".join(f"{tower} {count}" for tower, count in self.heads.items())
            lines.append(f"heads, which shapes do not tell: {heads} (--vision_heads, --text_heads)")
        if self.alike:
            lines.append(f"checkpoints of {', '.join(self.alike)} look the same: is it not theirs?")
        return lines

    @property
    def problem(self) -> str | None:
        """The first thing that is wrong, or None."""
        for kind, problem in PROBLEMS.items():
            names = getattr(self, kind)
            if names:
                more = f", and {len(names) - 1} more" if len(names) > 1 else ""
                return f"{names[0]} is {problem}{more}"
        return None


def read_sizes(method: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """The options of the method that follow from the shapes of a released checkpoint.

    Raises:
        CheckpointError: The checkpoint of another method, of none, or a part of one.
    """
    look = released(method)
    if not any(key.startswith(look.mark) for key in state):
        raise CheckpointError(
            f"the checkpoint has no {look.mark}* as {method}'s have; it {_what_it_is(state)}"
        )
    try:
        return look.options(state)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint lacks tensors that give {method}'s sizes ({error}); it may be a part"
            " of one, so download it again"
        ) from error


def _what_it_is(state: dict[str, Tensor]) -> str:
    """Whose checkpoint it looks like."""
    for name, line in METHODS.items():
        look = line.cls.RELEASED
        if look is not None and any(key.startswith(look.mark) for key in state):
            return f"looks like one of {name}"
    return "is of none of the methods that can be converted"


def translate(
    method: str,
    state: dict[str, Tensor],
    *,
    clip: CLIPText | StoredText | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    **options: Any,
) -> tuple[TextSegmenter, Report]:
    """A segmenter with a released checkpoint's weights, behaving as the released code does.

    Tensors that do not fit are listed in the report and left out.

    Args:
        method: A method with released checkpoints.
        state: Tensors under the released names.
        clip: The text half of a CLIP, where the checkpoint holds no tower (SAZS).
        vision_heads: Heads of the image tower, which no shape tells; 64 channels each by default.
        text_heads: Heads of the text tower, likewise.
        **options: Options of the method, which win over those read off the shapes.

    Returns:
        The segmenter, in eval mode, and what became of every tensor.

    Raises:
        CheckpointError: The checkpoint of another method, or of none.
        SettingError: A text tower that is missing, is too many, or of another width.
    """
    read, look = read_sizes(method, state), released(method)
    heads = {"vision_heads": vision_heads, "text_heads": text_heads}
    if look.towers is None:
        tower = _given_tower(method, state, clip, heads)
    elif clip is not None:
        raise SettingError(f"a checkpoint of {method} brings its own towers; leave clip away")
    else:
        tower = _stored_tower(state, look.towers, heads)
    segmenter = create(method, tower, published=True, **{**read, **options})
    alike = [name for name, line in METHODS.items() if line.cls.RELEASED is look and name != method]
    report = Report(heads=_heads_of(tower) if look.towers is not None else {}, alike=tuple(alike))
    ours = _place_tensors(state, segmenter, look, read, report)
    needed = segmenter.state_dict() if look.towers is not None else segmenter.trainable_state()
    report.missing = sorted(needed.keys() - ours.keys())
    segmenter.load_state_dict(ours, strict=False)
    return segmenter.eval(), report


def _place_tensors(
    state: dict[str, Tensor],
    segmenter: TextSegmenter,
    look: Released,
    read: dict[str, Any],
    report: Report,
) -> dict[str, Tensor]:
    """The tensors under our names; the report is filled with what became of each."""
    own, ours = segmenter.state_dict(), {}
    # Patterns cannot count: the numbers they need are put in here.
    last = str(read.get("decoder_layers", 0) - 1)
    used = "|".join(map(str, range(read.get("vit_sizes", (0, 0))[1])))
    unused = look.unused.replace("LAST", last).replace("USED", used)
    for name, tensor in state.items():
        place = rename(name, look.names, last)
        # A part that the options leave out, such as a decoder whose loss weighs nothing, or that
        # passes everything through, as the norm of shallow prompts does.
        part = getattr(segmenter, place.split(".")[0], False)
        left_out = part is None or isinstance(part, nn.Identity)
        if left_out or re.fullmatch(unused, name):
            report.dead.append(name)
        elif place not in own:
            report.unknown.append(name)
        elif own[place].shape != tensor.shape:
            shapes = f"{list(tensor.shape)} instead of {list(own[place].shape)}"
            report.misshaped.append(f"{name} ({shapes})")
            # Counted as present, so that it is not reported as missing too.
            ours[place] = own[place]
        elif not bool(torch.isfinite(tensor).all()):
            report.not_finite.append(name)
            ours[place] = tensor.float()
        else:
            report.loaded.append(name)
            ours[place] = tensor.float()
    return ours


# ------------------------------------------------------------------------ towers


def load_given_tower(
    method: str, state: dict[str, Tensor], clip: str | None
) -> CLIPText | StoredText | None:
    """The tower of a checkpoint that brings none: the one that is named, or the published one.

    Raises:
        SettingError: A tower is named, and the checkpoint brings its own.
        CheckpointError: The checkpoint of another method.
    """
    look = released(method)
    if look.tower is None:
        if clip is not None:
            raise SettingError(f"a checkpoint of {method} brings its own towers; remove --clip")
        return None
    read_sizes(method, state)  # refuses another method's checkpoint before a tower is fetched
    return known(method).cls.load_tower(clip or look.tower)


def _heads_of(clip: CLIPText | StoredText) -> dict[str, int]:
    """The attention heads of a tower's parts, which the shapes of the weights do not tell."""
    if isinstance(clip, StoredText) or not clip.config:
        return {}
    heads = {"text": clip.config["text_cfg"]["heads"]}
    vision = clip.config.get("vision_cfg")
    if vision:
        heads["image"] = vision["width"] // vision["head_width"]
    return heads


def _given_tower(
    method: str,
    state: dict[str, Tensor],
    clip: CLIPText | StoredText | None,
    heads: dict[str, int | None],
) -> CLIPText | StoredText:
    """The text encoder of a checkpoint that brings none.

    Raises:
        SettingError: None is given, one of another width, or heads that belong to no tower.
    """
    look = released(method)
    if clip is None:
        raise SettingError(
            f"a checkpoint of {method} holds no text tower; give the one it was trained with as"
            f" clip ({look.tower})"
        )
    if any(count is not None for count in heads.values()):
        raise SettingError(
            f"a checkpoint of {method} holds no tower of CLIP whose heads could be given; leave"
            " them away, a ViT's own are part of vit_sizes"
        )
    width = state[f"{look.mark}weight"].shape[1]
    if clip.embed_dim != width:
        raise SettingError(
            f"the checkpoint's text features have {width} channels, those of"
            f" {clip.source or 'the tower'} {clip.embed_dim}; give the tower it was trained with"
        )
    return clip


def _stored_tower(
    state: dict[str, Tensor], towers: tuple[str | None, str], heads: dict[str, int | None]
) -> CLIPText:
    """A tower of the checkpoint's sizes, its position table as large as stored.

    The weights are loaded later, with all others.
    """
    image, text = towers
    named = _without_prefix(state, text)
    if image is None:
        config = text_config_from_shapes(
            named, path="the checkpoint", text_heads=heads["text_heads"]
        )
        return build_text(config, source="released")
    visual = _without_prefix(state, image)
    named |= {f"visual.{name}": tensor for name, tensor in visual.items()}
    config = config_from_shapes(named, path="the checkpoint", **heads)
    return build_clip(config, source="released")


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
