"""Loading of CLIPs: the one that comes with the package, open_clip's tags, files of weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import open_clip
import torch
from open_clip.transformer import QuickGELU, TextTransformer
from safetensors import safe_open
from torch import Tensor, nn

from unseen.backbones.archives import check_is_file, read_state_dict
from unseen.backbones.clip.shapes import (
    check_sizes,
    config_from_shapes,
    parse_config,
    text_config_from_shapes,
)
from unseen.backbones.clip.text import NO_TOWER, CLIPText, text_tower_of
from unseen.backbones.clip.tower import CLIP
from unseen.backbones.hub import load_from_hub, log_first_warning_only
from unseen.errors import CheckpointError, SettingError

_log = logging.getLogger(__name__)

DOODLES = "doodles"
"""The source name of the small CLIP that comes with the package; it was trained on drawings of the
twenty classes of `unseen.data.doodles` alone."""

SMALLEST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}

Part = TypeVar("Part", CLIP, CLIPText)


def load_clip(source: str = DOODLES) -> CLIP:
    """A CLIP from a name or a file.

    Args:
        source: "doodles" (comes with the package); `ARCHITECTURE/TAG` of open_clip, such as
            "ViT-B-16-quickgelu/openai" (downloaded once and cached by huggingface_hub); or a path:
            an OpenAI `.pt` archive (read as data, nothing in it runs), a `.safetensors` file or a
            plain state dict in OpenAI's names. `ARCHITECTURE@FILE` takes heads and activation from
            an architecture of open_clip, as a plain state dict does not name them:
            "ViT-B-16@weights.pt" was trained with GELU. `ARCHITECTURE/random` builds the tower with
            random weights, to try a set-up out.

    Raises:
        SettingError: No such file and no such tag, or a tower that is not a plain ViT.
        CheckpointError: A file that cannot be read or does not hold a CLIP.
    """
    if source == NO_TOWER:
        raise SettingError(
            "this method looks at images with CLIP's image tower, so --clip none is not enough;"
            " give a tower"
        )
    return _load(source, _clip_from_file, build_clip, _clip_from_model)


def load_text(source: str = DOODLES) -> CLIPText:
    """The text half of a CLIP, whatever its image tower is.

    Args:
        source: As for `load_clip`, any CLIP with OpenAI's text tower ("RN50/openai").

    Raises:
        SettingError: No such file and no such tag.
        CheckpointError: A file that cannot be read or does not hold a CLIP.
    """
    if source == NO_TOWER:
        raise SettingError(
            "without a text tower (--clip none) the text features must come from a file; give it"
            " with --text-embeddings"
        )
    return _load(source, _text_from_file, build_text, _text_from_model)


def _load(
    source: str,
    from_file: Callable[[Path, str, dict[str, Any] | None], Part],
    from_config: Callable[..., Part],
    from_model: Callable[[Any, str], Part],
) -> Part:
    """A CLIP, or its text half, from whatever the source names: a file, random weights, a tag."""
    # Files come first: a path may look like ARCHITECTURE/TAG.
    named = _file_of(source)
    if named is not None:
        file, config = named
        with file as path:
            return from_file(path, source, config)
    architecture, _, tag = source.rpartition("/")
    if tag == "random" and architecture in open_clip.list_models():
        return from_config(open_clip.get_model_config(architecture), source=source)
    return from_model(_fetch(source), source)


def _clip_from_model(model: Any, source: str) -> CLIP:
    # Statistics belong to the weights: other trainings than OpenAI's may have used others.
    preprocess = open_clip.get_model_preprocess_cfg(model)
    return CLIP(model, mean=preprocess["mean"], std=preprocess["std"], source=source)


def _text_from_model(model: Any, source: str) -> CLIPText:
    text = text_tower_of(model, source)
    return CLIPText(text, text.text_projection.shape[1], source=source)


def _file_of(source: str) -> tuple[AbstractContextManager[Path], dict[str, Any] | None] | None:
    """The file a source names, and the configuration given with it; None if it names none."""
    # The package may be imported from a zip file: `as_file` then unpacks the weights meanwhile.
    if source == DOODLES:
        return (
            resources.as_file(resources.files("unseen") / "weights" / "doodles.safetensors"),
            None,
        )
    path, (named, at, file) = Path(source), source.partition("@")
    for given in (path, Path(file)):
        if given.exists() and not given.is_dir():
            check_is_file(given)  # a pipe or a device is no name either
    if path.is_file():
        return nullcontext(path), None
    if not at or not Path(file).is_file():
        return None
    config = open_clip.get_model_config(named)
    if config is None:
        raise SettingError(
            f"open_clip has no architecture called {named!r}; give one of its names before the @,"
            " such as ViT-B-16"
        )
    return nullcontext(Path(file)), config


def _fetch(source: str) -> Any:
    """A model of open_clip with its weights, by ARCHITECTURE/TAG."""
    architecture, slash, tag = source.rpartition("/")
    if not slash or tag not in open_clip.list_pretrained_tags_by_model(architecture):
        start = architecture or source
        similar = [name for name in known_sources() if name.startswith(start)]
        examples = similar[:4] or ["ViT-B-16-quickgelu/openai"]
        raise SettingError(
            f"no file and no open_clip tag is called {source!r}; give a path, {DOODLES!r}, or a tag"
            f" such as {', '.join(examples)}"
        )
    about = open_clip.get_pretrained_cfg(architecture, tag)

    def load() -> Any:
        # The activation belongs to the weights, not to the architecture's name: OpenAI's ViT-B-16
        # needs QuickGELU under either name.
        with log_first_warning_only():
            return open_clip.create_model(
                architecture, pretrained=tag, force_quick_gelu=bool(about.get("quick_gelu", False))
            )

    repo, _, name = about["hf_hub"].rpartition("/")
    names = [name or "open_clip_pytorch_model.bin"]
    if not name:
        names = ["open_clip_model.safetensors", *names]
    return load_from_hub(repo, names, source, load)


def known_sources() -> list[str]:
    """The names `load_clip` takes for plain ViTs: the doodle CLIP and open_clip's tags."""
    return [
        DOODLES,
        *(
            f"{name}/{tag}"
            for name, tag in open_clip.list_pretrained()
            # SigLIP pools with attention, so its patches do not lie in the joint space.
            if name.startswith("ViT-") and "SigLIP" not in name
        ),
    ]


def build_clip(config: dict[str, Any], *, source: str = "", seed: int = 0) -> CLIP:
    """A CLIP with random weights: for tests, for pre-training, and to load weights into.

    Args:
        config: open_clip's configuration: `embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu`;
            without `text_cfg` an image tower alone.
        source: Where its weights will come from.
        seed: Of the random weights.
    """
    image_only = "text_cfg" not in config
    # open_clip builds no CLIP without a text tower; the smallest one is left away again.
    whole = {"text_cfg": SMALLEST_TEXT, **config}
    # A generator of its own: loading a tower must not shift the random numbers of a run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**whole)
    return CLIP(
        model,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        source=source,
        config=config,
        image_only=image_only,
    )


def build_text(config: dict[str, Any], *, source: str = "", seed: int = 0) -> CLIPText:
    """The text half of a CLIP with random weights; arguments as for `build_clip`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _new_text(config, source)


def _new_text(config: dict[str, Any], source: str) -> CLIPText:
    """A text half with random weights, from open_clip's configuration of a whole CLIP."""
    # `text_cfg` may hold more than the transformer's sizes, such as the name of a tokenizer.
    sizes = {
        name: config["text_cfg"][name]
        for name in ("context_length", "vocab_size", "width", "heads", "layers")
    }
    activation: type[nn.Module] = nn.GELU
    if config.get("quick_gelu"):
        activation = QuickGELU
    text = TextTransformer(**sizes, output_dim=config["embed_dim"], act_layer=activation)
    return CLIPText(text, config["embed_dim"], source=source, config=config)


SIZES_OF_OPENAI = ("input_resolution", "context_length", "vocab_size")
"""What OpenAI's archives carry along with the weights."""


def _read(
    path: Path, config: dict[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A CLIP's weights in float32, and its configuration if it is given or stored with them."""
    stored = read_state_dict(path)
    if config is not None:
        check_sizes(config, stored, path)
    config = config or _stored_config(path, stored)
    if config is None and SIZES_OF_OPENAI[0] not in stored:
        _log.warning(
            "unseen: %s does not say which activation it was trained with, and QuickGELU is"
            " assumed, which OpenAI's have; for others give ARCHITECTURE@FILE, such as ViT-B-16@%s",
            path,
            path,
        )
    state = {name: tensor for name, tensor in stored.items() if name not in SIZES_OF_OPENAI}
    whole = next((name for name, tensor in state.items() if not tensor.is_floating_point()), None)
    if whole is not None:
        raise CheckpointError(
            f"{path} stores {whole[:80]} as {state[whole].dtype}; give the weights as floats"
        )
    return {name: tensor.float() for name, tensor in state.items()}, config


def _clip_from_file(path: Path, source: str, config: dict[str, Any] | None) -> CLIP:
    # The user's architecture comes first, then what the file says of itself; shapes are the last
    # resort, as they show neither activation nor heads.
    state, config = _read(path, config)
    config = config or config_from_shapes(state, path=path)
    with _built_from(path):
        clip = build_clip(config, source=source)
    _load_all(clip, state, path)
    return clip


def _text_from_file(path: Path, source: str, config: dict[str, Any] | None) -> CLIPText:
    # Any image tower will do here, also a ResNet: its weights are not even looked at.
    whole, config = _read(path, config)
    state = {name: tensor for name, tensor in whole.items() if not name.startswith("visual.")}
    config = config or text_config_from_shapes(state, path=path)
    if "text_cfg" not in config:
        raise CheckpointError(
            f"{path} holds an image tower alone and no text tower; give a whole CLIP, or --clip"
            " none with --text-embeddings FILE.npy"
        )
    with _built_from(path):
        clip = _new_text(config, source)
    _load_all(clip, state, path)
    return clip


@contextmanager
def _built_from(path: Path) -> Iterator[None]:
    """Say which file holds sizes that open_clip cannot build."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        KeyError,
        AssertionError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise CheckpointError(
            f"{path} has sizes that no CLIP can be built with ({str(error).splitlines()[0][:100]});"
            " give another file"
        ) from error


def _load_all(clip: CLIPText, state: dict[str, Tensor], path: Path) -> None:
    """Load the weights of a file, which must be those of the whole CLIP.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape or not finite.
    """
    # `CLIPText` holds its tower in `text`; OpenAI's names have no such prefix.
    expected = {name.removeprefix("text."): tensor for name, tensor in clip.state_dict().items()}
    # Temperature and bias of the pre-training loss belong to neither tower.
    misplaced = sorted(expected.keys() ^ (state.keys() - {"logit_scale", "logit_bias"}))
    if not misplaced:
        misplaced = sorted(
            name for name, tensor in expected.items() if tensor.shape != state[name].shape
        )
    if misplaced:
        raise CheckpointError(
            f"{path} does not hold a CLIP in OpenAI's names (first tensor out of place:"
            f" {misplaced[0]}); give an OpenAI or open_clip ViT file"
        )
    bad = next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        raise CheckpointError(
            f"{path} holds values that are not finite (in {bad}); download it again"
        )
    clip.load_state_dict({name: state[name.removeprefix("text.")] for name in clip.state_dict()})


def _stored_config(path: Path, state: dict[str, Tensor]) -> dict[str, Any] | None:
    """The configuration in the header of a safetensors file written by `unseen pretrain`."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        stored = (file.metadata() or {}).get("config")
    return parse_config(stored, state, path) if stored else None
