"""Stored ids that do not fit the list of classes, and the probable reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unseen.data.own.faults import Finding, Level
from unseen.data.own.survey import Survey

MANY = 10
"""From so many unlisted ids on, with gaps between them, the reason is a damaged label map rather
than classes missing on the list."""
STRAY = 0.01
"""An unlisted id that covers less than this share of every label map is taken for a mistake in
drawing; one that covers more, for a sign that all ids are shifted by one."""


@dataclass(frozen=True)
class StoredIds:
    """The ids in label maps, compared with those of the list of classes.

    Attributes:
        first: The stored id of the first class.
        last: That of the last class.
        stored: Ids that occur in label maps.
        share: Largest share of a label map that the id just above the list covers.
        own: Whether the list of classes is the user's own.
        others: Whether ids above the list are a background.
    """

    first: int
    last: int
    stored: frozenset[int]
    share: float
    own: bool
    others: bool = False

    @property
    def unlisted(self) -> list[int]:
        """Ids above the list, in order."""
        if self.others:
            return []
        return sorted(value for value in self.stored if value > self.last)

    @property
    def one_above(self) -> bool:
        """Whether all ids seem shifted: the id just above the list, and no other, is common."""
        return self.unlisted == [self.last + 1] and self.share >= STRAY

    @property
    def scattered(self) -> bool:
        """Whether there are many unlisted ids with gaps, as smooth resizing leaves them."""
        # JPEG and smooth resizing make values between two ids; forgotten classes follow the list.
        count = len(self.unlisted)
        return count >= MANY and self.unlisted != list(range(self.last + 1, self.last + 1 + count))


@dataclass(frozen=True)
class IdFault:
    """A reason for unexpected ids: a line of `ID_FAULTS`, whose first fitting line is reported.

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


UNLISTED = "ids that are not on the list of classes ({unlisted}; valid are {first} to {last})"
# From the most to the least specific: a fault further down would also fit the data of those above.
ID_FAULTS = (
    # A warning, as the last class may truly be absent: no id is invalid.
    IdFault(
        "warning",
        "no label map holds {last}, the id of the last class, but some hold 0: if ids were stored"
        " from 0 on, every class is taken for the one before it",
        "look at the sheet; if names do not fit objects, add 1 to every id, or make the label"
        " maps again",
        lambda ids: (
            ids.first == 1
            and not ids.unlisted
            and ids.last > 1
            and ids.last not in ids.stored
            and {0, ids.last - 1} <= ids.stored
        ),
    ),
    # The list of a published benchmark is right, so its label maps must be wrong.
    IdFault(
        "error",
        UNLISTED,
        "the label maps are not in this benchmark's ids: make them with `unseen prepare`, or"
        " restore them",
        lambda ids: bool(ids.unlisted) and not ids.own,
    ),
    IdFault(
        "error",
        "ids run from {lowest} to {above}, and no label map holds 0, the background: every id seems"
        " to be one too high",
        "subtract 1 from every id, or leave the background off the list of classes",
        lambda ids: ids.first == 1 and ids.one_above and 0 not in ids.stored,
    ),
    IdFault(
        "error",
        UNLISTED,
        "list all classes in classes.txt; if these are no classes, the masks were saved as JPEG or"
        " resized smoothly: make them again from the ids",
        lambda ids: ids.scattered,
    ),
    IdFault(
        "error",
        "ids run from 0 to {above}, but only {count} lines are listed: either a background, id 0,"
        " is missing as the first line, or {above} as the last",
        "look at the sheet, which shows both; then write 'background # ignore' (not scored) or"
        " 'background' (a class) as the first line of classes.txt, or add the last class or"
        " 'unlabelled # ignore'",
        lambda ids: ids.first == 0 and ids.one_above and 0 in ids.stored,
    ),
    IdFault(
        "error",
        "ids run from 1 to {above}, but the first of {count} lines has the id 0: either every id is"
        " one too high, or no image shows the first class and {above} is missing as the last",
        "look at the sheet, which shows both; then write 'background # ignore' as the first line of"
        " classes.txt, or subtract 1 from every id, or add the last class or 'unlabelled # ignore'",
        lambda ids: ids.first == 0 and ids.one_above,
    ),
    # No pattern fits: some classes are not on the list, or some pixels are mistakes.
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
    # One reason at a time: correcting it usually removes the signs of the others.
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
        lowest=min(ids.stored),
        above=ids.last + 1,
        count=ids.last - ids.first + 1,
        unlisted=listed,
    )
    records = survey.all_records
    names = [record.labels for record in records if not record.areas.keys().isdisjoint(unlisted)]
    return [Finding(fault.level, problem, fault.remedy, tuple(names))]


def may_be_shifted(survey: Survey) -> bool:
    """Whether the list of classes may lack a background in front, or else its last line."""
    ids = _stored_ids(survey)
    return ids.own and ids.first == 0 and ids.one_above


def _stored_ids(survey: Survey) -> StoredIds:
    stored: set[int] = set()
    share = 0.0
    for record in survey.all_records:
        stored |= record.areas.keys()
        # A few stray pixels of that id are no shift, so the largest share decides.
        area = record.areas.get(survey.last_id + 1, 0)
        if area:
            share = max(share, area / (record.label_size[0] * record.label_size[1]))
    return StoredIds(
        survey.first_id, survey.last_id, frozenset(stored), share, survey.own, survey.others
    )
