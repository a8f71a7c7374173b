"""Pages of files in order: statements that read little more than the page.

Pages are keyset pages: they begin behind a row, not at a number of rows. A statement is a union of branches that each
give their first rows in order: the files that an index has in that order, those without a value, those that only an
index of long files finds, and, for an earlier moment, those that have ended since.
"""

from collections.abc import Sequence
from typing import Any

from metadata_db.counting import Statement, in_time
from metadata_db.filters import Filters, Way, in_interval, together
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
    filters: Filters, order: Order, first: int, after: tuple[Any, int] | None, *, way: Way | None, is_past: bool
) -> Statement:
    """Return one row per file in `order`, one more than `first` to tell whether there is a next page.

    Parameters
    ----------
    after
        Value and number of the row behind which the page begins.
    way
        The index to find the files by; None walks along the order.
    is_past
        Whether the files are asked as of ``at``, see `LIVED`.
    """
    page = _Page(filters, order, after)
    values: dict[str, Any] = {"limit": first + 1}
    if after is not None:
        values |= {"after_value": after[0], "after_id": after[1]}
    life = [LIVED] if is_past else []
    branches = page.ways(way, life) if way is not None else page.walks(life)
    if is_past:
        branches += page.ended()
    if len(branches) == 1:
        text = branches[0]
    else:
        union = " union all ".join(f"({branch})" for branch in branches)
        text = f"select * from ({union}) as f {page.ordered}"
    return Statement(text=text, values=filters.values | values)


class _Page:
    def __init__(self, filters: Filters, order: Order, after: tuple[Any, int] | None) -> None:
        self._filters = filters
        self._order = order
        self._after = after
        self._key = f"f.{order.field.value}"
        self._columns = ", ".join(f"f.{name}" for name in PAGE_COLUMNS)
        direction = " desc" if order.descending else ""
        if order.field is OrderField.CATALOGUED:
            self.ordered = f"order by f.id{direction} limit %(limit)s"
        else:
            nulls = " nulls first" if order.descending else ""
            self.ordered = f"order by {self._key}{direction}{nulls}, f.id{direction} limit %(limit)s"

    def ways(self, way: Way, life: Sequence[str]) -> list[str]:
        """Return the branches that find few files by an index, and sort them."""
        fenced = f"(select f.* from {way.source.format(file='file')} where {way.condition} offset 0) as f"
        conditions = [
            "f.facility_id = any(%(facilities)s)",
            *in_interval(self._filters),
            *self._filters.on_files(),
            *life,
        ]
        return [self._select(fenced, [*conditions, *keyset]) for keyset in self._keysets()]

    def walks(self, life: Sequence[str]) -> list[str]:
        """Return the branches that walk along the order."""
        if self._order.field is not OrderField.TIME_BEGIN:
            rest = [*self._filters.on_files(), *life]
            parts = in_time(self._filters)
            return [self._select("file f", [*part, *rest, *keyset]) for part in parts for keyset in self._keysets()]
        branches = []
        for keyset in self._keysets():
            if self._filters.interval is not None and keyset[:1] == [f"{self._key} is null"]:
                continue
            parts = in_time(self._filters) if keyset[:1] != [f"{self._key} is null"] else in_time(self._filters)[:1]
            recent, *long = parts
            branches.append(self._walk(recent[1:], [*keyset], life))
            branches += [self._select(self._fence("file f", part), [*self._rest(life), *keyset]) for part in long]
        return branches

    def _walk(self, conditions: Sequence[str], keyset: Sequence[str], life: Sequence[str]) -> str:
        """Return the branch that follows an index of begins: of all files, or of each facility in turn."""
        rest = self._rest(life)
        ordered = self.ordered.replace("limit %(limit)s", "")
        if self._filters.has_all_facilities:
            along = f"select f.* from file f where {together([*conditions, *keyset])} {ordered} offset 0"
            return self._limited(f"({along}) as f", rest)
        ours = ["f.facility_id = ours.id", *conditions, *keyset]
        along = f"select f.* from file f where {together(ours)} {ordered} offset 0"
        each = f"select f.* from ({along}) as f where {together(rest)} limit %(limit)s"
        return self._select(f"unnest(%(facilities)s::int2[]) as ours (id) cross join lateral ({each}) as f", [])

    def ended(self) -> list[str]:
        """Return the branches of files that have ended since the moment."""
        conditions = [*in_interval(self._filters), *self._filters.on_files()]
        return [self._select(ENDED, [*conditions, *keyset]) for keyset in self._keysets()]

    def _rest(self, life: Sequence[str]) -> list[str]:
        return [*self._filters.on_files(), *life]

    def _fence(self, source: str, conditions: Sequence[str]) -> str:
        return f"(select f.* from {source} where {together(conditions)} offset 0) as f"

    def _select(self, source: str, conditions: Sequence[str]) -> str:
        return f"select {self._columns} from {source} where {together(conditions)} {self.ordered}"

    def _limited(self, source: str, conditions: Sequence[str]) -> str:
        return f"select {self._columns} from {source} where {together(conditions)} limit %(limit)s"

    def _keysets(self) -> list[list[str]]:
        """Return the conditions of the rows behind the cursor: of those with a value, and of those without.

        Absent values count as larger than all others.
        """
        sign = "<" if self._order.descending else ">"
        if self._order.field is OrderField.CATALOGUED:
            return [[] if self._after is None else [f"f.id {sign} %(after_id)s"]]
        if self._order.field not in _NULLABLE:
            return [[] if self._after is None else [f"({self._key}, f.id) {sign} (%(after_value)s, %(after_id)s)"]]
        known, unknown = [f"{self._key} is not null"], [f"{self._key} is null"]
        if self._after is None:
            return [known, unknown]
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
            f"select f.id from file f where {together([*part, *filters.on_files(), *life])}"
            for part in in_time(filters)
        ]
    if is_past:
        branches.append(f"select f.id from {ENDED} where {together(conditions)}")
    return Statement(text=f"select id from ({' union all '.join(branches)}) as f order by id", values=filters.values)
