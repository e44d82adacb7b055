"""`python -m unseen`, and the command `unseen`: what surrounds the verbs.

Nothing is imported before Ctrl-C is looked after, as imports take a second.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO)
"""How an output that takes no more is reported."""
SPINS = "1000"
"""How often a thread of torch's looks whether the others are done before it sleeps (libgomp). By
default it looks 300 000 times, on a processor that the others need where there are more processes
than processors: labelling then takes thirty times as long. Alone it costs nothing."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; leaves with a sentence where it cannot even begin or end.

    Exit codes: 0, 1 if the reader of the output has gone, 2 for mistakes that a user can correct,
    130 after Ctrl-C, 143 after SIGTERM in training.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # Names that the terminal's encoding does not have are shown as escapes.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        from unseen.cli.parser import main as run

        run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _leave("stopped", 130)
    except BrokenPipeError:
        _discard_output()
        raise SystemExit(1) from None
    except OSError as error:
        # Any other one, and one of a file of a verb's, is a bug.
        if error.filename is not None or error.errno not in FULL:
            raise
        _discard_output()
        _leave(f"the output cannot be written ({error.strerror}); send it elsewhere", 2)


def _leave(message: str, code: int) -> None:
    """Say a sentence, if somebody can be told, and leave."""
    try:  # noqa: SIM105 - contextlib is not imported yet
        print(f"unseen: {message}", file=sys.stderr, flush=True)
    except OSError:
        pass
    raise SystemExit(code) from None


def _discard_output() -> None:
    """Send what is left of the output nowhere; else Python would try again, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
