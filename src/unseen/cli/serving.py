"""The verb serve: a web page for label maps."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

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
MODEL = ModelFlags()


def serve(
    models: list[str] | None = None,
    /,
    *,
    model: Annotated[ModelFlags, FLAT] = MODEL,
    device: str = "auto",
    settings: Given = NOTHING,
    inference: Given = NOTHING,
) -> None:
    """Open a web page for images, classes and label maps.

    It is for this machine alone unless --host says otherwise. Programs call the endpoint /segment
    with gradio_client.

    Args:
        models: Methods without training, and run folders, to choose among; naclip by default.
        model: What methods without training are built with; runs have their own tower.
        device: "auto", "cpu", "cuda", ...
        settings: Values of `ServeSettings`.
        inference: Single values to change.
    """
    bounds = ServeSettings(**settings)
    if find_spec("gradio") is None:
        raise SettingError("serve needs gradio; install it with pip install 'unseen[app]'")
    from unseen.methods import METHODS
    from unseen.sources import find_model

    choices: dict[str, ModelChoices] = {
        name: model.given() if name in METHODS else {} for name in models or ["naclip"]
    }
    for name, given in choices.items():
        find_model(name, given)
    from unseen import api
    from unseen.app.page import Page

    predictors = {
        name: api.load(name, inference=inference, device=device, **given)
        for name, given in choices.items()
    }
    page = Page(predictors, bounds).start()
    print(f"the page is at {page.local_url}; Ctrl-C ends it", flush=True)
    page.block_thread()
