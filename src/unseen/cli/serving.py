"""The verb serve: a web page for label maps."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unseen.cli.classes import read_vocabulary
from unseen.cli.flags import FLAT, NOTHING, Given, ModelFlags, settings_flags
from unseen.errors import SettingError
from unseen.settings import InferenceSettings, ServeSettings

if TYPE_CHECKING:
    from unseen.sources import ModelChoices

GROUPS: dict[str, dict[str, Any]] = {
    "serve": {
        "settings": settings_flags(ServeSettings(), "Page", flat=True),
        "inference": settings_flags(InferenceSettings(), "Inference", defaults=False),
    },
}
"""By verb, its parameters that are mappings, and the flags that fill them."""


@dataclass(frozen=True)
class ServeFlags:
    """What stands on the page, and where label maps are computed.

    Attributes:
        classes: Those that stand there at the beginning, as for `unseen segment`.
        text_embeddings: A .npy file, (K, D) or (K, prompts, D), to use instead of the text tower
            of methods without training, one row for each of --classes.
        device: "auto", "cpu", "cuda", ...
    """

    classes: str | None = None
    text_embeddings: Path | None = None
    device: str = "auto"


MODEL, SERVE = ModelFlags(), ServeFlags()


def serve(
    models: list[str] | None = None,
    /,
    *,
    flags: Annotated[ServeFlags, FLAT] = SERVE,
    model: Annotated[ModelFlags, FLAT] = MODEL,
    settings: Given = NOTHING,
    inference: Given = NOTHING,
) -> None:
    """Open a web page for images, classes and label maps.

    It is for this machine alone unless --host says otherwise. Programs call the endpoint /segment
    with gradio_client.

    Args:
        models: Methods without training, and run folders, to choose among; naclip by default.
        flags: What stands there, and where it is computed.
        model: What methods without training are built with; runs have their own tower.
        settings: Values of `ServeSettings`.
        inference: Single values to change.
    """
    bounds = ServeSettings(**settings)
    if find_spec("gradio") is None:
        raise SettingError("serve needs gradio; install it with pip install 'unseen[app]'")
    vectors = flags.text_embeddings
    if vectors is not None and flags.classes is None:
        raise SettingError("--text-embeddings needs --classes, the names of its rows")
    vocabulary = None if flags.classes is None else read_vocabulary(flags.classes, {})
    names = () if vocabulary is None else vocabulary.names
    from unseen.methods import METHODS
    from unseen.sources import find_model

    runs_alone = not any(name in METHODS for name in models or ["naclip"])
    if runs_alone and (model.given() or vectors is not None):
        raise SettingError(
            "--clip, --options, --published and --text-embeddings are for methods without training,"
            " and a run has its own; remove them"
        )
    choices: dict[str, ModelChoices] = {
        name: {**model.given(), "text_embeddings": vectors} if name in METHODS else {}
        for name in models or ["naclip"]
    }
    for name, given in choices.items():
        find_model(name, given)
    from unseen import api
    from unseen.app.page import Page

    predictors = {
        name: api.load(name, class_names=names, inference=inference, device=flags.device, **given)
        for name, given in choices.items()
    }
    page = Page(predictors, bounds, vocabulary).start()
    print(f"the page is at {page.local_url}; Ctrl-C ends it", flush=True)
    page.block_thread()
