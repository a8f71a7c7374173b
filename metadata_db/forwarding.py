"""Whether an answer stays as it is while the catalogue moves on: without asking it again.

The roll-ups tell for each facility and month which revision changed a file last that begins in it. So an answer about
a time in which nothing has come or gone since is as good as new, whatever was ingested of other times. This is told by
time alone: the choice of a facet in its own field, which the facet ignores, makes no difference to it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from metadata_db.database import Database
from metadata_db.query import Interval, SearchQuery
from metadata_db.search import Revisions
from metadata_db.tables import IS_LONG

LONGEST = timedelta(days=1)
"""Files up to this length begin at most so long before a time that they cover; others are looked for one by one."""

MAX_ENDED = 20_000
"""Versions that went of which it is still looked at whether they were long."""

_MONTHS = """
    select facility.name, month, facet_month.revision
    from facet_month join facility on facility.id = facet_month.facility_id
    where field = '' and value = '' and month >= 0
"""

_LONG = f"""
    with at as (
        select facility.id, since.revision from unnest(%(names)s::text[], %(since)s::int8[]) as since (name, revision)
        join facility using (name)
    ), ended as (
        select found.time_begin, found.time_over, found.added_in <= at.revision as was_there
        from at cross join lateral (
            select * from file_history where facility_id = at.id and removed_in > at.revision limit {MAX_ENDED + 1}
        ) as found
    )
    select (select count(*) from ended) > {MAX_ENDED}
        or exists (select from ended where {IS_LONG} and time_begin < %(begin)s and time_over > %(begin)s)
        or exists (
            select from file as found join at on at.id = found.facility_id
            where {IS_LONG.replace("time_", "found.time_")} and found.added_in > at.revision
                and tstzrange(found.time_begin, found.time_over) @> %(begin)s
        )
"""
"""Whether a long file came or went that began before a time and was not over then; true also when it takes too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Months:
    """Months since year 0, of which a question's files may begin in."""

    first: float
    last: float

    @classmethod
    def of(cls, interval: Interval) -> "Months":
        """Return the months in which files begin that overlap an interval, but for the long ones."""
        return cls(
            first=float("-inf") if interval.begin is None else _month_of(interval.begin, -LONGEST),
            last=float("inf") if interval.end is None else _month_of(interval.end, timedelta()),
        )


def _month_of(moment: datetime, shift: timedelta) -> int:
    try:
        moment += shift
    except OverflowError:
        return 0
    return moment.year * 12 + moment.month - 1


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Which revision changed a file last, by facility and month, at `revisions` or later."""

    revisions: Revisions = field(default_factory=dict)
    months: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def has_within(self, months: Months, since: Revisions) -> bool:
        """Tell whether something changed in the months after the revisions of some facilities."""
        return any(
            revision > behind and months.first <= month <= months.last
            for name, behind in since.items()
            for month, revision in self.months.get(name, {}).items()
        )


class Forwarding:
    """Tells what an answer may be brought forward to."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changes = Changes()
        self._lock = asyncio.Lock()

    async def is_untouched(self, asked: SearchQuery, since: Revisions, until: Revisions) -> bool:
        """Tell whether no file of a question, nor of its facets, came or went between two moments.

        False may also mean that it would take as long to know as to ask again.
        """
        behind = {name: revision for name, revision in since.items() if until.get(name, 0) > revision}
        if since.keys() != until.keys() or asked.time is None or asked.coincidence is not None:
            return since == until and asked.coincidence is None
        if not behind:
            return True
        changes = await self._get_changes(until)
        months = Months.of(asked.time)
        if changes.has_within(months, behind):
            return False
        begin = asked.time.begin
        if begin is None or not changes.has_within(Months(first=float("-inf"), last=months.first), behind):
            return True
        return not await self._has_long(behind, begin)

    async def _get_changes(self, until: Revisions) -> Changes:
        async with self._lock:
            known = self._changes.revisions
            if not all(known.get(name, -1) >= revision for name, revision in until.items()):
                # What is read is of a later moment than this, if anything.
                self._changes = Changes(revisions=dict(until), months=_by_facility(await self._read_months()))
            return self._changes

    async def _read_months(self) -> list[tuple[Any, ...]]:
        return await self._database.read(_MONTHS, {})

    async def _has_long(self, behind: Revisions, begin: datetime) -> bool:
        values = {"names": list(behind), "since": list(behind.values()), "begin": begin}
        ((found,),) = await self._database.read(_LONG, values)
        return bool(found)


def _by_facility(rows: list[tuple[Any, ...]]) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for name, month, revision in rows:
        found.setdefault(name, {})[month] = revision
    return found
