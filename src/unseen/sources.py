"""What names on the command line stand for: methods without training, and run folders.

Nothing is built here, so that mistakes are found before torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from unseen.backbones.clip.templates import is_template_file, read_templates
from unseen.data.benchmarks import Benchmark
from unseen.errors import SettingError
from unseen.methods import METHODS
from unseen.methods.options import nearest
from unseen.recipes import Protocol, published_on
from unseen.runs import CONFIG, HUB, Run, read_config
from unseen.settings import ModelSettings, is_own

DEFAULT_CLIP = "doodles"


class ModelChoices(TypedDict, total=False):
    """What a verb may be given besides the name of a method or a run.

    None and False stand for "not given", so that the command line can hand all of them on.

    Attributes:
        clip: Tower of a method without training: "doodles" (the default; under `published` that of
            its protocol), ARCHITECTURE/TAG of open_clip, or a weight file.
        published: Follow the released code instead of our choices. In evaluations this is its whole
            protocol; of a published run the test.
        options: Options of the method; for a run they replace single ones of its own.
        text_embeddings: A .npy file, (K, D) or (K, prompts, D), to use instead of the text tower,
            one row a class.
    """

    clip: str | None
    published: bool
    options: dict[str, Any] | None
    text_embeddings: Path | None


@dataclass(frozen=True)
class ModelSource:
    """Where a segmenter comes from.

    Attributes:
        settings: Method, tower and options; for a run its own, with the given options replaced.
        given: The options that were given, which win over those that a benchmark brings.
        text_embeddings: A file with the vectors of the classes, in place of the text tower.
        run: What the run folder says; None for methods without training.
        folder: Where the run lies.
        fetched: It lies in the cache of the hub, where nothing is written.
        clip_given: Whether the tower was given, which then wins over a published one.
    """

    settings: ModelSettings
    given: dict[str, Any] = field(default_factory=dict)
    text_embeddings: Path | None = None
    run: Run | None = None
    folder: Path | None = None
    fetched: bool = False
    clip_given: bool = True

    def by(self, protocol: Protocol) -> ModelSource:
        """The same source with tower and options of a published protocol, unless others are given.

        A run keeps those it was trained with, but for what a test on another benchmark changes.
        """
        if self.run is not None:
            options = {**self.settings.options, **protocol.test_options, **self.given}
            return replace(self, settings=replace(self.settings, options=options))
        options = {**self.settings.options, **protocol.model.get("options", {}), **self.given}
        clip = self.settings.clip
        if not self.clip_given:
            clip = protocol.model.get("clip", clip)
        return replace(self, settings=replace(self.settings, clip=clip, options=options))

    def on(self, benchmark: Benchmark) -> ModelSource:
        """The same source with the templates of a benchmark, unless options say otherwise."""
        templates = benchmark_templates(self.settings, benchmark)
        options = {**self.settings.options, **templates, **self.given}
        return replace(self, settings=replace(self.settings, options=options))


def find_model(model: str | Path, choices: ModelChoices) -> ModelSource:
    """The source of a method without training, by name, or of a run, by folder or address.

    Raises:
        SettingError: Neither; a method that has to be trained first; a tower or released choices
            for a run, which has its own.
        CheckpointError: A folder that is not a run, or a run that cannot be fetched.
    """
    name, folder = str(model), Path(model)
    options = settled(choices.get("options") or {})
    embeddings = choices.get("text_embeddings")
    if name in METHODS and not (folder / CONFIG).exists():
        if METHODS[name].trainable:
            raise SettingError(
                f"{name} has to be trained first: unseen train {name}; then give its run folder"
            )
        if choices.get("published") and not published_on(name):
            raise SettingError(
                f"{name} has no published protocol, so --published cannot follow one; remove it"
            )
        clip = choices.get("clip")
        published = choices.get("published", False)
        settings = ModelSettings(name, clip or DEFAULT_CLIP, published, options)
        return ModelSource(settings, options, embeddings, clip_given=clip is not None)
    fetched = name.startswith(HUB)
    if fetched:
        from unseen.sharing import fetch_run  # the hub's library takes long to import

        folder = fetch_run(name)
    if not folder.is_dir():
        free = ", ".join(name for name, method in METHODS.items() if not method.trainable)
        raise SettingError(
            f"{name!r} is neither a method nor a run folder{nearest(name, METHODS)}; methods"
            f" without training are {free}"
        )
    run = read_config(folder)
    if choices.get("clip") is not None:
        raise SettingError(f"the run {name} has a tower of its own; remove --clip")
    if choices.get("published") and not run.model.published:
        raise SettingError(
            f"the run {name} was trained with its own choices; remove --published, or change"
            " single ones with --options.NAME"
        )
    settings = replace(run.model, options={**run.model.options, **options})
    return ModelSource(settings, options, embeddings, run, folder, fetched)


def benchmark_templates(model: ModelSettings, benchmark: Benchmark) -> dict[str, Any]:
    """The option that puts class names into the benchmark's templates.

    None for methods without that option, and for those whose templates are their own: they read
    its tokens, keep several prompts apart, or it is published.
    """
    if model.method not in METHODS:
        return {}
    method = METHODS[model.method]
    published = model.published and "templates" in method.cls.PUBLISHED
    fixed = method.cls.needs_tokens or method.cls.needs_prompts or published
    if fixed or "templates" not in method.choices:
        return {}
    return {"templates": benchmark.templates}


def settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose templates are those of a file, if they name one.

    A run folder and a report then hold the templates themselves.

    Raises:
        SettingError: A file of templates that cannot be read.
    """
    templates = options.get("templates")
    if isinstance(templates, str) and is_template_file(templates):
        return {**options, "templates": list(read_templates(Path(templates)))}
    return dict(options)


def run_folder(model: str, benchmark: str) -> Path:
    """Where results go by default: runs/MODEL-BENCHMARK.

    Folds are runs/MODEL-BENCHMARK-FOLD, and folders of your own data go by their name.
    """
    part = benchmark.replace("/", "-")
    if is_own(benchmark):
        part = Path(benchmark).resolve().name
    return Path("runs") / f"{model}-{part}"
