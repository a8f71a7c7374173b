"""How many files match: statements that add up what the roll-ups say, and what only the files themselves can say.

A tally is a set of sums for each value of some fields: number of files, bytes, and the two halves of the checksum; the
field '' counts all. It is put together from sources, each of which tells sums of strata:

- the roll-ups, for whole days, or for a whole life;
- files, where a day is cut by the interval, or where a filter looks at more than strata;
- what came and went since an earlier moment, with the sign turned round.

Conditions on strata are applied at the end, for each field those of all other fields. So one statement tells all
facets, and each ignores its own choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from metadata_db.filters import NAMED, Filters, Values, Way, in_interval, together
from metadata_db.query import Interval
from metadata_db.tables import ALL_MONTHS, IN_SAMPLE, IS_LONG, NO_DAY, SAMPLE_SLOT, STRATUM_COLUMNS

EVERYTHING = ""
"""The field under which all files are counted together."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST_DAY, LAST_DAY = NO_DAY + 2, 2**31 - 1
"""Days before and after all that there are."""

SAMPLE_SHARE = 256
"""One file in so many is in the sample."""

SAMPLE_SLOTS = 16
"""Parts into which the sample is cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """SQL with named parameters, and their values."""

    text: str
    values: Values


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

    def months(self) -> tuple[int, int]:
        """Return the first month, since year 0, that lies in the days as a whole, and the month after the last."""
        first, over = _month_of(self.first_day), _month_of(self.over_day)
        return (first if self.first_day <= first_day_of(first) else first + 1), over


def _month_of(day: int) -> int:
    if day in (FIRST_DAY, LAST_DAY):
        return 0 if day == FIRST_DAY else 12 * 10_000
    date = EPOCH + day * DAY
    return date.year * 12 + date.month - 1


def first_day_of(month: int) -> int:
    """Return the first day, since 1970, of a month since year 0."""
    year, at = divmod(month, 12)
    if not 1 <= year <= 9999:
        return FIRST_DAY if year < 1 else LAST_DAY
    return (datetime(year, at + 1, 1, tzinfo=UTC) - EPOCH) // DAY


MANY_DAYS = 20
"""Days from which on most strata of their facilities are in question."""


# --- sources: sums of strata ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a source tells of files ``f``: the columns that they are counted by, and what is summed with the count."""

    keys: tuple[str, ...] = ("f.stratum_id",)
    sums: tuple[str, ...] = ("f.size_bytes", "f.fingerprint_high", "f.fingerprint_low")


STRATA = Shape()
"""Sums of strata with their checksum."""

COUNTS = Shape(sums=("f.size_bytes",))
"""Sums of strata, as facets need them."""


def shape_of(fields: Sequence[str]) -> Shape:
    """Return what the sources of a tally of `fields` tell: only all files together have a checksum."""
    return STRATA if EVERYTHING in fields else COUNTS


def _rows(source: str, conditions: Sequence[str], *, shape: Shape, sign: str = "") -> str:
    """Source of single files."""
    sums = [f"{sign}1::int8", *(f"{sign}({column})::numeric" for column in shape.sums)]
    return f"select {', '.join((*shape.keys, *sums))} from {source} where {together(conditions)}"


def _summed_rows(source: str, conditions: Sequence[str], *, shape: Shape) -> str:
    """Source of many files: summed where they are found, as whole numbers."""
    sums = ["count(*)", *(f"sum({column})" for column in shape.sums)]
    grouped = ", ".join(str(at + 1) for at in range(len(shape.keys)))
    return f"select {', '.join((*shape.keys, *sums))} from {source} where {together(conditions)} group by {grouped}"


def whole_lives(*, shape: Shape) -> str:
    """Source of all living files."""
    return (
        f"select id, files, bytes{_checksum_of(shape)} from stratum"
        " where facility_id = any(%(facilities)s) and files <> 0"
    )


def whole_days(*, first: str = "%(first_day)s", over: str = "%(over_day)s", shape: Shape) -> str:
    """Source of the files that begin on whole days."""
    return (
        f"select stratum_id, files, bytes{_checksum_of(shape)} from stratum_day"
        f" where day >= {first} and day < {over} and facility_id = any(%(facilities)s)"
    )


def _checksum_of(shape: Shape) -> str:
    return ", fingerprint_high, fingerprint_low" if shape is STRATA else ""


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


LONG_FILES = f"""
    (select found.* from file as found where {IS_LONG.replace("time_", "found.time_")}
        and tstzrange(found.time_begin, found.time_over) @> %(time_begin)s
        and found.time_begin <= %(time_begin)s - %(lookback)s offset 0) as f
"""
"""Files that began before an interval, too early to be found by looking back, and are not over yet; by an index."""


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


# --- tallies ----------------------------------------------------------------------------------------------------------


def tally(
    sources: Sequence[str],
    filters: Filters,
    fields: Sequence[str],
    *,
    ready: str | None = None,
    is_long: bool = False,
) -> str:
    """Return one row per field and value: field, value, files, bytes, high, low.

    Parameters
    ----------
    sources
        Sums of strata, to which the conditions on strata apply.
    ready
        A source that has sums of fields and values already, to which all conditions were applied.
    is_long
        Whether there are many strata in the sources, so that reading all of them is quicker than finding each. The
        database cannot know: sums that are grouped twice have no statistics.
    """
    joined = "stratum.id + 0 = t.stratum_id + 0" if is_long else "stratum.id = t.stratum_id"
    names = ("files", "bytes", "high", "low") if shape_of(fields) is STRATA else ("files", "bytes")
    sums = ", ".join(f"sum({name}) as {name}" for name in names)
    parts = [] if ready is None else [ready]
    known = ""
    if sources:
        source = f"({' union all '.join(sources)}) as source (stratum_id, {', '.join(names)})"
        known = f"""
            with t as materialized (
                select stratum_id, {sums} from {source} group by 1
            ), s as materialized (
                select t.*, {", ".join(f"stratum.{column}" for column in STRATUM_COLUMNS)}
                from t join stratum on {joined} and stratum.facility_id = any(%(facilities)s)
            )
        """
        parts += [_field_sums(filters, field, names) for field in fields]
    return f"""
        {known} select field, value, sum(files)::int8 as files, sum(bytes) as bytes,
            {"sum(high) as high, sum(low) as low" if "high" in names else "0 as high, 0 as low"}
        from ({" union all ".join(parts)}) as part (field, value, {", ".join(names)}) group by 1, 2
    """


def _field_sums(filters: Filters, field: str, names: Sequence[str]) -> str:
    """Return the sums of the values of one field, under the conditions on all others."""
    sums = ", ".join(f"sum({name})" for name in names)
    wanted = [text.format(t="s") for other, text in filters.counted.items() if other != field]
    if field == EVERYTHING:
        # Without conditions nobody need know what the strata are.
        return f"select '', '', {sums} from {'s' if wanted else 't'} where {together(wanted)} having count(*) > 0"
    column = f"s.{field}_id" if field in NAMED else f"s.{field}"
    return (
        f"select '{field}', {column}::text, {sums} from s"
        f" where {together([*wanted, f'{column} is not null'])} group by {column}"
    )


def ready_pairs(filters: Filters, fields: Sequence[str]) -> str:
    """Source of ready sums of the whole life, where one filter on what files are counted by is set."""
    (chosen,) = filters.counted
    ours = "facility_id = any(%(facilities)s)"
    is_one = f"value = %({chosen})s::text" if chosen == "is_simulation" else f"value = any(%({chosen})s::text[])"
    parts = []
    for field in fields:
        if field == chosen:
            source, key = f"facet_month where field = '{field}' and month = {ALL_MONTHS} and {ours}", "value"
        elif field == "facility":
            months = f"field = '{chosen}' and month = {ALL_MONTHS}"
            source, key = f"facet_month where {months} and {ours} and {is_one}", "facility_id::text"
        else:
            pairs = f"field = '{chosen}' and other_field = '{field}'"
            source, key = f"facet_pair where {pairs} and {ours} and {is_one}", "other_value"
        parts.append(f"select '{field}', {key}, sum(files), sum(bytes) from {source} group by 2")
    return " union all ".join(parts)


def ready_months(filters: Filters, fields: Sequence[str], *, narrowed_by: str | None = None) -> str:
    """Source of ready sums of months, from ``%(first_month)s`` to before ``%(over_month)s``.

    Parameters
    ----------
    narrowed_by
        The only filter on what files are counted by: all that match together are those of its values.
    """
    ours = "month >= %(first_month)s and month < %(over_month)s and facility_id = any(%(facilities)s)"
    checksum = ", sum(fingerprint_high), sum(fingerprint_low)" if shape_of(fields) is STRATA else ""
    sums = f"sum(files), sum(bytes){checksum}"
    parts = []
    for name in fields:
        kept, value, condition = name, "value", ""
        if name == "facility":
            kept, value = EVERYTHING, "facility_id::text"
        elif name == EVERYTHING and narrowed_by is not None:
            kept, value = narrowed_by, "''"
            chosen = f"%({narrowed_by})s"
            is_one = narrowed_by == "is_simulation"
            condition = f" and value = {chosen}::text" if is_one else f" and value = any({chosen}::text[])"
        parts.append(
            f"select '{name}', {value}, {sums} from facet_month where field = '{kept}' and {ours}{condition} group by 2"
        )
    return " union all ".join(parts)


def whole_life_months() -> dict[str, Any]:
    """Return the range of months that is the whole life."""
    return {"first_month": ALL_MONTHS, "over_month": ALL_MONTHS + 1}


# --- files, found by one way ------------------------------------------------------------------------------------------


def found_by(way: Way, filters: Filters, *, life: Sequence[str] = (), shape: Shape = STRATA) -> str:
    """Source of the files that lie on a way and match: an index range, and everything else tested file by file."""
    conditions = [*in_interval(filters), *(text.format(t="f") for text in filters.particular.values()), *life]
    fenced = f"(select f.* from {way.source.format(file='file')} where {way.condition} offset 0) as f"
    return _summed_rows(fenced, ["f.facility_id = any(%(facilities)s)", *conditions], shape=shape)


def found_in_time(filters: Filters, *, life: Sequence[str] = (), shape: Shape = STRATA) -> list[str]:
    """Return sources of the files that match, by looking at all of the facilities in the interval."""
    conditions = [text.format(t="f") for text in filters.particular.values()]
    return [_summed_rows(source, [*part, *conditions, *life], shape=shape) for source, part in in_time(filters)]


def found_in_sample(filters: Filters, slots: Sequence[int], *, shape: Shape = STRATA) -> str:
    """Source of the files of the sample that match; each stands for many."""
    in_sample = IN_SAMPLE.replace("fingerprint_low", "f.fingerprint_low")
    slot = SAMPLE_SLOT.replace("fingerprint_low", "f.fingerprint_low")
    conditions = [
        "f.facility_id = any(%(facilities)s)",
        in_sample,
        f"({slot}) = any(%(slots)s::int8[])",
        *in_interval(filters),
        *(text.format(t="f") for text in filters.particular.values()),
    ]
    return _summed_rows("file f", conditions, shape=shape)
