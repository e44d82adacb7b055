"""The web page: images and classes in, label maps to look at and to take away."""

from __future__ import annotations

import html
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from unseen.app.sessions import Session, downloads, label
from unseen.app.view import shown
from unseen.errors import SettingError, UnseenError
from unseen.predictor import Predictor
from unseen.segmenter import TextFeatures
from unseen.settings import ServeSettings
from unseen.vocabulary import Vocabulary, joined_words, split_words

ONE_AT_A_TIME = "model"
"""Jobs of this name wait for each other."""
ANSWER = "answer-"
"""How the folders of answers to programs begin."""
THEME = gr.themes.Base(
    primary_hue="blue",
    font=["system-ui", "sans-serif"],  # no fonts of other servers
    font_mono=["ui-monospace", "monospace"],
)


def refused(error: UnseenError) -> gr.Error:
    """An error as the page shows it, which takes messages for HTML."""
    return gr.Error(html.escape(str(error)), print_exception=False)


class Page:
    """What the page does.

    Args:
        predictors: By the names that are shown.
        settings: Bounds.
        classes: Those that stand there at the beginning, with their synonyms.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        settings: ServeSettings,
        classes: Vocabulary | None = None,
    ) -> None:
        self.predictors, self.settings, self.classes = predictors, settings, classes
        self.place = tempfile.TemporaryDirectory(prefix="unseen-page-")

    def encode(self, model: str, classes: str) -> tuple[Predictor, TextFeatures]:
        """The chosen model, and the classes encoded by it."""
        predictor = self.predictors[model]
        words = split_words(classes.strip().removesuffix(","), "the list of classes")
        known = {} if self.classes is None else self.classes.synonyms
        synonyms = {word: known[word] for word in words if word in known}
        return predictor, predictor.encode(Vocabulary(words, synonyms))

    def segment(
        self,
        files: Sequence[str] | None,
        classes: str,
        model: str,
        threshold: float,
        before: Session | None,
    ) -> Iterator[tuple[Any, ...]]:
        """Label images; after each, what the page shows of them."""
        if not files:
            raise gr.Error("Choose an image first.", print_exception=False)
        if len(files) > self.settings.images:
            most = self.settings.images
            raise gr.Error(
                f"{len(files)} images are too many; choose at most {most}.", print_exception=False
            )
        try:
            predictor, text = self.encode(model, classes)
        except UnseenError as error:
            raise refused(error) from error
        if before is not None:
            before.remove()
        paths, first = [Path(file) for file in files], ""
        for session in label(predictor, text, paths, Path(self.place.name), self.settings.seconds):
            names = [each.name for each in session.images]
            problems = "".join(f"<li>{html.escape(each)}</li>" for each in session.problems)
            status = f"<p>{len(names)} of {len(files)} labelled</p><ul>{problems}</ul>"
            # What is shown stays as it is, once there is something.
            which, view = gr.Dropdown(choices=names), gr.skip()
            if not first:
                first = names[0] if names else ""
                which = gr.Dropdown(choices=names, value=first or None, visible=bool(first))
                view = self.show(session, first, threshold)
            yield session, which, view, status, gr.Button(interactive=bool(first))

    def show(self, session: Session | None, name: str | None, threshold: float) -> str:
        """An image at a threshold, which needs no network."""
        for each in [] if session is None else session.images:
            if each.name == name:
                return shown(each.at(threshold), each.name)
        return ""

    def pack(self, session: Session | None, kind: str, threshold: float) -> str:
        """The file with all label maps."""
        if session is None or not session.images:
            raise gr.Error("There are no label maps yet.", print_exception=False)
        try:
            return str(session.pack(kind, threshold))
        except UnseenError as error:
            raise refused(error) from error

    def api_segment(
        self, image: str, classes: str, model: str, threshold: float
    ) -> tuple[str, dict[str, Any]]:
        """One image: the label map as an indexed PNG (255 is no class), and its numbers."""
        try:
            predictor, text = self.encode(model, classes)
            result = predictor.segment_encoded(Path(image), text, threshold=threshold or None)
            file = self._fresh_folder() / "labels.png"
            result.save_labels(file)
        except UnseenError as error:
            raise gr.Error(str(error), print_exception=False) from error  # programs read no HTML
        return str(file), {**result.as_dict(), "image": Path(image).name}

    def _fresh_folder(self) -> Path:
        """For the answer to a program; gradio has copied the earlier ones, and old ones go."""
        oldest = time.time() - 60 * self.settings.keep_minutes
        for folder in Path(self.place.name).glob(f"{ANSWER}*"):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=ANSWER, dir=self.place.name))

    def build(self) -> Any:
        """The page."""
        models, kinds = list(self.predictors), downloads()
        # What visitors send and get is removed after a while.
        kept = round(60 * self.settings.keep_minutes)
        with gr.Blocks(title="unseen", analytics_enabled=False, delete_cache=(kept, kept)) as page:
            session = gr.State(time_to_live=kept, delete_callback=_forget)
            gr.Markdown("# unseen\nImages and class names in, one label map per image out.")
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    files = gr.File(
                        label="Images",
                        file_count="multiple",
                        file_types=["image"],
                        height=160,
                        elem_id="images",
                    )
                    classes = gr.Textbox(
                        "" if self.classes is None else joined_words(self.classes.names),
                        label="Classes, separated by commas",
                        placeholder="cat, sofa, floor",
                        elem_id="classes",
                    )
                    model = gr.Dropdown(models, value=models[0], label="Model", elem_id="model")
                    go = gr.Button("Segment", variant="primary", elem_id="go")
                    threshold = gr.Slider(
                        0, 1, 0, step=0.01, label="Least confidence", elem_id="threshold"
                    )
                    kind = gr.Dropdown(kinds, value=kinds[0], label="Download as", elem_id="kind")
                    take = gr.Button("Download", interactive=False, elem_id="download")
                    file = gr.DownloadButton(visible="hidden", elem_id="file")
                    status = gr.HTML(elem_id="status")
                with gr.Column(scale=2, min_width=320):
                    which = gr.Dropdown([], label="Image", visible=False, elem_id="which")
                    view = gr.HTML(elem_id="view")
            go.click(
                self.segment,
                [files, classes, model, threshold, session],
                [session, which, view, status, take],
                concurrency_limit=1,
                concurrency_id=ONE_AT_A_TIME,
                api_name="page",
                api_visibility="private",
            )
            quietly: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
            for event in (which.input, threshold.change):
                shown_at = [session, which, threshold]
                event(self.show, shown_at, view, api_visibility="private", **quietly)
            packed = take.click(
                self.pack, [session, kind, threshold], file, api_visibility="private"
            )
            # The file can be fetched when the button for it has its address.
            packed.success(None, js="() => document.querySelector('#file').click()")
            self._add_api()
        return page

    def _add_api(self) -> None:
        """The endpoint /segment for programs, which shows nothing."""
        image, classes = gr.File(visible=False), gr.Textbox(visible=False)
        model = gr.Dropdown(list(self.predictors), visible=False)
        threshold = gr.Number(0, visible=False)
        gr.Button(visible=False).click(
            self.api_segment,
            [image, classes, model, threshold],
            [gr.File(visible=False), gr.JSON(visible=False)],
            api_name="segment",
            concurrency_limit=1,
            concurrency_id=ONE_AT_A_TIME,
        )

    def start(self) -> Any:
        """Serve the page in the background; gives gradio's page, which is blocked on or closed.

        Raises:
            SettingError: The port is taken, or the address is not one of this machine.
        """
        told = self.settings
        page = self.build().queue(max_size=told.queue)
        try:
            page.launch(
                server_name=told.host,
                server_port=told.port or None,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                max_file_size=f"{told.megabytes}mb",
                ssr_mode=False,
                footer_links=["api"],
                theme=THEME,
                css=_asset("page.css"),
                head=f"<script>{_asset('page.js')}</script>",
            )
        except OSError as error:
            raise SettingError(
                f"the page cannot be served at {told.host}, port {told.port}; give others with"
                " --host and --port"
            ) from error
        return page


def _asset(name: str) -> str:
    return (resources.files("unseen") / "app" / name).read_text(encoding="utf-8")


def _forget(session: Session | None) -> None:
    if session is not None:
        session.remove()
