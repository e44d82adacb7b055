"""Errors that a user can correct. Every message names the thing and the remedy.

The command line prints the message alone and exits with code 2; any other exception is a bug and
keeps its traceback.
"""

import os
from errno import EIO, EMFILE, ENFILE, ENOMEM

LONGEST = 400
"""Characters of a message."""
_NO_MEMORY = (
    "allocate memory",
    "out of memory",
    "can't start new thread",
    # oneDNN has nothing more to say.
    "could not create a primitive",
    # Of a library that is imported.
    "failed to map segment",
)
"""How others than Python report that memory ran out."""


class UnseenError(Exception):
    """Base of all errors that a user can correct."""

    def __init__(self, message: str) -> None:
        # A loader's worker process hands an error over as its printed traceback, whose last line
        # holds the sentence.
        if "Original Traceback" in message:
            message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(_in_one_line(message))


def _in_one_line(message: str) -> str:
    """A message without line ends; of a long one the middle is left out, which quotes something."""
    message = " ".join(message.splitlines())
    if len(message) <= LONGEST:
        return message
    return f"{message[: LONGEST - 160]} ... {message[-150:]}"


class DataError(UnseenError):
    """An image, a mask, a data set or the place to write to."""


class VocabularyError(UnseenError):
    """A list of class names: empty, repeated, too long."""


class CheckpointError(UnseenError):
    """A weight file or a run folder."""


class SettingError(UnseenError):
    """A name or value among the options: an unknown method, benchmark, setting or key."""


class Interrupted(KeyboardInterrupt):
    """A signal ended a run, which can go on; not an `Exception`, as Ctrl-C is none.

    Attributes:
        code: For the process to leave with.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def shortage(error: BaseException) -> str | None:
    """What the machine lacks, if an error says so: memory, open files, a disk that answers."""
    if isinstance(error, OSError) and error.errno in (ENOMEM, EMFILE, ENFILE, EIO):
        return os.strerror(error.errno or 0)
    told = str(error).lower()
    if isinstance(error, MemoryError) or any(sign in told for sign in _NO_MEMORY):
        return "not enough memory"
    return None
