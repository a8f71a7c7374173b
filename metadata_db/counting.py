"""How many files match: statements that tell what has to be looked at, as sums of strata.

The sums of a question are put together from sources:

- blocks of the roll-ups, for whole days, or for a whole life, which the process keeps (`metadata_db.blocks`);
- files, where a day is cut by the interval, or where a filter looks at more than strata;
- what came and went since an earlier moment, with the sign turned round.

Conditions on strata are applied at the end, in the process. So one look-up serves the summary and all facets of a
question, each of which ignores its own choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from metadata_db.filters import LONG_FILES, Filters, Values, Way, in_interval, together
from metadata_db.query import Interval
from metadata_db.sums import TOLD, gathered, told_by_files
from metadata_db.tables import ALL_MONTHS, IN_SAMPLE, NO_DAY, SAMPLE_SLOT

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST_DAY, LAST_DAY = NO_DAY + 2, 2**31 - 1
"""Days before and after all that there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """SQL with named parameters, and their values."""

    text: str
    values: Values
    is_stable: bool = False
    """Whether there is but one good way to carry it out, whatever the values are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """An interval of time cut at days: whole days for the roll-ups, and the rest for the files."""

    first_day: int
    """First day, since 1970, that lies in the interval as a whole."""
    over_day: int
    """Day after the last whole one; not after `first_day` when there is none."""

    @property
    def has_days(self) -> bool:
        """Whether there is a whole day."""
        return self.first_day < self.over_day

    @classmethod
    def of(cls, interval: Interval | None) -> "Span":
        """Cut an interval."""
        begin = None if interval is None else interval.begin
        end = None if interval is None else interval.end
        return cls(
            first_day=FIRST_DAY if begin is None else -((EPOCH - begin) // DAY),
            over_day=LAST_DAY if end is None else (end - EPOCH) // DAY,
        )

    def values(self) -> Values:
        """Return the values of the parameters that cut files at the days."""
        found: Values = {"first_day": self.first_day, "over_day": self.over_day}
        if self.has_days:
            cuts = (("first_moment", self.first_day), ("over_moment", self.over_day))
            found |= {name: EPOCH + day * DAY for name, day in cuts if -(10**6) < day < 3 * 10**6}
        return found

    def months(self) -> tuple[int, int]:
        """Return the first month, since year 0, that lies in the days as a whole, and the month after the last."""
        first, over = _month_of(self.first_day), _month_of(self.over_day)
        return (first if self.first_day <= first_day_of(first) else first + 1), over

    def months_around(self) -> tuple[int, int]:
        """Return the first and the last month, since year 0, that have one of the days."""
        return _month_of(self.first_day), _month_of(self.over_day if self.over_day == LAST_DAY else self.over_day - 1)


def _month_of(day: int) -> int:
    if day in (FIRST_DAY, LAST_DAY):
        return 0 if day == FIRST_DAY else 12 * 10_000
    date = EPOCH + day * DAY
    return date.year * 12 + date.month - 1


@lru_cache(maxsize=10_000)
def first_day_of(month: int) -> int:
    """Return the first day, since 1970, of a month since year 0."""
    year, at = divmod(month, 12)
    if not 1 <= year <= 9999:
        return FIRST_DAY if year < 1 else LAST_DAY
    return (datetime(year, at + 1, 1, tzinfo=UTC) - EPOCH) // DAY


# --- sources: sums of strata ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a source tells of files ``f``: the columns that they are counted by, and what is summed with the count."""

    keys: tuple[str, ...] = ("f.stratum_id",)
    sums: tuple[str, ...] = told_by_files()


STRATA = Shape()
"""Sums of strata as `metadata_db.sums` reads them."""


def _rows(source: str, conditions: Sequence[str], *, shape: Shape, sign: str = "") -> str:
    """Source of single files."""
    sums = [f"{sign}1::int8", *(f"{sign}({column})" for column in shape.sums)]
    return f"select {', '.join((*shape.keys, *sums))} from {source} where {together(conditions)}"


def _summed_rows(source: str, conditions: Sequence[str], *, shape: Shape) -> str:
    """Source of many files: summed where they are found, as whole numbers."""
    sums = ["count(*)", *(f"sum({column})" for column in shape.sums)]
    grouped = ", ".join(str(at + 1) for at in range(len(shape.keys)))
    return f"select {', '.join((*shape.keys, *sums))} from {source} where {together(conditions)} group by {grouped}"


def edges(filters: Filters, span: Span, extra: Sequence[str] = (), *, shape: Shape = STRATA) -> list[str]:
    """Return sources of the files in an interval that do not begin on one of its whole days.

    Those of the days that the interval cuts; those that began before it and are not over yet; and of these, the long
    ones by an index of their own.
    """
    interval = filters.interval
    if interval is None:
        return []
    found = [_summed_rows("file f", [*part, *extra], shape=shape) for part in _edge_conditions(interval, span)]
    if interval.begin is not None:
        found.append(_summed_rows(LONG_FILES, ["f.facility_id = any(%(facilities)s)", *extra], shape=shape))
    return found


def _edge_conditions(interval: Interval, span: Span) -> list[list[str]]:
    ours = "f.facility_id = any(%(facilities)s)"
    found = []
    if interval.begin is not None:
        before = "%(first_moment)s" if span.has_days else "%(time_end)s"
        begun = [f"f.time_begin > %(time_begin)s - %(lookback)s and f.time_begin < {before}"]
        found.append([ours, *begun, "f.time_over > %(time_begin)s"])
    if interval.end is not None and span.has_days:
        found.append([ours, "f.time_begin >= %(over_moment)s", "f.time_begin < %(time_end)s"])
    return found


def in_time(filters: Filters) -> list[tuple[str, list[str]]]:
    """Return FROM clause and conditions of the one or two index ranges that together hold the files of the interval."""
    interval = filters.interval
    ours = "f.facility_id = any(%(facilities)s)"
    if interval is None:
        return [("file f", [ours])]
    conditions = [ours, *in_interval(filters)]
    if interval.begin is None:
        return [("file f", conditions)]
    recent = [*conditions, "f.time_begin > %(time_begin)s - %(lookback)s"]
    # A file of no length at all is not long, so all that are still going on at the begin do match.
    return [("file f", recent), (LONG_FILES, [ours])]


def since(filters: Filters, extra: Sequence[str] = (), *, shape: Shape = STRATA) -> list[str]:
    """Return sources that turn back what came and went after the moment of ``at_facilities``, ``at_revisions``."""
    moment = "unnest(%(at_facilities)s::int2[], %(at_revisions)s::int8[]) as at (facility_id, revision)"
    conditions = [*in_interval(filters), *extra]

    def after(table: str, life: str) -> str:
        return (
            f"{moment} cross join lateral (select * from {table} as found"
            f" where found.facility_id = at.facility_id and {life} offset 0) as f"
        )

    came = after("file", "found.added_in > at.revision")
    went = after("file_history", "found.removed_in > at.revision and found.added_in <= at.revision")
    return [_rows(came, conditions, shape=shape, sign="-"), _rows(went, conditions, shape=shape)]


def went_since(filters: Filters, extra: Sequence[str], *, shape: Shape = STRATA) -> str:
    """Source of the files that lived at the moment and are no more."""
    return since(filters, extra, shape=shape)[1]


# --- sums of strata in one row ----------------------------------------------------------------------------------------


def strata(sources: Sequence[str], names: Sequence[str] = TOLD) -> str:
    """Return one row with all that sources tell: an array for the strata and for each of the numbers."""
    if not sources:
        return f"select {', '.join(f'null::int8[] as {name}' for name in names)}"
    return f"select {gathered(names)} from ({' union all '.join(sources)}) as source ({', '.join(names)})"


def with_blocks(sums: str, filters: Filters, *, by_day: bool = False) -> Statement:
    """Return a row of sums, and before it the blocks that have the rest: arrays of facilities, months and revisions.

    Parameters
    ----------
    by_day
        Whether the blocks must have days; otherwise one has a whole life.
    """
    span = Span.of(filters.interval)
    values: Values = {}
    if filters.interval is None:
        condition = f"month {'<>' if by_day else '='} {ALL_MONTHS}"
    elif span.has_days:
        condition = "month between %(first_month)s and %(last_month)s"
        values["first_month"], values["last_month"] = span.months_around()
    else:
        condition = "false"
    blocks = (
        "select array_agg(facility_id), array_agg(month), array_agg(revision) from facet_month"
        f" where field = '' and value = '' and {condition} and facility_id = any(%(facilities)s)"
    )
    text = f"select * from ({blocks}) as blocks cross join ({sums}) as sums"
    return Statement(text=text, values=filters.values | span.values() | values)


# --- files, found by one way ------------------------------------------------------------------------------------------


def found_by(way: Way, filters: Filters, *, life: Sequence[str] = (), shape: Shape = STRATA) -> str:
    """Source of the files that lie on a way and match: an index range, and everything else tested file by file."""
    others = (text.format(t="f") for name, text in filters.particular.items() if name != way.decides)
    conditions = [*in_interval(filters), *others, *life]
    fenced = f"(select f.* from {way.source.format(file='file')} where {way.condition} offset 0) as f"
    return _summed_rows(fenced, ["f.facility_id = any(%(facilities)s)", *conditions], shape=shape)


def found_in_time(filters: Filters, *, life: Sequence[str] = (), shape: Shape = STRATA) -> list[str]:
    """Return sources of the files that match, by looking at all of the facilities in the interval."""
    conditions = [text.format(t="f") for text in filters.particular.values()]
    return [_summed_rows(source, [*part, *conditions, *life], shape=shape) for source, part in in_time(filters)]


def found_in_sample(filters: Filters, *, way: Way | None = None, shape: Shape = STRATA) -> list[str]:
    """Return sources of the files of the ``slots`` of the sample that match; each stands for many.

    Parameters
    ----------
    way
        The index to find those of the sample by; None looks at all of the facilities in the interval.
    """
    conditions = [text.format(t="f") for text in filters.particular.values()]
    if way is not None and way.sample is not None:
        ours = ["f.facility_id = any(%(facilities)s)", *in_interval(filters), *conditions]
        return [_summed_rows(way.sample.format(chosen=together(in_sample("found"))), ours, shape=shape)]
    chosen = in_sample("f")
    return [_summed_rows(source, [*part, *chosen, *conditions], shape=shape) for source, part in in_time(filters)]


def in_sample(alias: str) -> list[str]:
    """Return the conditions for being in the chosen ``slots`` of the sample."""
    qualified = f"{alias}.fingerprint_low"
    return [
        IN_SAMPLE.replace("fingerprint_low", qualified),
        f"({SAMPLE_SLOT.replace('fingerprint_low', qualified)}) = any(%(slots)s::int8[])",
    ]
