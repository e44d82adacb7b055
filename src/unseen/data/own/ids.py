"""Stored ids that do not fit the list of classes, and what probably happened to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unseen.data.own.faults import Finding, Level
from unseen.data.own.survey import Survey

MANY = 10
"""So many ids that are not listed, with gaps between them, are no forgotten classes."""
STRAY = 0.01
"""An id above the list that covers less than this share of every label map it is in is a slip of
the pen, not a sign that all ids are shifted."""


@dataclass(frozen=True)
class StoredIds:
    """The ids that label maps hold, beside those that are listed.

    Attributes:
        first: The stored id of the first class.
        last: That of the last class.
        shown: Ids that label maps hold.
        share: Largest share of a label map that the id just above the list covers.
        own: Whether the list of classes is the user's own.
    """

    first: int
    last: int
    shown: frozenset[int]
    share: float
    own: bool

    @property
    def unlisted(self) -> list[int]:
        """Ids above the list, in order."""
        return sorted(value for value in self.shown if value > self.last)

    @property
    def one_above(self) -> bool:
        """Whether all ids seem shifted: the id just above the list, and no other, is common."""
        return self.unlisted == [self.last + 1] and self.share >= STRAY

    @property
    def scattered(self) -> bool:
        """Whether there are many unlisted ids with gaps, as smooth resizing leaves them."""
        count = len(self.unlisted)
        return count >= MANY and self.unlisted != list(range(self.last + 1, self.last + 1 + count))


@dataclass(frozen=True)
class IdFault:
    """A line of the table of shifted and unlisted ids; the first that fits is the finding.

    Attributes:
        level: As `Finding`'s.
        problem: As `Finding`'s, with the fields that `id_findings` fills in.
        remedy: As `Finding`'s.
        test: Whether it fits.
    """

    level: Level
    problem: str
    remedy: str
    test: Callable[[StoredIds], bool]


UNLISTED = "ids that are not on the list of classes ({unlisted}; known are {first} to {last})"
# From the most to the least specific: a fault further down would also fit the data of those above.
ID_FAULTS = (
    IdFault(
        "warning",
        "no label map holds the id {last}, the last class's, but 0 is there: stored from 0 on,"
        " every class would be taken for the one before",
        "look at the sheet; if names and objects do not fit, add 1 to every id, or make the label"
        " maps again",
        lambda ids: (
            ids.first == 1
            and not ids.unlisted
            and ids.last > 1
            and ids.last not in ids.shown
            and {0, ids.last - 1} <= ids.shown
        ),
    ),
    IdFault(
        "error",
        UNLISTED,
        "the label maps are not in this benchmark's ids: make them with `unseen prepare`, or"
        " restore them",
        lambda ids: bool(ids.unlisted) and not ids.own,
    ),
    IdFault(
        "error",
        "ids run from {lowest} to {above} and 0, the background, is nowhere: every id seems to be"
        " one too high",
        "subtract 1 from every id, or leave the background off the list of classes",
        lambda ids: ids.first == 1 and ids.one_above and 0 not in ids.shown,
    ),
    IdFault(
        "error",
        UNLISTED,
        "so many look like masks that went through JPEG or were resized smoothly: make them again"
        " from the ids",
        lambda ids: ids.scattered,
    ),
    IdFault(
        "error",
        "ids run from 0 to {above}, but only {count} classes are listed: 0 seems to be a"
        " background, and every id would be taken for the next class",
        "write 'background # ignore' (not scored) or 'background' (a class) as the first line of"
        " classes.txt",
        lambda ids: ids.first == 0 and ids.one_above and 0 in ids.shown,
    ),
    IdFault(
        "error",
        "ids run from 1 to {above}, but the first of {count} classes has the id 0: every id would"
        " be taken for the next class",
        "write 'background # ignore' as the first line of classes.txt, or subtract 1 from every id",
        lambda ids: ids.first == 0 and ids.one_above,
    ),
    IdFault(
        "error",
        UNLISTED,
        "add the classes, or set those pixels to the ignored value (255; 65535 with 16 bits)",
        lambda ids: bool(ids.unlisted),
    ),
)


def id_findings(survey: Survey) -> list[Finding]:
    """The first of `ID_FAULTS` that fits, with the label maps that hold unlisted ids."""
    ids = _stored_ids(survey)
    fault = next((fault for fault in ID_FAULTS if fault.test(ids)), None)
    if fault is None:
        return []
    unlisted = ids.unlisted
    listed = ", ".join(map(str, unlisted[:5]))
    if len(unlisted) > 5:
        listed += f" and {len(unlisted) - 5} more"
    problem = fault.problem.format(
        first=ids.first,
        last=ids.last,
        lowest=min(ids.shown),
        above=ids.last + 1,
        count=ids.last - ids.first + 1,
        unlisted=listed,
    )
    records = survey.all_records
    names = [record.labels for record in records if not record.areas.keys().isdisjoint(unlisted)]
    return [Finding(fault.level, problem, fault.remedy, tuple(names))]


def _stored_ids(survey: Survey) -> StoredIds:
    shown: set[int] = set()
    share = 0.0
    for record in survey.all_records:
        shown |= record.areas.keys()
        # A few stray pixels of that id are no shift, so the largest share decides.
        area = record.areas.get(survey.last_id + 1, 0)
        if area:
            share = max(share, area / (record.label_size[0] * record.label_size[1]))
    return StoredIds(survey.first_id, survey.last_id, frozenset(shown), share, survey.own)
