"""The catalogue as it is read: what exists, and what matches a question.

Every look-up says for which revisions of the facilities it is true. Look-ups of one answer are made one by one, as
they are needed; when the catalogue has moved on between two of them, the later one is answered as of the revisions of
the first, so that count, facets and pages of one answer always belong together.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import RowMapping, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db.canonical import canonical_sha256, set_checksum
from metadata_db.database import Database
from metadata_db.errors import BadInputError, QueryIdCollisionError
from metadata_db.query import SearchQuery
from metadata_db.records import Relation
from metadata_db.search import (
    NAMED,
    Condition,
    Conditions,
    FacetField,
    Order,
    Revisions,
    as_of,
    build_conditions,
    encode_cursor,
    facet_statement,
    living,
    members_statement,
    page_statement,
    summary_statement,
    where,
)
from metadata_db.tables import facility, file, query, replica
from metadata_db.vocabulary import Vocabulary, VocabularyStore


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


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A whole set of files in three numbers."""

    count: int
    bytes: int
    checksum: str
    """Equal sets have equal checksums, whatever the order and wherever they are computed."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some files of an answer, in order."""

    files: list[FoundFile]
    has_next: bool


class FacetValue(msgspec.Struct, frozen=True, kw_only=True):
    """How many files, and bytes, have one value."""

    value: str
    count: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the bytes of a file can be had."""

    storage: str
    kind: str
    root: str
    path: str
    enabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of an export: what it is, and where it can be had, the catalogued place first."""

    file_id: int
    facility: str
    storage: str
    path: str
    size_bytes: int
    sha256: str | None
    md5: str | None
    licence: str | None
    places: tuple[Place, ...]


class Catalogue:
    """Reads the catalogue."""

    def __init__(self, database: Database, vocabulary: VocabularyStore) -> None:
        self._database = database
        self.vocabulary = vocabulary

    # --- questions -----------------------------------------------------------------------------------------------

    async def check(self, asked: SearchQuery) -> None:
        """Check the names that a question uses against the vocabulary.

        Raises
        ------
        BadInputError
            A facility, cluster, detector, channel, storage or attribute is not known.
        """
        known = await self.vocabulary.get()
        for name in NAMED:
            known.require(name, f"filter.{name}", getattr(asked, name))
        declared = {attribute for attributes in known.attributes.values() for attribute in attributes}
        for at, item in enumerate(asked.attributes):
            if item.name not in declared:
                expected = f"a declared attribute: {', '.join(sorted(declared)[:30]) or 'there are none yet'}"
                raise BadInputError(f"filter.attributes[{at}].name", item.name, expected)

    async def register_query(self, asked: SearchQuery) -> None:
        """Keep a question for ever under its id.

        Raises
        ------
        QueryIdCollisionError
            Another question has this id.
        """
        sha256 = canonical_sha256(asked.canonical)
        values = {"id": asked.query_id, "canonical": asked.canonical, "canonical_sha256": sha256}
        async with self._database.transaction() as connection:
            await connection.execute(insert(query).values(values).on_conflict_do_nothing())
            kept = await connection.execute(select(query.c.canonical_sha256).where(query.c.id == asked.query_id))
            if kept.scalar_one() != sha256:
                raise QueryIdCollisionError(asked.query_id)

    async def find_query(self, query_id: str) -> SearchQuery | None:
        """Return the question that was registered under an id."""
        async with self._database.snapshot() as connection:
            found = (await connection.execute(select(query.c.canonical).where(query.c.id == query_id))).scalar()
        return None if found is None else SearchQuery.from_canonical(found)

    # --- answers -------------------------------------------------------------------------------------------------

    async def revisions(self, names: Sequence[str] = ()) -> Revisions:
        """Return the present revision of the named facilities, of all when none is named."""
        async with self._database.snapshot() as connection:
            return await _read_revisions(connection, names)

    async def summary(self, asked: SearchQuery, revisions: Revisions) -> Summary:
        """Count the files of a question, their bytes, and their checksum, as of `revisions`."""
        async with self._lookup(asked, revisions) as (connection, conditions, life, _):
            row = (await connection.execute(summary_statement(where(conditions, life)))).one()
        return Summary(count=row.count, bytes=int(row.bytes), checksum=set_checksum(int(row.high), int(row.low)))

    async def page(
        self, asked: SearchQuery, revisions: Revisions, *, order: Order, first: int, after: str | None
    ) -> Page:
        """Return `first` files of a question behind the cursor `after`, as of `revisions`."""
        async with self._lookup(asked, revisions) as (connection, conditions, life, vocabulary):
            rows = await connection.execute(page_statement(where(conditions, life), order, first, after))
            found = [_found_file(row, order, vocabulary) for row in rows.mappings()]
        return Page(files=found[:first], has_next=len(found) > first)

    async def facets(
        self, asked: SearchQuery, revisions: Revisions, field: FacetField, *, limit: int
    ) -> list[FacetValue]:
        """Count the files per value of `field`; the question's own choice in that field is left out.

        The `limit` most frequent values are told, those of equal counts by name.
        """
        without = field.value
        is_named = field.value in NAMED
        async with self._lookup(asked, revisions, without=without) as (connection, conditions, life, vocabulary):
            wanted = where(conditions, life, without=without)
            # Numbers of one name belong together: they are few, and only their sums can be cut off.
            statement = facet_statement(field, wanted).limit(None if is_named else limit)
            rows = (await connection.execute(statement)).all()
        if not is_named:
            return [FacetValue(value=row.value, count=row.count, bytes=int(row.bytes)) for row in rows]
        names = getattr(vocabulary, field.value).names
        merged: dict[str, FacetValue] = {}
        for row in rows:
            name = names[row.value]
            seen = merged.get(name, FacetValue(value=name, count=0, bytes=0))
            merged[name] = FacetValue(value=name, count=seen.count + row.count, bytes=seen.bytes + int(row.bytes))
        return sorted(merged.values(), key=lambda facet: (-facet.count, facet.value))[:limit]

    @asynccontextmanager
    async def _lookup(
        self, asked: SearchQuery, revisions: Revisions, *, without: str | None = None
    ) -> AsyncIterator[tuple[AsyncConnection, Conditions, Condition, Vocabulary]]:
        async with self._database.snapshot() as connection:
            now = await _read_revisions(connection, ())
            touched = now.keys() if without == "facility" or not asked.facility else set(asked.facility)
            vocabulary = await self.vocabulary.as_new_as(now, connection)
            # The usual case by far: the answer is about now, and the index on living files serves it.
            present = {name: now[name] for name in touched if name in now} == revisions
            life = living() if present else as_of(revisions, vocabulary)
            counted = replace(asked, facility=()) if without == "facility" else asked
            yield connection, build_conditions(counted, vocabulary), life, vocabulary

    # --- members of an export ------------------------------------------------------------------------------------

    async def iter_members(
        self, asked: SearchQuery, revisions: Revisions, *, after_id: int = 0, batch: int = 500
    ) -> AsyncIterator[list[Member]]:
        """Yield all files of a question as of `revisions`, in batches, in the order of their numbers.

        No connection is held between batches: versioned rows make every batch part of the same moment.
        """
        while True:
            async with self._database.snapshot() as connection:
                now = await _read_revisions(connection, tuple(revisions))
                vocabulary = await self.vocabulary.as_new_as(now, connection)
                wanted = where(build_conditions(asked, vocabulary), as_of(revisions, vocabulary))
                result = await connection.execute(members_statement(wanted, after_id, batch))
                rows = result.mappings().all()
                elsewhere = await _read_other_places(connection, vocabulary, rows)
            if not rows:
                return
            yield [_member(row, vocabulary, elsewhere) for row in rows]
            after_id = rows[-1]["id"]


async def _read_revisions(connection: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
    statement = select(facility.c.name, facility.c.revision)
    if names:
        statement = statement.where(facility.c.name.in_(names))
    return dict((await connection.execute(statement)).all())


def _found_file(row: RowMapping, order: Order, vocabulary: Vocabulary) -> FoundFile:
    values = dict(row)
    for name in NAMED:
        number = values.pop(f"{name}_id")
        values[name] = None if number is None else getattr(vocabulary, name).names[number]
    for name in ("sha256", "md5"):
        values[name] = None if values[name] is None else values[name].hex()
    values["relations"] = msgspec.convert(values["relations"] or [], list[Relation])
    return FoundFile(cursor=encode_cursor(order, row[order.field.value], row["id"]), **values)


def _member(row: RowMapping, vocabulary: Vocabulary, elsewhere: Mapping[bytes, list[Place]]) -> Member:
    home = _place(vocabulary, row["storage_id"], row["path"])
    others = [place for place in elsewhere.get(row["sha256"] or b"", ()) if place != home]
    return Member(
        file_id=row["id"],
        facility=vocabulary.facility.names[row["facility_id"]],
        storage=home.storage,
        path=row["path"],
        size_bytes=row["size_bytes"],
        sha256=None if row["sha256"] is None else row["sha256"].hex(),
        md5=None if row["md5"] is None else row["md5"].hex(),
        licence=row["licence"],
        places=(home, *others),
    )


def _place(vocabulary: Vocabulary, storage_id: int, path: str) -> Place:
    storage = vocabulary.storages[storage_id]
    return Place(storage=storage.name, kind=storage.kind, root=storage.root, path=path, enabled=storage.enabled)


async def _read_other_places(
    connection: AsyncConnection, vocabulary: Vocabulary, rows: Sequence[RowMapping]
) -> dict[bytes, list[Place]]:
    """Return the further places of equal bytes: declared replicas, and other living files with the same SHA-256."""
    digests = [row["sha256"] for row in rows if row["sha256"] is not None]
    found: dict[bytes, list[Place]] = {}
    if digests:
        replicas = select(replica.c.sha256, replica.c.storage_id, replica.c.path).where(replica.c.sha256.in_(digests))
        twins = select(file.c.sha256, file.c.storage_id, file.c.path).where(file.c.sha256.in_(digests), living())
        for digest, storage_id, path in await connection.execute(replicas.union(twins)):
            found.setdefault(digest, []).append(_place(vocabulary, storage_id, path))
    return {digest: sorted(places, key=lambda place: (place.storage, place.path)) for digest, places in found.items()}
