"""How much was tried, at the end of the output."""

from __future__ import annotations

import pytest

from hostile.tally import TRIED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, count in TRIED.items():
        terminalreporter.write_line(f"hostile: {count:6} {what}")
