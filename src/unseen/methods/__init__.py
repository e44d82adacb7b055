"""The table of methods, written by hand.

A new method is one file, one line here, a recipe, a test and a page in docs/methods. A method of
another package joins the table through an entry point of the group `unseen.methods`. The table
holds names of classes, and a class is imported when it is first used: listing methods needs no
torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from unseen.errors import SettingError
from unseen.methods.options import (
    Option,
    arguments,
    check,
    nearest,
    options_of,
    released_options,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from unseen.backbones.clip.text import CLIPText, StoredText
    from unseen.clip_segmenter import TextSegmenter

GROUP = "unseen.methods"
"""Entry points of other packages: method = "module:Class", or "module:NAME" of a `Method`."""


@dataclass(frozen=True)
class Method:
    """A line of the table.

    Attributes:
        path: Where the class is: "module:Class".
        summary: A sentence about the method.
        trainable: Whether it has to be trained, as the class says too.
        options: Arguments of the class that make it this method.
    """

    path: str
    summary: str
    trainable: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def cls(self) -> type[TextSegmenter]:
        """The class; imports torch."""
        module, _, name = self.path.partition(":")
        found: type[TextSegmenter] = getattr(import_module(module), name)
        return found

    @property
    def choices(self) -> dict[str, Option]:
        """The options a user may give, by name; imports torch."""
        return options_of(self.cls, self.options)


def _training_free(mode: str, summary: str) -> Method:
    path = "unseen.methods.training_free:TrainingFree"
    return Method(path, f"{summary}, no training", trainable=False, options={"mode": mode})


OWN: dict[str, Method] = {
    "clip": _training_free("clip", "CLIP's own patch features"),
    "maskclip": _training_free("maskclip", "values of the last block in place of its attention"),
    "maskclip_no_residual": _training_free(
        "maskclip_no_residual", "values of the last block, without residual and feed-forward part"
    ),
    "sclip": _training_free("sclip", "query-query plus key-key attention"),
    "clearclip": _training_free("clearclip", "query-query attention, no residual"),
    "naclip": _training_free("naclip", "key-key attention with a neighbourhood prior"),
    "proxyclip": Method(
        "unseen.methods.proxyclip:ProxyCLIP",
        "values of the last block averaged over patches that look alike to DINO, no training",
        trainable=False,
    ),
    "zegclip": Method(
        "unseen.methods.zegclip:ZegCLIP",
        "visual prompts and a relationship descriptor; train on seen classes",
    ),
    "clip_rc": Method(
        "unseen.methods.clip_rc:CLIPRC",
        "ZegCLIP with regions: one query a region and class, attention in both directions",
    ),
    "otseg": Method(
        "unseen.methods.otseg:OTSeg",
        "ZegCLIP with several prompts a class, each of which finds its patches by optimal"
        " transport",
    ),
    "cascade_clip": Method(
        "unseen.methods.cascade_clip:CascadeCLIP",
        "ZegCLIP that reads the tower's middle blocks as well, a decoder for each group of them",
    ),
    "esda": Method(
        "unseen.methods.esda:ESDA",
        "one query class at a time: its text feature as class token, rank-2 adapters, prior maps",
    ),
    "sazs": Method(
        "unseen.methods.sazs:SAZS",
        "one query class at a time: a trained backbone whose pixels are aligned with CLIP's text"
        " features, guided by edges",
    ),
    "edgeclip": Method(
        "unseen.methods.edgeclip:EdgeCLIP",
        "one query class at a time: prototypes from its text feature, refined twice by a ResNet's"
        " features; contour loss",
    ),
}


class _Table(Mapping[str, Method]):
    """The package's own methods, then those of installed packages, by name.

    Raises:
        SettingError: Two packages have a method of the same name, or one cannot be imported.
    """

    @cached_property
    def _others(self) -> dict[str, EntryPoint]:
        """The entry points of other packages; read once, when the table is first used."""
        from importlib.metadata import entry_points  # a tenth of the time that `--help` takes

        others: dict[str, EntryPoint] = {}
        for point in entry_points(group=GROUP):
            rival = others.get(point.name)
            if point.name in OWN or rival is not None:
                first = "unseen" if rival is None else _package(rival)
                raise SettingError(
                    f"the method {point.name!r} of {_package(point)} has a name that {first} uses"
                    " already; rename it there, or uninstall one of the packages"
                )
            others[point.name] = point
        return others

    def __getitem__(self, name: str) -> Method:
        others = self._others  # read first: a clash of names must not pass unseen
        if name in OWN:
            return OWN[name]
        return _from_package(others[name])

    def __iter__(self) -> Iterator[str]:
        return iter([*OWN, *self._others])

    def __len__(self) -> int:
        return len(OWN) + len(self._others)

    def __contains__(self, name: object) -> bool:
        return name in OWN or name in self._others


METHODS: Mapping[str, Method] = _Table()


def _package(point: EntryPoint) -> str:
    if point.dist is None:
        return point.value
    return point.dist.name


def _from_package(point: EntryPoint) -> Method:
    """The line of another package's method: its own `Method`, or one from its class."""
    try:
        target = point.load()
    except (ImportError, AttributeError) as error:
        raise SettingError(
            f"the method {point.name!r} of {_package(point)} cannot be imported ({error}); update"
            " or uninstall that package"
        ) from error
    if isinstance(target, Method):
        return target
    summary = getattr(target, "summary", f"of the package {_package(point)}")
    return Method(point.value, summary, trainable=target.trainable)


def known(name: str) -> Method:
    """A line of the table.

    Raises:
        SettingError: No such method; the message names the nearest.
    """
    if name not in METHODS:
        raise SettingError(
            f"there is no method called {name!r}{nearest(name, METHODS)}; `unseen list` shows all"
        )
    return METHODS[name]


def create(
    name: str, clip: CLIPText | StoredText, /, *, published: bool = False, **options: Any
) -> TextSegmenter:
    """A segmenter by its name in the table.

    Args:
        name: Key of `METHODS`.
        clip: The tower it stands on.
        published: Start from the released code's choices (`PUBLISHED` and `Quirks` of the class)
            instead of ours; `options` still win.
        options: Keyword arguments of the class, and fields of its `Options` and `Quirks`.

    Raises:
        SettingError: No such method or option; the message names the nearest.
    """
    method = known(name)
    check(name, options, method.choices)
    released: dict[str, Any] = {}
    if published:
        released = released_options(method.cls)
    # What the line of the table fixes, then the released values, then the user's.
    merged = {**method.options, **released, **options}
    return method.cls(clip, **arguments(method.cls, merged))
