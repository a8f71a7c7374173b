"""The vocabulary: facilities with their clusters, detectors, channels and attributes; authorities; storages.

The vocabulary is small and grows only: entries are added and their titles mended, but names and numbers never change
and nothing is deleted. So a process keeps a snapshot of it, and reads it anew when a name is unknown or a second old.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Table, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metadata_db import tables
from metadata_db.database import Database
from metadata_db.errors import BadInputError, NotFoundError
from metadata_db.names import Names as Names
from metadata_db.names import Vocabulary as Vocabulary
from metadata_db.records import Attribute, Authority, Channel, Cluster, Detector, Facility, Storage

SNAPSHOT_S = 1.0
"""Longest time a process goes on with a vocabulary that another process may have added to."""


class VocabularyStore:
    """Reads and writes the vocabulary."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        self._snapshot: Vocabulary | None = None
        self._read_at = -math.inf
        self._changed_at = -math.inf

    async def get(self) -> Vocabulary:
        """Return the vocabulary as it was at most a second ago, with all that this process has put."""
        async with self._lock:
            if self._snapshot is not None and self._is_fresh():
                return self._snapshot
            began = time.monotonic()
            async with self._database.snapshot() as connection:
                found = await read_vocabulary(connection)
            if self._changed_at < began:
                self._snapshot, self._read_at = found, began
            return found

    async def renew(self) -> Vocabulary:
        """Return the vocabulary as it is now: a file has been found whose names the last one does not know."""
        self._read_at = -math.inf
        return await self.get()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at <= SNAPSHOT_S

    async def put_authority(self, record: Authority) -> None:
        """Add or mend a data authority."""
        async with self._database.transaction() as connection:
            await _upsert(connection, tables.authority, msgspec.to_builtins(record), key=("name",))
        self._forget()

    async def put_storage(self, record: Storage) -> None:
        """Add or mend a storage.

        Raises
        ------
        BadInputError
            `record.facility` is not registered.
        """
        values = {"title": None, "enabled": True} | msgspec.to_builtins(record) | {"kind": record.kind}
        async with self._database.transaction() as connection:
            values["facility_id"] = await _find_id(
                connection, tables.facility, "facility", values.pop("facility", None)
            )
            await _upsert(connection, tables.storage, values, key=("name",))
        self._forget()

    async def put_facility(self, record: Facility) -> None:
        """Add or mend a facility with all that belongs to it; what it no longer names stays.

        Raises
        ------
        BadInputError
            It refers to an unknown authority, cluster or detector, or re-declares an attribute with another type.
        """
        async with self._database.transaction() as connection:
            values = _own_columns(tables.facility, record)
            values["authority_id"] = await _find_id(connection, tables.authority, "authority", record.authority)
            await _upsert(connection, tables.facility, values, key=("name",))
            facility_id = await _find_id(connection, tables.facility, "facility", record.name)
            parents: dict[str, dict[str, int]] = {}
            for table, parts, parent in (
                (tables.cluster, record.clusters, None),
                (tables.detector, record.detectors, "cluster"),
                (tables.channel, record.channels, "detector"),
            ):
                parents[table.name] = await _put_parts(connection, table, facility_id, parts, parent, parents)
            await _put_attributes(connection, facility_id, record.attributes)
        self._forget()

    async def get_facility(self, name: str) -> Facility:
        """Return one facility.

        Raises
        ------
        NotFoundError
            There is none of this name.
        """
        for facility in (await self.get()).facilities:
            if facility.name == name:
                return facility
        raise NotFoundError("facility", name)

    def _forget(self) -> None:
        self._snapshot = None
        self._changed_at = time.monotonic()


_INDEXED = """
    select found.name from pg_index
    cross join lateral substring(
        pg_get_indexdef(indexrelid, 1, true) from '^[(]?attributes -> ''(.+)''::text[)]?$'
    ) as found (name)
    where indrelid = 'file'::regclass and indisvalid and found.name is not null
"""
"""The catalogue's own word on which attributes are indexed: nothing of ours can disagree with it."""


async def read_vocabulary(connection: AsyncConnection) -> Vocabulary:
    """Read the whole vocabulary."""

    async def rows(table: Table) -> list[dict[str, Any]]:
        return [dict(row) for row in (await connection.execute(select(table).order_by(table.c.name))).mappings()]

    found = {
        table.name: await rows(table)
        for table in (
            tables.authority,
            tables.facility,
            tables.cluster,
            tables.detector,
            tables.channel,
            tables.attribute,
            tables.storage,
        )
    }
    names = {
        kind: Names(
            {row["id"]: row["name"] for row in found[kind]},
            {row["id"]: row["facility_id"] for row in found[kind] if row.get("facility_id") and kind != "storage"},
        )
        for kind in ("authority", "facility", "cluster", "detector", "channel", "storage")
    }

    def name_of(kind: str, number: int | None) -> str | None:
        return None if number is None else names[kind].names[number]

    def parts(record: type[Any], kind: str, facility_id: int, parent: str | None = None) -> list[Any]:
        mine = [row for row in found[kind] if row["facility_id"] == facility_id]
        extra = [{} if parent is None else {parent: name_of(parent, row[f"{parent}_id"])} for row in mine]
        return [_record(record, row | more) for row, more in zip(mine, extra, strict=True)]

    facilities = [
        _record(
            Facility,
            row
            | {
                "authority": name_of("authority", row["authority_id"]),
                "clusters": parts(Cluster, "cluster", row["id"]),
                "detectors": parts(Detector, "detector", row["id"], "cluster"),
                "channels": parts(Channel, "channel", row["id"], "detector"),
                "attributes": parts(Attribute, "attribute", row["id"]),
            },
        )
        for row in found["facility"]
    ]
    return Vocabulary(
        **{kind: names[kind] for kind in ("facility", "cluster", "detector", "channel", "storage")},
        facilities=facilities,
        authorities=[_record(Authority, row) for row in found["authority"]],
        storages={
            row["id"]: _record(Storage, row | {"facility": name_of("facility", row["facility_id"])})
            for row in found["storage"]
        },
        revisions={row["name"]: row["revision"] for row in found["facility"]},
        longest={row["id"]: row["longest"] for row in found["facility"]},
        indexed=frozenset((await connection.execute(text(_INDEXED))).scalars()),
    )


def _record(kind: type[Any], row: Mapping[str, Any]) -> Any:
    return kind(**{name: row[name] for name in kind.__struct_fields__})


def _own_columns(table: Table, record: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__ if name in table.c}


async def _upsert(connection: AsyncConnection, table: Table, values: Mapping[str, Any], *, key: Sequence[str]) -> None:
    statement = insert(table).values(dict(values))
    changes = {name: statement.excluded[name] for name in values if name not in key}
    if changes:
        await connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=changes))
    else:
        await connection.execute(statement.on_conflict_do_nothing())


async def _find_id(connection: AsyncConnection, table: Table, field_name: str, name: str | None) -> Any:
    if name is None:
        return None
    found = (await connection.execute(select(table.c.id).where(table.c.name == name))).scalar()
    if found is None:
        raise BadInputError(field_name, name, f"the name of a registered {table.name}")
    return found


async def _put_parts(
    connection: AsyncConnection,
    table: Table,
    facility_id: int,
    records: Sequence[Cluster | Detector | Channel],
    parent: str | None,
    known: Mapping[str, Mapping[str, int]],
) -> dict[str, int]:
    """Write the clusters, detectors or channels of a facility; return the numbers of all it has, by name."""
    for at, record in enumerate(records):
        values = _own_columns(table, record) | {"facility_id": facility_id}
        if parent is not None:
            name = getattr(record, parent)
            if name is not None and name not in known[parent]:
                raise BadInputError(f"{table.name}s[{at}].{parent}", name, f"the name of a {parent} of this facility")
            values[f"{parent}_id"] = None if name is None else known[parent][name]
        await _upsert(connection, table, values, key=("facility_id", "name"))
    rows = await connection.execute(select(table.c.name, table.c.id).where(table.c.facility_id == facility_id))
    return dict(rows.all())


async def _put_attributes(connection: AsyncConnection, facility_id: int, records: Sequence[Attribute]) -> None:
    table = tables.attribute
    rows = await connection.execute(select(table.c.name, table.c.type).where(table.c.facility_id == facility_id))
    types = dict(rows.all())
    for at, record in enumerate(records):
        if types.setdefault(record.name, record.type) != record.type:
            raise BadInputError(
                f"attributes[{at}].type", record.type, f"{types[record.name]}, as {record.name} was declared before"
            )
        values = _own_columns(table, record) | {"facility_id": facility_id}
        await _upsert(connection, table, values, key=("facility_id", "name"))
