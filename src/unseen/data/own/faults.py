"""A finding of `unseen check`, and a fault that is looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from unseen.data.own.survey import Survey

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something to correct.

    Attributes:
        level: "error": training or scores would be stopped or spoilt; "warning": look at it.
        problem: What is wrong.
        remedy: What to do.
        names: The files or classes it is wrong with.
    """

    level: Level
    problem: str
    remedy: str
    names: tuple[str, ...] = ()

    def line(self, shown: int = 3) -> str:
        """One sentence, with some of the names and how many more there are."""
        names = ", ".join(self.names[:shown])
        if len(self.names) > shown:
            names += f" and {len(self.names) - shown} more"
        listed = f": {names}" if names else ""
        return f"{self.problem}{listed}; {self.remedy}"


@dataclass(frozen=True)
class Fault:
    """A finding where its test says so: a line of the tables of `unseen.data.own.findings`.

    Attributes:
        level: As `Finding`'s.
        problem: As `Finding`'s.
        remedy: As `Finding`'s.
        test: From a survey to the files or classes that have the fault, or to whether there is one.
    """

    level: Level
    problem: str
    remedy: str
    test: Callable[[Survey], bool | Iterable[str]]

    def findings(self, survey: Survey) -> list[Finding]:
        """The finding, if the survey shows the fault."""
        result = self.test(survey)
        if isinstance(result, bool):
            return [Finding(self.level, self.problem, self.remedy)] if result else []
        names = tuple(result)
        return [Finding(self.level, self.problem, self.remedy, names)] if names else []


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors before warnings, otherwise in their order."""
    return sorted(findings, key=lambda finding: finding.level != "error")
