"""Where a walk along time meets its first files, so that it does not cross months that have none.

Months are known by single choices; that files of two choices are there does not say that any file is of both. So a walk
is also given up after some thousand files, and led by the days of the strata that match.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from metadata_db.counting import Statement
from metadata_db.filters import Filters
from metadata_db.search import Order

RARE = 200
"""One file in so many is rare: a walk would look at thousands of files for a page."""

MAX_WALKED = 5_000
"""Files that are walked along, some 5 ms of work, before another way is tried. The database is told, too: left alone it
would rather sort a month than follow an index, as it does not know that the page is full soon.
"""

_LEAD_MONTHS = 6
"""Months with such files that are looked at to know how frequent they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lead:
    """What months say of a walk along time to files of some strata."""

    is_empty: bool = False
    """Whether no file matches that begins where the walk goes."""
    begin: datetime | None = None
    """No file of the walk that begins earlier matches, if that is known: of a walk on in time."""
    over: datetime | None = None
    """No file of the walk that begins then or later matches: of a walk back."""
    is_rare: bool = False
    """Whether so few files match that walking along all of them would take long."""
    strata: Sequence[int] = ()
    """Numbers of the strata that match, with a file or more in the interval."""
    most: int | None = None
    """How many files are walked along before the walk is given up; None if there are not more."""

    @property
    def is_cut(self) -> bool:
        """Whether a walk may end before the page is full, though there are more files."""
        return self.most is not None and not self.is_rare


def probe_lead(filters: Filters, order: Order, after: tuple[Any, int] | None) -> Statement:
    """Return a statement that tells the first months, in order, that have files of every choice.

    Of each: how many files match at most, how many there are, and how many there are in all months of the walk.
    """
    counts = []
    for name in filters.counted:
        chosen = f"%({name})s"
        is_one = f"value = {chosen}::text" if name == "is_simulation" else f"value = any({chosen}::text[])"
        counts.append(
            f"(select coalesce(sum(files), 0) from facet_month where field = '{name}' and month = whole.month"
            f" and facility_id = whole.facility_id and {is_one})"
        )
    everything = "from facet_month where field = '' and value = '' and facility_id = any(%(facilities)s)"
    bounds = (
        f"greatest(%(lead_first)s, (select min(month) {everything} and month >= 0)),"
        f" least(%(lead_last)s, (select max(month) {everything} and month >= 0))"
    )
    begin, end, step = "first", "last", 1
    if order.descending:
        begin, end, step = end, begin, -1
    text = f"""
        select each.month, found.*, ({f"select coalesce(sum(files), 0) {everything} and month between first and last"})
        from (select {bounds}) as bounds (first, last)
        cross join lateral generate_series({begin}, {end}, {step}) as each (month)
        cross join lateral (
            select coalesce(sum(matching), 0)::int8 as matching, sum(files)::int8 from (
                select least({", ".join(counts)}) as matching, files
                from (select * {everything} and month = each.month offset 0) as whole offset 0
            ) as whole
        ) as found where found.matching > 0 limit {_LEAD_MONTHS}
    """
    first, last = _months_walked(filters, order, after)
    return Statement(text=text, values=filters.values | {"lead_first": first, "lead_last": last})


def _months_walked(filters: Filters, order: Order, after: tuple[Any, int] | None) -> tuple[int, int]:
    """Return the first and the last month, since year 0, in which files may begin that a walk meets."""
    begin = None if filters.interval is None else filters.interval.begin
    end = None if filters.interval is None else filters.interval.end
    first = 0 if begin is None else max(0, month_of(begin) - 1)  # it is looked back by at most a day
    last = _LAST_MONTH if end is None else month_of(end)
    if after is not None and after[0] is not None:
        first, last = (first, month_of(after[0])) if order.descending else (month_of(after[0]), last)
    return first, last


_LAST_MONTH = 12 * 9_999 + 11


def month_of(moment: datetime) -> int:
    """Return the month, since year 0, of a moment."""
    moment = moment.astimezone(UTC)
    return moment.year * 12 + moment.month - 1


def read_lead(filters: Filters, order: Order, rows: Sequence[tuple[int, int, int, int]], *, rare: int) -> Lead:
    """Return what the rows of `probe_lead` say; one file in `rare` is rare."""
    if not rows:
        return Lead(is_empty=True)
    lead = Lead(over=_begin_of(rows[0][0] + 1)) if order.descending else Lead(begin=_begin_of(rows[0][0]))
    lead = replace(lead, most=lead_of(filters, order, rows[0][3]).most)
    if filters.particular:
        return lead
    matching, of = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return replace(lead, is_rare=matching * rare < of)


def lead_of(filters: Filters, order: Order, n_files: int) -> Lead:
    """Return what is known of a walk along `n_files` at most: that it may get long."""
    return Lead(most=MAX_WALKED if n_files > MAX_WALKED and _is_one_walk(filters, order) else None)


def _is_one_walk(filters: Filters, order: Order) -> bool:
    """Tell whether a walk has one source, of which the end of the page is also the end of what must be known.

    Files of more than a day come from elsewhere: ahead of a walk on in time, but behind one that goes back.
    """
    has_begin = filters.interval is not None and filters.interval.begin is not None
    return len(filters.values.get("object", ())) <= 1 and not (order.descending and has_begin)


def _begin_of(month: int) -> datetime | None:
    year, at = divmod(month, 12)
    return datetime(year, at + 1, 1, tzinfo=UTC) if 1 <= year <= 9_999 else None
