"""Pages of files in order: statements that read little more than the page.

Pages are keyset pages: they begin behind a row, not at a number of rows. A statement is a union of branches that each
give their first rows in order: the files that an index has in that order, those without a value, those that only an
index of long files finds, and, for an earlier moment, those that have ended since.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from metadata_db.counting import FIRST_DAY, Span, Statement, in_time
from metadata_db.filters import Filters, Way, in_interval, together
from metadata_db.leading import Lead
from metadata_db.search import Order, OrderField
from metadata_db.tables import file

PAGE_COLUMNS = tuple(
    column.name
    for column in file.c
    if column.name
    not in (
        "digest",
        "reading",
        "checked_at",
        "fingerprint_high",
        "fingerprint_low",
        "added_in",
        "time_over",
        "hpx",
        "stratum_id",
        "line_digest",
    )
)
"""What a page needs of a file: all that users can see."""

_NULLABLE = (OrderField.TIME_BEGIN, OrderField.RUN)

LIVED = "f.added_in <= (%(at)s::int8[])[f.facility_id]"
"""Living files that lived at the moment already; ``at`` has the revision of each facility at its number."""

ENDED = (
    "unnest(%(at_facilities)s::int2[], %(at_revisions)s::int8[]) as at (facility_id, revision) cross join lateral"
    " (select * from file_history as ended where ended.facility_id = at.facility_id"
    " and ended.removed_in > at.revision and ended.added_in <= at.revision offset 0) as f"
)
"""Files that lived at the moment and are no more."""


def page_statement(
    filters: Filters,
    order: Order,
    first: int,
    after: tuple[Any, int] | None,
    *,
    columns: Sequence[str] = PAGE_COLUMNS,
    way: Way | None = None,
    lead: Lead | None = None,
    is_past: bool = False,
) -> Statement:
    """Return one row per file in `order`, one more than `first` to tell whether there is a next page.

    Parameters
    ----------
    after
        Value and number of the row behind which the page begins.
    columns
        What is wanted of each file; the value of the order and the number must be among it.
    way
        The index to find the files by; None walks along the order.
    lead
        Where a walk meets its first files. Of rare ones it is led by the days on which `stratum_day` knows such files,
        instead of looking at all; otherwise it tells too few files when it was given up.
    is_past
        Whether the files are asked as of ``at``, see `LIVED`.
    """
    page = _Page(filters, order, after, columns, lead)
    values: dict[str, Any] = {"limit": first + 1, **page.led_values()}
    if after is not None:
        values |= {"after_value": after[0], "after_id": after[1]}
    life = [LIVED] if is_past else []
    make = partial(page.by_way, way, life) if way is not None else partial(page.walk_along, life)
    text = page.joined(make, page.ended() if is_past else [])
    return Statement(text=text, values=filters.values | values, is_stable=page.is_stable(way, lead) and not is_past)


_LED = """
    (
        select facility_id, day from (
            select day.facility_id, day.day, sum(sum(day.files) filter (where {sure})) over (
                order by day.day{direction} groups between unbounded preceding and 1 preceding
            ) as sooner
            from unnest(%(strata)s::int4[]) as ours (id) cross join lateral (
                select * from stratum_day as day where day.stratum_id = ours.id and day.files > 0
                    and day.day >= %(first_day)s and {days} offset 0
            ) as day group by day.facility_id, day.day
        ) as place where coalesce(sooner, 0) < %(limit)s offset 0
    ) as place cross join lateral (
        select * from file as found where found.facility_id = place.facility_id
            and found.time_begin >= timestamptz '1970-01-01 00:00+00' + place.day * interval '24 hours'
            and found.time_begin < timestamptz '1970-01-01 00:00+00' + (place.day + 1) * interval '24 hours' offset 0
    ) as f
"""
"""Files of the days on which there are such, the first ones in order, up to the day that surely fills the page."""

Keyset: TypeAlias = Sequence[str]
"""Conditions of the rows behind a cursor."""

_NOT_ENOUGH = "(select count(*) from sooner) < %(limit)s"
"""Lets a branch begin only if the page is not full without it."""


def _union(branches: Sequence[str]) -> str:
    return " union all ".join(f"({branch})" for branch in branches)


class _Page:
    def __init__(
        self,
        filters: Filters,
        order: Order,
        after: tuple[Any, int] | None,
        columns: Sequence[str],
        lead: Lead | None,
    ) -> None:
        self._lead = lead or Lead()
        self._filters = filters
        self._order = order
        self._after = after
        self._key = f"f.{order.field.value}"
        self._columns = ", ".join(f"f.{name}" for name in columns)
        direction = " desc" if order.descending else ""
        if order.field is OrderField.CATALOGUED:
            self.ordered = f"order by f.id{direction} limit %(limit)s"
        else:
            nulls = " nulls first" if order.descending else ""
            self.ordered = f"order by {self._key}{direction}{nulls}, f.id{direction} limit %(limit)s"

    def joined(self, make: Callable[[Keyset], list[str]], ended: Sequence[str]) -> str:
        """Return the first rows of all branches; those without a value, or with, only if the others do not suffice."""
        keysets = [keyset for keyset in self._keysets() if make(keyset)]
        if self._lead.is_cut and not self._order.descending:
            # What comes behind those with a value is known when all of them are.
            keysets = keysets[:1]
        sooner = make(keysets[0]) if keysets else []
        later = [branch for keyset in keysets[1:] for branch in make([*keyset, _NOT_ENOUGH])]
        branches = [*sooner, *later, *ended] or [self._select("file f", ["false"])]
        if len(branches) == 1:
            return branches[0]
        if not later:
            return f"select * from ({_union(branches)}) as f {self.ordered}"
        known = f"select * from ({_union(sooner)}) as f {self.ordered}"
        all_of_them = _union(["select * from sooner", *later, *ended])
        return f"with sooner as materialized ({known}) select * from ({all_of_them}) as f {self.ordered}"

    def by_way(self, way: Way, life: Sequence[str], keyset: Keyset) -> list[str]:
        """Return the branch that finds few files by an index, and sorts them."""
        conditions = ["f.facility_id = any(%(facilities)s)", *in_interval(self._filters), *self._rest(life), *keyset]
        is_in_time = self._order.field is OrderField.TIME_BEGIN
        has_time = self._filters.interval is not None or way.in_order is not None
        if is_in_time and has_time and keyset[0] == f"{self._key} is null":
            return []
        if is_in_time and way.in_order is not None:
            along, others = way.in_order
            ordered = along.format(direction=" desc" if self._order.descending else "")
            return [self._limited(ordered, conditions), self._select(others, conditions)]
        fenced = f"(select f.* from {way.source.format(file='file')} where {way.condition} offset 0) as f"
        return [self._select(fenced, conditions)]

    def walk_along(self, life: Sequence[str], keyset: Keyset) -> list[str]:
        """Return the branches that walk along the order."""
        (source, recent), *long = in_time(self._filters)
        is_in_time = self._order.field is OrderField.TIME_BEGIN
        if is_in_time and keyset[0] == f"{self._key} is null" and self._filters.interval is not None:
            return []
        if is_in_time:
            branches = [self._walk(recent[1:], keyset, life)]
        else:
            branches = [self._select(source, [*recent, *self._rest(life), *keyset])]
        return [*branches, *(self._select(place, [*part, *self._rest(life), *keyset]) for place, part in long)]

    def _walk(self, conditions: Sequence[str], keyset: Sequence[str], life: Sequence[str]) -> str:
        """Return the branch that follows an index of begins: of an object, of all files, or of each facility."""
        rest = self._rest(life)
        ordered = self.ordered.replace("limit %(limit)s", "")
        ours = "f.facility_id = any(%(facilities)s)"
        if keyset[0] != f"{self._key} is null":
            if self._lead.is_empty:
                return self._select("file f", ["false"])
            conditions = [*conditions, *self._bounds()]
            if self._lead.is_cut:
                ordered += " limit %(most)s"
        by_days = self._lead.is_rare and keyset[0] != f"{self._key} is null"
        if "object" in self._filters.counted and not (by_days and len(self._filters.counted) > 1):
            along = f"select f.* from file f where {together(['f.object = ours.name', *conditions, *keyset])} {ordered}"
            each = f"select f.* from ({along} offset 0) as f where {together([ours, *rest])} limit %(limit)s"
            return self._select(f"unnest(%(object)s::text[]) as ours (name) cross join lateral ({each}) as f", [])
        if by_days:
            direction = " desc" if self._order.descending else ""
            source = _LED.format(sure=self._sure(), direction=direction, days=self._days())
            return self._select(source, [ours, *conditions, *keyset, *rest])
        is_cut = self._lead.is_cut and keyset[0] != f"{self._key} is null"
        if self._filters.has_all_facilities or (is_cut and len(self._filters.facilities) > 1):
            return self._limited(self._walked([*conditions, *keyset], ordered), [ours, *conditions, *rest])
        along = f"select f.* from file f where {together(['f.facility_id = ours.id', *conditions, *keyset])} {ordered}"
        each = f"select f.* from ({along} offset 0) as f where {together(rest)} limit %(limit)s"
        return self._select(f"unnest(%(facilities)s::int2[]) as ours (id) cross join lateral ({each}) as f", [])

    def is_stable(self, way: Way | None, lead: Lead | None) -> bool:
        """Tell whether each branch has but one good plan: along an index of begins, or by one that leads to few."""
        if way is not None:
            return way.is_few and way.in_order is None
        return self._order.field is OrderField.TIME_BEGIN and lead is None

    def _walked(self, conditions: Sequence[str], ordered: str) -> str:
        """Return the FROM clause of the first files in order, found by the index alone.

        Were their rows asked for, the database would rather sort a month, which lies together, than follow the order.
        """
        begun = [condition for condition in conditions if "time_over" not in condition]
        keys = f"select f.id from file f where {together(begun)} {ordered} offset 0"
        return f"({keys}) as walked cross join lateral (select * from file where id = walked.id offset 0) as f"

    def _bounds(self) -> list[str]:
        """Return the conditions that the walk begins where the lead says."""
        begin = [] if self._lead.begin is None else ["f.time_begin >= %(lead_begin)s"]
        return begin if self._lead.over is None else [*begin, "f.time_begin < %(lead_over)s"]

    def _sure(self) -> str:
        """Return the condition that all files of a day that are of the strata are behind the cursor and match."""
        wanted = ["day.day >= %(first_day)s and day.day >= %(whole_first)s and day.day < %(whole_over)s"]
        if self._after is not None and self._after[0] is not None:
            sign = "<" if self._order.descending else ">"
            wanted.append(f"day.day {sign} floor(extract(epoch from %(after_value)s) / 86400)")
        return together(wanted)

    def _days(self) -> str:
        """Return the conditions of the days that may hold rows of the page."""
        wanted = []
        interval = self._filters.interval
        if interval is not None and interval.begin is not None:
            wanted.append("day.day >= floor(extract(epoch from %(time_begin)s - %(lookback)s) / 86400)")
        if interval is not None and interval.end is not None:
            wanted.append("day.day <= floor(extract(epoch from %(time_end)s) / 86400)")
        if self._after is not None and self._after[0] is not None:
            sign = "<=" if self._order.descending else ">="
            wanted.append(f"day.day {sign} floor(extract(epoch from %(after_value)s) / 86400)")
        if self._lead.begin is not None:
            wanted.append("day.day >= floor(extract(epoch from %(lead_begin)s) / 86400)")
        if self._lead.over is not None:
            wanted.append("day.day < ceil(extract(epoch from %(lead_over)s) / 86400)")
        return together(wanted)

    def led_values(self) -> dict[str, Any]:
        """Return the values of the parameters of a walk that is led."""
        span = Span.of(self._filters.interval)
        return {
            "first_day": FIRST_DAY,
            "whole_first": span.first_day,
            "whole_over": span.over_day,
            "strata": list(self._lead.strata),
            "most": self._lead.most,
            "lead_begin": self._lead.begin,
            "lead_over": self._lead.over,
        }

    def ended(self) -> list[str]:
        """Return the branches of files that have ended since the moment."""
        conditions = [*in_interval(self._filters), *self._filters.on_files()]
        return [self._select(ENDED, [*conditions, *keyset]) for keyset in self._keysets()]

    def _rest(self, life: Sequence[str]) -> list[str]:
        return [*self._filters.on_files(), *life]

    def _select(self, source: str, conditions: Sequence[str]) -> str:
        return f"select {self._columns} from {source} where {together(conditions)} {self.ordered}"

    def _limited(self, source: str, conditions: Sequence[str]) -> str:
        return f"select {self._columns} from {source} where {together(conditions)} limit %(limit)s"

    def _keysets(self) -> list[Keyset]:
        """Return the conditions of the rows behind the cursor: of those with a value and of those without, in order.

        Absent values count as larger than all others.
        """
        sign = "<" if self._order.descending else ">"
        if self._order.field is OrderField.CATALOGUED:
            return [[] if self._after is None else [f"f.id {sign} %(after_id)s"]]
        if self._order.field not in _NULLABLE:
            return [[] if self._after is None else [f"({self._key}, f.id) {sign} (%(after_value)s, %(after_id)s)"]]
        known, unknown = [f"{self._key} is not null"], [f"{self._key} is null"]
        if self._after is None:
            return [unknown, known] if self._order.descending else [known, unknown]
        if self._after[0] is None:
            behind = [*unknown, f"f.id {sign} %(after_id)s"]
            return [behind, known] if self._order.descending else [behind]
        behind = [f"({self._key}, f.id) {sign} (%(after_value)s, %(after_id)s)"]
        return [behind] if self._order.descending else [behind, unknown]


def ids_statement(filters: Filters, *, way: Way | None, is_past: bool) -> Statement:
    """Return the numbers of all files that match, in order."""
    conditions = [*in_interval(filters), *filters.on_files()]
    life = [LIVED] if is_past else []
    if way is not None:
        fenced = f"(select f.* from {way.source.format(file='file')} where {way.condition} offset 0) as f"
        branches = [
            f"select f.id from {fenced} where {together(['f.facility_id = any(%(facilities)s)', *conditions, *life])}"
        ]
    else:
        branches = [
            f"select f.id from {source} where {together([*part, *filters.on_files(), *life])}"
            for source, part in in_time(filters)
        ]
    if is_past:
        branches.append(f"select f.id from {ENDED} where {together(conditions)}")
    return Statement(text=f"select id from ({' union all '.join(branches)}) as f order by id", values=filters.values)
