"""From words on the command line to the call of a verb, or to one sentence about what is wrong."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from typing import Any, Literal, get_args, get_origin

from cyclopts import (
    App,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    Token,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

import unseen
from unseen.cli import (
    comparing,
    data,
    deploying,
    exports,
    images,
    lists,
    profiling,
    scoring,
    serving,
    sweeping,
    training,
)
from unseen.cli.flags import model_flags, settings_flags
from unseen.cli.legacy import as_typed, modernised
from unseen.errors import SettingError, UnseenError, shortage
from unseen.methods import known
from unseen.methods.options import nearest, released_options
from unseen.recipes import resolve

Verb = Callable[..., int | None]
VERBS: dict[str, Verb] = {
    "list": lists.list_,
    "check": data.check,
    "pretrain": training.pretrain,
    "train": training.train,
    "sweep": sweeping.sweep,
    "evaluate": scoring.evaluate,
    "compare": comparing.compare,
    "convert": scoring.convert,
    "push": scoring.push,
    "export": deploying.export,
    "profile": profiling.profile,
    "segment": images.segment,
    "export-labels": exports.export_labels,
    "serve": serving.serve,
    "eigenvectors": images.eigenvectors,
    "prepare": data.prepare,
    "demo": training.demo,
}
NAMES = (*VERBS, "completion")
GROUPS: dict[str, Mapping[str, Any]] = {
    **training.GROUPS,
    **scoring.GROUPS,
    **images.GROUPS,
    **exports.GROUPS,
    **serving.GROUPS,
    **sweeping.GROUPS,
    **profiling.GROUPS,
}
"""By verb, its parameters that are mappings, and the flags that fill them."""
KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
SHELLS = Literal["bash", "zsh", "fish"]


def build(groups: Mapping[str, Mapping[str, Any]] = GROUPS) -> App:
    """The parser of all verbs."""
    app = App(
        name="unseen",
        version=lambda: f"unseen {unseen.__version__}",
        help="Zero-shot semantic segmentation: image and class names in, one label map out.",
        # The list of verbs is plain text: importing a reader of markdown would double its time.
        help_format="plaintext",
        default_parameter=Parameter(negative=(), allow_repeating=True),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        config=_refuse_fractions,
    )
    for name, verb in VERBS.items():
        app.command(_typed(verb, groups.get(name, {})), name=name, help_format="markdown")

    @app.command
    def completion(shell: SHELLS, /) -> None:
        """Print the completion of flags for a shell: eval "$(unseen completion bash)".

        Args:
            shell: For zsh and fish, write it to a file where the shell looks for completions.
        """
        print(app.generate_completion(shell=shell))

    return app


def _refuse_fractions(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse a fraction in place of a whole number, which the parser would round.

    Raises:
        SettingError: Names the flag.
    """
    for argument in arguments:
        if int not in (argument.hint, *get_args(argument.hint)):
            continue
        if float in get_args(argument.hint):
            continue
        for token in argument.tokens:
            if "." in token.value:
                raise SettingError(f"{argument.name} is {token.value}; give a whole number")


def _typed(verb: Verb, types: Mapping[str, Any]) -> Verb:
    """The verb with other types of some parameters, to be read by the parser."""

    @wraps(verb)
    def call(*args: Any, **kwargs: Any) -> int | None:
        return verb(*args, **kwargs)

    call.__annotations__ = {**verb.__annotations__, **types}
    return call


def _for_help(words: Sequence[str]) -> App:
    """The parser for a command line that asks for help.

    That of `train METHOD` shows the method's options and, as defaults, what its recipe for the
    benchmark says.
    """
    app = build()
    if words[:1] != ["train"]:
        return app
    try:
        without = [word for word in words if word not in app.help_flags]
        _, bound, _, _ = app.parse_known_args(without)
    except CycloptsError:  # no method, or a value that is wrong: the plain help says more
        return app
    method, flags = bound.arguments["method"], bound.arguments
    benchmark = flags.get("run", training.TRAIN).benchmark
    given = flags.get("model", training.MODEL).given()
    try:
        model, settings = resolve(method, benchmark, model=given, train=flags.get("train", {}))
    except SettingError:  # no protocol or recipe for this benchmark: the plain help says more
        return app
    row = known(method)
    if model.published:
        model = replace(model, options={**released_options(row.cls), **model.options})
    shown = {
        "train": settings_flags(settings, "Training"),
        "model": model_flags(model, row.choices),
    }
    return build({**GROUPS, "train": shown})


def sentence(error: CycloptsError) -> str:
    """What is wrong with a command line, and what to do."""
    verb = " ".join(("unseen", *(error.command_chain or ())))
    first = next(iter(error.unused_tokens or ()), "")
    argument = "a value" if error.argument is None else error.argument.name
    match error:
        case UnknownCommandError():
            near = nearest(first, NAMES)
            return f"there is no verb {first!r}{near}; choose one of {', '.join(NAMES)}"
        case UnknownOptionError():
            flag = error.token.keyword or error.token.value
            known_flags = [name for each in error.argument_collection for name in each.names]
            if os.path.lexists(flag):
                return f"{flag} looks like a flag; give the file as ./{flag}"
            near = nearest(flag, known_flags).replace("'", "")
            return f"there is no {flag}{near}; {verb} --help shows all flags"
        case UnusedCliTokensError():
            return (
                f"{verb} does not take {first!r} here; {verb} --help shows what it takes, and lists"
                " are given as [2,3]"
            )
        case MissingArgumentError(keyword=str(flag)):
            return f"{flag} needs a value; {verb} --help says more"
        case MissingArgumentError():
            return f"{argument} is missing; {verb} --help says what to give"
        case CoercionError(token=Token(value=value)):
            return f"{argument} is {value!r}; {_remedy(error)}"
    return f"{' '.join(str(error).split())}; {verb} --help says more"


def _remedy(error: CoercionError) -> str:
    """What to give instead of a value of the wrong type."""
    if error.msg is not None:  # of a converter of ours
        return str(error.msg)
    if get_origin(error.target_type) is Literal:
        return f"choose one of {', '.join(map(repr, get_args(error.target_type)))}"
    return f"give {KINDS.get(error.target_type or str, 'another value')}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb.

    A mistake of the user's is answered in one sentence, with exit code 2; a traceback is a bug.
    """
    arguments = sys.argv[1:] if argv is None else argv
    words = modernised(arguments)
    # A hyphen alone would be taken for a flag without a name.
    words = ["/dev/stdin" if word == "-" else word for word in words]
    try:
        _check_words(words)
        app = build()
        if set(words) & set(app.help_flags):
            app = _for_help(words)
        code = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        stop(as_typed(sentence(error), arguments))
    except UnseenError as error:
        stop(str(error))
    except OSError as error:
        # Every argument that is looked up as a path can be too long for one.
        if error.errno != errno.ENAMETOOLONG:
            raise
        stop(f"{str(error.filename)[:60]}... is too long for the name of a file; check the flag")
    except (MemoryError, RuntimeError, ImportError) as error:
        if shortage(error) is None:
            raise
        stop("there is not enough memory; give smaller images or batches, or close other programs")
    except KeyboardInterrupt as error:
        stop(str(error) or "stopped", code=getattr(error, "code", 130))
    if code:
        raise SystemExit(code)


def _check_words(words: Sequence[str]) -> None:
    """Refuse what no flag can mean: a variable of the shell that is not set leaves no text.

    Raises:
        SettingError: Names the flag.
    """
    for before, word in zip(("", *words), words, strict=False):
        flag, equals, value = word.partition("=")
        if not (equals and flag.startswith("--")):
            flag, value = before, word
        name = flag if flag.startswith("--") else "an argument"
        if "\0" in value:
            raise SettingError(f"{name} holds a null byte; remove it")
        # An inference setting of no text is set to nothing.
        if not value.strip() and not name.startswith("--inference."):
            raise SettingError(f"{name} is empty; give a value, or leave it out")


def stop(message: str, code: int = 2) -> None:
    """Leave with a sentence on the standard error output."""
    with suppress(OSError):  # the code says as much where nobody can be told
        print(f"unseen: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None
