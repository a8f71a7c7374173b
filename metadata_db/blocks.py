"""What the roll-ups say, kept in the process: sums by stratum and day, in blocks of one facility and month.

A block has the revision of its facility that changed it last. Whoever asks tells the revisions as of which it wants
the blocks, read in the same statement as everything else of the look-up. What is not here, or is of another revision,
is fetched. So an ingest of this month's files costs no block of the past.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from metadata_db.columns import ColumnStore
from metadata_db.counting import FIRST_DAY, LAST_DAY, Span, first_day_of
from metadata_db.database import Database
from metadata_db.lookup import MovedOnError
from metadata_db.sums import NOTHING, Ints, Numbers, Sums, add_up, gathered, read_sums, told_by_sums
from metadata_db.tables import ALL_MONTHS, NO_DAY, NO_MONTH

FETCHED_AT_ONCE = 30
"""Blocks that are fetched by one statement: of 10 million generated files some 25,000 sums, 50 milliseconds of work."""


class Sized(Protocol):
    """Something that takes memory."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""


LIFE = Span(first_day=FIRST_DAY, over_day=LAST_DAY)
"""All days that there are."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)

_MONTH = attrgetter("month")

_OVERHEAD_BYTES = 1_000
"""What an entry takes beside its arrays, at most."""


class Memory(Generic[K, V]):
    """Things that were used last, up to so many bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[K, V] = OrderedDict()
        self.nbytes = 0

    @property
    def is_full(self) -> bool:
        """Whether there is little room left, so that what comes will soon cost what is there."""
        return self.nbytes > 0.9 * self._max_bytes

    def get(self, key: K) -> V | None:
        """Return what is kept under a key."""
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> None:
        """Keep something, and forget what was used longest ago if there is no room."""
        if (old := self._kept.pop(key, None)) is not None:
            self.nbytes -= old.nbytes + _OVERHEAD_BYTES
        self._kept[key] = value
        self.nbytes += value.nbytes + _OVERHEAD_BYTES
        while self.nbytes > self._max_bytes:
            _, least = self._kept.popitem(last=False)
            self.nbytes -= least.nbytes + _OVERHEAD_BYTES


class Version(NamedTuple):
    """A block as of a revision of its facility."""

    facility: int
    month: int
    """Since year 0; `ALL_MONTHS` is the whole life, `NO_MONTH` the files without a time."""
    revision: int
    """The last one that changed a file that begins in it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Sums by stratum and day, in the order of days; those of the whole life have no days."""

    revision: int
    days: Ints
    sums: Sums

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.days.nbytes + self.sums.nbytes

    def during(self, first_day: int, over_day: int) -> tuple[Ints, Sums]:
        """Return some days with their sums."""
        begin, over = np.searchsorted(self.days, [first_day, over_day])
        return self.days[begin:over], self.sums.where(slice(begin, over))

    @cached_property
    def of_all_strata(self) -> "Block":
        """Sums by day alone, at a place that means nothing."""
        if not len(self.days):
            return self
        begins = np.flatnonzero(np.append(True, self.days[1:] != self.days[:-1]))
        numbers = np.add.reduceat(self.sums.numbers, begins, axis=1)
        sums = Sums(places=np.zeros(len(begins), np.int32), numbers=numbers)
        return Block(revision=self.revision, days=self.days[begins], sums=sums)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Years:
    """Sums by stratum of all blocks of a facility in one or more years."""

    versions: Sequence[Version]
    sums: Sums

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes + 100 * len(self.versions)


class Blocks:
    """Keeps blocks, and fetches those that are missing."""

    def __init__(self, database: Database, columns: ColumnStore, *, max_bytes: int) -> None:
        self._database = database
        self._columns = columns
        self._blocks: Memory[tuple[int, int], Block] = Memory(max_bytes * 4 // 5)
        self._years: Memory[tuple[int, int, int], _Years] = Memory(max_bytes // 5)
        self._lock = asyncio.Lock()

    async def sums(self, versions: Iterable[Version], span: Span) -> list[Sums]:
        """Return sums by stratum that together are those of the whole days of an interval, or of the whole life.

        Parameters
        ----------
        versions
            Of all blocks that have one of the days.

        Raises
        ------
        MovedOnError
            The catalogue has moved on since `versions` were read.
        """
        found: list[Sums] = []
        cut: list[Version] = []
        unknown: list[list[tuple[Sequence[Version], Sums | None]]] = []
        months = _whole_months(span)
        years = range(-(-months.start // 12) * 12, months.stop // 12 * 12)
        for _, of_facility in groupby(sorted(versions), lambda version: version.facility):
            whole: list[Version] = []
            for version in of_facility:
                (whole if version.month in years else cut).append(version)
            if (known := self._find_years(whole)) is not None:
                found.append(known)
            elif whole:
                each = (list(year) for _, year in groupby(whole, lambda version: version.month // 12))
                unknown.append([(year, self._find_years(year)) for year in each])
        asked = [version for parts in unknown for year, sums in parts if sums is None for version in year]
        blocks = await self.get([*cut, *asked])
        found += [self._add_years(parts, blocks) for parts in unknown]
        for version in cut:
            is_whole = version.month < 0 or version.month in months
            block = blocks[version]
            found.append(block.sums if is_whole else block.during(span.first_day, span.over_day)[1])
        return found

    def _find_years(self, versions: Sequence[Version]) -> Sums | None:
        found = self._years.get(_key_of(versions)) if versions else None
        return found.sums if found is not None and found.versions == versions else None

    def _add_years(
        self, years: Sequence[tuple[Sequence[Version], Sums | None]], blocks: Mapping[Version, Block]
    ) -> Sums:
        """Return the sums of some years of a facility, and keep them and those of each year."""
        each = [
            self._keep_years(year, [blocks[version].sums for version in year]) if known is None else known
            for year, known in years
        ]
        return each[0] if len(each) == 1 else self._keep_years([version for year, _ in years for version in year], each)

    def _keep_years(self, versions: Sequence[Version], parts: Sequence[Sums]) -> Sums:
        sums = add_up(parts)
        self._years.put(_key_of(versions), _Years(versions=versions, sums=sums))
        return sums

    async def by_day(
        self, versions: Sequence[Version], span: Span, *, by_stratum: bool = True
    ) -> list[tuple[Ints, Sums]]:
        """Return the same sums with their days, perhaps those of all strata together.

        Raises
        ------
        MovedOnError
            The catalogue has moved on since `versions` were read.
        """
        found = []
        months = _whole_months(span)
        for version, block in (await self.get(versions)).items():
            chosen = block if by_stratum else block.of_all_strata
            # Files without a time are asked for with the whole life only.
            if version.month in months or version.month < 0:
                found.append((chosen.days, chosen.sums))
            else:
                found.append(chosen.during(span.first_day, span.over_day))
        return found

    async def warm_up(self) -> None:
        """Fetch what questions will need, the last years first, as far as there is room."""
        rows = await self._database.read(_VERSIONS, {})
        await self._fetch_ahead([Version(*row) for row in rows if row[1] == ALL_MONTHS], LIFE)
        years = groupby((Version(*row) for row in rows if row[1] >= 0), lambda version: version.month // 12)
        for _, versions in years:
            if self._blocks.is_full or self._years.is_full:
                break
            await self._fetch_ahead(list(versions), LIFE)

    async def _fetch_ahead(self, versions: Sequence[Version], span: Span) -> None:
        with suppress(MovedOnError):
            await self.sums(versions, span)

    async def get(self, versions: Sequence[Version]) -> dict[Version, Block]:
        """Return blocks.

        Raises
        ------
        MovedOnError
            The catalogue has moved on since `versions` were read.
        """
        blocks = {version: self._find(version) for version in versions}
        if None in blocks.values():
            # One after another: who comes second finds what the first one has fetched.
            async with self._lock:
                blocks = {version: block or self._find(version) for version, block in blocks.items()}
                # Those first that change soonest.
                missing = sorted(
                    (version for version, block in blocks.items() if block is None), key=_MONTH, reverse=True
                )
                lives = [version for version in missing if version.month == ALL_MONTHS]
                months = [version for version in missing if version.month != ALL_MONTHS]
                for statement, wanted in ((_LIVES, lives), (_MONTHS, months)):
                    for at in range(0, len(wanted), FETCHED_AT_ONCE):
                        blocks |= await self._fetch(statement, wanted[at : at + FETCHED_AT_ONCE])
        found = {version: block for version, block in blocks.items() if block is not None}
        if len(found) < len(blocks):
            raise MovedOnError
        return found

    def _find(self, version: Version) -> Block | None:
        found = self._blocks.get((version.facility, version.month))
        return found if found is not None and found.revision == version.revision else None

    async def _fetch(self, statement: str, versions: Sequence[Version]) -> Mapping[Version, Block]:
        """Fetch blocks as they are now, and return those that are still as of the wanted revision."""
        days = [_days_of(version.month) for version in versions]
        values = {
            "facilities": [version.facility for version in versions],
            "months": [version.month for version in versions],
            "first_days": [first for first, _ in days],
            "over_days": [over for _, over in days],
        }
        rows = await self._database.read(statement, values)
        # All strata at once: each look into the catalogue takes its time.
        known = [row[4] for row in rows if row[4] is not None]
        places = await self._columns.find(np.concatenate(known)) if known else _NO_DAYS
        found: dict[Version, Block] = {}
        at = 0
        for facility, month, revision, days, ids, *told in rows:
            n = 0 if ids is None else len(ids)
            block = _make_block(revision, days, places[at : at + n], told) if n else _empty_block(revision)
            self._blocks.put((facility, month), block)
            found[Version(facility, month, revision)] = block
            at += n
        return {version: found[version] for version in versions if version in found}


_NO_DAYS = np.empty(0, np.int32)


def _empty_block(revision: int) -> Block:
    return Block(revision=revision, days=_NO_DAYS, sums=NOTHING)


def _make_block(revision: int, days: Ints | None, places: Ints, told: Sequence[Numbers]) -> Block:
    sums = read_sums(places, told)
    if days is None:
        return Block(revision=revision, days=_NO_DAYS, sums=sums)
    days = days[places >= 0]
    in_order = np.argsort(days, kind="stable")
    return Block(revision=revision, days=days[in_order], sums=sums.where(in_order))


def _key_of(versions: Sequence[Version]) -> tuple[int, int, int]:
    return versions[0].facility, versions[0].month, versions[-1].month


def _days_of(month: int) -> tuple[int, int]:
    """Return the first day of a block, and the one after its last."""
    return (NO_DAY, NO_DAY + 1) if month == NO_MONTH else (first_day_of(month), first_day_of(month + 1))


def _whole_months(span: Span) -> range:
    return range(*span.months())


# --- statements -------------------------------------------------------------------------------------------------------

_VERSIONS = "select facility_id, month, revision from facet_month where field = '' and value = '' order by month desc"


def _blocks_of(days: str, ids: str, source: str) -> str:
    """Return the statement that tells blocks as they are now: facility, month, revision, days and sums as arrays."""
    return f"""
        select wanted.facility_id, wanted.month, facet_month.revision, found.*
        from unnest(%(facilities)s::int2[], %(months)s::int4[], %(first_days)s::int4[], %(over_days)s::int4[])
            as wanted (facility_id, month, first_day, over_day)
        join facet_month on field = '' and value = '' and facet_month.month = wanted.month
            and facet_month.facility_id = wanted.facility_id
        cross join lateral (
            select {days}, {gathered([ids, "files", *told_by_sums()])} from {source}
            where each.facility_id = wanted.facility_id and each.files <> 0
        ) as found
    """


_MONTHS = _blocks_of(
    "array_agg(day)",
    "stratum_id",
    "(select * from stratum_day where day >= wanted.first_day and day < wanted.over_day) as each",
)
_LIVES = _blocks_of("null::int4[]", "id", "stratum as each")
