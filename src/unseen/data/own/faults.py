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
        level: "error" if training would stop or scores would be wrong; "warning" if a person should
            look at it.
        problem: The fault, as the first half of a sentence.
        remedy: How to correct it, as the second half.
        names: The files or classes that have it.
    """

    level: Level
    problem: str
    remedy: str
    names: tuple[str, ...] = ()

    def line(self, limit: int = 3) -> str:
        """One sentence with the first `limit` names, and how many more there are."""
        # A fault of a conversion is in every file, and thousands of names would hide the sentence.
        names = ", ".join(self.names[:limit])
        if len(self.names) > limit:
            names += f" and {len(self.names) - limit} more"
        listed = f": {names}" if names else ""
        return f"{self.problem}{listed}; {self.remedy}"


@dataclass(frozen=True)
class Fault:
    """A fault to test for: a line of the tables of `unseen.data.own.findings`.

    Attributes:
        level: As `Finding`'s.
        problem: As `Finding`'s.
        remedy: As `Finding`'s.
        test: From a survey to the files or classes that have the fault, or, for a fault of the data
            set as a whole, to whether it is there.
    """

    level: Level
    problem: str
    remedy: str
    test: Callable[[Survey], bool | Iterable[str]]

    def findings(self, survey: Survey) -> list[Finding]:
        """The finding, if the survey shows the fault."""
        result = self.test(survey)
        # A fault of the whole data set has no names to list.
        names = () if isinstance(result, bool) else tuple(result)
        if not (names or result is True):
            return []
        return [Finding(self.level, self.problem, self.remedy, names)]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors before warnings, otherwise in their order."""
    # Sorting is stable and False comes before True.
    return sorted(findings, key=lambda finding: finding.level != "error")
