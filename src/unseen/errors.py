"""Errors that a user can correct. Every message names the thing and the remedy.

The command line prints the message alone and exits with code 2; any other exception is a bug and
keeps its traceback.
"""


class UnseenError(Exception):
    """Base of all errors that a user can correct."""

    def __init__(self, message: str) -> None:
        # A loader's worker process hands an error over as its printed traceback, whose last line
        # holds the sentence.
        if "Original Traceback" in message:
            message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(message)


class DataError(UnseenError):
    """An image, a mask, a data set or the place to write to."""


class VocabularyError(UnseenError):
    """A list of class names: empty, repeated, too long."""


class CheckpointError(UnseenError):
    """A weight file or a run folder."""


class SettingError(UnseenError):
    """A name or value among the options: an unknown method, benchmark, setting or key."""
