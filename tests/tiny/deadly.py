"""A job of which the processes that do it die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence

from unseen.labelling.jobs import Outcome
from unseen.labelling.sources import Item
from unseen.labelling.whole import WholeJob


class DeadlyJob(WholeJob):
    """Ends its process at images that are called "deadly", and fails at those called "bug"."""

    def run(self, items: Sequence[Item]) -> Iterator[Outcome]:
        for item in items:
            if item.path.stem == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            if item.path.stem == "bug":
                raise ZeroDivisionError("a defect")
        return super().run(items)
