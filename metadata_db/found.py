"""The files of answers as users see them: rows of the catalogue with numbers turned into names.

A page is read as columns: what is wanted of its files, and nothing else, without an object per file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, TypeAlias

import msgspec

from metadata_db.filters import NAMED
from metadata_db.paging import PAGE_COLUMNS
from metadata_db.records import Relation
from metadata_db.search import Order, Paging, encode_cursor
from metadata_db.vocabulary import Vocabulary


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a page: the catalogue's row with numbers turned into names. See `FileRecord` for the fields."""

    id: int
    cursor: str
    facility: str
    storage: str
    path: str
    size_bytes: int
    sha256: str | None
    md5: str | None
    modified_at: datetime | None
    format: str | None
    kind: str | None
    level: str | None
    cluster: str | None
    detector: str | None
    channel: str | None
    time_begin: datetime | None
    time_end: datetime | None
    obs_id: str | None
    run: int | None
    ra_deg: float | None
    dec_deg: float | None
    position_basis: str | None
    energy_min_ev: float | None
    energy_max_ev: float | None
    energy_basis: str | None
    object: str | None
    n_events: int | None
    is_simulation: bool | None
    processing: str | None
    quality: str | None
    conditions: str | None
    licence: str | None
    attributes: dict[str, Any]
    provenance: dict[str, str]
    warnings: list[str]
    description: str | None
    relations: list[Relation]


FILE_FIELDS = tuple(name for name in FoundFile.__struct_fields__ if name != "cursor")
"""Fields of a file without its place on a page."""

Column: TypeAlias = Sequence[Any]
"""One value per file."""


@dataclass(frozen=True, kw_only=True)
class PageColumns:
    """Some files of an answer, in order."""

    n: int
    """Number of files."""
    columns: Mapping[str, Column]
    """Field of `FoundFile` → its values, of the wanted fields."""
    has_more: bool
    """Whether files follow, or precede when the page is read backward."""
    places: Sequence[tuple[Any, int]]
    """Value of the order and number of each file."""
    order: Order
    query_id: str

    @cached_property
    def cursors(self) -> list[str]:
        """Cursors of all files."""
        return [self.cursor(at) for at in range(self.n)]

    def cursor(self, at: int) -> str:
        """Return the cursor of one file."""
        value, number = self.places[at]
        return encode_cursor(self.order, value, number, query_id=self.query_id)


def table_columns(fields: Sequence[str], order: Order) -> tuple[str, ...]:
    """Return the columns of the table that fields of `FoundFile` are made of, and those that make cursors."""
    return tuple(dict.fromkeys([*map(_column, fields), order.field.value, "id"]))


def make_page(
    rows: Sequence[Sequence[Any]], fields: Sequence[str], paging: Paging, *, query_id: str, vocabulary: Vocabulary
) -> PageColumns:
    """Return the page of rows of `table_columns`, found in the direction of `paging`, one more than it wants at most.

    Raises
    ------
    KeyError
        The vocabulary does not know a number yet.
    """
    found = rows[: paging.n]
    if paging.is_backward:
        found = found[::-1]
    names = table_columns(fields, paging.order)
    values: dict[str, Column] = dict(zip(names, zip(*found, strict=True), strict=True)) if found else {}
    return PageColumns(
        n=len(found),
        columns=tell(values, fields, vocabulary) if found else dict.fromkeys(fields, ()),
        has_more=len(rows) > paging.n,
        places=list(zip(values[paging.order.field.value], values["id"], strict=True)) if found else (),
        order=paging.order,
        query_id=query_id,
    )


def tell(values: Mapping[str, Column], fields: Sequence[str], vocabulary: Vocabulary) -> dict[str, Column]:
    """Return fields of `FoundFile` made from columns of the table: numbers turned into names, digests into text.

    Raises
    ------
    KeyError
        The vocabulary does not know a number yet.
    """
    return {field: _teller(field, vocabulary)(values[_column(field)]) for field in fields}


def _column(field: str) -> str:
    return f"{field}_id" if field in NAMED else field


def _teller(field: str, vocabulary: Vocabulary) -> Callable[[Column], Column]:
    if field in NAMED:
        names: Mapping[int, str] = getattr(vocabulary, field).names
        return lambda column: [None if number is None else names[number] for number in column]
    return _TOLD.get(field, _as_they_are)


def _as_they_are(column: Column) -> Column:
    return column


def _hexadecimal(column: Column) -> Column:
    return [None if digest is None else digest.hex() for digest in column]


def _relations(column: Column) -> Column:
    return [msgspec.convert(found, list[Relation]) if found else [] for found in column]


_TOLD: Mapping[str, Callable[[Column], Column]] = {
    "sha256": _hexadecimal,
    "md5": _hexadecimal,
    "relations": _relations,
}


# --- whole files ------------------------------------------------------------------------------------------------------


def make_page_files(page: PageColumns) -> list[FoundFile]:
    """Return the files of a page of `FILE_FIELDS`."""
    return _make_files(page.columns, page.cursors)


def make_found_files(rows: Sequence[Sequence[Any]], vocabulary: Vocabulary) -> list[FoundFile]:
    """Return the files of rows of `PAGE_COLUMNS`; they have no cursors.

    Raises
    ------
    KeyError
        The vocabulary does not know one of their numbers.
    """
    if not rows:
        return []
    values = dict(zip(PAGE_COLUMNS, zip(*rows, strict=True), strict=True))
    return _make_files(tell(values, FILE_FIELDS, vocabulary), [""] * len(rows))


def _make_files(columns: Mapping[str, Column], cursors: Sequence[str]) -> list[FoundFile]:
    names = ("cursor", *FILE_FIELDS)
    rows = zip(cursors, *(columns[name] for name in FILE_FIELDS), strict=True)
    return [FoundFile(**dict(zip(names, row, strict=True))) for row in rows]
