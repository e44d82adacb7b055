"""Signals while a run trains: they ask for an end, which comes after the step in progress."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning.fabric import Fabric

NOTED = (signal.SIGINT, signal.SIGTERM)
ASK_EVERY = 10
"""Steps between questions to the other processes of a distributed run, as asking takes time."""


class Interrupts:
    """Whether somebody has asked for an end.

    Attributes:
        signal: SIGINT (Ctrl-C) or SIGTERM, which clusters send before they take a machine; None as
            long as nobody has asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def note(self, number: int, _: FrameType | None = None) -> None:
        """Note a signal; the second Ctrl-C ends at once."""
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def end_after(self, fabric: Fabric, taken: int) -> bool:
        """Whether to end after `taken` steps; all processes of a run say the same."""
        if fabric.world_size == 1:
            return self.signal is not None
        if taken % ASK_EVERY:
            return False
        return bool(fabric.strategy.reduce_boolean_decision(self.signal is not None, all=False))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Signals are noted inside, and have their usual effect afterwards."""
        # Only the main thread may change what signals do.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.note) for number in NOTED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
