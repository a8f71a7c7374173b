"""How two answers to one question differ: statements that look only at versions that came or went between them.

A version that is in the later answer and not in the earlier one came in between, and one that is in the earlier and
not in the later went in between; indexes lead to both. Each is tested by the question's own filters. Two of one path
are a file that was replaced. What came and went again in between is in neither.

A question about coincidences is another matter: a file can join an answer because another one came. Of such a question
both answers are looked up, and their numbers compared.
"""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
import orjson

from metadata_db.counting import Statement
from metadata_db.errors import BadCursorError
from metadata_db.filters import Filters, in_interval, together
from metadata_db.paging import PAGE_COLUMNS


class DifferenceKind(Enum):
    """What became of a file between two answers."""

    ADDED = "added"
    """It is in the later answer only."""
    REMOVED = "removed"
    """It is in the earlier answer only."""
    REPLACED = "replaced"
    """It is in both, as two versions."""


class DifferenceSum(msgspec.Struct, frozen=True, kw_only=True):
    """How many files differ in one way."""

    count: int = 0
    bytes: int = 0
    """Size of the files; of replaced ones, as of the later answer."""
    previous_bytes: int = 0
    """Size of replaced files as of the earlier answer."""


class DifferenceTotals(msgspec.Struct, frozen=True, kw_only=True):
    """How many files differ."""

    added: DifferenceSum
    removed: DifferenceSum
    replaced: DifferenceSum

    @property
    def count(self) -> int:
        """How many files differ in any way."""
        return self.added.count + self.removed.count + self.replaced.count


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Numbers of the two versions of one path, of which one may be missing."""

    number: int | None
    previous: int | None
    path: str
    storage: str

    @property
    def kind(self) -> DifferenceKind:
        """What became of the file."""
        if self.previous is None:
            return DifferenceKind.ADDED
        return DifferenceKind.REMOVED if self.number is None else DifferenceKind.REPLACED


# --- statements -------------------------------------------------------------------------------------------------------

_MOVED = """
    select f.id, f.storage_id, f.path, f.size_bytes
    from unnest(%(at_facilities)s::int2[], %(since)s::int8[], %(until)s::int8[]) as at (facility_id, since, until)
    cross join lateral (
        select * from {table} as found where found.facility_id = at.facility_id and {life} offset 0
    ) as f where {conditions}
"""

_CAME = "found.added_in > at.since and found.added_in <= at.until"
_WENT = "found.removed_in > at.since and found.removed_in <= at.until and found.added_in <= at.since"

_LISTED = """
    select f.id, f.storage_id, f.path, f.size_bytes from file f where f.id = any(%({numbers})s) and {conditions}
    union all
    select f.id, f.storage_id, f.path, f.size_bytes from file_history f where f.id = any(%({numbers})s) and {conditions}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Where the versions that differ are found: those that came, those that went, and the values of both."""

    came: str
    went: str
    conditions: Sequence[str]
    values: dict[str, Any]

    def select(self, columns: str, *more: str) -> str:
        """Return a SELECT of the two sides joined by path; `more` conditions hold for both."""
        conditions = together([*self.conditions, *more])
        came, went = (side.replace("{conditions}", conditions) for side in (self.came, self.went))
        joined = "came full join went using (storage_id, path)"
        return f"with came as ({came}), went as ({went}) select {columns} from {joined}"


def moved_between(filters: Filters, since: Sequence[int], until: Sequence[int]) -> Sides:
    """Return the versions of a question that came or went between two revisions of each of its facilities."""

    def moved(table: str, life: str) -> str:
        return _MOVED.replace("{table}", table).replace("{life}", life)

    return Sides(
        came=f"{moved('file', _CAME)} union all {moved('file_history', f'{_CAME} and found.removed_in > at.until')}",
        went=moved("file_history", _WENT),
        conditions=[*in_interval(filters), *filters.on_files()],
        values=filters.values | {"at_facilities": list(filters.facilities), "since": list(since), "until": list(until)},
    )


def listed(since: Collection[int], until: Collection[int]) -> Sides:
    """Return the versions that are only in one of two answers, whose numbers are given."""
    return Sides(
        came=_LISTED.replace("{numbers}", "came"),
        went=_LISTED.replace("{numbers}", "went"),
        conditions=[],
        values={"came": sorted({*until} - {*since}), "went": sorted({*since} - {*until})},
    )


_TOTALS = """
        count(*) filter (where went.id is null), coalesce(sum(came.size_bytes) filter (where went.id is null), 0),
        count(*) filter (where came.id is null), coalesce(sum(went.size_bytes) filter (where came.id is null), 0),
        count(*) filter (where came.id is not null and went.id is not null),
        coalesce(sum(came.size_bytes) filter (where went.id is not null), 0),
        coalesce(sum(went.size_bytes) filter (where came.id is not null), 0)
"""


def totals_statement(sides: Sides) -> Statement:
    """Return the one row that `read_totals` reads."""
    return Statement(text=sides.select(_TOTALS), values=sides.values)


def read_totals(row: Sequence[Any]) -> DifferenceTotals:
    """Return the totals of a row of `totals_statement`."""
    added, added_bytes, removed, removed_bytes, replaced, replaced_bytes, previous_bytes = map(int, row)
    return DifferenceTotals(
        added=DifferenceSum(count=added, bytes=added_bytes),
        removed=DifferenceSum(count=removed, bytes=removed_bytes),
        replaced=DifferenceSum(count=replaced, bytes=replaced_bytes, previous_bytes=previous_bytes),
    )


def pairs_statement(sides: Sides, first: int, after: tuple[str, str] | None) -> Statement:
    """Return rows of number, previous number, path and storage, in the order of the bytes of path and storage.

    There is one more than `first` to tell whether there is a next page.
    """
    columns = 'came.id, went.id, path, storage.name collate "C" as storage'
    values = sides.values | {"limit": first + 1}
    if after is None:
        pairs, behind = sides.select(columns), "true"
    else:
        pairs = sides.select(columns, "f.path >= %(after_path)s")
        behind = '(path, storage.name collate "C") > (%(after_path)s, %(after_storage)s)'
        values |= {"after_path": after[0], "after_storage": after[1]}
    return Statement(
        text=f"{pairs} join storage on storage.id = storage_id where {behind} order by path, 4 limit %(limit)s",
        values=values,
    )


VERSIONS = f"""
    select {", ".join(PAGE_COLUMNS)} from file where id = any(%(numbers)s) union all
    select {", ".join(PAGE_COLUMNS)} from file_history where id = any(%(numbers)s)
"""
"""Versions by their numbers, wherever they are by now."""

# --- cursors ----------------------------------------------------------------------------------------------------------


def encode_place(path: str, storage: str, *, query_id: str) -> str:
    """Return the cursor that stands behind one difference of a question."""
    content = [_kind(query_id), path, storage]
    return base64.urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")


def decode_place(cursor: str, *, query_id: str) -> tuple[str, str]:
    """Return (path, storage) of the difference that a cursor stands behind.

    Raises
    ------
    BadCursorError
        It is none of ours, or one of another question.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        made_for, path, storage = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        is_place = all(isinstance(part, str) and "\0" not in part for part in (path, storage))
        if made_for != _kind(query_id) or not is_place:
            raise ValueError(made_for)
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        raise BadCursorError("after", cursor, "an endCursor of a diff of this question") from error
    return path, storage


def _kind(query_id: str) -> str:
    return f"diff{query_id[:8]}"
